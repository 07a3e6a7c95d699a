"""Facts of what reparameterises: exact posteriors, purity, precision, weights of several samples."""

import math

import pytest
import torch
from torch.distributions import kl_divergence
from variational_models import (
    SHAPE,
    LinearGaussian,
    batch_of,
    below,
    binary_images,
    seeded_gradients,
    seeded_terms,
    tiny_iwae,
    tiny_vae,
)

from zoo.errors import UsageError
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.vae import VAE


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- probabilistic PCA: everything is known


@pytest.mark.parametrize("num_samples", [1, 50])
def test_exact_posterior_gives_the_exact_likelihood_on_every_draw(num_samples):
    exact = LinearGaussian()
    x = exact.data(20)
    log_w = exact.log_weights(x, num_samples)
    assert log_w.shape == (num_samples, 20)
    torch.testing.assert_close(log_w, exact.marginal(x).expand_as(log_w), rtol=0, atol=1e-8)
    torch.testing.assert_close(exact.log_prob(x, num_samples), exact.marginal(x), rtol=0, atol=1e-8)


def test_a_wrong_posterior_leaves_the_bound_below_the_likelihood_and_its_gap_is_the_kl():
    wrong = LinearGaussian(shift=0.4, stretch=0.6)
    x = wrong.data(4000)
    truth = wrong.marginal(x)
    l1, l50 = wrong.log_prob(x, 1), wrong.log_prob(x, 50)
    assert below(l50, truth)
    assert below(l1, l50)
    gap = kl_divergence(wrong.posterior(x), wrong.exact_posterior(x))
    excess = truth - l1 - gap
    assert float(excess.mean().abs()) < 4 * float(excess.std()) / math.sqrt(4000)


def test_elbo_is_minus_rate_minus_distortion():
    for method in (tiny_vae(), tiny_vae(kl="monte_carlo"), tiny_iwae(1), tiny_iwae(2, objective="dreg")):
        terms = method.loss(batch_of(binary_images(6)))
        torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VAE(latent_dim=0), "latent_dim must be at least 1, got 0"),
        (lambda: VAE(hidden_dims=()), "hidden_dims must be positive"),
        (lambda: VAE(sigma=-0.1), "sigma must be positive, got -0.1"),
        (lambda: VAE(num_samples=0), "num_samples must be at least 1, got 0"),
        (lambda: VAE(warmup_epochs=-1.0), "warmup_epochs must not be negative, got -1.0"),
        (lambda: VAE(free_bits=-0.5), "free_bits must not be negative, got -0.5"),
        (lambda: VAE(free_bits=0.5, kl="monte_carlo"), "free_bits needs kl: analytic"),
        (lambda: VAE(lr=0.0), "lr must be positive, got 0.0"),
        (lambda: VAE(image_shape=(28, 28)), "image_shape must be three positive integers"),
        (lambda: IWAE(num_samples=0), "num_samples must be at least 1, got 0"),
        (lambda: IWAE(latent_dims=(3, 2, 1), hidden_dims=(3, 2, 1)), "latent_dims must name one or two"),
        (lambda: IWAE(latent_dims=(0,)), "latent_dims must be positive"),
        (lambda: IWAE(latent_dims=(3, 2)), "hidden_dims must give one positive width per layer"),
        (lambda: IWAE(adam_eps=-1.0), "adam_eps must be positive, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


# ---------------------------------------------------------------- precision, streams, purity


@pytest.mark.parametrize(
    "build",
    [
        VAE,
        lambda: VAE(kl="monte_carlo", num_samples=3),
        lambda: VAE(likelihood="gaussian_fixed"),
        lambda: VAE(likelihood="gaussian_learned"),
        lambda: VAE(likelihood="gaussian_per_pixel"),
        lambda: IWAE(num_samples=5),
        lambda: IWAE(num_samples=5, latent_dims=(100, 50), hidden_dims=(200, 100)),
        lambda: IWAE(num_samples=5, objective="dreg", latent_dims=(100, 50), hidden_dims=(200, 100)),
    ],
)
def test_bfloat16_networks_leave_the_loss_in_float32_and_close(build):
    method, x = build(), binary_images(16, (1, 28, 28))
    full = seeded_terms(method, x)["loss"].mean()
    with torch.autocast("cpu", torch.bfloat16):
        terms = seeded_terms(method, x)
        pictures = method.sample(2), method.reconstruct(x), *method.posterior_means(x)
    assert {value.dtype for value in (*terms.values(), *pictures)} == {torch.float32}
    torch.testing.assert_close(terms["loss"].mean(), full, rtol=0.01, atol=0)
    assert not torch.equal(terms["loss"].mean(), full)


def methods():
    return [
        tiny_vae(),
        tiny_vae(likelihood="gaussian_per_pixel"),
        tiny_iwae(1),
        tiny_iwae(2, objective="dreg"),
        tiny_iwae(2, objective="vae"),
    ]


@pytest.mark.parametrize("index", range(5))
def test_samples_from_a_generator_repeat_and_leave_the_global_stream_alone(index):
    method = methods()[index]
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first, next_draw = method.sample(6, generator=generator), method.sample(6, generator=generator)
    again = method.sample(6, generator=torch.Generator().manual_seed(3))
    other = method.sample(6, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_draw)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (6, *SHAPE)
    assert first.min() >= 0
    assert first.max() <= 1


def test_samples_without_a_generator_follow_the_global_stream():
    method = tiny_iwae(2)
    torch.manual_seed(9)
    first, second = method.sample(4), method.sample(4)
    torch.manual_seed(9)
    assert torch.equal(method.sample(4), first)
    assert not torch.equal(second, first)
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        method.sample(0)


@pytest.mark.parametrize("index", range(5))
def test_scores_under_one_seed_are_bitwise_equal(index):
    method, x = methods()[index], binary_images(20)
    torch.manual_seed(5)
    first, second = method.log_prob(x, 40), method.log_prob(x, 40)
    torch.manual_seed(5)
    assert torch.equal(method.log_prob(x, 40), first)
    assert not torch.equal(second, first)
    assert first.shape == (20,)
    assert not first.requires_grad


@pytest.mark.parametrize("index", range(5))
def test_loss_and_scores_read_the_method_and_write_nothing(index):
    method, x = methods()[index], binary_images(6)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    x_before = x.clone()
    first = seeded_terms(method, x)
    method.log_prob(x, 3)
    method.sample(2)
    again = seeded_terms(method, x)
    assert all(torch.equal(first[name], again[name]) for name in first)
    after = method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(x, x_before)
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize("index", range(5))
def test_reconstructions_are_deterministic_mean_images(index):
    method, x = methods()[index], binary_images(6)
    first = method.reconstruct(x)
    assert torch.equal(method.reconstruct(x), first)
    assert first.shape == x.shape
    mean = method.posterior_means(x)[0]
    expected = method.pixels(method.decoder(mean)).mean
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("method", ["vae", "iwae"])
def test_every_parameter_receives_a_gradient(method):
    built = tiny_vae() if method == "vae" else tiny_iwae(2)
    for name, gradient in seeded_gradients(built, binary_images(8)).items():
        assert gradient.abs().max() > 0, name
