"""Data sets of the Hugging Face Hub, or their mirror under ZOO_DATA, read through `datasets`.

A branch or a tag is resolved to its commit, which stands in the protocol and names the cache.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from zoo.cache import cache_root
from zoo.data.decoding import Encoded, PictureSource, readable
from zoo.data.folders import FolderSource, files_below, fingerprint
from zoo.errors import UsageError, require
from zoo.files import write_bytes
from zoo.hub import http_error

SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "dev": "val", "test": "test"}
"""Names of splits on the Hub to ours, in the order in which they are read."""
LABELS = ("label", "labels", "class", "classes", "category", "target", "fine_label", "y")
"""Names of the column of labels, the most usual first."""
TABLES = (
    ".parquet",
    ".arrow",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".zip",
    ".tar",
    ".tgz",
    ".gz",
    ".xz",
    ".7z",
)
"""Endings of what `datasets` reads; a repository of picture files alone is read as a folder."""
COMMIT, SHORT = re.compile("[0-9a-f]{40}"), 8
"""A commit in full, and how many of its digits a protocol has."""
GLOB = re.compile(r"[\[\]*?]|::")
log = logging.getLogger(__name__)


class Labels(NamedTuple):
    """The column of labels, and what its values stand for."""

    column: str | None
    names: tuple[str, ...]
    number: Callable[[Any], int]
    """Of a value, the label; -1 of one that says none."""


@dataclass(frozen=True)
class HubSource(PictureSource):
    """A data set repository of the Hub, or its mirror under ZOO_DATA."""

    repo_id: str
    revision: str = "main"
    configuration: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]

    @property
    def read_as(self) -> str:
        """What a protocol says of it."""
        commit = f"commit {self.commit[:SHORT]}" if self.commit else ""
        return ", ".join(text for text in (self.configuration, commit, self.laid) if text)

    @cached_property
    def mirror(self) -> Path | None:
        """Its folder under ZOO_DATA.

        Raises:
            UsageError: If ZOO_DATA is no folder, or its name is one that `datasets` reads as a pattern.
        """
        root = os.environ.get("ZOO_DATA")
        if not root:
            return None
        require(Path(root).is_dir(), f"ZOO_DATA must name a folder, got {root!r}")
        folder = Path(root) / self.repo_id
        if not folder.is_dir():
            return None
        require(not GLOB.search(root), f"ZOO_DATA must be a path without [ ] * ? and ::, got {root!r}")
        return folder

    def fingerprint(self) -> str:
        if self.mirror:
            found = files_below(self.mirror)
            return fingerprint(
                self.mirror, [parts for parts in found if self.mirror.joinpath(*parts).is_file()]
            )
        return f"hub:{self.commit}"

    @cached_property
    def commit(self) -> str:
        """The commit that `revision` stands for now, or stood for when it was last seen; empty of a mirror.

        Raises:
            UsageError: If there is no such data set, or none has been seen and the Hub cannot be asked.
        """
        if self.mirror:
            return ""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        return _resolved(self.repo_id, self.revision)

    @cached_property
    def folder(self) -> FolderSource | None:
        """The repository as a folder, where it holds pictures as files; downloaded, if it is on the Hub."""
        import huggingface_hub

        place = self.mirror
        if place:
            files = ["/".join(parts) for parts in files_below(place)]
        else:
            files = huggingface_hub.HfApi().list_repo_files(
                self.repo_id, revision=self.commit, repo_type="dataset"
            )
        endings = {Path(file).suffix.lower() for file in files}
        if endings & set(TABLES) or not endings & readable():
            return None
        if not place:
            place = huggingface_hub.snapshot_download(self.repo_id, revision=self.commit, repo_type="dataset")
        return FolderSource(self.pad, self.size, self.grey, str(place), background=self.background)

    @cached_property
    def splits(self) -> Mapping[str, Any]:
        """Streamed `datasets` by the names of their splits, ours and in our order."""
        import datasets

        place, commit = (str(self.mirror), None) if self.mirror else (self.repo_id, self.commit)
        names = datasets.get_dataset_config_names(place, revision=commit)
        listed = ", ".join(map(str, names))
        chosen = self.configuration
        if chosen is None and len(names) > 1:
            chosen = datasets.get_dataset_default_config_name(place, revision=commit)
            require(chosen is not None, f"name must choose a configuration of {self.repo_id}: {listed}")
        require(
            chosen is None or chosen in names,
            f"name must be a configuration of {self.repo_id}, one of {listed}, got {chosen!r}",
        )
        found = datasets.load_dataset(place, chosen, revision=commit, streaming=True)
        require("train" in found, f"{self.name} must have a train split, got {', '.join(map(str, found))}")
        ours: dict[str, Any] = {}
        for theirs, split in SPLITS.items():
            if theirs in found:
                ours.setdefault(split, found[theirs])
        unread = [str(theirs) for theirs in found if theirs not in SPLITS]
        if unread:
            log.warning("%s: splits not read: %s", self.repo_id, ", ".join(unread))
        return ours

    @cached_property
    def labels(self) -> Labels:
        """The column of labels, by its name or its type; plain values are read once and sorted."""
        import datasets

        features = self.splits["train"].features or {}
        kinds = {name: kind for name, kind in features.items() if not isinstance(kind, datasets.Image)}
        coded = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
        plain = [
            name
            for name, kind in kinds.items()
            if isinstance(kind, datasets.Value) and re.match("u?int|(large_)?string|bool", kind.dtype)
        ]
        named = [name for name in LABELS if name in (*coded, *plain)]
        column = next(iter([*named, *coded]), None)
        if column is None:
            if kinds:
                columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
                log.warning("%s: no labels, none of the columns is one: %s", self.repo_id, columns)
            return Labels(None, (), lambda value: -1)  # noqa: ARG005
        if column in coded:
            names = tuple(kinds[column].names)  # pyright: ignore[reportAttributeAccessIssue]
            return Labels(column, names, lambda value: -1 if value is None else int(value))
        values = {row[column] for data in self.splits.values() for row in data.select_columns([column])}
        known = sorted(value for value in values if _says(value))
        numbers = {value: y for y, value in enumerate(known)}
        return Labels(column, tuple(map(str, known)), lambda value: numbers.get(value, -1))

    def classes(self) -> tuple[str, ...]:
        with self._asked():
            return self.folder.classes() if self.folder else self.labels.names

    def count(self) -> int | None:
        with self._asked():
            if self.folder:
                return self.folder.count()
            known = [(data.info.splits or {}).get(str(data.split)) for data in self.splits.values()]
            return None if None in known else sum(split.num_examples for split in known if split)

    def pictures(self) -> Iterator[Encoded]:
        with self._asked():
            yield from self.folder.pictures() if self.folder else self._rows()

    def _rows(self) -> Iterator[Encoded]:
        import datasets
        import fsspec

        column, _, number = self.labels
        for split, data in self.splits.items():
            features = data.features or {}
            images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
            if not images:
                columns = ", ".join(f"{name} ({kind})" for name, kind in features.items())
                raise UsageError(f"{self.name} must have a column of images, got {columns or 'none'}")
            for row, example in enumerate(data.cast_column(images[0], datasets.Image(decode=False))):
                encoded = example[images[0]]
                require(
                    encoded is not None, f"row {row} of {split} of {self.name} must hold an image, got none"
                )
                content = encoded["bytes"]
                if content is None:
                    with fsspec.open(encoded["path"], "rb") as file:
                        content = file.read()  # pyright: ignore[reportAttributeAccessIssue]
                where = encoded["path"] or f"row {row} of {split}"
                yield Encoded(split, where, content, number(example[column]) if column else -1)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """What goes wrong between here and the Hub, in one line."""
        from datasets.data_files import EmptyDatasetError
        from datasets.exceptions import DatasetNotFoundError

        try:
            yield
        except EmptyDatasetError as error:
            raise UsageError(f"{self.repo_id} must hold data, got none") from error
        except (ConnectionError, http_error(), DatasetNotFoundError) as error:
            raise UsageError(_unread(self.repo_id, error)) from error


def _resolved(repo_id: str, revision: str) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{repo_id.replace('/', '--')}@{quote(revision, safe='')}.commit"
    seen = cache_root() / "data" / where
    try:
        found = str(huggingface_hub.HfApi().dataset_info(repo_id, revision=revision).sha)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UsageError(_unread(repo_id, error)) from error
    except (OSError, http_error()) as error:
        if not seen.is_file():
            raise UsageError(_unread(repo_id, error)) from error
        found = seen.read_text()
        log.warning(
            "%s: the Hub cannot be asked (%s), read as of commit %s, the last that %s was seen at",
            *(repo_id, type(error).__name__, found[:SHORT], revision),
        )
        return found
    write_bytes(seen, found.encode())
    return found


def _unread(repo_id: str, error: Exception) -> str:
    where = os.environ.get("ZOO_DATA") or "not set"
    return (
        f"{repo_id} is not under ZOO_DATA ({where}) and cannot be read from the Hub "
        f"({type(error).__name__}): set ZOO_DATA to a folder that holds {repo_id}, "
        "or go online and run `zoo data prepare NAME`"
    )


def _says(value: Any) -> bool:
    """Whether a value is a label: texts and numbers are, nothing and negative numbers are not."""
    return value is not None and (isinstance(value, str) or value >= 0)
