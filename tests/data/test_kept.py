"""The file of converted images: what is written, what is read of it, and what a damaged one comes to."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.datasets import load_digits

from zoo.cache import content_hash
from zoo.cli.light import run
from zoo.data import kept, modules
from zoo.data.facts import Facts
from zoo.data.kept import ByteImages, cache_file, prepared
from zoo.data.modules import ImageData, Rows
from zoo.data.sources import Example, Source
from zoo.data.treatments import Noise, shrunk
from zoo.errors import UsageError

SPLITS = ("train", "val", "test")
HANDED_ON = {"train": 40, "val": 0, "test": 10}


@dataclass(frozen=True)
class Speckle(Source):
    """Made-up pictures of 3 x 9 pixels; the label is the row modulo 3."""

    sizes: tuple[int, int, int] = tuple(HANDED_ON.values())

    @property
    def name(self) -> str:
        return "speckle"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 3, 9)

    def fingerprint(self) -> str:
        return "speckle"

    def examples(self) -> Iterator[Example]:
        stream = np.random.default_rng(0)
        for split, n in zip(SPLITS, self.sizes, strict=True):
            for row in range(n):
                x = stream.integers(0, 256, self.image_shape, dtype=np.uint8)
                yield Example(split, x, row % 3, hashlib.sha256(x.tobytes()).digest())

    def classes(self) -> tuple[str, ...]:
        return ("ant", "bee", "caf\u00e9")


class SpeckleData(ImageData):
    """Images of `Speckle`."""

    sizes = tuple(HANDED_ON.values())
    facts = Facts("speckles", "speckles", "made-up pictures")

    @property
    def source(self) -> Source:
        return Speckle(0, self.sizes)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def from_file(monkeypatch):
    """Every set is a large one."""
    monkeypatch.setattr(kept, "IN_MEMORY", 0)


def test_the_file_is_safetensors_with_everything_of_the_source():
    source = Speckle(0, (7, 2, 3))
    stored = prepared(source)
    examples = list(source.examples())
    with safe_open(cache_file(source), "np") as file:
        written = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for images in (stored.images[:], torch.from_numpy(written["images"])):
        assert torch.equal(images, torch.from_numpy(np.stack([one.x for one in examples])))
    assert stored.labels.tolist() == [one.y for one in examples]
    assert [bytes(key) for key in stored.keys] == [one.key for one in examples]
    assert [SPLITS[code] for code in stored.splits] == [one.split for one in examples]
    assert stored.classes == source.classes()


def test_rows_come_from_the_file_as_from_memory(from_file):
    stored = prepared(Speckle(0))
    assert not isinstance(stored.images, torch.Tensor)
    everything = torch.from_numpy(np.stack([one.x for one in Speckle(0).examples()]))
    stream = torch.Generator().manual_seed(0)
    rows = torch.randperm(50, generator=stream)[:30]
    for shrink in (1, 3):
        disk, memory = (ByteImages(images, rows, shrink) for images in (stored.images, everything))
        assert disk.shape == memory.shape == (30, 1, 3 // shrink, 9 // shrink)
        for which in (slice(None), slice(0), slice(2, 4), torch.tensor([3, 0, 0, 1]), torch.tensor([2])):
            assert torch.equal(disk[which], memory[which])
            assert torch.equal(memory[which], shrunk(everything[rows[which]], shrink))
    assert content_hash(ByteImages(stored.images, torch.arange(50))) == content_hash(stored.images[:])


def test_a_file_of_another_time_is_compared_and_a_damaged_one_made_again(monkeypatch):
    source = Speckle(0)
    images = prepared(source).images
    path = cache_file(source)
    written, stamp = path.read_bytes(), path.stat().st_mtime_ns
    damaged = [written[:-7], written + b"\0", b"", b"not safetensors at all"]
    for position in (5, 60, kept.START, kept.START + 399, kept.START + 750, len(written) - 1):
        flipped = bytearray(written)
        flipped[position] ^= 4
        damaged.append(bytes(flipped))
    made = []
    convert = kept._convert
    monkeypatch.setattr(kept, "_convert", lambda *args: (made.append(args), convert(*args)))
    assert torch.equal(prepared(source).images, images)  # pyright: ignore
    assert not made
    assert path.stat().st_mtime_ns == stamp
    for content in damaged:
        path.write_bytes(content)
        again = prepared(source)
        assert torch.equal(again.images[:], images[:])
        assert again.labels.tolist() == [*range(3)] * 13 + [0] + [*range(3)] * 3 + [0]
        assert path.read_bytes()[kept.START :] == written[kept.START :]
    assert len(made) == len(damaged)
    assert not [other for other in path.parent.iterdir() if other != path]


def test_a_copied_file_is_read_in_full_once_and_kept(monkeypatch):
    source = Speckle(0)
    prepared(source)
    path = cache_file(source)
    stamp = path.stat().st_mtime_ns
    monkeypatch.setattr(kept, "_convert", lambda *_: pytest.fail("converted again"))
    os.utime(path, ns=(5, 5))
    prepared(source)
    assert path.stat().st_mtime_ns == stamp


def test_a_byte_that_rots_behind_the_time_of_the_file_is_found_in_full():
    source = Speckle(0)
    prepared(source)
    path = cache_file(source)
    written, stamp = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    right = written[kept.START + 20]
    written[kept.START + 20] ^= 1
    path.write_bytes(written)
    os.utime(path, ns=(stamp, stamp))
    assert int(prepared(source).images[:].flatten()[20]) == right ^ 1
    assert int(prepared(source, in_full=True).images[:].flatten()[20]) == right
    assert int(prepared(source).images[:].flatten()[20]) == right


def test_what_stops_a_conversion_leaves_nothing(monkeypatch):
    class Stopped(Speckle):
        def examples(self) -> Iterator[Example]:
            yield from list(super().examples())[:20]
            raise KeyboardInterrupt

    class Full(Speckle):
        def examples(self) -> Iterator[Example]:
            yield from list(super().examples())[:20]
            raise OSError(errno.ENOSPC, "No space left on device")

    class Wrong(Speckle):
        def examples(self) -> Iterator[Example]:
            yield Example("train", np.zeros((1, 3, 4), np.uint8), 0, bytes(32))

    class Empty(Speckle):
        def examples(self) -> Iterator[Example]:
            yield from ()

    for kind, error, line in (
        (Stopped, KeyboardInterrupt, None),
        (Full, OSError, "No space left on device"),
        (
            Wrong,
            UsageError,
            r"images of speckle must be bytes of shape \(1, 3, 9\), got uint8 of \(1, 3, 4\)",
        ),
        (Empty, UsageError, "speckle must hold training images, found none"),
    ):
        with pytest.raises(error, match=line):
            prepared(kind(0))
        assert not list(cache_file(kind(0)).parent.iterdir())


def test_a_full_disk_leaves_nothing_and_says_so():
    """A limit on the size of files stands for the disk."""
    source = Speckle(0, (4000, 0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepared(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(cache_file(source).parent.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"binarize": "fixed"},
        {"binarize": "threshold", "subset": 9},
        {"binarize": "none"},
        {"binarize": "none", "dequantize": True, "num_validation": 3},
        {"binarize": "pseudo", "whole": True},
    ],
)
def test_a_large_set_gives_what_a_small_one_gives(options, monkeypatch):
    """27 pixels: rows of an odd number of draws."""
    small = SpeckleData(**options)
    small.setup()
    monkeypatch.setattr(kept, "IN_MEMORY", 0)
    monkeypatch.setattr(kept, "PART", 3 * 27)
    large = SpeckleData(**options)
    large.setup()
    assert not large.images("train").in_memory
    assert large.test_hash() == small.test_hash()
    assert large.train_hash() == small.train_hash()
    assert torch.allclose(large.mean_image(), small.mean_image(), atol=1e-7)
    stream = np.random.default_rng(0)
    for split in SPLITS:
        n = len(small.labels(split))
        rows = torch.from_numpy(stream.permutation(n)[:17])
        assert torch.equal(large.originals(split), small.originals(split))
        for chosen in (rows, torch.arange(n), torch.arange(min(n, 4))):
            found = []
            for data in (large, small):
                torch.manual_seed(1)
                found.append(data.batch(Rows(split, chosen)))
            assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert torch.equal(large.split(split, 5).y, small.split(split).y[:5])


@pytest.mark.slow
def test_the_memory_of_a_fit_does_not_grow_with_the_number_of_pictures():
    """4 MB of pictures against 200 MB."""
    script = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "peak_of_a_fit.py")]
    runs = [
        subprocess.run([*script, str(n)], check=True, capture_output=True, text=True)
        for n in (4_000, 200_000)
    ]
    few, many = (int(run.stdout.split()[-1]) for run in runs)
    assert many < 1.1 * few


@pytest.mark.gpu
def test_a_large_set_lives_on_the_device_if_it_fits(from_file, monkeypatch):
    wanted = SpeckleData(binarize="none", dequantize=True).split("test").x
    for share, lives in ((0.5, True), (0.0, False)):
        monkeypatch.setattr(modules, "SHARE_OF_DEVICE", share)
        data = SpeckleData(binarize="none", dequantize=True)
        data.setup()
        batch = data.batch(Rows("test", torch.arange(10, device="cuda")))
        assert batch.x.is_cuda
        assert batch.y.is_cuda
        assert torch.equal(batch.x.cpu(), wanted)
        assert isinstance(data._splits["test"].x, torch.Tensor) == lives


def test_the_noise_of_rows_is_that_of_the_whole_array():
    """Odd and even numbers of pixels, neighbours and strangers, far from the start."""
    stream = np.random.default_rng(1)
    for size in (1, 2, 15, 64, 192):
        noise, whole = Noise([3, 2], size), np.random.default_rng([3, 2]).random((500, size), np.float32)
        for rows in (
            np.arange(500),
            np.arange(7, 90),
            stream.permutation(500),
            np.array([499]),
            np.array([]),
        ):
            assert np.array_equal(noise(rows.astype(int)), whole[rows.astype(int)])


def test_prepare_compares_every_byte_and_show_counts_classes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(["data", "prepare", "Digits"])
    path = next((tmp_path / "cache" / "data").glob("digits-*"))
    right, stamp = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(right[:-9000] + bytes([right[-9000] ^ 1]) + right[-8999:])
    os.utime(path, ns=(stamp, stamp))
    run(["data", "prepare", "Digits"])
    assert path.read_bytes()[kept.START :] == right[kept.START :]
    run(["data", "show", "Digits"])
    counts = np.bincount(load_digits().target[1438:])
    line = ", ".join(f"{label} {count}" for label, count in enumerate(counts))
    assert f"\ntest images of each class: {line}\n" in capsys.readouterr().out
