"""Facts of logistic PCA: an image's code is its best, every step lowers its loss, the weights' gradient."""

import itertools

import pytest
import torch
from support import suited_digits, trainer

from zoo.contract.batch import Batch
from zoo.errors import UsageError
from zoo.methods.autoencoders.logistic_pca import LogisticPCA

TINY = {"latent_dim": 3, "encode_steps": 5}

SHAPE = (1, 2, 4)


def small(**options) -> LogisticPCA:
    torch.manual_seed(0)
    method = LogisticPCA(SHAPE, **{"latent_dim": 2, "encode_steps": 400, "ridge": 0.1} | options)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_()
    return method


def penalised(method: LogisticPCA, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The loss of codes [B, q], [B]: cross-entropy in float64 plus the ridge."""
    logits = z.double() @ method.linear.weight.double().T + method.linear.bias.double()
    entropy = torch.nn.functional.softplus(logits) - x.flatten(1).double() * logits
    return entropy.sum(1) + 0.5 * method.ridge * z.double().square().sum(1)


def test_the_code_of_an_image_is_its_best():
    method, x = small(), torch.rand(20, *SHAPE)
    z = method.encode(x).requires_grad_()
    (slope,) = torch.autograd.grad(penalised(method, x, z).sum(), z)
    assert float(slope.abs().max()) < 1e-4


@torch.no_grad()
def test_every_step_lowers_the_loss():
    x, values = torch.rand(20, *SHAPE), []
    for steps in (1, 2, 3, 5, 10, 50):
        method = small(encode_steps=steps)
        values.append(penalised(method, x, method.encode(x)))
    assert all((after <= before + 1e-6).all() for before, after in itertools.pairwise(values))


def test_the_weights_follow_the_loss_of_the_best_codes():
    """At the best codes their own change counts for nothing: finite differences through the search agree."""
    method, x = small(), torch.rand(6, *SHAPE)
    data = Batch(x, torch.zeros(6).long(), torch.arange(6))
    method.loss(data)["loss"].sum().backward()
    weight, found = method.linear.weight, method.linear.weight.grad
    with torch.no_grad():
        for place in ((0, 0), (3, 1), (7, 0)):
            values = []
            for step in (0.01, -0.01):
                weight[place] += step
                values.append(float(penalised(method, x, method.encode(x)).sum()))
                weight[place] -= step
            assert (values[0] - values[1]) / 0.02 == pytest.approx(float(found[place]), abs=2e-3)


def test_images_made_by_codes_are_given_back():
    method = small(ridge=1e-4, encode_steps=2000)
    x = method.decode(torch.randn(10, 2))
    torch.testing.assert_close(method.reconstruct(x), x, atol=2e-3, rtol=0)


def test_it_learns_digits():
    method = LogisticPCA((1, 8, 8), latent_dim=8, encode_steps=10)
    data = suited_digits(method)
    trainer(max_epochs=10, limit_val_batches=0).fit(method, datamodule=data)
    x = data.split("test").x
    error = (method.reconstruct(x) - x).square().sum()
    assert error < 0.6 * (x - data.mean_image()).square().sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"encode_steps": 0}, "encode_steps must be at least 1, got 0"),
        ({"ridge": 0.0}, "ridge must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        LogisticPCA(SHAPE, **options)
