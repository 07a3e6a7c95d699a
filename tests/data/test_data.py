"""The data modules: protocols, draws, cache, folders, mirrors, sharding."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.data import DistributedSampler

from zoo.data.kept import prepared
from zoo.data.modules import EVAL_BATCH, Rows
from zoo.data.sets import MNIST, Digits, HubImages, ImageFolder
from zoo.errors import UsageError

SPLITS = ("train", "val", "test")


def write_hub_layout(
    root: Path, n_train: int = 30, n_test: int | None = 12, repo: str = "someone/shapes"
) -> None:
    """A parquet repository as the Hub has it: images and labels, train and test."""
    stream = np.random.default_rng(0)
    for split, n in {"train": n_train, "test": n_test}.items():
        if n is None:
            continue
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
        pictures = [Image.fromarray(stream.integers(0, 256, (9, 7), dtype=np.uint8)) for _ in range(n)]
        table = datasets.Dataset.from_dict(
            {"image": pictures, "label": [i % 3 for i in range(n)]}, features=features
        )
        (root / repo / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(root / repo / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "mirror"
    write_hub_layout(root)
    monkeypatch.setenv("ZOO_DATA", str(root))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return root


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Real-world mess: sizes, modes and formats differ; subfolders are labels."""
    stream = np.random.default_rng(0)
    for i, (mode, size) in enumerate(
        [("RGB", (40, 30)), ("L", (17, 60)), ("RGBA", (64, 64)), ("P", (33, 32))] * 8
    ):
        folder = tmp_path / "pictures" / ("cats", "dogs")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        array = stream.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(array).convert(mode).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_digits_are_the_real_ones_split_without_overlap(digits):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    grey = Digits(binarize="none")
    parts = [grey.split(name) for name in SPLITS]
    assert [len(part.y) for part in parts] == [1295, 143, 359]
    together = torch.cat([part.x for part in parts]).flatten(1)
    assert torch.equal((together * 16).round(), torch.from_numpy(x).float())
    assert torch.equal(torch.cat([part.y for part in parts]), torch.from_numpy(y).long())


def test_batches_are_float_images_with_labels_and_rows(digits):
    batch = digits.batch(Rows("train", torch.tensor([3, 1, 4])))
    assert batch.x.shape == (3, 1, 8, 8)
    assert batch.x.dtype == torch.float32
    assert set(batch.x.unique().tolist()) == {0.0, 1.0}
    assert batch.row.tolist() == [3, 1, 4]
    assert batch.y.tolist() == [3, 1, 4]


def test_dynamic_pixels_are_redrawn_in_training_and_drawn_once_for_the_test(digits):
    first, second = digits.split("train").x, digits.split("train").x
    assert not torch.equal(first, second)
    for name in ("val", "test"):
        assert torch.equal(digits.split(name).x, digits.split(name).x)
        assert torch.equal(digits.split(name).x, Digits().split(name).x)
    assert digits.test_hash() == Digits().test_hash()
    assert digits.test_hash() != Digits(draw_seed=1).test_hash()


def test_the_stored_draw_never_changes():
    """The hash that stands in published results."""
    assert Digits().test_hash() == "9ed4de6332c3d537d6bf737f586a59e62d1487064f8ce82b623c47aa63348034"


def test_dynamic_pixels_have_the_grey_levels_as_probabilities(digits):
    grey = Digits(binarize="none").split("train").x
    draws = torch.stack([digits.split("train").x for _ in range(400)]).mean(0)
    error = (draws - grey) / (grey * (1 - grey) / 400).sqrt().clamp(min=1e-9)
    inside = (grey > 0) & (grey < 1)
    assert error[inside].square().mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(draws[~inside], grey[~inside])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"binarize": "none"}, "real"),
        ({"binarize": "fixed"}, "binary"),
        ({"binarize": "threshold"}, "binary"),
        ({"binarize": "none", "dequantize": True}, "deq"),
    ],
)
def test_protocols_that_draw_nothing_or_once(options, kind):
    data = Digits(**options)
    assert data.pixels == kind
    assert data.split("test").x.equal(data.split("test").x)
    redrawn = not data.split("train").x.equal(data.split("train").x)
    assert redrawn == (kind == "deq")
    assert kind != "binary" or set(data.split("train").x.unique().tolist()) == {0.0, 1.0}
    assert str(data.protocol).startswith("digits 1x8x8 1295/143/359, ")
    assert {"real": "real", "deq": "deq", "binary": options["binarize"]}[kind] in str(data.protocol)


def test_dithering_adds_less_than_a_grey_level():
    grey, dithered = Digits(binarize="none"), Digits(binarize="none", dequantize=True)
    for name in SPLITS:
        noise = dithered.split(name).x * 256 - grey.split(name).x * 255
        assert noise.min() >= -1e-4
        assert noise.max() <= 1 + 1e-4
        assert noise.mean().item() == pytest.approx(0.5, abs=0.01)


def test_mean_image_is_that_of_the_training_pixels(digits):
    assert torch.allclose(digits.mean_image(), Digits(binarize="none").split("train").x.mean(0), atol=1e-6)
    bits = Digits(binarize="threshold")
    assert torch.allclose(bits.mean_image(), bits.split("train").x.mean(0), atol=1e-6)


