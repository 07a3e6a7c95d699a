"""What a batch is, and the terms of an objective."""

from typing import Literal, NamedTuple

from torch import Tensor

from zoo.errors import require

PixelKind = Literal["binary", "real", "deq", "pseudo"]
"""binary: 0 or 1; real: grey levels in [0, 1] as they are; deq: (byte + U[0, 1)) / 256; pseudo: grey levels
as the targets of a Bernoulli likelihood, which is then a score and no likelihood."""

BYTE = 255
"""The byte of a white pixel: `originals` divided by it are grey levels in [0, 1]."""
IMAGES_AT_ONCE = 1024
"""Images that a method reads at a time where it passes through all there are."""
MID_GREY = 0.5
"""The mean of pixels before any image is seen."""


class Batch(NamedTuple):
    """What every data module yields."""

    x: Tensor
    """[B, C, H, W] float32 pixels in [0, 1]."""
    y: Tensor
    """[B] int64 labels; -1 where there is none or it is withheld."""
    row: Tensor
    """[B] int64 positions in the split."""


def need_labels(y: Tensor, num_classes: int) -> None:
    """Refuse labels [N] of which one is none of 0, 1, ..., num_classes - 1.

    Raises:
        UsageError: Naming the smallest or the largest.
    """
    low, high = int(y.min()), int(y.max())
    require(
        low >= 0 and high < num_classes,
        f"every image needs a label between 0 and {num_classes - 1}, got {low if low < 0 else high}",
    )


def labels_below(y: Tensor, num_classes: int) -> None:
    """Refuse labels [N], some of them perhaps -1, of which one is too large.

    Raises:
        UsageError: Naming the largest.
    """
    most = int(y.max())
    require(most < num_classes, f"labels must be below num_classes: {num_classes}, got {most}")


Terms = dict[str, Tensor]
"""Named parts of an objective, each [B] or []; `loss` is what is descended."""
