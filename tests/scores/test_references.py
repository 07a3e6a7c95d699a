"""What samples are held against: all test images, and of what is read in part, rows drawn once."""

import math
import re
from itertools import pairwise

import pytest
import torch
from support import ROOT, tiny, trainer
from torch.distributions import Normal

from zoo.contract.capabilities import Classifies, Samples, Scores, Side
from zoo.contract.method import Method
from zoo.data import Digits
from zoo.scores.evaluation import Evaluator
from zoo.scores.features import shipped
from zoo.scores.metrics import fid, inception_score, kid, neighbourhoods
from zoo.scores.parzen import parzen
from zoo.scores.scene import Scene, drawn, part_of
from zoo.scores.sections import run_sections

COMPARED = ["fid", "kid", "inception_score", "neighbourhoods", "classes", "parzen", "training_distance"]


class Fixed(Method, Samples, Scores, Classifies):
    """Draws the first validation images, likes bright ones, and takes every digit for a 3."""

    paper = "None."
    side = Side.EXACT
    classifies_by = "p(y|nothing)"

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__((1, 8, 8))
        self.images = images
        self.at = 0

    def configure_optimizers(self):
        return None

    def sample(self, n, *, generator=None):
        return self.images[:n]

    def log_prob(self, x, num_samples):
        return x.sum((1, 2, 3))

    def classify(self, x):
        return torch.eye(10)[3].log().expand(len(x), -1)


class Turned(Digits):
    """The digits with their test images the other way round."""

    def split(self, name, which=slice(None)):
        every = super().split(name)
        return every._replace(x=every.x.flip(0)[which])


def scene(data=None, n: int = 200, metrics=COMPARED, **options) -> Scene:
    data = data or Digits(binarize="none")
    made = Scene(Fixed(Digits(binarize="none").split("train").x), data, 0, 2, n, **options)
    reasons = dict(run_sections(made, metrics))
    assert set(reasons.values()) == {None}
    return made


def test_drawn_rows_are_ascending_always_the_same_and_spread_over_all():
    assert drawn(5, 9).tolist() == drawn(5, 5).tolist() == [0, 1, 2, 3, 4]
    rows = drawn(10_000, 1000)
    assert torch.equal(rows, drawn(10_000, 1000))
    assert all(a < b for a, b in pairwise(rows.tolist()))
    halves = (rows < 5000).double().mean()
    assert abs(float(halves) - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert (part_of(5, 5), part_of(5, 9)) == ("5", "5 of 9")


def test_few_samples_are_held_against_all_test_images():
    """Every number, by independent calls, and its protocol, which says both counts."""
    made, net, data = scene(), shipped("digits"), Digits(binarize="none")
    images = {name: data.originals(name).float() / 255 for name in ("train", "val", "test")}
    samples = images["train"][:200]
    real, fake = net.extract(images["test"]), net.extract(samples)
    near = neighbourhoods(real.activations[drawn(359, 200)], fake.activations)
    wanted = {
        "fid": fid(real.activations, fake.activations),
        "kid": kid(real.activations, fake.activations),
        "inception_score": inception_score(fake.log_probs),
        **near._asdict(),
    }
    for name, estimate in wanted.items():
        number = made.numbers[f"test/{name}"]
        assert number.value == pytest.approx(estimate.value, rel=1e-6), name
        count = "200 of 359" if name in near._fields else "359"
        assert number.protocol.how.startswith(f"200 samples against {count} test images as bytes")
        assert number.protocol.num_images == 200
    found = parzen(samples, images["val"], images["test"])
    assert made.numbers["test/parzen"].value == pytest.approx(float(found.log_prob.mean()))
    assert "200 samples (means), 359 test images, " in made.numbers["test/parzen"].protocol.how
    floor = net.extract(images["train"][drawn(1295, 200)]).activations
    assert made.floors["train"]["test/fid"].value == pytest.approx(
        fid(real.activations, floor).value, rel=1e-6
    )


def test_real_images_cover_as_much_whatever_their_number():
    """Held against all test images, 100 samples could cover no more than a part of them."""
    made = [scene(n=n, metrics=["neighbourhoods"]) for n in (60, 100, 359)]
    for value in (one.floors["train"]["test/coverage"].value for one in made):
        assert value > 0.75  # 60 samples against all would cover 57 % at most


def test_the_order_of_the_test_images_moves_no_number():
    all_of_them = [name for name in COMPARED if name not in ("neighbourhoods", "training_distance")]
    one, other = (scene(data, metrics=all_of_them).numbers for data in (None, Turned(binarize="none")))
    assert one.keys() == other.keys()
    for key, number in one.items():
        assert other[key].value == pytest.approx(number.value, rel=1e-6), key


def test_all_validation_images_are_the_reference_while_training():
    made = scene(Digits(binarize="none", num_validation=300), 150, ["fid", "kid"], split="val")
    assert made.numbers["val/fid"].protocol.how.startswith("150 samples against 300 val images")


PARTS = {
    "samples.PARZEN_VALIDATION": (["parzen"], "test/parzen", "on 100 of 143 validation images"),
    "labels.OUTLIERS": (["outliers"], "test/outlier_auroc", "40 of 359 images against 40 of 359 of digits"),
    "codes.PROBE_CODES": (["codes"], "test/probe_accuracy", "200 of 1295 training and 359 test codes"),
    "codes.CORRELATED": (["aggregate"], "test/total_correlation", "50 of 359 posteriors"),
    "chains.CSL_IMAGES": (["csl"], "test/csl", "20 of 359 images, "),
    "likelihood.AIS_IMAGES": (["ais"], "test/log_prob_ais", "10 of 359 images, "),
}
SIZES = {"samples.PARZEN_VALIDATION": 100, "labels.OUTLIERS": 40, "codes.PROBE_CODES": 200}
SIZES |= {"codes.CORRELATED": 50, "chains.CSL_IMAGES": 20, "likelihood.AIS_IMAGES": 10}


@pytest.mark.parametrize("constant", PARTS)
def test_what_is_read_in_part_says_of_how_many(constant, tmp_path, monkeypatch):
    metrics, key, text = PARTS[constant]
    monkeypatch.setattr(f"zoo.scores.sections.{constant}", SIZES[constant])
    monkeypatch.setattr("zoo.scores.sections.likelihood.AIS_STEPS", 10)
    monkeypatch.setattr("zoo.data.sets.Digits.facts", Digits.facts._replace(outliers="Digits"))
    evaluator = Evaluator(num_samples=2, metrics=metrics, out=str(tmp_path / "r.json"))
    method = tiny("RBM" if metrics == ["csl"] else "VAE")
    trainer(callbacks=[evaluator]).test(method, datamodule=Digits(), verbose=False)
    assert not evaluator.results.skipped
    assert text in evaluator.results.numbers[key].protocol.how


def test_the_outliers_are_those_drawn(monkeypatch):
    """Of brightness as the score, against twice as bright ones: the AUROC over the drawn rows."""
    monkeypatch.setattr("zoo.scores.sections.labels.OUTLIERS", 40)
    monkeypatch.setattr("zoo.data.sets.Digits.facts", Digits.facts._replace(outliers="MNIST"))
    monkeypatch.setattr("zoo.scores.sections.labels.from_recipe", lambda recipe: Turned(binarize="none"))
    number = scene(metrics=["outliers"]).numbers["test/outlier_auroc"]
    x = Digits(binarize="none").split("test").x.sum((1, 2, 3))
    inside, outside = x[drawn(359, 40)], x.flip(0)[drawn(359, 40)]
    signs = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside).double()
    assert number.value == pytest.approx(float(signs.mean()))


