"""What a source of images gives, and the source of the digits."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One picture of a source, brought to its shape."""

    split: str
    """`train`, `val` or `test`."""
    x: np.ndarray
    """uint8 [C, H, W]."""
    y: int
    """Label, -1 where there is none."""
    key: bytes
    """SHA-256 of the encoded picture: what decides its side where the source has no test split of its own."""


@dataclass(frozen=True)
class Source(ABC):
    """Where images come from and how each is brought to its shape."""

    pad: int
    in_order: bool = field(default=False, kw_only=True)
    """Whether the order of the training images is a protocol: those that validate are then the last ones."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, as it stands in protocols."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after padding."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the source's content changes."""

    @abstractmethod
    def examples(self) -> Iterator[Example]:
        """Convert everything, slowly: all training images, then those that validate, then the test images."""

    def classes(self) -> tuple[str, ...]:
        """Names of the labels, where the source gives them."""
        return ()


def made(split: str, x: np.ndarray, y: np.ndarray) -> Iterator[Example]:
    """The examples of a split of which there are arrays, uint8 [N, C, H, W] and labels [N]."""
    for image, label in zip(x, y, strict=True):
        yield Example(split, image, int(label), hashlib.sha256(image.tobytes()).digest())


@dataclass(frozen=True)
class DigitsSource(Source):
    """scikit-learn's handwritten digits, 8 x 8, in their original order; the last fifth is the test split."""

    in_order: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        return "digits"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 8 + 2 * self.pad, 8 + 2 * self.pad)

    def fingerprint(self) -> str:
        return "scikit-learn"

    def examples(self) -> Iterator[Example]:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        y = np.asarray(labels)
        x = (pixels.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
        x = np.pad(x, ((0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)))
        cut = len(y) - len(y) // 5
        yield from made("train", x[:cut], y[:cut])
        yield from made("test", x[cut:], y[cut:])
