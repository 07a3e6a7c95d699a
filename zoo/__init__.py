"""A model zoo of deep generative modelling's classic methods, with pretrained checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from zoo.hub import Download, model_folder
from zoo.hub import list_models as list_models
from zoo.methods import METHODS as METHODS
from zoo.methods import from_folder, method_class

if TYPE_CHECKING:
    from zoo.contract.method import Method

__version__ = "0.1.0"


def from_pretrained(
    model: str | Path,
    revision: str | None = None,
    device: str = "cpu",
    org: str | None = None,
    code: "type[Method] | None" = None,
    **download: Unpack[Download],
) -> "Method":
    """Load a saved method, in eval mode, ready to sample and score.

    Args:
        model: Slug of a checkpoint (`vae-mnist`), a folder with `config.json` and `model.safetensors`, the
            folder of a run (`runs/vae-mnist/version_0`), or `owner/name` on the Hub. A slug is looked for in
            the checkout, then on the Hub; its hashes must be those of the registry.
        revision: Branch, tag or commit of a Hub repository; of a slug by default the commit in the registry.
        device: Where the weights go.
        org: Organisation on the Hub that holds slugs; by default that of the variable `ZOO_HUB_ORG`.
        code: The class of a method that is not one of the zoo's. A file never chooses what is imported.
        download: Options of the Hub's client: `cache_dir`, `token`, `local_files_only`, `force_download`.

    Raises:
        UsageError: If there is no such model, or what is there is not what a method saved.
    """
    return from_folder(model_folder(model, revision, org, **download), code).to(device)


def __dir__() -> list[str]:
    return sorted([*METHODS, "METHODS", "__version__", "from_pretrained", "list_models"])


def __getattr__(name: str) -> Any:
    if name in METHODS:
        return method_class(name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
