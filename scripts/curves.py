"""Draw a metric of several runs over their epochs: `scripts/curves.py OUT.png METRIC[=MOST] RUN [RUN ...]`.

A run is a folder that `zoo fit` wrote, with `metrics.csv`; epochs in which the metric was not logged are left
out. MOST is a value that the metric cannot pass, such as an entropy: a line of its own.
"""

import csv
import sys
from pathlib import Path

import torch

from zoo.errors import UsageError, require
from zoo.files import atomic
from zoo.pictures.plots import curves


def curve(run: Path, metric: str) -> torch.Tensor:
    """Epochs, from 1, and values of a metric, [N, 2].

    Raises:
        UsageError: If the run did not log it.
    """
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            (int(row["epoch"]) + 1.0, float(row[metric])) for row in csv.DictReader(file) if row.get(metric)
        ]
    require(len(rows) > 0, f"{run} has no {metric}")
    return torch.tensor(rows)


def number(text: str) -> float:
    """The number that a text says.

    Raises:
        UsageError: If it says none.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"what a metric cannot pass must be a number, got {text}") from None


def main(out: str, metric: str, *runs: str) -> None:
    """Write the picture."""
    require(len(runs) > 0, "curves needs at least one run")
    metric, _, most = metric.partition("=")
    lines = {Path(run).parent.name: curve(Path(run), metric) for run in runs}
    if most:
        epochs = torch.cat(list(lines.values()))[:, 0]
        ends = torch.stack((epochs.min(), epochs.max()))
        lines[f"at most {most}"] = torch.stack((ends, torch.full_like(ends, number(most))), 1)
    with atomic(out) as temporary:
        curves(lines, f"{metric} by epoch").save(temporary, format="PNG")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UsageError as error:
        sys.exit(f"curves: error: {error}")
