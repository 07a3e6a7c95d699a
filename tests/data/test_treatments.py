"""What a data module does to images and labels: each treatment is in the protocol and in the recipe."""

import math
import re

import pytest
import torch
from lightning.pytorch import Trainer
from support import tiny

from zoo.data import Digits, Rows, SwissRoll, from_recipe
from zoo.data.treatments import bags, balanced, shrunk
from zoo.errors import UsageError
from zoo.scores.evaluation import Evaluator
from zoo.scores.sections import MEASURES, likelihood

TREATED = [
    ({"binarize": "pseudo"}, "digits 1x8x8 1295/143/359, pseudo (grey levels as Bernoulli targets)"),
    ({"binarize": "none", "shrink": 2}, "digits 1x4x4 (2x2 means) 1295/143/359, real"),
    ({"binarize": "none", "shrink": 5, "pad": 1}, "digits 1x2x2 (5x5 means) 1295/143/359, real"),
    ({"binarize": "none", "whole": True}, "digits 1x8x8 whole 1797/0/1797, real"),
    ({"binarize": "none", "labelled": 20}, "digits 1x8x8 1295/143/359, real, 20 labels, seed 0"),
    ({"binarize": "none", "bag_size": 15}, "digits 1x8x8 1295/143/359, real, bags of 15, seed 0"),
]


@pytest.mark.parametrize(("options", "sentence"), TREATED)
def test_every_treatment_stands_in_the_protocol_and_the_recipe(options, sentence):
    data = Digits(**options)
    assert str(data.protocol) == str(data.stated) == sentence
    recipe = data.recipe()
    assert options.items() <= recipe["init_args"].items()
    again = from_recipe(recipe)
    assert again.protocol == data.protocol
    assert again.test_hash() == data.test_hash()
    assert torch.equal(again.split("train").y, data.split("train").y)


def test_a_recipe_does_not_name_what_is_not_used():
    assert list(Digits().recipe()["init_args"]) == [
        "binarize",
        "dequantize",
        "pad",
        "subset",
        "num_validation",
        "batch_size",
        "draw_seed",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"shrink": 0}, "shrink must be at least 1, got 0"),
        ({"shrink": 3}, "shrink must divide the sides of images of 8 x 8, got 3"),
        ({"labelled": 0}, "labelled must be at least 1, got 0"),
        ({"labelled": 55}, "labelled must be a multiple of the 10 classes, got 55"),
        ({"bag_size": 0}, "bag_size must be at least 1, got 0"),
        ({"whole": True, "subset": 9}, "whole takes all images for training and test, got subset: 9"),
        (
            {"whole": True, "num_validation": 9},
            "whole takes all images for training and test, got num_validation: 9",
        ),
        (
            {"binarize": "pseudo", "dequantize": True},
            "dequantize needs binarize: none, got binarize: pseudo",
        ),
    ],
)
def test_a_mistake_is_one_line(options, line):
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        Digits(**options).protocol  # noqa: B018


def test_a_class_must_have_as_many_images_as_labels_are_asked_for():
    line = "labelled must leave every class enough images, class 2 has 3 of 4"
    with pytest.raises(UsageError, match=f"^{line}$"):
        balanced(torch.tensor([1] * 4 + [2] * 3), 8, 0)


# --- shrink


def test_shrunk_pixels_are_means_rounded_half_up():
    x = torch.tensor([[0, 1, 10, 20], [1, 0, 30, 41], [255, 255, 0, 0], [255, 254, 0, 1]], dtype=torch.uint8)
    expected = torch.tensor([[1, 25], [255, 0]], dtype=torch.uint8)  # of .5, 25.25, 254.75, .25
    assert torch.equal(shrunk(x[None, None], 2), expected[None, None])
    x = torch.randint(256, (5, 3, 6, 9), dtype=torch.uint8)
    means = torch.nn.functional.avg_pool2d(x.double(), 3)
    assert torch.equal(shrunk(x, 3), (means + 0.5).floor().byte())


def test_shrinking_comes_before_what_is_drawn():
    grey = Digits(binarize="none", shrink=2).originals("test")
    drawn = Digits(binarize="threshold", shrink=2).split("test").x
    assert torch.equal(drawn, (grey > 127).float())
    assert torch.equal(grey, shrunk(Digits().originals("test"), 2))


