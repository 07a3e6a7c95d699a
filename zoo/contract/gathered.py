"""Terms of the batches of an epoch, kept as they come and averaged many batches at a time."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.contract.batch import Terms

Kept = tuple[int, int, tuple[Tensor, ...]]
"""A batch's number, its weight, and its terms."""


class Gathered:
    """Sums of terms over batches, each batch's mean weighted by its size.

    `add` only keeps the tensors, so that a step neither reduces them nor waits for the device; `settle` looks
    at them.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.num_waiting = 0
        self._waiting: dict[tuple, list[Kept]] = {}
        self._last: tuple[tuple, Kept] | None = None
        self._sums: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def add(self, step: int, terms: Terms, weight: int) -> None:
        """Keep a batch's terms, each [B] or []."""
        # A scalar may be a parameter, which moves before it is looked at.
        values = tuple(t.detach() if t.ndim else t.detach().clone() for t in terms.values())
        key, kept = (tuple(terms), tuple(t.shape for t in values)), (step, weight, values)
        self._waiting.setdefault(key, []).append(kept)
        self._last = key, kept
        self.num_waiting += 1

    def last(self, name: str) -> Tensor | None:
        """A term's mean in the last batch that was added; None if it has none of this name."""
        if self._last is None or name not in self._last[0][0]:
            return None
        (names, _), (_, _, values) = self._last
        return values[names.index(name)].float().mean()

    def settle(self) -> str | None:
        """Add what waits to the sums; returns which mean is not finite in the first such batch."""
        waiting, self._waiting, self.num_waiting = self._waiting, {}, 0
        bad: dict[int, list[str]] = {}
        for (names, _), rows in waiting.items():
            terms = zip(*(values for _, _, values in rows), strict=True)
            means = torch.stack([torch.stack(term).float().view(len(rows), -1).mean(1) for term in terms])
            for name, column in zip(names, means.tolist(), strict=True):
                for (step, weight, _), mean in zip(rows, column, strict=True):
                    if not math.isfinite(mean):
                        bad.setdefault(step, []).append(f"{name} = {mean}")
                    self._sums[name] = self._sums.get(name, 0.0) + weight * mean
                    self._weights[name] = self._weights.get(name, 0) + weight
        return f"{', '.join(bad[min(bad)])} at batch {min(bad)}" if bad else None

    def means(self) -> Iterator[tuple[str, float, int]]:
        """Every term's name, its mean over what was settled, and its weight."""
        for name, total in self._sums.items():
            yield name, total / self._weights[name], self._weights[name]
