"""Fully connected networks."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["tanh", "relu"]


class MLP(nn.Sequential):
    """Fully connected hidden layers, each followed by its activation.

    Weights start Glorot-uniform before a tanh and He-uniform before a ReLU; biases start at zero.

    Args:
        in_dim: Width of the input.
        hidden_dims: Width of each hidden layer.
        activation: The non-linearity after each hidden layer.
        dropout: Share of each hidden layer's units that is dropped in training.
    """

    def __init__(
        self, in_dim: int, hidden_dims: Sequence[int], activation: Activation = "tanh", dropout: float = 0.0
    ) -> None:
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
            if dropout:
                self.append(nn.Dropout(dropout))
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

    @property
    def bias(self) -> nn.Parameter:
        """Of every pixel, [maps * C * H * W]."""
        return self.linear.bias

    def forward(self, h: Tensor) -> Tensor:
        """Images of the features."""
        return self.linear(h).unflatten(-1, self.shape)


class TwoWay(nn.Module):
    """An affine map from [..., V] up to [..., H] and one down again: one matrix used both ways, or two.

    Weights start uniform in +-sqrt(6 / (V + H)), biases at zero.

    Args:
        visible_dim: Width V below.
        hidden_dim: Width H above.
        tied: The way down uses the transposed matrix of the way up; else a matrix of its own.
    """

    def __init__(self, visible_dim: int, hidden_dim: int, tied: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(hidden_dim, visible_dim)))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.visible_bias = nn.Parameter(torch.zeros(visible_dim))
        self.weight_down: nn.Parameter | None = None
        if not tied:
            self.weight_down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(visible_dim, hidden_dim)))

    def up(self, v: Tensor) -> Tensor:
        """Inputs of the units above, before their non-linearity."""
        return nn.functional.linear(v, self.weight, self.hidden_bias)

    def down(self, h: Tensor) -> Tensor:
        """Inputs of the units below."""
        weight = self.weight.T if self.weight_down is None else self.weight_down
        return nn.functional.linear(h, weight, self.visible_bias)