# --- pseudo


def test_pseudo_pixels_are_the_grey_levels_at_every_visit():
    pseudo, grey = Digits(binarize="pseudo"), Digits(binarize="none")
    assert (pseudo.pixels, grey.pixels) == ("pseudo", "real")
    for name in ("train", "val", "test"):
        assert torch.equal(pseudo.split(name).x, grey.split(name).x)
    assert torch.equal(pseudo.mean_image(), grey.mean_image())
    assert torch.equal(pseudo.batch(Rows("train", torch.arange(3))).x, grey.split("train").x[:3])


def test_only_a_bernoulli_likelihood_takes_them():
    for method in (tiny("VAE"), tiny("IWAE")):
        method.refuse_unsuitable(Digits(binarize="pseudo"))
    for method in (tiny("RBM"), tiny("PCA"), tiny("VAE", likelihood="gaussian_learned")):
        with pytest.raises(UsageError, match="the data are pseudo"):
            method.refuse_unsuitable(Digits(binarize="pseudo"))


def scored(data: Digits, metrics: list[str], method=None):
    """The results of a small method on the test split."""
    evaluator = Evaluator(num_samples=5, num_images=200, metrics=metrics)
    trainer = Trainer(
        logger=False,
        callbacks=[evaluator],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        accelerator="cpu",
    )
    trainer.test(method or tiny("VAE"), datamodule=data, verbose=False)
    assert evaluator.results is not None
    return evaluator.results


@pytest.fixture
def _in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_in")
def test_a_score_of_pseudo_pixels_has_its_own_name_on_every_row(monkeypatch):
    monkeypatch.setattr(likelihood, "AIS_STEPS", 3)
    pseudo = scored(Digits(binarize="pseudo"), ["log_prob", "reconstruction", "ais"]).numbers
    assert {key.removeprefix("test/") for key in pseudo} == {
        "bernoulli_score",
        "bernoulli_elbo",
        "bernoulli_distortion",
        "bernoulli_ais",
        "ais_ess_median",
        "ais_less_bound",
        "rate",
        "ess_median",
        "ess_below_10",
        "reconstruction_error",
        "reconstruction_psnr",
    }
    assert {pseudo[f"test/bernoulli_{name}"].side.value for name in ("score", "elbo", "ais")} == {"~"}
    assert all(
        "pseudo (grey levels as Bernoulli targets)" in str(number.protocol) for number in pseudo.values()
    )
    assert MEASURES["bernoulli_score"].better == "higher"


@pytest.mark.usefixtures("_in")
def test_the_score_is_the_cross_entropy_of_the_grey_levels():
    """A decoder that says one half of every pixel and a posterior that is the prior: the value is known."""
    method = tiny("VAE")
    for parameter in method.parameters():
        parameter.data.zero_()
    number = scored(Digits(binarize="pseudo"), ["log_prob"], method).numbers["test/bernoulli_score"]
    assert number.value == pytest.approx(-64 * math.log(2), rel=1e-6)
    assert number.unit == "nats/image"


# --- labelled


def test_as_many_labels_of_each_class_stay_by_the_seed():
    data = Digits(binarize="none", labelled=50)
    y, truth = data.split("train").y, data.labels("train")
    kept = y >= 0
    assert y[kept].bincount().tolist() == [5] * 10
    assert torch.equal(y[kept], truth[kept])
    assert torch.equal(truth, Digits(binarize="none").split("train").y)
    rows = torch.arange(1295)
    assert torch.equal(data.batch(Rows("train", rows)).y, y)
    for name in ("val", "test"):
        assert torch.equal(data.split(name).y, data.labels(name))
    assert torch.equal(y, Digits(binarize="none", labelled=50).split("train").y)
    assert not torch.equal(y, Digits(binarize="none", labelled=50, draw_seed=1).split("train").y)
    assert data.test_hash() == Digits(binarize="none").test_hash()


def test_rows_of_a_class_are_equally_likely_to_keep_their_label():
    y = torch.arange(40) % 4
    kept = torch.stack([balanced(y, 8, seed) >= 0 for seed in range(500)]).double().mean(0)
    assert (kept - 0.2).abs().max() < 5 * math.sqrt(0.2 * 0.8 / 500)


