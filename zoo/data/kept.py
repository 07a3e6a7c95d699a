"""The converted images of a source, kept in one file and read by rows.

A source is converted once, into a safetensors file under ZOO_CACHE that is written as a stream and named by
what went into it. Its header holds the SHA-256 of what follows and the time of the file: a file whose time is
another one (it was copied, edited or restored) is read in full and compared, and made again if it is damaged;
`zoo data prepare` reads it in full whatever its time says.
"""

import hashlib
import json
import os
import time
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.cache import cache_root
from zoo.data.sources import Source
from zoo.data.treatments import runs, shrunk
from zoo.errors import UsageError, require
from zoo.files import atomic

LAYOUT = 2
"""Version of the layout of the files; enters their names."""
SPLITS = ("train", "val", "test")
IN_MEMORY = 2**27
"""Bytes of images, 128 MiB, up to which a set lives in memory; a larger one is read as it is needed."""
PART = 2**20
"""Bytes of images that are read at once where all are passed through."""
HEADER, KEY = 1016, 32
"""Bytes of a file's header, padded with blanks, after the 8 of its length; bytes of a key."""
START = 8 + HEADER


class OnDisk:
    """Images, uint8 [N, C, H, W], that lie in a file and are read where they are asked for.

    Args:
        path: The file; it may be replaced or deleted once it is open.
        shape: Theirs.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.shape = torch.Size(shape)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Images [B, C, H, W]: neighbours in one read."""
        at = np.arange(len(self))[rows] if isinstance(rows, slice) else rows.numpy()
        x = np.empty((len(at), *self.shape[1:]), dtype=np.uint8)
        size = x[:1].nbytes if len(at) else 0
        for run in runs(at):
            self._fill(x[run].data.cast("B"), START + int(at[run.start]) * size)
        return torch.from_numpy(x)

    def _fill(self, target: memoryview, offset: int) -> None:
        while target:
            done = os.preadv(self._file, [target], offset)
            if done == 0:
                raise OSError("a file of converted images ends before its last image")
            target, offset = target[done:], offset + done


class Stored(NamedTuple):
    """What is kept of a source."""

    images: Tensor | OnDisk
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """[N] int64, -1 where there is none."""
    keys: np.ndarray
    """uint8 [N, 32]: hashes of the encoded pictures."""
    splits: np.ndarray
    """uint8 [N]: positions in `SPLITS`."""
    classes: tuple[str, ...]
    """Names of the labels, where the source gives them."""


