"""The registry: the methods by the names of their classes, each imported when it is first used."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.contract.method import Method

METHODS: dict[str, str] = {
    "DAE": "zoo.methods.autoencoders.dae",
    "DBN": "zoo.methods.energy.dbn",
    "Diffusion": "zoo.methods.chains.diffusion",
    "GAN": "zoo.methods.adversarial.gan",
    "GLO": "zoo.methods.autoencoders.glo",
    "IWAE": "zoo.methods.variational.iwae",
    "LabelDBN": "zoo.methods.energy.label_dbn",
    "PCA": "zoo.methods.autoencoders.pca",
    "RBM": "zoo.methods.energy.rbm",
    "VAE": "zoo.methods.variational.vae",
}
"""Class name of every method, and the module it is imported from."""


def method_class(name: str) -> "type[Method]":
    """The class of a method by its name in `METHODS`."""
    return getattr(importlib.import_module(METHODS[name]), name)


def family_of(name: str) -> str:
    """The family of a method by its name in `METHODS`; of one that is not there, `own`."""
    return METHODS[name].split(".")[2] if name in METHODS else "own"


def from_folder(folder: Path, code: "type[Method] | None" = None) -> "Method":
    """The method that was saved in a folder, on the CPU, in eval mode.

    Args:
        folder: Holds `config.json` and `model.safetensors`.
        code: The class of a method that is not in the registry.

    Raises:
        UsageError: If its class is neither in the registry nor the given one, or what is there does not fit.
    """
    from zoo.contract.saved import load
    from zoo.errors import require
    from zoo.hub import CONFIG, read_config

    if code is None:
        name = read_config(folder)["class"]
        known = ", ".join(sorted(METHODS))
        require(
            name in METHODS,
            f"class of {folder / CONFIG} must be one of {known}, or given as code, got {name!r}",
        )
        code = method_class(name)
    return load(folder, code)
