"""Networks without a distribution in sight: numbers in, numbers out."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Activation = Literal["tanh", "relu"]


class MLP(nn.Sequential):
    """Fully connected hidden layers, each followed by its activation.

    Weights start Glorot-uniform before a tanh and He-uniform before a ReLU; biases start at zero.

    Args:
        in_dim: Width of the input.
        hidden_dims: Width of each hidden layer.
        activation: The non-linearity after each hidden layer.
    """

    def __init__(self, in_dim: int, hidden_dims: Sequence[int], activation: Activation = "tanh") -> None:
        super().__init__()
        widths = [in_dim, *hidden_dims]
        for i in range(len(hidden_dims)):
            layer = nn.Linear(widths[i], widths[i + 1])
            if activation == "relu":
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            self.append(layer).append(nn.ReLU() if activation == "relu" else nn.Tanh())
        self.out_dim = widths[-1]


def readout(in_dim: int, out_dim: int) -> nn.Linear:
    """A linear output layer: Glorot-uniform weights, zero biases."""
    layer = nn.Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PixelReadout(nn.Module):
    """A linear layer from features [..., F] to `maps` stacked images [..., maps * C, H, W].

    Args:
        in_dim: Width F of the features.
        image_shape: (C, H, W) of one image.
        maps: How many images to read out.
    """

    def __init__(self, in_dim: int, image_shape: Sequence[int], maps: int = 1) -> None:
        super().__init__()
        channels, *size = image_shape
        self.shape = (maps * channels, *size)
        self.linear = readout(in_dim, maps * math.prod(image_shape))

    def forward(self, h: Tensor) -> Tensor:
        """Images of the features."""
        return self.linear(h).unflatten(-1, self.shape)
