"""What contrastive learners share: small first weights, and descent with step size and momentum by epoch.

Hinton. A Practical Guide to Training Restricted Boltzmann Machines. UTML TR 2010-003.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn

from zoo.contract import Descent
from zoo.errors import at_least, positive, require
from zoo.parts.optimizers import sgd
from zoo.parts.schedules import falling

FIRST_WEIGHTS = 0.01
"""Standard deviation of the weights at the start (Hinton 2010, section 8)."""
BURN_IN = 0.5
"""Share of a chain's steps in which it forgets its start, before a walk shows it."""


def first_weights(dim: int, num_hidden: int) -> nn.Parameter:
    """W, [D, H], from N(0, 0.01^2)."""
    return nn.Parameter(FIRST_WEIGHTS * torch.randn(dim, num_hidden))


def lengthened(num_steps: int, epoch: int, every: int) -> int:
    """Gibbs steps of an epoch that are one more time `num_steps` every so many epochs; 0 is never."""
    return num_steps * (1 + (epoch // every if every else 0))


class Pace(NamedTuple):
    """The settings of a descent whose step size and momentum change by epoch."""

    lr: float
    """Step size at the start."""
    lr_schedule: Literal["constant", "linear"]
    """Constant, or falling linearly to 0 over the trainer's epochs, or over those of a phase."""
    weight_decay: float
    """Decay of the weights, not of the biases."""
    momentum: float
    """Momentum of the first epochs."""
    momentum_final: float
    """Momentum afterwards."""
    momentum_epochs: int
    """Epochs with the first momentum."""


class Contrastive(Descent):
    """Learns by gradient descent whose step size and momentum are set at the start of each epoch.

    Args:
        image_shape: (C, H, W) of one image.
        pace: The settings of the descent.

    Raises:
        UsageError: If one of them is out of range.
    """

    def __init__(self, image_shape: Sequence[int], *, pace: Pace) -> None:
        super().__init__(image_shape)
        self.lr, self.lr_schedule, self.weight_decay = pace.lr, pace.lr_schedule, pace.weight_decay
        self.momentum, self.momentum_final = pace.momentum, pace.momentum_final
        self.momentum_epochs = pace.momentum_epochs
        positive(lr=self.lr)
        at_least(0, weight_decay=self.weight_decay, momentum_epochs=self.momentum_epochs)
        at_least(0, momentum=self.momentum, momentum_final=self.momentum_final)
        highest = max(self.momentum, self.momentum_final)
        require(highest < 1, f"momentum and momentum_final must be below 1, got {highest}")

    def stretch(self) -> tuple[int, int]:
        """Epochs since the phase began, and how many it has; one phase takes all of the trainer's."""
        return self.current_epoch, self.trainer.max_epochs or 0

    def step_size(self) -> float:
        """Of this epoch, before the schedule."""
        return self.lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gradient descent; step size and momentum are set at the start of each epoch."""
        length = self.trainer.max_epochs or 0
        endless = self.lr_schedule == "linear" and length < 1
        require(not endless, f"lr_schedule: linear needs a positive trainer.max_epochs, got {length}")
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
        return sgd(groups, self.lr, self.momentum)

    def on_train_epoch_start(self) -> None:
        """Set the epoch's step size and momentum."""
        super().on_train_epoch_start()
        epoch, length = self.stretch()
        factor = falling(float(epoch), float(length)) if self.lr_schedule == "linear" else 1.0
        momentum = self.momentum if epoch < self.momentum_epochs else self.momentum_final
        for group in self.trainer.optimizers[0].param_groups:
            group |= {"lr": self.step_size() * factor, "momentum": momentum}
