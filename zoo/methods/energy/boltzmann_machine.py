"""Ackley, Hinton, Sejnowski. A Learning Algorithm for Boltzmann Machines. Cognitive Science 9(1), 1985.

doi:10.1207/s15516709cog0901_7. Persistent chains, and mean field in the data phase: Salakhutdinov, Hinton.
Deep Boltzmann Machines. AISTATS 2009, section 2. The score: Neal. Annealed Importance Sampling. Statistics
and Computing 2001, from independent units by one sweep per temperature.

Departs from the paper: persistent chains in the place of annealing towards equilibrium, mean field in that of
Gibbs sampling with clamped images; it updates all hidden units at once, by half of the way, which keeps it
from oscillating.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo.contract import (
    Batch,
    Images,
    Normalises,
    Partition,
    PerImage,
    PixelKind,
    Repairs,
    Side,
    Terms,
    Walks,
)
from zoo.errors import at_least
from zoo.methods.energy.shared.contrastive import BURN_IN, Contrastive, Pace, first_weights
from zoo.methods.energy.shared.visible import BinaryVisible
from zoo.parts.annealing.binary_pair import base_rates
from zoo.parts.annealing.coupled_units import CoupledUnits, sweep
from zoo.parts.annealing.verdicts import log_partition
from zoo.parts.distributions.bits import draw_bits, entropy
from zoo.randomness import drawing_from, own_stream

DAMPING = 0.5
"""Share of its old value that a mean keeps in an update of mean field."""
MEANS_AGREE = 1e-4
"""Largest change of a mean at which mean field has converged."""
SCORED_AFTER = 200
"""Updates of mean field at most where an image is scored."""


class BoltzmannMachine(Contrastive, Walks, Normalises, Repairs):
    """Boltzmann machine: visible and hidden binary units, every two of them coupled.

    `loss` is a surrogate whose gradient is that of the bound on the likelihood; its value measures nothing.
    `val/pseudo_log_prob` shows how far it has come.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_hidden: Number of hidden units; 0 is the fully visible machine, whose energy is exact. Up to 20
            units in all, log Z is exact.
        num_chains: Number of persistent chains, on each process.
        gibbs_steps: Sweeps of the persistent chains per batch, each over all units in a random order.
        mean_field_steps: Updates of the hidden units' means, at most, while training.
        lr: Step size at the start.
        lr_schedule: Constant, or falling linearly to 0 over the trainer's epochs.
        weight_decay: Decay of the couplings, not of the biases.
        momentum: Momentum of the first epochs.
        momentum_final: Momentum afterwards.
        momentum_epochs: Epochs with the first momentum.
        walk_steps: Sweeps from independent units to a sample; a walk shows the second half of them.

    Raises:
        UsageError: If a number is out of range.
    """

    paper = "Ackley, Hinton, Sejnowski. A Learning Algorithm for Boltzmann Machines. Cognitive Science 1985."
    progress = "pseudo_log_prob"
    draws_pixels = True
    chains: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_hidden: int = 100,
        num_chains: int = 100,
        gibbs_steps: int = 5,
        mean_field_steps: int = 20,
        lr: float = 0.005,
        lr_schedule: Literal["constant", "linear"] = "linear",
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        momentum_final: float = 0.0,
        momentum_epochs: int = 0,
        walk_steps: int = 1000,
    ) -> None:
        pace = Pace(lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs)
        super().__init__(image_shape, pace=pace)
        self.save_hyperparameters()
        at_least(0, num_hidden=num_hidden)
        at_least(1, num_chains=num_chains, gibbs_steps=gibbs_steps, mean_field_steps=mean_field_steps)
        at_least(1, walk_steps=walk_steps)
        self.gibbs_steps, self.mean_field_steps, self.walk_steps = gibbs_steps, mean_field_steps, walk_steps
        self.energy_side = Side.UPPER if num_hidden else Side.EXACT
        self.pixels = BinaryVisible(self.image_shape)
        self.bias = nn.Parameter(torch.zeros(num_hidden))
        units = self.pixels.dim + num_hidden
        self.weight = first_weights(units, units)
        self.weight.data.tril_(-1)
        self.register_buffer("chains", self.start(num_chains))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return self.pixels.accepts

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("chains",)

    def start_from(self, data: Any) -> None:
        """Start untouched biases and chains at the training images' means."""
        if self.pixels.untouched:
            self.pixels.start_at(data.mean_image(), data.originals("train"))
            with own_stream(torch.initial_seed() % 2**63, self.global_rank):
                self.chains.copy_(self.start(len(self.chains)))

    @property
    def theta(self) -> tuple[Tensor, Tensor]:
        """A [N, N] and d [N] of E(s) = -sAs / 2 - ds, s = (v, h); A is made of one number for every pair."""
        lower = self.weight.tril(-1)
        return lower + lower.T, torch.cat((self.pixels.bias, self.bias))

    def energy_of(self, s: Tensor) -> Tensor:
        """E(s) of units [B, N] or, every pair being of two units, its mean over independent ones, [B]."""
        return -((s @ self.weight.tril(-1)) * s).sum(1) - s @ torch.cat((self.pixels.bias, self.bias))

    def start(self, n: int) -> Tensor:
        """Independent units [n, N], visible ones with the means of training images."""
        return torch.cat((self.pixels.start(n), draw_bits(torch.zeros_like(self.bias).expand(n, -1))), 1)

    def gibbs(self, s: Tensor, num_steps: int, clamp: Tensor | float = 0.0) -> Tensor:
        """Units [B, N] after so many sweeps; those are held whose clamp is infinite, [B, N]."""
        with torch.no_grad():
            a, d = self.theta
        for _ in range(num_steps):
            s = sweep(s, a, d + clamp)
        return s

    @torch.no_grad()
    def mean_field(self, v: Tensor, num_steps: int, means: Tensor | None = None) -> Tensor:
        """Means [B, H] of hidden units given visible ones [B, D], starting from `means`, if any."""
        a, dim = self.theta[0], self.pixels.dim
        drive = v @ a[:dim, dim:] + self.bias
        means = drive.sigmoid() if means is None else means
        for _ in range(num_steps):
            old = means
            means = torch.lerp((drive + means @ a[dim:, dim:]).sigmoid(), old, DAMPING)
            if torch.allclose(means, old, rtol=0, atol=MEANS_AGREE):
                break
        return means

    def free_energy(self, v: Tensor, means: Tensor) -> Tensor:
        """An upper bound on -log sum_h exp(-E(v, h)), [B]: the mean energy less the entropy of the means."""
        return self.energy_of(torch.cat((v, means), 1)) - entropy(means)

    def loss(self, batch: Batch) -> Terms:
        """E at the batch and its hidden means less E at the chains; the gradient takes all units as given."""
        v = self.pixels.code(batch.x)
        means = self.mean_field(v, self.mean_field_steps)
        data = self.energy_of(torch.cat((v, means), 1))
        model = self.energy_of(self.chains).mean()
        terms = {"energy_data": data, "energy_model": model}
        return terms | {"pseudo_log_prob": self.log_conditional(v, means), "loss": data - model}

    @torch.no_grad()
    def log_conditional(self, v: Tensor, means: Tensor) -> PerImage:
        """D log p(v_i | all others) at one random i per image, by the bounds on p(v) with it and without."""
        i = torch.randint(self.pixels.dim, (len(v), 1), device=v.device)
        flipped = v.scatter(1, i, 1 - v.gather(1, i))
        others = self.mean_field(flipped, self.mean_field_steps, means)
        return self.pixels.dim * logsigmoid(self.free_energy(flipped, others) - self.free_energy(v, means))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Move the persistent chains."""
        self.chains.copy_(self.gibbs(self.chains, self.gibbs_steps))

    @torch.no_grad()
    def energy(self, x: Images) -> PerImage:
        v = self.pixels.code(x)
        return self.free_energy(v, self.mean_field(v, SCORED_AFTER))

    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        hidden = self.chains[:, self.pixels.dim :].mean(0)
        base = torch.cat((base_rates(self.pixels.mean), base_rates(hidden)))
        return log_partition(CoupledUnits(*self.theta, base), num_chains, num_steps)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        at_least(1, n=n)
        burn_in = int(BURN_IN * self.walk_steps)
        with drawing_from(generator):
            s = self.gibbs(self.start(n), burn_in)
        for _ in range(self.walk_steps - burn_in):
            with drawing_from(generator):
                s = self.gibbs(s, 1)
            yield s[:, : self.pixels.dim].unflatten(1, self.image_shape)

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known = mask.flatten(1) > 0
        with drawing_from(generator):
            s = self.start(len(x))
            clamp = torch.zeros_like(s)
            clamp[:, : self.pixels.dim][known] = (self.pixels.code(x)[known] - 0.5) * torch.inf
            s = self.gibbs(s, self.walk_steps, clamp)
        return torch.where(mask > 0, x, s[:, : self.pixels.dim].unflatten(1, self.image_shape))
