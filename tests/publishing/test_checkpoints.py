"""Published checkpoints: that what lies in the repository is what its cards say."""

import dataclasses
import re
import shlex
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import ROOT

import zoo
from zoo import from_pretrained
from zoo.cli.light import run
from zoo.cli.verbs.scoring import score
from zoo.contract.about import departures
from zoo.contract.capabilities import Samples, Side
from zoo.contract.saved import weights_sha256
from zoo.errors import UsageError
from zoo.files import sha256
from zoo.hub import CONFIG, METRICS, WEIGHTS, recipe_files, registry
from zoo.methods import method_class
from zoo.publishing import cards
from zoo.publishing.checkpoints import (
    CARD,
    DRAWS,
    MAX_BYTES,
    TRAINING,
    checkpoints,
    collect,
    drawn_again,
    first_draws,
    over_seeds,
    spread,
    typical,
)
from zoo.publishing.readme import with_tables
from zoo.publishing.references import references
from zoo.scores.results import Results
from zoo.scores.sections import SECTIONS

PUBLISHED = checkpoints()
TOTAL_BYTES = 200_000_000


@pytest.fixture(scope="module")
def collected(digits_run, tmp_path_factory):
    return collect("vae-digits", [digits_run, digits_run], tmp_path_factory.mktemp("shelf"))


def test_a_finished_run_becomes_a_folder_like_a_hub_repository(collected, digits_run):
    names = {path.name for path in collected.folder.iterdir()}
    pictures = {f"{n}.png" for n in ("samples", "nearest", "reconstructions", "interpolations", "traversals")}
    assert names == {CONFIG, WEIGHTS, METRICS, TRAINING, DRAWS, "seeds.json"} | pictures
    assert (collected.folder / WEIGHTS).read_bytes() == (digits_run / "model" / WEIGHTS).read_bytes()
    assert collected.results == Results.read(digits_run / "results.json")
    assert yaml.safe_load((collected.folder / TRAINING).read_text())["trainer"]["max_epochs"] == 3
    method = from_pretrained(collected.folder)
    assert torch.equal(first_draws(method), collected.draws)
    assert weights_sha256(method) == collected.results.weights_sha256


def test_seeds_of_one_run_twice_have_no_spread(collected):
    assert len(collected.seeds) == len(collected.results.numbers)
    for key, values in collected.seeds.items():
        assert values == [collected.results.numbers[key].value] * 2
        assert spread(values) == (values[0], 0.0)


def test_spread_is_the_deviation_of_a_sample():
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_collecting_again_replaces_the_folder(collected, digits_run):
    (collected.folder / "old.txt").write_text("of an earlier one")
    again = collect("vae-digits", [digits_run, digits_run], collected.folder.parent)
    assert not (again.folder / "old.txt").exists()
    assert [path.name for path in collected.folder.parent.iterdir()] == ["vae-digits"]


def test_an_unfinished_run_and_large_weights_are_refused(digits_run, tmp_path):
    run = shutil.copytree(digits_run, tmp_path / "run")
    with (run / "model" / WEIGHTS).open("ab") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UsageError, match=f"at most {MAX_BYTES} bytes, x has {MAX_BYTES + 1}"):
        collect("x", [run], tmp_path / "shelf")
    (run / "results.json").unlink()
    with pytest.raises(UsageError, match="must be finished and scored"):
        collect("x", [run], tmp_path / "shelf")
    assert not (tmp_path / "shelf").exists()


def test_a_card_states_every_number_with_side_protocol_and_command(collected):
    text = cards.card(collected)
    for key, number in collected.results.numbers.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {key.removeprefix('test/')} |"))
        assert str(number) in row
        assert number.unit in row
        place = re.search(r"\| (\d+) \|$", row)[1]
        assert f"{place}. {number.protocol}" in text
    assert "`python -m zoo score vae-digits`" in text
    assert "`python -m zoo reproduce vae-digits --seeds 2`" in text
    assert departures(zoo.method_class("VAE")) in text
    metadata = yaml.safe_load(text.split("---")[1])
    listed = metadata["model-index"][0]["results"][0]["metrics"]
    assert {entry["type"]: entry["value"] for entry in listed} == {
        key: number.value for key, number in collected.results.numbers.items()
    }


def test_references_name_recipes_and_sides():
    for reference in references():
        assert reference.slug in recipe_files()
        assert reference.kind in ("paper", "public", "target")
        assert isinstance(reference.side, Side)
        assert reference.metric.startswith("test/")


def test_the_repository_holds_small_checkpoints_of_every_method():
    assert {one.config["class"] for one in PUBLISHED.values()} == set(zoo.METHODS)
    sizes = {slug: sum(f.stat().st_size for f in one.folder.iterdir()) for slug, one in PUBLISHED.items()}
    assert sum(sizes.values()) <= TOTAL_BYTES
    assert set(registry()) == set(PUBLISHED)


