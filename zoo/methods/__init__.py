"""The registry: the methods by the names of their classes, each imported when it is first used.

A method of a user's own package is not in it: its class is given by the user, never by a file.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.contract.method import Method

METHODS: dict[str, str] = {
    "AAE": "zoo.methods.adversarial.aae",
    "BoltzmannMachine": "zoo.methods.energy.boltzmann_machine",
    "ClusterAAE": "zoo.methods.adversarial.cluster_aae",
    "DAE": "zoo.methods.autoencoders.dae",
    "DBM": "zoo.methods.energy.dbm",
    "DBN": "zoo.methods.energy.dbn",
    "DDPM": "zoo.methods.chains.ddpm",
    "DLGMM": "zoo.methods.variational.dlgmm",
    "DeepAutoencoder": "zoo.methods.autoencoders.deep_autoencoder",
    "Diffusion": "zoo.methods.chains.diffusion",
    "ExplicitMixture": "zoo.methods.variational.explicit_mixture",
    "GAN": "zoo.methods.adversarial.gan",
    "GLO": "zoo.methods.autoencoders.glo",
    "GMVAE": "zoo.methods.variational.gmvae",
    "GSN": "zoo.methods.autoencoders.gsn",
    "Helmholtz": "zoo.methods.energy.helmholtz",
    "Hopfield": "zoo.methods.energy.hopfield",
    "IWAE": "zoo.methods.variational.iwae",
    "InfoGAN": "zoo.methods.adversarial.infogan",
    "InfoVAE": "zoo.methods.variational.infovae",
    "LabelAAE": "zoo.methods.adversarial.label_aae",
    "LabelDBN": "zoo.methods.energy.label_dbn",
    "LagVAE": "zoo.methods.variational.lagvae",
    "LogisticPCA": "zoo.methods.autoencoders.logistic_pca",
    "NCRPVAE": "zoo.methods.variational.ncrp_vae",
    "PCA": "zoo.methods.autoencoders.pca",
    "RBM": "zoo.methods.energy.rbm",
    "SBM2": "zoo.methods.variational.sbm2",
    "SBVAE": "zoo.methods.variational.sbvae",
    "SGAN": "zoo.methods.adversarial.sgan",
    "VAE": "zoo.methods.variational.vae",
    "VAEDGP": "zoo.methods.variational.vae_dgp",
    "VaDE": "zoo.methods.variational.vade",
    "VIB": "zoo.methods.variational.vib",
    "VLAE": "zoo.methods.variational.vlae",
    "Walkback": "zoo.methods.chains.walkback",
}
"""Class name of every method, and the module it is imported from."""


def method_class(name: str) -> "type[Method]":
    """The class of a method by its name in `METHODS`.

    Raises:
        UsageError: If it is not there.
    """
    from zoo.errors import require

    known = ", ".join(sorted(METHODS))
    require(
        name in METHODS, f"class must be one of {known}; code of your own is not known here, got {name!r}"
    )
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
    from zoo.errors import UsageError
    from zoo.hub import CONFIG, read_config

    if code is None:
        name = read_config(folder)["class"]
        code = class_named(name)
        if code is None:
            known = ", ".join(sorted(METHODS))
            raise UsageError(
                f"class of {folder / CONFIG} must be one of {known}, or be given as code "
                f"(--code package.module.Class), got {name!r}"
            )
    return load(folder, code)


def class_named(name: str, own: "Sequence[type[Method]]" = ()) -> "type[Method] | None":
    """The class that a saved method names: one of the registry, or one of the user's own; None if neither.

    Args:
        name: As `config.json` has it.
        own: The user's own classes. One of the same name in another module counts: code moves.
    """
    from zoo.contract.saved import class_name

    if name in METHODS:
        return method_class(name)
    exact = next((kind for kind in own if class_name(kind) == name), None)
    return exact or next((kind for kind in own if kind.__name__ == name.rpartition(".")[2]), None)


def own_class(path: str) -> "type[Method]":
    """The class of a user's own method; its module is imported, so only the user may say which.

    Args:
        path: Such as `mypackage.mymethod.MyMethod`.

    Raises:
        UsageError: If there is no such module or class, or it is no method.
    """
    from zoo.contract.method import Method
    from zoo.errors import UsageError, require

    *module, name = path.split(".")
    require(
        bool(module) and all(part.isidentifier() for part in (*module, name)),
        f"code must read package.module.Class, got {path!r}",
    )
    try:
        found: Any = getattr(importlib.import_module(".".join(module)), name, None)
    except ImportError as error:
        raise UsageError(f"code {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)) or found.__abstractmethods__:
        raise UsageError(f"code must be a method, a class that keeps all promises of its bases, got {path!r}")
    return found
