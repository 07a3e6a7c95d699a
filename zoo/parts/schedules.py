"""Pure functions of the epoch, and step sizes made of them.

An epoch is a float: 2.5 is half-way through the third pass.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.errors import require

Schedule = Literal["constant", "cosine", "exponential", "tripling_stages"]
STAGES = 8


def phase(epoch: int, lengths: Sequence[int]) -> int:
    """How many of the phases of these lengths, one after the other, are over when an epoch begins."""
    return sum(epoch >= end for end in accumulate(lengths))


def warm_up(epoch: float, length: float) -> float:
    """Linear from 0 to 1 over `length` epochs, then 1; a length of 0 means 1 from the start."""
    return 1.0 if length <= 0 else min(1.0, epoch / length)


def falling(epoch: float, length: float) -> float:
    """Factor that falls from 1 to 0 over `length` epochs, then stays; a length of 0 means 0."""
    return max(0.0, 1.0 - epoch / length) if length > 0 else 0.0


def cosine(epoch: float, length: float, final: float) -> float:
    """Factor that falls from 1 to `final` over `length` epochs along half a cosine, then stays."""
    progress = min(1.0, epoch / length) if length > 0 else 1.0
    return final + (1.0 - final) * (1.0 + math.cos(math.pi * progress)) / 2.0


def exponential(epoch: float, length: float, final: float) -> float:
    """Factor that falls from 1 to `final` over `length` epochs by the same ratio in each, then stays."""
    return final ** (min(1.0, epoch / length) if length > 0 else 1.0)


def tripling_stages(epoch: float, stages: int, final: float) -> float:
    """Factor `final ** (i / (stages - 1))` in stage i, which lasts 3**i epochs.

    Burda et al. 2016, section 5. With eight stages: 3280 epochs. After the last stage the factor stays at
    `final`.
    """
    stage, end = 0, 1
    while stage < stages - 1 and epoch >= end:
        stage += 1
        end += 3**stage
    return final ** (stage / (stages - 1))


def scheduled(
    optimizer: Optimizer, schedule: Schedule, max_epochs: int | None, final: float
) -> dict[str, Any]:
    """What `configure_optimizers` returns: an optimizer whose step sizes are set at the start of each epoch.

    Args:
        optimizer: Its step sizes are those of the start.
        schedule: `constant`; `cosine` or `exponential` over the trainer's epochs; `tripling_stages`.
        max_epochs: The trainer's.
        final: The factor at the end.

    Raises:
        UsageError: If the schedule needs an end and the trainer has none.
    """
    length = float(max_epochs or 0)
    endless = schedule in ("cosine", "exponential") and length < 1
    require(not endless, f"lr_schedule: {schedule} needs a positive trainer.max_epochs, got {length:g}")
    factor = {
        "constant": lambda _: 1.0,
        "cosine": lambda epoch: cosine(float(epoch), length, final),
        "exponential": lambda epoch: exponential(float(epoch), length, final),
        "tripling_stages": lambda epoch: tripling_stages(float(epoch), STAGES, final),
    }[schedule]
    return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, factor)}


def scheduled_steps(
    optimizer: Optimizer, schedule: Literal["constant", "cosine"], num_steps: int | float, warm_up_steps: int
) -> dict[str, Any]:
    """As `scheduled`, with step sizes that are set before each step, and rise linearly from 0 at the start.

    Args:
        optimizer: Its step sizes are those at the top.
        schedule: `constant`, or `cosine` from the start to 0 at the end.
        num_steps: The trainer's `estimated_stepping_batches`.
        warm_up_steps: Steps of the rise.

    Raises:
        UsageError: If the schedule needs an end and the trainer has none.
    """
    endless = schedule == "cosine" and not math.isfinite(num_steps)
    require(not endless, f"lr_schedule: cosine needs a positive trainer.max_epochs, got {num_steps:g} steps")

    def factor(step: int) -> float:
        fall = cosine(float(step), float(num_steps), 0.0) if schedule == "cosine" else 1.0
        return fall * warm_up(step + 1.0, float(warm_up_steps))

    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
    }
