"""Images as one picture, chains as a film."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from zoo.files import atomic

GAP = 3
SMALLEST_SIDE = 56
"""Smaller images are enlarged, pixel by pixel, until a side has this many."""
FRAME_MS, LAST_FRAME_MS = 100, 2000
"""How long the frames of a film stand, in milliseconds."""


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images [N, C, H, W] in [0, 1] as one picture, row by row, grey lines between them."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    zoom = max(1, -(-SMALLEST_SIDE // max(height, width)))
    array = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy().transpose(0, 2, 3, 1)
    array = array.repeat(zoom, 1).repeat(zoom, 2)
    height, width = height * zoom, width * zoom
    down, across = height + GAP, width + GAP
    canvas = np.full((rows * down + GAP, columns * across + GAP, channels), 128, np.uint8)
    for i, picture in enumerate(array):
        top, left = (i // columns) * down + GAP, (i % columns) * across + GAP
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)


def save_grid(images: Tensor, path: str | Path, columns: int) -> None:
    """Write `grid(images)` as a PNG."""
    with atomic(path) as temporary:
        grid(images, columns).save(temporary, format="PNG")


def save_film(states: Iterable[Tensor], path: str | Path, columns: int, num_frames: int) -> None:
    """Write the states [N, C, H, W] of N chains as an animated GIF, or PNG, that dwells on the last.

    Args:
        states: First to last.
        path: Ends in .gif or .png.
        columns: Chains per row.
        num_frames: Most frames, evenly spaced over the states, the first and the last among them.
    """
    kept = [(state.detach().float().cpu().clamp(0, 1) * 255).round().byte() for state in states]
    frames = min(num_frames, len(kept))
    shown = [kept[round(float(i))] for i in np.linspace(0, len(kept) - 1, frames)]
    first, *rest = [grid(state.float() / 255, columns) for state in shown]
    durations = [FRAME_MS] * len(rest) + [LAST_FRAME_MS]
    with atomic(path) as temporary:
        kind = Path(path).suffix[1:].upper()
        first.save(temporary, kind, save_all=True, append_images=rest, duration=durations, loop=0)
