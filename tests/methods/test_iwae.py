"""Facts of the importance weighted autoencoder: objectives, two layers, doubly reparameterised gradients."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from support import tiny, trainer
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal
from variational_models import (
    LinearGaussian,
    batch_of,
    below,
    binary_images,
    linear_shapes,
    seeded_gradients,
    seeded_terms,
    tiny_iwae,
    with_networks_of,
    zeroed,
)

from zoo.data.sets import Digits
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.vae import VAE
from zoo.parts.distributions.gaussians import diagonal_gaussian
from zoo.parts.distributions.layers import Layers

TINY = {"num_samples": 3, "latent_dims": (6, 4), "hidden_dims": (16, 8), "lr_schedule": "constant"}
"""Two layers: it runs through every branch of one layer."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def gaussian_chain():
    """Conditionals and closed-form posteriors of z2 ~ N(0,I), z1 ~ N(A z2, a^2 I), x ~ N(B z1 + b, c^2 I)."""
    a_matrix, b_matrix = torch.randn(3, 2).double(), torch.randn(5, 3).double()
    offset, a, c = torch.randn(5).double(), 0.8, 0.5
    eye2, eye3, eye5 = torch.eye(2).double(), torch.eye(3).double(), torch.eye(5).double()
    covariance1 = a_matrix @ a_matrix.T + a**2 * eye3
    posterior1 = (torch.linalg.inv(covariance1) + b_matrix.T @ b_matrix / c**2).inverse()
    posterior2 = (eye2 + a_matrix.T @ a_matrix / a**2).inverse()
    gain1, gain2 = posterior1 @ b_matrix.T / c**2, posterior2 @ a_matrix.T / a**2

    def gaussian(mean, covariance):
        return Independent(MultivariateNormal(mean, covariance), 0)

    return SimpleNamespace(
        prior=Layers(
            gaussian(torch.zeros(2).double(), eye2),
            lambda z2: gaussian(z2 @ a_matrix.T, a**2 * eye3),
            (2, 3),
            child_first=True,
        ),
        posterior=lambda x: Layers(
            gaussian((x - offset) @ gain1.T, posterior1),
            lambda z1: gaussian(z1 @ gain2.T, posterior2),
            (3, 2),
        ),
        likelihood=lambda z: gaussian(z[..., :3] @ b_matrix.T + offset, c**2 * eye5),
        marginal=gaussian(offset, b_matrix @ covariance1 @ b_matrix.T + c**2 * eye5),
        posterior_covariance=torch.cat(
            [
                torch.cat([posterior1, posterior1 @ gain2.T], 1),
                torch.cat([gain2 @ posterior1, gain2 @ posterior1 @ gain2.T + posterior2], 1),
            ]
        ),
    )


class FreeGaussian(nn.Module):
    """An encoder with a mean and a log-sigma of its own for each image: its gradients are per draw."""

    def __init__(self, mean, log_sigma, num_images):
        super().__init__()
        self.mean = nn.Parameter(torch.full((num_images, 1), mean))
        self.log_sigma = nn.Parameter(torch.full((num_images, 1), log_sigma))

    def forward(self, h):
        return diagonal_gaussian(self.mean, 2 * self.log_sigma)


def toy_gradients(objective, mean, log_sigma, num_images, num_samples=8):
    """Per-draw gradient of the bound of N(z; 0, 1) N(1.5; z, 0.7^2) in q's (mean, log sigma): [2, images]."""
    iwae = IWAE((1, 1, 1), num_samples=num_samples, objective=objective, latent_dims=(1,), hidden_dims=(1,))
    iwae.encoders[0] = FreeGaussian(mean, log_sigma, num_images)
    iwae.likelihood = lambda z: Independent(Normal(z[..., None, None], 0.7), 3)
    bound = -iwae.loss(batch_of(torch.full((num_images, 1, 1, 1), 1.5)))["loss"]
    q = iwae.encoders[0]
    return torch.stack(torch.autograd.grad(bound.sum(), (q.mean, q.log_sigma))).squeeze(-1)


