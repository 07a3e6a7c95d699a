"""Encoded pictures, brought to one shape: upright, opaque, scaled to cover it, cut from the middle."""

import hashlib
import io
import os
import struct
import sys
import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageFile, ImageOps

from zoo.data.sources import Example, Source
from zoo.errors import UsageError, require

EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises at pictures that are cut, changed or none at all."""
HEADERS_ALONE = ("MPEG",)
"""Formats that Pillow recognises and cannot decode; stubs aside, which say so themselves."""
BACKGROUND = "white"
"""What transparent pictures are laid on where nothing else is asked for."""
CHUNK, AHEAD = 32, 4
"""Pictures that a thread decodes at a time, and chunks per core that wait to be taken."""
MANY = 5_000
"""Pictures from which on there is a progress bar."""


class Encoded(NamedTuple):
    """A picture as it lies in a file or a table."""

    split: str
    where: str
    """Its name, for whom it concerns."""
    content: bytes | Path
    y: int
    """Label, -1 where there is none."""


def readable() -> frozenset[str]:
    """Endings, in lower case with their dot, of the files that the installed Pillow decodes."""
    endings = Image.registered_extensions()
    return frozenset(ending for ending, kind in endings.items() if kind in Image.OPEN and not _stub(kind))


def _stub(kind: str) -> bool:
    factory = Image.OPEN[kind][0]
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return is_stub or kind in HEADERS_ALONE


def colour(background: str) -> tuple[int, ...]:
    """Red, green and blue of a colour's name, or of `#rrggbb`.

    Raises:
        UsageError: If it is none, or transparent itself.
    """
    try:
        found = ImageColor.getrgb(background)
    except (ValueError, AttributeError):
        found = ()
    require(
        len(found) == 3, f"background must be a colour such as white, black or #808080, got {background!r}"
    )
    return found


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass(frozen=True)
class PictureSource(Source):
    """Encoded pictures of any size.

    Transparent ones are laid on `background`, and those that a camera stored turned are turned back.
    """

    size: tuple[int, int]
    grey: bool
    background: str = field(default=BACKGROUND, kw_only=True)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.size
        return (1 if self.grey else 3, height + 2 * self.pad, width + 2 * self.pad)

    @property
    def laid(self) -> str:
        """What a protocol says of transparent pictures."""
        return f"transparency on {self.background}"

    @abstractmethod
    def pictures(self) -> Iterator[Encoded]:
        """All training pictures, then those that validate, then those of the test."""

    @abstractmethod
    def count(self) -> int | None:
        """How many pictures there are, where it is known before they are read."""

    def examples(self) -> Iterator[Example]:
        total = self.count() if sys.stderr.isatty() else 0
        if total is not None and total < MANY:
            yield from self._decoded()
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"pictures of {self.name}", total=total)
            for example in self._decoded():
                yield example
                progress.advance(bar)

    def _decoded(self) -> Iterator[Example]:
        """In order, on all cores; no more is read than a few chunks ahead of what is taken."""
        pictures = self.pictures()
        with ThreadPoolExecutor(cores()) as pool:
            waiting: deque[Future[list[Example]]] = deque()
            try:
                while chunk := list(islice(pictures, CHUNK)):
                    waiting.append(pool.submit(self._examples_of, chunk))
                    if len(waiting) > AHEAD * cores():
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _examples_of(self, chunk: list[Encoded]) -> list[Example]:
        return [self._example(picture) for picture in chunk]

    def _example(self, picture: Encoded) -> Example:
        content = picture.content
        if isinstance(content, Path):
            try:
                content = content.read_bytes()
            except OSError as error:
                raise UsageError(
                    f"{picture.where} of {self.name} cannot be read: {error.strerror}"
                ) from error
        key = hashlib.sha256(content).digest()
        return Example(picture.split, self.brought(content, picture.where), picture.y, key)

    def brought(self, content: bytes, where: str) -> np.ndarray:
        """One encoded picture, uint8 [C, H, W]: upright, opaque, scaled to cover, cropped, padded with zeros.

        Raises:
            UsageError: If it is damaged, no picture, or has more than 8 bits per channel.
        """
        try:
            with Image.open(io.BytesIO(content)) as opened:
                mode = opened.mode
                picture = ImageOps.exif_transpose(opened) if mode in EIGHT_BIT_MODES else None
        except DAMAGED as error:
            raise UsageError(
                f"{where} of {self.name} must be an image that Pillow can read: {error}"
            ) from error
        if picture is None:
            raise UsageError(f"{where} of {self.name} must have 8 bits per channel, got mode {mode}")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, colour(self.background)), picture)
        picture = picture.convert("L" if self.grey else "RGB")
        height, width = self.size
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        array = np.asarray(picture)
        array = array[None] if self.grey else array.transpose(2, 0, 1)
        return np.pad(array, ((0, 0), (self.pad, self.pad), (self.pad, self.pad)))
