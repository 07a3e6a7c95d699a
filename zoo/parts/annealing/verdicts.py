"""A normalising constant from the weights of chains, and how far to trust it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from zoo.contract.capabilities import Partition
from zoo.contract.shapes import PerImage
from zoo.errors import require
from zoo.parts.annealing.paths import Betas, Path, anneal, effective_size, tripartite
from zoo.parts.estimators import log_mean_exp

SIGMAS = 3.0
"""Standard errors between the estimate and either end of its interval, and between two runs that agree."""
LOWEST_ESS = 5.0
"""Effective chains below which no log Z is reported."""
WIDEST_SPREAD = 1.0
"""Standard deviation of log-weights, in nats, above which their tails escape any error bar."""
SHORTER = 4
"""How many times fewer steps a pilot takes."""


def estimated(log_w: PerImage, num_steps: int) -> Partition:
    """The log Z of the weights of chains [M]; its error by the delta method.

    Args:
        log_w: One estimate of log Z per chain, as from `anneal`.
        num_steps: Steps that the chains took.

    Raises:
        UsageError: If there are fewer than two chains.
    """
    require(len(log_w) > 1, f"num_chains must be at least 2, got {len(log_w)}")
    log_w = log_w.double()
    log_z = float(log_mean_exp(log_w))
    error = float((log_w - log_z).exp().std()) / math.sqrt(len(log_w))
    margin = SIGMAS * error
    low = log_z + math.log1p(-margin) if margin < 1 else -math.inf
    high, ess = log_z + math.log1p(margin), float(effective_size(log_w))
    return Partition(log_z, error, low, high, ess, num_steps, float(log_w.std()))


def exactly(log_z: float) -> Partition:
    """A log Z that was not estimated."""
    return Partition(log_z, 0.0, log_z, log_z, math.inf, 0, 0.0)


def log_partition(
    path: Path, num_chains: int, num_steps: int, schedule: Callable[[int], Betas] = tripartite
) -> Partition:
    """The log Z of a path's target: summed where that can be done, else annealed.

    Args:
        path: Any: two layers of units, one, three, or no units at all.
        num_chains: Independent chains.
        num_steps: Steps from the start to the target.
        schedule: Number of steps to inverse temperatures.
    """
    log_z = path.log_z()
    if log_z is not None:
        return exactly(log_z)
    return estimated(anneal(path, num_chains, schedule(num_steps))[0], num_steps)


class Verdict(NamedTuple):
    """An estimate of log Z and what speaks against it."""

    partition: Partition
    pilot: Partition
    """The same with a quarter of the steps; the estimate itself where that is exact."""
    refusal: str | None
    """Why no number may be reported; None where one may."""
    rerun: str | None
    """Why the run should be repeated with four times the steps; None where it need not."""


def judged(estimate: Callable[[int, int], Partition], num_chains: int, num_steps: int) -> Verdict:
    """Estimate log Z and ask a pilot run whether the schedule was long enough; it costs a quarter more.

    Chains that are annealed too fast miss most of Z: log Z comes out low and likelihoods high.

    Args:
        estimate: (num_chains, num_steps) to log Z, such as `Normalises.log_partition`.
        num_chains: Independent chains.
        num_steps: Steps of the run.
    """
    run = estimate(num_chains, num_steps)
    if run.num_steps == 0:
        return Verdict(run, run, None, None)
    pilot = estimate(num_chains, max(1, num_steps // SHORTER))
    refusal = rerun = None
    if run.ess < LOWEST_ESS:
        refusal = f"the effective number of chains must be at least {LOWEST_ESS:g}, got {run.ess:.1f}"
    sigma = math.hypot(run.error, pilot.error)
    if run.spread > WIDEST_SPREAD:
        rerun = f"log-weights must spread by at most {WIDEST_SPREAD:g} nat, got {run.spread:.1f}"
    elif not abs(run.log_z - pilot.log_z) <= SIGMAS * sigma:
        rerun = (
            f"log Z must agree with that of {pilot.num_steps} steps, {pilot.log_z:.2f}, "
            f"within {SIGMAS:g} standard errors of {sigma:.2f}, got {run.log_z:.2f}"
        )
    return Verdict(run, pilot, refusal, rerun)
