"""The leaderboard on W&B: the real client, offline and against a server on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_wandb import stand_in_wandb
from support import ROOT

from zoo.leaderboard.table import READING, boards, entrant
from zoo.publishing.checkpoints import checkpoints

SLUGS = ("gan-digits", "pca-digits")


@pytest.fixture
def shelf(tmp_path) -> Path:
    return stock(tmp_path / "shelf", SLUGS)


def stock(folder: Path, slugs: tuple[str, ...]) -> Path:
    for slug in slugs:
        shutil.copytree(ROOT / "checkpoints" / slug, folder / slug)
    return folder


def client(cwd: Path, settings: dict[str, str], script: str) -> str:
    """Run Python in a child process that has `run` (a verb of the command line)."""
    env = os.environ | settings | {"WANDB_DIR": str(cwd), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from zoo.cli.light import run\n" + script]
    result = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def summary(path: Path) -> dict:
    """What a .wandb file says, read by the client's own command."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(found.stdout)


@pytest.mark.hub
def test_what_is_pushed_offline_is_the_score(shelf, tmp_path):
    said = client(tmp_path, {"WANDB_MODE": "offline"}, "run(['leaderboard', 'push', '--root', 'shelf'])")
    assert said == "no report: W&B is offline\n"
    for slug, one in checkpoints(shelf).items():
        (path,) = tmp_path.glob(f"wandb/offline-run-*-{slug}-*/*.wandb")
        found = summary(path)["summary"]
        for key, value in one.results.flat().items():
            assert found[key] == value, key
        media = {picture.name.split("_")[0] for picture in path.parent.glob("files/media/images/*.png")}
        assert "samples" in media
    (path,) = tmp_path.glob("wandb/offline-run-*-leaderboard/files/media/table/*.table.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    recorded = {
        (slug, key, str(number.protocol), number.value)
        for slug, one in checkpoints(shelf).items()
        for key, number in one.results.numbers.items()
    }
    assert {(r["checkpoint"], r["number"], r["protocol"], r["value"]) for r in rows} == recorded


@pytest.mark.hub
def test_pushing_twice_updates_and_pulling_gives_the_numbers_back(shelf, tmp_path):
    script = (
        "import sys\n"
        "sys.modules['wandb_workspaces'] = None  # as if it were not installed\n"
        "run(['leaderboard', 'push', '--root', 'shelf', '--project', 'p'])\n"
        "run(['leaderboard', 'push', '--root', 'shelf', '--project', 'p'])\n"
        "from zoo.leaderboard.wandb_board import pull\n"
        "import json\n"
        "found = {e.slug: {k: [n.value, n.side.value, str(n.protocol), n.unit, n.error]\n"
        "         for k, n in e.numbers.items()} for e in pull('p', None)}\n"
        "print(json.dumps(found))\n"
        "run(['leaderboard', 'pull', '--project', 'p', '--metric', 'fid'])\n"
        "from zoo.errors import UsageError\n"
        "try: run(['leaderboard', 'pull', '--project', 'nothing'])\n"
        "except UsageError as error: print(error)\n"
    )
    with stand_in_wandb() as (store, settings):
        once, again, first, *board, last = client(tmp_path, settings, script).splitlines()
    expected = {
        slug: {
            key: [n.value, n.side.value, str(n.protocol), n.unit, n.error]
            for key, n in one.results.numbers.items()
        }
        for slug, one in checkpoints(shelf).items()
    }
    assert once == again
    assert once.startswith('no report: it needs the extra report (pip install "generative-zoo[report]")')
    assert not store.reports
    assert json.loads(first) == expected
    assert sorted(run["display"] for run in store.runs.values()) == [
        "gan-digits",
        "leaderboard",
        "pca-digits",
    ]
    assert {run["job"] for run in store.runs.values()} == {"checkpoint", "leaderboard"}
    config = next(run["config"] for run in store.runs.values() if run["display"] == "pca-digits")
    assert config["latent_dim"]["value"] == 16
    assert any("gan-digits" in line and "│    1 │" in line for line in board)
    assert "W&B gave no project 'nothing'" in last
    assert any(path.endswith(".table.json") for path in store.files)
    assert any("/media/images/samples" in path for path in store.files)


