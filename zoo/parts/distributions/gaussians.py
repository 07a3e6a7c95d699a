"""Gaussian variables and the heads that make them."""

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, register_kl

from zoo.parts.networks.dense import readout

LOG_VARIANCE_RANGE = (-10.0, 8.0)


class StandardGaussian(Normal):
    """Gaussian variables of mean 0 and variance 1."""


@register_kl(Normal, StandardGaussian)
def _kl_from_standard(q: Normal, _: StandardGaussian) -> Tensor:
    """Kingma, Welling 2014, appendix B: half of mean^2 + s^2 - log s^2 - 1, per variable."""
    return 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()


def diagonal_gaussian(mean: Tensor, log_variance: Tensor) -> Independent:
    """N(mean, diag exp log_variance) over the last dimension; the log-variance is clamped to [-10, 8]."""
    std = (0.5 * log_variance.float().clamp(*LOG_VARIANCE_RANGE)).exp()
    return Independent(Normal(mean.float(), std, validate_args=False), 1)


def standard_gaussian(dim: int, device: torch.device) -> Independent:
    """N(0, I) over `dim` dimensions."""
    zeros = torch.zeros(dim, device=device)
    return Independent(StandardGaussian(zeros, torch.ones_like(zeros), validate_args=False), 1)


class GaussianHead(nn.Module):
    """Features [..., F] to a diagonal Gaussian over [..., D].

    Args:
        in_dim: Width F of the features.
        dim: Width D of the variable.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = readout(in_dim, 2 * dim)

    def forward(self, h: Tensor) -> Independent:
        """The Gaussian of the features."""
        mean, log_variance = self.linear(h).chunk(2, -1)
        return diagonal_gaussian(mean, log_variance)
