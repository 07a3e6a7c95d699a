"""Kernels of vectors and the discrepancies that they measure: unbiased U-statistics, which may be negative.

Gretton, Borgwardt, Rasch, Schoelkopf, Smola, "A kernel two-sample test", JMLR 13 (2012). Liu, Lee, Jordan, "A
kernelized Stein discrepancy for goodness-of-fit tests", ICML 2016, arXiv:1602.03253.
"""

from typing import Literal

import torch
from torch import Tensor

from zoo.errors import require

RadialKernel = Literal["rbf", "imq"]
IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M] of vectors x [N, D] and y [M, D], by one matrix product."""
    with torch.autocast(x.device.type, enabled=False):
        lengths = x.square().sum(1).unsqueeze(1) + y.square().sum(1)
        return torch.addmm(lengths, x, y.T, alpha=-2).clamp_(min=0)


def gram(x: Tensor, y: Tensor, kernel: RadialKernel) -> Tensor:
    """RadialKernel matrix [N, M] of vectors x [N, D] and y [M, D].

    Args:
        x: One set.
        y: The other.
        kernel: `rbf`: exp(-|x - y|^2 / D^2), the width of Zhao et al. (2017); `imq`: the sum over scales s of
            2 D s / (2 D s + |x - y|^2) (Tolstikhin et al. 2018).
    """
    squares, dim = squared_distances(x, y), x.shape[1]
    if kernel == "rbf":
        return (-squares / dim**2).exp()
    k = torch.zeros_like(squares)
    for width in _widths(dim):
        k = k + width / (width + squares)
    return k


def peak(kernel: RadialKernel) -> float:
    """What the kernel gives of equal vectors."""
    return 1.0 if kernel == "rbf" else float(len(IMQ_SCALES))


def mmd(x: Tensor, y: Tensor, kernel: RadialKernel) -> Tensor:
    """Squared maximum mean discrepancy of the distributions of x [N, D] and y [M, D], unbiased.

    Raises:
        UsageError: If a set has fewer than two vectors.
    """
    fewest = min(len(x), len(y))
    require(fewest >= 2, f"MMD needs at least 2 vectors on each side, got {fewest}")
    within = _mean_of_pairs(gram(x, x, kernel)) + _mean_of_pairs(gram(y, y, kernel))
    return within - 2 * gram(x, y, kernel).mean()


def stein_discrepancy(x: Tensor, score: Tensor, kernel: RadialKernel) -> Tensor:
    """Squared kernelised Stein discrepancy of the distribution of x from a density p, unbiased.

    Args:
        x: Vectors [N, D].
        score: Gradient of log p at each, [N, D].
        kernel: As of `gram`.

    Raises:
        UsageError: If there are fewer than two vectors.
    """
    require(len(x) >= 2, f"the Stein discrepancy needs at least 2 vectors, got {len(x)}")
    dim, squares, k = x.shape[1], squared_distances(x, x), gram(x, x, kernel)
    slope, bend = _derivatives(squares, k, dim, kernel)
    with torch.autocast(x.device.type, enabled=False):
        scores, across = score @ score.T, x @ score.T
    own = (x * score).sum(1)
    drift = across + across.T - own.unsqueeze(1) - own  # (x - x') . (s' - s)
    return _mean_of_pairs(scores * k + 2 * slope * drift - 2 * dim * slope - 4 * bend * squares)


def _widths(dim: int) -> list[float]:
    return [2 * dim * scale for scale in IMQ_SCALES]


def _derivatives(squares: Tensor, k: Tensor, dim: int, kernel: RadialKernel) -> tuple[Tensor, Tensor]:
    """The first two of the kernel as a function of the squared distance."""
    if kernel == "rbf":
        return -k / dim**2, k / dim**4
    slope = bend = torch.zeros_like(squares)
    for width in _widths(dim):
        share = width / (width + squares)
        slope, bend = slope - share.square() / width, bend + 2 * share**3 / width**2
    return slope, bend


def _mean_of_pairs(k: Tensor) -> Tensor:
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))
