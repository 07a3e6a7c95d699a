"""Distributions whose gradients are written by hand: torch's own values bit for bit, and its gradients."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from zoo.parts.distributions.bits import Bits, bernoulli
from zoo.parts.distributions.gaussians import Gaussian, diagonal_gaussian, standard_gaussian


def leaves(*shapes: tuple[int, ...], dtype=torch.float32) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def test_bits_have_torchs_values_and_gradients():
    (logits,) = leaves((5, 7, 1, 4, 4))
    x = torch.rand(7, 1, 4, 4)
    mine, theirs = (
        Independent(cls(logits=logits, validate_args=False), 3).log_prob(x) for cls in (Bits, Bernoulli)
    )
    assert torch.equal(mine, theirs)
    weights = torch.randn_like(mine)
    (one,), (two,) = (torch.autograd.grad((p * weights).sum(), logits) for p in (mine, theirs))
    assert torch.allclose(one, two, rtol=1e-6, atol=1e-7)


def test_bits_can_be_differentiated_twice_and_by_their_values():
    (logits,) = leaves((2, 3, 4), dtype=torch.float64)
    x = torch.rand(3, 4, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda a: Bits(logits=a, validate_args=False).log_prob(x), logits)
    soft = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        bernoulli(logits.detach().float(), 1).log_prob(soft.float()).sum(), soft
    )
    assert torch.allclose(gradient, logits.float().double().sum(0), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 5), (1, 3, 5)])
def test_a_gaussian_has_torchs_values_and_gradients_of_all_three(shape):
    x, mean, log_std = leaves(shape, (3, 5), (3, 5))
    std = log_std.exp()
    mine, theirs = (cls(mean, std, validate_args=False).log_prob(x) for cls in (Gaussian, Normal))
    assert torch.equal(mine, theirs)
    weights = torch.randn_like(mine)
    one, two = (
        torch.autograd.grad((p * weights).sum(), (x, mean, log_std), retain_graph=True)
        for p in (mine, theirs)
    )
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(one, two, strict=True))


def test_a_gaussian_can_be_differentiated_twice():
    inputs = leaves((4, 3), (3,), (3,), dtype=torch.float64)

    def log_prob(x, mean, log_std):
        return Gaussian(mean, log_std.exp(), validate_args=False).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradgradcheck(log_prob, inputs)


def test_the_prior_and_its_divergence_are_torchs():
    x, mean, log_variance = leaves((4, 3, 5), (3, 5), (3, 5))
    ones = Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    prior = standard_gaussian(5, x.device)
    assert torch.equal(prior.log_prob(x), ones.log_prob(x))
    q = diagonal_gaussian(mean, log_variance)
    mine, theirs = (kl_divergence(q.base_dist, p.base_dist) for p in (prior, ones))
    assert torch.allclose(mine, theirs, atol=1e-6)
    expanded = kl_divergence(q.expand((2, 3)).base_dist, prior.expand((2, 3)).base_dist)
    assert torch.allclose(expanded, theirs.expand(2, 3, 5), atol=1e-6)
