"""What is done to images and labels before a method sees them; drawn from a seed, once."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.errors import require

THRESHOLD = 127
LABELS, BAGS = 3, 4
"""Random streams of a data module's seed, after those of its three splits."""
BAG_CONCENTRATION = 0.3
"""Of the Dirichlet distribution of a bag's classes: a few of them make up most of it."""


Treatment = Literal["bytes", "bits", "threshold", "dithered"]
"""What is done once to bytes: nothing, a draw of bits, byte > 127, or noise below a grey level."""


def runs(rows: np.ndarray) -> list[slice]:
    """Stretches of positions [N] in which each is one more than the last."""
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)] if len(rows) else []
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class Noise:
    """Uniform noise of images, the same for a row whichever others are asked for with it.

    Row r is that of `np.random.default_rng(seed).random((N, size), dtype=np.float32)`, for any N above r.

    Args:
        seed: Of the stream.
        size: Numbers in a row.
    """

    def __init__(self, seed: Sequence[int], size: int) -> None:
        self.size, self._stream = size, np.random.default_rng(seed)
        self._start = self._stream.bit_generator.state

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Noise float32 [B, size] of rows [B]."""
        noise = np.empty((len(rows), self.size), dtype=np.float32)
        for run in runs(rows):
            first = int(rows[run.start]) * self.size
            self._stream.bit_generator.state = self._start
            self._stream.bit_generator.advance(first // 2)  # pyright: ignore[reportAttributeAccessIssue]
            self._stream.random(first % 2, dtype=np.float32)  # each step of the generator makes two numbers
            self._stream.random(dtype=np.float32, out=noise[run])
        return noise


class Treated:
    """The images of a split with what is drawn of them once, by rows: the same values at every visit.

    Args:
        images: Bytes [N, C, H, W], anything that gives them by rows.
        how: What is drawn.
        seed: Of the draw.
    """

    def __init__(self, images: Any, how: Treatment, seed: Sequence[int]) -> None:
        self.images, self.how = images, how
        self._noise = Noise(seed, images.shape[1:].numel())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_bytes(self) -> int:
        """Of all of it."""
        return self.images.shape.numel() * (4 if self.how == "dithered" else 1)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows [B] on the CPU: uint8 [B, C, H, W], or float32 where they are dithered."""
        x = self.images[rows]
        if self.how == "bytes":
            return x
        if self.how == "threshold":
            return (x > THRESHOLD).byte()
        noise = torch.from_numpy(self._noise(rows.numpy())).view(x.shape)
        return (noise < x.float() / 255).byte() if self.how == "bits" else (x + noise) / 256


def shrunk(x: Tensor, side: int) -> Tensor:
    """Bytes [N, C, H, W] to [N, C, H / side, W / side]: each the mean of a square, rounded half up."""
    squares = x.unfold(2, side, side).unfold(3, side, side)
    total = sum(squares[..., i, j].int() for i in range(side) for j in range(side))
    return ((total + side * side // 2) // (side * side)).byte()  # pyright: ignore[reportAttributeAccessIssue]


def balanced(y: Tensor, n: int, seed: int) -> Tensor:
    """Labels [N] of which n stay, as many of each class; the others are -1.

    Raises:
        UsageError: If n is no multiple of the number of classes, or a class has too few images.
    """
    classes = y[y >= 0].unique()
    require(len(classes) > 0, f"labelled needs labels, got {n} of data without any")
    share, left = divmod(n, len(classes))
    require(left == 0, f"labelled must be a multiple of the {len(classes)} classes, got {n}")
    stream = np.random.default_rng([seed, LABELS])
    kept = torch.full_like(y, -1)
    for label in classes:
        rows = torch.nonzero(y == label)[:, 0]
        require(
            len(rows) >= share,
            f"labelled must leave every class enough images, class {int(label)} has {len(rows)} of {share}",
        )
        kept[rows[torch.from_numpy(stream.permutation(len(rows))[:share])]] = label
    return kept


def bags(y: Tensor, size: int, seed: int) -> Tensor:
    """Bag of every image [N], from the labels [N]: pseudo-videos.

    Each bag draws its mixture of classes from a symmetric Dirichlet distribution and then its images without
    replacement; a class that is used up leaves its place to the others. The last bag may be smaller.

    Raises:
        UsageError: If an image has no label.
    """
    require(bool((y >= 0).all()), f"bag_size needs a label on every image, got {int((y < 0).sum())} without")
    stream = np.random.default_rng([seed, BAGS])
    num_classes = int(y.max()) + 1
    pools = [stream.permutation(np.flatnonzero(y.numpy() == label)) for label in range(num_classes)]
    left, found = np.array([len(pool) for pool in pools]), np.empty(len(y), dtype=np.int64)
    for bag in range(-(-len(y) // size)):
        mixture = stream.dirichlet(np.full(num_classes, BAG_CONCENTRATION))
        wanted = min(size, left.sum())
        while wanted:
            weights = mixture * (left > 0)
            weights = weights if weights.sum() > 0 else left.astype(float)
            drawn = np.minimum(stream.multinomial(wanted, weights / weights.sum()), left)
            for label in np.flatnonzero(drawn):
                found[pools[label][left[label] - drawn[label] : left[label]]] = bag
            left, wanted = left - drawn, wanted - drawn.sum()
    return torch.from_numpy(found)
