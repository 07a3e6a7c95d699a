"""Annealed importance sampling of latents given an image, against quadrature and closed forms."""

import math

import pytest
import torch
from support import all_states, tiny
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from zoo.contract.capabilities import Explanation, Weights
from zoo.parts.annealing.latents import LatentPath, latent_ais, latent_ais_back
from zoo.parts.annealing.paths import anneal, sigmoid
from zoo.parts.annealing.verdicts import estimated
from zoo.parts.estimators import importance_bound

STARTS = ["prior", "posterior"]


# Latents.


def gaussian_model(x, shift=0.0, stretch=1.0, seed=0):
    """Probabilistic PCA, two latents and five pixels; the posterior is exact but for shift and stretch."""
    stream = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 2, generator=stream, dtype=torch.float64)
    m = torch.randn(5, generator=stream, dtype=torch.float64)
    s = 0.5
    precision = torch.eye(2).double() + w.T @ w / s**2
    mean = torch.linalg.solve(precision, w.T @ (x - m).T / s**2).T
    root = torch.linalg.cholesky(precision.inverse())
    explanation = Explanation(
        Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1),
        MultivariateNormal(mean + shift, scale_tril=(stretch * root).expand(len(x), 2, 2)),
        lambda z: Independent(Normal(z @ w.T + m, s), 1).log_prob(x),
    )
    marginal = MultivariateNormal(m, w @ w.T + s**2 * torch.eye(5).double())
    return explanation, marginal


IMAGES = torch.tensor([[0.5, -1.0, 0.3, 1.0, -0.2], [3.0, 2.0, -2.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 2.0, -3.0]])


def binary_model(x, latent_dim, seed=0):
    """A tanh decoder of six binary pixels with a poor posterior, and log p(x) by quadrature."""
    stream = torch.Generator().manual_seed(seed)
    one = 1.5 * torch.randn(latent_dim, 8, generator=stream, dtype=torch.float64)
    two = 1.5 * torch.randn(8, 6, generator=stream, dtype=torch.float64)
    zeros = torch.zeros(latent_dim).double()
    prior = Independent(Normal(zeros, zeros + 1), 1)

    def likelihood(z):
        return Independent(Bernoulli(logits=(z @ one).tanh() @ two), 1)

    posterior = Independent(Normal(x[:, :latent_dim] - 0.5, 0.8 * torch.ones(len(x), latent_dim)), 1)
    line = torch.linspace(-7, 7, 141).double()
    grid = torch.cartesian_prod(*[line] * latent_dim).reshape(-1, 1, latent_dim)
    cell = latent_dim * math.log(float(line[1] - line[0]))
    truth = (likelihood(grid).log_prob(x) + prior.log_prob(grid)).logsumexp(0) + cell
    return Explanation(prior, posterior, lambda z: likelihood(z).log_prob(x)), truth, likelihood


@pytest.mark.parametrize("start", STARTS)
def test_probabilistic_pca_within_a_twentieth_of_a_nat(start):
    x = IMAGES.double()
    explanation, marginal = gaussian_model(x, shift=0.4, stretch=1.5)
    result = latent_ais(explanation, 1000, 150, start)
    torch.testing.assert_close(result.log_prob, marginal.log_prob(x), rtol=0, atol=0.05)
    assert result.log_prob.dtype == torch.float64
    assert (result.ess > 500).all()
    assert (result.ess <= 1000).all()


@pytest.mark.parametrize("start", STARTS)
def test_adapting_the_step_size_to_few_chains_biases_nothing(start):
    """The mean weight of 5000 copies of an image, two chains each, is its probability."""
    x = IMAGES[2:].double().expand(5000, 5)
    explanation, marginal = gaussian_model(x, shift=0.4, stretch=1.5)
    log_w, _ = anneal(LatentPath(explanation, start), 2, sigmoid(30))
    estimate = estimated(log_w.flatten(), 30)
    assert estimate.error < 0.02
    assert estimate.log_z == pytest.approx(float(marginal.log_prob(x[0])), abs=4 * estimate.error)


