"""How much a Hopfield net holds: the share of random patterns that it recalls, by patterns per unit.

    python scripts/capacity.py [--out FILE] [--units N] [--seeds N]

By Hebb's rule. Every stored pattern is recalled from itself, and from a copy of which one unit in ten is
flipped; it counts as recalled where its overlap with what it was is above 0.95. The theory (Amit, Gutfreund,
Sompolinsky 1985) has a step at 0.138 patterns per unit, which a thousand units make a slope.
"""

import argparse
import statistics
from collections import deque
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from zoo.files import atomic
from zoo.methods.energy.hopfield import Hopfield
from zoo.pictures.plots import curves
from zoo.randomness import own_stream

LOADS = (0.10, 0.11, 0.12, 0.13, 0.138, 0.15, 0.16, 0.18, 0.20)
FLIPPED = (0.0, 0.1)
LEAST_OVERLAP = 0.95


class Recall(NamedTuple):
    """What became of the stored patterns, means over them."""

    recalled: float
    """Share with an overlap above `LEAST_OVERLAP`."""
    bit_error: float
    """Share of units that differ from the pattern."""


def measured(num_units: int, load: float, flipped: float, seed: int) -> Recall:
    """Store random patterns and recall each.

    Args:
        num_units: N.
        load: Patterns per unit.
        flipped: Share of a probe's units that are flipped first.
        seed: Of patterns, probes and orders.
    """
    with own_stream(seed):
        net = Hopfield((1, 1, num_units), num_patterns=round(load * num_units))
        xi = net.patterns.double()
        count = round(flipped * num_units)
        where = torch.rand(xi.shape).argsort(1) < count
        end = deque(net.recall(torch.where(where, -xi, xi)), maxlen=1).pop()
    overlap = (end.states * xi).mean(1)
    recalled = (overlap > LEAST_OVERLAP).double().mean()
    return Recall(float(recalled), float((1 - overlap).mean() / 2))


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", default="capacity.png")
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.units} units, {arguments.seeds} seeds: mean ± spread")
    for heading in (
        "load",
        *(f"{flipped:.0%} flipped: {what}" for flipped in FLIPPED for what in Recall._fields),
    ):
        table.add_column(heading, justify="right")
    lines: dict[str, list[tuple[float, float]]] = {}
    for load in LOADS:
        cells = [f"{load:g}"]
        for flipped in FLIPPED:
            runs = [measured(arguments.units, load, flipped, seed) for seed in range(arguments.seeds)]
            for values in zip(*runs, strict=True):
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
            point = load, statistics.mean(run.recalled for run in runs)
            lines.setdefault(f"{flipped:.0%} of the units flipped", []).append(point)
        table.add_row(*cells)
    Console().print(table)
    shown = {name: torch.tensor(points) for name, points in lines.items()}
    with atomic(arguments.out) as temporary:
        curves(shown, "share of patterns recalled by patterns per unit").save(temporary, format="PNG")


if __name__ == "__main__":
    main()
