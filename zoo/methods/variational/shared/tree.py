"""A tree of Gaussian means under nested stick-breaking weights, and its posterior by coordinate ascent.

A path starts at the root, whose mean is 0. Every node breaks a stick of Beta(1, concentration) for each child
in turn; the last one takes what is left. The mean of a node is N(mean of its parent, node_std^2), codes are
N(mean of their leaf, leaf_std^2). Sticks belong to a group of codes, means to all.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.distributions import Beta, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

FREE, ROOT = -2, -1
"""In the place of a parent: of slots that hold no node, and of the root."""
NEVER = -1e9
"""Log-weight of what is no leaf: finite, so that 0 times it is 0."""
FEWEST = 0.01
"""Share of the codes that a leaf must hold to be split."""
ROUNDS = 20
"""Updates of the means in turn, once a tree is planted."""
RESTARTS = 10
"""Starts of k-means, of which the best counts."""
CODES_AT_ONCE = 2048
Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over processes."""


class Coded(NamedTuple):
    """Gaussian posteriors q(z|x) of N images, as a tree reads them; float64."""

    mean: Tensor
    """[N, D]."""
    spread: Tensor
    """Sum of the D variances, [N]."""
    group: Tensor
    """Whose sticks weigh the paths, [N] int64."""


class Tree(nn.Module):
    """The posterior of a tree: q(mean of a node) = N(mean, variance I), q(stick) a Beta, in float64.

    All codes are of one group unless `regroup` says otherwise. Until it is planted it is the root alone,
    about which codes lie as they do under the prior of all trees: N(0, (leaf_std^2 + levels node_std^2) I).

    Args:
        branching: Children of the root, of each of these, and so on; the tree never has more levels.
        spare_nodes: Nodes for which there is room beyond these.
        dim: Dimensions D of a code.
        node_std: Standard deviation of a node's mean about its parent's.
        leaf_std: Standard deviation of a code about its leaf's mean.
        concentration: Second parameter of the sticks' prior; the larger, the more children share the mass.
    """

    parent: Tensor
    """Slot of every node's parent, [M] int64; siblings take their sticks in the order of their slots."""
    mean: Tensor
    """[M, D]."""
    variance: Tensor
    """[M]."""
    mass: Tensor
    """Codes of each group that are believed to belong to each leaf, [G, M]."""
    log_weight: Tensor
    """E log of the weight of the path to each leaf, [G, M]."""
    leaf_variance: Tensor
    """Variance of codes about the mean of their leaf, []."""
    num_codes: Tensor
    """N, those that the last sweep read, [] float64; 1 before any."""
    kl: Tensor
    """KL of means and sticks from their priors, in nats, []."""

    def __init__(
        self,
        branching: Sequence[int],
        spare_nodes: int,
        dim: int,
        *,
        node_std: float,
        leaf_std: float,
        concentration: float,
    ) -> None:
        super().__init__()
        self.branching, self.concentration = tuple(branching), concentration
        self.leaf_std, self.node_variance = leaf_std, node_std**2
        slots = 1 + sum(accumulate(branching, mul)) + spare_nodes
        parent = torch.full((slots,), FREE)
        parent[0] = ROOT
        self.register_buffer("parent", parent)
        shapes = {"mean": (slots, dim), "variance": (slots,), "mass": (1, slots)}
        for name, shape in (shapes | {"log_weight": (1, slots), "kl": ()}).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("num_codes", torch.ones((), dtype=torch.float64))
        self.log_weight[:, 1:] = NEVER
        wide = leaf_std**2 + len(self.branching) * self.node_variance
        self.register_buffer("leaf_variance", torch.tensor(wide, dtype=torch.float64))

    @property
    def planted(self) -> bool:
        """Whether there is more than the root."""
        return bool((self.parent > ROOT).any())

    def regroup(self, num_groups: int) -> None:
        """Have sticks for so many groups, of whose codes nothing is known yet."""
        self.mass = self.mass.new_zeros(num_groups, len(self.parent))
        self.log_weight = self.mean_log_weight(self.sticks(self.mass))

    @property
    def child(self) -> Tensor:
        """[n, c] is 1 where c is a child of n, [M, M]."""
        return (torch.arange(len(self.parent), device=self.parent.device)[:, None] == self.parent).double()

    @property
    def below(self) -> Tensor:
        """[e, p] is 1 where p is e or below it, [M, M]."""
        child, found = self.child, (self.parent > FREE).double().diag()
        own = found
        for _ in self.branching:
            found = own + child @ found
        return found

    @property
    def later(self) -> Tensor:
        """[e, f] is 1 where f is a later sibling of e, [M, M]."""
        return ((self.parent[:, None] == self.parent) & (self.parent > ROOT)).double().triu(1)

    @property
    def leaf(self) -> Tensor:
        """Which slots are leaves, [M] bool."""
        return (self.parent > FREE) & (self.child.sum(1) == 0)

    def sticks(self, mass: Tensor) -> Beta:
        """Posterior of the sticks of groups with masses [G, M] at the leaves; a last sibling's is 1."""
        under, later = mass @ self.below.T, self.later
        return Beta(1 + under, self.concentration + under @ later.T, validate_args=False)

    def along_paths(self, log_v: Tensor, log_rest: Tensor) -> Tensor:
        """Sums over paths [G, M] of terms in v and in 1 - v of every stick, [G, M] each."""
        later = self.later
        log_v = log_v.masked_fill(later.sum(1) == 0, 0.0)
        return ((log_v + log_rest @ later) @ self.below).masked_fill(~self.leaf, NEVER)

    def log_mean_weight(self, mass: Tensor) -> Tensor:
        """Log of the mean weight of the path to each leaf, [G, M], for groups with masses [G, M]."""
        q = self.sticks(mass)
        both = (q.concentration1 + q.concentration0).log()
        return self.along_paths(q.concentration1.log() - both, q.concentration0.log() - both)

    def mean_log_weight(self, q: Beta) -> Tensor:
        """E log of the weight of the path to each leaf, [G, M]."""
        both = torch.digamma(q.concentration1 + q.concentration0)
        return self.along_paths(q.concentration1.digamma() - both, q.concentration0.digamma() - both)

    def weigh_paths(self) -> None:
        """Derive the weights of paths, and the KL from the prior, of what the tree has become."""
        q = self.sticks(self.mass)
        self.log_weight.copy_(self.mean_log_weight(q))
        prior = Beta(torch.ones_like(q.concentration1), self.concentration, validate_args=False)
        sticks = kl_divergence(q, prior)[:, self.later.sum(1) > 0].sum()
        node, (_, dim) = self.parent > ROOT, self.mean.shape
        above = self.parent[node]
        distance = (self.mean[node] - self.mean[above]).square().sum(1)
        expected = distance + dim * (self.variance[node] + self.variance[above])
        log_ratio = (self.node_variance / self.variance[node]).log()
        means = 0.5 * (expected / self.node_variance + dim * (log_ratio - 1)).sum()
        self.kl.copy_(sticks + means)

    def scores(self, mean: Tensor, spread: Tensor, log_weight: Tensor) -> Tensor:
        """E log of path weight and density of codes under each leaf, [N, M].

        Args:
            mean: Of the codes, [N, D].
            spread: Sums of their variances, [N].
            log_weight: Of the paths, [N, M] or [1, M].
        """
        dim = mean.shape[1]
        near = mean.square().sum(1, keepdim=True) - 2 * mean @ self.mean.T + self.mean.square().sum(1)
        expected = near + spread[:, None] + dim * self.variance
        scale = dim * (2 * torch.pi * self.leaf_variance).log()
        return log_weight - 0.5 * (expected / self.leaf_variance + scale)

    def prior(self, mass: Tensor) -> MixtureSameFamily:
        """What the posterior says of a new code of a group with masses [M]: event [D], in float32."""
        leaf = self.leaf
        scale = (self.leaf_variance + self.variance[leaf]).sqrt()[:, None].expand(-1, self.mean.shape[1])
        leaves = Independent(Normal(self.mean[leaf].float(), scale.float(), validate_args=False), 1)
        weights = self.log_mean_weight(mass[None])[0, leaf].float()
        return MixtureSameFamily(
            Categorical(logits=weights, validate_args=False), leaves, validate_args=False
        )

    def sweep(self, codes: Coded, total: Total = lambda t: t) -> float:
        """Update assignments, sticks and means, each to its optimum given the others.

        Args:
            codes: Of this process.
            total: Sums over processes.

        Returns:
            The bound in nats before the update of sticks and means, but for the entropies of the codes: from
            sweep to sweep it never falls.
        """
        mass, first, bound = torch.zeros_like(self.mass), torch.zeros_like(self.mean), self.kl.new_zeros(())
        for mean, spread, group in zip(*(column.split(CODES_AT_ONCE) for column in codes), strict=True):
            score = self.scores(mean, spread, self.log_weight[group])
            log_phi = score.log_softmax(1)
            phi = log_phi.exp()
            bound += (phi * (score - log_phi)).sum()
            mass.index_add_(0, group, phi)
            first += phi.T @ mean
        bound = total(bound) - self.kl
        self.settle(total(mass), total(first))
        return float(bound)

    def settle(self, mass: Tensor, first: Tensor) -> None:
        """Fit sticks and means to the masses [G, M] at the leaves and the sums [M, D] of the codes there."""
        self.mass.copy_(mass)
        self.num_codes.copy_(mass.sum())
        child, leaf, depth = self.child, self.leaf, self.below.sum(0) - 1
        pull, at = self.mass.sum(0) / self.leaf_variance, first / self.leaf_variance
        for level in range(len(self.branching), 0, -1):
            node = depth == level
            parents = self.mean[self.parent[node]]
            held = torch.where(leaf, pull, child.sum(1) / self.node_variance)
            drawn = torch.where(leaf[:, None], at, child @ self.mean / self.node_variance)
            self.variance[node] = 1 / (1 / self.node_variance + held[node])
            self.mean[node] = self.variance[node, None] * (parents / self.node_variance + drawn[node])
        self.weigh_paths()

    def plant(self, codes: Tensor) -> None:
        """Start at codes [N, D]: k-means finds the root's children, then theirs inside; the largest first."""
        nodes, used = [(0, torch.arange(len(codes), device=codes.device))], 1
        for width in self.branching:
            inside = []
            for node, rows in nodes:
                cluster = k_means(codes[rows], width)
                inside += [(used + k, rows[cluster == k]) for k in range(width)]
                self.parent[used : used + width] = node
                used += width
            nodes = inside
        self.leaf_variance.fill_(self.leaf_std**2)
        mass, first = torch.zeros_like(self.mass), torch.zeros_like(self.mean)
        for node, rows in nodes:
            mass[:, node] = len(rows) / len(mass)
            first[node] = codes[rows].sum(0)
        for _ in range(ROUNDS):
            self.settle(mass, first)

    def grow(self, codes: Coded, above: float, total: Total = lambda t: t) -> bool:
        """Split the leaf whose codes lie farthest from its mean, along the direction of most variance.

        A leaf on the last level gets a sibling, any other two children.

        Args:
            codes: Of this process.
            above: Mean squared distance per dimension over `leaf_std`^2 from which a leaf is split.
            total: Sums over processes.

        Returns:
            Whether a leaf was split.
        """
        slots, dim = self.mean.shape
        second = self.mean.new_zeros(slots, dim, dim)
        inside, mass = torch.zeros_like(self.variance), torch.zeros_like(self.variance)
        leaves = self.leaf
        for mean, spread, group in zip(*(column.split(CODES_AT_ONCE) for column in codes), strict=True):
            phi = self.scores(mean, spread, self.log_weight[group]).softmax(1)
            mass += phi.sum(0)
            inside += spread @ phi
            for p in leaves.nonzero()[:, 0].tolist():
                off = mean - self.mean[p]
                second[p] += (phi[:, p, None] * off).T @ off
        second, inside, mass = total(second), total(inside), total(mass)
        spread = (second.diagonal(dim1=1, dim2=2).sum(1) + inside) / (mass * dim * self.leaf_variance)
        large = leaves & (mass > FEWEST * mass.sum())
        leaf = int(spread.where(large, 0.0).argmax())
        deeper = int(self.below[:, leaf].sum()) - 1 < len(self.branching)
        free = (self.parent == FREE).nonzero()[: 2 if deeper else 1, 0]
        if float(spread.where(large, 0.0)[leaf]) <= above or len(free) < (2 if deeper else 1):
            return False
        values, axes = torch.linalg.eigh(second[leaf] / mass[leaf])
        step = values[-1].sqrt() * axes[:, -1]
        self.parent[free] = leaf if deeper else int(self.parent[leaf])
        halves = free if deeper else torch.cat([free.new_tensor([leaf]), free])
        shared = self.mass[:, leaf, None] / 2
        self.mean[halves] = self.mean[leaf] + torch.stack([step, -step])
        self.variance[halves] = self.variance[leaf].clamp(min=self.leaf_variance / mass[leaf])
        if deeper:
            self.mass[:, leaf] = 0
        self.mass[:, halves] = shared
        self.weigh_paths()
        return True

    def prune(self, below: float) -> bool:
        """Remove leaves that hold less than a share of the codes, and inner nodes left with one child.

        Returns:
            Whether a node was removed.
        """
        share = self.mass.sum(0) / self.num_codes
        poor = self.leaf & (share < below) & (share < share.max())
        parents = self.parent.tolist()
        for node in poor.nonzero()[:, 0].tolist():
            _remove(parents, node)
        before = int((self.parent > FREE).sum())
        self.parent.copy_(self.parent.new_tensor(parents))
        gone = self.parent == FREE
        self.mass[:, gone], self.variance[gone], self.mean[gone] = 0, 0, 0
        self.weigh_paths()
        return int((self.parent > FREE).sum()) < before


def _remove(parents: list[int], node: int) -> None:
    """Free the slot of a leaf; a parent that is left with one child, or none, goes with it."""
    above = parents[node]
    parents[node] = FREE
    left = [c for c, p in enumerate(parents) if p == above]
    if not left and above > 0:
        _remove(parents, above)
    elif len(left) == 1:
        (only,) = left
        if above > 0:  # the child takes its parent's place
            parents[only], parents[above] = parents[above], FREE
        elif only in parents:  # the root's one child is no leaf: its children become the root's
            for c, p in enumerate(parents):
                parents[c] = above if p == only else p
            parents[only] = FREE


def k_means(codes: Tensor, k: int) -> Tensor:
    """Cluster of each code [N, D], [N], the largest first; fewer than k where fewer codes differ."""
    k = min(k, len(codes.unique(dim=0)))
    if k <= 1:
        return torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    found = KMeans(k, random_state=0).set_params(n_init=RESTARTS).fit_predict(codes.cpu().numpy())
    rank = np.bincount(found, minlength=k).argsort(kind="stable")[::-1].argsort()
    return torch.from_numpy(rank[found]).to(codes.device)
