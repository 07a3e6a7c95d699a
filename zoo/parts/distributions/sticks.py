"""Sticks in (0, 1), and the shares of a whole that they break off it, one after another.

Nalisnick, Smyth. Stick-Breaking Variational Autoencoders. ICLR 2017. arXiv:1605.06197. Sticks stay between
1e-6 and 1 - 1e-6; what lies beyond is drawn at these edges.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    Distribution,
    Gamma,
    Independent,
    SigmoidTransform,
    Transform,
    TransformedDistribution,
    constraints,
    register_kl,
)
from torch.nn.functional import pad, softplus

from zoo.parts.distributions.gaussians import LOG_VARIANCE_RANGE, Gaussian

StickKind = Literal["kumaraswamy", "gauss_logit", "gamma"]
"""The distribution of a posterior's sticks: Kumaraswamy's; the sigmoid of a Gaussian; X / (X + Y) of two
Gamma variables, which is a Beta distribution."""

EDGE = 1e-6
"""Distance from 0 and 1 that sticks keep."""
LEAST_SHARE = 1e-30
"""Shares are no smaller, so that sticks can be read from them again."""
TERMS = 50
"""Terms of the series for E log(1 - v) before its tail."""
NODES = 40
"""Nodes of the Gauss-Hermite rule for the mean of a sigmoid."""
STICK_FLOOR = 1e-2
"""Smallest a and b of a posterior."""
SPREAD = 0.01
"""Standard deviation of the weights of heads at the start, as in the paper."""


def _log1mexp(x: Tensor) -> Tensor:
    """The value of log(1 - e^x) of x < 0, with a finite gradient."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    near = x > -math.log(2)
    small, large = x.where(near, -1), x.where(~near, -1)
    return (-small.expm1()).log().where(near, (-large.exp()).log1p())


def _inside(v: Tensor) -> Tensor:
    return v.clamp(EDGE, 1 - EDGE)


class Kumaraswamy(Distribution):
    """Density a b v^(a - 1) (1 - v^a)^(b - 1), drawn and evaluated by logarithms.

    Args:
        a: Positive.
        b: Positive, of the same shape.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        super().__init__(a.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The unit interval."""
        return constraints.unit_interval

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws (1 - u^(1/b))^(1/a) of uniform u, [*sample_shape, ...]."""
        shape, eps = self._extended_shape(torch.Size(sample_shape)), torch.finfo(self.a.dtype).eps
        u = torch.rand(shape, dtype=self.a.dtype, device=self.a.device).clamp(eps, 1 - eps)
        return _inside((_log1mexp(u.log() / self.b) / self.a).exp())

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the densities in nats."""
        a, b, log_v = self.a, self.b, value.log()
        return a.log() + b.log() + (a - 1) * log_v + (b - 1) * _log1mexp(a * log_v)

    @property
    def mean(self) -> Tensor:
        """The value of b B(1 + 1/a, b)."""
        return self.b * _log_beta(1 + 1 / self.a, self.b).exp()


class GaussLogit(TransformedDistribution):
    """The sigmoid of a Gaussian variable.

    Args:
        mean: Mean of the Gaussian.
        std: Its standard deviation.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__(Gaussian(mean, std, validate_args=False), SigmoidTransform(), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore
        """Reparameterised draws, [*sample_shape, ...]."""
        return _inside(super().rsample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean of the sigmoid, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        base = self.base_dist
        nodes, weights = (torch.as_tensor(t).to(base.mean) for t in (nodes, weights / weights.sum()))
        return ((base.mean[..., None] + base.stddev[..., None] * nodes).sigmoid() * weights).sum(-1)


class GammaRatio(Beta):
    """X / (X + Y) of X ~ Gamma(a, 1) and Y ~ Gamma(b, 1): a Beta(a, b) variable, drawn from its parts."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws whose gradients are those of the two Gamma variables, [*sample_shape, ...]."""
        a, b = self.concentration1, self.concentration0
        x, y = (Gamma(c, torch.ones_like(c), False).rsample(torch.Size(sample_shape)) for c in (a, b))
        return _inside(x / (x + y))


@register_kl(Kumaraswamy, Beta)
def _kl_from_beta(q: Kumaraswamy, p: Beta) -> Tensor:
    """Nalisnick, Smyth 2017, equation 8, with the tail of its series."""
    a, b, alpha, beta = q.a, q.b, p.concentration1, p.concentration0
    log_v = -np.euler_gamma - b.digamma() - 1 / b  # a E log v
    constant = (a * b).log() + _log_beta(alpha, beta) - (b - 1) / b
    return (a - alpha) / a * log_v + constant + (beta - 1) * _minus_mean_log_rest(a, b)


def _minus_mean_log_rest(a: Tensor, b: Tensor) -> Tensor:
    """-E log(1 - v) of Kumaraswamy's v: 50 terms t_m = b B(m/a, b) / (m + a b), the others from the last.

    Terms fall like m^(-1 - b), slowly for small b: what is left out would be a hole for an optimizer to find.
    The tail is the integral from M + 1/2 of that power through t_M.
    """
    m = torch.arange(1, TERMS + 1, dtype=a.dtype, device=a.device).view(-1, *[1] * a.ndim)
    x = m / a
    terms = (x.lgamma() - (x + b).lgamma() + b.lgamma()).exp() * b / (m + a * b)
    tail = terms[-1] * (math.log(TERMS) * (1 + b) - math.log(TERMS + 0.5) * b).exp() / b
    return terms.sum(0) + tail


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