@pytest.mark.hub
@pytest.mark.report
def test_the_report_has_every_board_and_pushing_again_updates_it(tmp_path):
    """`label-dbn-digits` was scored on `threshold (byte > 127)`: no filter may read that as a comparison."""
    shown = checkpoints(stock(tmp_path / "shelf", ("gan-digits", "label-dbn-digits"))).values()
    ranked = boards(map(entrant, shown), num_least=2)
    push = "run(['leaderboard', 'push', '--root', 'shelf', '--project', 'p'])\n"
    script = f"from zoo.errors import UsageError\ntry: {push}except UsageError as error: print(error)\n"
    foreign = {"id": "f", "name": "f", "displayName": "mine", "spec": "{}", "project": {"name": "p"}}
    pull = "try: run(['leaderboard', 'pull', '--project', 'p'])\nexcept UsageError as error: print(error)\n"
    with stand_in_wandb() as (store, settings):
        store.reports["f"] = dict(foreign)
        store.refused += ["upsertView", "Runs"]
        refusal, first, second, refused = client(tmp_path, settings, script + push * 2 + pull).splitlines()
    assert refusal.startswith("W&B refuses the report: ")
    assert refusal.endswith("upsertView is not allowed")
    assert first == second
    assert refused == "W&B gave no project 'p': input: Runs is not allowed"
    assert store.reports.pop("f") == foreign
    ((key, report),) = store.reports.items()
    assert report["displayName"] == "zoo leaderboard"
    assert first == f"report: {settings['WANDB_BASE_URL']}/someone/p/reports/zoo-leaderboard--{key}"
    assert store.log.count("upsertView") == 3

    blocks = json.loads(report["spec"])["blocks"]
    texts = ["".join(child["text"] for child in block.get("children", [])) for block in blocks]
    assert READING in texts
    assert "digits" in texts
    places = [i for i, block in enumerate(blocks) if block["type"] == "markdown-block"]
    for board, place in zip(ranked, places, strict=True):
        better = "higher" if board.higher else "lower"
        heading = f"{board.metric}, {board.unit}; {better} is better"
        assert texts[place - 2 : place] == [heading, f"{board.text}; {board.protocol}"]
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in blocks[place]["content"].splitlines()[2:]
        ]
        for row in rows[: len(board.entries)]:
            row[1], url = row[1].strip("[)").split("](")
            assert store.runs[url.rpartition("/")[2]]["display"] == row[1]
        entries = zip(board.ranks(), board.entries, strict=True)
        assert rows == [
            *([str(rank), entry.slug, str(entry.number), entry.seeds] for rank, entry in entries),
            *(["", f"*{name}*", f"*{number}*", ""] for name, number in board.floors.items()),
        ]

    (grid,) = (block["metadata"] for block in blocks if block["type"] == "panel-grid")
    (panel,) = grid["panelBankSectionConfig"]["panels"]
    assert panel["config"]["mediaKeys"] == ["samples"]
    assert any("/media/images/samples" in path for path in store.files)
    (runset,) = grid["runSets"]
    (condition,) = runset["filters"]["filters"]
    logged = [run["summary"] for run in store.runs.values() if run["job"] == "checkpoint"]
    assert (condition["key"], condition["op"]) == ({"section": "summary", "name": "data"}, "IN")
    assert set(condition["value"]) == {summary["data"] for summary in logged}
    assert any(">" in text for text in condition["value"])
    for board in ranked:
        for part in ("test", "side", "unit", "protocol"):
            key = f"{part}/{board.metric}"
            assert f"summary:{key}" in runset["runFeed"]["columnOrder"]
            assert all(key in summary for summary in logged)
