"""Chains of stochastic layers: density, order of storage, draws."""

import pytest
import torch
from torch.distributions import Independent, Normal

from zoo.parts.distributions.layers import Layers


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def unit_chain(child_first):
    """p(a) p(b|a) over two and three units, with a child that depends on its parent in mean and spread."""
    first = Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])), 1)

    def then(a):
        mean = torch.stack([a.sum(-1), a[..., 0], -a[..., 1]], -1)
        return Independent(Normal(mean, 0.1 + a[..., :1].square()), 1)

    return Layers(first, then, (2, 3), child_first), first, then


@pytest.mark.parametrize("child_first", [False, True])
def test_chain_density_and_storage_order(child_first):
    chain, first, then = unit_chain(child_first)
    a, b = torch.randn(7, 2), torch.randn(7, 3)
    value = torch.cat((b, a) if child_first else (a, b), -1)
    expected = first.log_prob(a) + then(a).log_prob(b)
    assert chain.event_shape == (5,)
    torch.testing.assert_close(chain.log_prob(value), expected)
    mean_a = torch.tensor([1.0, -2.0])
    mean_b = torch.tensor([-1.0, 1.0, 2.0])
    torch.testing.assert_close(chain.mean, torch.cat((mean_b, mean_a) if child_first else (mean_a, mean_b)))


@pytest.mark.parametrize("child_first", [False, True])
def test_chain_draws_are_ancestral_in_both_storage_orders(child_first):
    chain, first, then = unit_chain(child_first)
    draws = chain.rsample((20_000,))
    a, b = draws.split((3, 2), -1)[::-1] if child_first else draws.split((2, 3), -1)
    child = then(a)
    for noise in ((a - first.mean) / first.stddev, (b - child.mean) / child.stddev):
        assert float(noise.mean(0).abs().max()) < 0.04
        assert float((noise.std(0) - 1).abs().max()) < 0.04
    assert chain.sample((4, 2)).shape == (4, 2, 5)


def test_chain_reparameterises_the_parent_through_the_child():
    shift = torch.zeros(2, requires_grad=True)
    chain = Layers(
        Independent(Normal(shift, torch.ones(2)), 1), lambda a: Independent(Normal(3 * a, 1.0), 1), (2, 2)
    )
    (gradient,) = torch.autograd.grad(chain.rsample((10,)).sum(0)[2:].sum(), shift)
    torch.testing.assert_close(gradient, torch.full((2,), 30.0))
    assert not chain.sample((10,)).requires_grad
