"""A published model is a folder: `config.json` and `model.safetensors`. Nothing in it is ever executed.

A model is named by its folder, by `owner/name` on the Hub, or by its slug: `vae-mnist` is
`checkpoints/vae-mnist` of the checkout, else the repository of that name of the organisation in
`ZOO_HUB_ORG`, at the commit and with the hashes of `registry.json`.

The class is looked up by name in `zoo.METHODS`; a folder that holds a pickle, names an unknown class, or
lacks a tensor is refused.
"""

import hashlib
import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import zoo
from zoo.contract.method import Method
from zoo.errors import UsageError, require
from zoo.files import sha256, write_bytes, write_json

CONFIG, WEIGHTS, RESULTS, METRICS = "config.json", "model.safetensors", "results.json", "metrics.json"
ORGANISATION = "ZOO_HUB_ORG"
REGISTRY = Path(__file__).parent / "registry.json"
FORMAT = 1
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def save_pretrained(method: Method, folder: str | Path, data: dict[str, Any] | None = None) -> Path:
    """Write `config.json` and `model.safetensors`, whole or not at all.

    Args:
        method: Any method of `zoo.METHODS`.
        folder: Where to; made if needed. Files of the same names are replaced.
        data: The recipe of the data it was trained on (`ImageData.recipe`), on which `zoo score` scores it.
    """
    name = type(method).__name__
    require(name in zoo.METHODS, f"only methods of zoo.METHODS can be saved, got {name}")
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "class": name,
        "init_args": dict(method.hparams_initial),
        "data": data,
        "versions": {"generative-zoo": zoo.__version__, "torch": torch.__version__},
    }
    write_bytes(folder / WEIGHTS, save(_tensors(method)))
    write_json(folder / CONFIG, config)
    return folder


def shelf() -> Path:
    """The folder of all checkpoints in a checkout of the project."""
    return Path(zoo.__file__).parent.parent / "checkpoints"


def registry() -> dict[str, dict[str, Any]]:
    """Slug to `sha256` {file: hash} and `revisions` {organisation: commit} of what is published."""
    return json.loads(REGISTRY.read_text()) if REGISTRY.is_file() else {}


