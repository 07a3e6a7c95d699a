"""What is done to images and labels before a method sees them; drawn from a seed, once."""

import numpy as np
import torch
from torch import Tensor

from zoo.errors import require

LABELS, BAGS = 3, 4
"""Random streams of a data module's seed, after those of its three splits."""
BAG_CONCENTRATION = 0.3
"""Of the Dirichlet distribution of a bag's classes: a few of them make up most of it."""


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
