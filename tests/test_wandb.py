"""The leaderboard on W&B: the real client, offline and against a server on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from stand_in_wandb import stand_in_wandb

from zoo.checkpoints import checkpoints

SLUGS = ("gan-digits", "pca-digits")


@pytest.fixture
def shelf(tmp_path) -> Path:
    for slug in SLUGS:
        shutil.copytree(ROOT / "checkpoints" / slug, tmp_path / "shelf" / slug)
    return tmp_path / "shelf"


def client(cwd: Path, settings: dict[str, str], script: str) -> str:
    """Run Python in a child process that has `run` (a verb of the command line)."""
    env = os.environ | settings | {"WANDB_DIR": str(cwd), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from zoo.verbs import run\n" + script]
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
    client(tmp_path, {"WANDB_MODE": "offline"}, "run(['leaderboard', 'push', '--root', 'shelf'])")
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
        (slug, key, number.protocol, number.value)
        for slug, one in checkpoints(shelf).items()
        for key, number in one.results.numbers.items()
    }
    assert {(r["checkpoint"], r["number"], r["protocol"], r["value"]) for r in rows} == recorded


@pytest.mark.hub
def test_pushing_twice_updates_and_pulling_gives_the_numbers_back(shelf, tmp_path):
    script = (
        "run(['leaderboard', 'push', '--root', 'shelf', '--project', 'p'])\n"
        "run(['leaderboard', 'push', '--root', 'shelf', '--project', 'p'])\n"
        "from zoo.wandb_board import pull\n"
        "import json\n"
        "found = {e.slug: {k: [n.value, n.side.value, n.protocol, n.unit, n.error]\n"
        "         for k, n in e.numbers.items()} for e in pull('p', None)}\n"
        "print(json.dumps(found))\n"
        "run(['leaderboard', 'pull', '--project', 'p', '--metric', 'fid'])\n"
        "from zoo.errors import UsageError\n"
        "try: run(['leaderboard', 'pull', '--project', 'nothing'])\n"
        "except UsageError as error: print(error)\n"
    )
    with stand_in_wandb() as (store, settings):
        first, *board, last = client(tmp_path, settings, script).splitlines()
    expected = {
        slug: {
            key: [n.value, n.side.value, n.protocol, n.unit, n.error]
            for key, n in one.results.numbers.items()
        }
        for slug, one in checkpoints(shelf).items()
    }
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
