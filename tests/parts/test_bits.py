"""Bernoulli bits: draws and densities."""

import torch
from torch.distributions import Bernoulli, Independent

from zoo.parts.distributions.bits import bernoulli


def test_draws_of_bits_have_their_probabilities():
    p = bernoulli(torch.tensor([-1.0, 0.0, 2.0]).expand(4, 3), 1)
    draws = p.sample((50_000,))
    assert draws.shape == (50_000, 4, 3)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(draws.mean((0, 1)), torch.tensor([-1.0, 0.0, 2.0]).sigmoid(), atol=0.005)
    assert torch.allclose(p.log_prob(draws), Independent(Bernoulli(p.mean), 1).log_prob(draws), atol=1e-5)
