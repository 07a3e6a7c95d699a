"""Folders as people have them: which files are pictures, of which split, with which label."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.folders import FolderSource
from zoo.data.kept import cache_file
from zoo.data.sets import ImageFolder
from zoo.data.sources import Example
from zoo.errors import UsageError


def write(folder: Path, names: list[str], kind: str | None = None) -> None:
    """Pictures of one grey level each, that of their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for level, name in enumerate(names):
        Image.new("L", (4, 4), level).save(folder / name, kind)


def numbered(n: int, ending: str = "png", start: str = "") -> list[str]:
    return [f"{start}{i}.{ending}" for i in range(n)]


def read(folder: Path) -> tuple[FolderSource, list[Example]]:
    source = FolderSource(0, (4, 4), True, str(folder))
    return source, list(source.examples())


def counts(examples: list[Example]) -> dict[tuple[str, int], int]:
    """Pictures of each split and label."""
    keys = [(example.split, example.y) for example in examples]
    return {key: keys.count(key) for key in keys}


CASES = {
    "classes called bus, car and train": (
        {"bus": 3, "car": 3, "train": 3},
        {("train", 0): 3, ("train", 1): 3, ("train", 2): 3},
        ("bus", "car", "train"),
    ),
    "a class called test": ({"bus": 3, "test": 2}, {("train", 0): 3, ("train", 1): 2}, ("bus", "test")),
    "test and val without train": (
        {"test": 2, "val": 3},
        {("train", 0): 2, ("train", 1): 3},
        ("test", "val"),
    ),
    "train and test": ({"train": 4, "test": 2}, {("train", -1): 4, ("test", -1): 2}, ()),
    "train, val and test": (
        {"train": 4, "val": 3, "test": 2},
        {("train", -1): 4, ("val", -1): 3, ("test", -1): 2},
        (),
    ),
    "train and validation, with classes": (
        {"Train/a": 4, "Train/b": 2, "Validation/b": 3},
        {("train", 0): 4, ("train", 1): 2, ("val", 1): 3},
        ("a", "b"),
    ),
    "train alone": ({"train/a": 4, "train/b": 2}, {("train", 0): 4, ("train", 1): 2}, ("a", "b")),
    "a train below": ({"a/train": 4, "a/test": 2, "b": 1}, {("train", 0): 6, ("train", 1): 1}, ("a", "b")),
    "classes of other depths": (
        {"a": 1, "a/x/y": 2, "b/z": 3},
        {("train", 0): 3, ("train", 1): 3},
        ("a", "b"),
    ),
    "loose files beside classes": ({".": 2, "a": 3}, {("train", -1): 2, ("train", 0): 3}, ("a",)),
    "no classes": ({".": 5}, {("train", -1): 5}, ()),
    "a split that lies beside others": (
        {"train": 3, "test": 2, "more": 4},
        {("train", -1): 3, ("test", -1): 2},
        (),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_splits_and_labels_are_those_of_the_folders(case, tmp_path):
    layout, wanted, classes = CASES[case]
    for folder, n in layout.items():
        write(tmp_path / folder, numbered(n))
    source, found = read(tmp_path)
    assert counts(found) == wanted
    assert source.classes() == classes
    order = [("train", "val", "test").index(example.split) for example in found]
    assert order == sorted(order)


def test_words_of_splits_in_the_names_of_files_mean_nothing(tmp_path):
    write(tmp_path, [*numbered(20, start="photo-"), *numbered(5, start="train-"), "photo-test-1.png"])
    assert counts(read(tmp_path)[1]) == {("train", -1): 26}


def test_what_is_not_read_is_counted_and_said_in_one_line(tmp_path, caplog):
    write(tmp_path / "train", numbered(3))
    write(tmp_path / "test", numbered(1))
    write(tmp_path / "test/a", numbered(2))
    write(tmp_path / "extra", numbered(4))
    for name in ("a.heic", "b.HEIC", "notes.txt", "README"):
        (tmp_path / "train" / name).write_bytes(b"")
    (tmp_path / "train/gone.png").symlink_to("nowhere.png")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 6 pictures read; not read: 2 .heic, 1 .txt, 4 beside test, train, 1 broken link(s), "
        "1 without an ending; without a label, beside the folders of the labels: 4"
    ]
    (tmp_path / "other").mkdir()
    for name in ("a.heic", "b.heic"):
        (tmp_path / "other" / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"found none in .*, but 2 \.heic"):
        read(tmp_path / "other")


def test_nothing_is_said_where_all_is_read(tmp_path, caplog):
    write(tmp_path / "a", numbered(2))
    write(tmp_path / "b", numbered(2))
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert not caplog.records


def test_every_kind_that_pillow_reads_is_read_whatever_the_case_of_its_ending(tmp_path):
    kinds = {"a.avif": "AVIF", "b.WEBP": "WEBP", "c.Tiff": "TIFF", "d.jfif": "JPEG", "e.jp2": "JPEG2000"}
    kinds |= {"f.qoi": "QOI", "g.ico": "ICO", "h.GIF": "GIF", "i.tga": "TGA", "j.pcx": "PCX"}
    kinds |= {"k.apng": "PNG", "l.bmp": "BMP"}
    for name, kind in kinds.items():
        Image.new("L", (16, 16), 255).convert("RGB").save(tmp_path / name, kind)
    for name in ("film.mpg", "table.h5", "drawing.svg"):
        (tmp_path / name).write_bytes(b"no picture")
    source, found = read(tmp_path)
    assert len(found) == len(kinds)
    assert min(int(example.x.min()) for example in found) >= 250
    assert source.found.left_out == {".mpg": 1, ".h5": 1, ".svg": 1}


@pytest.mark.parametrize("name", ["set [1]", "a*b", "x::y", "wh?t", "a b", "{a,b}", "zip:a", "#1 100%"])
def test_a_name_is_no_pattern(name, tmp_path):
    for level, folder in enumerate((name, "set 1", "a,b", "what", "a", "b")):
        write(tmp_path / folder / name, ["x.png"] * (level == 0) or numbered(2))
    source, found = read(tmp_path / name)
    assert counts(found) == {("train", 0): 1}
    assert source.classes() == (name,)


def test_hidden_files_and_the_folders_of_runs_are_no_pictures(tmp_path, monkeypatch, caplog):
    write(tmp_path / "cats", numbered(3))
    write(tmp_path / "cats", ["._0.png"])
    write(tmp_path / ".thumbnails", numbered(3))
    run = tmp_path / "runs/vae-own/version_0"
    write(run, ["samples.png"])
    (run / "config.yaml").write_text("model: VAE\n")
    (run / "metrics.csv").write_text("epoch\n")
    write(tmp_path / "shelf/vae-digits", ["samples.png"])
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "shelf/vae-digits" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    source = ImageFolder(".", size=4).source
    before = cache_file(source)
    with caplog.at_level(logging.WARNING):
        assert counts(list(source.examples())) == {("train", 0): 3}
    write(tmp_path / "runs/vae-own/version_0", ["more.png"])
    assert cache_file(ImageFolder(".", size=4).source) == before
    with caplog.at_level(logging.WARNING):
        assert source.classes() == ("cats",)
    assert ".: 3 pictures read; not read: 2 earlier run(s)" in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", numbered(3))
    write(tmp_path / "own/dogs", numbered(2))
    (tmp_path / "own/cats").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/dogs/again").symlink_to(tmp_path / "own")
    (tmp_path / "own/pets").symlink_to(tmp_path / "own/dogs")
    source, found = read(tmp_path / "own")
    assert source.classes() == ("cats", "dogs", "pets")
    assert counts(found) == {("train", 0): 3, ("train", 1): 2, ("train", 2): 2}


def test_a_name_that_is_no_text_is_read_too(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write(folder, numbered(2))
    source, found = read(tmp_path)
    assert len(found) == 2
    assert source.classes() == (r"caf\xe9",)
    assert cache_file(source).name


def test_the_key_is_that_of_the_file_and_the_cache_of_the_pictures_alone(tmp_path):
    write(tmp_path / "a", numbered(2))
    source, found = read(tmp_path)
    assert len({example.key for example in found}) == 2
    before = cache_file(source)
    (tmp_path / "a/notes.txt").write_text("more")
    assert cache_file(FolderSource(0, (4, 4), True, str(tmp_path))) == before
    (tmp_path / "b").mkdir()
    (tmp_path / "a/0.png").rename(tmp_path / "b/0.png")
    moved, again = read(tmp_path)
    assert cache_file(moved) != before
    assert {example.key for example in again} == {example.key for example in found}
    assert all(np.array_equal(one.x, two.x) for one, two in zip(again[::-1], found, strict=True))


def test_pictures_that_may_be_transparent_are_named_in_the_protocol(tmp_path):
    write(tmp_path / "photos", numbered(12, "jpg"))
    assert "transparency" not in str(ImageFolder(str(tmp_path / "photos"), size=4).protocol)
    write(tmp_path / "photos", ["0.webp"])
    protocol = ImageFolder(str(tmp_path / "photos"), size=4, background="#808080").protocol
    assert ", transparency on #808080, " in str(protocol)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a", numbered(2))

    def denied(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UsageError, match="must be a folder that can be read: Permission denied"):
        read(tmp_path)
