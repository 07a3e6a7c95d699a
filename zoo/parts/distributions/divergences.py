"""Kullback-Leibler divergences: in closed form where torch has one, else averaged over draws."""

from typing import TypeGuard

from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, kl_divergence
from torch.distributions.kl import _dispatch_kl

from zoo.errors import UsageError


def has_closed_form(q: Distribution, p: Distribution) -> bool:
    """Whether torch's registry knows KL(q || p)."""
    if isinstance(q, Independent) and isinstance(p, Independent):
        alike = q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
        return alike and has_closed_form(q.base_dist, p.base_dist)
    if isinstance(q, TransformedDistribution) and isinstance(p, TransformedDistribution):
        return q.transforms == p.transforms and has_closed_form(q.base_dist, p.base_dist)
    return _dispatch_kl(type(q), type(p)) is not NotImplemented


def kl_of(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) in nats, [B]: the closed form, else `monte_carlo_kl`.

    Args:
        q: Batch [B], event [D].
        p: Event [D].
        z: Draws from q, [K, B, D]: read where there is no closed form.
    """
    return kl_divergence(q, p) if has_closed_form(q, p) else monte_carlo_kl(q, p, z)


def monte_carlo_kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """The mean of log q(z) - log p(z) over draws z [K, ...] from q: KL(q || p) in expectation."""
    return (q.log_prob(z) - p.log_prob(z)).mean(0)


def kl_of_units(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL of every unit in nats, [B, D], as free bits want it.

    Args:
        q: Batch [B], independent over the D units of its event.
        p: Independent over the same units.
        z: Draws from q, [K, B, D]: read where there is no closed form.

    Raises:
        UsageError: If units depend on one another, as those of a mixture, a flow or several layers do.
    """
    if not (_by_unit(q) and _by_unit(p)):
        found = f"{type(q).__name__} and {type(p).__name__}"
        raise UsageError(f"posterior and prior must be independent over units to count each, got {found}")
    return kl_of(q.base_dist, p.base_dist, z)


def _by_unit(distribution: Distribution) -> TypeGuard[Independent]:
    return isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1
