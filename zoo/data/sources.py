"""Sources of images, and the cache in which each is kept once it is converted.

A source is searched first under the folder in the environment variable ZOO_DATA (laid out like the Hub:
`owner/name/...`), then on the Hugging Face Hub. The converted images are kept under ZOO_CACHE (by default
`~/.cache/zoo`) in a file named by what went into it, with a hash of its own content: a damaged file is
rebuilt.
"""

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.cache import Arrays
from zoo.errors import UsageError, require

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


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

    def read(self) -> Arrays:
        """Convert everything; slow."""
        return {}

    def examples(self) -> Iterator[Example]:
        """All training images, then those that validate, then the test images."""
        arrays = self.read()
        for split in ("train", "val", "test"):
            for x, y in zip(arrays.get(f"{split}_x", ()), arrays.get(f"{split}_y", ()), strict=True):
                yield Example(split, x.numpy(), int(y), hashlib.sha256(x.numpy().tobytes()).digest())

    def classes(self) -> tuple[str, ...]:
        """Names of the labels, where the source gives them."""
        return ()


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

    def read(self) -> Arrays:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        levels = torch.from_numpy(pixels).reshape(-1, 1, 8, 8)
        x = torch.nn.functional.pad((levels * 255 / 16).round().byte(), (self.pad,) * 4)
        y = torch.from_numpy(labels).long()
        cut = len(y) - len(y) // 5
        return {"train_x": x[:cut], "train_y": y[:cut], "test_x": x[cut:], "test_y": y[cut:]}


@dataclass(frozen=True)
class PictureSource(Source):
    """Encoded pictures, read through `datasets`."""

    size: tuple[int, int]
    grey: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.size
        return (1 if self.grey else 3, height + 2 * self.pad, width + 2 * self.pad)

    @abstractmethod
    def load(self) -> Mapping[Any, Any]:
        """The splits as streamed `datasets`."""

    def read(self) -> Arrays:
        import datasets

        splits = self.load()
        train = splits.get("train")
        if train is None:
            raise UsageError(f"{self.name} must have a train split, got {', '.join(splits)}")
        arrays: Arrays = {}
        for split, data in {"train": train, "test": splits.get("test")}.items():
            if data is None:
                continue
            features = data.features or {}
            images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
            labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
            if not images:
                raise UsageError(
                    f"{self.name} must have a column of images, got {', '.join(features) or 'none'}"
                )
            raw = data.cast_column(images[0], datasets.Image(decode=False))
            pixels, targets = [], []
            for example in raw:
                pixels.append(self._fit(example[images[0]]))
                targets.append(example[labels[0]] if labels else -1)
            if not pixels:
                raise UsageError(f"{self.name} must hold images, its {split} split is empty")
            arrays[f"{split}_x"] = torch.from_numpy(np.stack(pixels))
            arrays[f"{split}_y"] = torch.tensor([-1 if target is None else target for target in targets])
        return arrays

    def _fit(self, encoded: dict[str, Any]) -> np.ndarray:
        """One picture as uint8 [C, H, W]: scaled to cover, centre-cropped, padded with zeros."""
        where = encoded["path"] or "an image"
        try:
            with Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]) as opened:
                mode = opened.mode
                require(
                    mode in EIGHT_BIT_MODES,
                    f"{where} of {self.name} must have 8 bits per channel, got mode {mode}",
                )
                picture = opened.convert("L" if self.grey else "RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UsageError(
                f"{where} of {self.name} must be an image that Pillow can read: {error}"
            ) from error
        height, width = self.size
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        array = np.asarray(picture)
        array = array[None] if self.grey else array.transpose(2, 0, 1)
        return np.pad(array, ((0, 0), (self.pad, self.pad), (self.pad, self.pad)))


@dataclass(frozen=True)
class HubSource(PictureSource):
    """A data set repository of the Hub, or its mirror under ZOO_DATA."""

    repo_id: str
    revision: str = "main"

    @property
    def name(self) -> str:
        return self.repo_id.split("/")[1]

    def _mirror(self) -> Path | None:
        root = os.environ.get("ZOO_DATA")
        if not root:
            return None
        require(Path(root).is_dir(), f"ZOO_DATA must name a folder, got {root!r}")
        folder = Path(root) / self.repo_id
        return folder if folder.is_dir() else None

    def fingerprint(self) -> str:
        mirror = self._mirror()
        return _listing(mirror) if mirror else f"hub:{self.revision}"

    def load(self) -> Mapping[Any, Any]:
        import datasets
        import httpx
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import HfHubHTTPError

        mirror = self._mirror()
        if mirror:
            return datasets.load_dataset(str(mirror), streaming=True)
        try:
            return datasets.load_dataset(self.repo_id, revision=self.revision, streaming=True)
        except (ConnectionError, httpx.HTTPError, HfHubHTTPError, DatasetNotFoundError) as error:
            where = os.environ.get("ZOO_DATA") or "not set"
            raise UsageError(
                f"{self.repo_id} is not under ZOO_DATA ({where}) and cannot be read from the Hub "
                f"({type(error).__name__}): set ZOO_DATA to a folder that holds {self.repo_id}, "
                "or go online and run `zoo data prepare NAME`"
            ) from error


@dataclass(frozen=True)
class FolderSource(PictureSource):
    """A folder of pictures; subfolders are labels."""

    path: str

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name

    def fingerprint(self) -> str:
        return _listing(Path(self.path))

    def load(self) -> Mapping[Any, Any]:
        import datasets
        from datasets.data_files import EmptyDatasetError

        try:
            return datasets.load_dataset("imagefolder", data_dir=self.path, streaming=True)
        except (FileNotFoundError, EmptyDatasetError):
            raise UsageError(
                f"path must hold images (.png, .jpg, ...), found none in {self.path!r}"
            ) from None


def _listing(folder: Path) -> str:
    """Hash of the names, sizes and times of all files below a folder."""
    rows = [
        f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (status := path.stat())
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
