"""One family of data modules, all yielding the same `Batch`.

A loader yields row numbers only. The pixels live once, on the device that trains, and are gathered and
binarised there in one operation when the batch has arrived (`on_after_batch_transfer`).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from zoo.cache import content_hash
from zoo.contract.batch import Batch, PixelKind
from zoo.data.facts import OWN, DataProtocol, Facts
from zoo.data.sources import Source, prepared
from zoo.data.treatments import bags, balanced, shrunk
from zoo.errors import UsageError, require

Binarize = Literal["none", "dynamic", "fixed", "threshold", "pseudo"]
Split = Literal["train", "val", "test"]
EVAL_BATCH = 100
"""Images per validation and test batch: part of the protocol, since each batch has its own random stream."""
THRESHOLD = 127
LARGE_SET, LARGE_SET_VALIDATION = 60_000, 10_000
SMALL_SET_FRACTION = 10
CONTENT_DIGITS = 8
"""Of the hash that tells folders of one name apart."""
SETTINGS = ("binarize", "dequantize", "pad", "subset", "num_validation", "batch_size", "draw_seed")
"""Arguments that every recipe names."""
TREATMENTS = {"shrink": 1, "whole": False, "labelled": None, "bag_size": None}
"""Arguments that a recipe names where they are not these."""


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

    A data set is a class with `facts` and a `source`; one's own pictures state their facts in `described`.

    Args:
        binarize: `dynamic`: a grey level is the probability of a 1; training pixels are re-drawn at every
            visit, validation and test pixels drawn once. `fixed`: all pixels drawn once. `threshold`:
            byte > 127. `none`: grey levels. `pseudo`: grey levels as the targets of a Bernoulli likelihood,
            whose value is then a score and no likelihood.
        dequantize: Use (byte + U[0, 1)) / 256 instead of byte / 255; needs `binarize: none`.
        pad: Zero pixels added on each side.
        subset: Keep only the first images of the training split.
        num_validation: Images taken from the end of the training split for validation; by default 10,000 of
            60,000 or more, else a tenth; 0 trains on all of them and keeps the last epoch.
        batch_size: Training images per step and process.
        draw_seed: Seed of everything that is drawn once: binarised or dithered test images, held-out rows,
            labels that stay, bags.
        shrink: Side of the squares of pixels that are averaged into one, after padding and before anything
            is drawn: 2 makes 14 x 14 of 28 x 28.
        whole: Train and test on all images there are, the protocol of the papers on clustering; no
            validation.
        labelled: Labels that the method is shown, as many of each class; the other training images' label is
            -1, for the method alone: scores read what `labels` gives.
        bag_size: Put the training images into bags of so many, each a mixture of few classes (`bag_of`).

    Raises:
        UsageError: If an option is out of range or two options contradict each other.
    """

    facts: Facts
    """What is known of the data."""

    def __init__(
        self,
        binarize: Binarize = "dynamic",
        dequantize: bool = False,
        pad: int = 0,
        subset: int | None = None,
        num_validation: int | None = None,
        batch_size: int = 100,
        draw_seed: int = 0,
        shrink: int = 1,
        whole: bool = False,
        labelled: int | None = None,
        bag_size: int | None = None,
    ) -> None:
        super().__init__()
        require(
            not (dequantize and binarize != "none"),
            f"dequantize needs binarize: none, got binarize: {binarize}",
        )
        for name, value, least in (
            ("subset", subset, 1),
            ("batch_size", batch_size, 1),
            ("shrink", shrink, 1),
            ("labelled", labelled, 1),
            ("bag_size", bag_size, 1),
        ):
            require(value is None or value >= least, f"{name} must be at least {least}, got {value}")
        for name, value in {"pad": pad, "num_validation": num_validation, "draw_seed": draw_seed}.items():
            require(value is None or value >= 0, f"{name} must not be negative, got {value}")
        for name, value in {"subset": subset, "num_validation": num_validation}.items():
            require(
                not (whole and value), f"whole takes all images for training and test, got {name}: {value}"
            )
        self.binarize, self.dequantize, self.pad = binarize, dequantize, pad
        self.subset, self.num_validation = subset, 0 if whole else num_validation
        self.batch_size, self.draw_seed = batch_size, draw_seed
        self.shrink, self.whole, self.labelled, self.bag_size = shrink, whole, labelled, bag_size
        self.steps_per_batch = 1
        """Batches that a training loader yields as one: the method that fits sets it, and splits them."""
        self._splits: dict[str, Pixels] = {}
        self._originals: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}
        self._bags: Tensor | None = None
        self._own_test = True
        self._shuffle_seed: int | None = None

    @classmethod
    def described(cls, arguments: dict[str, Any]) -> Facts:  # noqa: ARG003
        """The facts of what these arguments of the class stand for; nothing is read."""
        return cls.facts

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the images come from and how each is brought to its shape."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after padding and shrinking."""
        channels, height, width = self.source.image_shape
        require(
            height % self.shrink == 0 and width % self.shrink == 0,
            f"shrink must divide the sides of images of {height} x {width}, got {self.shrink}",
        )
        return channels, height // self.shrink, width // self.shrink

    @property
    def pixels(self) -> PixelKind:
        """The kind of pixels a batch holds."""
        if self.binarize == "pseudo":
            return "pseudo"
        if self.binarize != "none":
            return "binary"
        return "deq" if self.dequantize else "real"

    @property
    def protocol(self) -> DataProtocol:
        """Name of the data, its split and its treatment, as printed beside every number."""
        self.setup()
        train, val, test = (len(self._splits[split].y) for split in ("train", "val", "test"))
        protocol = self._protocol((train, val, test))
        return protocol._replace(content=self._content) if self.facts.origin == OWN else protocol

    @cached_property
    def _content(self) -> str:
        return content_hash(self.originals("test"))[:CONTENT_DIGITS]

    @property
    def stated(self) -> DataProtocol:
        """The protocol, from what the facts say of the source's sizes; nothing is read.

        Raises:
            UsageError: If they do not say it.
        """
        if self.facts.sizes is None:
            raise UsageError(f"the sizes of {self.facts.name} are not known before it is read")
        n, n_test = self.facts.sizes
        if self.whole:
            return self._protocol((n + n_test, 0, n + n_test))
        held, last = self._cut(n)
        return self._protocol((last, held, n_test))

    def _protocol(self, sizes: tuple[int, int, int]) -> DataProtocol:
        seed = self.draw_seed
        treatment, how = {
            "none": ("deq", f"test dithered once, seed {seed}") if self.dequantize else ("real", ""),
            "dynamic": ("dynamic", f"test drawn once, seed {seed}"),
            "fixed": ("fixed", f"own draw, seed {seed}"),
            "threshold": ("threshold", f"byte > {THRESHOLD}"),
            "pseudo": ("pseudo", "grey levels as Bernoulli targets"),
        }[self.binarize]
        return DataProtocol(
            self.facts.full_name,
            self.image_shape,
            sizes,
            treatment,
            how,
            held_out="" if self._own_test or self.whole else f"seeded hold-out, seed {seed}",
            shrink=self.shrink,
            whole=self.whole,
            labels=f"{self.labelled} labels, seed {seed}" if self.labelled else "",
            bags=f"bags of {self.bag_size}, seed {seed}" if self.bag_size else "",
            read_as=self.read_as,
        )

    @property
    def read_as(self) -> str:
        """What the protocol says of how pictures were read, where the name of the data leaves it open."""
        return ""

    def prepare_data(self) -> None:
        """Convert the source once; later calls find the cache, or what `setup` read of it."""
        if not self._splits:
            prepared(self.source)

    def setup(self, stage: str | None = None) -> None:
        """Load the cache, split it, and draw what is drawn once."""
        if self._splits:
            return
        x, y, test_x, test_y = self.divided()
        if self.whole:
            x, y = torch.cat((x, test_x)), torch.cat((y, test_y))
            test_x, test_y, held, last = x, y, 0, len(y)
        else:
            held, last = self._cut(len(y))
        first = len(y) - held
        shown = y[:last] if self.labelled is None else balanced(y[:last], self.labelled, self.draw_seed)
        if self.bag_size is not None:
            self._bags = bags(y[:last], self.bag_size, self.draw_seed)
        self._originals = {"train": x[:last], "val": x[first:], "test": test_x}
        self._labels = {"train": y[:last], "val": y[first:], "test": test_y}
        self._splits = {
            "train": self._treat(x[:last], shown, "train"),
            "val": self._treat(x[first:], y[first:], "val"),
            "test": self._treat(test_x, test_y, "test"),
        }

    def divided(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, uint8 [N, C, H, W], and labels [N] that may be learned from, then those that may not."""
        arrays = prepared(self.source)
        x, y = arrays["train_x"], arrays["train_y"]
        self._own_test = "test_x" in arrays
        if self._own_test:
            test_x, test_y = arrays["test_x"], arrays["test_y"]
        else:
            order = torch.from_numpy(np.random.default_rng(self.draw_seed).permutation(len(y)))
            x, y = x[order], y[order]
            cut = len(y) - max(1, len(y) // SMALL_SET_FRACTION)
            x, y, test_x, test_y = x[:cut], y[:cut], x[cut:], y[cut:]
        if self.shrink > 1:
            x, test_x = shrunk(x, self.shrink), shrunk(test_x, self.shrink)
        return x, y, test_x, test_y

    def _cut(self, n: int) -> tuple[int, int]:
        """Of n images, how many validate, and how many train."""
        default = LARGE_SET_VALIDATION if n >= LARGE_SET else max(1, n // SMALL_SET_FRACTION)
        held = default if self.num_validation is None else self.num_validation
        require(
            held < n,
            f"num_validation must be below the {n} training images of {self.source.name}, got {held}",
        )
        return held, min(n - held, self.subset or n)

    def labels(self, split: Split) -> Tensor:
        """All labels [N] of a split, those withheld from the method too: for scores alone."""
        self.setup()
        return self._labels[split]

    def bag_of(self, row: Tensor) -> Tensor:
        """Bag of training rows [B].

        Raises:
            UsageError: If there are no bags.
        """
        self.setup()
        if self._bags is None:
            raise UsageError("bags need bag_size, got none")
        return self._bags.to(row.device)[row]

    def originals(self, split: Split) -> Tensor:
        """A split's images before binarisation or dithering, uint8 [N, C, H, W]."""
        self.setup()
        return self._originals[split]

    def recipe(self) -> dict[str, Any]:
        """Class name and arguments: `from_recipe` makes the same data module of it."""
        arguments = self.source_arguments() | {name: getattr(self, name) for name in SETTINGS}
        further = {name: getattr(self, name) for name in TREATMENTS}
        arguments |= {name: value for name, value in further.items() if value != TREATMENTS[name]}
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

    def train_hash(self) -> str:
        """SHA-256 of the images and labels that are learned and chosen from, before any treatment."""
        self.setup()
        digest = hashlib.sha256()
        for split in ("train", "val"):
            for part in (self._originals[split], self._labels[split]):
                digest.update(str(tuple(part.shape)).encode() + part.numpy().tobytes())
        return digest.hexdigest()

    def _grey(self, split: str) -> bool:
        return self.binarize in ("none", "pseudo") or (self.binarize == "dynamic" and split == "train")

    def batch(self, rows: Rows) -> Batch:
        """Gather rows [B] of a split on the device that `rows` is on; binarise or dither them there."""
        kept = self._splits[rows.split]
        if kept.x.device != rows.row.device:
            kept = self._splits[rows.split] = Pixels(kept.x.to(rows.row.device), kept.y.to(rows.row.device))
        x = kept.x.index_select(0, rows.row)
        if x.dtype != torch.uint8:
            pass
        elif self.binarize == "dynamic" and rows.split == "train":
            noise = torch.rand(x.shape, device=x.device).mul_(255)
            x = torch.lt(noise, x.float(), out=noise)
        elif not self._grey(rows.split):
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

    def refuse_idle(self, split: Split, num_processes: int) -> None:
        """Refuse an evaluation of a split that would leave a process without a batch.

        Raises:
            UsageError: On every process alike.
        """
        n = len(self.originals(split))
        require(
            n > (num_processes - 1) * EVAL_BATCH,
            f"the {split} split must give every process a batch of {EVAL_BATCH} images, "
            f"got {n} images for {num_processes} processes",
        )

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
            self.refuse_idle(split, world)
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            generator=torch.Generator().manual_seed(0),
        )


def _as_is(rows: Any) -> Rows:
    return rows
