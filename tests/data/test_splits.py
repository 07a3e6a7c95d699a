"""Which images train, which validate and which test."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import Digits, ImageFolder
from zoo.data.splits import by_class, cut, numbers, quotas
from zoo.errors import UsageError

SPLITS = ("train", "val", "test")


def pictures(folder, n: int, start: int = 0) -> None:
    """Pictures of 4 x 4 whose first pixels are their number."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = np.random.default_rng(start)
    for i in range(start, start + n):
        array = stream.integers(0, 256, (4, 4), dtype=np.uint8)
        array[0, :2] = divmod(i, 256)
        Image.fromarray(array).save(folder / f"{i:04}.png")


def opened(folder, **options) -> ImageFolder:
    return ImageFolder(str(folder), size=4, grey=True, binarize="none", **options)


def sides(data: ImageFolder) -> dict[int, str]:
    """The split of every picture, by its number."""
    found = {}
    for split in SPLITS:
        first = data.originals(split)[:, 0, 0, :2].int()
        found |= dict.fromkeys((256 * first[:, 0] + first[:, 1]).tolist(), split)
    return found


def test_validation_images_are_of_every_class(tmp_path):
    """Own train and test folders, five classes: the last tenth was of the last class alone."""
    for label in range(5):
        pictures(tmp_path / "train" / str(label), 20, 100 * label)
        pictures(tmp_path / "test" / str(label), 4, 1000 + 100 * label)
    data = opened(tmp_path)
    assert [torch.bincount(data.labels(split), minlength=5).tolist() for split in SPLITS] == [
        [18] * 5,
        [2] * 5,
        [4] * 5,
    ]
    assert torch.bincount(opened(tmp_path, num_validation=20).labels("val")).tolist() == [4] * 5
    assert str(data.protocol).endswith(
        " 90/10/20 (validation held out by class, seed 0), transparency on white, real"
    )
    other = opened(tmp_path, draw_seed=1)
    assert sides(other) != sides(data)
    assert sides(opened(tmp_path)) == sides(data)
    none = opened(tmp_path, num_validation=0)
    assert str(none.protocol).endswith(" 100/0/20, transparency on white, real")
    few = opened(tmp_path, subset=40)
    assert len(few.labels("train").unique()) == 5  # its first 40 files are of two classes


