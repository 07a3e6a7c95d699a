"""Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 18(7), 2006.

doi:10.1162/neco.2006.18.7.1527. Greedy layers: also Bengio, Lamblin, Popovici, Larochelle. Greedy Layer-Wise
Training of Deep Networks. NIPS 2006. The score: Salakhutdinov, Murray. On the Quantitative Analysis of Deep
Belief Networks. ICML 2008, and Murray, Salakhutdinov. Evaluating Probabilities under High-Dimensional Latent
Variable Models. NIPS 2008.

Departs from the paper: no label units, so that it is the density model of 2008; the classifier is `LabelDBN`;
hidden units are summed out at both ends of the contrastive gradient, as in the RBM here; the wake and sleep
phases of a batch and its contrastive divergence are one step of gradient descent.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.contract import (
    Batch,
    Codes,
    Decodes,
    Emits,
    Encodes,
    Images,
    Normalises,
    Partition,
    PerImage,
    Reconstructs,
    Side,
    Terms,
)
from zoo.errors import at_least
from zoo.methods.energy.shared.belief import Stack
from zoo.methods.energy.shared.contrastive import BURN_IN, Pace
from zoo.methods.energy.shared.greedy import Greedy, Plan
from zoo.randomness import drawing_from


class DBN(Greedy, Emits, Normalises, Encodes, Decodes, Reconstructs):
    """Deep belief network: an RBM whose visible units generate the image through directed layers.

    Each level in turn, from the pixels up, learns as an RBM from samples of the layers below it; then all of
    them are tuned together by the up-down algorithm. `loss` is a surrogate whose value measures nothing.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the hidden layers, from the pixels up; two or more.
        pretrain_epochs: Epochs of each level's greedy learning; what is left of the trainer's epochs is the
            up-down algorithm.
        start: A level above the first starts with small random weights, or as the level below it turned over
            (`transposed`), which leaves the model what it was and needs a layer as wide as two below it.
        gibbs_steps: k, Gibbs steps of contrastive divergence while a level learns.
        lengthen_every: Epochs of a level after which k grows by `gibbs_steps` and the step size falls in
            proportion to 1 / k; 0 never.
        updown_steps: The same in the up-down algorithm, for equal shares of its epochs.
        lr: Step size at the start of each level.
        updown_lr: Step size at the start of the up-down algorithm.
        lr_schedule: Constant, or falling linearly to 0 over the epochs of each phase.
        weight_decay: Decay of the weights, not of the biases.
        momentum: Momentum of the first epochs of each phase.
        momentum_final: Momentum afterwards.
        momentum_epochs: Epochs with the first momentum.
        bound_samples: K, draws of the hidden units per image in the bound on log p(x).
        num_starts: Images of the first training batch that are kept with the weights and in which chains
            start; 0 starts them in independent bits.
        walk_steps: Gibbs steps in the top level from its start to a sample; a walk shows the second half.

    Raises:
        UsageError: If a number is out of range, or layers have not the widths that the start needs.
    """

    paper = "Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 2006."
    energy_side = Side.UPPER
    starts: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (500, 2000),
        pretrain_epochs: tuple[int, ...] = (30, 30),
        start: Literal["random", "transposed"] = "random",
        gibbs_steps: int = 1,
        lengthen_every: int = 0,
        updown_steps: tuple[int, ...] = (3, 6, 10),
        lr: float = 0.05,
        updown_lr: float = 0.005,
        lr_schedule: Literal["constant", "linear"] = "linear",
        weight_decay: float = 2e-4,
        momentum: float = 0.5,
        momentum_final: float = 0.9,
        momentum_epochs: int = 5,
        bound_samples: int = 20,
        num_starts: int = 0,
        walk_steps: int = 1000,
    ) -> None:
        plan = Plan(pretrain_epochs, start, gibbs_steps, lengthen_every, updown_steps, updown_lr)
        pace = Pace(lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs)
        super().__init__(image_shape, hidden_dims=hidden_dims, plan=plan, pace=pace)
        self.save_hyperparameters()
        at_least(1, bound_samples=bound_samples, walk_steps=walk_steps)
        at_least(0, num_starts=num_starts)
        self.bound_samples, self.walk_steps = bound_samples, walk_steps
        self.stack = Stack(self.image_shape, hidden_dims)
        self.register_buffer("starts", torch.zeros(num_starts, *self.image_shape))

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("starts",)

    def contrast_top(self, h: Tensor, batch: Batch) -> tuple[Terms, Tensor]:
        return self.contrast(self.stack.top, h)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep images of the first batch, over again where it is small, for chains to start in."""
        if not self.starts.any():
            self.starts.copy_(batch.x[torch.arange(len(self.starts)) % len(batch.x)])

    def energy(self, x: Images) -> PerImage:
        return -self.stack.bound(x, self.bound_samples).float()

    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        return self.stack.top.pixels.log_partition(
            self.stack.top.weight, self.stack.top.bias, num_chains, num_steps
        )

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        at_least(1, n=n)
        top, burn_in = self.stack.top, int(BURN_IN * self.walk_steps)
        with drawing_from(generator):
            h = top.pixels.start(n)
            if len(self.starts):
                x = self.starts[torch.randint(len(self.starts), (n,), device=self.device)]
                h = self.stack.ascend(x.flatten(1), len(self.stack.levels) - 1)[-1]
            h = top.gibbs(h, burn_in)
        for _ in range(self.walk_steps - burn_in):
            with drawing_from(generator):
                h = top.gibbs(h, 1)
                p = self.stack.emission(h)
            yield p

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        return self.stack.means(x, len(self.stack.levels))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.stack.decode(z, len(self.stack.levels))

    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))