@pytest.mark.parametrize("slug", sorted(PUBLISHED))
def test_a_published_checkpoint_is_what_it_says(slug):
    one = PUBLISHED[slug]
    drawn = {DRAWS, "samples.png"} if issubclass(method_class(one.config["class"]), Samples) else set()
    assert drawn | {CONFIG, WEIGHTS, METRICS, TRAINING, CARD} <= {p.name for p in one.folder.iterdir()}
    assert registry()[slug]["sha256"] == {name: sha256(one.folder / name) for name in (CONFIG, WEIGHTS)}
    assert (one.folder / WEIGHTS).stat().st_size <= MAX_BYTES
    assert "/tmp" not in (one.folder / TRAINING).read_text()
    method = zoo.from_pretrained(one.folder)
    assert not method.training
    stored, learnt = load_file(one.folder / WEIGHTS), dict(method.named_parameters())
    assert (
        len({t.dtype for name, t in stored.items() if name in learnt} - {torch.float32, torch.float16}) == 0
    )
    assert weights_sha256(method) == one.results.weights_sha256
    same, difference = drawn_again(one)
    assert same, difference
    assert (one.folder / CARD).read_text() == cards.card(one)


def test_the_index_is_generated():
    assert (ROOT / cards.INDEX).read_text() == cards.index(PUBLISHED)
    readme = (ROOT / "README.md").read_text()
    assert readme == with_tables(readme, PUBLISHED)


def test_every_command_of_the_tour_in_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    tour = (ROOT / "README.md").read_text().split("## Five minutes")[1].split("```bash\n")[1].split("```")[0]
    commands = [line for line in tour.splitlines() if line]
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[:3] == ["python", "-m", "zoo"]
        run(words[3:])
    assert {"samples.png", "film.gif", "repaired.png", "nearest.png", "traversals.png", "board"} <= {
        path.name for path in tmp_path.iterdir()
    }
    capsys.readouterr()


def test_quick_numbers_come_out_of_the_weights_again(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    digits = [slug for slug in PUBLISHED if slug.endswith("-digits")]
    slugs = [slug for slug in digits if (PUBLISHED[slug].folder / DRAWS).is_file()]
    folders = [str(PUBLISHED[slug].folder) for slug in slugs]
    score(folders, ["fid", "parzen", "neighbourhoods"], out=str(tmp_path))
    for slug in slugs:
        asked = yaml.safe_load((PUBLISHED[slug].folder / TRAINING).read_text())["score"]["metrics"]
        wanted = {f"test/{name}" for section in asked or SECTIONS for name in SECTIONS[section].numbers}
        now, recorded = Results.read(tmp_path / f"{slug}.json").numbers, PUBLISHED[slug].results.numbers
        assert "test/fid" in now
        for key in now.keys() & wanted:
            number = now[key]
            assert number.protocol == recorded[key].protocol
            low, high = recorded[key].interval
            assert low <= number.value <= high, f"{key} of {slug}"


def test_what_seeds_had_says_how_many_there_were():
    assert over_seeds([1.0, 2.0, 3.0]) == "3 seeds: 2.0 ± 1.0"
    assert over_seeds([-50.0, -50.1]) == "2 seeds: -50.050 ± 0.071"
    assert over_seeds([4.0, 4.0]) == "2 seeds: 4 ± 0"
    assert over_seeds([1.0]) == over_seeds([]) == ""


@pytest.mark.parametrize(
    ("seeds", "wanted"),
    [
        ({"test/fid": [78.0, 44.9, 49.2]}, 2),
        ({"test/fid": [3.0, 1.0, 2.0, 9.0]}, 0),
        ({"test/fid": [1.0, 2.0]}, 0),
        ({"test/fid": [5.0, 5.0, 5.0]}, 0),
        ({"test/fid": [1.0, 2.0, 30.0], "test/coverage": [0.30, 0.31, 0.32]}, 1),
        # nearly the median of two numbers beats the median of one that is far off in the other
        ({"test/fid": [10.0, 11.0, 90.0], "test/coverage": [0.50, 0.10, 0.52]}, 0),
        ({"test/partition_spread": [1.0, 2.0, 3.0]}, 0),
        ({}, 0),
    ],
)
def test_the_typical_seed_is_nearest_the_medians_of_the_headlines(seeds, wanted):
    assert typical(seeds) == wanted


def test_the_published_seed_is_the_typical_one_whatever_its_place(digits_run, tmp_path):
    """Three runs whose scores differ: the middle one's weights, record and settings are published."""
    runs = []
    for seed, better in enumerate((4.0, 1.0, 2.0)):
        run = shutil.copytree(digits_run, tmp_path / str(seed))
        score = Results.read(run / "results.json")
        numbers = {key: dataclasses.replace(n, value=n.value * better) for key, n in score.numbers.items()}
        dataclasses.replace(score, numbers=numbers).write(run / "results.json")
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"seed_everything": seed}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        runs.append(run)
    one = collect("vae-digits", runs, tmp_path / "shelf")
    assert yaml.safe_load((one.folder / TRAINING).read_text())["seed_everything"] == 2
    fid = one.results.numbers["test/fid"].value
    assert one.seeds["test/fid"] == pytest.approx([2 * fid, fid / 2, fid])
    text = cards.card(one)
    assert "The weights are those of seed 2; beside their" in text
    assert "over the 3 seeds that were trained" in text


def test_tables_show_the_linked_weights_and_beside_them_what_seeds_had():
    readme, index = (ROOT / "README.md").read_text(), (ROOT / cards.INDEX).read_text()
    several = {slug: one for slug, one in PUBLISHED.items() if "test/fid" in (one.seeds or {})}
    assert several
    for slug, one in several.items():
        fid = f"{one.results.numbers['test/fid']} ({over_seeds(one.seeds['test/fid'])})"
        for table in (readme, index):
            row = next(
                line for line in table.splitlines() if f"[{slug}](checkpoints/{slug}/README.md) |" in line
            )
            assert f"| {fid} |" in row
