"""Own pictures are never taken for a data set whose name they bear, nor for other pictures of their name."""

import numpy as np
import pytest
from PIL import Image
from support import tiny

from zoo.data import Digits, HubImages, ImageFolder, facts_of
from zoo.errors import UsageError
from zoo.leaderboard.table import Entrant, boards
from zoo.scores.classifiers import extractor, own_features, ready
from zoo.scores.results import Number, Protocol
from zoo.scores.sections import MEASURES


def noise(folder, seed: int, n: int = 40, classes: int = 1) -> str:
    stream = np.random.default_rng(seed)
    for i in range(n):
        place = folder / str(i % classes) if classes > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stream.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}.png")
    return str(folder)


def test_noise_in_a_folder_called_digits_is_not_the_digits(tmp_path):
    """It was scored by the digits' classifier, under the digits' protocol."""
    data = ImageFolder(noise(tmp_path / "digits", 0), size=8, grey=True)
    assert ready(Digits()) is not None
    assert ready(data) is None
    with pytest.raises(UsageError, match=r"^no features for own:digits@[0-9a-f]{8} 1x8x8: .* there are none"):
        extractor(data)
    assert data.protocol.images.startswith("own:digits@")
    assert Digits().protocol.images == "digits 1x8x8"
    assert data.protocol.written()["name"] == data.facts.called == "own:digits"
    assert data.facts.outliers is None


def test_labelled_noise_called_digits_has_a_classifier_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.scores.classifiers.MANY_EPOCHS", 8)
    data = ImageFolder(noise(tmp_path / "digits", 1, classes=2), size=8, grey=True)
    assert own_features(data).name.startswith("own:digits-cnn-128@")
    assert extractor(data).num_classes == 2


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    first, second = (noise(tmp_path / str(seed) / "photos", seed) for seed in (0, 1))
    one, again = (ImageFolder(first, size=8, grey=True, binarize=how) for how in ("none", "dynamic"))
    other = ImageFolder(second, size=8, grey=True)
    assert one.protocol.images == again.protocol.images, "whatever is done to the pixels"
    assert one.protocol.images != other.protocol.images
    assert one.protocol != other.protocol
    assert one.protocol.short == "own:photos 31/4/5, real"
    side, unit = MEASURES["fid"].side, MEASURES["fid"].unit
    entrants = [
        Entrant(
            slug,
            "VAE",
            data.protocol.name,
            {"test/fid": Number(1.0, unit, side, Protocol(data.protocol.images, "4 samples"))},
            {},
            {},
        )
        for slug, data in {"a": one, "b": again, "c": other, "digits": Digits()}.items()
    ]
    ranked = [sorted(entry.slug for entry in board.entries) for board in boards(entrants, metric="fid")]
    assert sorted(ranked) == [["a", "b"], ["c"], ["digits"]]


def test_a_repository_of_the_hub_goes_by_its_whole_name(mnist_mirror, monkeypatch):
    """`someone/mnist` was MNIST."""
    monkeypatch.setenv("ZOO_DATA", str(mnist_mirror))
    (mnist_mirror / "someone").mkdir(exist_ok=True)
    if not (mnist_mirror / "someone/mnist").exists():
        (mnist_mirror / "someone/mnist").symlink_to(mnist_mirror / "ylecun/mnist")
    data = HubImages("someone/mnist", size=28, grey=True)
    assert str(data.protocol).startswith("someone/mnist 1x28x28 ")
    assert data.facts.called == "someone/mnist"
    assert ready(data) is None
    assert facts_of(data.recipe()).full_name == "someone/mnist"


def test_own_pictures_are_grey_levels_unless_asked_for_bits(tmp_path, mnist_mirror, monkeypatch):
    """Colour pictures were binarised, each channel by itself."""
    monkeypatch.setenv("ZOO_DATA", str(mnist_mirror))
    path = noise(tmp_path / "photos", 0)
    for data in (ImageFolder(path, size=8), HubImages("iamcal/emoji", size=8)):
        assert data.pixels == "real"
        assert len(data.split("test").x.unique()) > 2
    assert ImageFolder(path, size=8, binarize="dynamic").pixels == "binary"
    line = (
        "RBM needs binary pixels, the data are real: set --data.binarize=dynamic, or the model's likelihood"
    )
    with pytest.raises(UsageError, match=line):
        tiny("RBM", (3, 8, 8)).refuse_unsuitable(ImageFolder(path, size=8))
    deq = "set --data.binarize=none --data.dequantize=true, or the model's likelihood$"
    with pytest.raises(UsageError, match=deq):
        tiny("VAE", likelihood="gaussian_learned").refuse_unsuitable(Digits())
