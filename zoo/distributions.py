"""The only place where numbers become probabilities. Everything is in nats and computed in float32.

Heads are modules that end in a `torch.distributions.Distribution`; methods call `.log_prob`, `.rsample`,
`.mean`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, constraints

from zoo.contract.batch import PixelKind
from zoo.errors import require
from zoo.networks import PixelReadout, readout

LOG_VARIANCE_RANGE = (-10.0, 8.0)
SIGMA_FLOOR = 1e-2
MEAN_RANGE = (1e-3, 0.999)
PIXEL_DIMS = 3
COVARIANCE_FLOOR = 1e-6

GaussianLikelihood = Literal["gaussian_fixed", "gaussian_learned", "gaussian_per_pixel"]
Likelihood = Literal["bernoulli", GaussianLikelihood]


def diagonal_gaussian(mean: Tensor, log_variance: Tensor) -> Independent:
    """N(mean, diag exp log_variance) over the last dimension; the log-variance is clamped to [-10, 8]."""
    std = (0.5 * log_variance.float().clamp(*LOG_VARIANCE_RANGE)).exp()
    return Independent(Normal(mean.float(), std, validate_args=False), 1)


def standard_gaussian(dim: int, device: torch.device) -> Independent:
    """N(0, I) over `dim` dimensions."""
    zeros = torch.zeros(dim, device=device)
    return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1)


def draw_bits(logits: Tensor) -> Tensor:
    """Zeros and ones of the logits' dtype, each a 1 with probability sigmoid(logit)."""
    return (torch.rand_like(logits) < logits.sigmoid()).to(logits)


class Bits(Bernoulli):
    """Bernoulli variables whose draws take less than half of torch's time."""

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones, [*sample_shape, ...]."""
        return draw_bits(self.logits.expand(self._extended_shape(torch.Size(sample_shape))))


def bernoulli(logits: Tensor, dims: int = PIXEL_DIMS) -> Independent:
    """Independent Bernoulli variables, the last `dims` dimensions one event: by default an image."""
    return Independent(Bits(logits=logits.float(), validate_args=False), dims)


def gaussian_pixels(logits: Tensor, sigma: Tensor | float) -> Independent:
    """Independent Gaussian pixels [..., C, H, W] with means sigmoid(logits)."""
    mean = logits.float().sigmoid()
    scale = torch.as_tensor(sigma, device=mean.device).expand_as(mean)
    return Independent(Normal(mean, scale, validate_args=False), PIXEL_DIMS)


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


class PixelHead(nn.Module):
    """Features [..., F] to a distribution over images [..., C, H, W]."""

    accepts: tuple[PixelKind, ...]
    """Kinds of pixels for which the likelihood means what it says."""
    mean_logits: PixelReadout

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Set untouched (zero) output biases to the logits of a mean image [C, H, W].

        The mean is clipped to [0.001, 0.999] (Burda et al. 2016, released code). Biases that have been
        trained are left alone.
        """
        bias = self.mean_logits.linear.bias
        if not bias.any():
            bias.copy_(mean.clamp(*MEAN_RANGE).logit().flatten())


