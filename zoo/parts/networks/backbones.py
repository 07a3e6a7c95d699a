"""The networks between images and codes, dense or convolutional: methods choose them by a word."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.errors import positive, require
from zoo.parts.networks.convolutional import halvings
from zoo.parts.networks.dense import MLP, Activation, PixelReadout

Backbone = Literal["mlp", "conv"]
Features = int | tuple[int, int, int]
"""Width F of features [..., F], or (M, H, W) of maps [..., M, H, W]."""
IMAGE_DIMS = 3


class DenseEncoder(MLP):
    """An MLP of all pixels: images [..., C, H, W] to features [..., F]."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of the images."""
        return super().forward(x.flatten(-IMAGE_DIMS))


class ConvolutionalEncoder(nn.Module):
    """Convolutions 4/2/1 that halve the sides and double the maps, then an MLP; no normalisation.

    Images [..., C, H, W] enter in [0, 1] and are read in [-1, 1]; the result is [..., F].

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        channels: Maps after the first convolution.
        hidden_dims: Width of each fully connected layer after the last.
        activation: The non-linearity after each layer.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: int, hidden_dims: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        widths, size = _pyramid(image_shape, channels)
        self.maps = nn.Sequential()
        for below, above in zip([image_shape[0], *widths], widths, strict=False):
            convolution = nn.Conv2d(below, above, 4, 2, 1)
            self.maps.append(_started(convolution, activation)).append(_non_linear(activation))
        self.mlp = MLP(widths[-1] * math.prod(size), hidden_dims, activation)
        self.out_dim = self.mlp.out_dim

    def forward(self, x: Tensor) -> Tensor:
        """Features of the images."""
        h = self.maps(2 * x.flatten(0, -IMAGE_DIMS - 1) - 1)
        return self.mlp(h.flatten(1)).unflatten(0, x.shape[:-IMAGE_DIMS])


class ConvolutionalDecoder(nn.Module):
    """An MLP, then transposed convolutions 4/2/1: codes [..., D] to maps of half the image's sides.

    Args:
        in_dim: Width D of the code.
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        channels: Maps [..., channels, H / 2, W / 2] at the end.
        hidden_dims: Width of each fully connected layer before the maps.
        activation: The non-linearity after each layer.
    """

    def __init__(
        self,
        in_dim: int,
        image_shape: Sequence[int],
        channels: int,
        hidden_dims: Sequence[int],
        activation: Activation,
    ) -> None:
        super().__init__()
        widths, size = _pyramid(image_shape, channels)
        top = widths[-1]
        self.mlp = MLP(in_dim, (*hidden_dims, top * math.prod(size)), activation)
        self.maps = nn.Sequential(nn.Unflatten(1, (top, *size)))
        for above, below in zip(widths[:0:-1], widths[-2::-1], strict=True):
            convolution = nn.ConvTranspose2d(above, below, 4, 2, 1)
            self.maps.append(_started(convolution, activation)).append(_non_linear(activation))
        self.out_dim = (channels, image_shape[1] // 2, image_shape[2] // 2)

    def forward(self, z: Tensor) -> Tensor:
        """Maps of the codes."""
        return self.maps(self.mlp(z).flatten(0, -2)).unflatten(0, z.shape[:-1])


class MapReadout(nn.Module):
    """A transposed convolution 4/2/1 from maps [..., M, H / 2, W / 2] to images [..., maps * C, H, W].

    Every pixel has a bias of its own, so that it can start at the mean image.

    Args:
        in_maps: Number M of the maps.
        image_shape: (C, H, W) of one image.
        maps: How many images to read out.
    """

    def __init__(self, in_maps: int, image_shape: Sequence[int], maps: int = 1) -> None:
        super().__init__()
        channels, *size = image_shape
        self.convolution = nn.ConvTranspose2d(in_maps, maps * channels, 4, 2, 1, bias=False)
        nn.init.xavier_uniform_(self.convolution.weight)
        self.bias = nn.Parameter(torch.zeros(maps * channels, *size))

    def forward(self, h: Tensor) -> Tensor:
        """Images of the maps."""
        images = self.convolution(h.flatten(0, -IMAGE_DIMS - 1)) + self.bias
        return images.unflatten(0, h.shape[:-IMAGE_DIMS])


def encoder_of(
    backbone: Backbone,
    image_shape: Sequence[int],
    channels: int,
    hidden_dims: Sequence[int],
    activation: Activation = "tanh",
) -> DenseEncoder | ConvolutionalEncoder:
    """The network from images [..., C, H, W] to features [..., out_dim].

    Args:
        backbone: `mlp`: all pixels at once; `conv`: convolutions first.
        image_shape: (C, H, W) of one image.
        channels: Maps after the first convolution; the dense one has none.
        hidden_dims: Width of each fully connected layer.
        activation: The non-linearity after each layer.

    Raises:
        UsageError: If the images are too small or too odd for convolutions that halve their sides.
    """
    positive(channels=channels)
    if backbone == "conv":
        return ConvolutionalEncoder(image_shape, channels, hidden_dims, activation)
    return DenseEncoder(math.prod(image_shape), hidden_dims, activation)


def decoder_of(
    backbone: Backbone,
    in_dim: int,
    image_shape: Sequence[int],
    channels: int,
    hidden_dims: Sequence[int],
    activation: Activation = "tanh",
) -> MLP | ConvolutionalDecoder:
    """The network from codes [..., in_dim] to features of shape `out_dim`, which `pixel_readout` reads.

    Args:
        backbone: `mlp` or `conv`, as of the encoder that it mirrors.
        in_dim: Width of a code.
        image_shape: (C, H, W) of one image.
        channels: Maps before the pixels; the dense one has none.
        hidden_dims: Width of each fully connected layer.
        activation: The non-linearity after each layer.

    Raises:
        UsageError: If the images are too small or too odd for convolutions that double their sides.
    """
    if backbone == "conv":
        return ConvolutionalDecoder(in_dim, image_shape, channels, hidden_dims, activation)
    return MLP(in_dim, hidden_dims, activation)


def pixel_readout(features: Features, image_shape: Sequence[int], maps: int = 1) -> PixelReadout | MapReadout:
    """The last layer of a decoder: its features to `maps` stacked images [..., maps * C, H, W]."""
    if isinstance(features, int):
        return PixelReadout(features, image_shape, maps)
    return MapReadout(features[0], image_shape, maps)


def _pyramid(image_shape: Sequence[int], channels: int) -> tuple[list[int], tuple[int, int]]:
    """Maps after each halving, and the sides that are left after the last."""
    stages, size = halvings(image_shape)
    require(
        stages > 0,
        "backbone: conv needs images whose sides are even and above 4 "
        f"(size or pad makes them so), got {image_shape[1]} x {image_shape[2]}",
    )
    return [channels * 2**i for i in range(stages)], size


def _started(convolution: nn.Conv2d | nn.ConvTranspose2d, activation: Activation) -> nn.Module:
    """Weights uniform as those of an MLP: He's before a ReLU, Glorot's before a tanh; biases zero.

    Four of the sixteen weights of a transposed kernel of stride 2 meet in a pixel, and all in-maps.
    """
    fan_in, fan_out = convolution.in_channels * 16, convolution.out_channels * 4
    if isinstance(convolution, nn.ConvTranspose2d):
        fan_in, fan_out = convolution.in_channels * 4, convolution.out_channels * 16
    bound = math.sqrt(6 / fan_in) if activation == "relu" else math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(convolution.weight, -bound, bound)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _non_linear(activation: Activation) -> nn.Module:
    return nn.ReLU() if activation == "relu" else nn.Tanh()
