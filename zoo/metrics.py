"""Torchmetrics that keep one value per image; exact under any number of processes."""

import math

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from zoo.estimators import active_units


class PerImage(Metric):
    """Keeps one value per image, in float64; `compute()` gives all of them, [N]."""

    full_state_update = False
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, values: Tensor) -> None:
        """Add a batch of values [B]."""
        self.values.append(values.double())

    def compute(self) -> Tensor:
        """The values of every process, [N]."""
        return dim_zero_cat(self.values)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of values [N] and the standard error of that mean; the error of a single value is infinite."""
    n = len(values)
    return float(values.mean()), float(values.std()) / math.sqrt(n) if n > 1 else math.inf


class ActiveUnits(Metric):
    """Latent units whose posterior mean varies over the data (Burda et al. 2016, section 5.2).

    `compute()` gives the number of active units and the variance of every unit's posterior mean, [D].
    """

    full_state_update = False
    means: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("means", default=[], dist_reduce_fx="cat")

    def update(self, means: Tensor) -> None:
        """Add a batch of posterior means [B, D]."""
        self.means.append(means.double())

    def compute(self) -> tuple[Tensor, Tensor]:
        """The count, zero-dimensional, and the variances [D]."""
        means = dim_zero_cat(self.means)
        return active_units(means).sum(), means.var(0)
