"""A data set's facts, and the protocol: a tuple whose text is the sentence that has always been recorded."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from support import ROOT, tiny

from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.data import DATA, Digits, Heartbeat, ImageFolder, SwissRoll, facts_of, from_recipe
from zoo.data.facts import NOT_STATED, DataProtocol, Facts
from zoo.errors import UsageError
from zoo.hub import recipe_files
from zoo.leaderboard.table import entrant
from zoo.publishing.cards import card, index
from zoo.publishing.checkpoints import Checkpoint, checkpoints
from zoo.publishing.readme import readme_table
from zoo.scores.results import Results

PUBLISHED = checkpoints()
NAMED = [kind for kind in DATA.values() if isinstance(vars(kind).get("facts"), Facts)]
RECIPES = recipe_files()


def data_of(slug: str) -> dict:
    """The data of a recipe, as `config.json` has it."""
    part = yaml.safe_load(RECIPES[slug].read_text())["data"]
    return {"class": part["class_path"], "init_args": part.get("init_args", {})}


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.__name__)
def test_every_data_set_states_its_facts(kind):
    facts = kind.facts
    assert facts == facts_of({"class": kind.__name__, "init_args": {}})
    assert kind.described({}).called == kind.__name__
    assert facts.name == kind().source.name
    assert NOT_STATED not in (facts.licence, facts.citation)
    assert facts.outliers is None or DATA[facts.outliers].facts.outliers == kind.__name__
    if facts.hub:
        assert kind().source.repo_id == facts.hub


@pytest.mark.parametrize("kind", [Digits, Heartbeat, SwissRoll])
def test_the_stated_sizes_and_classes_are_those_of_the_images(kind):
    data = kind(binarize="none")
    x, y, test_x, test_y = data.divided()
    assert (len(x), len(test_x)) == data.facts.sizes
    assert max(int(y.max()), int(test_y.max())) + 1 == len(data.facts.classes)
    assert data.stated == data.protocol


@pytest.mark.parametrize("slug", PUBLISHED)
def test_recorded_sentences_and_recipes_come_out_bit_for_bit(slug):
    one = PUBLISHED[slug]
    data = from_recipe(one.config["data"])
    if data.facts.sizes is not None:  # of one's own pictures they are not known before they are read
        assert str(data.stated) == one.results.data["protocol"]
    assert json.loads(json.dumps(data.recipe())) == one.config["data"]


def test_a_protocol_is_a_tuple_with_a_sentence():
    one = DataProtocol(
        "mnist", (1, 14, 14), (50_000, 10_000, 999), "dynamic", "test drawn once, seed 3", shrink=2
    )
    assert str(one) == f"{one}" == "mnist 1x14x14 (2x2 means) 50k/10k/999, dynamic (test drawn once, seed 3)"
    assert one == DataProtocol(*one)
    assert one.short == "mnist 50k/10k/999, dynamic"
    assert one.written() == {"protocol": str(one), "name": "mnist", "short": one.short}
    held = one._replace(shrink=1, held_out="held out by content, seed 3", treatment="real", how="")
    assert str(held) == "mnist 1x14x14 50k/10k/999 (held out by content, seed 3), real"


def test_own_pictures_are_known_by_their_recipe_alone(tmp_path):
    hub = facts_of({"class": "HubImages", "init_args": {"repo_id": "someone/cats"}})
    assert (hub.name, hub.hub, hub.licence) == ("cats", "someone/cats", NOT_STATED)
    assert hub.credit == "someone/cats on the Hugging Face Hub, licence not stated"
    gone = facts_of({"class": "ImageFolder", "init_args": {"path": str(tmp_path / "photos")}})
    assert (gone.name, gone.hub, gone.sizes) == ("photos", None, None)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="the sizes of photos are not known before it is read"):
        ImageFolder(str(tmp_path / "photos")).stated  # noqa: B018


def published(folder, data: dict, shape: tuple[int, int, int], recorded: dict[str, str]) -> Checkpoint:
    """A checkpoint of a small method, as a reproduction leaves it, without the pictures."""
    method = tiny("PCA", shape, latent_dim=1)
    save_pretrained(method, folder, data)
    template = json.loads((ROOT / "checkpoints/pca-digits/metrics.json").read_text())
    template |= {"data": recorded, "weights_sha256": weights_sha256(method)}
    (folder / "metrics.json").write_text(json.dumps(template))
    return Checkpoint(folder.name, folder)


def test_every_recipe_has_data_with_facts():
    for slug in RECIPES:
        assert slug.endswith(facts_of(data_of(slug)).name.replace("_", "-"))


@pytest.mark.parametrize("slug", {facts_of(data_of(slug)).name: slug for slug in sorted(RECIPES)}.values())
def test_every_recipes_data_end_in_a_card(slug, tmp_path, monkeypatch):
    """`zoo reproduce diffusion-heartbeat` trained, and then ended in KeyError."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()  # what a recipe of one's own pictures calls them
    data = data_of(slug)
    facts, kind = facts_of(data), DATA[data["class"]]
    shape = kind(**data["init_args"]).image_shape
    stated = kind(**data["init_args"]).stated.written() if facts.sizes else {"protocol": "as it was"}
    recorded = {"name": facts.full_name, "short": facts.name} | stated | {"test_sha256": "00"}
    one = published(tmp_path / slug, data, shape, recorded)
    text = card(one)
    assert f"Trained on {facts.called}." in text
    assert text.rstrip().endswith(f"Data: {facts.credit}.")
    assert f"[64, {shape[0]}, {shape[1]}, {shape[2]}]" in text
    assert yaml.safe_load(text.split("---")[1]).get("datasets", []) == ([facts.hub] if facts.hub else [])
    assert entrant(one).data == facts.full_name
    assert f"[{slug}]" in readme_table({slug: one})
    assert slug in index({slug: one})


def test_a_folder_of_pictures_ends_in_a_card_on_a_machine_without_it(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        Image.fromarray(np.full((6, 6, 3), 20 * i, dtype=np.uint8)).save(photos / f"{i}.png")
    data = ImageFolder(str(photos), size=6, binarize="none", dequantize=True)
    recorded = data.protocol.written() | {"test_sha256": data.test_hash()}
    one = published(tmp_path / "pca-photos", data.recipe(), (3, 6, 6), recorded)
    shutil.rmtree(photos)
    assert "Data: photos, a folder of pictures, licence not stated." in card(one)
    assert "Trained on own:photos." in card(one)
    assert "| own:photos 10/1/1, deq |" in readme_table({"pca-photos": one})
    assert entrant(one).data == "own:photos"


def test_old_results_without_the_parts_are_still_read():
    one = PUBLISHED["pca-digits"]
    assert set(one.results.data) == {"protocol", "test_sha256"}
    assert "| digits 1295/143/359, deq |" in readme_table({"pca-digits": one})
    assert "data_name" not in one.results.flat()


def test_the_parts_reach_loggers(tmp_path):
    value = json.loads((ROOT / "checkpoints/pca-digits/metrics.json").read_text())
    value["data"] |= {"name": "digits", "short": "digits 1295/143/359, deq"}
    (tmp_path / "results.json").write_text(json.dumps(value))
    assert Results.read(tmp_path / "results.json").flat()["data_name"] == "digits"
