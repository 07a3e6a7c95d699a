"""Facts of sticks and of the shares they make."""

import math

import pytest
import torch
from torch.distributions import Beta, Dirichlet, Independent, Kumaraswamy, kl_divergence

from zoo.parts.distributions import sticks
from zoo.parts.distributions.divergences import has_closed_form
from zoo.parts.distributions.sticks import (
    GammaRatio,
    GaussLogit,
    Shares,
    StickHead,
    dirichlet_sticks,
    gem_sticks,
    share_dimension,
)

CPU = torch.device("cpu")
GRID = torch.tensor([0.2, 0.5, 1.0, 2.0, 5.0, 8.0])
A, B = (t.flatten() for t in torch.meshgrid(GRID, GRID, indexing="ij"))


def three(a, b):
    return sticks.Kumaraswamy(a, b), GaussLogit(a.log(), b), GammaRatio(a, b)


def exact_kl(a, b, alpha=1.0, beta=5.0, nodes=20_001):
    """KL of Kumaraswamy to Beta: the integral over the logit of the uniform variable behind v, float64."""
    a, b = a.double(), b.double()
    t = torch.linspace(-200, 60, nodes, dtype=torch.float64)[:, None]
    log_u, log_1u = torch.nn.functional.logsigmoid(t), torch.nn.functional.logsigmoid(-t)
    weight = (log_u + log_1u).exp() * 260 / (nodes - 1)
    log_w = log_u / b
    log_va = torch.where(log_w < -30, -log_w.exp(), torch.log(-torch.expm1(log_w.clamp(max=-1e-300))))
    log_v = log_va / a
    small = log_w - a.log()
    log_rest = torch.where(log_v > -1e-12, small, torch.log(-torch.expm1(log_v)))
    log_q = a.log() + b.log() + (a - 1) * log_v + (b - 1) * log_w
    log_b = torch.lgamma(torch.tensor(alpha)) + torch.lgamma(torch.tensor(beta))
    log_b = log_b - torch.lgamma(torch.tensor(alpha + beta))
    log_p = (alpha - 1) * log_v + (beta - 1) * log_rest - log_b
    return (weight * (log_q - log_p)).sum(0)


def test_the_divergence_from_beta_is_that_of_quadrature_and_not_that_of_ten_terms():
    found = kl_divergence(sticks.Kumaraswamy(A, B), Beta(torch.ones(36), torch.full((36,), 5.0)))
    truth = exact_kl(A, B)
    off = (found - truth).abs()
    assert (off[A <= 2] < 0.04).all()
    assert (off[A > 2] < 0.25).all()
    assert (off[B >= 1] < 0.05).all(), "where b is not small, the tail is nearly exact"


def test_the_divergence_agrees_with_draws():
    torch.manual_seed(0)
    a, b = torch.tensor([0.5, 1.0, 2.0, 5.0]), torch.tensor([2.0, 0.5, 1.0, 8.0])
    q, p = sticks.Kumaraswamy(a, b), Beta(torch.ones(4), torch.full((4,), 5.0))
    v = q.rsample((200_000,))
    each = q.log_prob(v) - p.log_prob(v)
    error = 3 * each.std(0) / math.sqrt(len(v)) + 0.03
    assert ((kl_divergence(q, p) - each.mean(0)).abs() < error).all()


def test_ten_terms_alone_would_be_a_hole(monkeypatch):
    a, b = torch.tensor([2.0]), torch.tensor([0.2])
    m = torch.arange(1, 11.0)
    ten = ((m / a).lgamma() + b.lgamma() - (m / a + b).lgamma()).exp() * b / (m + a * b)
    whole = sticks._minus_mean_log_rest(a, b)
    assert 3.2 < float(whole - ten.sum()) < 3.4
    monkeypatch.setattr(sticks, "TERMS", 200)
    assert abs(float(sticks._minus_mean_log_rest(a, b) - whole)) < 0.02