class Breaking(Transform):
    """From K - 1 sticks v to K shares pi_k = v_k prod_{j<k} (1 - v_j), the last one what is left."""

    domain = constraints.independent(constraints.unit_interval, 1)
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        """Whether the other breaks sticks too."""
        return isinstance(other, Breaking)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return shares_of(x)

    def _inverse(self, y: Tensor) -> Tensor:
        left = y.flip(-1).cumsum(-1).flip(-1)
        return _inside((y / left)[..., :-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the product of what is left before each break."""
        return pad((-x[..., :-1]).log1p().cumsum(-1), (1, 0)).sum(-1) if x.shape[-1] else x.sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """One share more than sticks."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """One stick less than shares."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


def shares_of(v: Tensor) -> Tensor:
    """Shares [..., K] that sticks [..., K - 1] make, at least 1e-30 each."""
    return log_shares(v).exp().clamp(min=LEAST_SHARE)


def log_shares(v: Tensor) -> Tensor:
    """Logarithms [..., K] of the shares that sticks [..., K - 1] make."""
    return pad(v.log(), (0, 1)) + pad((-v).log1p().cumsum(-1), (1, 0))


class Shares(TransformedDistribution):
    """K shares of a whole, points of the simplex, made by independent sticks.

    Args:
        sticks: K - 1 of them, the event's only dimension.
    """

    def __init__(self, sticks: Independent) -> None:
        super().__init__(sticks, Breaking(), validate_args=False)
        self.sticks = sticks

    @property
    def mean(self) -> Tensor:
        """Mean shares: products of means, as the sticks are independent."""
        return _products(self.sticks.mean, 1 - self.sticks.mean)

    @property
    def variance(self) -> Tensor:
        """Variances of the shares, by products of second moments."""
        mean, variance = self.sticks.mean, self.sticks.variance
        return _products(variance + mean**2, variance + (1 - mean) ** 2) - self.mean**2


def _products(taken: Tensor, left: Tensor) -> Tensor:
    return pad(taken, (0, 1), value=1) * pad(left.cumprod(-1), (1, 0), value=1)


def gem_sticks(num_shares: int, concentration: float, device: torch.device) -> Independent:
    """The first K - 1 sticks of GEM: Beta(1, concentration) each."""
    a = torch.ones(num_shares - 1, device=device)
    return Independent(Beta(a, concentration * a, validate_args=False), 1)


def dirichlet_sticks(num_shares: int, concentration: float, device: torch.device) -> Independent:
    """The K - 1 sticks of a symmetric Dirichlet: Beta(alpha, (K - k) alpha), k from 1."""
    b = concentration * torch.arange(num_shares - 1, 0, -1.0, device=device)
    return Independent(Beta(torch.full_like(b, concentration), b, validate_args=False), 1)


def share_dimension(shares: Tensor, of: float = 0.99) -> Tensor:
    """The fewest shares [..., K] that make up so much of the whole, [...]."""
    largest = shares.sort(-1, descending=True).values.cumsum(-1)
    return ((largest < of).sum(-1) + 1).clamp(max=shares.shape[-1]).to(shares)


class StickHead(nn.Module):
    """Features [..., F] to independent sticks [..., K - 1].

    Args:
        in_dim: Width F of the features.
        kind: The sticks' distribution.
        start: Beta distributions of K - 1 sticks, at which or near which those of all features start.
        spread: Standard deviation of the weights at the start.
    """

    def __init__(self, in_dim: int, kind: StickKind, start: Independent, spread: float) -> None:
        super().__init__()
        self.kind: StickKind = kind
        a, b = start.base_dist.concentration1, start.base_dist.concentration0
        if kind == "gauss_logit":
            one: Any = a.digamma() - b.digamma()
            two: Any = (a.polygamma(1) + b.polygamma(1)).log()
        else:
            one, two = ((c - STICK_FLOOR).clamp(min=STICK_FLOOR).expm1().log() for c in (a, b))
        self.linear = nn.Linear(in_dim, 2 * len(a))
        nn.init.normal_(self.linear.weight, std=spread)
        with torch.no_grad():
            self.linear.bias.copy_(torch.cat((one, two)))

    def forward(self, h: Tensor) -> Independent:
        """The sticks of the features."""
        one, two = self.linear(h).float().chunk(2, -1)
        if self.kind == "gauss_logit":
            std = (0.5 * two.clamp(*LOG_VARIANCE_RANGE)).exp()
            return Independent(GaussLogit(one, std), 1)
        a, b = softplus(one) + STICK_FLOOR, softplus(two) + STICK_FLOOR
        return Independent(Kumaraswamy(a, b) if self.kind == "kumaraswamy" else GammaRatio(a, b, False), 1)
