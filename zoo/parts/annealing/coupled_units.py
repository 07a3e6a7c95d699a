"""Binary units of which every two may be coupled: Gibbs sampling one unit after the other, and its annealing.

Ackley, Hinton, Sejnowski. A Learning Algorithm for Boltzmann Machines. Cognitive Science 9(1), 1985.
Song, Meng, Liao, Ermon. Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving. ICML
2021. arXiv:2002.03629 (a sweep as the fixed point of a triangular map).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from zoo.errors import require
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.enumeration import Units, enumerated
from zoo.parts.annealing.paths import Path
from zoo.parts.distributions.bits import draw_bits

BLOCK = 32
"""Units of a sweep that are solved for at once."""


@torch.no_grad()
def sweep(s: Units, a: Tensor, d: Tensor) -> Units:
    """Draw every unit once given all others, one after the other in an order drawn anew: [M, N] to [M, N].

    Given its random numbers, a unit of the sweep is a function of those before it. The units of a block start
    as they were and are looked at together until none changes: that is the sweep of one unit after the other,
    for the first k of them are right after k looks; it takes about five.

    Args:
        s: Units [M, N].
        a: A, [N, N], symmetric with a zero diagonal, of p(s) ~ exp(sAs / 2 + ds).
        d: d, [N], or [M, N] of each chain; a unit whose d is infinite is held at 0 or 1.
    """
    s = s.clone()
    threshold = d - torch.rand_like(s).logit()
    for units in torch.randperm(s.shape[1], device=s.device).split(BLOCK):
        from_all, old = a[units], s[:, units]
        earlier = from_all[:, units].triu(1)
        others = threshold[:, units] + s @ from_all.T - old @ earlier
        while not torch.equal(new := (others + old @ earlier > 0).to(s), old):
            old = new
        s[:, units] = new
    return s


class CoupledState(NamedTuple):
    """Chains of `CoupledUnits`."""

    s: Tensor
    """[M, N], zeros and ones."""
    base: Tensor
    """d0 s, [M], float64."""
    score: Tensor
    """sAs / 2 + ds, [M], float64."""


class CoupledUnits(Path[CoupledState]):
    """Binary units, exp(sAs / 2 + ds), annealed from independent ones by one sweep per temperature.

    log f_beta(s) = (1 - beta) d0 s + beta (sAs / 2 + ds).

    Args:
        a: A, [N, N], symmetric with a zero diagonal.
        d: d, [N].
        base: d0, [N]: logits of the start, such as `base_rates`.

    Raises:
        UsageError: If the couplings do not fit the biases.
    """

    def __init__(self, a: Tensor, d: Tensor, base: Tensor) -> None:
        units = len(d)
        require(tuple(a.shape) == (units, units), f"a must be {(units, units)}, got {tuple(a.shape)}")
        require(len(base) == units, f"base must have {units} units, got {len(base)}")
        self.a, self.d, self.d0 = (value.detach() for value in (a, d, base))
        self.log_z0 = float(softplus(self.d0.double()).sum())

    def place(self, s: Units) -> CoupledState:
        """Chains at states [M, N]."""
        score = 0.5 * ((s @ self.a) * s).sum(1, dtype=torch.float64) + (s @ self.d).double()
        return CoupledState(s, (s @ self.d0).double(), score)

    def start(self, num_chains: int) -> CoupledState:
        """Draws of independent units."""
        return self.place(draw_bits(self.d0.expand(num_chains, -1)))

    def log_density(self, state: CoupledState, beta: float) -> Tensor:
        """The value of log f_beta(s), [M]; at beta = 1 minus the energy."""
        return (1 - beta) * state.base + beta * state.score

    def transition(self, state: CoupledState, beta: float) -> CoupledState:
        """One sweep."""
        return self.place(sweep(state.s, beta * self.a, (1 - beta) * self.d0 + beta * self.d))

    def log_z(self) -> float | None:
        """Summed over at most 20 units."""
        if len(self.d) > enumeration.ENUMERABLE:
            return None
        exact = CoupledUnits(self.a.double(), self.d.double(), self.d0.double())
        scores = enumerated(lambda s: exact.place(s).score, exact.d, len(exact.d))
        return float(scores.logsumexp(0))
