"""Facts of the variational family: closed forms, exact posteriors and gradient identities."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny
from test_contract import trainer
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.methods.variational.vae import VAE
from zoo.parts.distributions.gaussians import GaussianHead, diagonal_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.estimators import active_units, free_bits

SHAPE = (1, 4, 4)
LAYERS = {
    1: {"latent_dims": (3,), "hidden_dims": (6,)},
    2: {"latent_dims": (3, 2), "hidden_dims": (6, 5)},
}
GAUSSIANS = ["gaussian_fixed", "gaussian_learned", "gaussian_per_pixel"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch_of(x):
    return Batch(x, torch.full((len(x),), -1), torch.arange(len(x)))


def binary_images(n, shape=SHAPE):
    return torch.rand(n, *shape).round()


def scrambled(method, std=0.5):
    """The method with every parameter, biases too, drawn from N(0, std^2)."""
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=std)
    return method


def zeroed(method):
    for parameter in method.parameters():
        nn.init.zeros_(parameter)
    return method


def tiny_vae(std=0.5, **settings):
    settings = {"image_shape": SHAPE, "latent_dim": 3, "hidden_dims": (6, 6)} | settings
    return scrambled(VAE(**settings), std)


def tiny_iwae(layers, std=0.5, **settings):
    return scrambled(IWAE(**({"image_shape": SHAPE, "num_samples": 4} | LAYERS[layers] | settings)), std)


def seeded_terms(method, x, seed=1):
    torch.manual_seed(seed)
    return method.loss(batch_of(x))


def seeded_gradients(method, x, seed=1):
    loss = seeded_terms(method, x, seed)["loss"].mean()
    return dict(
        zip(
            dict(method.named_parameters()),
            torch.autograd.grad(loss, list(method.parameters())),
            strict=True,
        )
    )


def with_posterior_bias(vae, mean, log_variance):
    """The VAE with q(z|x) = N(mean, diag exp log_variance) for every image."""
    nn.init.zeros_(vae.posterior_head.linear.weight)
    with torch.no_grad():
        vae.posterior_head.linear.bias.copy_(torch.cat([mean, log_variance]))
    return vae


class LinearGaussian(LatentVariable):
    """Probabilistic PCA, x = Wz + m + s eps with orthogonal columns in W, in float64.

    The posterior is exact unless its mean is shifted by `shift` or its sigma multiplied by `stretch`.
    """

    paper = "Tipping, Bishop. Probabilistic Principal Component Analysis. JRSS B 1999."

    def __init__(self, shift=0.0, stretch=1.0):
        super().__init__((1, 2, 3), lr=1e-3, lr_final=1e-3, lr_schedule="constant", adam_eps=1e-8)
        generator = torch.Generator().manual_seed(5)
        basis = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64)).Q
        self.w = basis * torch.tensor([1.5, 0.7], dtype=torch.float64)
        self.m = torch.randn(6, generator=generator, dtype=torch.float64)
        self.s, self.shift, self.stretch = 0.6, shift, stretch

    def prior(self):
        return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def exact_posterior(self, x):
        precision = self.w.square().sum(0) + self.s**2
        sigma = (self.s / precision.sqrt()).expand(len(x), 2)
        return Independent(Normal((x.flatten(1) - self.m) @ self.w / precision, sigma), 1)

    def posterior(self, x):
        exact = self.exact_posterior(x)
        return Independent(Normal(exact.mean + self.shift, exact.stddev * self.stretch), 1)

    def likelihood(self, z):
        mean = (z @ self.w.T + self.m).unflatten(-1, self.image_shape)
        return Independent(Normal(mean, self.s), 3)

    def loss(self, batch):
        return {"loss": -self.log_weights(batch.x, 1).mean(0)}

    def data(self, n):
        z = self.prior().sample((n,))
        return self.likelihood(z).sample()

    def marginal(self, x):
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(6).double()
        return MultivariateNormal(self.m, covariance).log_prob(x.flatten(1))


def with_networks_of(method, exact, monkeypatch):
    """The method's own loss over another model's prior, posterior and likelihood."""
    for name in ("prior", "posterior", "likelihood"):
        monkeypatch.setattr(method, name, getattr(exact, name))
    return method


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


def unit_chain(child_first):
    """p(a) p(b|a) over two and three units, with a child that depends on its parent in mean and spread."""
    first = Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])), 1)

    def then(a):
        mean = torch.stack([a.sum(-1), a[..., 0], -a[..., 1]], -1)
        return Independent(Normal(mean, 0.1 + a[..., :1].square()), 1)

    return Layers(first, then, (2, 3), child_first), first, then


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
    iwae = IWAE((1, 1, 1), num_samples, objective, latent_dims=(1,), hidden_dims=(1,))
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


# ---------------------------------------------------------------- objectives at known points


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_vae_without_information_costs_one_bit_per_binary_pixel(kl, num_samples):
    terms = zeroed(VAE(kl=kl, num_samples=num_samples)).loss(batch_of(binary_images(5, (1, 28, 28))))
    torch.testing.assert_close(terms["loss"], torch.full((5,), 784 * math.log(2)), rtol=1e-6, atol=0)
    assert not terms["rate"].any()


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
    vae = with_networks_of(VAE((1, 2, 3), 2, kl=kl, num_samples=2), exact, monkeypatch)
    x = exact.data(2)

    def value(mean, log_variance):
        monkeypatch.setattr(
            vae, "posterior", lambda x: Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        )
        return seeded_terms(vae, x)[term]

    point = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(value, point)


def test_second_half_of_the_posterior_head_is_a_log_variance():
    head = zeroed(GaussianHead(4, 2))
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([1.0, 2.0, math.log(9.0), math.log(0.25)]))
    q = head(torch.zeros(1, 4))
    torch.testing.assert_close(q.mean, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(q.stddev, torch.tensor([[3.0, 0.5]]))


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


# ---------------------------------------------------------------- probabilistic PCA: everything is known


@pytest.mark.parametrize("num_samples", [1, 50])
def test_exact_posterior_gives_the_exact_likelihood_on_every_draw(num_samples):
    exact = LinearGaussian()
    x = exact.data(20)
    log_w = exact.log_weights(x, num_samples)
    assert log_w.shape == (num_samples, 20)
    torch.testing.assert_close(log_w, exact.marginal(x).expand_as(log_w), rtol=0, atol=1e-8)
    torch.testing.assert_close(exact.log_prob(x, num_samples), exact.marginal(x), rtol=0, atol=1e-8)


def test_vae_with_the_exact_posterior_reports_the_exact_likelihood(monkeypatch):
    exact = LinearGaussian()
    vae = with_networks_of(VAE((1, 2, 3), 2, kl="monte_carlo"), exact, monkeypatch)
    x = exact.data(20)
    for _ in range(3):
        terms = vae.loss(batch_of(x))
        torch.testing.assert_close(terms["elbo"], exact.marginal(x), rtol=0, atol=1e-8)
        torch.testing.assert_close(terms["loss"], -exact.marginal(x), rtol=0, atol=1e-8)


def test_vae_with_analytic_kl_and_the_exact_posterior_is_exact_in_expectation(monkeypatch):
    exact = LinearGaussian()
    vae = with_networks_of(VAE((1, 2, 3), 2, num_samples=1), exact, monkeypatch)
    x = exact.data(4).repeat(5000, 1, 1, 1)
    gap = (vae.loss(batch_of(x))["elbo"] - exact.marginal(x)).reshape(5000, 4)
    error = gap.std(0) / math.sqrt(5000)
    assert (gap.mean(0).abs() < 4 * error).all()
    assert (error > 1e-4).all()


@pytest.mark.parametrize("objective", ["iwae", "dreg", "vae"])
def test_iwae_with_the_exact_posterior_reports_the_exact_likelihood(objective, monkeypatch):
    exact = LinearGaussian()
    iwae = with_networks_of(IWAE((1, 2, 3), 7, objective, (2,)), exact, monkeypatch)
    monkeypatch.setattr(iwae, "_posterior", lambda x, layers: exact.posterior(x))
    x = exact.data(20)
    terms = iwae.loss(batch_of(x))
    for value in (-terms["loss"], terms["bound"], terms["elbo"], -(terms["rate"] + terms["distortion"])):
        torch.testing.assert_close(value, exact.marginal(x), rtol=0, atol=1e-8)


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


def below(low, high):
    """The paired differences are positive at three standard errors."""
    difference = high - low
    return float(difference.mean()) > 3 * float(difference.std()) / math.sqrt(len(difference))


# ---------------------------------------------------------------- what is reported


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_learned"])
@pytest.mark.parametrize("epochs_done", [0.0, 2.5, 30.0])
@pytest.mark.parametrize("floor", [0.0, 1.1])
def test_reported_bound_knows_neither_warm_up_nor_free_bits(likelihood, epochs_done, floor, monkeypatch):
    plain = tiny_vae(likelihood=likelihood)
    with torch.no_grad():
        plain.posterior_head.linear.weight.mul_(0.1)
        plain.posterior_head.linear.bias.copy_(torch.tensor([2.5, 2.0, 0.2, -1.0, -0.5, 0.1]))
    eased = VAE(SHAPE, 3, (6, 6), likelihood=likelihood, warmup_epochs=10.0, free_bits=floor)
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


def test_elbo_is_minus_rate_minus_distortion():
    for method in (tiny_vae(), tiny_vae(kl="monte_carlo"), tiny_iwae(1), tiny_iwae(2, objective="dreg")):
        terms = method.loss(batch_of(binary_images(6)))
        torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))


def test_free_bits_of_zero_have_the_plain_gradient():
    plain = tiny_vae()
    floored = VAE(SHAPE, 3, (6, 6), free_bits=1e-30)
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
    q1, q2 = iwae.encoders[0](x.flatten(1)), iwae.encoders[1](h1)
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


@pytest.mark.parametrize("child_first", [False, True])
def test_chain_density_and_storage_order(child_first):
    chain, first, then = unit_chain(child_first)
    a, b = torch.randn(7, 2), torch.randn(7, 3)
    value = torch.cat((b, a) if child_first else (a, b), -1)
    expected = first.log_prob(a) + then(a).log_prob(b)
    assert chain.event_shape == (5,)
    torch.testing.assert_close(chain.log_prob(value), expected)
    mean_a = torch.tensor([1.0, -2.0])
    mean_b = torch.tensor([-1.0, 1.0, 2.0])
    torch.testing.assert_close(chain.mean, torch.cat((mean_b, mean_a) if child_first else (mean_a, mean_b)))


@pytest.mark.parametrize("child_first", [False, True])
def test_chain_draws_are_ancestral_in_both_storage_orders(child_first):
    chain, first, then = unit_chain(child_first)
    draws = chain.rsample((20_000,))
    a, b = draws.split((3, 2), -1)[::-1] if child_first else draws.split((2, 3), -1)
    child = then(a)
    for noise in ((a - first.mean) / first.stddev, (b - child.mean) / child.stddev):
        assert float(noise.mean(0).abs().max()) < 0.04
        assert float((noise.std(0) - 1).abs().max()) < 0.04
    assert chain.sample((4, 2)).shape == (4, 2, 5)


def test_chain_reparameterises_the_parent_through_the_child():
    shift = torch.zeros(2, requires_grad=True)
    chain = Layers(
        Independent(Normal(shift, torch.ones(2)), 1), lambda a: Independent(Normal(3 * a, 1.0), 1), (2, 2)
    )
    (gradient,) = torch.autograd.grad(chain.rsample((10,)).sum(0)[2:].sum(), shift)
    torch.testing.assert_close(gradient, torch.full((2,), 30.0))
    assert not chain.sample((10,)).requires_grad


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


# ---------------------------------------------------------------- likelihoods


@pytest.mark.parametrize("likelihood", GAUSSIANS)
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.7])
def test_gaussian_pixels_start_at_sigma_and_peak_at_their_normalisation(likelihood, sigma):
    vae = VAE(SHAPE, 3, (6, 6), likelihood=likelihood, sigma=sigma)
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
    pixels = VAE(SHAPE, 3, (4,), likelihood=likelihood).pixels
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
    accepted = {name: VAE(SHAPE, 3, (6,), likelihood=name).accepts for name in ["bernoulli", *GAUSSIANS]}
    assert accepted == {
        "bernoulli": ("binary",),
        "gaussian_fixed": ("real", "deq"),
        "gaussian_learned": ("deq",),
        "gaussian_per_pixel": ("deq",),
    }


def test_log_variance_is_clamped():
    log_variance = torch.tensor([-1e4, -11.0, -9.0, 0.0, 7.0, 9.0, 1e4])
    q = diagonal_gaussian(torch.zeros(7), log_variance)
    expected = torch.tensor([-5.0, -5.0, -4.5, 0.0, 3.5, 4.0, 4.0]).exp()
    torch.testing.assert_close(q.stddev, expected)


def test_gaussians_of_bfloat16_features_are_computed_in_float32():
    q = diagonal_gaussian(torch.randn(5).bfloat16(), torch.full((5,), -3.0).bfloat16())
    assert q.mean.dtype == q.stddev.dtype == torch.float32
    torch.testing.assert_close(q.stddev, torch.full((5,), math.exp(-1.5)))


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
    vae = VAE((1, 2, 2), 3, (6,), likelihood=likelihood)
    vae.pixels.start_at(torch.tensor([[[0.0, 0.25], [0.5, 1.0]]]))
    expected = torch.tensor([math.log(0.001 / 0.999), math.log(1 / 3), 0.0, math.log(0.999 / 0.001)])
    torch.testing.assert_close(vae.pixels.mean_logits.linear.bias.detach(), expected)
    picture = vae.likelihood(torch.zeros(1, 3)).mean
    torch.testing.assert_close(picture.flatten(), torch.tensor([0.001, 0.25, 0.5, 0.999]))


def test_a_trained_output_bias_is_left_alone():
    vae = tiny_vae()
    trained = vae.pixels.mean_logits.linear.bias.clone()
    vae.pixels.start_at(torch.full(SHAPE, 0.3))
    assert torch.equal(vae.pixels.mean_logits.linear.bias, trained)


def test_fitting_starts_the_output_bias_from_the_data_and_testing_does_not():
    data = Digits()
    fitted, tested = tiny("IWAE"), tiny("IWAE")
    trainer(max_epochs=0).fit(fitted, datamodule=data)
    expected = data.mean_image().clamp(1e-3, 0.999).logit().flatten()
    torch.testing.assert_close(fitted.pixels.mean_logits.linear.bias.detach(), expected)
    trainer().test(tested, datamodule=data, verbose=False)
    assert not tested.pixels.mean_logits.linear.bias.any()


def linear_shapes(module):
    return [tuple(m.weight.shape)[::-1] for m in module.modules() if isinstance(m, nn.Linear)]


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


def test_iwae_descends_with_adam_as_in_the_paper_and_its_tripling_schedule():
    method = IWAE((1, 2, 2), 2, latent_dims=(2,), hidden_dims=(3,))
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


def test_iwae_reads_the_mean_of_each_layer_with_h1_averaged_for_the_second():
    iwae = tiny_iwae(2)
    x = binary_images(4)
    first, second = iwae.posterior_means(x)
    with torch.no_grad():
        q = iwae.encoders[0](x.flatten(1))
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


def test_two_layer_codes_decode_through_the_mean_of_h1():
    iwae = tiny_iwae(2)
    z = torch.randn(4, 2)
    h1 = iwae.upper_decoder(z).mean
    torch.testing.assert_close(iwae.decode(z), iwae.pixels(iwae.decoder(h1)).mean.detach())


@pytest.mark.parametrize("method", ["vae", "iwae"])
def test_every_parameter_receives_a_gradient(method):
    built = tiny_vae() if method == "vae" else tiny_iwae(2)
    for name, gradient in seeded_gradients(built, binary_images(8)).items():
        assert gradient.abs().max() > 0, name


def test_free_bits_estimator_is_what_the_vae_descends():
    vae = tiny_vae(free_bits=0.8)
    x = binary_images(12)
    terms = vae.loss(batch_of(x))
    q = vae.posterior(x)
    kl = 0.5 * (q.mean**2 + q.variance - q.variance.log() - 1)
    torch.testing.assert_close((terms["loss"] - terms["distortion"]).mean(), free_bits(kl, 0.8))
