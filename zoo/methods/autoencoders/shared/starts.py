"""Where Markov chains of images start: in images of the first training batch, or in random bits."""

import torch
from torch import Tensor

from zoo.contract import Images
from zoo.errors import at_least


def keep_starts(starts: Tensor, x: Images) -> None:
    """Fill an empty buffer with images of the first batch, over again where it is small; later ones are left.

    Args:
        starts: The buffer, [num_starts, C, H, W]; zeros until the first batch.
        x: Images of the batch, [B, C, H, W].
    """
    if not starts.any():
        starts.copy_(x[torch.arange(len(starts)) % len(x)])


def draw_starts(starts: Tensor, n: int) -> Images:
    """First states of chains, [n, C, H, W]: kept images with replacement, or random bits where none is kept.

    Args:
        starts: The kept images, [num_starts, C, H, W].
        n: How many chains.

    Raises:
        UsageError: If that is not positive.
    """
    at_least(1, n=n)
    if len(starts) == 0:
        return torch.randint(2, (n, *starts.shape[1:]), device=starts.device).float()
    return starts[torch.randint(len(starts), (n,), device=starts.device)]
