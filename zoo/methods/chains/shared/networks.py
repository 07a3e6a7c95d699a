"""Networks of a state and its time: x_t [B, C, H, W] and t [B] to maps [B, M, H, W]."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, softplus

from zoo.contract import Images
from zoo.methods.chains.shared.betas import bumps
from zoo.parts.networks.convolutional import halvings
from zoo.parts.networks.unet import SCALES, SMALL, AttentionUNet

SLOPE = 0.05
DENSE_MAPS = 2
FIRST_LOG_WIDTH = -1.2


class PerStep(nn.Module):
    """Features [B, F] to maps [B, M, H, W] by weights of each step's own.

    Args:
        in_dim: F.
        image_shape: (C, H, W) of one image.
        maps: Images that are read out, M / C.
        num_steps: Steps.
    """

    def __init__(self, in_dim: int, image_shape: Sequence[int], maps: int, num_steps: int) -> None:
        super().__init__()
        channels, *sides = image_shape
        self.shape, out_dim = (maps * channels, *sides), maps * math.prod(image_shape)
        self.weight = nn.Parameter(SMALL * torch.randn(num_steps, in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(num_steps, out_dim))

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """Maps of the features at steps t [B], 1 to T."""
        values = torch.einsum("bi,bio->bo", h, self.weight[t - 1].to(h)) + self.bias[t - 1].to(h)
        return values.unflatten(1, self.shape)


class StepMLP(nn.Module):
    """Sigmoid layers, the same at all steps, and a read-out per step: the paper's network of the heartbeat.

    Args:
        image_shape: (C, H, W) of one image.
        maps: Images that are read out.
        num_steps: Steps.
        hidden_dims: Widths of the layers.
    """

    def __init__(
        self, image_shape: Sequence[int], maps: int, num_steps: int, hidden_dims: Sequence[int]
    ) -> None:
        super().__init__()
        widths = [math.prod(image_shape), *hidden_dims]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, hidden_dims, strict=False))
        self.readout = PerStep(widths[-1], image_shape, maps, num_steps)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        h = x.flatten(1)
        for layer in self.layers:
            h = layer(h).sigmoid()
        return self.readout(h, t)


class StepRBF(nn.Module):
    """Normalised radial basis functions, the same at all steps, and a read-out per step: for the swiss roll.

    Args:
        image_shape: (C, H, W) of one image.
        maps: Images that are read out.
        num_steps: Steps.
        num_units: Basis functions.
    """

    def __init__(self, image_shape: Sequence[int], maps: int, num_steps: int, num_units: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_units, math.prod(image_shape)))
        self.log_widths = nn.Parameter(torch.full((num_units,), FIRST_LOG_WIDTH))
        self.readout = PerStep(num_units, image_shape, maps, num_steps)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        distance = (x.flatten(1)[:, None] - self.centres).square().sum(-1)
        h = (-0.5 * distance * (-2 * self.log_widths).exp()).softmax(1)
        return self.readout(h, t)


class MultiScale(nn.Module):
    """The paper's network: convolutions at several scales beside a dense tower, read out by bumps of time.

    Args:
        image_shape: (C, H, W) of one image.
        maps: Images that are read out.
        num_steps: Steps.
        sizes: Maps of a layer, layers of convolutions, and 1 x 1 layers above these and the dense tower.
        hidden_dims: Widths of the dense tower, which ends in two maps per channel.
        num_bumps: J, bumps of time.
    """

    bumps: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        maps: int,
        num_steps: int,
        sizes: tuple[int, int, int],
        hidden_dims: Sequence[int],
        num_bumps: int,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        channels, conv_layers, upper_layers = sizes
        colours, pixels = image_shape[0], math.prod(image_shape)
        scales = 1 + min(SCALES - 1, halvings(self.image_shape)[0])
        fan_in = [colours, *[channels] * (conv_layers - 1)]
        self.convs = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for _ in range(scales)) for width in fan_in
        )
        widths = [pixels, *hidden_dims, DENSE_MAPS * pixels]
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        joined = [channels + DENSE_MAPS * colours, *[channels] * upper_layers]
        self.upper = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairwise(joined))
        self.readout = nn.Conv2d(channels, num_bumps * maps * colours, 1)
        self.register_buffer("bumps", bumps(num_steps, num_bumps).float(), persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(
                    layer.weight, std=1 / (math.sqrt(layer.in_channels) * layer.weight[0, 0].numel())
                )
                nn.init.zeros_(layer.bias) if layer.bias is not None else None
            elif isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.readout.weight, std=SMALL)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        h = x
        for scales in cast("list[nn.ModuleList]", self.convs):
            parts = [
                interpolate(conv(avg_pool2d(h, 2**i)), scale_factor=float(2**i))
                for i, conv in enumerate(scales)
            ]
            h = softplus(torch.stack(parts).sum(0))
        dense = x.flatten(1)
        for i, layer in enumerate(self.dense):
            dense = layer(dense if i == 0 else leaky_relu(dense, SLOPE))
        h = torch.cat((h, dense.unflatten(1, (-1, *self.image_shape[1:]))), 1)
        for layer in self.upper:
            h = leaky_relu(layer(h), SLOPE)
        return read_by_bumps(self.readout(h), self.bumps[t - 1])


class BumpedUNet(nn.Module):
    """A U-Net with attention, read out by bumps of time too.

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        maps: Images that are read out.
        num_steps: Steps.
        channels: Maps at full size, doubled at each halving.
        num_bumps: J, bumps of time.
    """

    bumps: Tensor

    def __init__(
        self, image_shape: Sequence[int], maps: int, num_steps: int, channels: int, num_bumps: int
    ) -> None:
        super().__init__()
        self.unet = AttentionUNet(image_shape, num_bumps * maps, num_steps, channels)
        self.register_buffer("bumps", bumps(num_steps, num_bumps).float(), persistent=False)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        return read_by_bumps(self.unet(x, t), self.bumps[t - 1])


def read_by_bumps(y: Tensor, heights: Tensor) -> Tensor:
    """Maps [B, M, H, W] of J maps each [B, J * M, H, W], weighted by the heights of the bumps [B, J]."""
    y = y.unflatten(1, (heights.shape[1], -1))
    return torch.einsum("bj,bjmhw->bmhw", heights.to(y), y)
