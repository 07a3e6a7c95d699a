"""Categories of a method's own held against labels: matched on training images, counted on test images."""

import math

import pytest
import torch
from support import tiny, trainer

from zoo.data import Digits
from zoo.scores.evaluation import Evaluator


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
