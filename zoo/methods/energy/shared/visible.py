"""The lower layer of an RBM: images as the units v of its energy, binary or Gaussian.

Its energy is the layer's own term in v, minus vWh, minus bh.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.nn.functional import logsigmoid, softplus

from zoo.contract import BYTE, IMAGES_AT_ONCE, MID_GREY, Images, Partition, PerImage, PixelKind
from zoo.parts.annealing.binary_pair import BinaryPair, base_rates
from zoo.parts.annealing.gaussian_pair import GaussianPair
from zoo.parts.annealing.verdicts import log_partition
from zoo.parts.distributions.bits import PIXEL_DIMS, draw_bits
from zoo.parts.estimators import log_mean_exp

SMALLEST_STD = 0.1
"""Standard deviation that every pixel counts as having at least: a constant one is not blown up."""
QUADRATURE_POINTS = 16


class Visible(nn.Module, ABC):
    """A layer of visible units with biases c.

    Args:
        image_shape: (C, H, W) of one image.
    """

    accepts: tuple[PixelKind, ...]
    """Kinds of pixels that the units can be."""
    mean: Tensor

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.dim = tuple(image_shape), math.prod(image_shape)
        self.bias = nn.Parameter(torch.zeros(self.dim))
        self.register_buffer("mean", torch.full((self.dim,), MID_GREY))

    @property
    def untouched(self) -> bool:
        """Whether the layer has seen no data."""
        return bool((self.mean == MID_GREY).all())

    @abstractmethod
    def start_at(self, mean: Tensor, originals: Any) -> None:
        """Take up the statistics of the training images; biases that explain them without hidden units.

        Args:
            mean: Their mean [C, H, W].
            originals: All of them as bytes [N, C, H, W], before any binarisation or dithering: a tensor, or
                what is read from a file by rows.
        """

    @abstractmethod
    def code(self, x: Images) -> Tensor:
        """Images to units v [B, D]."""

    @abstractmethod
    def start(self, n: int) -> Tensor:
        """Independent units [n, D] with the means of training images: where chains begin."""

    @abstractmethod
    def energy(self, v: Tensor) -> Tensor:
        """The layer's own term, [B]."""

    @property
    @abstractmethod
    def log_volume(self) -> Tensor:
        """The value of log |dx/dv|, which turns a density of units into one of images, in nats."""

    @abstractmethod
    def draw(self, m: Tensor) -> Tensor:
        """Units given the hidden ones, by their natural parameters m = c + Wh, [B, D]."""

    @abstractmethod
    def emission(self, m: Tensor) -> Independent:
        """The distribution of the image [C, H, W] given the hidden units."""

    @abstractmethod
    def log_conditional(self, v: Tensor, drive: Tensor, weight: Tensor) -> PerImage:
        """D log p(v_i | all other units) at one random i per image: log p(v)'s pseudo-likelihood on average.

        Args:
            v: Units [B, D].
            drive: vW + b, [B, H].
            weight: W, [D, H].
        """

    @abstractmethod
    def log_partition(
        self, weight: Tensor, hidden_bias: Tensor, num_chains: int, num_steps: int
    ) -> Partition:
        """The log Z of the units' density."""


