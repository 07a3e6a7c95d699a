"""Binary variables."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent

PIXEL_DIMS = 3


def draw_bits(logits: Tensor) -> Tensor:
    """Zeros and ones of the logits' dtype, each a 1 with probability sigmoid(logit)."""
    return (torch.rand_like(logits) < logits.sigmoid()).to(logits)


class Bits(Bernoulli):
    """Bernoulli variables whose draws take less than half of torch's time."""

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones, [*sample_shape, ...]."""
        return draw_bits(self.logits.expand(self._extended_shape(torch.Size(sample_shape))))


def bernoulli(logits: Tensor, dims: int = PIXEL_DIMS) -> Independent:
    """Independent Bernoulli variables, the last `dims` dimensions one event: by default an image."""
    return Independent(Bits(logits=logits.float(), validate_args=False), dims)
