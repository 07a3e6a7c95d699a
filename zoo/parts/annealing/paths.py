"""Annealed importance sampling along any path of unnormalised densities.

Neal. Annealed Importance Sampling. Statistics and Computing 2001. arXiv:physics/9803008.
Grosse, Ghahramani, Adams. Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo. 2015.
arXiv:1511.02543 (chains run backwards from exact draws).
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import require
from zoo.parts.estimators import log_mean_exp

State = TypeVar("State")
Betas = Float[Tensor, " points"]


class Path(ABC, Generic[State]):
    """Unnormalised densities f_beta from one that can be drawn from (beta = 0) to the target (beta = 1)."""

    log_z0: float
    """log of the integral of f_0, in nats."""

    @abstractmethod
    def start(self, num_chains: int) -> State:
        """Exact draws at beta = 0."""

    @abstractmethod
    def log_density(self, state: State, beta: float) -> Tensor:
        """The value of log f_beta in nats, one per chain, float64."""

    @abstractmethod
    def transition(self, state: State, beta: float) -> State:
        """One move of every chain, reversible with respect to f_beta."""

    def log_z(self) -> float | None:
        """The log of the target's integral, in nats, where it can be summed; else None."""
        return None


@torch.no_grad()
def anneal(path: Path[State], num_chains: int, betas: Betas) -> tuple[Tensor, State]:
    """Annealed importance sampling (Neal 2001, equation 11): the mean of exp(log_w) is Z in expectation.

    Args:
        path: From the start to the target.
        num_chains: Independent chains.
        betas: Inverse temperatures, from 0 to 1; a run has one step less than points.

    Returns:
        One estimate of log Z per chain, log weight + log Z_0, float64; and where the chains ended.

    Raises:
        UsageError: If `num_chains` is below 1.
    """
    require(num_chains >= 1, f"num_chains must be at least 1, got {num_chains}")
    state = path.start(num_chains)
    log_w = torch.tensor(path.log_z0, dtype=torch.float64)
    for low, high in pairwise(betas.tolist()):
        if low > 0:
            state = path.transition(state, low)
        log_w = log_w + path.log_density(state, high) - path.log_density(state, low)
    return log_w, state


@torch.no_grad()
def anneal_back(path: Path[State], state: State, betas: Betas) -> tuple[Tensor, State]:
    """The same chain from the target to the start: the mean of exp(-log_w) is 1/Z in expectation.

    That holds where `state` is an exact draw from the target; so -log mean exp(-log_w) is an upper bound of
    log Z in expectation (Grosse, Ghahramani, Adams 2015, section 3).

    Args:
        path: From the start to the target.
        state: Draws from the target.
        betas: Inverse temperatures, from 0 to 1.

    Returns:
        As from `anneal`.
    """
    log_w = torch.tensor(path.log_z0, dtype=torch.float64)
    for high, low in pairwise(betas.flip(0).tolist()):
        state = path.transition(state, high)
        log_w = log_w + path.log_density(state, high) - path.log_density(state, low)
    return log_w, state


def upper_bound(log_w: Tensor) -> Tensor:
    """-log mean exp(-log_w) along the first dimension, of weights of `anneal_back`."""
    return -log_mean_exp(-log_w)


def effective_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 along the first dimension, between 1 and its length."""
    return 1 / log_w.softmax(0).square().sum(0)


def linear(num_steps: int) -> Betas:
    """Equal steps from 0 to 1: inverse temperatures [num_steps + 1], float64."""
    require(num_steps >= 1, f"num_steps must be at least 1, got {num_steps}")
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def sigmoid(num_steps: int, rad: float = 4.0) -> Betas:
    """Steps of a logistic curve on [-rad, rad], shortest at both ends (Wu et al. 2017, appendix)."""
    curve = torch.sigmoid(rad * (2 * linear(num_steps) - 1))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def tripartite(num_steps: int) -> Betas:
    """500 : 4000 : 10000 equal steps on [0, .5], [.5, .9] and [.9, 1] (Salakhutdinov, Murray 2008)."""
    done, beta = [0.0, 500 / 14_500, 4_500 / 14_500, 1.0], [0.0, 0.5, 0.9, 1.0]
    return torch.from_numpy(np.interp(linear(num_steps).numpy(), done, beta))
