"""One family of data modules, all yielding the same `Batch`.

A loader yields row numbers only; a batch is gathered and binarised in one operation when they have arrived
(`on_after_batch_transfer`). The pixels of a small set live once, on the device that trains; those of a large
one live there if they fit, and else are read from the cache's file a batch at a time.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from zoo.contract.batch import Batch, PixelKind
from zoo.data.facts import OWN, DataProtocol, Facts
from zoo.data.kept import PART, ByteImages, Stored, prepared, rows_of
from zoo.data.rows import EVAL_BATCH, RowNumbers, Rows, WholeBatches, as_is
from zoo.data.sources import Source
from zoo.data.splits import Cut, cut, default_validation
from zoo.data.treatments import THRESHOLD, Treated, Treatment, bags, balanced
from zoo.errors import UsageError, require

Binarize = Literal["none", "dynamic", "fixed", "threshold", "pseudo"]
Split = Literal["train", "val", "test"]
CONTENT_DIGITS = 8
"""Of the hash that tells folders of one name apart."""
SHARE_OF_DEVICE = 0.5
"""Of an accelerator's free memory: what a split that is read from a file may take to live there."""
SETTINGS = ("binarize", "dequantize", "pad", "subset", "num_validation", "batch_size", "draw_seed")
"""Arguments that every recipe names."""
TREATMENTS = {"shrink": 1, "whole": False, "labelled": None, "bag_size": None}
"""Arguments that a recipe names where they are not these."""


