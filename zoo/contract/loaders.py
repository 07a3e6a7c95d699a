"""Batches of loaders that are none of the zoo's, and what a method's start asks of their images."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.contract.batch import BYTE, Batch, PixelKind
from zoo.errors import UsageError, require

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "y")
"""Under which a dict may have images and labels, the first that is there."""
GREY: tuple[PixelKind, ...] = ("real", "deq", "pseudo")
"""What pixels may be that are not all 0 or 1."""
BATCH_DIMS = 4


@runtime_checkable
class TrainingImages(Protocol):
    """What a method's start may ask: a data module of the zoo answers, and so do `LoadedImages`."""

    batch_size: int
    """Images per step and process."""

    def images(self, split: Any) -> Any:
        """A split's images as bytes [N, C, H, W], read by rows."""
        ...

    def split(self, name: Any, which: int | Tensor | None = None) -> Batch:
        """Its first so many images, some rows, or all, as they are learned from."""
        ...

    def mean_image(self) -> Tensor:
        """Mean of the training images, [C, H, W] in [0, 1]."""
        ...


def as_batch(found: Any) -> Batch:
    """A batch of a loader as the zoo has it.

    Args:
        found: A `Batch`; images; a sequence of images and labels; or a dict with either. Images are
            [B, C, H, W] or [B, H, W], floats in [0, 1] or bytes, which are divided by 255.

    Raises:
        UsageError: If it is none of these.
    """
    if isinstance(found, Batch):
        return found
    x, y = _parts(found)
    require(isinstance(x, Tensor), f"images of a batch must be a tensor, got {type(x).__name__}")
    x = x.unsqueeze(1) if x.ndim == BATCH_DIMS - 1 else x
    shaped = x.ndim == BATCH_DIMS and x.numel() > 0
    require(shaped, f"images of a batch must be [B, C, H, W], got shape {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        x = x.float() / BYTE
    require(x.is_floating_point(), f"images of a batch must be floats or bytes, got {x.dtype}")
    low, high = x.amin().item(), x.amax().item()
    inside = low >= 0 and high <= 1
    require(inside, f"pixels must lie in [0, 1], got {low:.4g} to {high:.4g}")
    if not isinstance(y, Tensor) or y.is_floating_point() or y.shape != x.shape[:1]:
        require(y is None, f"labels of a batch must be {len(x)} integers, got {_described(y)}")
        y = torch.full(x.shape[:1], -1, device=x.device)
    return Batch(x.float(), y.long(), torch.full(x.shape[:1], -1, device=x.device))


def _parts(found: Any) -> tuple[Any, Any]:
    if isinstance(found, Tensor):
        return found, None
    if isinstance(found, Mapping):
        names = [next((key for key in keys if key in found), None) for keys in (IMAGE_KEYS, LABEL_KEYS)]
        require(
            names[0] is not None,
            f"a batch must have images as {', '.join(IMAGE_KEYS)}, got {', '.join(map(str, found))}",
        )
        return found[names[0]], None if names[1] is None else found[names[1]]
    if isinstance(found, (tuple, list)) and len(found) in (1, 2):
        return found[0], found[1] if len(found) > 1 else None
    raise UsageError(
        f"a batch must be images, images and labels, or a dict with an image, got {_described(found)}"
    )


def _described(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"{found.dtype} of shape {tuple(found.shape)}"
    return f"{type(found).__name__} of {len(found)}" if isinstance(found, (tuple, list)) else repr(found)


def refuse_kind(x: Tensor, accepts: tuple[PixelKind, ...], name: str) -> None:
    """Refuse grey pixels of a loader where a method learns from 0 and 1 alone.

    Raises:
        UsageError: Saying what makes them suitable.
    """
    if not set(accepts).intersection(GREY):
        binary = bool(((x == 0) | (x == 1)).all())
        require(
            binary,
            f"{name} needs pixels of 0 and 1, the loader has grey levels: draw them (torch.bernoulli(x)), "
            "or set the model's likelihood",
        )


class LoadedImages:
    """The images of a training loader, which is passed through; they are kept once one of them is asked for.

    Args:
        loader: Yields what `as_batch` takes, in any number of passes.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader

    def _batches(self) -> Iterator[Batch]:
        return (as_batch(found) for found in self._loader)

    @cached_property
    def first(self) -> Batch:
        """The first batch.

        Raises:
            UsageError: If there is none.
        """
        batch = next(self._batches(), None)
        if batch is None:
            raise UsageError("the training loader must have at least one batch, got none")
        return batch

    @property
    def batch_size(self) -> int:
        """Images of the first batch."""
        return len(self.first.x)

    @cached_property
    def _all(self) -> Batch:
        batches = list(self._batches())
        x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
        return Batch(x, y, torch.arange(len(x)))

    def images(self, split: str) -> Tensor:
        """All as bytes [N, C, H, W]."""
        return (self._all.x * BYTE).round().byte()

    def split(self, name: str, which: int | Tensor | None = None) -> Batch:
        """The first so many, some rows, or all."""
        rows = which if isinstance(which, Tensor) else slice(which)
        return Batch(*(part[rows] for part in self._all))

    def mean_image(self) -> Tensor:
        """Their mean, [C, H, W]; no image is kept."""
        total, n = torch.zeros(self.first.x.shape[1:], dtype=torch.float64), 0
        for batch in self._batches():
            total, n = total + batch.x.sum(0, dtype=torch.float64), n + len(batch.x)
        return (total / n).float()
