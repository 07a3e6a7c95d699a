"""Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 18(7), 2006.

doi:10.1162/neco.2006.18.7.1527. The paper's classifier: label units beside those below the top level.

Departs from the paper: hidden units are summed out at both ends of the contrastive gradient, as in the RBM
here; the wake and sleep phases of a batch and its contrastive divergence are one step of gradient descent;
labels are read from the means of a pass upwards, where the paper also averages over samples of it.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import softplus

from zoo.contract import (
    Batch,
    Classifies,
    Codes,
    Conditions,
    Decodes,
    Emits,
    Encodes,
    Images,
    Labels,
    LogProbs,
    Reconstructs,
    Terms,
    need_labels,
)
from zoo.errors import at_least
from zoo.methods.energy.shared.belief import Level, Stack
from zoo.methods.energy.shared.contrastive import BURN_IN, Pace
from zoo.methods.energy.shared.greedy import Greedy, Plan
from zoo.parts.distributions.bits import draw_bits
from zoo.randomness import drawing_from


class LabelledTop(Level):
    """The top level: an RBM whose lower layer is the units below it and a label, one of several.

    Args:
        num_units: Units below.
        num_hidden: Units above.
        num_classes: Labels.
    """

    def __init__(self, num_units: int, num_hidden: int, num_classes: int) -> None:
        super().__init__((1, 1, num_units), num_hidden, top=True)
        self.label_weight = nn.Parameter(torch.zeros(num_classes, num_hidden))
        self.label_bias = nn.Parameter(torch.full((num_classes,), -math.log(num_classes)))

    @property
    def theta(self) -> tuple[nn.Parameter, ...]:
        return *super().theta, self.label_weight, self.label_bias

    def joint(self, v: Tensor) -> Tensor:
        """Minus the free energy F(v, y) of units [B, D] with every label, [B, classes]."""
        drives = self.drive(v)[:, None] + self.label_weight
        return self.label_bias - self.pixels.energy(v)[:, None] + softplus(drives).sum(2)

    @torch.no_grad()
    def step(self, v: Tensor, y: Tensor, clamped: bool) -> tuple[Tensor, Tensor]:
        """Units [B, D] and labels [B] after h ~ p(h|v, y) and v, y ~ p(v, y|h); clamped labels stay."""
        h = draw_bits(self.drive(v) + self.label_weight[y])
        v = draw_bits(self.down(h))
        return v, y if clamped else self._draw_labels(h @ self.label_weight.T + self.label_bias)

    @staticmethod
    def _draw_labels(logits: Tensor) -> Tensor:
        return torch.multinomial(logits.float().softmax(1), 1)[:, 0]


class LabelDBN(Greedy, Emits, Conditions, Classifies, Encodes, Decodes, Reconstructs):
    """Deep belief network with label units: one model that draws images of a class and tells classes apart.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the hidden layers, from the pixels up; two or more.
        num_classes: Labels 0, 1, ..., that every training image must have.
        pretrain_epochs: Epochs of each level's greedy learning; what is left of the trainer's epochs is the
            up-down algorithm.
        start: A level above the first starts with small random weights, or as the level below it turned over
            (`transposed`), which needs a layer as wide as two below it.
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
        walk_steps: Gibbs steps in the top level from its start to a sample; a walk shows the second half.

    Raises:
        UsageError: If a number is out of range, layers have not the widths that the start needs, or an image
            has no label.
    """

    paper = "Hinton, Osindero, Teh. A Fast Learning Algorithm for Deep Belief Nets. Neural Computation 2006."
    classifies_by = "p(y|E[h|x])"

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (500, 500, 2000),
        num_classes: int = 10,
        pretrain_epochs: tuple[int, ...] = (30, 30, 30),
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
        walk_steps: int = 1000,
    ) -> None:
        plan = Plan(pretrain_epochs, start, gibbs_steps, lengthen_every, updown_steps, updown_lr)
        pace = Pace(lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs)
        super().__init__(image_shape, hidden_dims=hidden_dims, plan=plan, pace=pace)
        self.save_hyperparameters()
        at_least(2, num_classes=num_classes)
        at_least(1, walk_steps=walk_steps)
        self.num_classes, self.walk_steps = num_classes, walk_steps
        top = LabelledTop(hidden_dims[-2], hidden_dims[-1], num_classes)
        self.stack = Stack(self.image_shape, hidden_dims, top)

    @property
    def top(self) -> LabelledTop:
        """The level that sees the labels."""
        return cast(LabelledTop, self.stack.top)

    def start_from(self, data: Any) -> None:
        """Start untouched biases at the training images' means and the frequencies of their labels."""
        y = data.split("train").y
        need_labels(y, self.num_classes)
        if self.stack.levels[0].pixels.untouched:
            counts = y.bincount(minlength=self.num_classes) + 1
            self.top.label_bias.data.copy_((counts / counts.sum()).log())
        super().start_from(data)

    def contrast_top(self, h: Tensor, batch: Batch) -> tuple[Terms, Tensor]:
        v, y = h, batch.y
        for _ in range(self.num_steps):
            v, y = self.top.step(v, y, clamped=False)
        data = -self.top.joint(h).gather(1, batch.y[:, None])[:, 0]
        model = -self.top.joint(v).gather(1, y[:, None])[:, 0]
        return {"energy_data": data, "energy_model": model, "loss": data - model}, v

    def _chain(self, n: int, y: Labels | None, generator: torch.Generator | None) -> Iterator[Independent]:
        at_least(1, n=n)
        burn_in = int(BURN_IN * self.walk_steps)
        with drawing_from(generator):
            h = self.top.pixels.start(n)
            label = torch.randint(self.num_classes, (n,), device=self.device) if y is None else y
        for step in range(self.walk_steps):
            with drawing_from(generator):
                h, label = self.top.step(h, label, clamped=y is not None)
                p = self.stack.emission(h) if step >= burn_in else None
            if p is not None:
                yield p

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        return self._chain(n, None, generator)

    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        return deque(self._chain(len(y), y, generator), maxlen=1).pop().mean

    @torch.no_grad()
    def classify(self, x: Images) -> LogProbs:
        """Log p(y|h) of the top level at the means of a pass upwards in the place of h, [B, classes]."""
        return self.top.joint(self.encode(x)).log_softmax(1)

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        """Means of the units below the top level, [B, D]: it would need the label."""
        return self.stack.means(x, len(self.stack.levels) - 1)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.stack.decode(z, len(self.stack.levels) - 1)

    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))
