"""What a metric is: what it needs of a method, what it reads of every image, the numbers that it writes."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from zoo.contract.capabilities import (
    Baselines,
    Clusters,
    Divides,
    Encodes,
    Infers,
    Normalises,
    Reconstructs,
    Scores,
    Weighs,
)
from zoo.contract.method import Method
from zoo.parts.estimators import importance_bound, psnr
from zoo.scores.results import Measure
from zoo.scores.scene import Scene

Reading = Callable[[Method, Tensor, int], dict[str, Tensor]]
"""A method, images [B, C, H, W] and K to columns with one row per image."""


class Section(NamedTuple):
    """A metric, and everything that is known of it."""

    needs: tuple[type, ...]
    """Capabilities of which the method must have one."""
    run: Callable[[Scene], None]
    """Writes the numbers; one that raises `UsageError` is skipped, for that reason."""
    numbers: dict[str, Measure]
    """The numbers that it may write, by name."""
    text: str
    """What they say, in a sentence."""
    reads: tuple[Reading, ...] = ()
    """What it reads of every image; what several sections read is read once."""
    on_request: bool = False
    """Too slow to run unless asked for."""


def likelihoods(method: Method, x: Tensor, num_samples: int) -> dict[str, Tensor]:
    """Log p(x), with importance weights all that they say, and the log-likelihood of the baseline."""
    values: dict[str, Tensor] = {}
    if isinstance(method, Weighs):
        values |= importance_bound(method.weigh, x, num_samples, method.draw_size)._asdict()
    elif isinstance(method, Scores):
        values["log_prob"] = method.log_prob(x, num_samples)
    if isinstance(method, Baselines):
        values["baseline_log_prob"] = method.baseline_log_prob(x)
    return values


def energies(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Energies."""
    return {"energy": method.energy(x)} if isinstance(method, Normalises) else {}


def posterior_means(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Posterior means of every layer."""
    layers = method.posterior_means(x) if isinstance(method, Infers) else ()
    return {f"posterior_mean_{layer}": means for layer, means in enumerate(layers)}


def encodings(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Codes."""
    return {"code": method.encode(x)} if isinstance(method, Encodes) else {}


def cluster_probabilities(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Log-probabilities of the method's own clusters."""
    return {"log_prob_cluster": method.cluster(x)} if isinstance(method, Clusters) else {}


def shares(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Mean shares of sticks or components."""
    return {"share": method.divide(x)} if isinstance(method, Divides) else {}


def reconstruction_errors(method: Method, x: Tensor, _: int) -> dict[str, Tensor]:
    """Squared error and signal-to-noise ratio of reconstructions."""
    if not isinstance(method, Reconstructs):
        return {}
    y = method.reconstruct(x)
    return {
        "reconstruction_error": (y - x).square().flatten(1).sum(1),
        "reconstruction_psnr": psnr(y.clamp(0, 1), x),
    }