def test_chains_that_start_at_the_exact_posterior_are_exact():
    x = IMAGES.double()
    explanation, marginal = gaussian_model(x)
    result = latent_ais(explanation, 3, 5, "posterior")
    torch.testing.assert_close(result.log_prob, marginal.log_prob(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.ess, torch.full((3,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_binary_decoder_agrees_with_quadrature(latent_dim, start):
    x = all_states(6)[[0, 13, 37, 63]]
    explanation, truth, _ = binary_model(x, latent_dim)
    result = latent_ais(explanation, 1000, 100, start)
    error = float((1 / result.ess).max().sqrt())
    torch.testing.assert_close(result.log_prob, truth, rtol=0, atol=4 * error)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("step_size", "acceptance"), [(0.05, 0.95), (0.25, 0.3)])
def test_hamiltonian_moves_leave_f_beta_as_it_is(start, step_size, acceptance):
    """f_beta of a Gaussian model is Gaussian: exact draws keep their moments, whatever the step size."""
    x, beta, n = IMAGES[:1].double(), 0.5, 40_000
    explanation, _ = gaussian_model(x, shift=0.4, stretch=1.5)
    path = LatentPath(explanation, start)

    def log_f(z):
        return path.log_density(path.place(z.reshape(1, 1, 2)), beta).sum()

    precision, slope = -hessian(log_f), gradient(log_f)
    target = MultivariateNormal(torch.linalg.solve(precision, slope), precision_matrix=precision)
    before = target.sample((n, 1))
    state = path.place(before)
    after = path.transition(state._replace(log_step=torch.full((1,), math.log(step_size)).double()), beta)
    moved = (after.z != before).any(-1).double().mean()
    assert float(moved) == pytest.approx(float(after.accepted), abs=0.02)
    assert float(moved) > acceptance
    assert float((after.z - before).square().mean()) > 0.01
    z = after.z[:, 0]
    torch.testing.assert_close(z.mean(0), target.mean, rtol=0, atol=0.025)
    torch.testing.assert_close(z.T.cov(), target.covariance_matrix, rtol=0.05, atol=0.01)


def gradient(log_f, h=1e-3):
    """Central differences at zero, exact for a quadratic."""
    eye = h * torch.eye(2).double()
    return torch.stack([(log_f(e) - log_f(-e)) / (2 * h) for e in eye])


def hessian(log_f, h=1e-1):
    eye = h * torch.eye(2).double()
    rows = [
        [(log_f(a + b) - log_f(a - b) - log_f(b - a) + log_f(-a - b)) / (4 * h * h) for b in eye] for a in eye
    ]
    return torch.tensor(rows).double()


def test_step_sizes_settle_at_the_wanted_acceptance_for_each_image():
    """Two images whose posteriors differ in width by a hundred."""
    scale = torch.tensor([1.0, 0.01]).double()
    prior = Independent(Normal(torch.zeros(20).double(), torch.ones(20).double()), 1)
    posterior = Independent(Normal(torch.zeros(2, 20).double(), torch.ones(2, 20).double()), 1)

    def log_likelihood(z):
        return -0.5 * (z / scale[:, None]).square().sum(-1)

    path = LatentPath(Explanation(prior, posterior, log_likelihood), "prior")
    state = path.start(10)
    for _ in range(150):
        state = path.transition(state, 1.0)
    settled = state._replace(accepted=torch.zeros(2).double())
    for _ in range(50):
        settled = path.transition(settled, 1.0)
    torch.testing.assert_close(settled.accepted / 50, torch.full((2,), 0.65).double(), rtol=0, atol=0.1)
    ratio = float((settled.log_step[0] - settled.log_step[1]).exp())
    assert 40 < ratio < 110


def test_forward_and_backward_latents_bracket_the_truth():
    """Images drawn from the model: below on average forwards, above backwards, closer with more steps."""
    latent_dim, images = 2, 500
    prior = Independent(Normal(torch.zeros(latent_dim).double(), torch.ones(latent_dim).double()), 1)
    z = prior.sample((images,))
    likelihood = binary_model(torch.zeros(1, 6).double(), latent_dim)[2]
    x = likelihood(z).sample()
    kinds, which = x.unique(dim=0, return_inverse=True)
    truth = binary_model(kinds, latent_dim)[1][which]
    explanation = binary_model(x[:1], latent_dim)[0]._replace(
        log_likelihood=lambda z: likelihood(z).log_prob(x),
        posterior=Independent(Normal(torch.zeros(images, latent_dim).double(), 1.0), 1),
    )
    widths = []
    for steps in (3, 40):
        low = latent_ais(explanation, 2, steps).log_prob - truth
        high = latent_ais_back(explanation, z, 2, steps).log_prob - truth
        error = 3 / math.sqrt(images)
        assert float(low.mean()) < error * float(low.std())
        assert float(high.mean()) > -error * float(high.std())
        widths.append(float(high.mean() - low.mean()))
    assert widths[0] > widths[1] > 0
    assert widths[1] < 0.3


@pytest.mark.parametrize("start", STARTS)
def test_more_steps_do_not_lower_the_bound(start):
    x = all_states(6)
    explanation, truth, _ = binary_model(x, 2)
    gaps = [
        float((truth - latent_ais(explanation, 5, steps, start).log_prob).mean()) for steps in (2, 15, 100)
    ]
    assert gaps[0] > gaps[1] + 0.05
    assert gaps[1] > gaps[2] - 0.03
    assert abs(gaps[2]) < 0.15


@pytest.mark.parametrize(
    ("name", "options"),
    [("VAE", {}), ("VAE", {"likelihood": "gaussian_fixed", "sigma": 0.7}), ("IWAE", {})],
    ids=["binary", "gaussian", "two layers"],
)
def test_methods_with_decoders_agree_with_many_draws_from_their_prior(name, options):
    method = tiny(name, (1, 4, 4), **options)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.rand(3, 1, 4, 4).round()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    explanation = method.explain(x)  # with a graph: annealing must neither need it nor use it up

    def weigh(x, k):
        z = explanation.prior.sample((k, len(x)))
        return Weights(explanation.log_likelihood(z), torch.zeros(k, len(x)))

    expected = importance_bound(weigh, x, 300_000)
    assert (expected.ess > 1000).all()
    for start in STARTS:
        result = latent_ais(explanation, 100, 60, start)
        torch.testing.assert_close(result.log_prob, expected.log_prob, rtol=0, atol=0.2)
        assert not result.log_prob.requires_grad
    assert all(parameter.grad is None for parameter in method.parameters())
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key])


def test_latents_of_the_same_stream_are_the_same():
    explanation, _ = gaussian_model(IMAGES.double(), 0.4, 1.5)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(latent_ais(explanation, 4, 10).log_prob)
    assert torch.equal(*runs)


def test_a_trajectory_that_diverges_is_refused():
    zeros = torch.zeros(3, 2)
    normal = Independent(Normal(zeros, 1.0, validate_args=False), 1)
    explanation = Explanation(
        Independent(Normal(zeros[0], 1.0, validate_args=False), 1), normal, normal.log_prob
    )
    path = LatentPath(explanation, "prior")
    state = path.start(5)
    wild = state._replace(log_step=torch.full((3,), 30.0))
    after = path.transition(wild, 1.0)
    assert torch.equal(after.z, state.z)
    assert (after.accepted == 0).all()
    assert (after.log_step < wild.log_step).all()
