"""Greedy learning of a stack of RBMs, level by level, then all of it by the up-down algorithm.

Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 18(7), 2006.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.contract import Batch, Images, PixelKind, Terms
from zoo.errors import at_least, positive, require
from zoo.methods.energy.shared.belief import Level, Stack
from zoo.methods.energy.shared.contrastive import Contrastive, Pace, lengthened
from zoo.parts.schedules import phase
from zoo.randomness import own_stream

MEANS_AT_ONCE = 1000


class Plan(NamedTuple):
    """The settings of greedy learning and of the up-down algorithm."""

    pretrain_epochs: tuple[int, ...]
    """Epochs of each level's greedy learning."""
    start: Literal["random", "transposed"]
    """`random`, or `transposed`: as the level below turned over."""
    gibbs_steps: int
    """k, Gibbs steps of contrastive divergence while a level learns."""
    lengthen_every: int
    """Epochs of a level after which k grows by `gibbs_steps`; 0 never."""
    updown_steps: tuple[int, ...]
    """k in the up-down algorithm, for equal shares of its epochs."""
    updown_lr: float
    """Step size at the start of the up-down algorithm."""


class Layerwise(Contrastive):
    """Learns the levels of a stack in turn, from the pixels up, then all of them together, in one fit.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Units of the hidden layers, from the pixels up; two or more.
        pretrain_epochs: Epochs of each level; what is left of the trainer's is for all of them.
        pace: The settings of the descent; its epochs are those of each phase.

    Raises:
        UsageError: If a number is out of range.
    """

    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        hidden_dims: tuple[int, ...],
        pretrain_epochs: tuple[int, ...],
        pace: Pace,
    ) -> None:
        super().__init__(image_shape, pace=pace)
        require(len(hidden_dims) > 1, f"hidden_dims must be at least two layers, got {hidden_dims}")
        require(
            len(pretrain_epochs) == len(hidden_dims),
            f"pretrain_epochs must be one number per hidden layer, {len(hidden_dims)}, got {pretrain_epochs}",
        )
        at_least(1, hidden_dims=hidden_dims, pretrain_epochs=pretrain_epochs)
        self.pretrain_epochs = pretrain_epochs

    @abstractmethod
    def start_level(self, index: int, x: Images) -> None:
        """Start a level above the first at the means of the units below it, for images [N, C, H, W]."""

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",)

    @property
    def needs_data_module(self) -> bool:
        return True

    @property
    def phase(self) -> int:
        """The level that learns in this epoch; their number where all of them do."""
        return phase(self.current_epoch, self.pretrain_epochs)

    @property
    def pretraining(self) -> bool:
        """Whether one level learns alone."""
        return self.phase < len(self.pretrain_epochs)

    def stretch(self) -> tuple[int, int]:
        begins = (0, *accumulate(self.pretrain_epochs))
        ends = (*begins[1:], max(self.trainer.max_epochs or 0, begins[-1] + 1))
        return self.current_epoch - begins[self.phase], ends[self.phase] - begins[self.phase]

    def on_train_epoch_start(self) -> None:
        """Start the level whose first epoch this is; set the epoch's step size and momentum."""
        super().on_train_epoch_start()
        if self.phase > 0 and self.pretraining and self.stretch()[0] == 0:
            with own_stream(self.current_epoch):  # on every process alike
                images = self.trainer.datamodule.split("train").x  # pyright: ignore
            self.start_level(self.phase, images)


class Greedy(Layerwise):
    """Learns the levels of a stack in turn, each as an RBM, then all of them together.

    What inherits from it builds `stack`, and says how the top level learns. `loss` is a surrogate whose value
    measures nothing.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Units of the hidden layers, from the pixels up; two or more.
        plan: The settings of the phases.
        pace: The settings of the descent; its epochs are those of each phase.

    Raises:
        UsageError: If a number is out of range, or layers have not the widths that the start needs.
    """

    stack: Stack

    def __init__(
        self, image_shape: Sequence[int], *, hidden_dims: tuple[int, ...], plan: Plan, pace: Pace
    ) -> None:
        super().__init__(
            image_shape, hidden_dims=hidden_dims, pretrain_epochs=plan.pretrain_epochs, pace=pace
        )
        at_least(1, updown_steps=plan.updown_steps, gibbs_steps=plan.gibbs_steps)
        at_least(0, lengthen_every=plan.lengthen_every)
        positive(updown_lr=plan.updown_lr)
        widths = (math.prod(self.image_shape), *hidden_dims)
        require(
            plan.start == "random" or widths[2:] == widths[:-2],
            f"start: transposed needs layers as wide as two below them, got {widths}",
        )
        self.start = plan.start
        self.gibbs_steps, self.lengthen_every = plan.gibbs_steps, plan.lengthen_every
        self.updown_steps, self.updown_lr = plan.updown_steps, plan.updown_lr

    @abstractmethod
    def contrast_top(self, h: Tensor, batch: Batch) -> tuple[Terms, Tensor]:
        """The terms by which the top level learns from units [B, D] below it, and where its chains end."""

    def step_size(self) -> float:
        return self.lr * self.gibbs_steps / self.num_steps if self.pretraining else self.updown_lr

    @property
    def num_steps(self) -> int:
        """Gibbs steps of contrastive divergence in this epoch, k."""
        epoch, length = (0, 1) if self._trainer is None else self.stretch()
        if not self.pretraining:
            return self.updown_steps[min(epoch, length - 1) * len(self.updown_steps) // length]
        return lengthened(self.gibbs_steps, epoch, self.lengthen_every)

    def learning(self) -> list[nn.Parameter]:
        if self.pretraining:
            return list(self.stack.levels[self.phase].theta)
        unused = {id(level.bias) for level in self.stack.levels[:-1]}
        return [p for p in self.parameters() if id(p) not in unused]

    def start_from(self, data: Any) -> None:
        """Start an untouched first level at the training images' means."""
        if self.stack.levels[0].pixels.untouched:
            self.stack.levels[0].pixels.start_at(data.mean_image(), data.images("train"))

    @torch.no_grad()
    def start_level(self, index: int, x: Images) -> None:
        level, below = self.stack.levels[index], self.stack.levels[index - 1]
        parts = [self.stack.means(part.to(self.device), index) for part in x.split(MEANS_AT_ONCE)]
        level.pixels.start_at(torch.cat(parts).mean(0), x)
        if self.start == "transposed":
            level.weight.copy_(below.weight.T)
            level.pixels.bias.copy_(below.bias)
            level.bias.copy_(below.pixels.bias)

    def loss(self, batch: Batch) -> Terms:
        v, top = batch.x.flatten(1), len(self.stack.levels) - 1
        if self.phase < top:
            return self.contrast(self.stack.levels[self.phase], self.stack.ascend(v, self.phase)[-1])[0]
        layers = self.stack.ascend(v, top)  # appendix B
        terms, dream = self.contrast_top(layers[-1], batch)
        if self.phase == top:
            return terms
        wake, sleep = self.stack.wake(layers), self.stack.sleep(dream)
        return {**terms, "wake": wake, "sleep": sleep, "loss": terms["loss"] + wake + sleep}

    def contrast(self, level: Level, v: Tensor) -> tuple[Terms, Tensor]:
        """The terms of contrastive divergence from units [B, D], and where its chains end."""
        v_model = level.gibbs(v, self.num_steps)
        data, model = level.free_energy(v), level.free_energy(v_model)
        return {"energy_data": data, "energy_model": model, "loss": data - model}, v_model

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Let recognition follow a level that learns as an RBM."""
        if self.pretraining:
            self.stack.levels[self.phase].tie()
