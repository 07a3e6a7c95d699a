"""Heads from features to distributions over images: `.log_prob`, `.mean`."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.special import log_ndtr

from zoo.contract.batch import BYTE, PixelKind
from zoo.errors import require
from zoo.parts.distributions.bits import PIXEL_DIMS, bernoulli
from zoo.parts.networks.backbones import Features, MapReadout, pixel_readout
from zoo.parts.networks.dense import PixelReadout

SIGMA_FLOOR = 1e-2
MEAN_RANGE = (1e-3, 0.999)
GaussianLikelihood = Literal["gaussian_fixed", "gaussian_learned", "gaussian_per_pixel"]
Likelihood = Literal["bernoulli", GaussianLikelihood]


def gaussian_pixels(logits: Tensor, sigma: Tensor | float) -> Independent:
    """Independent Gaussian pixels [..., C, H, W] with means sigmoid(logits)."""
    mean = logits.float().sigmoid()
    scale = torch.as_tensor(sigma, device=mean.device).expand_as(mean)
    return Independent(Normal(mean, scale, validate_args=False), PIXEL_DIMS)


class GaussianBytes(Normal):
    """Bytes k at 2 k / 255 - 1, each with the mass of N(mean, std^2) around it; 0 and 255 have the tails.

    Ho, Jain, Abbeel 2020 (arXiv:2006.11239), equation 13.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the probabilities of bytes, given in [-1, 1], in nats."""
        x, mean, std = value.double(), self.loc.double(), self.scale.double()
        half, place = 1 / (BYTE * std), (x - mean) / std
        near, far = -(place.abs() - half), -(place.abs() + half)
        inside = log_ndtr(near) + (-(log_ndtr(far) - log_ndtr(near)).expm1()).log()
        low, high = log_ndtr(place + half), log_ndtr(half - place)
        log_p = torch.where(x <= half * std - 1, low, torch.where(x >= 1 - half * std, high, inside))
        return log_p.to(self.loc)


class PixelHead(nn.Module):
    """Features [..., F], or maps [..., M, H / 2, W / 2], to a distribution over images [..., C, H, W]."""

    accepts: tuple[PixelKind, ...]
    """Kinds of pixels for which the likelihood, or the score of `pseudo` ones, means what it says."""
    mean_logits: PixelReadout | MapReadout

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Set untouched (zero) output biases to the logits of a mean image [C, H, W].

        The mean is clipped to [0.001, 0.999] (Burda et al. 2016, released code). Biases that have been
        trained are left alone.
        """
        bias = self.mean_logits.bias
        if not bias.any():
            bias.copy_(mean.clamp(*MEAN_RANGE).logit().view_as(bias))


class BernoulliPixels(PixelHead):
    """Features [..., F] to independent Bernoulli pixels [..., C, H, W].

    Args:
        features: Width F of the features, or (M, H / 2, W / 2) of the maps.
        image_shape: (C, H, W).
    """

    accepts = ("binary", "pseudo")

    def __init__(self, features: Features, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.mean_logits = pixel_readout(features, image_shape)

    def forward(self, h: Tensor) -> Independent:
        """The distribution of the image given the features."""
        return bernoulli(self.mean_logits(h))


class GaussianPixels(PixelHead):
    """Features [..., F] to independent Gaussian pixels [..., C, H, W] with means in (0, 1).

    Args:
        features: Width F of the features, or (M, H / 2, W / 2) of the maps.
        image_shape: (C, H, W).
        likelihood: A fixed sigma, one learned sigma, or sigma(z) per pixel; learned ones stay above 0.01.
        sigma: The fixed sigma, or where the learned ones start; in units of the pixel range.
    """

    def __init__(
        self,
        features: Features,
        image_shape: Sequence[int],
        likelihood: GaussianLikelihood,
        sigma: float,
    ) -> None:
        super().__init__()
        # A free sigma on undithered bytes is rewarded without bound by constant pixels: it needs `deq` data.
        self.accepts = ("real", "deq") if likelihood == "gaussian_fixed" else ("deq",)
        self.mean_logits = pixel_readout(features, image_shape)
        require(
            likelihood == "gaussian_fixed" or sigma > SIGMA_FLOOR,
            f"a learned sigma must start above {SIGMA_FLOOR}, got {sigma}",
        )
        self.raw_sigma: nn.Parameter | None = None
        self.sigma_map: PixelReadout | MapReadout | None = None
        if likelihood == "gaussian_fixed":
            self.sigma = sigma
        elif likelihood == "gaussian_learned":
            self.raw_sigma = nn.Parameter(torch.tensor(_inverse_softplus(sigma - SIGMA_FLOOR)))
        else:
            self.sigma_map = pixel_readout(features, image_shape)
            nn.init.constant_(self.sigma_map.bias, _inverse_softplus(sigma - SIGMA_FLOOR))

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


def pixel_head(
    likelihood: Likelihood, features: Features, image_shape: Sequence[int], sigma: float
) -> PixelHead:
    """The module that turns decoder features into the likelihood of an image."""
    if likelihood == "bernoulli":
        return BernoulliPixels(features, image_shape)
    return GaussianPixels(features, image_shape, likelihood, sigma)
