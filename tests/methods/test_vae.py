"""Facts of the variational autoencoder: KL, warm-up, free bits, step sizes."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from variational_models import (
    SHAPE,
    LinearGaussian,
    batch_of,
    binary_images,
    seeded_gradients,
    seeded_terms,
    tiny_vae,
    with_networks_of,
    with_posterior_bias,
    zeroed,
)

from zoo.methods.variational.vae import VAE
from zoo.parts.estimators import active_units, free_bits

TINY = {"latent_dim": 4, "hidden_dims": (16,)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- objectives at known points


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_vae_without_information_costs_one_bit_per_binary_pixel(kl, num_samples):
    terms = zeroed(VAE(kl=kl, num_samples=num_samples)).loss(batch_of(binary_images(5, (1, 28, 28))))
    torch.testing.assert_close(terms["loss"], torch.full((5,), 784 * math.log(2)), rtol=1e-6, atol=0)
    assert not terms["rate"].any()


def test_kl_is_the_closed_form_and_a_million_draw_average():
    mean, log_variance = torch.tensor([0.7, -1.2, 0.05]), torch.tensor([-1.5, 0.6, 0.0])
    vae = with_posterior_bias(tiny_vae(), mean, log_variance)
    x = binary_images(2)
    rate = vae.loss(batch_of(x))["rate"]
    closed = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum()
    torch.testing.assert_close(rate, closed.expand(2))

    z = vae.posterior(x).sample((500_000,)).double()
    log_q = -0.5 * ((z - mean) ** 2 / log_variance.exp() + log_variance).sum(-1)
    log_ratio = (log_q + 0.5 * z.square().sum(-1)).flatten()
    error = float(log_ratio.std()) / math.sqrt(1_000_000)
    assert float(log_ratio.mean()) == pytest.approx(float(closed), abs=4 * error)
    assert error < 0.002


def test_kl_has_the_closed_form_gradient_in_mean_and_log_variance():
    mean, log_variance = torch.tensor([0.7, -1.2, 0.05]), torch.tensor([-1.5, 0.6, 0.0])
    vae = with_posterior_bias(tiny_vae(), mean, log_variance)
    rate = vae.loss(batch_of(binary_images(4)))["rate"].mean()
    (gradient,) = torch.autograd.grad(rate, vae.posterior_head.linear.bias)
    torch.testing.assert_close(gradient, torch.cat([mean, 0.5 * (log_variance.exp() - 1)]))


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("term", ["rate", "distortion", "elbo"])
def test_vae_terms_agree_with_finite_differences_in_float64(kl, term, monkeypatch):
    exact = LinearGaussian()
    vae = with_networks_of(VAE((1, 2, 3), latent_dim=2, kl=kl, num_samples=2), exact, monkeypatch)
    x = exact.data(2)

    def value(mean, log_variance):
        monkeypatch.setattr(
            vae, "posterior", lambda x: Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        )
        return seeded_terms(vae, x)[term]

    point = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(value, point)


def test_monte_carlo_and_analytic_kl_agree_in_expectation():
    vae = tiny_vae(kl="monte_carlo", num_samples=2000)
    x = binary_images(8)
    q = vae.posterior(x)
    closed = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1).sum(-1)
    draws = torch.stack([vae.loss(batch_of(x))["rate"] for _ in range(40)])
    difference = (draws - closed).mean(0)
    assert (difference.abs() < 4.5 * draws.std(0) / math.sqrt(len(draws))).all()
    assert (draws.std(0) > 0).all()
    vae.kl = "analytic"
    torch.testing.assert_close(vae.loss(batch_of(x))["rate"], closed)


def test_vae_with_the_exact_posterior_reports_the_exact_likelihood(monkeypatch):
    exact = LinearGaussian()
    vae = with_networks_of(VAE((1, 2, 3), latent_dim=2, kl="monte_carlo"), exact, monkeypatch)
    x = exact.data(20)
    for _ in range(3):
        terms = vae.loss(batch_of(x))
        torch.testing.assert_close(terms["elbo"], exact.marginal(x), rtol=0, atol=1e-8)
        torch.testing.assert_close(terms["loss"], -exact.marginal(x), rtol=0, atol=1e-8)


def test_vae_with_analytic_kl_and_the_exact_posterior_is_exact_in_expectation(monkeypatch):
    exact = LinearGaussian()
    vae = with_networks_of(VAE((1, 2, 3), latent_dim=2, num_samples=1), exact, monkeypatch)
    x = exact.data(4).repeat(5000, 1, 1, 1)
    gap = (vae.loss(batch_of(x))["elbo"] - exact.marginal(x)).reshape(5000, 4)
    error = gap.std(0) / math.sqrt(5000)
    assert (gap.mean(0).abs() < 4 * error).all()
    assert (error > 1e-4).all()


# ---------------------------------------------------------------- what is reported


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_learned"])
@pytest.mark.parametrize("epochs_done", [0.0, 2.5, 30.0])
@pytest.mark.parametrize("floor", [0.0, 1.1])
def test_reported_bound_knows_neither_warm_up_nor_free_bits(likelihood, epochs_done, floor, monkeypatch):
    plain = tiny_vae(likelihood=likelihood)
    with torch.no_grad():
        plain.posterior_head.linear.weight.mul_(0.1)
        plain.posterior_head.linear.bias.copy_(torch.tensor([2.5, 2.0, 0.2, -1.0, -0.5, 0.1]))
    eased = VAE(
        SHAPE, latent_dim=3, hidden_dims=(6, 6), likelihood=likelihood, warmup_epochs=10.0, free_bits=floor
    )
    eased.load_state_dict(plain.state_dict())
    x = binary_images(12)
    expected = seeded_terms(plain, x)
    monkeypatch.setattr(VAE, "epochs_done", epochs_done)
    terms = seeded_terms(eased, x)
    for name in ("elbo", "rate", "distortion"):
        assert torch.equal(terms[name], expected[name])
    weight = min(1.0, epochs_done / 10)
    q = eased.posterior(x)
    kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1)
    penalty = kl.mean(0).clamp(min=floor).sum() if floor else kl.sum(-1)
    torch.testing.assert_close(terms["loss"], expected["distortion"] + weight * penalty)
    assert (kl.mean(0) > 1.1).tolist() == [True, True, False]


def test_free_bits_of_zero_have_the_plain_gradient():
    plain = tiny_vae()
    floored = VAE(SHAPE, latent_dim=3, hidden_dims=(6, 6), free_bits=1e-30)
    floored.load_state_dict(plain.state_dict())
    x = binary_images(12)
    expected, found = seeded_gradients(plain, x), seeded_gradients(floored, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_warm_up_of_zero_epochs_descends_the_plain_bound():
    terms = tiny_vae().loss(batch_of(binary_images(5)))
    assert torch.equal(terms["loss"], -terms["elbo"])


def test_kl_under_its_floor_does_not_move_the_encoder():
    vae = with_posterior_bias(tiny_vae(free_bits=5.0), torch.full((3,), 0.3), torch.full((3,), -0.2))
    x = binary_images(5)
    torch.manual_seed(1)
    loss = vae.loss(batch_of(x))
    kl_part = (loss["loss"] - loss["distortion"]).mean()
    (gradient,) = torch.autograd.grad(kl_part, vae.posterior_head.linear.bias)
    torch.testing.assert_close(gradient, torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(kl_part, torch.tensor(15.0))


# ---------------------------------------------------------------- several samples


def test_vae_with_a_monte_carlo_kl_averages_the_log_weights():
    vae = tiny_vae(kl="monte_carlo", num_samples=6)
    x = binary_images(5)
    terms = seeded_terms(vae, x)
    torch.manual_seed(1)
    torch.testing.assert_close(terms["elbo"], vae.log_weights(x, 6).mean(0))


def test_a_trained_output_bias_is_left_alone():
    vae = tiny_vae()
    trained = vae.pixels.mean_logits.linear.bias.clone()
    vae.pixels.start_at(torch.full(SHAPE, 0.3))
    assert torch.equal(vae.pixels.mean_logits.linear.bias, trained)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_weights_start_glorot_or_he_uniform_and_biases_at_zero(activation):
    vae = VAE(activation=activation)
    hidden = [*vae.encoder, *vae.decoder]
    for layer in (m for m in vae.modules() if isinstance(m, nn.Linear)):
        out_dim, in_dim = layer.weight.shape
        he = activation == "relu" and any(layer is m for m in hidden)
        limit = math.sqrt(6 / in_dim) if he else math.sqrt(6 / (in_dim + out_dim))
        assert 0.98 * limit < float(layer.weight.detach().abs().max()) <= limit
        assert not layer.bias.any()


def test_vae_step_size_follows_a_cosine_over_the_trainers_epochs():
    vae = tiny_vae()
    vae.trainer = SimpleNamespace(max_epochs=4)
    settings = vae.configure_optimizers()
    optimizer, scheduler = settings["optimizer"], settings["lr_scheduler"]
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [1e-4 + 9e-4 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    assert rates == pytest.approx(expected)


# ---------------------------------------------------------------- active units


def test_vae_counts_seven_informative_latents_and_not_five_that_only_sample():
    vae = tiny_vae(latent_dim=12, std=1.0)
    with torch.no_grad():
        vae.posterior_head.linear.weight[7:12].zero_()
        vae.posterior_head.linear.bias[12:].zero_()
        vae.posterior_head.linear.weight[12:].zero_()
    (means,) = vae.posterior_means(binary_images(500))
    assert active_units(means).tolist() == [True] * 7 + [False] * 5
    assert torch.equal(vae.encode(binary_images(500)[:0]), means[:0])


def test_free_bits_estimator_is_what_the_vae_descends():
    vae = tiny_vae(free_bits=0.8)
    x = binary_images(12)
    terms = vae.loss(batch_of(x))
    q = vae.posterior(x)
    kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1)
    torch.testing.assert_close((terms["loss"] - terms["distortion"]).mean(), free_bits(kl, 0.8))
