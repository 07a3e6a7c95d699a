"""Networks of a stacked GAN: the classifier that it inverts, generators of two levels, and their judges."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot

from zoo.contract import Images, Labels
from zoo.parts.networks.convolutional import LEAK, ConvDecoder
from zoo.parts.networks.dense import MLP, readout

IMAGE, FEATURES = 0, 1
"""The levels: what is generated at each."""
KERNEL, MAPS = 5, 32
"""Of the encoder's convolutions."""
EMBEDDING = 128
"""Width to which the noise of the image is brought before it meets the features."""


class FeatureEncoder(nn.Module):
    """The classifier that is cut in two: images to features h_1 [B, F], at least 0, and these to logits."""

    def __init__(self, image_shape: Sequence[int], feature_dim: int, num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        maps = nn.Sequential()
        for below in (channels, MAPS):
            maps.append(nn.Conv2d(below, MAPS, KERNEL, padding="same")).append(nn.ReLU())
            maps.append(nn.MaxPool2d(2, ceil_mode=True))
        size = math.prod(math.ceil(math.ceil(side / 2) / 2) for side in (height, width))
        self.lower = nn.Sequential(maps, nn.Flatten(), MLP(MAPS * size, (feature_dim,), "relu"))
        self.upper = readout(feature_dim, num_classes)

    def forward(self, x: Images) -> Tensor:
        """Logits of the labels, [B, classes]."""
        return self.upper(self.lower(x))


class FeatureGenerator(nn.Module):
    """G_1: noise and labels to features."""

    def __init__(self, noise_dim: int, num_classes: int, hidden_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.network = nn.Sequential()
        for below in (noise_dim + num_classes, hidden_dim):
            self.network.append(nn.Linear(below, hidden_dim, bias=False))
            self.network.append(nn.BatchNorm1d(hidden_dim)).append(nn.ReLU())
        self.network.append(nn.Linear(hidden_dim, feature_dim)).append(nn.ReLU())

    def forward(self, y: Labels, z: Tensor) -> Tensor:
        """Features [B, F], at least 0."""
        return self.network(torch.cat((z, one_hot(y, self.num_classes).float()), 1))


class ImageGenerator(nn.Module):
    """G_0: noise and features to images."""

    def __init__(self, noise_dim: int, feature_dim: int, image_shape: Sequence[int], channels: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(noise_dim, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING))
        self.decoder = ConvDecoder(EMBEDDING + feature_dim, image_shape, channels)

    def forward(self, h: Tensor, z: Tensor) -> Images:
        """Images [B, C, H, W]."""
        return self.decoder(torch.cat((self.embedding(z), h), 1))


class GeneratorStack(nn.Module):
    """The generators on top of each other: labels and the noises [B, D] of both levels to images."""

    def __init__(self, image: ImageGenerator, features: FeatureGenerator) -> None:
        super().__init__()
        self.levels = nn.ModuleList([image, features])

    def forward(self, y: Labels, z: Sequence[Tensor]) -> Images:
        """Images [B, C, H, W]."""
        return self.levels[IMAGE](self.levels[FEATURES](y, z[FEATURES]), z[IMAGE])


class Judge(nn.Module):
    """D_i and Q_i on one trunk: the logit that h_i is real, [B], and the noise it was made of, [B, D]."""

    def __init__(self, trunk: nn.Module, trunk_dim: int, noise_dim: int) -> None:
        super().__init__()
        self.trunk, self.real, self.noise = trunk, nn.Linear(trunk_dim, 1), nn.Linear(trunk_dim, noise_dim)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Logit and noise."""
        t = self.trunk(h).float()
        with torch.autocast(t.device.type, enabled=False):
            return self.real(t).squeeze(-1), self.noise(t).sigmoid()


class LeakyMLP(MLP):
    """An MLP whose units are leaky."""

    def forward(self, x: Tensor) -> Tensor:
        """Features [..., F]."""
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Linear) else leaky_relu(x, LEAK)
        return x