def dreg_reference(iwae, x, seed):
    """Equation 8 of Tucker et al. in two gradient calls; the stopped posterior is a copy of the model."""
    torch.manual_seed(seed)
    stopped = copy.deepcopy(iwae)
    z = iwae.posterior(x).rsample((iwae.num_samples,))
    log_w = iwae.prior().log_prob(z) + iwae.likelihood(z).log_prob(x) - stopped.posterior(x).log_prob(z)
    w = log_w.detach().softmax(0)
    encoder = {name: p for name, p in iwae.named_parameters() if name.startswith("encoders")}
    decoder = {name: p for name, p in iwae.named_parameters() if name not in encoder}
    gradients = {}
    for group, coefficient in ((encoder, w**2), (decoder, w)):
        surrogate = -(coefficient * log_w).sum(0).mean()
        found = torch.autograd.grad(surrogate, list(group.values()), retain_graph=True)
        gradients |= dict(zip(group, found, strict=True))
    return gradients


@pytest.mark.parametrize("objective", ["iwae", "dreg", "vae"])
@pytest.mark.parametrize(("latent_dims", "hidden_dims"), [((50,), (200,)), ((100, 50), (200, 100))])
def test_iwae_without_information_costs_one_bit_per_binary_pixel(objective, latent_dims, hidden_dims):
    iwae = zeroed(IWAE(num_samples=5, objective=objective, latent_dims=latent_dims, hidden_dims=hidden_dims))
    terms = iwae.loss(batch_of(binary_images(3, (1, 28, 28))))
    expected = torch.full((3,), 784 * math.log(2))
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["bound"], -expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["elbo"], -expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms["rate"], torch.zeros(3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("objective", ["iwae", "dreg", "vae"])
def test_iwae_with_the_exact_posterior_reports_the_exact_likelihood(objective, monkeypatch):
    exact = LinearGaussian()
    iwae = with_networks_of(
        IWAE((1, 2, 3), num_samples=7, objective=objective, latent_dims=(2,)), exact, monkeypatch
    )
    monkeypatch.setattr(iwae, "_posterior", lambda x, layers: exact.posterior(x))
    x = exact.data(20)
    terms = iwae.loss(batch_of(x))
    for value in (-terms["loss"], terms["bound"], terms["elbo"], -(terms["rate"] + terms["distortion"])):
        torch.testing.assert_close(value, exact.marginal(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("layers", [1, 2])
def test_objectives_are_the_stated_means_of_the_same_weights(layers):
    iwae = tiny_iwae(layers, num_samples=6)
    x = binary_images(5)
    torch.manual_seed(1)
    log_w = iwae.log_weights(x, 6)
    bound, elbo = log_w.exp().mean(0).log(), log_w.mean(0)
    for objective, surrogate in (("iwae", -bound), ("vae", -elbo)):
        iwae.objective = objective
        terms = seeded_terms(iwae, x)
        torch.testing.assert_close(terms["loss"], surrogate)
        torch.testing.assert_close(terms["bound"], bound)
        torch.testing.assert_close(terms["elbo"], elbo)
    iwae.objective = "dreg"
    terms = seeded_terms(iwae, x)
    torch.testing.assert_close(terms["bound"], bound)
    torch.testing.assert_close(terms["elbo"], elbo)


@pytest.mark.parametrize("layers", [1, 2])
def test_bound_grows_with_the_number_of_samples(layers):
    iwae = tiny_iwae(layers, std=0.7)
    x = binary_images(2000)
    l1, l5, l50 = (iwae.log_prob(x, k) for k in (1, 5, 50))
    assert below(l1, l5)
    assert below(l5, l50)


def test_one_sample_makes_every_objective_the_elbo():
    x = binary_images(5)
    for objective in ("iwae", "vae", "dreg"):
        terms = seeded_terms(tiny_iwae(2, num_samples=1, objective=objective), x)
        torch.testing.assert_close(terms["bound"], terms["elbo"])
        torch.testing.assert_close(terms["loss"], -terms["elbo"])


# ---------------------------------------------------------------- two stochastic layers


def test_two_layer_weights_are_constant_at_exact_posteriors():
    exact = gaussian_chain()
    x = exact.marginal.sample((6,))
    z = exact.posterior(x).rsample((200,))
    log_w = exact.prior.log_prob(z) + exact.likelihood(z).log_prob(x) - exact.posterior(x).log_prob(z)
    assert log_w.shape == (200, 6)
    assert float(log_w.std(0).max()) < 1e-5
    torch.testing.assert_close(log_w, exact.marginal.log_prob(x).expand_as(log_w), rtol=0, atol=1e-8)


def test_two_layer_draws_have_the_joint_posterior_covariance():
    exact = gaussian_chain()
    x = exact.marginal.sample((1,))
    z = exact.posterior(x).sample((40_000,)).squeeze(1)
    scale = exact.posterior_covariance.diagonal().sqrt()
    error = (z.T.cov() - exact.posterior_covariance) / (scale[:, None] * scale)
    assert float(error.abs().max()) < 0.03


@pytest.mark.parametrize("draw", ["rsample", "sample"])
def test_every_sample_of_h1_draws_its_own_h2(draw):
    iwae = tiny_iwae(2)
    x = binary_images(3)
    with torch.no_grad():
        h1, h2 = getattr(iwae.posterior(x), draw)((4000,)).split((3, 2), -1)
        child = iwae.encoders[1](h1)
    noise = (h2 - child.mean) / child.stddev
    assert noise.shape == (4000, 3, 2)
    assert len(noise[:, 0, 0].unique()) > 3900
    torch.testing.assert_close(noise.mean((0, 1)), torch.zeros(2), rtol=0, atol=0.05)
    torch.testing.assert_close(noise.std((0, 1)), torch.ones(2), rtol=0, atol=0.05)


def test_two_layer_weights_are_the_five_terms_of_the_paper():
    iwae = tiny_iwae(2)
    x = binary_images(5)
    torch.manual_seed(1)
    z = iwae.posterior(x).rsample((7,))
    h1, h2 = z.split((3, 2), -1)
    torch.manual_seed(1)
    weights = iwae.weigh(x, 7)
    upper = iwae.upper_decoder(h2)
    q1, q2 = iwae.encoders[0](x), iwae.encoders[1](h1)
    logits = iwae.pixels.mean_logits(iwae.decoder(h1))

    def log_normal(value, mean, std):
        return -0.5 * (((value - mean) / std) ** 2 + 2 * std.log() + math.log(2 * math.pi)).sum(-1)

    prior = log_normal(h2, torch.zeros(2), torch.ones(2)) + log_normal(h1, upper.mean, upper.stddev)
    posterior = log_normal(h1, q1.mean, q1.stddev) + log_normal(h2, q2.mean, q2.stddev)
    bernoulli = -nn.functional.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    ).sum((-3, -2, -1))
    torch.testing.assert_close(weights.log_ratio, prior - posterior)
    torch.testing.assert_close(weights.log_likelihood, bernoulli)


def test_pixels_of_two_layers_depend_on_h1_alone():
    iwae = tiny_iwae(2)
    z = torch.randn(6, 5)
    moved = torch.cat([z[:, :3], torch.randn(6, 2)], 1)
    assert torch.equal(iwae.likelihood(z).mean, iwae.likelihood(moved).mean)
    assert not torch.equal(iwae.likelihood(z).mean, iwae.likelihood(z + 1).mean)


def test_top_layer_prior_is_ancestral():
    iwae = tiny_iwae(2)
    h1, h2 = iwae.prior().sample((20_000,)).split((3, 2), -1)
    assert h2.mean(0).abs().max() < 0.04
    assert (h2.std(0) - 1).abs().max() < 0.04
    with torch.no_grad():
        child = iwae.upper_decoder(h2)
    noise = (h1 - child.mean) / child.stddev
    assert noise.mean(0).abs().max() < 0.04
    assert (noise.std(0) - 1).abs().max() < 0.04


# ---------------------------------------------------------------- doubly reparameterised gradients


def test_dreg_agrees_with_the_plain_gradient_on_a_toy_with_a_fraction_of_its_spread():
    num_images = 40_000
    plain = toy_gradients("iwae", 0.3, -0.2, num_images)
    dreg = toy_gradients("dreg", 0.3, -0.2, num_images)
    truth = torch.tensor([0.1994, 0.0761])  # 8 million draws of either estimator
    for gradients in (plain, dreg):
        error = gradients.std(1) / math.sqrt(num_images)
        assert ((gradients.mean(1) - truth).abs() < 3 * error + 1e-4).all()
    torch.testing.assert_close(plain.std(1), torch.tensor([0.874, 0.939]), rtol=0.08, atol=0)
    torch.testing.assert_close(dreg.std(1), torch.tensor([0.126, 0.095]), rtol=0.08, atol=0)


@pytest.mark.parametrize("num_samples", [1, 8])
def test_dreg_gradient_vanishes_at_the_exact_posterior_and_the_plain_one_does_not(num_samples):
    mean, log_sigma = 1.5 / 1.49, 0.5 * math.log(0.49 / 1.49)
    dreg = toy_gradients("dreg", mean, log_sigma, 500, num_samples)
    plain = toy_gradients("iwae", mean, log_sigma, 500, num_samples)
    assert float(dreg.abs().max()) < 1e-5
    assert float(plain.std(1).min()) > 0.1


@pytest.mark.parametrize("layers", [1, 2])
def test_dreg_leaves_the_decoder_gradient_as_it_is(layers):
    iwae = tiny_iwae(layers)
    dreg = copy.deepcopy(iwae)
    dreg.objective = "dreg"
    x = binary_images(6)
    plain, found = seeded_gradients(iwae, x), seeded_gradients(dreg, x)
    decoder = [name for name in plain if not name.startswith("encoders")]
    assert any(name.startswith("upper_decoder") for name in decoder) == (layers == 2)
    for name in decoder:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-4, atol=1e-6)
        assert plain[name].abs().max() > 1e-4
    assert not torch.allclose(found["encoders.0.1.linear.bias"], plain["encoders.0.1.linear.bias"], rtol=0.01)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("num_samples", [1, 5])
def test_dreg_gradients_are_those_of_two_gradient_calls(layers, num_samples):
    dreg = tiny_iwae(layers, objective="dreg", num_samples=num_samples)
    x = binary_images(6)
    found, expected = seeded_gradients(dreg, x, seed=3), dreg_reference(dreg, x, seed=3)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("layers", [1, 2])
def test_dreg_and_plain_encoder_gradients_have_the_same_mean(layers):
    plain = tiny_iwae(layers, image_shape=(1, 2, 2))
    dreg = copy.deepcopy(plain)
    dreg.objective = "dreg"
    x = binary_images(1, (1, 2, 2)).expand(1000, -1, -1, -1)

    def encoder_gradients(method, seed):
        found = seeded_gradients(method, x, seed)
        return torch.cat([g.flatten() for name, g in found.items() if name.startswith("encoders")])

    plain_draws = torch.stack([encoder_gradients(plain, seed) for seed in range(60)]).double()
    dreg_draws = torch.stack([encoder_gradients(dreg, seed) for seed in range(60)]).double()
    dark = plain_draws.abs().amax(0) == 0  # weights from pixels that are black in the one image
    difference = (dreg_draws - plain_draws)[:, ~dark]
    z = difference.mean(0) / (difference.std(0) / math.sqrt(60))
    assert float(z.abs().max()) < 5
    signal = plain_draws.mean(0).abs() / (plain_draws.std(0) / math.sqrt(60))
    assert float(signal[~dark].max()) > 30


def test_fitting_starts_the_output_bias_from_the_data_and_testing_does_not():
    data = Digits()
    fitted, tested = tiny("IWAE"), tiny("IWAE")
    trainer(max_epochs=0).fit(fitted, datamodule=data)
    expected = data.mean_image().clamp(1e-3, 0.999).logit().flatten()
    torch.testing.assert_close(fitted.pixels.mean_logits.linear.bias.detach(), expected)
    trainer().test(tested, datamodule=data, verbose=False)
    assert not tested.pixels.mean_logits.linear.bias.any()


def test_default_networks_are_those_of_the_iwae_paper():
    half = [(784, 200), (200, 200), (200, 100)], [(50, 200), (200, 200), (200, 784)]
    one = IWAE()
    assert linear_shapes(one.encoders) == half[0]
    assert linear_shapes(one.decoder) + linear_shapes(one.pixels) == half[1]
    vae = VAE()
    assert linear_shapes(vae.encoder) + linear_shapes(vae.posterior_head) == half[0]
    assert linear_shapes(vae.decoder) + linear_shapes(vae.pixels) == half[1]
    two = IWAE(latent_dims=(100, 50), hidden_dims=(200, 100))
    assert linear_shapes(two.encoders[0]) == [(784, 200), (200, 200), (200, 200)]
    assert linear_shapes(two.encoders[1]) == [(100, 100), (100, 100), (100, 100)]
    assert linear_shapes(two.upper_decoder) == [(50, 100), (100, 100), (100, 200)]
    assert linear_shapes(two.decoder) + linear_shapes(two.pixels) == [(100, 200), (200, 200), (200, 784)]
    assert not [m for m in two.modules() if isinstance(m, nn.ReLU)]


def test_iwae_descends_with_adam_as_in_the_paper_and_its_tripling_schedule():
    method = IWAE((1, 2, 2), num_samples=2, latent_dims=(2,), hidden_dims=(3,))
    method.trainer = SimpleNamespace(max_epochs=3280)
    settings = method.configure_optimizers()
    optimizer, scheduler = settings["optimizer"], settings["lr_scheduler"]
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["eps"] == 1e-4
    rates = []
    for _ in range(14):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    stages = [0] + [1] * 3 + [2] * 9 + [3]
    assert rates == pytest.approx([1e-3 * 10 ** (-i / 7) for i in stages])


def test_iwae_reads_the_mean_of_each_layer_with_h1_averaged_for_the_second():
    iwae = tiny_iwae(2)
    x = binary_images(4)
    first, second = iwae.posterior_means(x)
    with torch.no_grad():
        q = iwae.encoders[0](x)
        draws = iwae.encoders[1](q.sample((20_000,))).mean
    torch.testing.assert_close(first, q.mean)
    error = draws.std(0) / math.sqrt(50)
    assert second.shape == (4, 2)
    assert ((second - draws.mean(0)).abs() < 4 * error).all()
    repeats = torch.stack([iwae.posterior_means(x)[1] for _ in range(200)])
    torch.testing.assert_close(repeats.std(0), error, rtol=0.25, atol=0)
    torch.manual_seed(1)
    top = iwae.encode(x)
    torch.manual_seed(1)
    assert torch.equal(top, iwae.posterior_means(x)[1])


def test_two_layer_codes_decode_through_the_mean_of_h1():
    iwae = tiny_iwae(2)
    z = torch.randn(4, 2)
    h1 = iwae.upper_decoder(z).mean
    torch.testing.assert_close(iwae.decode(z), iwae.pixels(iwae.decoder(h1)).mean.detach())
