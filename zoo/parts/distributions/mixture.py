"""Mixtures fitted to codes."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

COVARIANCE_FLOOR = 1e-6


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
        from sklearn import mixture

        found = mixture.GaussianMixture(len(self.weights), reg_covar=COVARIANCE_FLOOR, random_state=0)
        found.fit(codes.double().cpu().numpy())
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
