"""Mixtures of which every component is drawn, and none of them chosen."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence


def log_table(components: Independent, z: Tensor) -> Tensor:
    """The value of log q_j(z_k) of every draw under every component, [..., K (k), K (j)].

    Args:
        components: Gaussians q, batch [..., K], event [D].
        z: A draw from each, [..., K, D].
    """
    base = components.base_dist
    mean, std = base.mean.unsqueeze(-3), base.stddev.unsqueeze(-3)
    return Independent(type(base)(mean, std, validate_args=False), 1).log_prob(z.unsqueeze(-2))


def log_mixture(log_shares: Tensor, table: Tensor) -> Tensor:
    """The value of log sum_j pi_j q_j(z_k) of every draw, [..., K].

    Args:
        log_shares: log pi, [..., K].
        table: As of `log_table`.
    """
    return torch.logsumexp(log_shares.unsqueeze(-2) + table, -1)


def log_sum_of_own(log_shares: Tensor, table: Tensor) -> Tensor:
    """The value of log sum_k pi_k q_k(z_k), [...]: each component at its own draw, which is no density."""
    return torch.logsumexp(log_shares + table.diagonal(dim1=-2, dim2=-1), -1)


def mean_divergence(components: Independent) -> Tensor:
    """KL(q_k || q_j) in nats, the mean over all pairs of two components, [...]; 0 of a single one."""
    base, k = components.base_dist, components.batch_shape[-1]
    one, two = (
        Normal(base.mean.unsqueeze(at), base.stddev.unsqueeze(at), validate_args=False) for at in (-2, -3)
    )
    return kl_divergence(one, two).sum((-3, -2, -1)) / max(1, k * (k - 1))


def chosen(components: Independent, shape: torch.Size) -> Distribution:
    """The components repeated over the batch [..., K] of the shares that choose among them."""
    return components.expand(torch.broadcast_shapes(components.batch_shape, shape))
