"""Gaussian visible units under binary hidden ones: the annealing path of a Gaussian RBM.

As `annealing.BinaryPair` does for binary ones. Cho, Ilin, Raiko. Improved Learning of Gaussian-Bernoulli
Restricted Boltzmann Machines. ICANN 2011. doi:10.1007/978-3-642-21735-7_2 (the model).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from zoo.errors import require
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.enumeration import Units, enumerated
from zoo.parts.annealing.paths import Path
from zoo.parts.distributions.bits import draw_bits


class GaussianState(NamedTuple):
    """Chains of a `GaussianPair`."""

    v: Tensor
    """[M, D]."""
    drive: Tensor
    """vW + b, [M, H]."""


class GaussianPair(Path[GaussianState]):
    """exp(-|v - c|^2 / 2 + vWh + bh), annealed from independent v of unit variance; h is summed out.

    log f_beta(v) = -|v - c_beta|^2 / 2 + sum_j softplus(beta (vW + b)_j), c_beta = (1 - beta) c0 + beta c.

    Args:
        weight: W, [D, H].
        hidden_bias: b, [H].
        visible_bias: c, [D].
        base: c0, [D]: the means of the start.

    Raises:
        UsageError: If the biases do not fit the weight.
    """

    def __init__(self, weight: Tensor, hidden_bias: Tensor, visible_bias: Tensor, base: Tensor) -> None:
        sizes = (len(visible_bias), len(hidden_bias))
        require(tuple(weight.shape) == sizes, f"weight must be {sizes}, got {tuple(weight.shape)}")
        require(len(base) == sizes[0], f"base must have {sizes[0]} units, got {len(base)}")
        self.weight, self.b, self.c, self.c0 = (
            value.detach() for value in (weight, hidden_bias, visible_bias, base)
        )
        self.log_z0 = sizes[1] * math.log(2) + 0.5 * sizes[0] * math.log(2 * math.pi)

    def place(self, v: Units) -> GaussianState:
        """Chains at visible states [M, D]."""
        return GaussianState(v, torch.addmm(self.b, v, self.weight))

    def start(self, num_chains: int) -> GaussianState:
        """Draws of v from the base."""
        return self.place(_noisy(self.c0.expand(num_chains, -1)))

    def _centre(self, beta: float) -> Tensor:
        return (1 - beta) * self.c0 + beta * self.c

    def log_density(self, state: GaussianState, beta: float) -> Tensor:
        """The value of log f_beta(v), [M]; at beta = 1 minus the free energy."""
        distance = (state.v - self._centre(beta)).square().sum(1, dtype=torch.float64)
        return softplus(beta * state.drive).sum(1, dtype=torch.float64) - 0.5 * distance

    def transition(self, state: GaussianState, beta: float) -> GaussianState:
        """Draw h given v, then v given h."""
        h = draw_bits(beta * state.drive)
        return self.place(_noisy(torch.addmm(self._centre(beta), h, self.weight.T, alpha=beta)))

    def log_densities(self) -> Float[Tensor, " settings"]:  # noqa: F722
        """The log of f_1 with v integrated out at all 2^H settings of h, in the order of `settings`; float64.

        It is bh + cWh + |Wh|^2 / 2 + (D / 2) log 2 pi.

        Raises:
            UsageError: If there are more than 20 units in h.
        """
        weight, b, c = self.weight.double(), self.b.double(), self.c.double()

        def log_density(h: Units) -> Tensor:
            shift = h @ weight.T
            return h @ b + shift @ c + 0.5 * shift.square().sum(1)

        return enumerated(log_density, b, max(weight.shape)) + 0.5 * len(c) * math.log(2 * math.pi)

    def log_z(self) -> float | None:
        """Summed over at most 20 hidden units."""
        if len(self.b) > enumeration.ENUMERABLE:
            return None
        return float(self.log_densities().logsumexp(0))


def _noisy(mean: Tensor) -> Tensor:
    return mean + torch.randn_like(mean)
