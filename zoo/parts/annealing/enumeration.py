"""Sums over all settings of binary units, where they are few."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import require

ENUMERABLE = 20
"""Units up to which all settings are visited."""
ENUMERATED_AT_ONCE = 2**22
"""Activations held at once meanwhile, in float64."""
Units = Float[Tensor, "chains units"]


def settings(numbers: Tensor, like: Tensor) -> Units:
    """Binary digits of integers [M], the lowest first: states [M, D] of as many units as `like` has."""
    return (numbers[:, None] >> torch.arange(len(like), device=numbers.device) & 1).to(like.dtype)


def enumerated(
    log_density: Callable[[Units], Tensor], like: Tensor, width: int
) -> Float[Tensor, " settings"]:  # noqa: F722
    """An unnormalised log-density at all 2^D settings of D binary units, in the order of `settings`; float64.

    Args:
        log_density: States [M, D] to log f, [M], such as minus an energy.
        like: One number per unit, [D]: their count, type and device.
        width: Activations that one state takes.

    Raises:
        UsageError: If there are more than 20 units.
    """
    units = len(like)
    require(
        units <= ENUMERABLE, f"a layer must have at most {ENUMERABLE} units to be enumerated, got {units}"
    )
    scores = torch.empty(2**units, dtype=torch.float64, device=like.device)
    rows = max(1, ENUMERATED_AT_ONCE // width)
    for numbers in torch.arange(2**units, device=like.device).split(rows):
        scores[numbers] = log_density(settings(numbers, like)).double()
    return scores
