"""Priors of codes that are only drawn from, some in ten modes that may stand for labels."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch

from zoo.contract import Codes, Labels
from zoo.errors import positive, require

Prior = Literal["gaussian", "ring", "swiss_roll"]
MODES = 10
RADIUS, RADIAL_STD, TANGENTIAL_STD = 4.0, 0.5, 0.1
"""Of the ring: where its Gaussians lie, and how long and wide they are."""
LARGEST_ANGLE, ROLL_PITCH = 3 * math.pi, 0.5
"""Of the swiss roll: it ends after one turn and a half, and its radius grows by this much a radian."""
PLANE = 2


class CodePrior(ABC):
    """A distribution of codes.

    Args:
        dim: Numbers D in a code.
    """

    has_modes: bool = True
    """Whether it falls into `MODES` parts of equal probability."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    @abstractmethod
    def draw(self, y: Labels) -> Codes:
        """One code per mode asked for, [B, D]; of the whole distribution where y is -1."""


class GaussianPrior(CodePrior):
    """N(0, std^2 I), in one mode.

    Args:
        dim: Numbers D in a code.
        std: Standard deviation.

    Raises:
        UsageError: If it is not positive.
    """

    has_modes = False

    def __init__(self, dim: int, std: float) -> None:
        super().__init__(dim)
        positive(prior_std=std)
        self.std = std

    def draw(self, y: Labels) -> Codes:
        return self.std * torch.randn(len(y), self.dim, device=y.device)


class RingPrior(CodePrior):
    """Ten Gaussians in the plane, mode k at the angle 2 pi k / 10 and longest along the radius."""

    def draw(self, y: Labels) -> Codes:
        along, across = torch.randn(2, len(y), device=y.device)
        angle = 2 * math.pi * known_or_drawn(y, MODES) / MODES
        radius, width = RADIUS + RADIAL_STD * along, TANGENTIAL_STD * across
        return torch.stack(
            [radius * angle.cos() - width * angle.sin(), radius * angle.sin() + width * angle.cos()], 1
        )


class SwissRollPrior(CodePrior):
    """A spiral in the plane, evenly filled; mode k is its k-th tenth from within."""

    def draw(self, y: Labels) -> Codes:
        share = (known_or_drawn(y, MODES) + torch.rand(len(y), device=y.device)) / MODES
        angle = LARGEST_ANGLE * share.sqrt()
        return ROLL_PITCH * angle.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)


def known_or_drawn(y: Labels, num: int) -> Labels:
    """The labels [B], and one of `num` at random where they are -1."""
    return torch.where(y < 0, torch.randint_like(y, num), y)


def prior_of(prior: Prior, dim: int, std: float) -> CodePrior:
    """The prior of a name.

    Args:
        prior: `gaussian`, `ring` or `swiss_roll`.
        dim: Numbers in a code.
        std: Of the Gaussian one.

    Raises:
        UsageError: If one in the plane is asked for codes of another dimension, or std is not positive.
    """
    if prior == "gaussian":
        return GaussianPrior(dim, std)
    require(dim == PLANE, f"prior: {prior} needs latent_dim: {PLANE}, got {dim}")
    return RingPrior(dim) if prior == "ring" else SwissRollPrior(dim)
