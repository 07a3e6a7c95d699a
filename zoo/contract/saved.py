"""A method as a folder: `config.json` and `model.safetensors`. Nothing in it is ever executed.

The class is looked up by name in the registry, or is given by the caller: a file never chooses what is
imported. It names a class outside the zoo by its full path, so that no class of the zoo is taken for it. A
folder that names another class or lacks a tensor is refused.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from reprlib import repr as short
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, Unpack, get_args, get_origin

import torch
from lightning.pytorch import LightningModule
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from zoo.errors import UsageError, one_line, require
from zoo.files import write_bytes, write_json
from zoo.hub import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    Download,
    check_weights,
    model_folder,
    read_config,
    sealed,
    upload,
)

NAMED = 3
"""Tensors that a refusal names."""


Kind = TypeVar("Kind", bound="Saved")


class Saved(LightningModule):
    """A module that is saved as a folder, and comes back from one."""

    data_recipe: dict[str, Any] | None = None
    """The data that it was trained on, as `ImageData.recipe` says it; None of a plain loader's."""

    @property
    def unpublished(self) -> tuple[str, ...]:
        """State that checkpoints keep and published weights leave out, such as a code per training image."""
        return ()

    @classmethod
    def from_pretrained(
        cls: type[Kind],
        model: str | Path,
        revision: str | None = None,
        device: str = "cpu",
        org: str | None = None,
        **download: Unpack[Download],
    ) -> Kind:
        """Load a saved method of this class, in eval mode; see `zoo.from_pretrained`.

        Raises:
            UsageError: If there is no such model, or it is one of another class.
        """
        return load(model_folder(model, revision, org, **download), cls).to(device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` to a folder, made if needed; returns it."""
        return save_pretrained(self, folder, self.data_recipe)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Save to a Hub repository, which is made if needed; the commit's address.

        Raises:
            UsageError: If there is no token, or the Hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as scratch:
            return upload(self.save_pretrained(scratch), repo_id, token, private, commit_message)


def class_name(kind: type[Saved]) -> str:
    """The name by which a saved method's class is found: of a class outside the zoo its full path."""
    if kind.__module__.split(".")[0] == Saved.__module__.split(".")[0]:
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"


def save_pretrained(method: Saved, folder: str | Path, data: dict[str, Any] | None = None) -> Path:
    """Write `config.json` and `model.safetensors`, whole or not at all.

    Weights that float16 holds exactly (`HalfWeights` has rounded them) are stored as float16.

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
    weights = save(_halved(_tensors(method)))
    write_bytes(folder / WEIGHTS, weights)
    write_json(folder / CONFIG, sealed(config, hashlib.sha256(weights).hexdigest()))
    return folder


def refuse_unsavable(method: Saved) -> None:
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


def load(folder: Path, kind: type[Kind]) -> Kind:
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
    check_weights(folder, config)
    expected = _tensors(_without_memory(config, kind, folder))
    _compare(expected, _shapes(folder / WEIGHTS), folder, found)
    method = _build(config, kind, folder)
    # Tied tensors are stored once: only their first name is expected, and loading it moves the others.
    method.load_state_dict(load_file(folder / WEIGHTS), strict=len(expected) == len(method.state_dict()))
    method.data_recipe = config.get("data")
    return method.eval()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, from its header."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path} must be a safetensors file: {error}") from error


def _compare(
    expected: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], folder: Path, name: str
) -> None:
    for what, names in (
        ("lacks", expected.keys() - shapes.keys()),
        ("has unknown", shapes.keys() - expected.keys()),
    ):
        first, more = ", ".join(sorted(names)[:NAMED]), len(names) - NAMED
        listed = first if more <= 0 else f"{first} and {more} more"
        require(not names, f"{folder / WEIGHTS} {what} {listed} of {name}")
    for tensor, found in shapes.items():
        wanted = tuple(expected[tensor].shape)
        require(wanted == found, f"{tensor} of {folder / WEIGHTS} must have shape {wanted}, got {found}")


def weights_sha256(method: Saved) -> str:
    """SHA-256 over names, types, shapes and bytes of the method's tensors, in the order of their names."""
    digest = hashlib.sha256()
    tensors = _tensors(method)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(method: Saved) -> dict[str, Tensor]:
    """The published state, contiguous, on the CPU unless it has no memory; of tied tensors the first name."""
    seen: set[int] = set()
    tensors = {}
    unpublished = set(method.unpublished)
    for name, tensor in method.state_dict(keep_vars=True).items():
        if name in unpublished or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        tensors[name] = tensor.detach() if tensor.is_meta else tensor.detach().cpu().contiguous()
    return tensors


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, all that is float32 as float16 if none of it changes."""
    halves = {name: tensor.half() for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    exact = all(torch.equal(half.float(), tensors[name]) for name, half in halves.items())
    return tensors | halves if exact else tensors


def _without_memory(config: dict[str, Any], kind: type[Saved], folder: Path) -> Saved:
    """The method on a device that allocates nothing; of a constructor that reads its tensors, on the CPU."""
    try:
        with torch.device("meta"):
            return _build(config, kind, folder)
    except UsageError:
        return _build(config, kind, folder)


def _build(config: dict[str, Any], kind: type[Kind], folder: Path) -> Kind:
    arguments = {key: _tuples(value) for key, value in config["init_args"].items()}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in arguments and not _fits(arguments[name], parameter.annotation):
            wanted, got = inspect.formatannotation(parameter.annotation), short(arguments[name])
            raise UsageError(f"{name} in {folder / CONFIG} must be of type {wanted}, got {got}")
    with torch.random.fork_rng(devices=[]):
        try:
            return kind(**arguments)
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise UsageError(
                f"init_args of {folder / CONFIG} do not fit {config['class']}: {one_line(error)}"
            ) from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is what an annotation asks for; what is no plain kind is left to the class."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return (type(value), value) in [(type(one), one) for one in inner]
    if origin is float:
        return type(value) in (int, float) and math.isfinite(value)
    if origin in (tuple, Sequence) and inner:
        items = value if isinstance(value, tuple) else ()
        each = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(items)
        return items is value and len(each) == len(items) and all(map(_fits, items, each))
    return origin not in (int, bool, str, NoneType) or type(value) is origin


def _tuples(value: Any) -> Any:
    """JSON has lists where the constructors have tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
