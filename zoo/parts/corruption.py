"""Corruption processes C(x~|x): modules that can be chained, and draw from the global stream."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.errors import require

Corruption = Literal["mask", "salt_pepper", "gaussian"]


class Mask(nn.Module):
    """Sets each value to zero with probability `level`.

    Args:
        level: The probability, 0 to 1.

    Raises:
        UsageError: If it is none.
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = _probability(level)

    def forward(self, x: Tensor) -> Tensor:
        """A corrupted copy."""
        return x * (torch.rand_like(x) >= self.level)


class SaltAndPepper(nn.Module):
    """Replaces each value by a fair coin, 0 or 1, with probability `level`: a bit flips with half of it.

    Args:
        level: The probability, 0 to 1.

    Raises:
        UsageError: If it is none.
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = _probability(level)

    def forward(self, x: Tensor) -> Tensor:
        """A corrupted copy."""
        u = torch.rand_like(x)
        return torch.where(u < self.level, (u < self.level / 2).to(x), x)


class GaussianNoise(nn.Module):
    """Adds independent noise N(0, level^2) to each value, which may leave [0, 1].

    Args:
        level: The standard deviation, in units of the pixel range.

    Raises:
        UsageError: If it is negative.
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        require(level >= 0, f"the level of gaussian corruption must not be negative, got {level}")
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        """A corrupted copy."""
        return x + self.level * torch.randn_like(x)


def process(kind: Corruption, level: float) -> nn.Module:
    """The process of a name."""
    return {"mask": Mask, "salt_pepper": SaltAndPepper, "gaussian": GaussianNoise}[kind](level)


def _probability(level: float) -> float:
    require(0 <= level <= 1, f"the level of corruption must be a probability, 0 to 1, got {level}")
    return level
