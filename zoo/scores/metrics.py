"""Distances between sets of images, as functions of features and as torchmetrics for one's own loop.

Every function returns an `Estimate`: the value and its standard error, over the draw of both sets unless it
says otherwise. Features are [N, d]; all arithmetic is float64.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from zoo.contract.shapes import Images, LogProbs
from zoo.errors import require
from zoo.parts.kernels import squared_distances
from zoo.scores.features import Extractor, Features

BLOCKS = 20
"""Most blocks of a set that a jackknife leaves out, one at a time."""
SPLITS = 10
"""Parts of a set behind the inception score."""
ROWS_AT_ONCE = 500
"""Rows of a matrix of distances or kernels that are held at once."""
PAIRS_AT_ONCE = 2**18
"""Pairs of a ball and an image near it that are held at once, each without every block: 40 MiB."""
PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
Z_95 = 1.959964

Vectors: TypeAlias = Float[Tensor, "_ dim"]  # noqa: F722
"""Features of a set of images; two sets that are compared share d and not N."""


class Estimate(NamedTuple):
    """A value and its standard error, in the value's unit."""

    value: float
    error: float


class Moments(NamedTuple):
    """Mean [d] and covariance [d, d] of features, float64."""

    mean: Tensor
    covariance: Tensor


def mean_and_error(values: Tensor) -> Estimate:
    """Mean of values [N] and the standard error of that mean; the error of a single value is infinite."""
    n = len(values)
    values = values.double()
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(n) if n > 1 else math.inf)


def jackknife(parts: Tensor) -> float:
    """Standard error of a statistic from its values [B] without each of B blocks of the draws.

    Infinite where it cannot be told: of fewer than two blocks, or where one value is not finite.
    """
    told = len(parts) > 1 and bool(parts.isfinite().all())
    return math.sqrt((len(parts) - 1) * float(parts.double().var(correction=0))) if told else math.inf


def proportion(hits: Tensor) -> Estimate:
    """Share of hits [N] and its binomial standard error."""
    p = float(hits.double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) / len(hits)))


def wilson(p: float, n: int) -> tuple[float, float]:
    """95 % interval of a share p of n (Wilson 1927); sensible at 0 and 1."""
    z2 = Z_95**2 / n
    centre, half = p + z2 / 2, math.sqrt(max(0.0, z2 * (p * (1 - p) + z2 / 4)))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def share_interval(share: Estimate, n: int) -> tuple[float, float]:
    """95 % interval of a share of n whose error may be larger than the binomial one; within [0, 1]."""
    low, high = wilson(share.value, n)
    half = Z_95 * share.error
    return max(0.0, min(low, share.value - half)), min(1.0, max(high, share.value + half))


def moments(features: Vectors) -> Moments:
    """Mean and unbiased covariance.

    Raises:
        UsageError: If there are not more rows than columns: the covariance would be singular.
    """
    n, d = features.shape
    require(n > max(d, 2), f"FID needs more images than the {d} features, and at least 3, got {n}")
    f = features.double()
    mean = f.mean(0)
    centred = f - mean
    return Moments(mean, centred.T @ centred / (n - 1))