def test_the_number_of_each_class_is_in_proportion_and_at_least_one():
    rows = [
        ([20, 20, 20], 6, [2, 2, 2]),
        ([50, 30, 20], 10, [5, 3, 2]),
        ([97, 2, 1], 10, [9, 1, 0]),
        ([97, 2, 1], 1, [1, 0, 0]),
        ([2, 2, 2], 5, [2, 2, 1]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([5], 0, [0]),
        ([3, 3, 3, 91], 10, [1, 1, 1, 7]),
    ]
    for sizes, total, expected in rows:
        assert quotas(np.array(sizes), total).tolist() == expected
    stream = np.random.default_rng(0)
    for _ in range(200):
        sizes = stream.integers(1, 30, stream.integers(1, 9))
        total = int(stream.integers(0, sizes.sum()))
        quota = quotas(sizes, total)
        assert quota.sum() == total
        assert ((quota >= 0) & (quota <= sizes)).all()
        assert total < (sizes > 1).sum() or (quota[sizes > 1] >= 1).all()
    chosen = by_class(np.array([3, 3, -1, 3, -1, 3]), 2)
    assert chosen.tolist() == [True, False, True, False, False, False]


def test_own_validation_images_are_used(tmp_path):
    keys, splits = np.arange(60, dtype=np.uint8)[:, None].repeat(32, 1), np.repeat([0, 1, 2], 20)
    options = {"in_order": False, "seed": 0}
    own = cut("p", splits, np.zeros(60), keys, num_validation=None, **options)
    assert [sorted(own.train), sorted(own.val), sorted(own.test)] == [
        list(range(20)),
        list(range(20, 40)),
        list(range(40, 60)),
    ]
    assert own.held_out == ""
    everything = cut("p", splits, np.zeros(60), keys, num_validation=0, **options)
    assert sorted(everything.train) == list(range(40))
    assert len(everything.val) == 0
    line = "num_validation must be left out, or 0, where the source has validation images: p has 20, got 5"
    with pytest.raises(UsageError, match=f"^{line}$"):
        cut("p", splits, np.zeros(60), keys, num_validation=5, **options)
    without = cut("p", splits[:40], np.zeros(40), keys[:40], num_validation=None, **options)
    assert sorted(without.val) == list(range(20, 40))
    assert 1 <= len(without.test) < 10
    assert without.held_out == "test held out by content, seed 0"


def test_a_picture_that_comes_or_goes_moves_no_other(tmp_path):
    pictures(tmp_path, 300)
    before = sides(opened(tmp_path))
    counts = [list(before.values()).count(split) for split in SPLITS]
    assert all(abs(count - 30) < 4 * 30**0.5 for count in counts[1:])
    (tmp_path / "0007.png").unlink()
    pictures(tmp_path, 5, 1000)
    after = sides(opened(tmp_path))
    assert {number: side for number, side in after.items() if number < 1000} == {
        number: side for number, side in before.items() if number != 7
    }
    assert "(held out by content, seed 0)" in str(opened(tmp_path).protocol)
    (tmp_path / "class").mkdir()
    for path in list(tmp_path.glob("*.png")):
        path.rename(tmp_path / "class" / f"renamed {path.name}")
    assert sides(opened(tmp_path)) == after


def test_copies_of_a_picture_stay_together(tmp_path):
    pictures(tmp_path, 60)
    for path in list(tmp_path.glob("*.png")):
        (tmp_path / f"copy of {path.name}").write_bytes(path.read_bytes())
    data = opened(tmp_path)
    seen = [set(map(bytes, data.originals(split).flatten(1).numpy())) for split in SPLITS]
    assert sum(len(part) for part in seen) == len(set().union(*seen)) == 60


@pytest.mark.parametrize("n", [3, 4, 10])
def test_a_few_pictures_leave_one_for_each_side(n, tmp_path):
    pictures(tmp_path, n)
    for seed in range(8):
        sizes = opened(tmp_path, draw_seed=seed).protocol.sizes
        assert min(sizes) >= 1
        assert sum(sizes) == n


def test_the_share_that_tests_is_a_tenth_of_any_pictures():
    keys = np.random.default_rng(0).integers(0, 256, (20_000, 32), dtype=np.uint8)
    number = numbers(keys, 0)
    assert abs((number < 0.1).mean() - 0.1) < 4 * (0.09 / 20_000) ** 0.5
    both = (number < 0.1) & (numbers(keys, 1) < 0.1)
    assert abs(both.mean() - 0.01) < 4 * (0.01 / 20_000) ** 0.5
    one = cut("p", np.zeros(20_000), np.zeros(20_000), keys, in_order=False, num_validation=500, seed=0)
    assert len(one.val) == 500
    assert set(one.test) == set(np.flatnonzero(number < 0.1))


def test_where_the_order_is_the_protocol_the_tail_validates():
    cuts = Digits().cut
    assert cuts.train.tolist() == list(range(1295))
    assert cuts.val.tolist() == list(range(1295, 1438))
    assert cuts.test.tolist() == list(range(1438, 1797))


def test_the_hash_of_what_is_learned_moves_with_images_labels_and_order(tmp_path):
    pictures(tmp_path / "a" / "cats", 20)
    pictures(tmp_path / "a" / "dogs", 20, 100)
    pictures(tmp_path / "b" / "cats", 40)
    first = opened(tmp_path / "a").train_hash()
    assert first == opened(tmp_path / "a").train_hash()
    others = [opened(tmp_path / "a", **{key: 3}) for key in ("draw_seed", "subset", "num_validation")]
    assert len({first, opened(tmp_path / "b").train_hash(), *(one.train_hash() for one in others)}) == 5
    assert Digits().train_hash() == Digits(binarize="none", labelled=10).train_hash()


def test_classes_are_counted_and_missing_ones_said(tmp_path, caplog):
    pictures(tmp_path / "train" / "ants", 12)
    pictures(tmp_path / "train" / "bees", 1, 100)
    pictures(tmp_path / "test" / "ants", 3, 200)
    data = opened(tmp_path)
    with caplog.at_level(logging.WARNING):
        data.setup()
    name = data.source.name
    assert caplog.messages == [f"{name} has no val images of bees", f"{name} has no test images of bees"]
    assert data.present("train") == {"ants": 11, "bees": 1}
    assert data.present("test") == {"ants": 3}
    assert Digits().present("test") == {
        str(label): count for label, count in enumerate(torch.bincount(Digits().labels("test")).tolist())
    }