def test_equal_distributions_have_no_divergence():
    one, five = torch.ones(1), torch.full((1,), 5.0)
    q = sticks.Kumaraswamy(one, five)
    assert abs(float(kl_divergence(q, Beta(one, five)))) < 1e-5
    assert has_closed_form(Independent(q, 1), Independent(Beta(one, five), 1))
    assert not has_closed_form(GaussLogit(one, one), Beta(one, five))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_draws_have_the_mean_and_the_density_that_are_claimed(which):
    torch.manual_seed(0)
    q = three(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([2.0, 0.7, 1.5]))[which]
    v = q.rsample((200_000,))
    error = 4 * v.std(0) / math.sqrt(len(v))
    assert ((v.mean(0) - q.mean).abs() < error).all()
    edges = torch.linspace(0.1, 0.9, 801)[:, None]
    inside = torch.trapezoid(q.log_prob(edges).exp(), edges, dim=0)
    share = ((v > 0.1) & (v < 0.9)).float().mean(0)
    assert ((inside - share).abs() < 0.006).all()


def test_kumaraswamys_density_and_mean_are_torchs():
    q, reference = sticks.Kumaraswamy(A, B), Kumaraswamy(A.double(), B.double())
    v = torch.linspace(0.02, 0.98, 30)[:, None]
    torch.testing.assert_close(q.log_prob(v).double(), reference.log_prob(v.double()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.mean.double(), reference.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(("a", "b"), [(0.02, 20.0), (20.0, 0.02)])
def test_extreme_sticks_are_finite_forwards_and_backwards(which, a, b):
    torch.manual_seed(0)
    a, b = (torch.full((100, 49), value, requires_grad=True) for value in (a, b))
    q = three(a, b)[which]
    p = Shares(gem_sticks(50, 5.0, CPU))
    v = q.rsample()
    pi = p.transforms[0](v)
    torch.testing.assert_close(pi.sum(-1), torch.ones(100), rtol=0, atol=1e-6)
    total = pi.square().sum() + q.log_prob(v).sum() - p.sticks.log_prob(v).sum() + p.log_prob(pi).sum()
    if which != 1:
        total = total + kl_divergence(q, p.sticks.base_dist).sum()
    assert total.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, (a, b)))


def test_sticks_are_read_from_their_shares_again():
    torch.manual_seed(0)
    shares = Shares(gem_sticks(20, 5.0, CPU))
    v = shares.sticks.sample((50,)).clamp(1e-4, 1 - 1e-4)
    breaking = shares.transforms[0]
    torch.testing.assert_close(breaking._inverse(breaking(v)), v, rtol=1e-4, atol=1e-5)


def test_shares_of_dirichlet_sticks_are_dirichlet():
    torch.manual_seed(0)
    reference = Dirichlet(torch.full((4,), 0.7))
    shares = Shares(dirichlet_sticks(4, 0.7, CPU))
    pi = reference.sample((30,)).clamp(min=1e-3)
    pi = pi / pi.sum(-1, keepdim=True)
    torch.testing.assert_close(shares.log_prob(pi), reference.log_prob(pi), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shares.mean, reference.mean)
    torch.testing.assert_close(shares.variance, reference.variance)


def test_one_share_is_the_whole():
    shares = Shares(dirichlet_sticks(1, 1.0, CPU))
    assert shares.sample((3,)).tolist() == [[1.0]] * 3
    assert shares.mean.tolist() == [1.0]


def test_gem_leaves_the_rest_to_the_last_share():
    mean = Shares(gem_sticks(4, 5.0, CPU)).mean
    expected = [1 / 6, 5 / 36, 25 / 216, 125 / 216]
    torch.testing.assert_close(mean, torch.tensor(expected))


def test_the_fewest_shares_that_make_up_nearly_all():
    shares = torch.tensor([[0.5, 0.0, 0.5], [0.005, 0.99, 0.005], [0.4, 0.3, 0.3], [0.98, 0.015, 0.005]])
    assert share_dimension(shares).tolist() == [2, 1, 3, 2]


@pytest.mark.parametrize("kind", ["kumaraswamy", "gauss_logit", "gamma"])
def test_heads_start_at_the_prior(kind):
    prior = gem_sticks(6, 5.0, CPU)
    q = StickHead(3, kind, prior, 0.0)(torch.randn(2, 3))
    torch.testing.assert_close(q.mean, prior.mean.expand(2, 5), rtol=0.03, atol=0)
    if kind != "gauss_logit":
        torch.testing.assert_close(kl_divergence(q, prior), torch.zeros(2), rtol=0, atol=1e-4)