def test_subset_pad_and_validation_size():
    data = Digits(subset=100, pad=2, num_validation=37, binarize="none")
    assert data.image_shape == (1, 12, 12)
    assert [len(data.split(name).y) for name in SPLITS] == [100, 37, 359]
    x = data.split("train").x
    assert x[..., :2, :].sum() == x[..., -2:].sum() == 0
    whole = Digits(num_validation=37, binarize="none")
    assert torch.equal(x[..., 2:-2, 2:-2], whole.split("train").x[:100])
    assert torch.equal(data.split("test").x[..., 2:-2, 2:-2], whole.split("test").x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dequantize": True}, "dequantize needs binarize: none, got binarize: dynamic"),
        ({"pad": -1}, "pad must not be negative, got -1"),
        ({"subset": 0}, "subset must be at least 1, got 0"),
        ({"num_validation": -1}, "num_validation must not be negative, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"draw_seed": -1}, "draw_seed must not be negative, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Digits(**options)


def test_validation_cannot_take_everything():
    with pytest.raises(UsageError, match="num_validation must be below the 1438 training images"):
        Digits(num_validation=5000).setup()


def test_no_validation_images_leave_all_for_training():
    data = Digits(num_validation=0, binarize="none")
    assert [len(data.split(name).y) for name in SPLITS] == [1438, 0, 359]
    assert str(data.protocol) == "digits 1x8x8 1438/0/359, real"
    assert data.val_dataloader() == []
    parts = [Digits(binarize="none").split(name).x for name in ("train", "val")]
    assert torch.equal(data.split("train").x, torch.cat(parts))
    assert data.test_hash() == Digits(binarize="none").test_hash()


def test_hub_layout_under_zoo_data_is_found_before_the_hub(mirror):
    data = HubImages("someone/shapes", size=(9, 7), grey=True, binarize="none")
    assert data.image_shape == (1, 9, 7)
    stored = datasets.load_dataset(str(mirror / "someone/shapes"), split="test", streaming=True)
    images = torch.stack([torch.from_numpy(np.array(example["image"])) for example in stored])
    found = (data.split("test").x[:, 0] * 255).round().byte()
    same = (found[:, None] == images).flatten(2).all(2)
    assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * 12
    assert [len(data.split(name).y) for name in SPLITS] == [27, 3, 12]
    assert torch.equal(data.split("test").y, same.byte().argmax(1) % 3)


def test_missing_data_say_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=r"ylecun/mnist is not under ZOO_DATA .* set ZOO_DATA to a folder"):
        MNIST().prepare_data()
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="ZOO_DATA must name a folder"):
        MNIST().prepare_data()


def test_a_folder_of_mixed_pictures(pictures):
    data = ImageFolder(str(pictures), size=(12, 16), binarize="none")
    assert data.image_shape == (3, 12, 16)
    sizes = [len(data.split(name).y) for name in SPLITS]
    assert sum(sizes) == 32
    assert min(sizes) >= 1
    assert set(data.split("train").y.tolist()) == {0, 1}
    assert ImageFolder(str(pictures), size=8, grey=True).split("train").x.shape[1:] == (1, 8, 8)


def test_a_folder_without_labels_has_label_minus_one(tmp_path):
    for i in range(12):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    assert set(ImageFolder(str(tmp_path), size=8).split("train").y.tolist()) == {-1}


def test_what_is_no_image_is_named(pictures, tmp_path):
    (pictures / "cats" / "letter.png").write_text("dear reader")
    with pytest.raises(UsageError, match=r"letter\.png of pictures must be an image that Pillow can read"):
        ImageFolder(str(pictures)).setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="path must hold images"):
        ImageFolder(str(tmp_path / "empty")).setup()
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(deep / "x.png")
    with pytest.raises(UsageError, match="must have 8 bits per channel, got mode I;16"):
        ImageFolder(str(deep)).setup()


def rows_of(loader) -> list[list[int]]:
    return [batch.row.tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_training_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        torch.manual_seed(seed)
        loader = Digits().train_dataloader()
        assert isinstance(loader.sampler, DistributedSampler)
        loader.sampler.set_epoch(epoch)
        return rows_of(loader)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(flat(order(0, 0))) == list(range(1295))


def test_iterating_takes_nothing_from_the_global_stream(digits):
    torch.manual_seed(3)
    loaders = [digits.train_dataloader(), digits.val_dataloader(), digits.test_dataloader()]
    before = torch.get_rng_state()
    for loader in loaders:
        rows_of(loader)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("world", [2, 3])
def test_two_processes_share_the_rows(world, monkeypatch):
    n = 3 * EVAL_BATCH + 17
    seen: dict[str, list[int]] = {"train": [], "test": []}
    whole = []
    for rank in range(world):
        data = Digits()
        data.setup()
        data._splits = {
            name: type(p)(p.x[:1].expand(n, -1, -1, -1), p.y[:1].expand(n))
            for name, p in data._splits.items()
        }
        data.trainer = Trainer(
            logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
        )
        monkeypatch.setattr(type(data.trainer), "world_size", world)
        monkeypatch.setattr(type(data.trainer), "global_rank", rank)
        torch.manual_seed(0)
        seen["train"] += flat(rows_of(data.train_dataloader()))
        batches = rows_of(data.test_dataloader())
        whole += batches
        seen["test"] += flat(batches)
    assert set(seen["train"]) == set(range(n))
    assert len(seen["train"]) - n < world
    assert sorted(seen["test"]) == list(range(n))
    assert sorted(map(tuple, whole)) == sorted(
        map(tuple, torch.arange(n).split(EVAL_BATCH)), key=lambda rows: int(rows[0])
    )


@pytest.mark.data
def test_mnist_has_the_protocol_split_and_loads_quickly():
    import time

    data = MNIST()
    data.setup()
    assert str(data.protocol) == "mnist 1x28x28 50k/10k/10k, dynamic (test drawn once, seed 0)"
    assert data.mean_image().mean().item() == pytest.approx(0.13, abs=0.005)
    began = time.perf_counter()
    prepared(data.source)
    assert time.perf_counter() - began < 1
    whole = MNIST(num_validation=0, binarize="none")
    assert str(whole.protocol) == "mnist 1x28x28 60k/0/10k, real"
