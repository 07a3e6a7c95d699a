"""Latents that are no Gaussians: bits, sticks, simplices, mixtures, layers of these."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Independent,
    Kumaraswamy,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
    constraints,
)

from zoo.contract.capabilities import Explanation
from zoo.errors import UsageError
from zoo.parts.annealing.latents import LatentPath, latent_ais, latent_ais_back
from zoo.parts.distributions.divergences import has_closed_form, kl_of, kl_of_units, monte_carlo_kl
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.mixture import GaussianMixture
from zoo.parts.distributions.supports import support_of, unbounded

POINTS = 4001
IMAGES = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]])


def bits_of(probability: torch.Tensor) -> Independent:
    return Independent(Bernoulli(probs=probability), 1)


def pixels(z: torch.Tensor) -> torch.Tensor:
    """Chances of four pixels that turn from mostly off to mostly on as the first latent grows."""
    return torch.sigmoid(
        torch.tensor([1.0, -2.0, 3.0, 0.5]) + z[..., :1] * torch.tensor([4.0, 2.0, -3.0, 1.0])
    )


def log_likelihood(z: torch.Tensor) -> torch.Tensor:
    return bits_of(pixels(z)).log_prob(IMAGES)


def mixture(batch: tuple[int, ...] = (), dim: int = 1) -> MixtureSameFamily:
    means = torch.tensor([-1.5, 0.5, 2.0])[:, None].expand(3, dim)
    parts = Independent(Normal(means.expand(*batch, 3, dim), 0.3), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.5, 0.3, 0.2]).expand(*batch, 3)), parts)


def stick_account() -> Explanation:
    a, b = torch.tensor([[2.0], [0.7], [3.0]]), torch.tensor([[1.5], [2.0], [0.6]])
    prior = Independent(Beta(torch.ones(1), torch.full((1,), 2.0)), 1)
    return Explanation(prior, Independent(Kumaraswamy(a, b), 1), log_likelihood)


# Decoder AIS.


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_sticks_are_annealed_to_what_quadrature_gives(start):
    account = stick_account()
    v = (torch.arange(POINTS).double() + 0.5) / POINTS
    grid = v.float()[:, None, None].expand(-1, 3, 1)
    log_p = account.prior.log_prob(grid).double() + log_likelihood(grid).double()
    truth = log_p.logsumexp(0) - math.log(POINTS)
    torch.manual_seed(0)
    found = latent_ais(account, 2000, 60, start)
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=0.02)
    assert float(found.acceptance.min()) > 0.4
    assert float(found.ess.min()) > 100


def test_a_simplex_is_annealed_to_what_quadrature_gives():
    prior = Dirichlet(torch.tensor([2.0, 1.0, 1.5]))
    posterior = Dirichlet(torch.tensor([[2.0, 1, 1], [1, 3, 1], [1, 1, 2]]))
    n = 801
    side = (torch.arange(n) + 0.5) / n
    one, two = torch.meshgrid(side, side, indexing="ij")
    z = torch.stack([one, two, 1 - one - two], -1)[one + two < 1 - 1e-4]
    log_p = prior.log_prob(z)[:, None].double() + log_likelihood(z[:, None].expand(-1, 3, 3)).double()
    truth = log_p.logsumexp(0) - 2 * math.log(n)
    torch.manual_seed(0)
    found = latent_ais(Explanation(prior, posterior, log_likelihood), 2000, 60)
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=0.02)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mixture_prior_is_annealed_to_what_quadrature_gives(wrapped):
    prior = mixture()
    if wrapped:  # a mixture inside the event of an Independent
        parts = Normal(torch.tensor([[-1.5, 0.5, 2.0]]), 0.3)
        prior = Independent(MixtureSameFamily(Categorical(torch.tensor([[0.5, 0.3, 0.2]])), parts), 1)
    z = torch.linspace(-5, 5, POINTS)[:, None, None].expand(-1, 3, 1)
    log_p = prior.log_prob(z).double() + log_likelihood(z).double()
    truth = log_p.logsumexp(0) + math.log(10 / (POINTS - 1))
    account = Explanation(prior, Independent(Normal(torch.zeros(3, 1), 1.0), 1), log_likelihood)
    torch.manual_seed(0)
    torch.testing.assert_close(latent_ais(account, 2000, 60).log_prob, truth, rtol=0, atol=0.05)


def test_annealing_back_from_drawn_sticks_bounds_from_above():
    account = stick_account()
    torch.manual_seed(0)
    rows = 400
    v = account.prior.sample((rows,))
    x = torch.bernoulli(pixels(v))
    posterior = Independent(Kumaraswamy(torch.ones(rows, 1), torch.ones(rows, 1)), 1)
    drawn = Explanation(account.prior, posterior, lambda z: bits_of(pixels(z)).log_prob(x))
    below, above = latent_ais(drawn, 16, 30).log_prob, latent_ais_back(drawn, v, 16, 30).log_prob
    gap = above - below
    assert float(gap.mean()) > -3 * float(gap.std()) / math.sqrt(rows)
    assert float(gap.mean().abs()) < 0.1


def test_densities_of_coordinates_carry_the_jacobian():
    """The exponential of the start's density integrates to one over the whole line."""
    path = LatentPath(stick_account(), "prior")
    u = torch.linspace(-30, 30, 6001)
    state = path.place(path.values(u[:, None, None].expand(-1, 3, 1)))
    total = path.log_density(state, 0.0).exp().sum(0) * 0.01
    torch.testing.assert_close(total, torch.ones(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        state.z[2500:3500], u[2500:3500, None, None].expand(-1, 3, 1), rtol=0, atol=1e-3
    )


def test_a_trajectory_that_leaves_all_numbers_is_refused_without_asking_the_distributions():
    """Torch's own checks would raise a ValueError at NaN."""
    account = stick_account()
    path = LatentPath(account, "prior")
    torch.manual_seed(0)
    state = path.start(5)
    wild = state._replace(log_step=torch.full((3,), 80.0))
    after = path.transition(wild, 0.5)
    assert torch.equal(after.z, state.z)
    assert not after.accepted.any()


def refused(prior: Distribution, posterior: Distribution) -> str:
    with pytest.raises(UsageError) as caught:
        latent_ais(Explanation(prior, posterior, log_likelihood), 2, 2)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_discrete_latents_are_refused_wherever_they_stand():
    gauss, bit = Independent(Normal(torch.zeros(2), 1.0), 1), bits_of(torch.full((2,), 0.5))
    many = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
    bits = bits_of(torch.full((3, 2), 0.5))
    choice = Categorical(torch.ones(3))
    of_bits = MixtureSameFamily(choice, bits)
    half = Layers(gauss, lambda a: bits_of(torch.full_like(a, 0.5)), (2, 2))
    for prior, posterior in ((bit, bits), (gauss, bits), (bit, many), (of_bits, many), (half, many)):
        assert refused(prior, posterior).startswith("latents must be continuous to be moved along gradients")


def test_latents_without_a_support_or_without_coordinates_are_refused():
    class Unsaid(Distribution):
        arg_constraints = {}

    many = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
    assert refused(Unsaid(validate_args=False), many) == (
        "a distribution of latents must name its support, Unsaid has none"
    )

    class Odd(Unsaid):
        support = constraints.symmetric

    assert "must have coordinates without bounds" in refused(Odd(validate_args=False), many)


@pytest.mark.parametrize(
    "distribution",
    [
        Independent(Normal(torch.zeros(2), 1.0), 1),
        Independent(Beta(torch.ones(2), 2.0), 1),
        Independent(Uniform(torch.zeros(2), 3.0), 1),
        Independent(Exponential(torch.ones(2)), 1),
        MultivariateNormal(torch.zeros(2), torch.eye(2)),
        mixture(dim=2),
        Dirichlet(torch.ones(3)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_coordinates_lead_into_the_support_and_back(distribution):
    values = unbounded(distribution)
    z = distribution.sample((50,))
    assert support_of(distribution).check(z).all()
    torch.testing.assert_close(values(values.inv(z)), z, rtol=1e-4, atol=1e-5)
    assert support_of(distribution).check(values(5 * torch.randn(50, 2))).all()


# Layers.


def bit_layers(child_first: bool) -> Layers:
    first = bits_of(torch.tensor([0.3, 0.8]))
    return Layers(first, lambda a: bits_of(0.1 + 0.7 * a), (2, 2), child_first)


@pytest.mark.parametrize("child_first", [False, True])
def test_layers_of_bits_are_drawn_with_their_probabilities(child_first):
    layers = bit_layers(child_first)
    states = (torch.arange(16)[:, None] >> torch.arange(4) & 1).float()
    chances = layers.log_prob(states).exp()
    torch.testing.assert_close(chances.sum(), torch.tensor(1.0))
    torch.manual_seed(0)
    n = 100_000
    numbers = (layers.sample((n,)) @ (2.0 ** torch.arange(4))).long()
    found = numbers.bincount(minlength=16) / n
    assert ((found - chances).abs() < 5 * (chances / n).sqrt() + 1e-6).all()
    assert layers.support.is_discrete


def test_layers_of_sticks_and_gaussians_have_coordinates():
    first = Independent(Beta(torch.ones(2), 2.0), 1)
    layers = Layers(first, lambda a: Independent(Normal(a[..., :1], 1.0), 1), (2, 1), child_first=True)
    values, z = unbounded(layers), layers.sample((7,))
    u = values.inv(z)
    torch.testing.assert_close(u[:, 0], z[:, 0])
    torch.testing.assert_close(u[:, 1:], z[:, 1:].logit(), rtol=1e-4, atol=1e-4)
    volume = (z[:, 1:] * (1 - z[:, 1:])).log().sum(1)
    torch.testing.assert_close(values.log_abs_det_jacobian(u, z), volume, rtol=1e-3, atol=1e-3)


# Divergences.


def test_torch_says_where_there_is_a_closed_form():
    gauss = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
    sticks, beta = Independent(Kumaraswamy(torch.ones(2), 2.0), 1), Independent(Beta(torch.ones(2), 2.0), 1)
    assert has_closed_form(gauss, gauss)
    assert has_closed_form(beta, beta)
    assert has_closed_form(Dirichlet(torch.ones(3)), Dirichlet(torch.ones(3)))
    assert has_closed_form(LogNormal(0.0, 1.0), LogNormal(1.0, 1.0))
    assert not has_closed_form(sticks, beta)
    assert not has_closed_form(Kumaraswamy(1.0, 2.0), Kumaraswamy(2.0, 2.0))
    assert not has_closed_form(gauss, mixture(dim=2))
    assert not has_closed_form(
        Independent(Normal(torch.zeros(2), 1.0), 0), Independent(Normal(torch.zeros(2), 1.0), 1)
    )


def test_every_closed_form_that_is_promised_is_there():
    pairs = [
        (Independent(Normal(torch.zeros(3, 2), 1.0), 1), Independent(Normal(torch.ones(2), 2.0), 1)),
        (LogNormal(torch.zeros(3), 1.0), LogNormal(torch.ones(3), 2.0)),
        (Beta(torch.ones(3), 2.0), Beta(torch.ones(3), 3.0)),
    ]
    for q, p in pairs:
        z = q.rsample((200_000,))
        torch.testing.assert_close(kl_of(q, p, z[:1]), monte_carlo_kl(q, p, z), rtol=0.02, atol=0.02)


def test_the_kl_of_kumaraswamy_sticks_is_that_of_quadrature():
    a, b = torch.tensor([[2.0, 0.8], [3.0, 1.0]]), torch.tensor([[1.5, 4.0], [2.0, 1.0]])
    q, p = Independent(Kumaraswamy(a, b), 1), Independent(Beta(torch.ones(2), 5.0), 1)
    v = ((torch.arange(100_000).double() + 0.5) / 100_000)[:, None, None].expand(-1, 2, 2)
    exact = Kumaraswamy(a.double(), b.double())
    log_q = exact.log_prob(v)
    units = (log_q.exp() * (log_q - Beta(torch.ones(2).double(), 5.0).log_prob(v))).mean(0)
    torch.manual_seed(0)
    z = q.rsample((400_000,)).clamp(1e-6, 1 - 1e-6)
    torch.testing.assert_close(kl_of(q, p, z).double(), units.sum(1), rtol=0, atol=0.05)
    torch.testing.assert_close(kl_of_units(q, p, z).double(), units, rtol=0, atol=0.05)


def test_units_add_up_to_the_whole_and_dependent_ones_are_refused():
    q, p = Independent(Normal(torch.randn(3, 2), 0.7), 1), Independent(Normal(torch.zeros(2), 1.0), 1)
    z = q.rsample((4,))
    torch.testing.assert_close(kl_of_units(q, p, z).sum(1), kl_of(q, p, z))
    layers = Layers(p, lambda a: Independent(Normal(a, 1.0), 1), (2, 2))
    for other in (mixture(dim=2), layers):
        with pytest.raises(
            UsageError, match="must be independent over units to count each, got Independent and"
        ):
            kl_of_units(q, other, z)


# A fitted mixture.


def fitted() -> GaussianMixture:
    prior = GaussianMixture(2, 2)
    prior.weights.copy_(torch.tensor([0.25, 0.75]))
    prior.means.copy_(torch.tensor([[-1.0, 0.0], [2.0, 1.0]]))
    prior.factors.copy_(torch.tensor([[[0.5, 0.0], [0.3, 0.4]], [[1.0, 0.0], [-0.6, 0.2]]]))
    return prior


def test_a_fitted_mixture_is_torchs_with_a_density():
    prior = fitted()
    z = 2 * torch.randn(50, 2)
    by_hand = torch.stack(
        [
            MultivariateNormal(m, f @ f.T).log_prob(z) + w.log()
            for w, m, f in zip(prior.weights, prior.means, prior.factors, strict=True)
        ]
    ).logsumexp(0)
    assert isinstance(prior(), MixtureSameFamily)
    torch.testing.assert_close(prior().log_prob(z), by_hand, rtol=1e-4, atol=1e-4)
    assert {name for name, _ in prior.named_buffers()} == {"weights", "means", "factors"}
    assert not list(nn.Module.parameters(prior))


def test_its_draws_are_those_of_its_distribution():
    prior = fitted()
    torch.manual_seed(0)
    n = 100_000
    for drawn in (prior.draw(n), prior().sample((n,))):
        torch.testing.assert_close(drawn.mean(0), prior().mean, rtol=0, atol=0.03)
        torch.testing.assert_close(drawn.var(0), prior().variance, rtol=0.03, atol=0)
