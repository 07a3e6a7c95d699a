"""Folders of pictures, as people have them: what is a picture, which split it is in, what its label is."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from zoo.data.decoding import Encoded, PictureSource, readable
from zoo.errors import UsageError, require
from zoo.hub import holds_run

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folders at the top, in lower case, to the splits that they are."""
OPAQUE = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".pgm", ".ppm", ".pnm", ".pbm")
"""Endings of files that cannot be transparent."""
log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A file that is read."""

    split: str
    parts: tuple[str, ...]
    """Its path below the folder of the source."""
    label: str | None
    """Name of the first folder below the split; None of a file that lies beside these folders."""


class Found(NamedTuple):
    """What a folder holds."""

    pictures: list[Picture]
    """Training pictures first, then those that validate, then those of the test."""
    left_out: Counter[str]
    """How many files are not read, by what they are."""


def files_below(folder: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Paths of all files below a folder, in the order of their names; links are followed, each folder once.

    Hidden files and folders are passed over, and the folders of runs.

    Args:
        folder: Where to look.
        left_out: Where runs are counted.

    Raises:
        UsageError: If a folder cannot be read.
    """
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        kept = []
        for name in sorted(folders):
            inside = Path(place, name)
            if name.startswith(".") or (real := os.path.realpath(inside)) in seen:
                continue
            if holds_run(inside):
                if left_out is not None:
                    left_out["earlier run"] += 1
                continue
            seen.add(real)
            kept.append(name)
        folders[:] = kept
        above = Path(place).relative_to(folder).parts
        yield from ((*above, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename} must be a folder that can be read: {error.strerror}") from error


def fingerprint(folder: Path, files: list[tuple[str, ...]]) -> str:
    """Hash of the names, sizes and times of files below a folder."""
    digest = hashlib.sha256()
    for parts in files:
        status = folder.joinpath(*parts).stat()
        digest.update(f"{parts!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class FolderSource(PictureSource):
    """A folder of pictures: splits at its top, where there are any, then labels."""

    path: str

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name

    @cached_property
    def found(self) -> Found:
        """What there is to read; what there is beside it is said.

        Raises:
            UsageError: If there is nothing to read.
        """
        root, endings, left_out = Path(self.path), readable(), Counter()
        files = []
        for parts in files_below(root, left_out):
            ending = Path(parts[-1]).suffix.lower()
            if ending not in endings:
                left_out[ending or "without an ending"] += 1
            elif not root.joinpath(*parts).is_file():
                left_out["broken link"] += 1
            else:
                files.append(parts)
        tops = {parts[0] for parts in files if len(parts) > 1}
        own = {top for top in tops if top.lower() in SPLITS}
        among = {SPLITS[top.lower()] for top in own}
        if "train" not in among or (len(among) == 1 and own != tops):
            own = set()
        pictures = []
        for parts in files:
            if not own:
                pictures.append(Picture("train", parts, parts[0] if len(parts) > 1 else None))
            elif parts[0] in own and len(parts) > 1:
                label = parts[1] if len(parts) > 2 else None
                pictures.append(Picture(SPLITS[parts[0].lower()], parts, label))
            else:
                left_out[f"beside {', '.join(sorted(own))}"] += 1
        order = ("train", "val", "test")
        pictures.sort(key=lambda picture: order.index(picture.split))
        unread = ", ".join(f"{n} {what}" for what, n in sorted(left_out.items()))
        require(
            bool(pictures),
            f"path must hold images (.png, .jpg, ...), found none in {self.path!r}"
            + (f", but {unread}" if unread else ""),
        )
        loose = sum(picture.label is None for picture in pictures)
        remarks = [f"not read: {unread}"] if unread else []
        if 0 < loose < len(pictures):
            remarks.append(f"without a label, beside the folders of the labels: {loose}")
        if remarks:
            log.warning("%s: %d pictures read; %s", self.path, len(pictures), "; ".join(remarks))
        return Found(pictures, left_out)

    @property
    def read_as(self) -> str:
        """What a protocol says of it."""
        endings = {Path(picture.parts[-1]).suffix.lower() for picture in self.found.pictures}
        return "" if endings <= set(OPAQUE) else self.laid

    def fingerprint(self) -> str:
        return fingerprint(Path(self.path), [picture.parts for picture in self.found.pictures])

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({picture.label for picture in self.found.pictures if picture.label is not None}))

    def count(self) -> int:
        return len(self.found.pictures)

    def pictures(self) -> Iterator[Encoded]:
        number = {name: y for y, name in enumerate(self.classes())}
        for split, parts, label in self.found.pictures:
            path = Path(self.path, *parts)
            yield Encoded(split, "/".join(parts), path, -1 if label is None else number[label])
