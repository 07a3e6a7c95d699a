"""Seeds, one thread, a cache of its own, tiny methods, and the command line as a child process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.data import Digits
from zoo.method import Method

ROOT = Path(__file__).parent.parent
TINY: dict[str, dict] = {
    "VAE": {"latent_dim": 4, "hidden_dims": (16,)},
    "IWAE": {"num_samples": 3, "latent_dims": (6, 4), "hidden_dims": (16, 8), "lr_schedule": "constant"},
}
"""Small settings of every method; the two-layer IWAE runs through every branch of the one-layer one."""


def tiny(name: str, image_shape: tuple[int, int, int] = (1, 8, 8), **options) -> Method:
    """A small, seeded instance of a method."""
    torch.manual_seed(0)
    return zoo.method_class(name)(image_shape=image_shape, **TINY[name] | options)


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
