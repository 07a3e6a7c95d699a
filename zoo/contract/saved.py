"""A method as a folder: `config.json` and `model.safetensors`. Nothing in it is ever executed.

The class is looked up by name in the registry, or is given by the caller: a file never chooses what is
imported. It names a class outside the zoo by its full path, so that no class of the zoo is taken for it. A
folder that names another class or lacks a tensor is refused.
"""

import hashlib
import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from zoo.contract.about import class_name
from zoo.contract.method import Method
from zoo.errors import UsageError, require
from zoo.files import write_bytes, write_json
from zoo.hub import CONFIG, FORMAT, WEIGHTS, read_config


def save_pretrained(method: Method, folder: str | Path, data: dict[str, Any] | None = None) -> Path:
    """Write `config.json` and `model.safetensors`, whole or not at all.

    Args:
        method: What is saved.
        folder: Where to; made if needed. Files of the same names are replaced.
        data: The recipe of the data it was trained on (`ImageData.recipe`), on which `zoo score` scores it.
    """
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "class": class_name(type(method)),
        "init_args": dict(method.hparams_initial),
        "data": data,
        "versions": {"generative-zoo": version("generative-zoo"), "torch": torch.__version__},
    }
    write_bytes(folder / WEIGHTS, save(_tensors(method)))
    write_json(folder / CONFIG, config)
    return folder


def refuse_unsavable(method: Method) -> None:
    """Look before a training at what would stop `save_pretrained` or `load` after it.

    Raises:
        UsageError: If the arguments of the constructor were not saved, or are not plain JSON values.
    """
    kind, saved = type(method), dict(method.hparams_initial)
    lost = ", ".join(sorted(inspect.signature(kind).parameters.keys() - saved.keys()))
    require(
        not lost, f"{kind.__name__} must save {lost}: its constructor must call self.save_hyperparameters()"
    )
    for name, value in saved.items():
        try:
            plain = _tuples(json.loads(json.dumps(value))) == _tuples(value)
        except TypeError:
            plain = False
        require(plain, f"{name} of {kind.__name__} must be a plain JSON value to be saved, got {value!r}")


def load(folder: Path, kind: type[Method]) -> Method:
    """The method that was saved in a folder, on the CPU, in eval mode.

    Args:
        folder: Holds `config.json` and `model.safetensors`.
        kind: Its class; of a method outside the zoo the module may have another name than when it was saved.

    Raises:
        UsageError: If what is there is not what a method of this class saved.
    """
    config = read_config(folder)
    found = config["class"]
    require(
        found.rpartition(".")[2] == kind.__name__,
        f"class of {folder / CONFIG} must be {kind.__name__} to load it, got {found!r}",
    )
    method = _build(config, kind, folder)
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
    return method.eval()


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


def _build(config: dict[str, Any], kind: type[Method], folder: Path) -> Method:
    arguments = {key: _tuples(value) for key, value in config["init_args"].items()}
    with torch.random.fork_rng(devices=[]):
        try:
            return kind(**arguments)
        except (TypeError, UsageError) as error:
            raise UsageError(
                f"init_args of {folder / CONFIG} do not fit {config['class']}: {error}"
            ) from error


def _tuples(value: Any) -> Any:
    """JSON has lists where the constructors have tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