class Pixels(NamedTuple):
    """One split as it is kept."""

    x: Tensor | Treated
    """[N, C, H, W] on the device that trains, or read and drawn by rows: uint8 bytes, uint8 bits, or float32
    for dithered test images."""
    y: Tensor
    """[N] int64."""


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
        num_validation: Images of the training split that validate; by default the source's own validation
            split, or else 10,000 of 60,000 or more and a tenth of fewer. They are the last ones where the
            order is a protocol (MNIST), and else of every class in proportion. 0 trains on all of them and
            keeps the last epoch.
        batch_size: Training images per step and process.
        draw_seed: Seed of everything that is drawn once: binarised or dithered test images, held-out images,
            labels that stay, bags. Where the source has no test split, a hash of seed and content says which
            images test: others that come or go move none.
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
        self._images: dict[str, ByteImages] = {}
        self._labels: dict[str, Tensor] = {}
        self._bags: Tensor | None = None
        self._stored: Stored | None = None
        self._cut: Cut | None = None
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
        protocol = self._protocol((train, val, test), "" if self.whole else self.cut.held_out)
        return protocol._replace(content=self._content) if self.facts.origin == OWN else protocol

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256(self.stored.keys[self.images("test").rows.numpy()].tobytes()).hexdigest()[
            :CONTENT_DIGITS
        ]

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
        held = default_validation(n) if self.num_validation is None else self.num_validation
        return self._protocol((min(n - held, self.subset or n), held, n_test))

    def _protocol(self, sizes: tuple[int, int, int], held_out: str = "") -> DataProtocol:
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
            held_out=held_out,
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
        """Convert the source once; later calls find the cache, or what was read of it."""
        self._stored = self._stored or prepared(self.source)

    @property
    def stored(self) -> Stored:
        """What is kept of the source."""
        self.prepare_data()
        assert self._stored is not None
        return self._stored

    @property
    def cut(self) -> Cut:
        """Which images train, which validate and which test."""
        if self._cut is None:
            stored, source = self.stored, self.source
            self._cut = cut(
                source.name,
                stored.splits,
                stored.labels.numpy(),
                stored.keys,
                in_order=source.in_order,
                num_validation=self.num_validation,
                seed=self.draw_seed,
            )
        return self._cut

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, split it, and draw what is drawn once."""
        if self._splits:
            return
        train, val, test, _, _ = self.cut
        if self.whole:
            train = test = np.concatenate((train, test))
        for split, rows in {"train": train[: self.subset], "val": val, "test": test}.items():
            self._images[split], self._labels[split] = self._rows(rows)
        y = self._labels["train"]
        if self.bag_size is not None:
            self._bags = bags(y, self.bag_size, self.draw_seed)
        shown = {"train": y if self.labelled is None else balanced(y, self.labelled, self.draw_seed)}
        for split, images in self._images.items():
            seed = [self.draw_seed, ("train", "val", "test").index(split)]
            treated = Treated(images, self._once(split), seed)
            x = treated[torch.arange(len(images))] if images.in_memory else treated
            self._splits[split] = Pixels(x, shown.get(split, self._labels[split]))
        self._say_what_is_missing()

    def divided(self) -> tuple[ByteImages, Tensor, ByteImages, Tensor]:
        """Images, uint8 [N, C, H, W], and labels [N] that may be learned from, then those that may not."""
        return *self._rows(self.cut.learned), *self._rows(self.cut.test)

    def _rows(self, rows: np.ndarray) -> tuple[ByteImages, Tensor]:
        at = torch.from_numpy(rows)
        self.image_shape  # noqa: B018 - refuses a shrink that does not divide the sides
        return ByteImages(self.stored.images, at, self.shrink), self.stored.labels[at]

    def _once(self, split: str) -> Treatment:
        """What is drawn once of a split; bytes that are re-drawn at every visit stay bytes."""
        if self.binarize == "threshold":
            return "threshold"
        if self.binarize == "fixed" or (self.binarize == "dynamic" and split != "train"):
            return "bits"
        return "dithered" if self.dequantize and split != "train" else "bytes"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels, in their order, where the source or the facts give them."""
        return self.facts.classes or self.stored.classes

    def present(self, split: Split) -> dict[str, int]:
        """Images of every class of a split, by the name of the class where it has one."""
        y = self.labels(split)
        names = self.class_names
        counts = zip(*(column.tolist() for column in y[y >= 0].unique(return_counts=True)), strict=True)
        return {names[label] if label < len(names) else str(label): count for label, count in counts}

    @rank_zero_only
    def _say_what_is_missing(self) -> None:
        trained = self.present("train")
        for split in ("val", "test"):
            missing = [name for name in trained if name not in self.present(split)]
            if missing and len(self._labels[split]):
                names = ", ".join(missing)
                logging.getLogger(__name__).warning(
                    "%s has no %s images of %s", self.source.name, split, names
                )

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

    def images(self, split: Split) -> ByteImages:
        """A split's images before binarisation or dithering, uint8 [N, C, H, W], read by rows."""
        self.setup()
        return self._images[split]

    def originals(self, split: Split) -> Tensor:
        """All images of a split before binarisation or dithering, uint8 [N, C, H, W], in memory."""
        return self.images(split)[:]

    def recipe(self) -> dict[str, Any]:
        """Class name and arguments: `from_recipe` makes the same data module of it."""
        arguments = self.source_arguments() | {name: getattr(self, name) for name in SETTINGS}
        further = {name: getattr(self, name) for name in TREATMENTS}
        arguments |= {name: value for name, value in further.items() if value != TREATMENTS[name]}
        return {"class": type(self).__name__, "init_args": arguments}

    def source_arguments(self) -> dict[str, Any]:
        """The arguments of the class beyond `ImageData`'s."""
        return {}

    def split(self, name: Split, which: int | Tensor | None = None) -> Batch:
        """A split's first so many images, some rows, or all, on the CPU; training images are drawn afresh."""
        self.setup()
        rows = which if isinstance(which, Tensor) else torch.arange(len(self._splits[name].y))[:which]
        return self.batch(Rows(name, rows))

    def mean_image(self) -> Tensor:
        """Mean of the training images, [C, H, W] in [0, 1]."""
        scale = 255.0 if self._grey("train") else 1.0
        total = torch.zeros(self.image_shape, dtype=torch.float64)
        for x in self._passed("train"):
            total += x.sum(0, dtype=torch.float64).cpu()
        return (total / (len(self.images("train")) * scale)).float()

    def test_hash(self) -> str:
        """SHA-256 of the test images as they are scored."""
        digest = hashlib.sha256(str((len(self.images("test")), *self.image_shape)).encode())
        for x in self._passed("test"):
            digest.update(x.cpu().numpy().tobytes())
        return digest.hexdigest()

    def train_hash(self) -> str:
        """SHA-256 of which images train and validate, in order, with their labels; no pixel is read."""
        self.setup()
        stored, images = self.stored, [self.images(split) for split in ("train", "val")]
        digest = hashlib.sha256(str([tuple(part.shape) for part in images]).encode())
        for part in images:
            digest.update(stored.keys[part.rows.numpy()].tobytes())
            digest.update(stored.labels[part.rows].numpy().tobytes())
        return digest.hexdigest()

    def _passed(self, split: str) -> Iterator[Tensor]:
        """A split as it is kept, in parts, in order."""
        self.setup()
        x = self._splits[split].x
        rows = torch.arange(len(x)).split(rows_of(PART, (1, *self.image_shape)))
        return (x[part.to(x.device) if isinstance(x, Tensor) else part] for part in rows)

    def _grey(self, split: str) -> bool:
        return self.binarize in ("none", "pseudo") or (self.binarize == "dynamic" and split == "train")

    def _kept_on(self, split: str, device: torch.device) -> Pixels:
        """A split with its labels on a device, and its pixels where they live there."""
        x, y = kept = self._splits[split]
        if y.device != device:
            if isinstance(x, Treated) and device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(device)
                if x.num_bytes <= SHARE_OF_DEVICE * free:
                    x = _moved(self._passed(split), len(x), device)
            kept = self._splits[split] = Pixels(x.to(device) if isinstance(x, Tensor) else x, y.to(device))
        return kept

    def batch(self, rows: Rows) -> Batch:
        """Gather rows [B] of a split on the device that `rows` is on; binarise or dither them there."""
        kept, device = self._kept_on(rows.split, rows.row.device), rows.row.device
        if isinstance(kept.x, Tensor):
            x = kept.x.index_select(0, rows.row)
        else:
            x = kept.x[rows.row.cpu()].to(device)
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
        n = len(self.images(split))
        require(
            n > (num_processes - 1) * EVAL_BATCH,
            f"the {split} split must give every process a batch of {EVAL_BATCH} images, "
            f"got {n} images for {num_processes} processes",
        )

    def _loader(self, split: Split, batch_size: int) -> DataLoader:
        self.setup()
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        rows = RowNumbers(split, len(self._splits[split].y))
        if split == "train":
            if self._shuffle_seed is None:
                self._shuffle_seed = torch.initial_seed() % 2**32
            sampler = DistributedSampler(rows, num_replicas=world, rank=rank, seed=self._shuffle_seed)
        else:
            sampler = WholeBatches(rows, num_replicas=world, rank=rank, shuffle=False)
            self.refuse_idle(split, world)
        return DataLoader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=as_is,
            generator=torch.Generator().manual_seed(0),
        )


def _moved(parts: Iterator[Tensor], n: int, device: torch.device) -> Tensor:
    """The n images of some parts on a device, part by part."""
    x, done = torch.empty(0), 0
    for part in parts:
        x = x if done else torch.empty((n, *part.shape[1:]), dtype=part.dtype, device=device)
        x[done : done + len(part)] = part
        done += len(part)
    return x