class BinaryVisible(Visible):
    """Zeros and ones: the layer's term is -cv."""

    accepts = ("binary",)

    @torch.no_grad()
    def start_at(self, mean: Tensor, originals: Any) -> None:
        n = len(originals)
        self.mean.copy_(mean.flatten())
        self.bias.copy_(((n * self.mean + 1) / (n + 2)).logit())  # one count of a 0 and one of a 1

    def code(self, x: Images) -> Tensor:
        return x.flatten(1)

    def start(self, n: int) -> Tensor:
        return draw_bits(base_rates(self.mean).expand(n, -1))

    def energy(self, v: Tensor) -> Tensor:
        return -v @ self.bias

    @property
    def log_volume(self) -> Tensor:
        return torch.zeros_like(self.mean[0])

    def draw(self, m: Tensor) -> Tensor:
        return draw_bits(m)

    def emission(self, m: Tensor) -> Independent:
        logits = m.float().unflatten(-1, self.shape)
        return Independent(Bernoulli(logits=logits, validate_args=False), PIXEL_DIMS)

    def log_conditional(self, v: Tensor, drive: Tensor, weight: Tensor) -> PerImage:
        i = torch.randint(self.dim, (len(v),), device=v.device)
        change = 1 - 2 * v.gather(1, i[:, None])
        flipped = drive + change * weight[i]
        excess = softplus(drive).sum(1) - softplus(flipped).sum(1) - change[:, 0] * self.bias[i]
        return self.dim * logsigmoid(excess)  # F(flipped v) - F(v)

    def log_partition(
        self, weight: Tensor, hidden_bias: Tensor, num_chains: int, num_steps: int
    ) -> Partition:
        pair = BinaryPair(weight, hidden_bias, self.bias, base_rates(self.mean))
        return log_partition(pair, num_chains, num_steps)


class GaussianVisible(Visible):
    """Pixels standardised by the training images, with unit noise: the layer's term is |v - c|^2 / 2.

    In pixels: s_i is the standard deviation of pixel i, its bias mean_i + s_i c_i.
    """

    accepts = ("real", "deq")
    std: Tensor

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.register_buffer("std", torch.ones(self.dim))

    @torch.no_grad()
    def start_at(self, mean: Tensor, originals: Any) -> None:
        self.mean.copy_(mean.flatten())
        n = len(originals)
        total = squares = torch.zeros(self.shape, dtype=torch.float64)
        for x in originals.split(IMAGES_AT_ONCE):
            total = total + x.sum(0, dtype=torch.float64)
        for x in originals.split(IMAGES_AT_ONCE):
            squares = squares + (x - total / n).square().sum(0)
        std = (squares / n).sqrt().flatten() / BYTE
        self.std.copy_(std.clamp(min=SMALLEST_STD))

    def code(self, x: Images) -> Tensor:
        return (x.flatten(1) - self.mean) / self.std

    def start(self, n: int) -> Tensor:
        return torch.randn_like(self.mean.expand(n, -1))

    def energy(self, v: Tensor) -> Tensor:
        return 0.5 * (v - self.bias).square().sum(1)

    @property
    def log_volume(self) -> Tensor:
        return self.std.log().sum()

    def draw(self, m: Tensor) -> Tensor:
        return m + torch.randn_like(m)

    def emission(self, m: Tensor) -> Independent:
        mean = (self.mean + self.std * m.float()).unflatten(-1, self.shape)
        std = self.std.view(self.shape).expand_as(mean)
        return Independent(Normal(mean, std, validate_args=False), PIXEL_DIMS)

    def log_conditional(self, v: Tensor, drive: Tensor, weight: Tensor) -> PerImage:
        i = torch.randint(self.dim, (len(v),), device=v.device)
        c, w, value = self.bias[i], weight[i], v.gather(1, i[:, None])
        others = drive - value * w
        points, weights = (
            torch.from_numpy(array).to(v) for array in np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
        )

        def log_f(u: Tensor) -> Tensor:
            return softplus(others + u[:, None] * w).sum(1) - 0.5 * (u - c).square()

        likely = c + (drive.sigmoid() * w).sum(1)
        terms = torch.stack(
            [log_f(likely + p) + 0.5 * p.square() + q.log() for p, q in zip(points, weights, strict=True)]
        )
        log_normaliser = log_mean_exp(terms) + math.log(QUADRATURE_POINTS)  # Gauss-Hermite about `likely`
        return self.dim * (log_f(value[:, 0]) - log_normaliser)

    def log_partition(
        self, weight: Tensor, hidden_bias: Tensor, num_chains: int, num_steps: int
    ) -> Partition:
        pair = GaussianPair(weight, hidden_bias, self.bias, torch.zeros_like(self.bias))
        return log_partition(pair, num_chains, num_steps)
