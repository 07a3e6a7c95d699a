"""Facts of the pixels of a decoder: Bernoulli and Gaussian, their sigma and where they start."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli
from variational_models import GAUSSIANS, SHAPE, binary_images, scrambled, seeded_gradients, tiny_vae, zeroed

from zoo.methods.variational.vae import VAE
from zoo.parts.distributions.pixels import BernoulliPixels


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("likelihood", GAUSSIANS)
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.7])
def test_gaussian_pixels_start_at_sigma_and_peak_at_their_normalisation(likelihood, sigma):
    vae = VAE(SHAPE, latent_dim=3, hidden_dims=(6, 6), likelihood=likelihood, sigma=sigma)
    if likelihood == "gaussian_per_pixel":
        nn.init.zeros_(vae.pixels.sigma_map.linear.weight)
    p = vae.likelihood(torch.randn(5, 3))
    peak = -16 * 0.5 * math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(p.log_prob(p.mean), torch.full((5,), peak), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", GAUSSIANS)
def test_gaussian_log_density_is_the_formula(likelihood):
    vae = tiny_vae(likelihood=likelihood)
    z, x = torch.randn(5, 3), torch.rand(5, *SHAPE)
    h = vae.decoder(z)
    mean = vae.pixels.mean_logits(h).sigmoid()
    sigma = {
        "gaussian_fixed": lambda: torch.tensor(0.1),
        "gaussian_learned": lambda: 0.01 + nn.functional.softplus(vae.pixels.raw_sigma),
        "gaussian_per_pixel": lambda: 0.01 + nn.functional.softplus(vae.pixels.sigma_map(h)),
    }[likelihood]()
    terms = -0.5 * ((x - mean) / sigma) ** 2 - 0.5 * torch.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(vae.likelihood(z).log_prob(x), terms.sum((1, 2, 3)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian_learned", "gaussian_per_pixel"])
def test_learned_sigma_never_falls_below_its_floor(likelihood):
    pixels = VAE(SHAPE, latent_dim=3, hidden_dims=(4,), likelihood=likelihood).pixels
    with torch.no_grad():
        sigma = pixels.raw_sigma if pixels.sigma_map is None else pixels.sigma_map.linear.bias
        sigma.fill_(-1e3)
    p = pixels(torch.zeros(2, 4))
    torch.testing.assert_close(p.stddev, torch.full((2, *SHAPE), 0.01))
    peak = -16 * 0.5 * math.log(2 * math.pi * 1e-4)
    torch.testing.assert_close(p.log_prob(p.mean), torch.full((2,), peak))


@pytest.mark.parametrize("likelihood", ["gaussian_learned", "gaussian_per_pixel"])
def test_learned_sigma_receives_a_gradient(likelihood):
    vae = tiny_vae(likelihood=likelihood)
    gradients = seeded_gradients(vae, torch.rand(5, *SHAPE))
    sigma = [g for name, g in gradients.items() if "sigma" in name]
    assert sigma
    assert all(g.abs().max() > 0 for g in sigma)


def test_a_free_sigma_asks_for_dequantised_pixels():
    accepted = {
        name: VAE(SHAPE, latent_dim=3, hidden_dims=(6,), likelihood=name).accepts
        for name in ["bernoulli", *GAUSSIANS]
    }
    assert accepted == {
        "bernoulli": ("binary", "pseudo"),
        "gaussian_fixed": ("real", "deq"),
        "gaussian_learned": ("deq",),
        "gaussian_per_pixel": ("deq",),
    }


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_bernoulli_pixels_are_stable_at_extreme_logits(logit):
    pixels = zeroed(BernoulliPixels(2, SHAPE))
    nn.init.constant_(pixels.mean_logits.linear.bias, logit)
    p = pixels(torch.zeros(1, 2))
    likely, unlikely = torch.full((1, *SHAPE), float(logit > 0)), torch.full((1, *SHAPE), float(logit < 0))
    torch.testing.assert_close(p.log_prob(likely), torch.zeros(1))
    torch.testing.assert_close(p.log_prob(unlikely), torch.full((1,), -1600.0))
    (gradient,) = torch.autograd.grad(p.log_prob(unlikely).sum(), pixels.mean_logits.linear.bias)
    torch.testing.assert_close(gradient, torch.full((16,), -math.copysign(1.0, logit)))


def test_bernoulli_log_density_sums_over_pixels():
    pixels = scrambled(BernoulliPixels(2, (3, 2, 2)))
    h, x = torch.randn(4, 5, 2), binary_images(5, (3, 2, 2))
    p = pixels(h)
    expected = Bernoulli(probs=p.mean).log_prob(x.expand(4, -1, -1, -1, -1)).sum((2, 3, 4))
    assert p.log_prob(x).shape == (4, 5)
    torch.testing.assert_close(p.log_prob(x), expected)


@pytest.mark.parametrize("likelihood", ["bernoulli", *GAUSSIANS])
def test_output_bias_starts_at_the_logit_of_the_clipped_mean_image(likelihood):
    vae = VAE((1, 2, 2), latent_dim=3, hidden_dims=(6,), likelihood=likelihood)
    vae.pixels.start_at(torch.tensor([[[0.0, 0.25], [0.5, 1.0]]]))
    expected = torch.tensor([math.log(0.001 / 0.999), math.log(1 / 3), 0.0, math.log(0.999 / 0.001)])
    torch.testing.assert_close(vae.pixels.mean_logits.linear.bias.detach(), expected)
    picture = vae.likelihood(torch.zeros(1, 3)).mean
    torch.testing.assert_close(picture.flatten(), torch.tensor([0.001, 0.25, 0.5, 0.999]))
