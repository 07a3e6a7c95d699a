"""Categories of a method's own held against labels: matched on training images, counted on test images."""

import math

import pytest
import torch
from support import tiny, trainer

from zoo.data import Digits
from zoo.methods.adversarial.infogan import InfoGAN
from zoo.scores.evaluation import Evaluator
from zoo.scores.sections import labels


def scored(method, monkeypatch, cluster, tmp_path):
    monkeypatch.setattr(type(method), "cluster", cluster)
    evaluator = Evaluator(metrics=["recovered"], num_images=300, out=str(tmp_path / "score.json"))
    run = trainer(callbacks=[evaluator])
    run.test(method, datamodule=Digits(binarize="none"), verbose=False)
    return evaluator.results.numbers


def test_a_q_that_ignores_the_image_is_right_by_chance(monkeypatch, tmp_path):
    ignorant = lambda self, x: torch.zeros(len(x), 10).log_softmax(1)  # noqa: E731
    numbers = scored(tiny("InfoGAN").eval(), monkeypatch, ignorant, tmp_path)
    assert numbers["test/category_accuracy"].value == pytest.approx(0.1, abs=0.05)
    assert numbers["test/category_information"].value <= math.log(10)


def test_the_order_of_categories_does_not_matter(monkeypatch, tmp_path):
    order = torch.randperm(10)

    def by_pixels(self, x):
        bits = (x[:, 0, [2, 5, 3], [3, 2, 4]] > 0.5).long()
        return torch.nn.functional.one_hot(bits @ torch.tensor([1, 2, 4]), 10).float().log_softmax(1)

    def permuted(self, x):
        return by_pixels(self, x)[:, order]

    found = [
        scored(tiny("InfoGAN").eval(), monkeypatch, kind, tmp_path)["test/category_accuracy"].value
        for kind in (by_pixels, permuted)
    ]
    assert found[0] == found[1]
    assert found[0] > 0.2


def test_categories_are_matched_without_a_look_at_test_images(monkeypatch, tmp_path):
    seen = []
    match = labels.matching
    monkeypatch.setattr(labels, "matching", lambda found, y, n: seen.append(y) or match(found, y, n))
    by_chance = lambda self, x: torch.rand(len(x), 10).log()  # noqa: E731
    scored(tiny("InfoGAN").eval(), monkeypatch, by_chance, tmp_path)
    data = Digits(binarize="none")
    data.setup()
    assert torch.equal(seen[0].sort().values, data.labels("train").sort().values)


def test_purity_is_the_share_of_each_categorys_commonest_class(monkeypatch, tmp_path):
    """Categories 0 to 4 draw noughts alone, 5 to 9 every digit in turn."""
    data = Digits(binarize="none")
    data.setup()
    train = data.split("train")
    one_of = torch.stack([train.x[(train.y == label).nonzero()[0, 0]] for label in range(10)])

    def sample_given(self, y, *, generator=None):
        shown = torch.where(y < 5, 0, torch.arange(len(y)) // 10 % 10)
        return one_of[shown]

    monkeypatch.setattr(InfoGAN, "sample_given", sample_given)
    blind = lambda self, x: torch.zeros(len(x), 10)  # noqa: E731
    purity = scored(tiny("InfoGAN").eval(), monkeypatch, blind, tmp_path)["test/category_purity"]
    assert purity.value == pytest.approx((5 * 1.0 + 5 * 0.1) / 10, abs=0.02)


def test_information_is_told_code_by_code(tmp_path):
    evaluator = Evaluator(metrics=["recovered"], num_images=20, out=str(tmp_path / "s.json"))
    trainer(callbacks=[evaluator]).test(
        tiny("InfoGAN").eval(), datamodule=Digits(binarize="none"), verbose=False
    )
    by_code = evaluator.results.details["information_by_code"]
    assert len(by_code) == 2
    assert sum(by_code) == pytest.approx(
        evaluator.results.numbers["test/continuous_information"].value, abs=1e-3
    )


def test_fewer_samples_than_categories_are_refused(tmp_path):
    evaluator = Evaluator(metrics=["recovered"], num_images=9, out=str(tmp_path / "score.json"))
    run = trainer(callbacks=[evaluator])
    run.test(tiny("InfoGAN").eval(), datamodule=Digits(binarize="none"), verbose=False)
    reason = evaluator.results.skipped["recovered"]
    assert reason == "10 categories need at least as many samples, got 9"
