"""The networks of 2014: a ReLU generator, and a discriminator of maxout units with dropout."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.parts.networks.dense import MLP, PixelReadout


class Maxout(nn.Module):
    """The largest of `pieces` linear functions, per unit (Goodfellow et al. 2013).

    Args:
        in_dim: Width of the input.
        out_dim: Number of units.
        pieces: Linear functions per unit.
    """

    def __init__(self, in_dim: int, out_dim: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Units [..., out_dim]."""
        return self.linear(x).unflatten(-1, (-1, self.pieces)).amax(-1)


class SigmoidMLP(nn.Sequential):
    """Codes [B, D] to images [B, C, H, W] in [0, 1] through ReLU layers and sigmoids.

    Args:
        in_dim: Width D of the code.
        hidden_dims: Width of each hidden layer.
        image_shape: (C, H, W) of one image.
    """

    def __init__(self, in_dim: int, hidden_dims: Sequence[int], image_shape: Sequence[int]) -> None:
        hidden = MLP(in_dim, hidden_dims, "relu")
        super().__init__(hidden, PixelReadout(hidden.out_dim, image_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Images, in float32."""
        return super().forward(z).float().sigmoid()

    @torch.no_grad()
    def start_at(self, logits: Tensor) -> None:
        """Set untouched (zero) output biases to the logits [C, H, W] of an image."""
        bias = self[-1].get_parameter("linear.bias")
        if not bias.any():
            bias.copy_(logits.flatten())


class MaxoutMLP(nn.Sequential):
    """Images [B, C, H, W] to features [B, F] through dropout and maxout layers.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Units of each maxout layer.
        pieces: Linear functions per unit.
        drop_pixels: Share of pixels that is dropped in training mode.
        drop_units: Share of units that is dropped in training mode.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int],
        pieces: int,
        drop_pixels: float,
        drop_units: float,
    ) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(drop_pixels))
        self.out_dim = math.prod(image_shape)
        for width in hidden_dims:
            self.append(Maxout(self.out_dim, width, pieces)).append(nn.Dropout(drop_units))
            self.out_dim = width


def start_uniform(network: nn.Module, limit: float) -> None:
    """Draw the weights of linear layers from U[-limit, limit]; biases start at zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -limit, limit)
            nn.init.zeros_(layer.bias)
