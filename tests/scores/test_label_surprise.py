"""Samples of a class asked for, as the project's classifier and the method's own see them."""

import math

import pytest
import torch
from support import tiny, trainer

from zoo.data import Digits
from zoo.methods.adversarial.infogan import InfoGAN
from zoo.methods.adversarial.sgan import SGAN
from zoo.scores.evaluation import Evaluator


def scored(method, tmp_path):
    evaluator = Evaluator(metrics=["conditional"], num_images=40, out=str(tmp_path / "score.json"))
    run = trainer(callbacks=[evaluator])
    run.test(method, datamodule=Digits(binarize="none"), verbose=False)
    return evaluator.results.numbers


def real_images(monkeypatch, kind, shift):
    """Training images of the label asked for, or of one that is that much higher."""
    data = Digits(binarize="none")
    data.setup()
    train = data.split("train")
    one_of = torch.stack([train.x[(train.y == label).nonzero()[0, 0]] for label in range(10)])
    drawn = lambda self, y, *, generator=None: one_of[(y + shift) % 10]  # noqa: E731
    monkeypatch.setattr(kind, "sample_given", drawn)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_surprise_of_both_classifiers_is_told_apart(shift, monkeypatch, tmp_path):
    real_images(monkeypatch, SGAN, shift)
    unsure = lambda self, x: torch.full((len(x), 10), 0.05).index_fill(1, torch.tensor([3]), 0.55).log()  # noqa: E731
    monkeypatch.setattr(SGAN, "classify", unsure)
    numbers = scored(tiny("SGAN").eval(), tmp_path)
    own = 0.9 * math.log(1 / 0.05) + 0.1 * math.log(1 / 0.55)
    assert numbers["test/label_surprise_own"].value == pytest.approx(own, rel=1e-4)
    assert numbers["test/label_surprise_own"].protocol.how.endswith("p(y|x) of the encoder")
    assert (numbers["test/conditional_accuracy"].value, numbers["test/label_surprise"].value > 2) == (
        1 - shift,
        bool(shift),
    )


def test_a_method_without_a_classifier_has_no_surprise_of_its_own(monkeypatch, tmp_path):
    real_images(monkeypatch, InfoGAN, 0)
    own = lambda self, x: torch.zeros(len(x), 10)  # noqa: E731
    monkeypatch.setattr(InfoGAN, "cluster", own)
    numbers = scored(tiny("InfoGAN").eval(), tmp_path)
    assert "test/label_surprise" in numbers
    assert "test/label_surprise_own" not in numbers
