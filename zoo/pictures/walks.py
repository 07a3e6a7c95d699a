"""What can be done with a method beyond sampling it, as functions of its capabilities.

`interpolate` and `traverse` walk through codes, `plane` maps them, `nearest` looks for the training images
behind samples, and `mask` says which pixels `repair` is told.
"""

from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from zoo.contract.capabilities import Decodes, Encodes, Samples
from zoo.errors import UsageError, require
from zoo.pictures.plots import scatter

CODES = 1000
"""Test images whose codes give the principal directions."""
ROWS_AT_ONCE, NUMBERS_AT_ONCE = 500, 2**26
"""Images whose nearest references are sought at once, and pixels of these."""
Edge = Literal["left", "right", "top", "bottom", "border"]
EDGES: tuple[Edge, ...] = get_args(Edge)


def paired(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first half of images [N, C, H, W] and the second, as ends of walks; a single one is both.

    Of an odd number the one in the middle is left out.
    """
    half = max(1, len(x) // 2)
    return x[:half], x[-half:]


@torch.no_grad()
def interpolate(method: Any, first: Tensor, second: Tensor, steps: int) -> Tensor:
    """From images to others, by the images of codes on the line between theirs.

    Args:
        method: Encodes and decodes.
        first: Images [N, C, H, W].
        second: As many.
        steps: Images per row, the given two at its ends; at least 2.

    Returns:
        Images [N, steps, C, H, W].

    Raises:
        UsageError: If the method has no codes that it decodes, or there are too few steps.
    """
    _needs_codes(method)
    require(steps > 1, f"steps must be at least 2, got {steps}")
    one, two = method.encode(first), method.encode(second)
    between = [one.lerp(two, i / (steps - 1)) for i in range(1, steps - 1)]
    return torch.stack([first, *map(method.decode, between), second], 1)


@torch.no_grad()
def traverse(method: Any, x: Tensor, directions: int, steps: int, span: float = 2.0) -> Tensor:
    """Along the principal directions of the codes of images, from their mean.

    Args:
        method: Encodes and decodes.
        x: Images [N, C, H, W], at least two, whose codes span the directions.
        directions: How many directions, that of most variance first.
        steps: Images per direction, evenly spaced; at least 2.
        span: How far each way, in standard deviations of the codes along the direction.

    Returns:
        Images [directions, steps, C, H, W].

    Raises:
        UsageError: If the method has no codes that it decodes, or fewer directions than are asked for; if
            there are fewer than two images.
    """
    _needs_codes(method)
    require(steps > 1, f"steps must be at least 2, got {steps}")
    z = method.encode(x)
    require(len(x) > 1, f"principal directions need at least 2 images, got {len(x)}")
    most = min(len(x) - 1, z.shape[1])
    require(1 <= directions <= most, f"directions must be between 1 and {most}, got {directions}")
    mean = z.mean(0)
    _, deviations, axes = torch.linalg.svd((z - mean).double(), full_matrices=False)
    deviations = deviations / (len(x) - 1) ** 0.5
    places = torch.linspace(-span, span, steps, dtype=z.dtype)
    walks = (deviations[:directions, None] * axes[:directions]).to(z)
    codes = mean + places[:, None] * walks[:, None]
    return method.decode(codes.flatten(0, 1)).unflatten(0, (directions, steps))


@torch.no_grad()
def plane(method: Any, x: Tensor) -> Tensor:
    """Where images lie in a plane: their codes, if these have two dimensions, else along two directions.

    The directions are those in which the codes vary most, principal components about their mean.

    Args:
        method: Encodes.
        x: Images [N, C, H, W].

    Returns:
        Points [N, 2].

    Raises:
        UsageError: If the method has no codes, codes of one dimension, or there are fewer than three images.
    """
    if not isinstance(method, Encodes):
        raise UsageError(f"{type(method).__name__} has no codes")
    require(len(x) > 2, f"n must be at least 3, got {len(x)}")
    z = torch.cat([method.encode(part) for part in x.split(ROWS_AT_ONCE)])
    require(z.shape[1] > 1, f"codes must have at least two dimensions for a map, got {z.shape[1]}")
    if z.shape[1] == 2:
        return z
    centred = (z - z.mean(0)).double()
    return (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T).to(z)


def code_map(method: Any, data: Any, n: int) -> Image.Image:
    """The first n test images as points in the plane of their codes, coloured by label.

    Raises:
        UsageError: As `plane`.
    """
    images = data.split("test")
    points, labels = plane(method, images.x[:n]), images.y[:n]
    names = [str(label) for label in range(int(images.y.max()) + 1)]
    return scatter(points, labels, data.facts.classes or names)


@torch.no_grad()
def nearest(images: Tensor, references: Any) -> tuple[Tensor, Tensor]:
    """The nearest reference of every image, by Euclidean distance of the pixels.

    Args:
        images: [N, C, H, W] in [0, 1].
        references: [M, C, H, W]: bytes, or in [0, 1]; a tensor, or what is read from a file by rows.

    Returns:
        Distances [N], and positions among the references [N].
    """
    scale = 1 if references.dtype.is_floating_point else 255
    rows = images.flatten(1).float().split(ROWS_AT_ONCE)
    least, start = [torch.full((len(x),), torch.inf) for x in rows], 0
    position = [torch.zeros(len(x), dtype=torch.long) for x in rows]
    for part in references.split(max(1, NUMBERS_AT_ONCE // references.shape[1:].numel())):
        y = part.flatten(1).float() / scale
        norms = y.square().sum(1)
        for i, x in enumerate(rows):
            distance, at = (norms - 2 * x @ y.T).min(1)
            position[i] = torch.where(distance < least[i], start + at, position[i])
            least[i] = torch.minimum(distance, least[i])
        start += len(part)
    found = [
        (x - references[at].flatten(1).float() / scale).norm(dim=1)
        for x, at in zip(rows, position, strict=True)
    ]
    return torch.cat(found), torch.cat(position)


def mask(shape: tuple[int, int, int], hidden: Edge) -> Tensor:
    """Which pixels [C, H, W] are known: 0 in the hidden half, or outside the middle of the picture."""
    channels, height, width = shape
    known = torch.ones(channels, height, width)
    if hidden == "border":
        known.zero_()
        known[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        return known
    rows, columns = slice(None), slice(None)
    if hidden in ("top", "bottom"):
        rows = slice(0, height // 2) if hidden == "top" else slice(height - height // 2, None)
    else:
        columns = slice(0, width // 2) if hidden == "left" else slice(width - width // 2, None)
    known[:, rows, columns] = 0
    return known


def with_nearest(method: Any, data: Any, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples [n, C, H, W], the training image nearest to each, and their distances [n]."""
    if not isinstance(method, Samples):
        raise UsageError(f"{type(method).__name__} does not sample")
    images = method.sample(n, generator=torch.Generator().manual_seed(seed))
    references = data.images("train")
    distances, positions = nearest(images, references)
    return images, references[positions].float() / 255, distances


def _needs_codes(method: Any) -> None:
    if not (isinstance(method, Encodes) and isinstance(method, Decodes)):
        raise UsageError(f"{type(method).__name__} has no codes that it can decode")
