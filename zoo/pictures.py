"""The verbs that make pictures of a saved method and images of its test split."""

import sys
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import UsageError, require

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CODES = 1000
"""Test images whose codes give the principal directions."""


def repair(
    model: str,
    hidden: Literal["left", "right", "top", "bottom", "border"] = "bottom",
    n: int = 10,
    seed: int = 0,
    out: str = "repaired.png",
    revision: str | None = None,
) -> None:
    """Fill in the hidden part of test images; shows them, what is known, and what is made of it.

    Args:
        model: A slug (`dae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        hidden: The part that is hidden.
        n: How many images.
        seed: Seed of the repair.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
    """
    import torch

    from zoo.contract.capabilities import Repairs
    from zoo.pictures.walks import mask

    method, data = _loaded(model, revision, out, n)
    if not isinstance(method, Repairs):
        raise UsageError(f"{type(method).__name__} does not repair")
    x = data.split("test").x[:n]
    known = mask(data.image_shape, hidden).expand_as(x)
    repaired = method.repair(x, known, generator=torch.Generator().manual_seed(seed))
    _write(torch.cat((x, torch.where(known.bool(), x, 0.5), repaired)), out, len(x))


def interpolate(
    model: str,
    n: int = 10,
    steps: int = 10,
    out: str = "interpolations.png",
    revision: str | None = None,
) -> None:
    """Walk from test images to others through codes.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many walks.
        steps: Images per walk.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
    """
    from zoo.pictures.walks import interpolate

    method, data = _loaded(model, revision, out, n)
    x = data.split("test").x[: 2 * n]
    _write(interpolate(method, x[: len(x) // 2], x[len(x) // 2 :], steps).flatten(0, 1), out, steps)


def traverse(
    model: str,
    n: int = 10,
    steps: int = 10,
    span: float = 2.0,
    out: str = "traversals.png",
    revision: str | None = None,
) -> None:
    """Walk along the principal directions of the test images' codes.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many directions.
        steps: Images per direction.
        span: How far each way, in standard deviations.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
    """
    from zoo.pictures.walks import traverse

    method, data = _loaded(model, revision, out, n)
    x = data.split("test").x[:CODES]
    _write(traverse(method, x, n, steps, span).flatten(0, 1), out, steps)


def nearest(
    model: str, n: int = 10, seed: int = 0, out: str = "nearest.png", revision: str | None = None
) -> None:
    """Show samples, and below each its nearest training image.

    Args:
        model: A slug (`gan-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many samples.
        seed: Seed of the draw.
        out: The PNG to write.
        revision: Branch, tag or commit on the Hub.
    """
    import torch

    method, data = _loaded(model, revision, out, n)
    images, found, distances = with_nearest(method, data, n, seed)
    _write(torch.cat((images, found)), out, n)
    sys.stdout.write("distances: " + " ".join(f"{distance:.2f}" for distance in distances.tolist()) + "\n")


def with_nearest(method: Any, data: Any, n: int, seed: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Samples [n, C, H, W], the training image nearest to each, and their distances [n]."""
    import torch

    from zoo.contract.capabilities import Samples
    from zoo.pictures.walks import nearest

    if not isinstance(method, Samples):
        raise UsageError(f"{type(method).__name__} does not sample")
    images = method.sample(n, generator=torch.Generator().manual_seed(seed))
    references = data.originals("train").float() / 255
    distances, positions = nearest(images, references)
    return images, references[positions], distances


def opened(folder: "Path") -> tuple[Any, Any]:
    """The method that was saved there, and the data it was trained on."""
    import zoo
    from zoo.data.sets import from_recipe
    from zoo.hub import data_recipe

    method, data = zoo.from_pretrained(folder), from_recipe(data_recipe(folder))
    data.prepare_data()
    data.setup()
    return method, data


def _loaded(model: str, revision: str | None, out: str, n: int) -> tuple[Any, Any]:
    require(out.endswith(".png"), f"out must end in .png, got {out!r}")
    require(n >= 1, f"n must be at least 1, got {n}")
    from zoo.hub import model_folder

    return opened(model_folder(model, revision))


def _write(images: "Tensor", out: str, columns: int) -> None:
    from zoo.pictures.grids import save_grid

    save_grid(images, out, columns)
    sys.stdout.write(f"{len(images)} images: {out}\n")
