"""Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 18(7), 2006.

doi:10.1162/neco.2006.18.7.1527. Greedy layers: also Bengio, Lamblin, Popovici, Larochelle. Greedy Layer-Wise
Training of Deep Networks. NIPS 2006. The score: Salakhutdinov, Murray. On the Quantitative Analysis of Deep
Belief Networks. ICML 2008, and Murray, Salakhutdinov. Evaluating Probabilities under High-Dimensional Latent
Variable Models. NIPS 2008.

Departs from the paper: no label units, so that it is the density model of 2008 and not the classifier; hidden
units are summed out at both ends of the contrastive gradient, as in the RBM here; the wake and sleep phases
of a batch and its contrastive divergence are one step of gradient descent.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from zoo.capabilities import Decodes, Emits, Encodes, Normalises, Partition, Reconstructs, Side
from zoo.energy.belief import Level, Stack
from zoo.energy.contrastive import Contrastive
from zoo.errors import require
from zoo.method import Batch, PixelKind, Terms
from zoo.randomness import drawing_from, own_stream
from zoo.schedules import phase
from zoo.shapes import Codes, Images, PerImage

BURN_IN = 0.5
"""Share of a chain's steps in which it forgets its start."""
MEANS_AT_ONCE = 1000


class DBN(Contrastive, Emits, Normalises, Encodes, Decodes, Reconstructs):
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
        sample_steps: Gibbs steps in the top level from its start to a sample; a walk shows the second half.

    Raises:
        UsageError: If a number is out of range, or layers have not the widths that the start needs.
    """

    paper = "Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 2006."
    energy_side = Side.UPPER
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}
    starts: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
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
        sample_steps: int = 1000,
    ) -> None:
        super().__init__(
            image_shape, lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs
        )
        self.save_hyperparameters()
        require(len(hidden_dims) > 1, f"hidden_dims must be at least two layers, got {hidden_dims}")
        require(
            len(pretrain_epochs) == len(hidden_dims),
            f"pretrain_epochs must be one number per hidden layer, {len(hidden_dims)}, got {pretrain_epochs}",
        )
        counts = {"gibbs_steps": gibbs_steps, "bound_samples": bound_samples, "sample_steps": sample_steps}
        lists = {"hidden_dims": hidden_dims, "pretrain_epochs": pretrain_epochs, "updown_steps": updown_steps}
        for name, value in (
            counts | {name: min(values, default=0) for name, values in lists.items()}
        ).items():
            require(value >= 1, f"{name} must be at least 1, got {value}")
        for name, value in {"lengthen_every": lengthen_every, "num_starts": num_starts}.items():
            require(value >= 0, f"{name} must be at least 0, got {value}")
        require(updown_lr > 0, f"updown_lr must be positive, got {updown_lr}")
        widths = (math.prod(self.image_shape), *hidden_dims)
        require(
            start == "random" or widths[2:] == widths[:-2],
            f"start: transposed needs layers as wide as two below them, got {widths}",
        )
        self.pretrain_epochs, self.start, self.updown_lr = pretrain_epochs, start, updown_lr
        self.gibbs_steps, self.lengthen_every, self.updown_steps = gibbs_steps, lengthen_every, updown_steps
        self.bound_samples, self.sample_steps = bound_samples, sample_steps
        self.stack = Stack(self.image_shape, hidden_dims)
        self.register_buffer("starts", torch.zeros(num_starts, *self.image_shape))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",)

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("starts",)

    @property
    def phase(self) -> int:
        """The level that learns in this epoch; their number in the up-down algorithm."""
        return phase(self.current_epoch, self.pretrain_epochs)

    def stretch(self) -> tuple[int, int]:
        begins = (0, *accumulate(self.pretrain_epochs))
        ends = (*begins[1:], max(self.trainer.max_epochs or 0, begins[-1] + 1))
        return self.current_epoch - begins[self.phase], ends[self.phase] - begins[self.phase]

    def step_size(self) -> float:
        greedy = self.phase < len(self.stack.levels)
        return self.lr * self.gibbs_steps / self.num_steps if greedy else self.updown_lr

    @property
    def num_steps(self) -> int:
        """Gibbs steps of contrastive divergence in this epoch, k."""
        epoch, length = (0, 1) if self._trainer is None else self.stretch()
        if self.phase == len(self.stack.levels):
            return self.updown_steps[min(epoch, length - 1) * len(self.updown_steps) // length]
        growth = epoch // self.lengthen_every if self.lengthen_every else 0
        return self.gibbs_steps * (1 + growth)

    def learning(self) -> list[nn.Parameter]:
        if self.phase < len(self.stack.levels):
            return list(self.stack.levels[self.phase].theta)
        unused = {id(level.bias) for level in self.stack.levels[:-1]}
        return [p for p in self.parameters() if id(p) not in unused]

    def start_from(self, data: Any) -> None:
        """Start an untouched first level at the training images' means."""
        if self.stack.levels[0].pixels.untouched:
            self.stack.levels[0].pixels.start_at(data.mean_image(), data.originals("train"))

    def on_train_epoch_start(self) -> None:
        """Start the level whose first epoch this is; set the epoch's step size and momentum."""
        super().on_train_epoch_start()
        if 0 < self.phase < len(self.stack.levels) and self.stretch()[0] == 0:
            with own_stream(self.current_epoch):  # on every process alike
                images = self.trainer.datamodule.split("train").x  # pyright: ignore
            self.start_level(self.phase, images)

    @torch.no_grad()
    def start_level(self, index: int, x: Images) -> None:
        """Start a level above the first at the means of the units below it, for images [N, C, H, W]."""
        level, below = self.stack.levels[index], self.stack.levels[index - 1]
        parts = [self.stack.means(part.to(self.device), index) for part in x.split(MEANS_AT_ONCE)]
        level.pixels.start_at(torch.cat(parts).mean(0), x)
        if self.start == "transposed":
            level.weight.copy_(below.weight.T)
            level.pixels.bias.copy_(below.bias)
            level.bias.copy_(below.pixels.bias)

    def loss(self, batch: Batch) -> Terms:
        v = batch.x.flatten(1)
        if self.phase < len(self.stack.levels):
            h = self.stack.ascend(v, self.phase)[-1]
            return self._contrast(self.stack.levels[self.phase], h)[0]
        layers = self.stack.ascend(v, len(self.stack.levels) - 1)  # appendix B
        terms, dream = self._contrast(self.stack.top, layers[-1])
        wake, sleep = self.stack.wake(layers), self.stack.sleep(dream)
        return {**terms, "wake": wake, "sleep": sleep, "loss": terms["loss"] + wake + sleep}

    def _contrast(self, level: Level, v: Tensor) -> tuple[Terms, Tensor]:
        """The terms of contrastive divergence from units [B, D], and where its chains end."""
        v_model = level.pixels.gibbs(v, self.num_steps, *level.theta)[0]
        data, model = level.free_energy(v), level.free_energy(v_model)
        return {"energy_data": data, "energy_model": model, "loss": data - model}, v_model

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep images of the first batch, over again where it is small, for chains to start in."""
        if not self.starts.any():
            self.starts.copy_(batch.x[torch.arange(len(self.starts)) % len(batch.x)])

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Let recognition follow a level that learns as an RBM."""
        if self.phase < len(self.stack.levels):
            self.stack.levels[self.phase].tie()

    def energy(self, x: Images) -> PerImage:
        return -self.stack.bound(x, self.bound_samples).float()

    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        return self.stack.top.pixels.log_partition(
            self.stack.top.weight, self.stack.top.bias, num_chains, num_steps
        )

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        require(n >= 1, f"n must be at least 1, got {n}")
        top, burn_in = self.stack.top, int(BURN_IN * self.sample_steps)
        with drawing_from(generator):
            h = top.pixels.start(n)
            if len(self.starts):
                x = self.starts[torch.randint(len(self.starts), (n,), device=self.device)]
                h = self.stack.ascend(x.flatten(1), len(self.stack.levels) - 1)[-1]
            h, _ = top.pixels.gibbs(h, burn_in, *top.theta)
        for _ in range(self.sample_steps - burn_in):
            with drawing_from(generator):
                h, _ = top.pixels.gibbs(h, 1, *top.theta)
                p = self.stack.emission(h)
            yield p

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return (p.mean for p in self.emit(n, generator=generator))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        return deque(self.walk(n, generator=generator), maxlen=1).pop()

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        return self.stack.means(x, len(self.stack.levels))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.stack.decode(z)

    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))
