"""Several stochastic layers as one variable."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Layers(Distribution):
    """Two stochastic layers as one variable: p(a) p(b|a), stored as the concatenation of both.

    One `a` draws one `b`: ancestral sampling, never a shared or averaged parent.

    Args:
        first: Distribution of the parent a, [..., D_a].
        then: The child's distribution given the parent: [..., D_a] to a distribution over [..., D_b].
        sizes: (D_a, D_b).
        child_first: Store (b, a) instead of (a, b): a prior runs from the top down, a posterior upwards.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        first: Distribution,
        then: Callable[[Tensor], Distribution],
        sizes: tuple[int, int],
        child_first: bool = False,
    ) -> None:
        self.first, self.then, self.sizes, self.child_first = first, then, sizes, child_first
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    def _join(self, parent: Tensor, child: Tensor) -> Tensor:
        return torch.cat((child, parent) if self.child_first else (parent, child), -1)

    @property
    def support(self) -> constraints.Constraint:
        """Those of the two layers; the child's does not depend on its parent."""
        layers = self.first, self.then(self.first.mean)
        order = (1, 0) if self.child_first else (0, 1)
        return constraints.cat([layers[i].support for i in order], -1, [self.sizes[i] for i in order])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Reparameterised ancestral draw, [*sample_shape, ..., D_a + D_b]."""
        parent = self.first.rsample(torch.Size(sample_shape))
        return self._join(parent, self.then(parent).rsample())

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The same draw without gradients; layers that cannot be reparameterised draw as they can."""
        parent = _draw(self.first, sample_shape)
        return self._join(parent, _draw(self.then(parent)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The value of log p(a) + log p(b|a) in nats."""
        sizes = self.sizes[::-1] if self.child_first else self.sizes
        one, two = value.split(sizes, -1)
        parent, child = (two, one) if self.child_first else (one, two)
        return self.first.log_prob(parent) + self.then(parent).log_prob(child)

    @property
    def mean(self) -> Tensor:
        """The parent's mean and the child's mean given it."""
        parent = self.first.mean
        return self._join(parent, self.then(parent).mean)


def _draw(distribution: Distribution, sample_shape: Sequence[int] = ()) -> Tensor:
    draw = distribution.rsample if distribution.has_rsample else distribution.sample
    return draw(torch.Size(sample_shape))
