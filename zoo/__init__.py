"""A model zoo of deep generative modelling's classic methods, with pretrained checkpoints."""

import importlib
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.method import Method

__version__ = "0.1.0"

METHODS: dict[str, str] = {
    "DAE": "zoo.autoencoders.dae",
    "DBN": "zoo.energy.dbn",
    "Diffusion": "zoo.chains.diffusion",
    "GAN": "zoo.adversarial.gan",
    "GLO": "zoo.latent.glo",
    "IWAE": "zoo.variational.iwae",
    "PCA": "zoo.autoencoders.pca",
    "RBM": "zoo.energy.rbm",
    "VAE": "zoo.variational.vae",
}
"""Class name of every method, and the module it is imported from when it is first used."""


def method_class(name: str) -> "type[Method]":
    """The class of a method by its name in `METHODS`."""
    return getattr(importlib.import_module(METHODS[name]), name)


def recipe_files() -> dict[str, Path]:
    """Slug (`vae-mnist`) to file (`configs/variational/vae_mnist.yaml`) of every recipe."""
    for root in (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs"):
        if root.is_dir():
            return {path.stem.replace("_", "-"): path for path in sorted(root.glob("*/*.yaml"))}
    return {}


def list_models(pattern: str = "*") -> list[str]:
    """Slugs of all recipes that match a shell pattern.

    Args:
        pattern: Such as `*mnist*`.
    """
    return sorted(slug for slug in recipe_files() if fnmatch(slug, pattern))


def from_pretrained(path_or_repo: str | Path, revision: str | None = None, device: str = "cpu") -> "Method":
    """Load a saved method, in eval mode, ready to sample and score.

    Args:
        path_or_repo: A folder with `config.json` and `model.safetensors`, or `owner/name` on the Hub.
        revision: Branch, tag or commit of a Hub repository.
        device: Where the weights go.

    Raises:
        UsageError: If there is no such model, or what is there is not what a method saved.
    """
    from zoo.hub import from_pretrained

    return from_pretrained(path_or_repo, revision, device)


def __getattr__(name: str) -> Any:
    if name in METHODS:
        return method_class(name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