def from_pretrained(
    model: str | Path, revision: str | None = None, device: str = "cpu", org: str | None = None
) -> Method:
    """Load a saved method, in eval mode. See `zoo.from_pretrained`."""
    folder = model_folder(model, revision, org)
    config = _config(folder)
    method = _build(config, folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise UsageError(f"{folder} must hold {WEIGHTS}, found none") from None
    except SafetensorError as error:
        raise UsageError(f"{folder / WEIGHTS} must be a safetensors file: {error}") from error
    expected = _tensors(method)
    for what, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise UsageError(f"{folder / WEIGHTS} {what} {', '.join(sorted(names))} of {config['class']}")
    for name, tensor in tensors.items():
        wanted, found = tuple(expected[name].shape), tuple(tensor.shape)
        require(wanted == found, f"{name} of {folder / WEIGHTS} must have shape {wanted}, got {found}")
    # Tied tensors are stored once: only their first name is expected, and loading it moves the others.
    method.load_state_dict(tensors, strict=len(expected) == len(method.state_dict()))
    return method.to(device).eval()


def data_recipe(folder: Path, other: str | None = None) -> dict[str, Any]:
    """The recipe of the data that a saved method was trained on.

    Args:
        folder: Where it was saved.
        other: Name of another class, for the same treatment of other images.

    Raises:
        UsageError: If there is no such model or it does not name its data.
    """
    recipe = _config(folder).get("data")
    if other is not None:
        return {"class": other, "init_args": recipe["init_args"] if isinstance(recipe, dict) else {}}
    if recipe is None:
        raise UsageError(f"{folder / CONFIG} does not name its data: give --data CLASS")
    return recipe


def weights_sha256(method: Method) -> str:
    """SHA-256 over names, types, shapes and bytes of the method's tensors, in the order of their names."""
    digest = hashlib.sha256()
    tensors = _tensors(method)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(method: Method) -> dict[str, Tensor]:
    """The published state on the CPU, contiguous; of tied tensors only the first name."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    tensors = {}
    unpublished = set(method.unpublished)
    for name, tensor in method.state_dict().items():
        if name in unpublished:
            continue
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def model_folder(model: str | Path, revision: str | None = None, org: str | None = None) -> Path:
    """The folder itself, that of a slug in the checkout, or a download of a Hub repository.

    Args:
        model: Folder, slug, or `owner/name`.
        revision: Branch, tag or commit on the Hub; of a slug by default the commit in the registry.
        org: Organisation on the Hub that holds slugs; by default that of the variable `ZOO_HUB_ORG`.

    Raises:
        UsageError: If there is no such model, or it is not the one whose hashes the registry has.
    """
    path, slug, known = Path(model), str(model), registry()
    checkout = shelf() / slug
    named = "/" not in slug and slug not in ("", ".", "..")
    if path.is_dir() or (named and org is None and revision is None and checkout.is_dir()):
        require(
            revision is None, f"revision belongs to a Hub repository, got {revision!r} with the folder {path}"
        )
        if not path.is_dir():
            path = checkout
            _check_hashes(path, known.get(slug, {}))
        return path
    if not named:
        if slug.count("/") != 1 or slug.startswith((".", "/", "~")):
            raise UsageError(f"no folder {slug!r}; a Hub repository would read owner/name")
        return _download(slug, revision)
    org = org or os.environ.get(ORGANISATION)
    if org is None:
        close = get_close_matches(slug, {*known, *zoo.list_models(pretrained=True)})
        hint = f"did you mean {' or '.join(close)}?" if close else f"set {ORGANISATION} to look on the Hub"
        raise UsageError(f"no folder and no checkpoint {slug!r}: {hint}")
    entry = known.get(slug, {})
    folder = _download(f"{org}/{slug}", revision or entry.get("revisions", {}).get(org))
    if revision is None:
        _check_hashes(folder, entry)
    return folder


def _check_hashes(folder: Path, entry: dict[str, Any]) -> None:
    for name, wanted in entry.get("sha256", {}).items():
        require((folder / name).is_file(), f"{folder} must hold {name}, found none")
        found = sha256(folder / name)
        require(found == wanted, f"{folder / name} must have the registry's SHA-256 {wanted}, got {found}")


def _download(repo: str, revision: str | None) -> Path:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=[CONFIG, WEIGHTS, RESULTS, METRICS]
        )
    except (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        httpx.HTTPError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"no folder {repo!r}, and the Hub gave no repository of that name: {reason}"
        ) from error
    return Path(snapshot)


def _config(folder: Path) -> dict[str, Any]:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    require(not pickles, f"{folder} must hold safetensors and JSON only, found {', '.join(pickles)}")
    path = folder / CONFIG
    require(path.is_file(), f"{folder} must hold {CONFIG}, found none")
    try:
        config = json.loads(path.read_text())
        found, name, arguments = config["format"], config["class"], config["init_args"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} must be JSON with format, class and init_args: {error!r}") from error
    require(found == FORMAT, f"{path} must have format {FORMAT}, got {found!r}")
    require(
        name in zoo.METHODS, f"class of {path} must be one of {', '.join(sorted(zoo.METHODS))}, got {name!r}"
    )
    require(isinstance(arguments, dict), f"init_args of {path} must be an object, got {arguments!r}")
    return config


def _build(config: dict[str, Any], folder: Path) -> Method:
    arguments = {key: _tuples(value) for key, value in config["init_args"].items()}
    with torch.random.fork_rng(devices=[]):
        try:
            return zoo.method_class(config["class"])(**arguments)
        except (TypeError, UsageError) as error:
            raise UsageError(
                f"init_args of {folder / CONFIG} do not fit {config['class']}: {error}"
            ) from error


def _tuples(value: Any) -> Any:
    """JSON has lists where the constructors have tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