class BernoulliPixels(PixelHead):
    """Features [..., F] to independent Bernoulli pixels [..., C, H, W].

    Args:
        in_dim: Width F of the features.
        image_shape: (C, H, W).
    """

    accepts = ("binary",)

    def __init__(self, in_dim: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.mean_logits = PixelReadout(in_dim, image_shape)

    def forward(self, h: Tensor) -> Independent:
        """The distribution of the image given the features."""
        return bernoulli(self.mean_logits(h))


class GaussianPixels(PixelHead):
    """Features [..., F] to independent Gaussian pixels [..., C, H, W] with means in (0, 1).

    Args:
        in_dim: Width F of the features.
        image_shape: (C, H, W).
        likelihood: A fixed sigma, one learned sigma, or sigma(z) per pixel; learned ones stay above 0.01.
        sigma: The fixed sigma, or where the learned ones start; in units of the pixel range.
    """

    def __init__(
        self,
        in_dim: int,
        image_shape: Sequence[int],
        likelihood: GaussianLikelihood,
        sigma: float,
    ) -> None:
        super().__init__()
        # A free sigma on undithered bytes is rewarded without bound by constant pixels: it needs `deq` data.
        self.accepts = ("real", "deq") if likelihood == "gaussian_fixed" else ("deq",)
        self.mean_logits = PixelReadout(in_dim, image_shape)
        require(
            likelihood == "gaussian_fixed" or sigma > SIGMA_FLOOR,
            f"a learned sigma must start above {SIGMA_FLOOR}, got {sigma}",
        )
        self.raw_sigma: nn.Parameter | None = None
        self.sigma_map: PixelReadout | None = None
        if likelihood == "gaussian_fixed":
            self.sigma = sigma
        elif likelihood == "gaussian_learned":
            self.raw_sigma = nn.Parameter(torch.tensor(_inverse_softplus(sigma - SIGMA_FLOOR)))
        else:
            self.sigma_map = PixelReadout(in_dim, image_shape)
            nn.init.constant_(self.sigma_map.linear.bias, _inverse_softplus(sigma - SIGMA_FLOOR))

    def forward(self, h: Tensor) -> Independent:
        """The distribution of the image given the features."""
        mean = self.mean_logits(h).float().sigmoid()
        if self.sigma_map is not None:
            sigma = SIGMA_FLOOR + nn.functional.softplus(self.sigma_map(h).float())
        elif self.raw_sigma is not None:
            sigma = (SIGMA_FLOOR + nn.functional.softplus(self.raw_sigma)).expand_as(mean)
        else:
            sigma = mean.new_tensor(self.sigma).expand_as(mean)
        return Independent(Normal(mean, sigma, validate_args=False), PIXEL_DIMS)


def _inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def pixel_head(likelihood: Likelihood, in_dim: int, image_shape: Sequence[int], sigma: float) -> PixelHead:
    """The module that turns decoder features into the likelihood of an image."""
    if likelihood == "bernoulli":
        return BernoulliPixels(in_dim, image_shape)
    return GaussianPixels(in_dim, image_shape, likelihood, sigma)


class GaussianMixture(nn.Module):
    """Gaussians with full covariances, fitted to codes by maximum likelihood; N(0, I / D) before that.

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

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Take up codes [N, D]; variances count 1e-6 more than they are."""
        from sklearn import mixture

        found = mixture.GaussianMixture(len(self.weights), reg_covar=COVARIANCE_FLOOR, random_state=0)
        found.fit(codes.double().cpu().numpy())
        factors = np.linalg.cholesky(np.array(found.covariances_))
        for buffer, array in zip(self.buffers(), (found.weights_, found.means_, factors), strict=True):
            buffer.copy_(torch.from_numpy(array))

    @torch.no_grad()
    def draw(self, n: int) -> Tensor:
        """Codes [n, D]."""
        which = torch.multinomial(self.weights, n, replacement=True)
        noise = torch.randn_like(self.means[which])
        return self.means[which] + (self.factors[which] @ noise[..., None])[..., 0]


class Chain(Distribution):
    """Two stochastic layers as one variable: p(a) p(b|a), stored as the concatenation of both.

    One `a` draws one `b`: ancestral sampling, never a shared or averaged parent.

    Args:
        first: Distribution of the parent a, [..., D_a].
        then: The child's distribution given the parent: [..., D_a] to a distribution over [..., D_b].
        child_first: Store (b, a) instead of (a, b): a prior runs from the top down, a posterior upwards.
        sizes: (D_a, D_b).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        first: Independent,
        then: Callable[[Tensor], Independent],
        sizes: tuple[int, int],
        child_first: bool = False,
    ) -> None:
        self.first, self.then, self.sizes, self.child_first = first, then, sizes, child_first
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def _join(self, parent: Tensor, child: Tensor) -> Tensor:
        return torch.cat((child, parent) if self.child_first else (parent, child), -1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Reparameterised ancestral draw, [*sample_shape, ..., D_a + D_b]."""
        parent = self.first.rsample(torch.Size(sample_shape))
        return self._join(parent, self.then(parent).rsample())

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The same draw without gradients."""
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The value of log p(a) + log p(b|a) in nats."""
        sizes = self.sizes[::-1] if self.child_first else self.sizes
        one, two = value.split(sizes, -1)
        parent, child = (two, one) if self.child_first else (one, two)
        return self.first.log_prob(parent) + self.then(parent).log_prob(child)

    @property
    def mean(self) -> Tensor:
        """The parent's mean and the child's mean given it."""
        parent = self.first.mean
        return self._join(parent, self.then(parent).mean)
