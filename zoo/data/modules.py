"""One family of data modules, all yielding the same `Batch`.

A loader yields row numbers only. The pixels live once, on the device that trains, and are gathered and
binarised there in one operation when the batch has arrived (`on_after_batch_transfer`).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from zoo.contract.batch import Batch, PixelKind
from zoo.data.sources import Source, prepared
from zoo.errors import require

Binarize = Literal["none", "dynamic", "fixed", "threshold"]
Split = Literal["train", "val", "test"]
EVAL_BATCH = 100
"""Images per validation and test batch: part of the protocol, since each batch has its own random stream."""
THRESHOLD = 127
LARGE_SET, LARGE_SET_VALIDATION = 60_000, 10_000
SMALL_SET_FRACTION = 10


class Rows(NamedTuple):
    """What a loader yields: positions in a split."""

    split: str
    row: Tensor


class Pixels(NamedTuple):
    """One split as it is kept on the device."""

    x: Tensor
    """[N, C, H, W]: uint8 bytes, uint8 bits, or float32 for dithered test images."""
    y: Tensor
    """[N] int64."""


class _RowNumbers(Dataset):
    """0, 1, ..., n - 1, fetched a batch at a time."""

    def __init__(self, split: str, n: int) -> None:
        self.split, self.n = split, n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, rows: list[int]) -> Rows:
        return Rows(self.split, torch.tensor(rows))


class _WholeBatches(DistributedSampler):
    """Deals whole evaluation batches to the processes in turn; no row is repeated to fill a process up."""

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)  # pyright: ignore[reportArgumentType]
        for start in range(self.rank * EVAL_BATCH, n, self.num_replicas * EVAL_BATCH):
            yield from range(start, min(start + EVAL_BATCH, n))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ImageData(LightningDataModule, ABC):
    """Images in [0, 1], split, binarised or dithered by a named protocol.

    Args:
        binarize: `dynamic`: a grey level is the probability of a 1; training pixels are re-drawn at every
            visit, validation and test pixels drawn once. `fixed`: all pixels drawn once. `threshold`:
            byte > 127. `none`: grey levels.
        dequantize: Use (byte + U[0, 1)) / 256 instead of byte / 255; needs `binarize: none`.
        pad: Zero pixels added on each side.
        subset: Keep only the first images of the training split.
        num_validation: Images taken from the end of the training split for validation; by default 10,000 of
            60,000 or more, else a tenth; 0 trains on all of them, for methods that choose nothing by
            validation.
        batch_size: Training images per step and process.
        draw_seed: Seed of everything that is drawn once: binarised or dithered test images, held-out rows.

    Raises:
        UsageError: If an option is out of range or two options contradict each other.
    """

    def __init__(
        self,
        binarize: Binarize = "dynamic",
        dequantize: bool = False,
        pad: int = 0,
        subset: int | None = None,
        num_validation: int | None = None,
        batch_size: int = 100,
        draw_seed: int = 0,
    ) -> None:
        super().__init__()
        require(
            not (dequantize and binarize != "none"),
            f"dequantize needs binarize: none, got binarize: {binarize}",
        )
        require(pad >= 0, f"pad must not be negative, got {pad}")
        require(subset is None or subset >= 1, f"subset must be at least 1, got {subset}")
        require(
            num_validation is None or num_validation >= 0,
            f"num_validation must not be negative, got {num_validation}",
        )
        require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
        require(draw_seed >= 0, f"draw_seed must not be negative, got {draw_seed}")
        self.binarize, self.dequantize, self.pad = binarize, dequantize, pad
        self.subset, self.num_validation = subset, num_validation
        self.batch_size, self.draw_seed = batch_size, draw_seed
        self.steps_per_batch = 1
        """Batches that a training loader yields as one: the method that fits sets it, and splits them."""
        self._splits: dict[str, Pixels] = {}
        self._originals: dict[str, Tensor] = {}
        self._held_out = ""
        self._shuffle_seed: int | None = None

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the images come from and how each is brought to its shape."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after padding."""
        return self.source.image_shape

    @property
    def pixels(self) -> PixelKind:
        """The kind of pixels a batch holds."""
        if self.binarize != "none":
            return "binary"
        return "deq" if self.dequantize else "real"

    @property
    def protocol(self) -> str:
        """Name of the data, its split and its treatment, as printed beside every number."""
        self.setup()
        sizes = "/".join(_thousands(len(self._splits[split].y)) for split in ("train", "val", "test"))
        treatment = {
            "none": "deq" if self.dequantize else "real",
            "dynamic": f"dynamic (test drawn once, seed {self.draw_seed})",
            "fixed": f"fixed (own draw, seed {self.draw_seed})",
            "threshold": "threshold (byte > 127)",
        }[self.binarize]
        if self.dequantize:
            treatment += f" (test dithered once, seed {self.draw_seed})"
        shape = "x".join(str(size) for size in self.image_shape)
        return f"{self.source.name} {shape} {sizes}{self._held_out}, {treatment}"

    def prepare_data(self) -> None:
        """Convert the source once; later calls find the cache, or what `setup` read of it."""
        if not self._splits:
            prepared(self.source)

    def setup(self, stage: str | None = None) -> None:
        """Load the cache, split it, and draw what is drawn once."""
        if self._splits:
            return
        arrays = prepared(self.source)
        x, y = arrays["train_x"], arrays["train_y"]
        n = len(y)
        if "test_x" in arrays:
            test_x, test_y = arrays["test_x"], arrays["test_y"]
        else:
            order = torch.from_numpy(np.random.default_rng(self.draw_seed).permutation(n))
            x, y = x[order], y[order]
            cut = n - max(1, n // SMALL_SET_FRACTION)
            x, y, test_x, test_y = x[:cut], y[:cut], x[cut:], y[cut:]
            self._held_out = f" (seeded hold-out, seed {self.draw_seed})"
            n = cut
        default = LARGE_SET_VALIDATION if n >= LARGE_SET else max(1, n // SMALL_SET_FRACTION)
        held = default if self.num_validation is None else self.num_validation
        require(
            held < n,
            f"num_validation must be below the {n} training images of {self.source.name}, got {held}",
        )
        last = min(n - held, self.subset or n)
        self._splits = {
            "train": self._treat(x[:last], y[:last], "train"),
            "val": self._treat(x[n - held :], y[n - held :], "val"),
            "test": self._treat(test_x, test_y, "test"),
        }
        self._originals = {"train": x[:last], "val": x[n - held :], "test": test_x}

    def originals(self, split: Split) -> Tensor:
        """A split's images before binarisation or dithering, uint8 [N, C, H, W]."""
        self.setup()
        return self._originals[split]

    def recipe(self) -> dict[str, Any]:
        """Class name and arguments: `from_recipe` makes the same data module of it."""
        arguments = self.source_arguments() | {
            name: getattr(self, name)
            for name in (
                "binarize",
                "dequantize",
                "pad",
                "subset",
                "num_validation",
                "batch_size",
                "draw_seed",
            )
        }
        return {"class": type(self).__name__, "init_args": arguments}

    def source_arguments(self) -> dict[str, Any]:
        """The arguments of the class beyond `ImageData`'s."""
        return {}

    def _treat(self, x: Tensor, y: Tensor, split: Split) -> Pixels:
        """Draw what is drawn once; bytes that are re-drawn at every visit stay bytes."""
        stream = np.random.default_rng([self.draw_seed, ("train", "val", "test").index(split)])
        if self.binarize == "threshold":
            x = (x > THRESHOLD).byte()
        elif self.binarize == "fixed" or (self.binarize == "dynamic" and split != "train"):
            noise = torch.from_numpy(stream.random(x.shape, dtype=np.float32))
            x = (noise < x.float() / 255).byte()
        elif self.dequantize and split != "train":
            x = (x + torch.from_numpy(stream.random(x.shape, dtype=np.float32))) / 256
        return Pixels(x.contiguous(), y)

    def split(self, name: Split) -> Batch:
        """A whole split as one batch, on the CPU; training images are drawn or dithered afresh."""
        self.setup()
        return self.batch(Rows(name, torch.arange(len(self._splits[name].y))))

    def mean_image(self) -> Tensor:
        """Mean of the training images, [C, H, W] in [0, 1]."""
        self.setup()
        x = self._splits["train"].x
        total = torch.stack([part.sum(0, dtype=torch.float64) for part in x.split(4096)]).sum(0)
        scale = 255.0 if self._grey("train") else 1.0
        return (total / (len(x) * scale)).float()

    def test_hash(self) -> str:
        """SHA-256 of the test images as they are scored."""
        self.setup()
        x = self._splits["test"].x.cpu().contiguous()
        return hashlib.sha256(str(tuple(x.shape)).encode() + x.numpy().tobytes()).hexdigest()

    def _grey(self, split: str) -> bool:
        return self.binarize == "none" or (self.binarize == "dynamic" and split == "train")

    def batch(self, rows: Rows) -> Batch:
        """Gather rows [B] of a split on the device that `rows` is on; binarise or dither them there."""
        kept = self._splits[rows.split]
        if kept.x.device != rows.row.device:
            kept = self._splits[rows.split] = Pixels(kept.x.to(rows.row.device), kept.y.to(rows.row.device))
        x = kept.x[rows.row]
        if x.dtype != torch.uint8:
            pass
        elif self.binarize == "dynamic" and rows.split == "train":
            x = (torch.rand(x.shape, device=x.device) * 255 < x).float()
        elif self.binarize != "none":
            x = x.float()
        elif self.dequantize:
            x = (x + torch.rand(x.shape, device=x.device)) / 256
        else:
            x = x.float() / 255
        return Batch(x, kept.y[rows.row], rows.row)

    def on_after_batch_transfer(self, batch: Rows, dataloader_idx: int) -> Batch | Rows:
        """Turn row numbers into images; those of several batches wait for `parted`."""
        return batch if self.steps_per_batch > 1 and batch.split == "train" else self.batch(batch)

    def parted(self, rows: Rows) -> Iterator[Batch]:
        """The batches of rows that a training loader yielded as one, each drawn when it is asked for."""
        for part in rows.row.split(self.batch_size):
            yield self.batch(Rows(rows.split, part))

    def state_dict(self) -> dict[str, Any]:
        """The seed of the order of training images; part of a checkpoint."""
        return {"shuffle_seed": self._shuffle_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's order of training images."""
        self._shuffle_seed = state_dict["shuffle_seed"]

    def train_dataloader(self) -> DataLoader:
        """Shuffled rows; the order is a function of the seed of the run and the epoch."""
        return self._loader("train", self.batch_size * self.steps_per_batch)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Rows in order; no loader where `num_validation` is 0."""
        return [] if self.num_validation == 0 else self._loader("val", EVAL_BATCH)

    def test_dataloader(self) -> DataLoader:
        """Rows in order."""
        return self._loader("test", EVAL_BATCH)

    def predict_dataloader(self) -> DataLoader:
        """The test rows in order."""
        return self._loader("test", EVAL_BATCH)

    def _loader(self, split: Split, batch_size: int) -> DataLoader:
        self.setup()
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        rows = _RowNumbers(split, len(self._splits[split].y))
        if split == "train":
            if self._shuffle_seed is None:
                self._shuffle_seed = torch.initial_seed() % 2**32
            sampler = DistributedSampler(rows, num_replicas=world, rank=rank, seed=self._shuffle_seed)
        else:
            sampler = _WholeBatches(rows, num_replicas=world, rank=rank, shuffle=False)
            require(
                len(sampler) > 0,
                f"the {split} split must give every process a batch of {EVAL_BATCH} images, "
                f"got {len(rows)} images for {world} processes",
            )
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            generator=torch.Generator().manual_seed(0),
        )


def _as_is(rows: Any) -> Rows:
    return rows


def _thousands(n: int) -> str:
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
