"""Facts of the deep latent Gaussian mixture model."""

import pytest
import torch
from support import images, tiny
from torch.distributions import Independent, Normal
from variational_models import scrambled, seeded_terms

from zoo.methods.variational.dlgmm import DLGMM
from zoo.methods.variational.vae import VAE
from zoo.parts.annealing.latents import latent_ais
from zoo.parts.distributions.gaussians import Gaussian
from zoo.parts.distributions.strata import log_mixture, log_sum_of_own, log_table, mean_divergence
from zoo.parts.estimators import importance_bound

TINY = {"num_components": 3, "latent_dim": 4, "hidden_dims": (8,)}


def small(std=0.5, **options):
    torch.manual_seed(0)
    settings = {"num_components": 3, "latent_dim": 1, "hidden_dims": (6,)} | options
    method = DLGMM((1, 2, 2), **settings)
    start = None if method.stick_head is None else method.stick_head.linear.bias.clone()
    scrambled(method, std)
    if start is not None:
        method.stick_head.linear.bias.data.copy_(start)  # near the prior, where weights vary little
    return method


@pytest.mark.parametrize("separation", [0.0, 1.0, 4.0])
def test_the_entropy_of_a_mixture_is_that_of_quadrature_and_the_legacy_one_is_none(separation):
    torch.manual_seed(0)
    pi = torch.tensor([0.3, 0.7])
    means, n = torch.tensor([[0.0], [separation]]), 100_000
    q = Independent(Gaussian(means, torch.tensor([[0.5], [1.0]]), validate_args=False), 1)
    z = q.rsample((n,))
    line = torch.linspace(-6, 12, 20_001, dtype=torch.float64)
    density = (pi * Normal(means[:, 0], torch.tensor([0.5, 1.0])).log_prob(line[:, None]).exp()).sum(1)
    truth = float(-torch.trapezoid(torch.xlogy(density, density), line))
    table = log_table(q, z)
    entropy = -(pi * log_mixture(pi.log(), table)).sum(-1)
    assert float(entropy.mean()) == pytest.approx(truth, abs=0.02)
    legacy = float(-log_sum_of_own(pi.log(), table).mean())
    assert abs(legacy - truth) > (0.5 if separation == 4 else 0.0)


def test_the_divergence_of_components_is_the_mean_over_pairs():
    q = Independent(Normal(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])), 1)
    one = torch.distributions.kl_divergence(Normal(0.0, 1.0), Normal(1.0, 2.0))
    two = torch.distributions.kl_divergence(Normal(1.0, 2.0), Normal(0.0, 1.0))
    torch.testing.assert_close(mean_divergence(q), (one + two) / 2)


def test_a_single_component_is_the_vae_with_a_monte_carlo_rate_bit_for_bit():
    mixture = small(num_components=1, latent_dim=3, hidden_dims=(6, 6), num_samples=4)
    vae = VAE((1, 2, 2), latent_dim=3, hidden_dims=(6, 6), activation="relu", num_samples=4, kl="monte_carlo")
    renamed = {
        k.replace("component_head.", "posterior_head.linear."): v for k, v in mixture.state_dict().items()
    }
    vae.load_state_dict(renamed)
    x = images((1, 2, 2), 5)
    one, two = (seeded_terms(method, x) for method in (mixture, vae))
    for name in ("loss", "elbo", "rate", "distortion"):
        assert torch.equal(one[name], two[name]), name


def test_shares_start_uniform_under_prior_and_posterior():
    method = tiny("DLGMM", num_components=4)
    torch.testing.assert_close(method.divide(images()), torch.full((6, 4), 0.25), rtol=1e-4, atol=0)
    pi = [1.0, 0.0]
    left = 1.0
    for stick in method.sticks().mean.tolist():
        pi.append(left * stick)
        left -= left * stick
    assert [*pi[2:], left] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("shares", ["sampled", "mean"])
def test_the_bound_moves_the_sticks_through_their_shares(shares):
    method = small(shares=shares)
    x = images((1, 2, 2), 5)
    terms = seeded_terms(method, x)
    for part in ("distortion", "rate"):
        (gradient,) = torch.autograd.grad(terms[part].sum(), method.stick_head.linear.bias, retain_graph=True)
        assert (gradient.abs() > 1e-6).all(), part


@torch.no_grad()
def test_the_stratified_bound_is_the_mean_log_weight_of_drawn_components():
    method, x = small(num_samples=20_000), images((1, 2, 2), 3)
    elbo = seeded_terms(method, x)["elbo"]
    torch.testing.assert_close(elbo, method.weigh(x, 40_000).log_w.mean(0), rtol=0, atol=0.04)
    by_means = small(num_samples=20_000, shares="mean")
    assert (seeded_terms(by_means, x)["elbo"] >= elbo - 0.04).all(), "the entropy is concave in the shares"
    terms = seeded_terms(small(num_samples=20_000, entropy="legacy"), x)
    assert torch.equal(terms["elbo"], elbo), "what is reported stays a bound"
    assert ((terms["loss"] + elbo).abs() > 0.05).any()


@torch.no_grad()
def test_the_importance_bound_converges_to_the_likelihood_by_quadrature():
    method, x = small(), images((1, 2, 2), 3)
    z = torch.linspace(-6, 6, 2001)[:, None, None]
    log_p = Normal(0.0, 1.0).log_prob(z)[..., 0] + method.likelihood(z).log_prob(x)
    truth = log_p.logsumexp(0) + torch.tensor(12 / 2000).log()
    found = importance_bound(method.weigh, x, 50_000).log_prob.float()
    torch.testing.assert_close(found, truth, rtol=0, atol=0.03)
    annealed = latent_ais(method.explain(x), 50, 100).log_prob.float()
    torch.testing.assert_close(annealed, truth, rtol=0, atol=0.1)


def test_use_and_distance_of_components_are_logged():
    terms = seeded_terms(small(), images((1, 2, 2), 5))
    total = sum(terms[f"share_{k}"] for k in range(3))
    torch.testing.assert_close(total, torch.ones(5))
    assert (terms["component_divergence"] > 0).all()


def test_the_mean_of_the_code_is_that_of_the_mixture():
    method, x = small(latent_dim=2), images((1, 2, 2), 2)
    with torch.no_grad():
        z = method.posterior(x).sample((100_000,))[..., :2]
    torch.testing.assert_close(method.encode(x), z.mean(0), rtol=0, atol=0.03)
