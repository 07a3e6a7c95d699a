"""Mixtures fitted to codes."""

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal

from zoo.errors import require
from zoo.parts.distributions.gaussians import diagonal_gaussian

COVARIANCE_FLOOR = 1e-6
LOG_VARIANCE_FLOOR = -6.0
"""Below which the variances of a learned mixture do not fall: a component on one code is rewarded without
bound."""
STARTS, MOST_STEPS = 5, 500
"""Starts of EM, each from k-means of its own, and most steps of one."""


class GaussianMixture(nn.Module):
    """What torch's mixture of full Gaussians is made of, fitted to codes; N(0, I / D) before that.

    Calling it gives the distribution.

    Args:
        num_components: Number of Gaussians.
        dim: Dimensions D of a code.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    """Cholesky factors of the covariances, [M, D, D]."""

    def __init__(self, num_components: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((num_components,), 1 / num_components))
        self.register_buffer("means", torch.zeros(num_components, dim))
        self.register_buffer("factors", torch.eye(dim).repeat(num_components, 1, 1) / math.sqrt(dim))

    def forward(self) -> MixtureSameFamily:
        """The distribution of a code, event [D]."""
        return MixtureSameFamily(self._choice(), self._gaussians(slice(None)), validate_args=False)

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Take up codes [N, D] by maximum likelihood; variances count 1e-6 more than they are."""
        found = _fitted(codes, len(self.weights), "full", random_state=0)
        factors = np.linalg.cholesky(np.array(found.covariances_))
        for buffer, array in zip(self.buffers(), (found.weights_, found.means_, factors), strict=True):
            buffer.copy_(torch.from_numpy(array))

    @torch.no_grad()
    def draw(self, n: int) -> Tensor:
        """Codes [n, D] of the distribution; torch's own draw would cost one of every component."""
        return self._gaussians(self._choice().sample(torch.Size([n]))).sample()

    def _choice(self) -> Categorical:
        return Categorical(self.weights, validate_args=False)

    def _gaussians(self, which: Tensor | slice) -> MultivariateNormal:
        return MultivariateNormal(self.means[which], scale_tril=self.factors[which], validate_args=False)


class DiagonalMixture(nn.Module):
    """A mixture of Gaussians with diagonal covariances, learned; calling it gives the distribution.

    It starts with equal weights, means drawn from N(0, I) and variances of 1. Variances stay above e^-6.

    Args:
        num_components: Number C of Gaussians.
        dim: Dimensions D of a code.
    """

    def __init__(self, num_components: int, dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, dim))
        self.log_variances = nn.Parameter(torch.zeros(num_components, dim))

    def forward(self) -> MixtureSameFamily:
        """The distribution of a code, event [D]."""
        return MixtureSameFamily(self.choice(), self.components(), validate_args=False)

    def choice(self) -> Categorical:
        """p(c); its logits are normalised."""
        return Categorical(logits=self.logits, validate_args=False)

    def components(self) -> Independent:
        """p(z|c) of all components: batch [C], event [D]."""
        return diagonal_gaussian(self.means, self.log_variances.clamp(min=LOG_VARIANCE_FLOOR))

    def assign(self, z: Tensor) -> Tensor:
        """The logarithm of p(c|z) for codes [..., D], [..., C]."""
        return (self.choice().logits + self.components().log_prob(z.unsqueeze(-2))).log_softmax(-1)

    @torch.no_grad()
    def fit(self, codes: Tensor, seed: int) -> None:
        """Take up codes [N, D] by maximum likelihood, the best of five starts of EM.

        Args:
            codes: What it is fitted to.
            seed: Of the starts, below 2^32.

        Raises:
            UsageError: If there are fewer codes than components.
        """
        from sklearn.exceptions import ConvergenceWarning

        num = len(self.logits)
        require(num <= len(codes), f"num_components must be at most the {len(codes)} codes, got {num}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # where a descent begins, not where it ends
            found = _fitted(codes, num, "diag", random_state=seed, n_init=STARTS, max_iter=MOST_STEPS)
        log_variances = np.log(found.covariances_).clip(min=LOG_VARIANCE_FLOOR)
        for p, array in zip(
            (self.logits, self.means, self.log_variances),
            (np.log(found.weights_), found.means_, log_variances),
            strict=True,
        ):
            p.copy_(torch.from_numpy(array))


def _fitted(codes: Tensor, num: int, kind: Literal["full", "diag"], **settings: Any) -> Any:
    from sklearn import mixture

    found = mixture.GaussianMixture(num, covariance_type=kind, reg_covar=COVARIANCE_FLOOR, **settings)
    return found.fit(codes.double().cpu().numpy())
