"""Hopfield. Neural Networks and Physical Systems with Emergent Collective Computational Abilities. PNAS 1982.

doi:10.1073/pnas.79.8.2554. How much a net holds: Amit, Gutfreund, Sompolinsky. Storing Infinite Numbers of
Patterns in a Spin-Glass Model of Neural Networks. Phys. Rev. Lett. 55, 1985 (`scripts/capacity.py`). The
projection rule: Personnaz, Guyon, Dreyfus. Information Storage and Retrieval in Spin-Glass Like Neural
Networks. J. Physique Lett. 46, 1985.

Departs from the paper: units are -1 and +1 in the place of 0 and 1; the weights are divided by the number of
units; units are visited in sweeps, each in an order drawn anew, in the place of random times of their own;
thresholds are learnt where they are asked for.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.contract import Batch, ClosedForm, Energies, Images, PerImage, PixelKind, Repairs, Terms, Walks
from zoo.errors import UsageError, at_least, require
from zoo.randomness import drawing_from, own_stream

TIE = 1e-6
"""Fields up to so far from 0 are 0: they are sums of float32 weights, whose rounding must not break ties."""
SHOWN = 20
"""States of a sweep that a walk shows."""


class Recalled(NamedTuple):
    """Where the recall of B probes is; written over by the next step."""

    visits: int
    """Visits of units so far."""
    states: Tensor
    """s, -1 or +1, [B, D] float64."""
    energies: Tensor
    """E(s), [B] float64."""


class Hopfield(ClosedForm, Walks, Energies, Repairs):
    """Hopfield net: an associative memory whose units fall into the nearest minimum of an energy.

    E(s) = -s'Ws / 2 - theta's over s in {-1, +1}, W symmetric and without a diagonal, in memory for pixels
    x pixels. Until it learns it holds random patterns, those of the paper's experiments. A walk is a recall
    that starts at independent pixels.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_patterns: Training images that are stored, one of each class in turn; the seed of the run draws
            them.
        rule: `hebb` adds up the products of the patterns' units; `projection` projects onto the patterns, and
            holds those that are alike, as images are.
        thresholds: Whether theta is learnt, as the weights of one more unit that is always on; else it is 0,
            and with a pattern its negative is stored.

    Raises:
        UsageError: If the number of patterns is not positive, or as large as that of the units under
            `projection`.
    """

    paper = (
        "Hopfield. Neural Networks and Physical Systems with Emergent Collective Computational Abilities. "
        "PNAS 1982."
    )
    patterns: Tensor
    rows: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_patterns: int = 10,
        rule: Literal["hebb", "projection"] = "hebb",
        thresholds: bool = False,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, num_patterns=num_patterns)
        dim = math.prod(self.image_shape)
        require(
            rule == "hebb" or num_patterns < dim,
            f"num_patterns must be below the {dim} pixels for rule: projection, got {num_patterns}",
        )
        self.dim, self.num_patterns, self.rule, self.thresholds = dim, num_patterns, rule, thresholds
        self.weight = nn.Parameter(torch.zeros(dim, dim))
        self.theta = nn.Parameter(torch.zeros(dim))
        self.register_buffer("rows", torch.full((num_patterns,), -1))
        self.register_buffer("patterns", 2.0 * torch.randint(2, (num_patterns, dim)) - 1)
        self.store(self.patterns)

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",)

    @torch.no_grad()
    def store(self, patterns: Tensor) -> None:
        """Hold patterns [P, D] of -1 and +1, in the place of those before.

        Raises:
            UsageError: If another value is among them.
        """
        _refuse_others("patterns", patterns, -1, 1)
        xi = patterns.double()
        if self.thresholds:
            xi = nn.functional.pad(xi, (0, 1), value=1.0)
        weight = xi.T @ xi / self.dim if self.rule == "hebb" else torch.linalg.pinv(xi) @ xi
        weight = (0.5 * (weight + weight.T)).fill_diagonal_(0)  # symmetric to the last bit
        self.weight.copy_(weight[: self.dim, : self.dim])
        if self.thresholds:
            self.theta.copy_(weight[: self.dim, self.dim])

    def field(self, s: Tensor) -> Tensor:
        """W s + theta at states [B, D]."""
        return s @ self.weight.detach().double() + self.theta.detach().double()

    @torch.no_grad()
    def recall(
        self, s: Tensor, held: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Iterator[Recalled]:
        """Visit unit after unit, s_i <- sign(W_i s + theta_i), until a sweep flips none; on a tie s_i stays.

        Args:
            s: Probes, -1 or +1, [B, D] float64.
            held: True where a unit of a probe may not flip, [B, D]; None lets all.
            generator: Of the orders.

        Yields:
            The start, and what there is after every visit that flipped the unit of a probe.

        Raises:
            UsageError: If a probe has other values.
        """
        _refuse_others("probes", s, -1, 1)
        s, h, weight = s.clone(), self.field(s), self.weight.double()
        energy, visits, flipped = self.energy_of(s), 0, True
        free = torch.ones_like(s, dtype=torch.bool) if held is None else ~held
        yield Recalled(visits, s, energy)
        while flipped:
            flipped = False
            with drawing_from(generator):
                order = torch.randperm(self.dim).tolist()
            for i in order:
                visits += 1
                b = ((s[:, i] * h[:, i] < -TIE) & free[:, i]).nonzero()[:, 0]
                if not len(b):
                    continue
                change = -2 * s[b, i]
                energy[b] -= change * h[b, i]
                h[b] += change[:, None] * weight[i]
                s[b, i] += change
                flipped = True
                yield Recalled(visits, s, energy)

    def energy_of(self, s: Tensor) -> Tensor:
        """E(s) of states [B, D], [B] float64."""
        return -0.5 * (s * (self.field(s) + self.theta.detach())).sum(1)

    def energy(self, x: Images) -> PerImage:
        return self.energy_of(states_of(x)).float()

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        at_least(1, n=n)
        with drawing_from(generator):
            start = self.random_states(n)
        stride, due, s, shown = max(1, self.dim // SHOWN), 0, start, True
        for visits, s, _ in self.recall(start, generator=generator):
            shown = visits >= due
            if shown:
                yield self.picture(s)
                due = visits + stride
        if not shown:
            yield self.picture(s)

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known = mask > 0
        seen = states_of(torch.where(known, x, 0.0))
        with drawing_from(generator):
            start = torch.where(known.flatten(1), seen, self.random_states(len(x)))
        end = deque(self.recall(start, known.flatten(1), generator), maxlen=1).pop()
        return torch.where(known, x, self.picture(end.states))

    def random_states(self, n: int) -> Tensor:
        """States whose units are independent, and as often on as in the patterns, [n, D] float64."""
        on = ((self.patterns > 0).sum(0) + 1) / (self.patterns.any(1).sum() + 2)  # never surely
        return 2.0 * (torch.rand(n, self.dim, device=self.device) < on).double() - 1

    def picture(self, s: Tensor) -> Images:
        """States [B, D] as images [B, C, H, W] of 0 and 1."""
        return (s > 0).float().unflatten(1, self.image_shape)

    @property
    def needs_data_module(self) -> bool:
        return True

    def start_from(self, data: Any) -> None:
        """Choose which training images are stored; on several processes all choose the same."""
        y = data.split("train").y
        require(
            self.num_patterns <= len(y),
            f"num_patterns must be at most the {len(y)} training images, got {self.num_patterns}",
        )
        with own_stream(torch.initial_seed() % 2**63):
            order = torch.randperm(len(y))
        turn = torch.empty_like(y)
        for label in y.unique():
            turn[y[order] == label] = torch.arange(int((y == label).sum()))
        by_turn = (turn * (y.max() + 2) + y[order]).argsort()
        self.rows.copy_(order[by_turn[: self.num_patterns]])

    def statistics(self) -> list[Tensor]:
        return [self.patterns]

    def absorb(self, batch: Batch) -> None:
        b, p = (batch.row[:, None] == self.rows).nonzero(as_tuple=True)
        self.patterns[p] = states_of(batch.x[b]).float()

    def settle(self) -> Terms:
        """Store what was seen, which is all that was chosen unless batches were left out."""
        self.patterns.sign_()  # two processes may have seen the same image
        stored = self.patterns[self.patterns.any(1)]
        self.store(stored)
        kept = (stored * self.field(stored.double()) > -TIE).all(1).double()
        return {"train/stable": kept.mean()} if len(kept) else {}


def states_of(x: Images) -> Tensor:
    """Images of 0 and 1 as states -1 and +1, [B, D] float64.

    Raises:
        UsageError: If another value is among them.
    """
    _refuse_others("pixels", x, 0, 1)
    return 2 * x.double().flatten(1) - 1


def _refuse_others(name: str, values: Tensor, low: int, high: int) -> None:
    others = values[(values != low) & (values != high)]
    if len(others):
        raise UsageError(f"{name} must be {low} or {high}, got {float(others[0]):g}")