def test_labels_cannot_be_withheld_where_there_are_none():
    with pytest.raises(UsageError, match="labelled needs labels, got 10 of data without any"):
        SwissRoll(labelled=10).setup()


def test_a_method_that_needs_every_label_says_so():
    with pytest.raises(UsageError, match="every image needs a label between 0 and 9, got -1"):
        tiny("LabelDBN").start_from(Digits(labelled=10))


@pytest.mark.usefixtures("_in")
def test_probes_read_all_labels_whatever_the_method_was_shown():
    few, all_ = (
        scored(data, ["codes", "clusters"], tiny("VAE")).numbers for data in (Digits(labelled=10), Digits())
    )
    assert {key: number.value for key, number in few.items()} == {key: n.value for key, n in all_.items()}
    assert all(", 10 labels, seed 0" in str(number.protocol) for number in few.values())


# --- whole


def test_whole_trains_and_tests_on_all_images_in_their_order():
    data, parts = Digits(binarize="none", whole=True), Digits(binarize="none", num_validation=0)
    every = torch.cat([parts.split(name).x for name in ("train", "test")])
    assert torch.equal(data.split("train").x, every)
    assert torch.equal(data.split("test").x, every)
    assert torch.equal(data.labels("train"), data.labels("test"))
    assert data.val_dataloader() == []
    assert sum(len(rows.row) for rows in data.test_dataloader()) == 1797
    assert len(Digits(whole=True, num_validation=0).split("val").y) == 0


@pytest.mark.usefixtures("_in")
def test_rows_of_whole_data_never_stand_among_held_out_ones():
    data = Digits(whole=True, binarize="none")
    results = scored(data, ["fid", "codes", "reconstruction", "clusters"], tiny("PCA"))
    assert all("digits 1x8x8 whole" in str(number.protocol) for number in results.numbers.values())
    assert "test/nmi" in results.numbers
    line = "probes need images that no one has trained on, the data are whole"
    assert results.skipped == {"codes": line}


def test_whole_data_without_a_test_split_hold_nothing_out(tmp_path):
    import numpy as np
    from PIL import Image

    from zoo.data import ImageFolder

    for i in range(12):
        Image.fromarray(np.full((6, 6), 20 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=6, grey=True, binarize="none", whole=True)
    assert data.protocol.sizes == (12, 0, 12)
    assert "hold-out" not in str(data.protocol)
    assert sorted(data.originals("test")[:, 0, 0, 0].tolist()) == [20 * i for i in range(12)]


# --- bags


def test_every_image_is_in_one_bag_of_the_asked_size():
    data = Digits(bag_size=15)
    bag = data.bag_of(torch.arange(1295))
    assert bag.bincount().tolist() == [15] * 86 + [5]
    assert torch.equal(data.bag_of(torch.tensor([7, 3])), bag[[7, 3]])
    assert torch.equal(bag, Digits(bag_size=15).bag_of(torch.arange(1295)))
    assert not torch.equal(bag, Digits(bag_size=15, draw_seed=1).bag_of(torch.arange(1295)))
    assert torch.equal(bag, Digits(bag_size=15, labelled=10).bag_of(torch.arange(1295)))
    with pytest.raises(UsageError, match="bags need bag_size, got none"):
        Digits().bag_of(torch.arange(3))


def test_a_bag_has_the_classes_of_a_dirichlet_mixture():
    """Two images of a bag share their class with probability (a + 1) / (C a + 1); at random with 1 / C."""
    y = torch.arange(40_000) % 4
    bag = bags(y, 10, 0)
    counts = torch.zeros(4000, 4).index_put_((bag, y), torch.ones(()), accumulate=True)[:1500]
    share = ((counts * (counts - 1)).sum(1) / 90).double()
    error = float(share.std()) / math.sqrt(1500)
    assert float(share.mean()) == pytest.approx(1.3 / 2.2, abs=4 * error)


def test_bags_need_labels():
    with pytest.raises(UsageError, match="bag_size needs a label on every image, got 9000 without"):
        SwissRoll(bag_size=5).setup()
