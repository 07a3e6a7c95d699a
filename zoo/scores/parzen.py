"""The Parzen-window score: a kernel density estimate fitted to a model's samples.

Breuleux, Bengio and Vincent, "Quickly generating representative samples from an RBM-derived process", Neural
Computation 23 (2011), as scored by Goodfellow et al., "Generative adversarial nets", NeurIPS 2014,
arXiv:1406.2661. Kept for history: it rewards smooth samples, and a model can score above the data themselves.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import require
from zoo.parts.estimators import log_sum_of_others
from zoo.scores.metrics import BLOCKS, Estimate, jackknife, mean_and_error

COARSE_STEPS = 9
"""Steps per factor of ten of the first grid, which starts as 0.1, ..., 1."""
FINE = tuple(step / 100 for step in range(12, 31))
"""The second grid where the first one's best lies inside it, as it does on MNIST: 0.12, 0.13, ..., 0.30."""
WIDEST = (1e-3, 1e3)
"""Where the first grid stops growing."""
MIN_VALIDATION = 100
KERNELS_AT_ONCE = 2**20
"""Pairs of an image and a sample whose distances are held at once: 8 MiB."""


class Parzen(NamedTuple):
    """A Parzen-window estimate."""

    sigma: float
    """The kernel's standard deviation that validation images chose, in units of the pixels."""
    log_prob: Tensor
    """log p(x) of every test image in nats, [N], float64."""
    mean: Estimate
    """Mean log p(x) in nats; its error is over the draw of the test images and of the samples."""
    curve: dict[float, float]
    """Every sigma tried, in ascending order, to the mean log p(x) of the validation images in nats."""


@torch.no_grad()
def parzen(samples: Tensor, validation: Tensor, test: Tensor, blocks: int = BLOCKS) -> Parzen:
    """Score images under a Gaussian kernel around every sample; validation images choose its width.

    log p(x) = log (1/M) sum_j N(x; y_j, sigma^2 I). Sigma is the best of ten values between 0.1 and 1, one
    more factor of ten as long as the best lies at an edge; then the best of 0.12, 0.13, ..., 0.30, or, where
    that best lies elsewhere, between its neighbours in steps of its second significant digit. The part of the
    error that is the samples' is a jackknife over blocks of them, at that sigma.

    Args:
        samples: y, [M, ...]: means or draws, which differ by more than a hundred nats on binary data.
        validation: Images [V, ...] that are neither among the samples' training images nor tested.
        test: Images [N, ...].
        blocks: Into how many parts the samples are divided; where they are states of chains, one per chain,
            which then follow one another.

    Raises:
        UsageError: If the shapes differ, a value is not finite, a set is too small, or no sigma between
            0.001 and 1000 is best.
    """
    sizes = {"samples": (samples, 1), "validation": (validation, MIN_VALIDATION), "test": (test, 1)}
    for name, (images, least) in sizes.items():
        count = len(images)
        require(count >= least, f"{name} must hold at least {least} images, got {count}")
        same = images.shape[1:] == samples.shape[1:]
        require(
            same,
            f"{name} must have the shape of the samples, {tuple(samples.shape[1:])}, "
            f"got {tuple(images.shape[1:])}",
        )
        bad = count - int(images.flatten(1).isfinite().all(1).sum())
        require(bad == 0, f"{name} must be finite, got {bad} images with NaN or infinite values")

    curve: dict[float, float] = {}

    def try_all(sigmas: list[float]) -> float:
        sigmas = [sigma for sigma in sigmas if sigma not in curve]
        means = kernel_log_prob(samples, validation, sigmas).mean(1)
        curve.update(zip(sigmas, means.tolist(), strict=True))
        return max(curve, key=lambda sigma: curve[sigma])

    low, high = -COARSE_STEPS, 0
    best = try_all(_coarse(low, high))
    while best in (min(curve), max(curve)):
        low, high = (low - COARSE_STEPS, high) if best == min(curve) else (low, high + COARSE_STEPS)
        inside = WIDEST[0] <= best <= WIDEST[1]
        require(inside, f"the best sigma must lie between {WIDEST[0]} and {WIDEST[1]}, got {best:.3g}")
        best = try_all(_coarse(low, high))
    sigma = try_all(list(FINE) if FINE[0] <= best <= FINE[-1] else _two_digits(best))
    parts = samples.tensor_split(min(blocks, len(samples)))
    mass = torch.stack([kernel_log_prob(part, test, [sigma])[0] + math.log(len(part)) for part in parts])
    log_prob = mass.logsumexp(0) - math.log(len(samples))
    left = torch.tensor([len(samples) - len(part) for part in parts], dtype=mass.dtype, device=mass.device)
    without = (log_sum_of_others(mass) - left.log().unsqueeze(1)).mean(1)
    value, error = mean_and_error(log_prob)
    mean = Estimate(value, math.hypot(error, jackknife(without)))
    return Parzen(sigma, log_prob, mean, dict(sorted(curve.items())))


@torch.no_grad()
def kernel_log_prob(samples: Tensor, images: Tensor, sigmas: list[float]) -> Tensor:
    """The value of log (1/M) sum_j N(x_n; y_j, sigma^2 I) for every sigma and image in nats, [S, N], float64.

    One pass over the distances |x|^2 + |y|^2 - 2xy serves all sigmas; memory does not grow with M times N.

    Args:
        samples: y, [M, ...].
        images: x, [N, ...].
        sigmas: Standard deviations, S of them.
    """
    y = samples.flatten(1).double()
    centre = y.mean(0)
    y = y - centre
    lengths = y.square().sum(1)
    count, dims = y.shape
    rows = min(len(images), max(1, KERNELS_AT_ONCE // max(count, dims)))
    squares, kernels = y.new_empty(2, rows, count).unbind()
    log_prob = y.new_empty(len(sigmas), len(images))
    for part, out in zip(images.flatten(1).split(rows), log_prob.split(rows, 1), strict=True):
        x = part.double() - centre
        square, kernel = squares[: len(x)], kernels[: len(x)]
        torch.addmm(lengths, x, y.T, alpha=-2, out=square)
        square.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)
        nearest = square.amin(1)
        square.sub_(nearest[:, None])
        for row, sigma in zip(out, sigmas, strict=True):
            mass = torch.mul(square, -0.5 / sigma**2, out=kernel).exp_().sum(1)
            peak = -0.5 * nearest / sigma**2 - 0.5 * dims * math.log(2 * math.pi * sigma**2)
            row.copy_(peak + mass.log() - math.log(count))
    return log_prob


def _coarse(low: int, high: int) -> list[float]:
    return [10 ** (step / COARSE_STEPS) for step in range(low, high + 1)]


def _two_digits(best: float) -> list[float]:
    ratio = 10 ** (1 / COARSE_STEPS)
    digit = 10.0 ** (math.floor(math.log10(best)) - 1)
    first, last = math.ceil(best / ratio / digit), math.floor(best * ratio / digit)
    return [float(f"{step * digit:.2g}") for step in range(first, last + 1)]
