"""Seeds, one thread, a cache of its own, what this machine cannot run, and the command line."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fcntl
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config, items):
    """Leave out what this machine cannot run (data, devices, packages), and start with the long ones."""
    import torch

    missing = set() if os.environ.get("ZOO_DATA") else {"data"}
    missing |= set() if torch.cuda.is_available() else {"gpu"}
    drivers = find_spec("playwright") and find_spec("gradio")
    missing |= set() if shutil.which("chromium") and drivers else {"browser"}
    missing |= set() if find_spec("wandb_workspaces") else {"report"}
    out = [item for item in items if missing & {mark.name for mark in item.iter_markers()}]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    items.sort(key=lambda item: not {"slow", "hub"} & {mark.name for mark in item.iter_markers()})


@pytest.fixture(scope="session")
def commons(tmp_path_factory) -> Path:
    """A folder that all workers of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def cache(commons) -> Path:
    """The cache of this session."""
    return commons / "cache"


@pytest.fixture(scope="session")
def once(commons):
    """A folder that is filled once, by the worker that asks first: (name, what fills it) -> the folder."""

    def call(name: str, work: Callable[[Path], None]) -> Path:
        folder, made = commons / name, commons / f"{name}.made"
        with (commons / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                work(folder)
                made.touch()
        return folder

    return call


@pytest.fixture(autouse=True)
def _quiet_and_seeded(cache, monkeypatch):
    import torch

    monkeypatch.setenv("ZOO_CACHE", str(cache))
    torch.manual_seed(0)


@pytest.fixture
def digits():
    """The embedded digits, dynamic binarisation."""
    from zoo.data.sets import Digits

    data = Digits(batch_size=50)
    data.setup()
    return data


@pytest.fixture(scope="session")
def zoo_here(cache):
    """Run `python -m zoo` in this process: (arguments, working folder) -> status, stdout, stderr."""
    from support import zoo_in_process

    def call(*arguments: str, cwd: Path, env: dict[str, str] | None = None, check: bool = False):
        return zoo_in_process(*arguments, cwd=cwd, env={"ZOO_CACHE": str(cache)} | (env or {}), check=check)

    return call


@pytest.fixture(scope="session")
def zoo_cli(cache):
    """Run `python -m zoo` in a process of its own, for what only a process can show."""
    from support import child

    def call(*arguments: str, cwd: Path, env: dict[str, str] | None = None, check: bool = False, **options):
        settings = {"ZOO_CACHE": str(cache)} | (env or {})
        result = child("-m", "zoo", *arguments, cwd=cwd, env=settings, **options)
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    return call


@pytest.fixture(scope="session")
def digits_run(zoo_here, tmp_path_factory) -> Path:
    """Folder of a short fit on the digits, made once."""
    from support import RECIPE

    cwd = tmp_path_factory.mktemp("fit")
    options = ["--trainer.max_epochs=3", "--score.num_samples=20"]
    zoo_here("fit", "--config", RECIPE, *options, cwd=cwd, check=True)
    return cwd / "runs/vae-digits/version_0"


class TwoProcesses:
    """What `two_processes.py` wrote: called with the name of a job, its lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, job: str) -> list[str]:
        return (self.folder / f"{job}.txt").read_text().splitlines()


@pytest.fixture(scope="session")
def two_processes(once) -> TwoProcesses:
    """All that is checked on two processes, run once in one pair of them."""
    from support import TESTS, child

    def work(folder: Path) -> None:
        result = child(str(TESTS / "two_processes.py"), str(folder), cwd=folder)
        assert result.returncode == 0, result.stderr

    return TwoProcesses(once("two", work))


@pytest.fixture(scope="session")
def mnist_mirror(tmp_path_factory) -> Path:
    """A ZOO_DATA folder with noise in the shape of the named sets: 300 + 100 images each, 700 frames."""
    import datasets
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("mirror")
    stream = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for repo in ("ylecun/mnist", "zalando-datasets/fashion_mnist", "iamcal/emoji"):
        for split, n in {"train": 300, "test": 100}.items():
            pictures = [Image.fromarray(stream.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in range(n)]
            rows = {"image": pictures, "label": [i % 10 for i in range(n)]}
            folder = root / repo / repo.split("/")[1]
            folder.mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict(rows, features=features)
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    film = [Image.fromarray(stream.integers(0, 256, (28, 20), dtype=np.uint8)) for _ in range(700)]
    frames = datasets.Dataset.from_dict(
        {"image": film}, features=datasets.Features({"image": datasets.Image()})
    )
    (root / "frey_faces").mkdir()
    frames.to_parquet(root / "frey_faces" / "train-00000-of-00001.parquet")
    return root
