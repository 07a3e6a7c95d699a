"""Salakhutdinov, Hinton. Deep Boltzmann Machines. AISTATS 2009.

In full: An Efficient Learning Procedure for Deep Boltzmann Machines. Neural Computation 24(8), 2012.
doi:10.1162/NECO_a_00311. Settings: the released code of 2009.

Departs from the paper: the layers of odd number are summed out of the model's side of the gradient; mean
field starts from one pass upwards with the biases of the whole machine; annealing starts from hidden units
with the means of the particles, not one half; no label units and no target of sparsity, which the released
code has for classification.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from zoo.contract import (
    Batch,
    Codes,
    Emits,
    Encodes,
    Images,
    Normalises,
    Partition,
    PerImage,
    Reconstructs,
    Repairs,
    Side,
    Terms,
)
from zoo.errors import at_least, positive
from zoo.methods.energy.shared.contrastive import BURN_IN, Pace, lengthened
from zoo.methods.energy.shared.greedy import MEANS_AT_ONCE, Layerwise
from zoo.methods.energy.shared.layered import LayeredMachine
from zoo.parts.annealing.paths import linear
from zoo.parts.annealing.verdicts import log_partition
from zoo.parts.distributions.bits import draw_bits
from zoo.randomness import drawing_from, own_stream

SCORING_STEPS = 100
"""Rounds of mean field at most where an image is scored."""
TRACKING_CHAINS = 100


class DBM(Layerwise, Emits, Normalises, Repairs, Encodes, Reconstructs):
    """Deep Boltzmann machine: layers of binary units, each coupled to its two neighbours.

    Each level in turn, from the pixels up, learns as an RBM that makes up for the neighbour its layers lack;
    then all of them together, the data by mean field, the model by persistent particles. `loss` is a
    surrogate whose value measures nothing; `val/log_partition` and `val/partition_ess` show a machine that
    runs away.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the hidden layers, from the pixels up; two or more. Where the layers of odd
            number or those of even number have up to 20 units in all, log Z is exact.
        pretrain_epochs: Epochs of each level's greedy learning; what is left of the trainer's epochs is for
            all of them together.
        cd_steps: k, Gibbs steps of contrastive divergence while a level learns.
        lengthen_every: Epochs of a level after which k grows by `cd_steps` and the step size falls in
            proportion to 1 / k; 0 never.
        num_chains: Number of persistent particles, on each process.
        gibbs_steps: Gibbs steps of the particles per batch.
        mean_field_steps: Rounds of mean field, at most, while training.
        lr: Step size at the start of each level.
        joint_lr: Step size at the start of the learning of all levels together.
        lr_schedule: Constant, or falling linearly to 0 over the epochs of each phase.
        weight_decay: Decay of the weights, not of the biases.
        momentum: Momentum of the first epochs of each phase.
        momentum_final: Momentum afterwards.
        momentum_epochs: Epochs with the first momentum.
        tracking_steps: Distributions of the estimate of log Z that follows each validation of all levels
            together; 0 has none.
        walk_from: Chains start at particles, or at independent units.
        walk_steps: Gibbs steps from the start to a sample; a walk shows the second half of them.

    Raises:
        UsageError: If a number is out of range.
    """

    paper = "Salakhutdinov, Hinton. Deep Boltzmann Machines. AISTATS 2009."
    energy_side = Side.UPPER
    partition_steps = 20_000
    particles: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (500, 1000),
        pretrain_epochs: tuple[int, ...] = (100, 200),
        cd_steps: int = 1,
        lengthen_every: int = 0,
        num_chains: int = 100,
        gibbs_steps: int = 5,
        mean_field_steps: int = 10,
        lr: float = 0.05,
        joint_lr: float = 0.001,
        lr_schedule: Literal["constant", "linear"] = "linear",
        weight_decay: float = 2e-4,
        momentum: float = 0.5,
        momentum_final: float = 0.9,
        momentum_epochs: int = 5,
        tracking_steps: int = 500,
        walk_from: Literal["particles", "random"] = "particles",
        walk_steps: int = 1000,
    ) -> None:
        pace = Pace(lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs)
        super().__init__(image_shape, hidden_dims=hidden_dims, pretrain_epochs=pretrain_epochs, pace=pace)
        self.save_hyperparameters()
        at_least(1, cd_steps=cd_steps, num_chains=num_chains, gibbs_steps=gibbs_steps)
        at_least(1, mean_field_steps=mean_field_steps, walk_steps=walk_steps)
        at_least(0, lengthen_every=lengthen_every, tracking_steps=tracking_steps)
        positive(joint_lr=joint_lr)
        self.cd_steps, self.lengthen_every = cd_steps, lengthen_every
        self.gibbs_steps, self.mean_field_steps = gibbs_steps, mean_field_steps
        self.joint_lr, self.tracking_steps = joint_lr, tracking_steps
        self.walk_from, self.walk_steps = walk_from, walk_steps
        self.machine = LayeredMachine(self.image_shape, hidden_dims)
        self.register_buffer("particles", self.machine.joined(self.machine.start(num_chains)))

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("particles",)

    def learning(self) -> list[nn.Parameter]:
        return list(self.machine.levels[self.phase].theta if self.pretraining else self.machine.theta)

    @property
    def num_steps(self) -> int:
        """Gibbs steps of this epoch's contrastive divergence, k."""
        epoch = 0 if self._trainer is None else self.stretch()[0]
        return lengthened(self.cd_steps, epoch, self.lengthen_every)

    def step_size(self) -> float:
        return self.lr * self.cd_steps / self.num_steps if self.pretraining else self.joint_lr

    def start_from(self, data: Any) -> None:
        """Start untouched pixels, and the particles, at the training images' means."""
        pixels = self.machine.pixels
        if pixels.untouched:
            pixels.start_at(data.mean_image(), data.originals("train"))
            with own_stream(torch.initial_seed() % 2**63, self.global_rank):
                self.particles.copy_(self.machine.joined(self.machine.start(len(self.particles))))

    @torch.no_grad()
    def start_level(self, index: int, x: Images) -> None:
        means = []
        for part in x.split(MEANS_AT_ONCE):
            h = part.to(self.device).flatten(1)
            for level in self.machine.levels[:index]:
                h = level.up(h).sigmoid()
            means.append(h)
        level = self.machine.levels[index]
        level.pixels.start_at(torch.cat(means).mean(0), x)
        level.pixels.bias.div_(level.above)

    def loss(self, batch: Batch) -> Terms:
        v = batch.x.flatten(1)
        if self.pretraining:
            with torch.no_grad():
                for level in self.machine.levels[: self.phase]:
                    v = draw_bits(level.up(v))
            return self.machine.levels[self.phase].contrast(v, self.num_steps)
        data = self.machine.energy(self.machine.mean_field(v, self.mean_field_steps))
        model = self.machine.free_energy(self.machine.parted(self.particles)).mean()
        return {"energy_data": data, "energy_model": model, "loss": data - model}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Move the particles."""
        if not self.pretraining:
            layers = self.machine.gibbs(self.machine.parted(self.particles), self.gibbs_steps)
            self.particles.copy_(self.machine.joined(layers))

    def on_validation_epoch_end(self) -> None:
        """Estimate log Z where it moves."""
        super().on_validation_epoch_end()
        if self.tracking_steps and not self.pretraining:
            with own_stream(self.current_epoch):
                found = self.log_partition(TRACKING_CHAINS, self.tracking_steps)
            self.log("val/log_partition", found.log_z, sync_dist=True)
            self.log("val/partition_ess", min(found.ess, TRACKING_CHAINS), sync_dist=True)

    @torch.no_grad()
    def energy(self, x: Images) -> PerImage:
        return -self.machine.bound(self.machine.mean_field(x.flatten(1), SCORING_STEPS))

    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        return log_partition(self.machine.pair(self.particles), num_chains, num_steps, linear)

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        at_least(1, n=n)
        burn_in = int(BURN_IN * self.walk_steps)
        with drawing_from(generator):
            layers = self.machine.start(n)
            if self.walk_from == "particles":
                rows = torch.randint(len(self.particles), (n,), device=self.device)
                layers = self.machine.parted(self.particles[rows])
            layers = self.machine.gibbs(layers, burn_in)
        for _ in range(self.walk_steps - burn_in):
            with drawing_from(generator):
                layers = self.machine.gibbs(layers, 1)
            yield self.machine.emission(layers)

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known, v = mask.flatten(1) > 0, x.flatten(1)
        with drawing_from(generator):
            layers = self.machine.start(len(x))
            for _ in range(self.walk_steps):
                layers[0] = torch.where(known, v, layers[0])
                layers = self.machine.gibbs(layers, 1)
        return torch.where(mask > 0, x, self.machine.emission(layers).mean)

    def encode(self, x: Images) -> Codes:
        return self.machine.mean_field(x.flatten(1), SCORING_STEPS)[-1]

    def reconstruct(self, x: Images) -> Images:
        return self.machine.emission(self.machine.mean_field(x.flatten(1), SCORING_STEPS)).mean
