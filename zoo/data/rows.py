"""What a loader yields in the place of images: their rows, dealt to the processes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

EVAL_BATCH = 100
"""Images per validation and test batch: part of the protocol, since each batch has its own random stream."""


class Rows(NamedTuple):
    """What a loader yields: positions in a split."""

    split: str
    row: Tensor


class RowNumbers(Dataset):
    """0, 1, ..., n - 1, fetched a batch at a time."""

    def __init__(self, split: str, n: int) -> None:
        self.split, self.n = split, n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, rows: list[int]) -> Rows:
        return Rows(self.split, torch.tensor(rows))


class WholeBatches(DistributedSampler):
    """Deals whole evaluation batches to the processes in turn; no row is repeated to fill a process up."""

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)  # pyright: ignore[reportArgumentType]
        for start in range(self.rank * EVAL_BATCH, n, self.num_replicas * EVAL_BATCH):
            yield from range(start, min(start + EVAL_BATCH, n))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def as_is(rows: Any) -> Rows:
    """A batch of rows: they come together."""
    return rows
