"""Networks without a distribution in sight: numbers in, numbers out."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad
from torch.nn.utils.parametrizations import spectral_norm

Activation = Literal["tanh", "relu"]
Norm = Literal["none", "batch", "spectral"]
SMALLEST_MAP = 4
LEAK = 0.2
START_STD = 0.02
AVERAGE_LAG = 10


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


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Run a block with a network in eval mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class Average(nn.Module):
    """A running average of a network's parameters beside its latest buffers; it always answers in eval mode.

    Args:
        network: What is averaged; it starts as a copy.
        decay: Weight of the average against the network, reached from below as (1 + t) / (10 + t) at update
            t; 0 follows the network exactly.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's parameters; copy its buffers, which are averages already."""
        decay = ((1 + self.updates) / (AVERAGE_LAG + self.updates)).clamp(max=self.decay)
        for average, parameter in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1

    def forward(self, x: Tensor) -> Tensor:
        """What the averaged network makes of its input."""
        with evaluated(self.network):
            return self.network(x)


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


class LaplacianPyramid(nn.Module):
    """Images [B, C, H, W] to their Laplacian pyramid, finest level first, a low-pass image last.

    Sides are padded to multiples of 2^levels by repeating the border. Each level is blurred by a 5 x 5
    binomial kernel and averaged over 2 x 2 pixels to make the next; what this loses, enlarged again, is the
    level of the pyramid (Burt, Adelson 1983).

    Args:
        levels: Number of levels, the low-pass one included.
    """

    kernel: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(row, row).expand(1, 1, -1, -1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The levels, [B, C, H / 2^j, W / 2^j]."""
        side = 2**self.levels
        down, right = -x.shape[-2] % side, -x.shape[-1] % side
        x = pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        pyramid = []
        for _ in range(self.levels - 1):
            margin = self.kernel.shape[-1] // 2
            kernel = self.kernel.to(x).expand(x.shape[1], -1, -1, -1)
            blurred = conv2d(pad(x, (margin,) * 4, mode="replicate"), kernel, groups=x.shape[1])
            smaller = avg_pool2d(blurred, 2)
            pyramid.append(x - interpolate(smaller, scale_factor=2.0))
            x = smaller
        return [*pyramid, x]
