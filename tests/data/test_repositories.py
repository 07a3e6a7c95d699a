"""Tables of pictures in the Hub's layout under ZOO_DATA: splits, labels, configurations."""

import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from zoo.cli.light import run
from zoo.data.kept import cache_file
from zoo.data.sets import HubImages
from zoo.errors import UsageError

GREY = datasets.Features({"image": datasets.Image()})


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(root: Path, kind=None, place: str = "train.parquet", name: str = "label", labels=(2, 0, 1)) -> None:
    """A table of pictures, each of the grey level of its row, with a column of labels."""
    columns = {"image": [np.full((4, 4), row, np.uint8) for row in range(len(labels))]}
    features = GREY
    if kind is not None:
        columns[name] = list(labels)
        features = datasets.Features({**GREY, name: kind})
    path = root / "me/shapes" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def source(**options):
    return HubImages("me/shapes", size=4, grey=True, **options).source


def labels(**options) -> list[int]:
    return [example.y for example in source(**options).examples()]


COLUMNS = {
    "class labels": (
        datasets.ClassLabel(names=["a", "b", "c"]),
        (2, 0, 1, -1, None),
        [2, 0, 1, -1, -1],
        "abc",
    ),
    "integers": (datasets.Value("int64"), (2, 0, 1), [2, 0, 1], "012"),
    "integers with gaps": (datasets.Value("uint8"), (30, 7, 7, None), [1, 0, 0, -1], ["7", "30"]),
    "negative integers": (datasets.Value("int32"), (5, -1, 4), [1, -1, 0], "45"),
    "texts": (datasets.Value("string"), ("dog", "cat", None, "dog"), [1, 0, -1, 1], ["cat", "dog"]),
    "long texts": (datasets.Value("large_string"), ("b", "a"), [1, 0], "ab"),
    "truths": (datasets.Value("bool"), (True, False, True), [1, 0, 1], ["False", "True"]),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", ["label", "class"])
def test_labels_of_any_kind_are_read(column, name, root):
    kind, written, wanted, names = COLUMNS[column]
    write(root, kind, name=name, labels=written)
    assert labels() == wanted
    assert source().classes() == tuple(names)


def test_labels_are_the_same_in_every_split(root):
    for place, written in {"train": ("b", "c"), "validation": ("a",), "test": ("c", "d")}.items():
        write(root, datasets.Value("string"), f"{place}.parquet", labels=written)
    found = [(example.split, example.y) for example in source().examples()]
    assert found == [("train", 1), ("train", 2), ("val", 0), ("test", 2), ("test", 3)]
    assert source().classes() == ("a", "b", "c", "d")


def test_labels_that_are_none_are_said(root, caplog):
    write(root, datasets.Value("float32"), labels=(0.5, 1.5))
    with caplog.at_level(logging.WARNING):
        assert labels() == [-1, -1]
    assert "me/shapes: no labels, none of the columns is one: label (Value('float32'))" in caplog.text


def test_a_column_of_labels_by_its_name_comes_before_other_columns_of_classes(root):
    names = datasets.ClassLabel(names=["x", "y"])
    features = datasets.Features({**GREY, "vendor": names, "label": datasets.Value("string")})
    columns = {"image": [np.zeros((4, 4), np.uint8)] * 2, "vendor": [0, 0], "label": ["b", "a"]}
    (root / "me/shapes").mkdir(parents=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(root / "me/shapes/train.parquet")
    assert labels() == [1, 0]


def test_no_labels_and_splits_of_other_names_are_said(root, caplog):
    write(root)
    assert labels() == [-1, -1, -1]
    assert source().classes() == ()
    (root / "me/shapes/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.parquet}\n"
        "  - {split: more, path: more.parquet}\n---\n"
    )
    write(root, place="more.parquet")
    with caplog.at_level(logging.WARNING):
        assert len(labels()) == 3
    assert "me/shapes: splits not read: more" in caplog.text


def write_two(root: Path, large: int, small: int) -> None:
    """A data set of two configurations."""
    sizes = {"large": large, "small": small}
    for place, n in sizes.items():
        write(root, datasets.Value("int64"), f"{place}/train.parquet", labels=range(n))
    configs = "".join(f"- config_name: {one}\n  data_files: {one}/*.parquet\n" for one in sizes)
    (root / "me/shapes/README.md").write_text(f"---\nconfigs:\n{configs}---\n")


def test_a_configuration_is_chosen_by_name(root):
    write_two(root, 5, 2)
    with pytest.raises(UsageError, match=r"^name must choose a configuration of me/shapes: large, small$"):
        labels()
    with pytest.raises(UsageError, match="one of large, small, got 'middle'"):
        labels(name="middle")
    assert len(labels(name="large")) == 5
    assert len(labels(name="small")) == 2
    assert cache_file(source(name="large")) != cache_file(source(name="small"))
    data = HubImages("me/shapes", size=4, name="large")
    assert data.recipe()["init_args"]["name"] == "large"
    assert data.read_as == "large, transparency on white"


def test_a_configuration_is_an_option_of_the_verb_too(root, capsys):
    write_two(root, 12, 11)
    run(["data", "prepare", "HubImages", "--repo_id=me/shapes", "--name=large", "--background=black"])
    assert ", large, transparency on black, " in capsys.readouterr().out


def test_pictures_as_files_are_read_as_a_folder(root):
    for name in ("bus/a", "bus/train-1", "train/b", "test-1/c"):
        path = root / "me/files" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    (root / "me/files/README.md").write_text("pictures")
    found = HubImages("me/files", size=4).source
    assert [(example.split, example.y) for example in found.examples()] == [
        ("train", 0),
        ("train", 0),
        ("train", 1),
        ("train", 2),
    ]
    assert found.classes() == ("bus", "test-1", "train")


def test_what_has_no_pictures_is_said_with_its_columns(root):
    (root / "me/shapes").mkdir(parents=True)
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(root / "me/shapes/train.parquet")
    with pytest.raises(
        UsageError, match=r"must have a column of images, got text \(Value\('string'\)\), label"
    ):
        labels()
    (root / "me/empty").mkdir()
    with pytest.raises(UsageError, match="me/empty must hold data, got none"):
        list(HubImages("me/empty", size=4).source.examples())
    features = datasets.Features(GREY)
    table = datasets.Dataset.from_dict({"image": [np.zeros((4, 4), np.uint8), None]}, features=features)
    table.to_parquet(root / "me/shapes/train.parquet")
    with pytest.raises(UsageError, match="row 1 of train of shapes must hold an image, got none"):
        labels()


def test_a_root_that_datasets_would_read_as_a_pattern_is_refused(tmp_path, monkeypatch):
    (tmp_path / "set [1]/me/shapes").mkdir(parents=True)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "set [1]"))
    with pytest.raises(UsageError, match=r"ZOO_DATA must be a path without \[ \] \* \? and ::"):
        source().fingerprint()
