"""The Laplacian pyramid of an image."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad


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
