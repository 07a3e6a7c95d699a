"""What a bottleneck lets through: the recipe of a VIB at seven weights of the rate, with one seed or several.

    python scripts/bottleneck.py [SLUG] [--out FOLDER] [--seeds N] [--betas B [B ...]]

Trains what is not yet trained: after an interruption the same command goes on. Prints errors by one code and
by several, and the bounds on I(Z;X) and I(Z;Y) in bits, of training and of test images; draws
`information_plane.png`, `error.png` and `information.png`.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zoo.data.modules import ImageData, Split
from zoo.files import atomic, write_bytes
from zoo.hub import recipe_files
from zoo.methods.variational.vib import VIB
from zoo.pictures.plots import curves
from zoo.publishing.opened import opened
from zoo.publishing.reproduce import Training, recipe_of, run_one
from zoo.randomness import own_stream
from zoo.scores.scene import drawn
from zoo.scores.sections.labels import BIT, through_codes

BETAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SPLITS: tuple[Split, ...] = ("train", "test")
MOST_IMAGES, IMAGES_AT_ONCE = 10_000, 500


class Point(NamedTuple):
    """What a trained bottleneck does with the images of a split."""

    error_one: float
    """Percent of wrong labels by a single code."""
    error: float
    """Percent of wrong labels by the mean probabilities of several."""
    code: float
    """Upper bound on I(Z;X), in bits."""
    label: float
    """Lower bound on I(Z;Y), in bits."""


def at_beta(slug: str, beta: float, folder: Path) -> Path:
    """Write the recipe with another weight of the rate, and a short score; its file."""
    recipe = yaml.safe_load(recipe_of(slug, "cpu")[1].read_text())
    recipe["model"].setdefault("init_args", {})["beta"] = beta
    recipe["score"] = {"metrics": ["accuracy", "bottleneck"]}
    path = folder / f"{slug.replace('-', '_')}_beta_{beta:g}.yaml"
    write_bytes(path, yaml.safe_dump(recipe, sort_keys=False).encode())
    return path


@torch.no_grad()
def measured(method: VIB, data: ImageData, split: Split) -> Point:
    """Errors and information on the images of a split, of many on some drawn once."""
    rows = drawn(len(data.images(split)), MOST_IMAGES)
    images = data.split(split, rows)
    parts: list[tuple[Tensor, ...]] = []
    with own_stream(0):
        for part in torch.arange(len(rows)).split(IMAGES_AT_ONCE):
            x, y = images.x[part], images.y[part]
            parts.append((*through_codes(method, x, y), (method.classify(x).argmax(1) == y).double()))
    rate, cross_entropy, right_one, right = (torch.cat(column).mean() for column in zip(*parts, strict=True))
    entropy = torch.special.entr(images.y.bincount().double() / len(rows)).sum()
    label = (entropy - cross_entropy) / BIT
    return Point(*(float(v) for v in (100 * (1 - right_one), 100 * (1 - right), rate / BIT, label)))


def trained(slug: str, beta: float, seed: int, folder: Path) -> Path:
    """The folder of a finished run, which is trained if there is none."""
    recipe = at_beta(slug, beta, folder)
    training = Training(recipe.stem.replace("_", "-"), recipe, seed, "cpu")
    return training.finished or run_one(training)


def show(points: dict[tuple[float, str], list[Point]], folder: Path) -> None:
    """Print the table and draw the pictures.

    Args:
        points: By beta and split, one per seed.
        folder: Where the pictures go.
    """
    table = Table(title="mean over seeds ± spread")
    for heading in (
        "beta",
        "images",
        "error, one code (%)",
        "error (%)",
        "I(Z;X) <= (bits)",
        "I(Z;Y) >= (bits)",
    ):
        table.add_column(heading, justify="right")
    plane: dict[str, list[tuple[float, float]]] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    rates: dict[str, list[tuple[float, float]]] = {}
    for (beta, split), of_seeds in points.items():
        mean = Point(*map(statistics.fmean, zip(*of_seeds, strict=True)))
        table.add_row(f"{beta:g}", split, *map(_cell, zip(*of_seeds, strict=True)))
        place = float(torch.tensor(beta).log10())
        plane.setdefault(split, []).append((mean.code, mean.label))
        errors.setdefault(f"{split}, one code", []).append((place, mean.error_one))
        errors.setdefault(f"{split}, several codes", []).append((place, mean.error))
        rates.setdefault(split, []).append((place, mean.code))
    Console().print(table)
    for name, lines, caption in (
        ("information_plane", plane, "I(Z;Y) from below by I(Z;X) from above, bits"),
        ("error", errors, "error in percent by log10 beta"),
        ("information", rates, "I(Z;X) from above in bits by log10 beta"),
    ):
        shown = {line: torch.tensor(sorted(pairs)) for line, pairs in lines.items()}
        with atomic(folder / f"{name}.png") as temporary:
            curves(shown, caption).save(temporary, format="PNG")


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{spread}"


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "slug", nargs="?", default="vib-digits", choices=sorted(recipe_files()), metavar="SLUG"
    )
    parser.add_argument("--out", type=Path, default=Path("bottleneck"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    points: dict[tuple[float, str], list[Point]] = {}
    for beta in sorted(arguments.betas):
        for seed in range(arguments.seeds):
            method, data = opened(trained(arguments.slug, beta, seed, arguments.out) / "model")
            for split in SPLITS:
                points.setdefault((beta, split), []).append(measured(method, data, split))
    show(points, arguments.out)


if __name__ == "__main__":
    main()
