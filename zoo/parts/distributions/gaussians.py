"""Gaussian variables and the heads that make them."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, register_kl

from zoo.parts.networks.dense import readout

LOG_VARIANCE_RANGE = (-10.0, 8.0)


HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class _LogProb(torch.autograd.Function):
    """The logarithm of N(x; mean, s^2) in nats, with fewer passes backwards than its parts would take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        ctx.save_for_backward(x, mean, std)
        return -((x - mean) ** 2) / (2 * std**2) - std.log() - HALF_LOG_TAU

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, mean, std = ctx.saved_tensors
        distance = (x - mean) / std
        pull = grad * distance / std
        spread = (pull * distance - grad / std).sum_to_size(std.shape)
        return -pull.sum_to_size(x.shape), pull.sum_to_size(mean.shape), spread


class Gaussian(Normal):
    """Gaussian variables whose gradients take less than torch's time."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the densities in nats."""
        return _LogProb.apply(value, self.loc, self.scale)  # pyright: ignore[reportReturnType]


class StandardGaussian(Normal):
    """Gaussian variables of mean 0 and variance 1."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the densities in nats."""
        return value.square().mul(-0.5) - HALF_LOG_TAU


@register_kl(Normal, StandardGaussian)
def _kl_from_standard(q: Normal, _: StandardGaussian) -> Tensor:
    """Kingma, Welling 2014, appendix B: half of mean^2 + s^2 - log s^2 - 1, per variable."""
    return 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()


def diagonal_gaussian(mean: Tensor, log_variance: Tensor) -> Independent:
    """N(mean, diag exp log_variance) over the last dimension; the log-variance is clamped to [-10, 8]."""
    std = (0.5 * log_variance.float().clamp(*LOG_VARIANCE_RANGE)).exp()
    return Independent(Gaussian(mean.float(), std, validate_args=False), 1)


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
