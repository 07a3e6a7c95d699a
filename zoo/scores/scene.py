"""What a metric works with: one method before one data set, its samples, their features, and the floors.

Whatever is needed of many images is asked of `Scene.spread`, which gives every block of images a random
stream of its own and deals the blocks to the processes: one process and several give the same numbers.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import torch
import torch.distributed
from torch import Tensor

from zoo.cache import content_hash, remembered
from zoo.contract.capabilities import Samples, Side
from zoo.contract.method import Method
from zoo.data.modules import ImageData, Split
from zoo.errors import UsageError, one_line, require
from zoo.files import sha256
from zoo.randomness import own_stream
from zoo.scores.classifiers import extractor
from zoo.scores.features import Extractor, Features, as_bytes
from zoo.scores.metrics import Estimate, share_interval
from zoo.scores.results import Measure, Number, Numbers, Protocol

BLOCK = 500
"""Images per random stream: part of the protocol."""


@dataclass
class Scene:
    """One method before one data set; sections read from it and write their numbers into it."""

    method: Method
    data: ImageData
    seed: int
    num_samples: int
    """K, importance samples per image."""
    num_images: int
    """n, samples drawn from the method, at most."""
    split: Literal["val", "test"] = "test"
    """Where the images come from that samples are held against."""
    rank: int = 0
    world_size: int = 1
    per_image: dict[str, Tensor] = field(default_factory=dict)
    """Values of every test image, in their order."""
    refused: dict[str, str] = field(default_factory=dict)
    """Metrics whose values the method refused to give, and why."""
    numbers: Numbers = field(default_factory=dict)
    floors: dict[str, Numbers] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, list[float]] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)
    """The numbers of the section that runs."""

    def put(
        self,
        name: str,
        estimate: float | tuple[float, float | None],
        protocol: Protocol,
        *,
        of: object = "",
        side: Side | None = None,
        layer: int | None = None,
        interval: tuple[float, float] | None = None,
        floor: str | None = None,
    ) -> None:
        """Write down a number of the section that runs, or the same number of a floor.

        Args:
            name: One of the section's measures.
            estimate: The value, or value and standard error.
            protocol: How it was measured.
            of: What its unit counts.
            side: Where it depends on the method.
            layer: Of a number per layer.
            interval: 95 %; by default 1.96 standard errors to either side.
            floor: What needs no model, such as `train`.
        """
        measure = self.measures[name]
        value, error = estimate if isinstance(estimate, tuple) else (estimate, None)
        where = self.numbers if floor is None else self.floors.setdefault(floor, {})
        key = f"{self.split}/{name}" if layer is None else f"{self.split}/{name}_layer_{layer}"
        where[key] = Number(
            value, measure.unit.format(of), side or measure.side, protocol, _finite(error), interval
        )

    def treated(self, how: str, **counts: int) -> Protocol:
        """The protocol of what sees the pixels as the data module treats them."""
        return Protocol(str(self.data.protocol), how, **counts)

    def untreated(self, how: str, **counts: int) -> Protocol:
        """The protocol of what sees the images, whatever is done to their pixels."""
        return Protocol(self.image_set, how, **counts)

    def stream(self, name: str, block: int = 0) -> AbstractContextManager[None]:
        """The random stream of a metric, or of one of its blocks of images."""
        return own_stream(self.seed, crc32(name.encode()), block)

    def spread(self, name: str, n: int, work: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Do work over n images in blocks dealt to the processes; all of it, in order, on every process.

        Args:
            name: Names the random streams.
            n: Number of images.
            work: A slice of 0..n to tensors with one row per image.

        Raises:
            UsageError: On every process, if the work of one raised it or another ValueError.
        """
        done: dict[int, tuple[Tensor, ...]] = {}
        mistakes: list[str] = []
        try:
            for block in range(self.rank, -(-n // BLOCK), self.world_size):
                rows = slice(block * BLOCK, min(n, (block + 1) * BLOCK))
                with self.stream(name, block), torch.no_grad():
                    done[block] = tuple(t.detach().cpu() for t in work(rows))
        except ValueError as mistake:
            mistakes.append(one_line(mistake))
        if self.world_size > 1:
            everyone: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(everyone, (done, mistakes))
            done = {block: parts for part, _ in everyone for block, parts in part.items()}
            mistakes = [line for _, lines in everyone for line in lines]
        if mistakes:
            raise UsageError(mistakes[0])
        return tuple(torch.cat(column) for column in zip(*(done[b] for b in sorted(done)), strict=True))

    @cached_property
    def n(self) -> int:
        """Samples: as many as asked for, and no more than there are images to hold them against."""
        return min(self.num_images, *(len(self.data.images(split)) for split in ("train", self.split)))

    def real(self, split: Split, n: int | None = None) -> Tensor:
        """All images of a split as before binarisation, or n of them, [n, C, H, W] in [0, 1]."""
        images = self.data.images(split)
        return images[slice(None) if n is None else drawn(len(images), n)].float() / 255

    @cached_property
    def samples(self) -> Tensor:
        """N samples on the CPU.

        Raises:
            UsageError: If they are not images of the method's shape in [0, 1].
        """
        method, shape = self.method, self.method.image_shape
        assert isinstance(method, Samples)

        def draw(rows: slice) -> tuple[Tensor]:
            images = method.sample(rows.stop - rows.start)
            found, wanted = tuple(images.shape), (rows.stop - rows.start, *shape)
            require(found == wanted, f"samples must have shape {wanted}, got {found}")
            as_bytes(images)
            return (images.float(),)

        return self.spread("samples", self.n, draw)[0]

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network of the data.

        Raises:
            UsageError: If there is none.
        """
        return extractor(self.data).to(self.method.device)

    def features(self, images: Tensor) -> Features:
        """Features of images [N, C, H, W] that lie on the CPU."""
        parts = [self.extractor.extract(part.to(self.method.device)) for part in images.split(1000)]
        return Features(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))

    @cached_property
    def sample_features(self) -> Features:
        """Features of the method's samples."""
        return self.features(self.samples)

    def known(self, images: Tensor) -> Features:
        """Features of images that are no method's: kept by the hash of images and extractor."""
        key = [content_hash(images), self.extractor.name]
        return Features(**remembered("features", key, lambda: self.features(images)._asdict()))

    @cached_property
    def floor_images(self) -> dict[str, Tensor]:
        """What needs no model: training images, and pixels drawn independently from all images but tests."""
        known = [self.data.images(split) for split in ("train", "val")]
        shape, stream = known[0].shape[1:], torch.Generator().manual_seed(0)
        picked = torch.randint(sum(map(len, known)), (self.n, shape.numel()), generator=stream)
        independent, done = torch.empty(self.n, shape.numel(), dtype=torch.uint8), 0
        for part in (part for images in known for part in images.parts()):
            image, pixel = ((picked >= done) & (picked < done + len(part))).nonzero(as_tuple=True)
            independent[image, pixel] = part.flatten(1)[picked[image, pixel] - done, pixel]
            done += len(part)
        independent = independent.view(-1, *shape).float() / 255
        return {"train": self.real("train", self.n), "independent_pixels": independent}

    def floor(self, name: str, key: list, work: Callable[[Tensor], dict[str, Estimate]]) -> None:
        """Write the numbers of the floors beside those of a metric that compares images with real ones.

        Args:
            name: The metric.
            key: JSON values that, with the images, determine the numbers.
            work: Images to numbers by name.
        """
        for floor, images in self.floor_images.items():
            full = [code_version(), content_hash(images), content_hash(self.real(self.split)), *key]
            known = remembered(name, full, lambda images=images: as_tensors(work(images)))
            for metric, (value, error) in known.items():
                like = self.numbers[f"{self.split}/{metric}"]
                estimate = Estimate(float(value), float(error))
                interval = share_interval(estimate, self.n) if like.unit == "share" else None
                beside = replace(like, value=estimate.value, error=_finite(estimate.error), interval=interval)
                self.floors.setdefault(floor, {})[f"{self.split}/{metric}"] = beside

    def compare(
        self,
        name: str,
        measure: Callable[[Features, Features], dict[str, Estimate]],
        how: str = "",
        of: object = "",
        as_many: bool = False,
    ) -> None:
        """Hold the features of the samples, and of the floors, against those of all test images.

        Args:
            name: The metric.
            measure: Features of real images and of others to numbers by name.
            how: What else the protocol says.
            of: What the units count.
            as_many: Hold them against as many as there are samples, drawn once, where a value says nothing if
                the counts differ.
        """
        real = self.known(self.real(self.split, self.n if as_many else None))
        count = part_of(len(real.activations), len(self.data.images(self.split)))
        against = f"{self.n} samples against {count} {self.split} images as bytes{how}; {self.extractor.name}"
        protocol = self.untreated(against, num_images=self.n)
        for metric, estimate in measure(real, self.sample_features).items():
            interval = share_interval(estimate, self.n) if self.measures[metric].unit == "share" else None
            self.put(metric, estimate, protocol, of=of, interval=interval)
        if self.split == "test":
            self.floor(name, [self.extractor.name], lambda images: measure(real, self.known(images)))

    def need_one_per_class(self) -> None:
        """Refuse to judge the classes of fewer samples than there are classes.

        Raises:
            UsageError: If there are fewer.
        """
        least = self.extractor.num_classes
        require(self.n >= least, f"{least} classes need at least as many samples, got {self.n}")

    @property
    def image_set(self) -> str:
        """Name and shape of the images, whatever is done to their pixels."""
        return self.data.protocol.images

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Labels of the training images and of the test images that were scored.

        Those withheld from the method are here too: a probe measures codes, and needs all labels for it.

        Raises:
            UsageError: If an image has none.
        """
        scored = self.per_image["row"].long()
        both = self.data.labels("train"), self.data.labels("test")[scored]
        without, total = sum(int((y < 0).sum()) for y in both), sum(map(len, both))
        require(without == 0, f"{self.data.source.name} has no labels on {without} of {total} images")
        return both


def drawn(of: int, n: int) -> Tensor:
    """Rows that stand for all of so many, ascending: n drawn once from seed 0, all where there are no more.

    Never the first n: the first half of MNIST's test images is the easier one, and folders come by class.
    """
    return torch.randperm(of, generator=torch.Generator().manual_seed(0))[:n].sort().values


def part_of(n: int, of: int) -> str:
    """How a protocol counts rows that were drawn."""
    return f"{n}" if n == of else f"{n} of {of}"


def _finite(error: float | None) -> float | None:
    return error if error is not None and math.isfinite(error) else None


@lru_cache(maxsize=1)
def code_version() -> str:
    """A hash of the code behind kept numbers: another version of it computes them again."""
    folder = Path(__file__).parent
    return "".join(sha256(folder / f"{name}.py") for name in ("metrics", "parzen", "representation", "scene"))


def as_tensors(estimates: dict[str, Estimate]) -> dict[str, Tensor]:
    """Estimates as they are kept in the cache: value and error."""
    return {name: torch.tensor(estimate, dtype=torch.float64) for name, estimate in estimates.items()}