def frechet(one: Moments, two: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of two Gaussians (Heusel et al. 2017, equation 6).

    The trace of the root is that of the symmetric C1^1/2 C2 C1^1/2; its eigenvalues that are negative or
    rounding noise count as 0.
    """
    return _frechet(one, two, root(one.covariance))


def root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _frechet(one: Moments, two: Moments, root_of_one: Tensor) -> float:
    inner = root_of_one @ two.covariance @ root_of_one
    values = torch.linalg.eigvalsh((inner + inner.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    trace = values.where(values > noise, 0.0).sqrt().sum()
    distance = (one.mean - two.mean).square().sum()
    return float(distance + one.covariance.trace() + two.covariance.trace() - 2 * trace)


def fid(real: Vectors, fake: Vectors) -> Estimate:
    """Frechet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    Biased upwards by about 1/N: compare equal N only. Standard error by jackknife over blocks of both sets.

    Raises:
        UsageError: If a set has no more rows than columns.
    """
    both = moments(real), moments(fake)
    errors = []
    for features, fixed in ((fake, both[0]), (real, both[1])):
        half = root(fixed.covariance)
        parts = [_frechet(fixed, m, half) for m in _without_each_block(features)]
        errors.append(jackknife(torch.tensor(parts, dtype=torch.float64)))
    return Estimate(frechet(*both), math.hypot(*errors))


def _without_each_block(features: Vectors) -> list[Moments]:
    """Moments of all rows but one block's, from sums about a common centre."""
    f = features.double() - features.double().mean(0)
    blocks = f.tensor_split(min(BLOCKS, len(f)))
    sums, squares = zip(*((b.sum(0), b.T @ b) for b in blocks), strict=True)
    total, total_squares = sum(sums), sum(squares)
    parts = []
    for block, s, q in zip(blocks, sums, squares, strict=True):
        n = len(f) - len(block)
        mean = (total - s) / n
        covariance = (total_squares - q - n * torch.outer(mean, mean)) / (n - 1)
        parts.append(Moments(mean + features.double().mean(0), covariance))
    return parts


def kid(real: Vectors, fake: Vectors) -> Estimate:
    """Unbiased squared MMD with the kernel (f.f'/d + 1)^3 (Binkowski et al. 2018); may be negative.

    All pairs are used, where the paper averages subsets of 1,000: the same expectation, less noise.

    Raises:
        UsageError: If a set has fewer than 3 rows.
    """
    fewest = min(len(real), len(fake))
    require(fewest >= 3, f"KID needs at least 3 images on each side, got {len(real)} and {len(fake)}")
    return squared_mmd(real, fake, _cubic, lambda x: (x.square().sum(1) / x.shape[1] + 1) ** 3)


def squared_mmd(
    one: Vectors, two: Vectors, kernel: Callable[[Tensor, Tensor], Tensor], own: Callable[[Tensor], Tensor]
) -> Estimate:
    """Unbiased squared MMD of the distributions of two sets.

    Standard error by leave-one-out jackknife over both sets: where both come from one distribution it is a
    factor of sqrt(2) too large, elsewhere right.

    Args:
        one: [M, d], 3 rows or more.
        two: [N, d], 3 rows or more.
        kernel: Rows [m, d] and [n, d] to their matrix [m, n].
        own: Rows [m, d] to the kernel of each with itself, [m].
    """
    m, n = len(one), len(two)
    x, y = one.double(), two.double()
    xx, yy = _kernel_sums(x, x, kernel)[0] - own(x), _kernel_sums(y, y, kernel)[0] - own(y)
    xy, yx = _kernel_sums(x, y, kernel)
    a, b, c = xx.sum() / (m * (m - 1)), yy.sum() / (n * (n - 1)), xy.sum() / (m * n)
    without_x = (xx.sum() - 2 * xx) / ((m - 1) * (m - 2)) + b - 2 * (xy.sum() - xy) / ((m - 1) * n)
    without_y = (yy.sum() - 2 * yy) / ((n - 1) * (n - 2)) + a - 2 * (yx.sum() - yx) / (m * (n - 1))
    variance = (m - 1) * without_x.var(correction=0) + (n - 1) * without_y.var(correction=0)
    return Estimate(float(a + b - 2 * c), math.sqrt(float(variance)))


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_sums(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Row and column sums of the kernel matrix of x [M, d] and y [N, d]."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for part in x.split(ROWS_AT_ONCE):
        matrix = kernel(part, y)
        rows.append(matrix.sum(1))
        columns += matrix.sum(0)
    return torch.cat(rows), columns


def inception_score(log_probs: LogProbs, splits: int = SPLITS) -> Estimate:
    """Exp E KL(p(y|x) || p(y)), the mean over splits of the set (Salimans et al. 2016).

    Between 1 and the number of classes. The error is the standard error of the splits' mean; the paper and
    torchmetrics print their standard deviation, which is sqrt(splits) times as large.

    Raises:
        UsageError: If a split would be empty.
    """
    n = len(log_probs)
    require(n >= splits >= 1, f"the inception score needs at least {splits} images, got {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(log_probs.device)
    scores = []
    for part in log_probs.double()[order].tensor_split(splits):
        marginal = part.logsumexp(0) - math.log(len(part))
        divergence = torch.where(part.isinf(), 0.0, part.exp() * (part - marginal)).sum(1)  # 0 log 0 = 0
        scores.append(float(divergence.mean().exp()))
    return mean_and_error(torch.tensor(scores, dtype=torch.float64))


class Neighbourhoods(NamedTuple):
    """What the nearest-neighbour balls of two sets say of each other."""

    precision: Estimate
    """Share of fakes inside the ball of some real image (Kynkaanniemi et al. 2019, k = 3)."""
    recall: Estimate
    """Share of real images inside the ball of some fake."""
    density: Estimate
    """Mean over fakes of the number of real balls around them, over k (Naeem et al. 2020, k = 5)."""
    coverage: Estimate
    """Share of real images whose ball holds a fake."""


def neighbourhoods(real: Vectors, fake: Vectors) -> Neighbourhoods:
    """Improved precision and recall, density and coverage; balls are closed and reach the k-th neighbour.

    Standard errors by jackknife over blocks of both sets, from one pass over the distances: without a block
    of the real images, the balls of the others reach further. Over sets of 359 and 2,000 images they were
    0.66 to 2.1 times the spread of new ones, least where one ball of an outlier may hold all fakes.

    Raises:
        UsageError: If a set has no more than 6 rows.
    """
    k, wide = PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS
    fewest = min(len(real), len(fake))
    require(fewest > wide + 1, f"neighbourhoods need more than {wide + 1} images on each side, got {fewest}")
    x, y = real.double(), fake.double()
    centre = x.mean(0)
    x, y = x - centre, y - centre
    block, fake_block = _blocks(x), _blocks(y)
    (near, far), (fake_near,) = _radii(x, (k, wide)), _radii(y, (k,))
    precise, dense = (x.new_zeros(len(y), near.shape[1]) for _ in range(2))
    recalled, nearest = (x.new_zeros(len(x), fake_near.shape[1]) for _ in range(2))
    for rows in torch.arange(len(x), device=x.device).split(ROWS_AT_ONCE):
        distance = squared_distances(x[rows], y)
        _count_balls(precise, distance, near[rows], block[rows])
        _count_balls(dense, distance, far[rows], block[rows])
        recalled[rows] = _count_balls(recalled[rows], distance.T, fake_near, fake_block)
        nearest[rows] = _least_without_each(distance, fake_near.shape[1] - 1)
    covered = nearest <= far[:, -1:]
    return Neighbourhoods(
        _left_out(precise > 0),
        _left_out(recalled > 0),
        _left_out(dense / wide),
        _left_out(covered, nearest[:, -1:] <= far[:, :-1]),
    )


def _blocks(x: Tensor) -> Tensor:
    """The block of every row, [N]."""
    rows = torch.arange(len(x), device=x.device)
    parts = rows.tensor_split(min(BLOCKS, len(x)))
    return torch.cat([torch.full_like(part, b) for b, part in enumerate(parts)])


def _radii(x: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """Squared distances of every row to its k-th nearest other, for every k.

    Each is [N, blocks + 1]: without each block of the others, and last among all of them.
    """
    blocks, most = int(_blocks(x)[-1]) + 1, max(ks)
    parts: list[list[Tensor]] = [[] for _ in ks]
    for rows in torch.arange(len(x), device=x.device).split(ROWS_AT_ONCE):
        distance = squared_distances(x[rows], x)
        distance[torch.arange(len(rows)), rows] = math.inf
        nearest = [
            part.topk(min(most, part.shape[1]), largest=False).values
            for part in distance.tensor_split(blocks, 1)
        ]
        of = torch.cat([torch.full((part.shape[1],), b, device=x.device) for b, part in enumerate(nearest)])
        values, places = torch.cat(nearest, 1).topk(min(2 * most, len(of)), largest=False, sorted=True)
        kept = of[places].unsqueeze(2) != torch.arange(blocks + 1, device=x.device)
        for k, found in zip(ks, parts, strict=True):
            found.append(values.gather(1, (kept.cumsum(1) < k).sum(1)))
    return [torch.cat(found) for found in parts]


def _count_balls(counts: Tensor, distance: Tensor, radii: Tensor, block: Tensor) -> Tensor:
    """Add to counts the balls around each point, without each block of them and, last, all.

    Args:
        counts: [points, blocks + 1].
        distance: [balls, points], squared.
        radii: [balls, blocks + 1], squared.
        block: The block of every ball, [balls].
    """
    blocks = radii.shape[1] - 1
    pairs = (distance <= radii.amax(1, keepdim=True)).nonzero()
    for part in pairs.split(PAIRS_AT_ONCE):
        ball, point = part.unbind(1)
        inside = distance[ball, point] <= radii[ball, blocks]
        held, by = point[inside], block[ball[inside]]
        counts += held.bincount(minlength=len(counts)).unsqueeze(1)
        counts[:, :-1] -= (held * blocks + by).bincount(minlength=len(counts) * blocks).view(-1, blocks)
        near, edge = ball[~inside], point[~inside]  # inside only without some block
        reached = distance[near, edge].unsqueeze(1) <= radii[near, :-1]
        reached &= block[near].unsqueeze(1) != torch.arange(blocks, device=block.device)
        counts[:, :-1].index_add_(0, edge, reached.to(counts.dtype))
    return counts


def _least_without_each(distance: Tensor, blocks: int) -> Tensor:
    """The least of every row without each block of columns and, last, of all, [N, blocks + 1]."""
    least = torch.stack([part.amin(1) for part in distance.tensor_split(blocks, 1)], 1)
    (first, second), places = (t.split(1, 1) for t in least.topk(2, largest=False, sorted=True))
    numbers = torch.arange(blocks + 1, device=distance.device)
    return torch.where(places[0] == numbers, second, first)


def _left_out(values: Tensor, without_own: Tensor | None = None) -> Estimate:
    """Mean over points, and its error from leaving out blocks of balls and blocks of points.

    That points are few shows in the spread without each block of balls too, where it would count twice: what
    the points' differences explain of that spread is taken off.

    Args:
        values: Of every point, without each block of balls and, last, with all, [points, blocks + 1].
        without_own: The same without each block of points, [points, blocks]; by default nothing changes.
    """
    values = values.double()
    whole, without_balls = values[:, -1:], values[:, :-1]
    block = _blocks(whole)
    left = (block.unsqueeze(1) != torch.arange(int(block[-1]) + 1, device=block.device)).double()
    without_points = (left * (whole if without_own is None else without_own)).sum(0) / left.sum(0)
    changes = without_balls - without_balls.mean(1, keepdim=True)
    twice = (1 - 1 / changes.shape[1]) * float(changes.var(0).sum()) / len(changes)
    of_balls = max(0.0, jackknife(without_balls.mean(0)) ** 2 - twice)
    return Estimate(float(whole.mean()), math.sqrt(of_balls + jackknife(without_points) ** 2))


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


class SampleMetric(Metric):
    """Compares two sets of images by their features; exact under any number of processes.

    Args:
        extractor: The feature network (`zoo.scores.features.extractor`); not part of the metric's state.
    """

    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self._held = (extractor,)  # a tuple: as a submodule, its weights would enter every checkpoint
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def update(self, images: Images, real: bool = False) -> None:
        """Add images [B, C, H, W] in [0, 1] to the real ones or to the fakes.

        Raises:
            UsageError: If the images are not finite, leave [0, 1] or have the wrong shape.
        """
        features = self.extractor.to(images.device).extract(images)
        (self.real if real else self.fake).append(self._kept(features))

    @property
    def extractor(self) -> Extractor:
        """The feature network."""
        return self._held[0]

    def _kept(self, features: Features) -> Tensor:
        return features.activations

    @property
    def _width(self) -> int:
        return self.extractor.num_features

    def _sync_dist(self, *arguments: Any, **options: Any) -> None:
        for rows in (self.real, self.fake):
            if not rows:  # a process without images joins the gathering with none of the right width
                rows.append(torch.empty(0, self._width, device=self.device))
        super()._sync_dist(*arguments, **options)

    def _sets(self) -> tuple[Tensor, Tensor]:
        for name, rows in (("real", self.real), ("fake", self.fake)):
            require(len(rows) > 0, f"{type(self).__name__} needs {name} images, got none")
        return dim_zero_cat(self.real), dim_zero_cat(self.fake)


class FrechetDistance(SampleMetric):
    """FID: see `fid`."""

    def compute(self) -> Estimate:
        """Value and standard error."""
        return fid(*self._sets())


class KernelDistance(SampleMetric):
    """KID: see `kid`."""

    def compute(self) -> Estimate:
        """Value and standard error."""
        return kid(*self._sets())


class NeighbourhoodMetrics(SampleMetric):
    """Improved precision and recall, density and coverage: see `neighbourhoods`."""

    def compute(self) -> Neighbourhoods:
        """The four."""
        return neighbourhoods(*self._sets())


class InceptionScore(SampleMetric):
    """IS: see `inception_score`; it needs no real images."""

    def _kept(self, features: Features) -> Tensor:
        return features.log_probs

    @property
    def _width(self) -> int:
        return self.extractor.num_classes

    def compute(self) -> Estimate:
        """Value and standard error.

        Raises:
            UsageError: If there are too few fakes.
        """
        require(len(self.fake) > 0, "InceptionScore needs fake images, got none")
        return inception_score(dim_zero_cat(self.fake))
