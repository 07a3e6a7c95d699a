"""Sparse Gaussian processes of uncertain inputs: expectations of the kernel in closed form, and two bounds.

Titsias, Lawrence. Bayesian Gaussian Process Latent Variable Model. AISTATS 2010. Hensman, Fusi, Lawrence.
Gaussian Processes for Big Data. UAI 2013. arXiv:1309.6835.

Parameters keep their precision; everything that is made of them is float64, in mixed precision too: the
Cholesky factor of nearly equal rows wants it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from zoo.parts.distributions.gaussians import LOG_VARIANCE_RANGE
from zoo.parts.networks.dense import readout

KERNEL_JITTER = 1e-6
"""What is added to the diagonal of the kernel's matrix, as a share of its variance."""
FIRST_NOISE = 0.5
"""Variance of the noise at the start, as a share of the targets'."""
FIRST_KERNEL_BIAS = 0.01
"""Variance of the bias at the start, as a share of the kernel's."""
FIRST_INPUT_VARIANCE = 0.1
"""Variance of uncertain inputs at the start."""
Columns = slice | Tensor
"""Some of the outputs: a slice, or a bool for each."""


class UncertainInputs(NamedTuple):
    """A Gaussian per point whose coordinates are independent."""

    mean: Tensor
    """[B, Q]."""
    variance: Tensor
    """[B, Q], or [1, Q] where all points share one: psi2 then takes no exponential per pair and point."""


class InputsHead(nn.Module):
    """Features [B, F] to uncertain inputs [B, Q] of a Gaussian process.

    Args:
        in_dim: Width F of the features.
        dim: Width Q of the inputs.
        amortised: Variances are read from the features too; else one vector is learnt for all points.
    """

    def __init__(self, in_dim: int, dim: int, *, amortised: bool) -> None:
        super().__init__()
        self.mean = readout(in_dim, dim)
        self.spread = readout(in_dim, dim) if amortised else None
        self.log_variance = nn.Parameter(torch.full((dim,), math.log(FIRST_INPUT_VARIANCE)))

    def forward(self, features: Tensor) -> UncertainInputs:
        """UncertainInputs of the inputs, float64."""
        log_variance = self.log_variance.double()[None]
        if self.spread is not None:
            log_variance = log_variance + self.spread(features).double()
        return UncertainInputs(self.mean(features).double(), log_variance.clamp(*LOG_VARIANCE_RANGE).exp())


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor; NaN where there is none, so that a loss made of it stops the training."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where(info == 0, factor, math.nan)


def _solved(lower: Tensor, x: Tensor) -> Tensor:
    """lower^-1 x."""
    return torch.linalg.solve_triangular(lower, x, upper=False)


def _solved_transposed(lower: Tensor, x: Tensor) -> Tensor:
    """lower^-T x."""
    return torch.linalg.solve_triangular(lower.mT, x, upper=True)


