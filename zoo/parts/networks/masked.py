"""Networks whose outputs see only inputs before their own: pixels in raster order, or unit by unit."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, elu, linear, pad

from zoo.contract.shapes import Images

UNKNOWN = 0.5
"""Grey, of pixels that are not drawn yet."""
NEAR_ZERO = 1e-3
"""Standard deviation of the last weights of a MADE at the start: a flow begins next to the identity."""


class MaskedConv(nn.Module):
    """A 3 x 3 convolution that sees what lies before a pixel in raster order, and the pixel if it may.

    Nothing is seen of the row below, so the window is kept as 2 x 3: a third less work.

    Args:
        in_channels: Maps that enter.
        out_channels: Maps that leave.
        sees_itself: Whether the pixel in the middle is seen (mask B), or only those before it (mask A).
    """

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, sees_itself: bool) -> None:
        super().__init__()
        mask = torch.ones(2, 3)
        mask[1, 1 + sees_itself :] = 0
        bound = (1 / (in_channels * float(mask.sum()))) ** 0.5
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 2, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, I, H, W] to maps [B, O, H, W]."""
        return conv2d(pad(x, (1, 1, 1, 0)), self.weight * self.mask, self.bias)

    def at(self, window: Tensor) -> Tensor:
        """The same at one pixel: its window [B, 2, 3, I], channels last, to [B, O]."""
        kernel = (self.weight * self.mask).permute(0, 2, 3, 1)
        return linear(window.flatten(1), kernel.flatten(1), self.bias)


class RasterNetwork(nn.Module):
    """Logits of every pixel given those before it in raster order and a context, by masked convolutions.

    van den Oord et al. 2016 (arXiv:1601.06759). The first layer sees the pixels strictly before its own, and
    of the context all around it; the others, residual ones behind an ELU, see maps up to their own place. A
    pixel sees `num_layers` rows up and as many columns to either side, no further. Colours of one pixel do
    not see each other.

    Args:
        image_shape: (C, H, W) of one image.
        context_channels: Maps of the context.
        channels: Maps of the hidden layers.
        num_layers: Masked layers of 3 x 3.
        num_pointwise: Residual layers of 1 x 1 behind them.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        context_channels: int,
        channels: int,
        num_layers: int,
        num_pointwise: int,
    ) -> None:
        super().__init__()
        colours = image_shape[0]
        self.first = MaskedConv(colours, channels, sees_itself=False)
        self.context = nn.Conv2d(context_channels, channels, 3, padding=1, bias=False)
        self.masked = nn.ModuleList(
            MaskedConv(channels, channels, sees_itself=True) for _ in range(num_layers - 1)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(num_pointwise))
        self.last = nn.Conv2d(channels, colours, 1)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Images, context: Tensor) -> Tensor:
        """Logits [B, C, H, W] of images, each pixel's given those before it and maps [B, M, H, W]."""
        h = self.first(x) + self.context(context)
        for layer in (*self.masked, *self.pointwise):
            h = h + layer(elu(h))
        return self.last(elu(h))

    def unfold(self, context: Tensor, uniform: Images) -> Iterator[Images]:
        """Draw images pixel by pixel; yields them after each row, what is not drawn yet in grey.

        A pixel costs what it adds to every layer, so that a whole image costs one forward pass, in H W steps.

        Args:
            context: [B, M, H, W].
            uniform: Numbers in [0, 1): a pixel is 1 where its own is below its probability.
        """
        n, colours, height, width = uniform.shape
        x = torch.full_like(uniform, UNKNOWN)
        widths = [colours] + [self.first.weight.shape[0]] * len(self.masked)
        seen = [uniform.new_zeros(n, 2, width + 2, size) for size in widths]
        inputs = self._around(context)
        for row in range(height):
            self._draw_row(row, inputs, uniform, seen, x)
            yield x.clone()

    @torch.no_grad()
    def _around(self, context: Tensor) -> Tensor:
        return self.context(context).permute(0, 2, 3, 1)

    @torch.no_grad()
    def _draw_row(self, row: int, inputs: Tensor, uniform: Tensor, seen: Sequence[Tensor], x: Tensor) -> None:
        """Draw a row of x; `seen` are the row above and this one as the masked layers see them, padded."""

        def across(layer: nn.Module, h: Tensor) -> Tensor:
            return linear(h, layer.weight.flatten(1), layer.bias)  # pyright: ignore

        for rows in seen:
            rows[:, 0] = rows[:, 1]
            rows[:, 1] = 0
        for column in range(uniform.shape[-1]):
            window, here = slice(column, column + 3), column + 1
            h = inputs[:, row, column] + self.first.at(seen[0][:, :, window])
            for rows, layer in zip(seen[1:], self.masked, strict=True):
                rows[:, 1, here] = elu(h)
                h = h + layer.at(rows[:, :, window])  # pyright: ignore[reportCallIssue]
            for layer in self.pointwise:
                h = h + across(layer, elu(h))
            pixel = uniform[:, :, row, column] < across(self.last, elu(h)).float().sigmoid()
            x[:, :, row, column] = pixel.to(x)
            seen[0][:, 1, here] = x[:, :, row, column]


class MaskedLinear(nn.Linear):
    """A linear layer without the weights that a mask [out, in] rules out."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., out] of inputs [..., in]."""
        return linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Of variables [..., D] a shift, and a log-scale, for each that depend on those before it alone.

    Germain et al. 2015 (arXiv:1502.03509). Two hidden layers of ReLUs.

    Args:
        dim: Number D of variables.
        hidden_dim: Width of the hidden layers.
        mean_only: Every log-scale is 0.
    """

    def __init__(self, dim: int, hidden_dim: int, mean_only: bool) -> None:
        super().__init__()
        self.mean_only = mean_only
        place = torch.arange(1, dim + 1)
        # a hidden unit of degree k sees variables 1 to k, and is seen by those after k
        degree = torch.arange(hidden_dim) % max(1, dim - 1) + min(1, dim - 1)
        before = (place[:, None] > degree).float().repeat(1 if mean_only else 2, 1)
        self.layers = nn.Sequential(
            MaskedLinear((degree[:, None] >= place).float()),
            nn.ReLU(),
            MaskedLinear((degree[:, None] >= degree).float()),
            nn.ReLU(),
            last := MaskedLinear(before),
        )
        nn.init.normal_(last.weight, std=NEAR_ZERO)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and log-scales, each [..., D]."""
        out = self.layers(z).to(z.dtype)
        if self.mean_only:
            return out, torch.zeros_like(out)
        shift, log_scale = out.chunk(2, -1)
        return shift, log_scale
