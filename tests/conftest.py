"""Seeds, one thread, a cache of its own, tiny methods, and the command line as a child process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.contract.method import Method
from zoo.data.sets import Digits

ROOT = Path(__file__).parent.parent
TINY: dict[str, dict] = {
    "VAE": {"latent_dim": 4, "hidden_dims": (16,)},
    "RBM": {"num_hidden": 6, "algorithm": "pcd", "num_chains": 5, "fast_lr": 0.01, "sample_steps": 20},
    "DBN": {
        "hidden_dims": (7, 6, 5),
        "pretrain_epochs": (1, 1, 1),
        "updown_steps": (1,),
        "sample_steps": 20,
        "num_starts": 3,
    },
    "LabelDBN": {
        "hidden_dims": (7, 6, 5),
        "pretrain_epochs": (1, 1, 1),
        "updown_steps": (1,),
        "sample_steps": 20,
    },
    "Diffusion": {
        "num_steps": 6,
        "channels": 4,
        "layers": (2, 1),
        "hidden_dims": (8,),
        "num_bumps": 3,
        "schedule": "learnt",
    },
    "GAN": {
        "latent_dim": 8,
        "backbone": "dcgan",
        "channels": 8,
        "fc_dim": 16,
        "norm": "batch",
        "optimizer": "adam",
        "generator_lr": 2e-3,
        "discriminator_lr": 1e-3,
        "ema_decay": 0.9,
    },
    "GLO": {"latent_dim": 4, "channels": 8, "levels": 2, "encode_steps": 5},
    "PCA": {"latent_dim": 4},
    "DAE": {"hidden_dims": (16, 8), "pretrain_epochs": 1, "num_starts": 9, "walk_steps": 7, "emit_steps": 3},
    "IWAE": {"num_samples": 3, "latent_dims": (6, 4), "hidden_dims": (16, 8), "lr_schedule": "constant"},
}
"""Small settings of every method; the two-layer IWAE runs through every branch of the one-layer one."""


def pytest_collection_modifyitems(config, items):
    """Leave out what this machine cannot run: data, devices and packages it does not have."""
    missing = set() if os.environ.get("ZOO_DATA") else {"data"}
    missing |= set() if torch.cuda.is_available() else {"gpu"}
    drivers = find_spec("playwright") and find_spec("gradio")
    missing |= set() if shutil.which("chromium") and drivers else {"browser"}
    missing |= set() if find_spec("wandb_workspaces") else {"report"}
    out = [item for item in items if missing & {mark.name for mark in item.iter_markers()}]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def tiny(name: str, image_shape: tuple[int, int, int] = (1, 8, 8), **options) -> Method:
    """A small, seeded instance of a method."""
    torch.manual_seed(0)
    return zoo.method_class(name)(image_shape=image_shape, **TINY[name] | options)


def suited_digits(method: Method, **options) -> Digits:
    """The embedded digits with pixels that the method can score."""
    kind = next(kind for kind in ("binary", "deq", "real") if kind in method.accepts)
    treatment = {"binary": "dynamic"}.get(kind, "none")
    return Digits(binarize=treatment, dequantize=kind == "deq", **options)


@pytest.fixture(autouse=True)
def _quiet_and_seeded(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)


@pytest.fixture
def digits() -> Digits:
    """The embedded digits, dynamic binarisation."""
    data = Digits(batch_size=50)
    data.setup()
    return data


@pytest.fixture(scope="session")
def zoo_cli(tmp_path_factory):
    """Run `python -m zoo` in a child process: (arguments, working folder) -> completed process."""
    cache = tmp_path_factory.getbasetemp() / "cache"

    def call(*arguments: str, cwd: Path, env: dict[str, str] | None = None, check: bool = False):
        result = subprocess.run(
            [sys.executable, "-m", "zoo", *arguments],
            cwd=cwd,
            env=os.environ | {"ZOO_CACHE": str(cache)} | (env or {}),
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    return call


@pytest.fixture(scope="session")
def digits_run(zoo_cli, tmp_path_factory) -> Path:
    """Folder of a short fit on the digits, made once."""
    cwd = tmp_path_factory.mktemp("fit")
    recipe = str(ROOT / "configs/variational/vae_digits.yaml")
    zoo_cli(
        "fit", "--config", recipe, "--trainer.max_epochs=3", "--score.num_samples=20", cwd=cwd, check=True
    )
    return cwd / "runs/vae-digits/version_0"


@pytest.fixture(scope="session")
def mnist_mirror(tmp_path_factory) -> Path:
    """A ZOO_DATA folder with noise in the shape of MNIST and Fashion-MNIST: 300 + 100 images."""
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
    return root