def test_no_metric_reads_the_first_rows_of_a_split():
    for file in (ROOT / "zoo/scores").rglob("*.py"):
        assert not re.search(r'(split|originals|real)\("\w+"\)(\.[xy])?\[:', file.read_text()), file.name


def test_accuracy_says_by_which_probabilities(tmp_path):
    evaluator = Evaluator(metrics=["accuracy"], out=str(tmp_path / "r.json"))
    trainer(callbacks=[evaluator]).test(Fixed(torch.zeros(1)), datamodule=Digits(), verbose=False)
    number = evaluator.results.numbers["test/accuracy"]
    assert number.protocol.how == "359 images, by p(y|nothing)"
    assert number.value == pytest.approx(float((Digits().split("test").y == 3).double().mean()))


@pytest.mark.parametrize(
    ("side", "pixels", "wanted"),
    [
        (Side.EXACT, {}, Side.EXACT),
        (Side.LOWER, {}, Side.UPPER),
        (Side.HIGH, {}, Side.LOW),
        (Side.LOW, {}, Side.HIGH),
        (Side.ESTIMATE, {}, Side.ESTIMATE),
        (Side.EXACT, {"binarize": "none", "dequantize": True}, Side.UPPER),
        (Side.LOWER, {"binarize": "none", "dequantize": True}, Side.UPPER),
        (Side.LOW, {"binarize": "none", "dequantize": True}, Side.HIGH),
        (Side.HIGH, {"binarize": "none", "dequantize": True}, Side.ESTIMATE),
        (Side.UPPER, {"binarize": "none", "dequantize": True}, Side.ESTIMATE),
    ],
)
def test_bits_lie_on_the_other_side_and_of_dithered_pixels_above(side, pixels, wanted, monkeypatch):
    monkeypatch.setattr(Fixed, "side", side)
    data = Digits(**pixels)
    x = data.split("test")
    columns = {"row": x.row.double(), "log_prob": x.x.sum((1, 2, 3)).double()}
    made = scene(data, metrics=["log_prob"], per_image=columns)
    (log_prob,) = (number for key, number in made.numbers.items() if "log_prob" in key)
    assert log_prob.side is side
    assert made.numbers["test/bits_per_dim"].side is wanted


def test_bits_of_dithered_bytes_are_no_fewer_than_those_of_the_bytes():
    """A normal density of one pixel: the probability of a byte by its distribution function."""
    density = Normal(torch.tensor(0.4, dtype=torch.float64), 0.02)
    edges = torch.arange(90, 116, dtype=torch.float64) / 256
    exact = -(density.cdf(edges[1:]) - density.cdf(edges[:-1])).log() / math.log(2)
    noise = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000 / 256
    dithered = 8 - density.log_prob(edges[:-1, None] + noise).mean(1) / math.log(2)
    assert (dithered > exact).all()
