"""Draw a metric of several runs over their epochs: `python scripts/curves.py OUT.png METRIC RUN [RUN ...]`.

A run is a folder that `zoo fit` wrote, with `metrics.csv`; epochs in which the metric was not logged are left
out.
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


def main(out: str, metric: str, *runs: str) -> None:
    """Write the picture."""
    require(len(runs) > 0, "curves needs at least one run")
    lines = {Path(run).parent.name: curve(Path(run), metric) for run in runs}
    with atomic(out) as temporary:
        curves(lines, f"{metric} by epoch").save(temporary, format="PNG")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UsageError as error:
        sys.exit(f"curves: error: {error}")
