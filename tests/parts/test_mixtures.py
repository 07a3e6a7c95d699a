"""Facts of the learned mixture of diagonal Gaussians: its density, Bayes' rule, where EM lets it begin."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture as Reference

from zoo.errors import UsageError
from zoo.parts.distributions.mixture import LOG_VARIANCE_FLOOR, STARTS, DiagonalMixture


def scattered(num_components: int = 3, dim: int = 2) -> DiagonalMixture:
    torch.manual_seed(0)
    mixture = DiagonalMixture(num_components, dim)
    for p in mixture.parameters():
        torch.nn.init.normal_(p)
    return mixture


def joint(mixture: DiagonalMixture, z: torch.Tensor) -> np.ndarray:
    """The value of log p(c) p(z|c), [N, C], by scipy in float64."""
    logits, means, log_variances = (p.detach().double().numpy() for p in mixture.parameters())
    of_code = norm.logpdf(z.double().numpy()[:, None], means, np.exp(log_variances / 2)).sum(-1)
    return logits - np.log(np.exp(logits).sum()) + of_code


def blobs(n: int = 50) -> torch.Tensor:
    torch.manual_seed(1)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]])
    return torch.cat([c + torch.tensor([0.5, 1.5]) * torch.randn(n, 2) for c in centres])


def test_density_and_assignments_are_those_of_bayes():
    mixture, z = scattered(), 2 * torch.randn(20, 2)
    log_joint = joint(mixture, z)
    log_p = np.log(np.exp(log_joint).sum(1))
    np.testing.assert_allclose(mixture().log_prob(z).detach(), log_p, atol=1e-5)
    np.testing.assert_allclose(mixture.assign(z).detach(), log_joint - log_p[:, None], atol=1e-5)
    stacked = mixture.assign(z.view(4, 5, 2))
    torch.testing.assert_close(stacked.flatten(0, 1), mixture.assign(z))


def test_far_codes_have_assignments_without_adding_to_a_probability_that_underflows():
    far = scattered().assign(torch.full((1, 2), 1e3))
    assert far.isfinite().all()
    torch.testing.assert_close(far.logsumexp(1), torch.zeros(1), atol=1e-5, rtol=0)


def test_moments_are_those_of_draws():
    prior = scattered()()
    z = prior.sample((200_000,))
    torch.testing.assert_close(prior.mean, z.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(prior.variance, z.var(0), atol=0.05, rtol=0)


def test_em_is_sklearns_and_a_function_of_its_seed():
    z, mixture = blobs(), DiagonalMixture(3, 2)
    mixture.fit(z, seed=7)
    reference = Reference(3, covariance_type="diag", n_init=STARTS, random_state=7).fit(z.double().numpy())
    np.testing.assert_allclose(mixture.choice().probs.detach(), reference.weights_, atol=1e-6)
    np.testing.assert_allclose(mixture.components().mean.detach(), reference.means_, atol=1e-5)
    np.testing.assert_allclose(mixture.components().variance.detach(), reference.covariances_, rtol=1e-4)
    assert mixture.assign(z).argmax(1).tolist() == reference.predict(z.double().numpy()).tolist()
    first = mixture.assign(z).detach()
    mixture.fit(z, seed=7)
    assert torch.equal(mixture.assign(z), first)


def test_variances_do_not_fall_onto_a_code():
    z = torch.cat([torch.zeros(30, 2), torch.ones(30, 2)])
    mixture = DiagonalMixture(2, 2)
    mixture.fit(z, seed=0)
    floor = math.exp(LOG_VARIANCE_FLOOR)
    torch.testing.assert_close(mixture.components().variance, torch.full((2, 2), floor))
    with torch.no_grad():
        mixture.log_variances.fill_(-20)
    torch.testing.assert_close(mixture.components().variance, torch.full((2, 2), floor))


def test_gradients_reach_weights_means_and_variances():
    mixture = scattered()
    mixture().log_prob(torch.randn(5, 2)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in mixture.parameters())


def test_more_components_than_codes_are_refused():
    with pytest.raises(UsageError, match="num_components must be at most the 2 codes, got 3"):
        DiagonalMixture(3, 2).fit(torch.randn(2, 2), seed=0)
