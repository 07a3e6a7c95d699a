"""What codes are worth to the decoder that reads them, against a closed form."""

import math

import pytest
import torch
from support import tiny, trainer
from torch.distributions import Bernoulli, Independent

from zoo.contract.capabilities import Explanation
from zoo.data.sets import Digits
from zoo.methods.variational.vae import VAE
from zoo.parts.distributions.gaussians import diagonal_gaussian
from zoo.scores.evaluation import Evaluator


def code_use(method, tmp_path, **options):
    evaluator = Evaluator(metrics=["code_use"], out=str(tmp_path / "results.json"), **options)
    trainer(callbacks=[evaluator]).test(method, datamodule=Digits(), verbose=False)
    return evaluator.results.numbers["test/code_use"]


def seen(method: VAE, used: bool):
    """The code is the first 8 pixels in order; the decoder repeats them with chance .9, or flips coins."""

    def explain(x):
        mean = x.flatten(1)[:, 20:28]
        q = diagonal_gaussian(mean, torch.full_like(mean, -10.0))

        def log_likelihood(z):
            bits = (z > 0.5).float()
            p = Bernoulli(probs=0.1 + 0.8 * bits if used else torch.full_like(bits, 0.5))
            return Independent(p, 1).log_prob(mean.expand_as(z))

        return Explanation(method.prior(), q, log_likelihood)

    method.explain = explain
    return method


def test_codes_that_are_read_are_worth_the_nats_of_what_differs(tmp_path):
    """Each of eight pixels that differs from the image before costs log 9."""
    number = code_use(seen(tiny("VAE"), True), tmp_path)
    bits = Digits().split("test").x.flatten(1)[:, 20:28]
    differ = (bits != bits.roll(1, 0)).sum(1).double().mean()
    assert number.value == pytest.approx(math.log(9) * float(differ), rel=1e-5)
    assert number.value > 2
    assert number.protocol.how.endswith("against the code of the image before in blocks of 500")


def test_codes_that_are_not_read_are_worth_nothing(tmp_path):
    assert code_use(seen(tiny("VAE"), False), tmp_path).value == 0


def test_of_fewer_images_those_that_are_drawn(tmp_path):
    number = code_use(seen(tiny("VAE"), True), tmp_path, num_images=50)
    assert number.protocol.how.startswith("50 of 359 images")
