"""U-Nets of a state and its time."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from zoo.contract.shapes import Images
from zoo.parts.networks.convolutional import halvings

GROUP = 4
LONGEST_PERIOD = 10_000.0
SCALES = 3
SMALL = 1e-3
"""Standard deviation of the last weights at the start: the reverse chain begins near pi's own."""
HEADS = 4
IMAGES_IN_CACHE = 64
"""Images that it reads at once where nothing is learnt: the maps of more outgrow a processor's cache."""


def sinusoids(t: Tensor, dim: int, num_steps: int) -> Tensor:
    """Sines and cosines of steps t [B], counted as if there were 1000: [B, dim]."""
    half = dim // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = (1000 / num_steps) * t[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP) if channels % GROUP == 0 else 1, channels)


class _Block(nn.Module):
    """Two convolutions around a shift by time, added to their input."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_norm(c) for c in (in_channels, out_channels))
        self.convs = nn.ModuleList(
            nn.Conv2d(c, out_channels, 3, padding=1) for c in (in_channels, out_channels)
        )
        self.time = nn.Linear(time_dim, out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.convs[0](silu(self.norms[0](x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.convs[1](silu(self.norms[1](h)))


class UNet(nn.Module):
    """Convolutions down to smaller maps and up again, those on the way down joined to those on the way up.

    Ronneberger et al. 2015 (arXiv:1505.04597); residual blocks and sinusoids of time are those of Ho et al.
    2020 (arXiv:2006.11239), without attention.

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        maps: Images that are read out.
        num_steps: Steps.
        channels: Maps at full size, doubled at each halving.
    """

    def __init__(self, image_shape: Sequence[int], maps: int, num_steps: int, channels: int) -> None:
        super().__init__()
        colours, depth = image_shape[0], min(SCALES - 1, halvings(tuple(image_shape))[0])
        widths = [channels * 2**i for i in range(depth + 1)]
        self.time_dim, self.num_steps = 4 * channels, num_steps
        self.time = nn.Sequential(nn.Linear(self.time_dim, self.time_dim), nn.SiLU())
        self.first = nn.Conv2d(colours, channels, 3, padding=1)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(_Block(a, b, self.time_dim) for a, b in steps)
        self.middle = _Block(widths[-1], widths[-1], self.time_dim)
        self.up = nn.ModuleList(_Block(b + a, a, self.time_dim) for a, b in reversed(steps))
        self.last = nn.Conv2d(channels, maps * colours, 3, padding=1)
        nn.init.normal_(self.last.weight, std=SMALL)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        time = self.time(sinusoids(t, self.time_dim, self.num_steps))
        h, passed = self.first(x), []
        for block in self.down:
            passed.append(h)
            h = block(avg_pool2d(h, 2), time)
        h = self.middle(h, time)
        for block in self.up:
            h = block(torch.cat((interpolate(h, scale_factor=2.0), passed.pop()), 1), time)
        return self.last(silu(h))


class _Attention(nn.Module):
    """Every place of the maps looks at all places, and what it sees is added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = HEADS if channels % HEADS == 0 else 1
        self.norm = _norm(channels)
        self.looks = nn.Conv2d(channels, 3 * channels, 1)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        looks = self.looks(self.norm(x)).flatten(2)
        queries, keys, values = looks.unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = (queries.transpose(2, 3) @ keys / math.sqrt(keys.shape[2])).softmax(-1)
        return x + self.last((values @ weights.transpose(2, 3)).reshape(x.shape))


class AttentionUNet(nn.Module):
    """A U-Net with residual blocks at every size, full size included, and attention at the smallest.

    Ho et al. 2020 (arXiv:2006.11239), with one block a size on either way and sizes halved by averages.

    Args:
        image_shape: (C, H, W) of one image, whose sides can be halved at least once.
        maps: Images that are read out.
        num_steps: Steps.
        channels: Maps at full size, doubled at each halving.
    """

    def __init__(self, image_shape: Sequence[int], maps: int, num_steps: int, channels: int) -> None:
        super().__init__()
        colours, depth = image_shape[0], min(SCALES - 1, halvings(tuple(image_shape))[0])
        widths = [channels * 2**i for i in range(depth + 1)]
        self.time_dim, self.num_steps = 4 * channels, num_steps
        self.time = nn.Sequential(nn.Linear(self.time_dim, self.time_dim), nn.SiLU())
        self.first = nn.Conv2d(colours, channels, 3, padding=1)
        self.down = nn.ModuleList(
            _Block(a, b, self.time_dim) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.attentions = nn.ModuleList(_Attention(widths[-1]) for _ in range(2))
        self.middle = _Block(widths[-1], widths[-1], self.time_dim)
        self.up = nn.ModuleList(
            _Block(a + b, b, self.time_dim)
            for a, b in zip([widths[-1], *widths[:0:-1]], widths[::-1], strict=True)
        )
        self.norm = _norm(channels)
        self.last = nn.Conv2d(channels, maps * colours, 3, padding=1)
        residual = [cast("nn.Conv2d", part.convs[1]) for part in self.modules() if isinstance(part, _Block)]
        looks = [part.last for part in self.modules() if isinstance(part, _Attention)]
        for layer in (*residual, *looks, self.last):
            nn.init.normal_(layer.weight, std=SMALL)

    def forward(self, x: Images, t: Tensor) -> Tensor:
        """Maps of the state."""
        if len(x) > IMAGES_IN_CACHE and not torch.is_grad_enabled():
            parts = zip(x.split(IMAGES_IN_CACHE), t.split(IMAGES_IN_CACHE), strict=True)
            return torch.cat([self(*part) for part in parts])
        time = self.time(sinusoids(t, self.time_dim, self.num_steps))
        h, passed = self.first(x), []
        for i, block in enumerate(self.down):
            h = block(avg_pool2d(h, 2) if i else h, time)
            passed.append(h)
        h = self.attentions[0](h)
        h = self.attentions[1](self.middle(h, time))
        for i, block in enumerate(self.up):
            h = block(torch.cat((interpolate(h, scale_factor=2.0) if i else h, passed.pop()), 1), time)
        return self.last(silu(self.norm(h)))
