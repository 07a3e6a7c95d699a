"""Which images train, which validate and which test.

Where the order of a source is a protocol, the last training images validate. Everywhere else the place of an
image is decided by a hash of its content: another picture that comes or goes moves none, and two copies of
one stay together.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from zoo.errors import UsageError, require

TENTH = 10
"""One image of so many validates, and one tests, where nothing says how many."""
LARGE_SET, LARGE_SET_VALIDATION = 60_000, 10_000


class Cut(NamedTuple):
    """Positions among all images of a source."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    learned: np.ndarray
    """Those that may be learned from, whichever of them validate: the order does not depend on it."""
    held_out: str
    """What was held out how, in words; nothing where the source's own splits or its order say it."""


def cut(
    name: str,
    splits: np.ndarray,
    labels: np.ndarray,
    keys: np.ndarray,
    *,
    in_order: bool,
    num_validation: int | None,
    seed: int,
) -> Cut:
    """Divide the images of a source.

    Args:
        name: The source's.
        splits: [N]: 0 of a training image, 1 and 2 of one of the source's own validation and test splits.
        labels: [N], -1 where there is none.
        keys: uint8 [N, 32]: hashes of the pictures.
        in_order: Keep the source's order, and validate on the last training images; else images come in the
            order of a hash of their content, so that the first few are a fair sample.
        num_validation: How many validate; None leaves it to the source or to its size.
        seed: Of what is decided by content.

    Raises:
        UsageError: If so many cannot validate.
    """
    own_val, own_test = (splits == 1).any(), (splits == 2).any()
    in_order = bool(in_order and own_test)
    number = np.zeros(len(splits)) if in_order else numbers(keys, seed)
    order = np.argsort(number, kind="stable")
    train, val, test = (order[splits[order] == code] for code in range(3))
    if not own_test:
        num_test = _up_to(number[train], 1 / TENTH, len(train) - 2)
        train, test = train[num_test:], train[:num_test]
    learned, held = np.concatenate((train, val)), num_validation
    if own_val and held is None:
        return Cut(train, val, test, learned, "" if own_test else f"test held out by content, seed {seed}")
    if own_val and held:
        raise UsageError(
            f"num_validation must be left out, or 0, where the source has validation images: {name} has "
            f"{len(val)}, got {held}"
        )
    n = len(learned)
    if held is None and not own_test:
        held = _up_to(number[learned], 2 / TENTH, n - 1)
    held = default_validation(n) if held is None else held
    require(held < n, f"num_validation must be below the {n} training images of {name}, got {held}")
    if in_order:
        return Cut(learned[: n - held], learned[n - held :], test, learned, "")
    chosen = by_class(labels[learned], held) if own_test else np.arange(n) < held
    how = "validation held out by class" if own_test and held else "" if own_test else "held out by content"
    return Cut(learned[~chosen], learned[chosen], test, learned, f"{how}, seed {seed}" if how else "")


def numbers(keys: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for every key, uint8 [N, 32]: a hash of key and seed."""
    start, found = f"{seed} ".encode(), np.empty(len(keys))
    for row, key in enumerate(keys):
        found[row] = int.from_bytes(hashlib.sha256(start + key.tobytes()).digest()[:8], "big")
    return found / 2.0**64


def _up_to(number: np.ndarray, end: float, most: int) -> int:
    """How many of the ascending numbers lie below the end; else the first and its copies, one at least."""
    below = int(np.searchsorted(number, end)) or int((number == number[:1]).sum())
    return max(1, min(below, most))


def default_validation(n: int) -> int:
    """How many of n images validate: 10,000 of 60,000 or more, else a tenth."""
    return LARGE_SET_VALIDATION if n >= LARGE_SET else max(1, n // TENTH)


def by_class(y: np.ndarray, held: int) -> np.ndarray:
    """Which of images [N], in an order that is fair, validate [N]: the first of each class, in proportion.

    Args:
        y: Labels [N]; images without one are a class of their own.
        held: How many.
    """
    classes, where = np.unique(y, return_inverse=True)
    quota = quotas(np.bincount(where), held)
    chosen = np.zeros(len(y), dtype=bool)
    for label in range(len(classes)):
        chosen[np.flatnonzero(where == label)[: quota[label]]] = True
    return chosen


def quotas(sizes: np.ndarray, total: int) -> np.ndarray:
    """Parts of the total in proportion to sizes: one at least of a class of two or more, if it is enough."""
    ideal = total * sizes / sizes.sum()
    quota = np.maximum(ideal.astype(int), sizes > 1)
    while quota.sum() > total:
        several = quota > 1 if (quota > 1).any() else quota > 0
        quota[np.where(several, quota - ideal, -np.inf).argmax()] -= 1
    while quota.sum() < total:
        left = quota < sizes - 1 if (quota < sizes - 1).any() else quota < sizes
        quota[np.where(left, ideal - quota, -np.inf).argmax()] += 1
    return quota
