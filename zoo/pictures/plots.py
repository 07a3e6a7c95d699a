"""Points in a plane, arrows, and curves: two numbers against one another in a frame with ticks."""

import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

WIDTH, HEIGHT = 1040, 700
LEFT, RIGHT, TOP, BOTTOM = 70, 260, 20, 60
MARGIN = 0.03
"""Share of the frame that stays empty on each side of the points."""
TICKS = 5
DOT, BARB = 2, 6
"""Radius of a dot and length of an arrow's head, in pixels."""
LEGEND_LINE = 18
COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
)
"""Of classes or curves 0, 1, ...; from the eleventh on they are used over again."""


def scatter(
    points: Tensor, labels: Tensor, names: Sequence[str], caption: str = "", radius: int = DOT
) -> Image.Image:
    """Points [N, 2], each a dot in the colour of its label [N]; the labels' names beside them."""
    picture, draw, place = _framed(points)
    for (x, y), label in zip(place(points), labels.tolist(), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(label))
    _caption(draw, caption)
    _legend(draw, names)
    return picture


def curves(lines: Mapping[str, Tensor], caption: str) -> Image.Image:
    """Curves through points [N, 2], by name, each in a colour of its own; below them what they show."""
    picture, draw, place = _framed(torch.cat(list(lines.values())))
    for i, points in enumerate(lines.values()):
        draw.line([coordinate for point in place(points) for coordinate in point], _colour(i), 2)
    _caption(draw, caption)
    _legend(draw, list(lines))
    return picture


def arrows(tails: Tensor, heads: Tensor, points: Tensor) -> Image.Image:
    """Arrows from points [N, 2] to as many others, over points [M, 2] that are dots."""
    picture, draw, place = _framed(torch.cat((tails, heads, points)))
    for x, y in place(points):
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=_colour(1))
    for (x, y), (u, v) in zip(place(tails), place(heads), strict=True):
        draw.line((x, y, u, v), _colour(0))
        length = math.hypot(u - x, v - y)
        if length > 0:
            along, across = (BARB * (u - x) / length, BARB * (v - y) / length), BARB / 2
            left = (u - along[0] - across * along[1] / BARB, v - along[1] + across * along[0] / BARB)
            right = (u - along[0] + across * along[1] / BARB, v - along[1] - across * along[0] / BARB)
            draw.polygon(((u, v), left, right), fill=_colour(0))
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two: a few, evenly spaced by 1, 2 or 5 times a power of ten."""
    least = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= least)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [i * step for i in range(first, last + 1)]


class _Place:
    """From numbers to pixels of the frame."""

    def __init__(self, points: Tensor) -> None:
        low, high = points.double().amin(0), points.double().amax(0)
        span = (high - low).clamp(min=1e-6)
        self.low, self.high = low - MARGIN * span, high + MARGIN * span

    def __call__(self, points: Tensor) -> list[tuple[float, float]]:
        share = (points.double() - self.low) / (self.high - self.low)
        x = LEFT + share[:, 0] * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - share[:, 1] * (HEIGHT - TOP - BOTTOM)
        return list(zip(x.tolist(), y.tolist(), strict=True))


def _framed(points: Tensor) -> tuple[Image.Image, ImageDraw.ImageDraw, _Place]:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, place = ImageDraw.Draw(picture), _Place(points)
    draw.rectangle((LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), outline="black")
    (left, bottom), (right, top) = place.low.tolist(), place.high.tolist()
    for value in ticks(left, right):
        x = place(torch.tensor([[value, bottom]]))[0][0]
        draw.line((x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 5), "black")
        draw.text((x, HEIGHT - BOTTOM + 8), f"{value:g}", "black", anchor="mt", font_size=14)
    for value in ticks(bottom, top):
        y = place(torch.tensor([[left, value]]))[0][1]
        draw.line((LEFT - 5, y, LEFT, y), "black")
        draw.text((LEFT - 8, y), f"{value:g}", "black", anchor="rm", font_size=14)
    return picture, draw, place


def _caption(draw: ImageDraw.ImageDraw, text: str) -> None:
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10), text, "black", anchor="mb", font_size=16)


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    left = WIDTH - RIGHT + 12
    for i, name in enumerate(names):
        y = TOP + i * LEGEND_LINE
        draw.rectangle((left, y, left + 12, y + 12), fill=_colour(i))
        draw.text((left + 18, y + 6), name, "black", anchor="lm", font_size=14)


def _colour(i: int) -> tuple[int, int, int]:
    return COLOURS[i % len(COLOURS)]
