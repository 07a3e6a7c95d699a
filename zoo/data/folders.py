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
from zoo.errors import UsageError
from zoo.hub import holds_run

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folders at the top, in lower case, to the splits that they are; in the order in which they are read."""
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
    """What a folder holds, without the names of its files: there may be many."""

    fingerprint: str
    count: int
    classes: tuple[str, ...]
    endings: set[str]
    """Of the pictures, in lower case."""
    left_out: Counter[str]
    """How many files are not read, by what they are."""


def files_below(folder: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Paths of all files below a folder, in the order of their names; links are followed, but not in circles.

    Hidden files and folders are passed over, and the folders of runs.

    Args:
        folder: Where to look.
        left_out: Where runs are counted.

    Raises:
        UsageError: If a folder cannot be read.
    """
    above = {os.fspath(folder): {os.path.realpath(folder)}}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        kept = []
        for name in sorted(folders):
            inside = os.path.join(place, name)
            real = os.path.realpath(inside)
            if name.startswith(".") or real in above[place]:
                continue
            if holds_run(Path(inside)):
                if left_out is not None:
                    left_out["earlier run(s)"] += 1
                continue
            above[inside] = above[place] | {real}
            kept.append(name)
        folders[:] = kept
        parts = Path(place).relative_to(folder).parts
        yield from ((*parts, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename} must be a folder that can be read: {error.strerror}") from error


def fingerprint(folder: Path, files: list[tuple[str, ...]]) -> str:
    """Hash of the names, sizes and times of files below a folder."""
    digest = hashlib.sha256()
    for parts in files:
        status = folder.joinpath(*parts).stat()
        digest.update(f"{parts!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def own_splits(tops: set[str]) -> set[str]:
    """Which of the folders at the top are splits: `train` with one of the others, or alone."""
    own = {top for top in tops if top.lower() in SPLITS}
    among = {SPLITS[top.lower()] for top in own}
    return own if "train" in among and (len(among) > 1 or own == tops) else set()


def _text(name: str) -> str:
    """A name as it is printed and stored; bytes that are no UTF-8 become their numbers."""
    return os.fsencode(name).decode(errors="backslashreplace")


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
        left_out: Counter[str] = Counter()
        pictures = self._pictures(left_out)
        unread = ", ".join(f"{n} {what}" for what, n in sorted(left_out.items()))
        if not pictures:
            beside = f", but {unread}" if unread else ""
            raise UsageError(f"path must hold images (.png, .jpg, ...), found none in {self.path!r}{beside}")
        loose = sum(picture.label is None for picture in pictures)
        remarks = [f"not read: {unread}"] if unread else []
        if loose < len(pictures) and loose:
            remarks.append(f"without a label, beside the folders of the labels: {loose}")
        if remarks:
            log.warning("%s: %d pictures read; %s", self.path, len(pictures), "; ".join(remarks))
        return Found(
            fingerprint(Path(self.path), [picture.parts for picture in pictures]),
            len(pictures),
            tuple(sorted({picture.label for picture in pictures if picture.label is not None})),
            {os.path.splitext(picture.parts[-1])[1].lower() for picture in pictures},
            left_out,
        )

    def _pictures(self, left_out: Counter[str]) -> list[Picture]:
        """Training pictures first, then those that validate or test; counts what is left out."""
        files = self._files(left_out)
        own = own_splits({parts[0] for parts in files if len(parts) > 1})
        pictures = []
        for parts in files:
            below = parts[1:] if parts[0] in own else parts
            if not below or (own and below is parts):
                left_out[f"beside {', '.join(sorted(own))}"] += 1
                continue
            split = SPLITS[parts[0].lower()] if own else "train"
            pictures.append(Picture(split, parts, _text(below[0]) if len(below) > 1 else None))
        pictures.sort(key=lambda picture: list(SPLITS.values()).index(picture.split))
        return pictures

    def _files(self, left_out: Counter[str]) -> list[tuple[str, ...]]:
        """Paths of all pictures; counts the other files."""
        endings, pictures = readable(), []
        for parts in files_below(Path(self.path), left_out):
            ending = os.path.splitext(parts[-1])[1].lower()
            if ending not in endings:
                left_out[_text(ending) or "without an ending"] += 1
            elif not Path(self.path, *parts).is_file():
                left_out["broken link(s)"] += 1
            else:
                pictures.append(parts)
        return pictures

    @property
    def read_as(self) -> str:
        """What a protocol says of it."""
        return "" if self.found.endings <= set(OPAQUE) else self.laid

    def fingerprint(self) -> str:
        return self.found.fingerprint

    def classes(self) -> tuple[str, ...]:
        return self.found.classes

    def count(self) -> int:
        return self.found.count

    def pictures(self) -> Iterator[Encoded]:
        number = {name: y for y, name in enumerate(self.classes())}
        for split, parts, label in self._pictures(Counter()):
            where, y = _text("/".join(parts)), -1 if label is None else number[label]
            yield Encoded(split, where, Path(self.path, *parts), y)
