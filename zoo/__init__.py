"""A model zoo of deep generative modelling's classic methods, with pretrained checkpoints."""

import importlib
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.contract.method import Method

__version__ = "0.1.0"

METHODS: dict[str, str] = {
    "DAE": "zoo.autoencoders.dae",
    "DBN": "zoo.energy.dbn",
    "Diffusion": "zoo.chains.diffusion",
    "GAN": "zoo.adversarial.gan",
    "GLO": "zoo.latent.glo",
    "IWAE": "zoo.variational.iwae",
    "LabelDBN": "zoo.energy.label_dbn",
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


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Slugs of all recipes that match a shell pattern.

    Args:
        pattern: Such as `*mnist*`.
        pretrained: Only those whose trained checkpoint is in the checkout or the registry.
    """
    slugs = set(recipe_files())
    if pretrained:
        from zoo.hub import registry, shelf

        slugs = {*registry(), *(path.parent.name for path in shelf().glob("*/config.json"))}
    return sorted(slug for slug in slugs if fnmatch(slug, pattern))


def from_pretrained(
    model: str | Path, revision: str | None = None, device: str = "cpu", org: str | None = None
) -> "Method":
    """Load a saved method, in eval mode, ready to sample and score.

    Args:
        model: Slug of a checkpoint (`vae-mnist`), a folder with `config.json` and `model.safetensors`, or
            `owner/name` on the Hub. A slug is looked for in the checkout, then on the Hub; its hashes must be
            those of the registry.
        revision: Branch, tag or commit of a Hub repository; of a slug by default the commit in the registry.
        device: Where the weights go.
        org: Organisation on the Hub that holds slugs; by default that of the variable `ZOO_HUB_ORG`.

    Raises:
        UsageError: If there is no such model, or what is there is not what a method saved.
    """
    from zoo.hub import from_pretrained

    return from_pretrained(model, revision, device, org)


def __getattr__(name: str) -> Any:
    if name in METHODS:
        return method_class(name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
