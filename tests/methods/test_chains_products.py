"""Facts of products: a chain that is clamped, denoised or tilted by another density."""

import math

import pytest
import torch
from chain_models import ExactGaussian
from support import begun, images, tiny

from zoo.errors import UsageError
from zoo.methods.chains.diffusion import Diffusion
from zoo.methods.chains.shared.betas import NoiseSchedule
from zoo.methods.chains.shared.products import Kernel


def test_what_is_known_comes_back_to_the_bit():
    method = begun("Diffusion")
    x, mask = torch.rand(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    mask[..., :4] = 1
    assert torch.equal(method.repair(x, mask)[..., :4], x[..., :4])


class Correlated(ExactGaussian):
    """The reverse chain of a two-dimensional Gaussian, pixel by pixel given both."""

    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])

    def reverse(self, x_t, t):
        beta, kept, before = (float(v[0]) for v in self.rates(t))
        eye = torch.eye(2)
        prior = before * self.covariance + (1 - before) * eye
        total = kept * self.covariance + (1 - kept) * eye
        gain = math.sqrt(1 - beta) * prior @ torch.linalg.inv(total)
        left = prior - gain @ (math.sqrt(1 - beta) * prior)
        mean = x_t.flatten(1) @ gain.T
        return Kernel(mean.view_as(x_t), left.diag().view(1, 1, 1, 2).expand_as(x_t))


def test_a_clamped_chain_is_not_the_conditional():
    torch.manual_seed(0)
    method = Diffusion((1, 1, 2), num_steps=1000, schedule="linear", backbone="rbf")
    method.average.network = Correlated(NoiseSchedule("linear", 1000, 3))
    method.std.fill_(0.05)
    method.mean.fill_(0.5)
    x = torch.full((4000, 1, 1, 2), 0.55)
    mask = torch.tensor([1.0, 0.0]).expand_as(x)
    other = (method.repair(x, mask)[..., 1] - 0.5) / 0.05
    assert float(other.mean()) == pytest.approx(0.606, abs=4 * math.sqrt(0.495 / 4000))
    assert float(other.var()) == pytest.approx(0.495, abs=4 * 0.495 * math.sqrt(2 / 4000))


def standard_normal_plane(**options) -> Diffusion:
    """The exact chain of N(0, I) in two pixels of mean 0.5 and standard deviation 0.05."""
    method = Diffusion((1, 1, 2), num_steps=200, backbone="rbf", **options)
    method.average.network = ExactGaussian(NoiseSchedule("harmonic", 200, 3))
    method.std.fill_(0.05)
    method.mean.fill_(0.5)
    return method


def test_denoising_gaussian_data_moves_towards_what_was_seen():
    torch.manual_seed(0)
    method = standard_normal_plane()
    seen = torch.full((2000, 1, 1, 2), 0.55)
    far, near = (((method.denoise(seen, sigma) - 0.5) / 0.05) for sigma in (5.0, 0.0005))
    assert float(far.mean()) == pytest.approx(0, abs=0.1)
    torch.testing.assert_close(near.mean(), torch.tensor(1.0), rtol=0, atol=0.02)
    assert float(near.var()) < 0.01 < float(far.var())


def test_tilting_moves_the_mean():
    torch.manual_seed(0)
    method = standard_normal_plane(repair_schedule="linear")
    x = (method.tilt(lambda x: 0.3 * x.flatten(1).sum(1), 4000) - 0.5) / 0.05
    assert 0.1 < float(x.mean()) < 1.0
    still = (method.tilt(lambda x: 0.0 * x.flatten(1).sum(1), 4000) - 0.5) / 0.05
    assert float(still.mean()) == pytest.approx(0, abs=4 / math.sqrt(8000))


def test_what_a_binomial_chain_cannot_do_is_refused():
    method = tiny("Diffusion", kernel="binomial", schedule="harmonic")
    with pytest.raises(UsageError, match="denoise needs kernel: gaussian"):
        method.denoise(images(), 0.1)
    with pytest.raises(UsageError, match="tilt needs kernel: gaussian"):
        method.tilt(lambda x: x.flatten(1).sum(1), 2)
