"""A tree of groups: the image of every node, below that of its parent."""

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from zoo.contract.capabilities import Nests
from zoo.files import atomic
from zoo.pictures.grids import grid

ACROSS, DOWN = 10, 40
"""Pixels between neighbours, and between levels."""


def tree(parent: Tensor, images: Tensor) -> Image.Image:
    """Nodes as images joined to their parents by lines; leaves stand side by side, parents above the middle.

    Args:
        parent: Position of each node's parent, [nodes]; -1 of the root, which comes first.
        images: [nodes, C, H, W] in [0, 1].
    """
    above = parent.tolist()
    pictures = [grid(image[None], 1) for image in images]
    width, height = pictures[0].size
    place: dict[int, tuple[float, int]] = {}
    _lay_out(above, 0, 0, place)
    columns = 1 + max(x for x, _ in place.values())
    rows = 1 + max(y for _, y in place.values())
    size = (int(columns * (width + ACROSS)) + ACROSS, rows * (height + DOWN))
    canvas = Image.new(pictures[0].mode, size, "white")
    draw = ImageDraw.Draw(canvas)
    corner = {
        node: (ACROSS + round(x * (width + ACROSS)), DOWN // 2 + y * (height + DOWN))
        for node, (x, y) in place.items()
    }
    for node, (left, top) in corner.items():
        if above[node] >= 0:
            end = corner[above[node]]
            draw.line((left + width // 2, top, end[0] + width // 2, end[1] + height), "black", 2)
    for node, at in corner.items():
        canvas.paste(pictures[node], at)
    return canvas


def save_tree(method: Nests, path: str | Path) -> int:
    """Write a method's `tree` as a PNG; returns the number of its nodes."""
    parent, images = method.hierarchy()
    with atomic(path) as temporary:
        tree(parent, images).save(temporary, format="PNG")
    return len(parent)


def _lay_out(above: list[int], node: int, level: int, place: dict[int, tuple[float, int]]) -> None:
    """Place a node and what is below it to the right of the leaves that are placed."""
    children = [child for child, parent in enumerate(above) if parent == node]
    for child in children:
        _lay_out(above, child, level + 1, place)
    free = sum(n not in above for n in place)
    middle = (place[children[0]][0] + place[children[-1]][0]) / 2 if children else float(free)
    place[node] = (middle, level)
