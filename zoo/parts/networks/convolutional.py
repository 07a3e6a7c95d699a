"""Convolutional networks, and how their weights start."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Norm = Literal["none", "batch", "spectral"]
SMALLEST_MAP = 4
LEAK = 0.2
START_STD = 0.02


def start_dcgan(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2), gains of batch norms from N(1, 0.02^2); biases start at zero."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, START_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.weight, 1.0, START_STD)


def normalise_spectrally(network: nn.Module) -> None:
    """Divide every linear and convolutional weight by its largest singular value (Miyato et al. 2018).

    The weight counts as a matrix of outputs x all inputs; each forward in training mode makes one step of
    power iteration, and none is made in eval mode.
    """
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            spectral_norm(layer)


def halvings(image_shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """How often both sides can be halved while they are even and above 4, and the sides that are left."""
    _, height, width = image_shape
    count = 0
    while height % 2 == 0 == width % 2 and min(height, width) > SMALLEST_MAP:
        height, width, count = height // 2, width // 2, count + 1
    return count, (height, width)


class ConvDecoder(nn.Sequential):
    """Codes [B, D] to images [B, C, H, W] in [0, 1]: a linear layer, then convolutions that double the sides.

    Radford et al. 2016: transposed convolutions 4/2/1, each but the last followed by batch norm and ReLU, a
    tanh at the end. The maps halve at each doubling.

    Args:
        in_dim: Width D of the code.
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        channels: Maps before the last convolution.
        fc_dim: Width of a fully connected layer before the maps; 0 leaves it out.
    """

    def __init__(self, in_dim: int, image_shape: Sequence[int], channels: int, fc_dim: int = 0) -> None:
        super().__init__()
        stages, size = halvings(image_shape)
        maps = channels * 2 ** (stages - 1)
        if fc_dim:
            self.append(nn.Linear(in_dim, fc_dim, bias=False)).append(nn.BatchNorm1d(fc_dim)).append(
                nn.ReLU()
            )
        self.append(nn.Linear(fc_dim or in_dim, maps * math.prod(size), bias=False))
        self.append(nn.Unflatten(1, (maps, *size)))
        for _ in range(stages - 1):
            self.append(nn.BatchNorm2d(maps)).append(nn.ReLU())
            self.append(nn.ConvTranspose2d(maps, maps // 2, 4, 2, 1, bias=False))
            maps //= 2
        self.append(nn.BatchNorm2d(maps)).append(nn.ReLU())
        self.append(nn.ConvTranspose2d(maps, image_shape[0], 4, 2, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Images, in float32."""
        return (1 + super().forward(z).float().tanh()) / 2


class ConvEncoder(nn.Sequential):
    """Images [B, C, H, W] in [0, 1] to features [B, F], by convolutions 4/2/1 that halve the sides.

    Radford et al. 2016: leaky ReLUs of slope 0.2, no normalisation of the first layer. The maps double.

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        channels: Maps after the first convolution.
        fc_dim: Width of a fully connected layer after the maps; 0 leaves it out.
        batch_norm: Normalise all layers but the first by the batch.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: int, fc_dim: int = 0, batch_norm: bool = True
    ) -> None:
        super().__init__()
        stages, size = halvings(image_shape)
        maps = channels
        self.append(nn.Conv2d(image_shape[0], maps, 4, 2, 1)).append(nn.LeakyReLU(LEAK))
        for _ in range(stages - 1):
            self.append(nn.Conv2d(maps, 2 * maps, 4, 2, 1, bias=not batch_norm))
            maps *= 2
            if batch_norm:
                self.append(nn.BatchNorm2d(maps))
            self.append(nn.LeakyReLU(LEAK))
        self.append(nn.Flatten())
        self.out_dim = maps * math.prod(size)
        if fc_dim:
            self.append(nn.Linear(self.out_dim, fc_dim, bias=not batch_norm))
            if batch_norm:
                self.append(nn.BatchNorm1d(fc_dim))
            self.append(nn.LeakyReLU(LEAK))
            self.out_dim = fc_dim

    def forward(self, x: Tensor) -> Tensor:
        """Features of the images, which enter in [-1, 1]."""
        return super().forward(2 * x - 1)
