"""Facts of the stick-breaking autoencoder."""

import pytest
import torch
from support import batch, images, tiny
from variational_models import batch_of, scrambled, seeded_terms

from zoo.contract.capabilities import Believes
from zoo.errors import UsageError
from zoo.methods.variational.sbvae import SBVAE
from zoo.parts.estimators import importance_bound

TINY = {"num_shares": 5, "hidden_dims": (8,)}
KINDS = ["kumaraswamy", "gauss_logit", "gamma"]


def small(**options):
    torch.manual_seed(0)
    method = SBVAE((1, 2, 2), **{"num_shares": 3, "hidden_dims": (6,)} | options)
    start = method.stick_head.linear.bias.clone()
    scrambled(method).stick_head.linear.bias.data.copy_(start)  # near the prior, where weights vary little
    return method


@torch.no_grad()
@pytest.mark.parametrize("posterior", KINDS)
def test_the_bound_converges_to_the_likelihood_by_quadrature(posterior):
    method, x = small(posterior=posterior), images((1, 2, 2), 3)
    grid = (torch.arange(150) + 0.5) / 150
    v = torch.cartesian_prod(grid, grid)[:, None]
    p = method.prior()
    log_p = p.sticks.log_prob(v)
    truth = (log_p - log_p.logsumexp(0) + method.likelihood(p.transforms[0](v)).log_prob(x)).logsumexp(0)
    found = importance_bound(method.weigh, x, 50_000)
    torch.testing.assert_close(found.log_prob.float(), truth, rtol=0, atol=0.03)


@pytest.mark.parametrize("posterior", KINDS)
def test_the_closed_form_and_the_draws_have_one_bound(posterior):
    x = images((1, 2, 2), 3).repeat(1, 1, 1, 1)
    analytic, drawn = (
        small(posterior=posterior, kl=kl, num_samples=20_000) for kl in ("analytic", "monte_carlo")
    )
    with torch.no_grad():
        one, two = (seeded_terms(method, x) for method in (analytic, drawn))
    torch.testing.assert_close(one["rate"], two["rate"], rtol=0, atol=0.05)
    assert torch.equal(one["rate"], two["rate"]) == (posterior == "gauss_logit")
    torch.testing.assert_close(one["elbo"], analytic.weigh(x, 20_000).log_w.mean(0), rtol=0, atol=0.06)


def test_codes_means_and_draws_of_codes_are_points_of_the_simplex():
    method, x = tiny("SBVAE"), images()
    assert isinstance(method, Believes)
    drawn = method.believe(x).posterior.sample()
    for code in (method.encode(x), method.divide(x), drawn, method.prior().sample((6,))):
        assert code.shape == (6, 5)
        assert (code >= 0).all()
        torch.testing.assert_close(code.sum(1), torch.ones(6), rtol=0, atol=1e-6)


def test_images_are_drawn_from_the_prior_and_not_from_the_posterior():
    method = tiny("SBVAE")
    seen = []
    method.picture = lambda z: seen.append(z) or torch.zeros(len(z), 1, 8, 8)
    method.sample(40_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0].mean(0), method.prior().mean, rtol=0, atol=0.01)


def test_the_density_of_shares_in_the_weights_is_that_of_their_sticks():
    method, x = small(), images((1, 2, 2), 3)
    q, p = method.posterior(x), method.prior()
    pi = q.sample((4,))
    v = q.transforms[0].inv(pi)
    by_sticks = p.sticks.log_prob(v) - q.sticks.log_prob(v)
    torch.testing.assert_close(p.log_prob(pi) - q.log_prob(pi), by_sticks, rtol=1e-4, atol=1e-4)


def test_effective_dimension_and_norms_are_reported():
    method = tiny("SBVAE")
    terms = method.loss(batch())
    assert ((terms["effective_dim"] >= 1) & (terms["effective_dim"] <= 5)).all()
    torch.testing.assert_close(method.share_norms(), method.decoder[0].weight.square().sum(0).sqrt())


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match="num_shares must be at least 2, got 1"):
        SBVAE(num_shares=1)
    with pytest.raises(UsageError, match="concentration must be positive, got 0"):
        SBVAE(concentration=0.0)


def test_the_loss_of_one_image_does_not_depend_on_the_others():
    method, x = small(), images((1, 2, 2), 1)
    terms = seeded_terms(method, x)
    assert torch.equal(terms["loss"], -terms["elbo"])
    assert method.loss(batch_of(x))["loss"].shape == (1,)
