"""Two layers of binary units: the annealing path of an RBM.

Salakhutdinov, Murray. On the Quantitative Analysis of Deep Belief Networks. ICML 2008.
Burda, Grosse, Salakhutdinov. Accurate and Conservative Estimates of MRF Log-likelihood using Reverse
Annealing. AISTATS 2015. arXiv:1412.8566 (RAISE).

Departs from the papers: a base rate has 5 % pseudo-counts of either value, so that it is finite where a unit
is always on.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from zoo.contract.shapes import PerImage
from zoo.errors import require
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.enumeration import Units, enumerated, settings
from zoo.parts.annealing.paths import Betas, Path, anneal_back
from zoo.parts.distributions.bits import draw_bits
from zoo.parts.estimators import log_mean_exp

PSEUDO_COUNTS = 0.05
"""Counts of a 0 and of a 1 that a base rate adds to each image."""


def base_rates(mean: Tensor) -> Float[Tensor, " units"]:  # noqa: F722
    """Logits [D] of the means of binary units, such as a mean image, with 5 % pseudo-counts of 0 and of 1."""
    return ((mean.flatten() + PSEUDO_COUNTS) / (1 + 2 * PSEUDO_COUNTS)).logit()


class PairState(NamedTuple):
    """Chains of a `BinaryPair`."""

    v: Tensor
    """[M, D], zeros and ones."""
    drive: Tensor
    """vW + b, [M, H]."""
    base: Tensor
    """c0 v, [M], float64."""
    bias: Tensor
    """c v, [M], float64."""


class BinaryPair(Path[PairState]):
    """Two layers of binary units, exp(vWh + bh + cv), annealed from independent ones; h is summed out.

    log f_beta(v) = (1 - beta) c0 v + beta c v + sum_j softplus((1 - beta) b0 + beta (vW + b))_j.

    Args:
        weight: W, [D, H].
        hidden_bias: b, [H].
        visible_bias: c, [D].
        base: c0, [D]: logits of the start, such as `base_rates`.
        hidden_base: b0, [H]: those of h; by default 0.

    Raises:
        UsageError: If the biases do not fit the weight.
    """

    def __init__(
        self,
        weight: Tensor,
        hidden_bias: Tensor,
        visible_bias: Tensor,
        base: Tensor,
        hidden_base: Tensor | None = None,
    ) -> None:
        sizes = (len(visible_bias), len(hidden_bias))
        require(tuple(weight.shape) == sizes, f"weight must be {sizes}, got {tuple(weight.shape)}")
        require(len(base) == sizes[0], f"base must have {sizes[0]} units, got {len(base)}")
        hidden_base = torch.zeros_like(hidden_bias) if hidden_base is None else hidden_base
        require(
            len(hidden_base) == sizes[1], f"hidden_base must have {sizes[1]} units, got {len(hidden_base)}"
        )
        self.weight, self.b, self.c, self.c0, self.b0 = (
            value.detach() for value in (weight, hidden_bias, visible_bias, base, hidden_base)
        )
        self.log_z0 = float(softplus(self.c0.double()).sum() + softplus(self.b0.double()).sum())

    def place(self, v: Units) -> PairState:
        """Chains at visible states [M, D]."""
        base, bias = (v @ torch.stack((self.c0, self.c), 1)).double().unbind(1)
        return PairState(v, torch.addmm(self.b, v, self.weight), base, bias)

    def start(self, num_chains: int) -> PairState:
        """Draws of v from the base rates."""
        return self.place(draw_bits(self.c0.expand(num_chains, -1)))

    def log_density(self, state: PairState, beta: float) -> Tensor:
        """The value of log f_beta(v), [M]; at beta = 1 minus the free energy."""
        hidden = softplus((1 - beta) * self.b0 + beta * state.drive).sum(1, dtype=torch.float64)
        return (1 - beta) * state.base + beta * state.bias + hidden

    def transition(self, state: PairState, beta: float) -> PairState:
        """Draw h given v, then v given h."""
        h = draw_bits((1 - beta) * self.b0 + beta * state.drive)
        return self.place(
            draw_bits(torch.addmm((1 - beta) * self.c0 + beta * self.c, h, self.weight.T, alpha=beta))
        )

    def swapped(self) -> "BinaryPair":
        """The same model with its layers exchanged: v is summed out."""
        return BinaryPair(self.weight.T, self.c, self.b, self.b0, self.c0)

    def smaller(self) -> "BinaryPair":
        """The model with its smaller layer as v."""
        return self if len(self.c) <= len(self.b) else self.swapped()

    def log_densities(self) -> Float[Tensor, " settings"]:  # noqa: F722
        """The value of log f_1 at all 2^D settings of v, in the order of `settings`; float64.

        Raises:
            UsageError: If there are more than 20 units in v.
        """
        exact = BinaryPair(*(value.double() for value in (self.weight, self.b, self.c, self.c0, self.b0)))
        width = max(self.weight.shape)
        return enumerated(lambda v: exact.log_density(exact.place(v), 1.0), exact.c, width)

    def log_z(self) -> float | None:
        """Summed over the smaller layer, of at most 20 units."""
        if min(self.weight.shape) > enumeration.ENUMERABLE:
            return None
        return float(self.smaller().log_densities().logsumexp(0))

    def exact_draws(self, num_chains: int) -> Units:
        """Independent draws of v from the model, [M, D]; only where a layer can be enumerated."""
        smaller = self.smaller()
        numbers = torch.multinomial(smaller.log_densities().softmax(0), num_chains, replacement=True)
        drawn = settings(numbers, smaller.c)
        return drawn if smaller is self else draw_bits(torch.addmm(self.c, drawn, self.weight.T))


@torch.no_grad()
def raise_log_prob(path: BinaryPair, x: Units, num_chains: int, betas: Betas) -> PerImage:
    """A lower bound, in expectation, on log p of the annealed model at each image, [B] (RAISE, algorithm 2).

    The annealed model draws v by running the chain of `anneal` forwards, and comes close to the pair itself
    when the schedule is long. Cost and memory are those of B * num_chains chains.

    Args:
        path: The pair that is annealed.
        x: Binary images [B, D].
        num_chains: Chains per image.
        betas: Inverse temperatures, from 0 to 1.

    Raises:
        UsageError: If `num_chains` is below 1.
    """
    require(num_chains >= 1, f"num_chains must be at least 1, got {num_chains}")
    start = path.place(x.repeat(num_chains, 1))
    log_w = anneal_back(path, start, betas)[0]
    return log_mean_exp((path.log_density(start, 1.0) - log_w).unflatten(0, (num_chains, len(x))))