class SquaredExponential(nn.Module):
    """k(x, x') = s^2 exp(-1/2 sum_q (x_q - x'_q)^2 / l_q^2) + b, and its expectations under Gaussian inputs.

    Args:
        dim: Width Q of the inputs; their lengths l start at sqrt(Q).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.log_bias = nn.Parameter(torch.tensor(math.log(FIRST_KERNEL_BIAS)))
        self.log_lengths = nn.Parameter(torch.full((dim,), 0.5 * math.log(dim)))

    @property
    def variance(self) -> Tensor:
        """s^2."""
        return self.log_variance.double().exp()

    @property
    def bias(self) -> Tensor:
        """The constant b."""
        return self.log_bias.double().exp()

    @property
    def squared_lengths(self) -> Tensor:
        """l^2, [Q]."""
        return (2 * self.log_lengths.double()).exp()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """k(x, z) of points [N, Q] and [M, Q], [N, M]."""
        return self.psi1(UncertainInputs(x, x.new_zeros(1, x.shape[1])), z)

    def psi0(self) -> Tensor:
        """E k(h, h) = s^2 + b of any point, []."""
        return self.variance + self.bias

    def psi1(self, h: UncertainInputs, z: Tensor) -> Tensor:
        """E k(h, z), [B, M]."""
        return self._psi1(h, z) + self.bias

    def _psi1(self, h: UncertainInputs, z: Tensor) -> Tensor:
        squared = self.squared_lengths
        log_volume = 0.5 * (h.variance / squared).log1p().sum(1, keepdim=True)
        return self.variance * (-0.5 * _distances(h.mean, z, 1 / (h.variance + squared)) - log_volume).exp()

    def _psi2(self, h: UncertainInputs, z: Tensor) -> tuple[Tensor, Tensor]:
        """psi2 without its bias in two factors, e_m e_m' g_mm': e [G, B/G, M], g [G, M, M].

        The square of h - (z + z')/2 is half those of h - z and h - z' less a quarter of that of z - z': what
        is left to each pair depends on the variance of h alone. G is 1 where all points share it, else B.
        """
        squared = self.squared_lengths
        precision = 1 / (2 * h.variance + squared)
        log_volume = 0.25 * (2 * h.variance / squared).log1p().sum(1, keepdim=True)
        near = self.variance * (-0.5 * _distances(h.mean, z, precision) - log_volume).exp()
        apart = (z[:, None] - z).square().flatten(0, 1)
        pairs = (-0.25 * (1 / squared - precision) @ apart.T).exp()
        return near.unflatten(0, (len(precision), -1)), pairs.unflatten(1, (len(z), len(z)))

    def psi2_product(self, h: UncertainInputs, z: Tensor, weight: Tensor) -> Tensor:
        """sum_mm' w_mm' E k(h, z_m) k(h, z_m') of symmetric weights [M, M], per point, [B]."""
        near, pairs = self._psi2(h, z)
        form = ((near @ (pairs * weight)) * near).sum(-1).flatten()
        return form + 2 * self.bias * self._psi1(h, z) @ weight.sum(1) + self.bias.square() * weight.sum()

    def psi2(self, h: UncertainInputs, z: Tensor) -> Tensor:
        """sum_n E k(h_n, z_m) k(h_n, z_m') over the points, [M, M]."""
        near, pairs = self._psi2(h, z)
        first = self._psi1(h, z).sum(0)
        biased = self.bias * (first[:, None] + first) + len(h.mean) * self.bias.square()
        return (near.mT @ near * pairs).sum(0) + biased


def _distances(x: Tensor, z: Tensor, precision: Tensor) -> Tensor:
    """sum_q p_q (x_q - z_q)^2 of points [B, Q] and [M, Q], [B, M]; precisions p [B, Q] or [1, Q]."""
    squares = (x.square() * precision).sum(1, keepdim=True) + precision @ z.square().T
    return (squares - 2 * (x * precision) @ z.T).clamp(min=0)


class SparseGP(nn.Module):
    """P functions of one Gaussian process, known at M inducing inputs, and noise of one variance.

    With K = L L' at the inducing inputs, u = L v there, and q(v_p) = N(m_p, C C') for every output p.

    Args:
        in_dim: Width Q of the inputs.
        out_dim: Number P of outputs.
        num_inducing: Number M of inducing inputs, which start uniform in [-1, 1].
    """

    def __init__(self, in_dim: int, out_dim: int, num_inducing: int) -> None:
        super().__init__()
        self.kernel = SquaredExponential(in_dim)
        self.inducing = nn.Parameter(2 * torch.rand(num_inducing, in_dim) - 1)
        self.whitened_mean = nn.Parameter(torch.randn(num_inducing, out_dim) / math.sqrt(num_inducing))
        self.raw_root = nn.Parameter(torch.zeros(num_inducing, num_inducing))
        self.log_noise = nn.Parameter(torch.tensor(math.log(FIRST_NOISE)))

    def noise(self, learnt: bool = True) -> Tensor:
        """Variance of the noise, []; without a gradient where it is not learnt."""
        return (self.log_noise if learnt else self.log_noise.detach()).double().exp()

    @property
    def root(self) -> Tensor:
        """C, lower triangular, [M, M]."""
        raw = self.raw_root.double()
        return raw.tril(-1) + raw.diagonal().exp().diag()

    def _factor(self) -> tuple[Tensor, Tensor]:
        """Inducing inputs [M, Q] and L [M, M]."""
        z = self.inducing.double()
        jitter = KERNEL_JITTER * self.kernel.variance * torch.eye(len(z), dtype=z.dtype, device=z.device)
        return z, _cholesky(self.kernel(z, z) + jitter)

    def explained(
        self,
        h: UncertainInputs,
        target: Tensor,
        spread: Tensor,
        *,
        columns: Columns = slice(None),
        learn_noise: bool = True,
    ) -> Tensor:
        """E log p(target|f(h)) over q(v), q(h) and the targets' own variance, in nats per point, [B].

        Args:
            h: Inputs.
            target: Means of the targets, [B, number of columns].
            spread: Variance of the targets, summed over the columns, [B] or [1].
            columns: The outputs that have a target.
            learn_noise: Whether a gradient reaches the noise.
        """
        (z, lower), noise = self._factor(), self.noise(learn_noise)
        mean, root = self.whitened_mean.double()[:, columns], self.root
        num = target.shape[1]
        second = mean @ mean.T + num * (root @ root.T - torch.eye(len(z), dtype=z.dtype, device=z.device))
        weight = _solved_transposed(lower, _solved_transposed(lower, second).mT)
        f = self.kernel.psi1(h, z) @ _solved_transposed(lower, mean)
        squares = self.kernel.psi2_product(h, z, weight) + num * self.kernel.psi0()
        misfit = (target * (target - 2 * f)).sum(1) + spread + squares
        return -0.5 * (num * (2 * math.pi * noise).log() + misfit / noise)

    def kl(self) -> Tensor:
        """KL(q(v) || N(0, I)) of all outputs in nats, []."""
        mean, root = self.whitened_mean.double(), self.root
        log_det = self.raw_root.double().diagonal().sum()
        excess = root.square().sum() - len(root) - 2 * log_det
        return 0.5 * (mean.square().sum() + mean.shape[1] * excess)

    def collapsed(
        self, h: UncertainInputs, target: Tensor, spread: Tensor, *, learn_noise: bool = True
    ) -> Tensor:
        """The bound of all points together under the best q(v), in nats, [].

        Where the targets are known that is the sum of `explained`, less `kl`. Uncertain ones have a
        q(v) for each of their values, which gains 1/2 sum_n spread_n psi1_n A^-1 psi1_n' / noise^2.

        Args:
            h: Inputs.
            target: Means of the targets, [N, P].
            spread: Variance of the targets, summed over the outputs, [N] or [1].
            learn_noise: Whether a gradient reaches the noise.
        """
        noise = self.noise(learn_noise)
        first, trace, factor = self._evidence(h, noise)
        n, num = target.shape
        fitted = _solved(factor, first.T)
        gained = (fitted @ target).square().sum() + (spread * fitted.square().sum(0)).sum()
        missed = target.square().sum() + spread.expand(n).sum() + num * (n * self.kernel.psi0() - trace)
        log_det = n * (2 * math.pi * noise).log() + 2 * factor.diagonal().log().sum()
        return -0.5 * (num * log_det + missed / noise - gained / noise.square())

    def _evidence(
        self, h: UncertainInputs, noise: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Psi1 L^-T [N, M], the trace of L^-1 Psi2 L^-T, and the factor of I + scale/noise L^-1 Psi2 L^-T."""
        z, lower = self._factor()
        first = _solved(lower, self.kernel.psi1(h, z).T).T
        second = _solved(lower, _solved(lower, self.kernel.psi2(h, z)).mT)
        eye = torch.eye(len(z), dtype=z.dtype, device=z.device)
        return first, second.trace(), _cholesky(eye + scale / noise * second)

    @torch.no_grad()
    def settle(self, h: UncertainInputs, target: Tensor, scale: float = 1.0) -> None:
        """Set q(v) to the best one.

        Args:
            h: Inputs.
            target: Means of the targets, [N, P].
            scale: How many points each of these stands for.
        """
        noise = self.noise()
        first, _, factor = self._evidence(h, noise, scale)
        mean = scale / noise * torch.cholesky_solve(first.T @ target, factor)
        root = _cholesky(torch.cholesky_inverse(factor))
        self.whitened_mean.copy_(mean)
        self.raw_root.copy_(root.tril(-1) + root.diagonal().log().diag())

    @torch.no_grad()
    def start(self, h: UncertainInputs, target: Tensor, scale: float) -> None:
        """Start the variances from those of the targets [N, P], and q(v) at the best one; see `settle`."""
        log_variance = target.var(0, correction=0).mean().clamp(min=KERNEL_JITTER).log()
        self.kernel.log_variance.copy_(log_variance)
        self.kernel.log_bias.copy_(log_variance + math.log(FIRST_KERNEL_BIAS))
        self.log_noise.copy_(log_variance + math.log(FIRST_NOISE))
        self.settle(h, target, scale)

    def predict(self, h: Tensor) -> Independent:
        """p(target|h) of known inputs [B, Q] over q(v) and the noise, each alone: event [P]."""
        z, lower = self._factor()
        first = _solved(lower, self.kernel(h.double(), z).T).T
        mean = first @ self.whitened_mean.double()
        explained = first.square().sum(1) - (first @ self.root).square().sum(1)
        variance = (self.kernel.psi0() - explained).clamp(min=0) + self.noise()
        return Independent(Normal(mean, variance.sqrt()[:, None].expand_as(mean), validate_args=False), 1)