class ByteImages:
    """Some of the images there are, uint8 [N, C, H, W], read by rows.

    Args:
        images: All of them.
        rows: Positions [N] of these.
        shrink: Side of the squares of pixels that are averaged into one.
    """

    dtype = torch.uint8

    def __init__(self, images: Tensor | OnDisk, rows: Tensor, shrink: int = 1) -> None:
        self.images, self.rows, self.shrink = images, rows, shrink

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        _, channels, height, width = self.images.shape
        return torch.Size((len(self), channels, height // self.shrink, width // self.shrink))

    @property
    def in_memory(self) -> bool:
        """Whether nothing is read from a file."""
        return isinstance(self.images, Tensor)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        """Images [B, C, H, W]; neighbours in memory are no copy."""
        rows = self.rows[which]
        alone = runs(rows.numpy())
        x = self.images[slice(int(rows[0]), int(rows[-1]) + 1) if len(alone) == 1 else rows]
        return x if self.shrink == 1 else shrunk(x, self.shrink)

    def split(self, size: int) -> Iterator[Tensor]:
        """So many images at a time, in order."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def parts(self) -> Iterator[Tensor]:
        """Images of so many bytes as `PART` at a time, in order."""
        return self.split(rows_of(PART, self.images.shape))


def rows_of(num_bytes: int, shape: tuple[int, ...]) -> int:
    """Images [., C, H, W] of a byte a pixel in so many bytes; at least one."""
    return max(1, num_bytes // max(1, int(np.prod(shape[1:]))))


def cache_file(source: Source) -> Path:
    """Where the converted source is kept: the name is a hash of the source's content and treatment."""
    recipe = [LAYOUT, type(source).__name__, asdict(source), source.fingerprint()]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return cache_root() / "data" / f"{source.name}-{key[:16]}.safetensors"


def prepared(source: Source, in_full: bool = False) -> Stored:
    """The converted images of a source, from the cache; converted now if it is missing or damaged.

    Args:
        source: Where they come from.
        in_full: Compare every byte with what was written, whatever the time of the file says.

    Raises:
        UsageError: If the source holds no images.
    """
    path = cache_file(source)
    if not _whole(path, in_full):
        _convert(source, path)
    with safe_open(path, "numpy") as file:
        shape = tuple(file.get_slice("images").get_shape())
        labels, keys, splits, names = map(file.get_tensor, ("labels", "keys", "splits", "classes"))
    images: Tensor | OnDisk = OnDisk(path, shape)
    if images.shape.numel() <= IN_MEMORY:
        images = images[:]
    return Stored(images, torch.from_numpy(labels), keys, splits, tuple(json.loads(names.tobytes())))


def cached_files() -> Iterator[Path]:
    """All cache files there are."""
    return iter(sorted((cache_root() / "data").glob("*.safetensors")))


def _whole(path: Path, in_full: bool) -> bool:
    """Whether a file is there and what was written; its time is put back where all of it is."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, "numpy") as file:  # compares the header with the size of the file
            written = file.metadata() or {}
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return False
    if not in_full and str(path.stat().st_mtime_ns) == written.get("time"):
        return True
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(START)
        while part := file.read(PART):
            digest.update(part)
    if _sealed(digest, shapes) != written.get("sha256"):
        return False
    stamp = int(written["time"])
    os.utime(path, ns=(stamp, stamp))
    return True


def _sealed(digest: Any, shapes: dict[str, list[int]]) -> str:
    """The hash that stands in the header: of all bytes after it, and of the arrays' shapes."""
    digest.update(json.dumps(shapes, sort_keys=True).encode())
    return digest.hexdigest()


def _convert(source: Source, path: Path) -> None:
    """Write the file: the images as they come, what belongs to each after the last, the header at the end."""
    labels, keys, splits, digest = array("q"), bytearray(), bytearray(), hashlib.sha256()
    with atomic(path) as temporary:
        with temporary.open("wb", buffering=PART) as file:
            file.write(bytes(START))

            def put(content: bytes) -> None:
                file.write(content)
                digest.update(content)

            for example in source.examples():
                require(
                    example.x.shape == source.image_shape and example.x.dtype == np.uint8,
                    f"images of {source.name} must be bytes of shape {source.image_shape}, got "
                    f"{example.x.dtype} of {example.x.shape}",
                )
                put(example.x.tobytes())
                labels.append(example.y)
                keys += example.key
                splits.append(SPLITS.index(example.split))
            n, names = len(labels), json.dumps(source.classes()).encode()
            if not splits.count(0):
                raise UsageError(f"{source.name} must hold training images, found none")
            for content in (labels.tobytes(), bytes(keys), bytes(splits), names):
                put(content)
            shapes = {
                "images": [n, *source.image_shape],
                "labels": [n],
                "keys": [n, KEY],
                "splits": [n],
                "classes": [len(names)],
            }
            stamp = int(time.time()) * 10**9
            header: dict[str, Any] = {"__metadata__": {"sha256": _sealed(digest, shapes), "time": str(stamp)}}
            end = 0
            for key, shape in shapes.items():
                kind, size = ("I64", 8) if key == "labels" else ("U8", 1)
                begin, end = end, end + size * int(np.prod(shape))
                header[key] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
            file.seek(0)
            file.write(HEADER.to_bytes(8, "little") + json.dumps(header).encode().ljust(HEADER))
        os.utime(temporary, ns=(stamp, stamp))
