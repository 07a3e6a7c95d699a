"""Reverse kernels multiplied by what is known of the image (Sohl-Dickstein et al. 2015, section 2.5).

Known pixels with the noise of the step: Song et al. 2021, arXiv:2011.13456, appendix I.2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.contract import Images, PerImage


class Kernel(NamedTuple):
    """What is known of the state before a step: its mean and variance, [B, C, H, W]."""

    mean: Tensor
    variance: Tensor


Change = Callable[[Kernel, int], Kernel]
"""What is made of the reverse kernel at a step."""
Power = Callable[[int], float]
"""The power to which the other distribution is raised at a step."""


def with_pixels(known: Tensor, x: Images) -> Change:
    """Multiply by a delta at x where `known` is true, at every step."""

    def change(kernel: Kernel, _: int) -> Kernel:
        return Kernel(torch.where(known, x, kernel.mean), kernel.variance.masked_fill(known, 0))

    return change


def with_noised(known: Tensor, x: Images, kept: Sequence[float]) -> Change:
    """Put states drawn from the forward chain where `known` is true.

    Args:
        known: Which pixels.
        x: Images as the chain has them.
        kept: The value of alpha-bar where each step leads to, the first step's first; earlier states, which
            are noise, stay as they are.
    """

    def change(kernel: Kernel, step: int) -> Kernel:
        if step > len(kept):
            return kernel
        share = kept[step - 1]
        mean = torch.where(known, share**0.5 * x, kernel.mean)
        return Kernel(mean, kernel.variance.masked_fill(known, 1 - share))

    return change


def with_gaussian(x: Images, precision: Tensor, power: Power) -> Change:
    """Multiply a Gaussian kernel by N(x, 1 / precision)."""

    def change(kernel: Kernel, step: int) -> Kernel:
        weight = precision * power(step) * kernel.variance
        return Kernel((kernel.mean + weight * x) / (1 + weight), kernel.variance / (1 + weight))

    return change


def with_smooth(log_r: Callable[[Images], PerImage], power: Power) -> Change:
    """Multiply a Gaussian kernel by a smooth r: its mean moves by its variance times the slope of log r."""

    def change(kernel: Kernel, step: int) -> Kernel:
        with torch.enable_grad():
            mean = kernel.mean.detach().requires_grad_()
            (slope,) = torch.autograd.grad(log_r(mean).sum(), mean)
        return Kernel(kernel.mean + power(step) * kernel.variance * slope, kernel.variance)

    return change
