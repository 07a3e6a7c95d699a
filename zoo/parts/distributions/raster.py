"""Binary images whose pixels depend on one another in raster order."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo.contract.shapes import Images
from zoo.parts.distributions.bits import PIXEL_DIMS, bernoulli
from zoo.parts.networks.masked import RasterNetwork


class RasterPixels(Distribution):
    """Images [..., C, H, W] with p(x) = prod_i Bernoulli(x_i | x_1, ..., x_{i-1}, context).

    Args:
        network: Gives the logits.
        context: Its maps of context, [..., M, H, W].
        channels: Colours C of an image.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, network: RasterNetwork, context: Tensor, channels: int) -> None:
        self.network, self.context = network, context
        *batch, _, height, width = context.shape
        super().__init__(torch.Size(batch), torch.Size((channels, height, width)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Zeros and ones."""
        return constraints.independent(constraints.boolean, PIXEL_DIMS)

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the probabilities in nats, [...]: one parallel pass."""
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[:-PIXEL_DIMS])
        x = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        context = self.context.expand(*batch, *self.context.shape[-PIXEL_DIMS:]).flatten(0, -4)
        return bernoulli(self.network(x, context)).log_prob(x).view(batch)

    def unfold(self, uniform: Tensor) -> Iterator[Images]:
        """Draws by given numbers in [0, 1), [..., C, H, W], as after each row: see `RasterNetwork.unfold`."""
        context = self.context.reshape(-1, *self.context.shape[-PIXEL_DIMS:])
        return self.network.unfold(context, uniform.reshape(-1, *self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Zeros and ones, [*sample_shape, ..., C, H, W], one pixel after the other."""
        shape = self._extended_shape(torch.Size(sample_shape))
        context = self.context.expand(*shape[:-PIXEL_DIMS], *self.context.shape[-PIXEL_DIMS:])
        drawn = RasterPixels(self.network, context, shape[-PIXEL_DIMS])
        *_, x = drawn.unfold(torch.rand(shape, device=context.device))
        return x.view(shape)
