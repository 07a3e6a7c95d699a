"""What contrastive learners share: two layers of units, and descent with step size and momentum by epoch.

Hinton. A Practical Guide to Training Restricted Boltzmann Machines. UTML TR 2010-003.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.contract.learning import Descent
from zoo.errors import require
from zoo.methods.energy.shared.visible import Visible
from zoo.parts.optimizers import sgd

FIRST_WEIGHTS = 0.01


class Pair(nn.Module):
    """A layer of units v and binary units h above it, exp(vWh + bh) times the layer's own term in v.

    What inherits from it calls `couple` when it is made.
    """

    pixels: Visible
    """The layer v."""
    weight: nn.Parameter
    """W, [D, H]."""
    bias: nn.Parameter
    """b, [H]."""

    def couple(self, pixels: Visible, num_hidden: int) -> None:
        """Take up a layer; weights start as N(0, 0.01^2), biases at zero."""
        self.pixels = pixels
        self.weight = nn.Parameter(FIRST_WEIGHTS * torch.randn(pixels.dim, num_hidden))
        self.bias = nn.Parameter(torch.zeros(num_hidden))

    @property
    def theta(self) -> tuple[nn.Parameter, ...]:
        """W, b and c, and what else the pair learns."""
        return self.weight, self.bias, self.pixels.bias

    def drive(self, v: Tensor) -> Tensor:
        """The logits vW + b of p(h = 1|v), [B, H]."""
        return (v @ self.weight).to(self.bias) + self.bias

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), [B]."""
        return self.pixels.energy(v) - softplus(self.drive(v)).sum(1)


class Contrastive(Descent):
    """Learns by gradient descent whose step size and momentum are set at the start of each epoch.

    Args:
        image_shape: (C, H, W) of one image.
        lr: Step size at the start.
        lr_schedule: Constant, or falling linearly to 0 over the trainer's epochs, or over those of a phase.
        weight_decay: Decay of the weights, not of the biases.
        momentum: Momentum of the first epochs.
        momentum_final: Momentum afterwards.
        momentum_epochs: Epochs with the first momentum.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        lr: float,
        lr_schedule: Literal["constant", "linear"],
        weight_decay: float,
        momentum: float,
        momentum_final: float,
        momentum_epochs: int,
    ) -> None:
        super().__init__(image_shape)
        require(lr > 0, f"lr must be positive, got {lr}")
        least = {"weight_decay": weight_decay, "momentum_epochs": momentum_epochs}
        for name, value in (least | {"momentum": momentum, "momentum_final": momentum_final}).items():
            require(value >= 0, f"{name} must be at least 0, got {value}")
        highest = max(momentum, momentum_final)
        require(highest < 1, f"momentum and momentum_final must be below 1, got {highest}")
        self.lr, self.lr_schedule, self.weight_decay = lr, lr_schedule, weight_decay
        self.momentum, self.momentum_final, self.momentum_epochs = momentum, momentum_final, momentum_epochs

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
        factor = max(0.0, 1 - epoch / length) if self.lr_schedule == "linear" else 1.0
        momentum = self.momentum if epoch < self.momentum_epochs else self.momentum_final
        for group in self.trainer.optimizers[0].param_groups:
            group |= {"lr": self.step_size() * factor, "momentum": momentum}
