"""What codes keep of images: checkpoints of one data set side by side, from their records.

    python scripts/information.py CHECKPOINT [CHECKPOINT ...] [--out FOLDER]

A checkpoint is a slug, or a folder of runs and checkpoints. Prints rate and distortion, the information
between images and codes, how far the density of all codes is from the prior, active units and the accuracy of
a linear probe; draws `rate_distortion.png`: where rate and distortion have one sum, they have one ELBO.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table

from zoo.errors import UsageError, require
from zoo.files import atomic
from zoo.leaderboard.table import Entrant, entrant
from zoo.pictures.plots import scatter
from zoo.publishing.checkpoints import checkpoints, scored
from zoo.scores.evaluation import console

COLUMNS = {
    "rate": "rate",
    "distortion": "distortion",
    "ELBO": "elbo",
    "I(x;z)": "mutual_information",
    "KL of all codes": "marginal_kl",
    "MMD of codes": "code_mmd",
    "active units": "active_units",
    "probe": "probe_accuracy",
}
"""Headings, and what a record calls the number."""
RADIUS = 6


def compared(names: Sequence[str]) -> list[Entrant]:
    """What is published under slugs or lies in folders.

    Raises:
        UsageError: If a name is neither, or data sets differ.
    """
    known = checkpoints()
    found = []
    for name in names:
        here = [known[name]] if name in known else scored([Path(name)])
        require(len(here) > 0, f"checkpoint must be a slug or a folder of scored models, got {name!r}")
        found.extend(map(entrant, here))
    sets = ", ".join(sorted({one.data for one in found}))
    require("," not in sets, f"checkpoints must be of one data set, got {sets}")
    return found


def show(entrants: Sequence[Entrant], folder: Path) -> None:
    """Print the table, and draw those that have both rate and distortion."""
    table = Table(title=f"{entrants[0].data}: nats per image")
    for heading in ("checkpoint", *COLUMNS):
        table.add_column(heading, justify="left" if heading == "checkpoint" else "right")
    for one in entrants:
        table.add_row(one.slug, *(str(one.numbers.get(f"test/{name}", "")) for name in COLUMNS.values()))
    console().print(table)
    points = {one.slug: plane for one in entrants if (plane := _plane(one))}
    require(len(points) > 0, "none of these checkpoints has both a rate and a distortion")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "rate_distortion.png") as temporary:
        caption = "distortion by rate, nats per image"
        plane = torch.tensor(list(points.values()))
        picture = scatter(plane, torch.arange(len(points)), list(points), caption, RADIUS)
        picture.save(temporary, format="PNG")


def _plane(one: Entrant) -> tuple[float, ...]:
    numbers = [one.numbers.get(f"test/{name}") for name in ("rate", "distortion")]
    return tuple(number.value for number in numbers if number) if all(numbers) else ()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, default=Path("information"))
    given = parser.parse_args(arguments)
    show(compared(given.checkpoints), given.out)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"information: error: {error}")
