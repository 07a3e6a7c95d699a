"""What codes, clusters, posteriors and scores are worth: measures that read labels or a second data set.

Pure functions of arrays. Shares and means come as `Estimate`: the value and its standard error.
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.distributions import Distribution, Independent

from zoo.errors import require
from zoo.parts.estimators import PAIRS_AT_ONCE, log_mean_exp, pairwise_log_prob
from zoo.scores.metrics import Estimate, mean_and_error, proportion

Rows = Tensor | np.ndarray
NUM_TRAIN = 20_000
"""Training codes that probes and clusters learn from; of more, evenly spaced ones are taken."""
PROBE_STEPS = 2000
PROBE_TOLERANCE = 1e-4
NEIGHBOURS = (3, 5, 10)
RESTARTS = 10


def linear_probe(train_codes: Rows, train_y: Rows, test_codes: Rows, test_y: Rows) -> Estimate:
    """Accuracy of multinomial logistic regression on standardised codes, with an L2 penalty of weight 1.

    Args:
        train_codes: [N, D]; at most 20,000 of them are used, evenly spaced.
        train_y: Labels [N].
        test_codes: [M, D].
        test_y: Labels [M].

    Returns:
        The share of right answers and its binomial standard error.

    Raises:
        UsageError: If lengths differ, a code is not finite, a label is unknown, there is only one class, or
            the regression does not converge.
    """
    x, y, x_test, y_test = _problem(train_codes, train_y, test_codes, test_y)
    scale = StandardScaler().fit(x)
    probe = LogisticRegression(tol=PROBE_TOLERANCE, max_iter=PROBE_STEPS).fit(scale.transform(x), y)
    steps = int(probe.n_iter_.max())
    require(steps < PROBE_STEPS, f"the probe must converge in fewer than {PROBE_STEPS} steps, got {steps}")
    return proportion(torch.from_numpy(probe.predict(scale.transform(x_test)) == y_test))


def knn_accuracy(
    train_codes: Rows, train_y: Rows, test_codes: Rows, test_y: Rows, ks: tuple[int, ...] = NEIGHBOURS
) -> dict[int, Estimate]:
    """Accuracy of the vote among the k nearest training codes, Euclidean; a tied vote takes the lower label.

    Args:
        train_codes: [N, D]; at most 20,000 of them are used, evenly spaced.
        train_y: Labels [N].
        test_codes: [M, D].
        test_y: Labels [M].
        ks: Numbers of neighbours.

    Returns:
        Each k to the share of right answers and its binomial standard error.

    Raises:
        UsageError: If lengths differ, a code is not finite, a label is unknown, there is only one class, or
            a k is not between 1 and the number of training codes.
    """
    x, y, x_test, y_test = _problem(train_codes, train_y, test_codes, test_y)
    inside = len(ks) > 0 and min(ks) >= 1 and max(ks) <= len(x)
    require(inside, f"ks must lie between 1 and the {len(x)} training codes, got {ks}")
    classes, numbers = np.unique(y, return_inverse=True)
    search = NearestNeighbors(n_neighbors=max(ks), algorithm="brute").fit(x)
    votes = np.eye(len(classes), dtype=np.int64)[numbers[search.kneighbors(x_test, return_distance=False)]]
    counts = votes.cumsum(1)
    return {k: proportion(torch.from_numpy(classes[counts[:, k - 1].argmax(1)] == y_test)) for k in ks}


class Clustering(NamedTuple):
    """How clusters agree with labels. The three accuracies are never compared with one another."""

    hungarian: Estimate
    """Best one-to-one matching of clusters and classes; unmatched clusters count as wrong."""
    majority: Estimate
    """Every cluster takes its most frequent label; never falls when a cluster is divided."""
    aae: Estimate | None
    """Every cluster takes the label of its most confident example; None where confidence is not known."""
    nmi: float
    """Normalised mutual information, divided by the mean of the two entropies."""
    ari: float
    """Adjusted Rand index: 0 for a random grouping, 1 for the classes."""
    used_clusters: int
    """Clusters with at least one example."""


def clustering(clusters: Rows, y: Rows) -> Clustering:
    """Compare clusters with labels.

    The three accuracies are those of Xie, Girshick and Farhadi (2016, arXiv:1511.06335, equation 10), of
    the purity in common use, and of Makhzani et al. (2016, arXiv:1511.05644, section 6).

    Args:
        clusters: Assignments [N], integers from 0; or log q(cluster|x) [N, K], of which only the order
            within each row and within each column counts.
        y: Labels [N].

    Raises:
        UsageError: If lengths differ, a value is NaN, a label is unknown or there is only one class.
    """
    table = np.asarray(torch.as_tensor(clusters).detach().cpu())
    require(table.ndim in (1, 2), f"clusters must be [N] or [N, K], got shape {table.shape}")
    labels = _labels("y", y, len(table))
    _two_classes("y", labels)
    if table.ndim == 1:
        whole = table.dtype.kind in "iu" and int(table.min()) >= 0
        require(whole, f"assignments must be integers from 0, got {table.dtype} from {table.min()}")
        assigned, aae = table, None
    else:
        bad = int((~(table.max(1) > -np.inf) | (table.max(1) == np.inf)).sum())
        require(bad == 0, f"log-probabilities must be numbers below infinity, got {bad} rows without")
        assigned = table.argmax(1)
        aae = proportion(torch.from_numpy(labels[table.argmax(0)][assigned] == labels))
    counts = contingency_matrix(labels, assigned).T
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return Clustering(
        hungarian=_part(counts[rows, columns].sum(), len(labels)),
        majority=_part(counts.max(1).sum(), len(labels)),
        aae=aae,
        nmi=float(normalized_mutual_info_score(labels, assigned)),
        ari=float(adjusted_rand_score(labels, assigned)),
        used_clusters=len(counts),
    )


def matching(clusters: Rows, y: Rows, num_classes: int) -> Tensor:
    """The cluster that goes with each class in the best one-to-one matching, [num_classes]; -1 for none.

    Args:
        clusters: log q(cluster|x) [N, K].
        y: Labels [N], below `num_classes`.
        num_classes: Number of classes.

    Raises:
        UsageError: If lengths differ, a value is NaN or a label is unknown.
    """
    table = np.asarray(torch.as_tensor(clusters).detach().cpu())
    require(table.ndim == 2, f"clusters must be [N, K], got shape {table.shape}")
    bad = int(np.isnan(table).any(1).sum())
    require(bad == 0, f"log-probabilities must not be NaN, got {bad} rows with one")
    labels = _labels("y", y, len(table))
    counts = np.zeros((table.shape[1], num_classes), np.int64)
    np.add.at(counts, (table.argmax(1), labels), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    found = torch.full((num_classes,), -1)
    found[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return found


def kmeans_clusters(train_codes: Rows, codes: Rows, k: int, seed: int) -> Tensor:
    """Minus the squared distance of codes to k means, [M, k] float64: `clustering` reads it as log q(k|x).

    The means are the best of ten starts of k-means++. Where fewer than k training codes differ, as in a
    collapsed encoder, some means coincide and stay unused.

    Args:
        train_codes: [N, D]; at most 20,000 of them are used, evenly spaced.
        codes: [M, D].
        k: Number of clusters.
        seed: Seed of the starts.

    Raises:
        UsageError: If widths differ, a code is not finite, or k is not between 1 and the training codes.
    """
    x, other = _codes("train_codes", train_codes), _codes("codes", codes)
    _same_width(x, other)
    x = x[_spread(len(x))]
    require(1 <= k <= len(x), f"k must lie between 1 and the {len(x)} training codes, got {k}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct codes than clusters
        means = KMeans(k, random_state=seed).set_params(n_init=RESTARTS).fit(x)
    return -torch.from_numpy(means.transform(other)).square()


class AggregatePosterior(NamedTuple):
    """The rate of a posterior q(z|x) in two parts, in nats: `mean_kl = information + marginal_kl`.

    The reference points are the empirical distribution q(n) = 1/N, and q(z) is their mixture.
    """

    information: Estimate
    """I_q(n; z) = E log q(z|x_n)/q(z); never above `cap`, and a reading near the cap only says: at least."""
    cap: float
    """log N."""
    marginal_kl: Estimate
    """KL(q(z) || p(z)) = E log q(z)/p(z)."""
    mean_kl: Estimate
    """E KL(q(z|x) || p(z)), the rate."""


@torch.no_grad()
def aggregate_posterior(
    posterior: Distribution, prior: Distribution, num_samples: int = 1
) -> AggregatePosterior:
    """Split the rate as Hoffman and Johnson, "ELBO surgery" (NeurIPS workshop, 2016).

    The three terms share their draws, so they add up exactly. Errors are over images.

    Args:
        posterior: q(z|x_n) of N images, batch [N], event [D]. Its `log_prob` must broadcast over [n, 1, D].
        prior: p(z), event [D].
        num_samples: Draws of z per image.

    Raises:
        UsageError: If there are fewer than two images, no draw is asked for, or a value is not finite.
    """
    n = _count(posterior, num_samples)
    z = posterior.sample(torch.Size([num_samples])).transpose(0, 1)
    terms = []
    for start in range(0, n, rows := max(1, PAIRS_AT_ONCE // n // num_samples)):
        part = z[start : start + rows]
        log_q = pairwise_log_prob(posterior, part.flatten(0, 1)).unflatten(0, part.shape[:2])
        own = log_q.diagonal(start, 0, 2).T
        mixture = log_mean_exp(log_q, 2)
        log_p = prior.log_prob(part).double()
        terms.append(torch.stack([own - mixture, mixture - log_p, own - log_p]).mean(2))
    information, marginal_kl, mean_kl = (mean_and_error(column) for column in _finite(torch.cat(terms, 1)))
    return AggregatePosterior(information, math.log(n), marginal_kl, mean_kl)


@torch.no_grad()
def total_correlation(posterior: Independent, num_samples: int = 1) -> Estimate:
    """KL(q(z) || prod_d q(z_d)) of the mixture q(z) of N posteriors, in nats.

    Biased upwards as a statement about all images, because each draw meets its own component in the mixture
    of few: it falls as N grows, so N is part of the protocol. Chen et al. (2018, arXiv:1802.04942, equation
    2) with the reference points in the place of a minibatch. Time and N D numbers at once grow with N^2 D:
    2,000 images are plenty.

    Args:
        posterior: q(z|x_n), batch [N], independent over the D variables of one event.
        num_samples: Draws of z per image.

    Raises:
        UsageError: If there are fewer than two images, no draw is asked for, or the variables depend.
    """
    n = _count(posterior, num_samples)
    factorises = isinstance(posterior, Independent) and posterior.reinterpreted_batch_ndims == 1
    require(factorises, f"posterior must be independent over its variables, got {type(posterior).__name__}")
    z = posterior.sample(torch.Size([num_samples])).transpose(0, 1)
    rows = max(1, PAIRS_AT_ONCE // z[0].numel() // n)
    terms = []
    for part in z.split(rows):
        log_q = posterior.base_dist.log_prob(part.unsqueeze(2)).double()
        terms.append((log_mean_exp(log_q.sum(-1), 2) - log_mean_exp(log_q, 2).sum(-1)).mean(1))
    return mean_and_error(_finite(torch.cat(terms)))


def outlier_auroc(inliers: Rows, outliers: Rows) -> Estimate:
    """Chance that an inlier scores higher than an outlier, a tie counting half, and its standard error.

    The error is that of DeLong, DeLong and Clarke-Pearson (1988), from ranks as in Sun and Xu (2014): over
    the draw of both sets.

    Args:
        inliers: Scores [N], higher for more usual images, such as log p(x) or minus an energy.
        outliers: Scores [M].

    Raises:
        UsageError: If a set has fewer than two scores or a score is NaN.
    """
    scores = {"inliers": _scores("inliers", inliers), "outliers": _scores("outliers", outliers)}
    n, m = (len(values) for values in scores.values())
    ranks = rankdata(np.concatenate([*scores.values()]))
    below = (ranks[:n] - rankdata(scores["inliers"])) / m
    above = 1 - (ranks[n:] - rankdata(scores["outliers"])) / n
    return Estimate(float(below.mean()), math.sqrt(below.var(ddof=1) / n + above.var(ddof=1) / m))


def _scores(name: str, values: Rows) -> np.ndarray:
    scores = np.asarray(torch.as_tensor(values).detach().cpu().double())
    enough = scores.ndim == 1 and len(scores) > 1
    require(enough, f"{name} must be at least two scores [N], got shape {scores.shape}")
    bad = int(np.isnan(scores).sum())
    require(bad == 0, f"{name} must not be NaN, got {bad} of {len(scores)}")
    return scores


def _codes(name: str, codes: Rows) -> np.ndarray:
    x = np.asarray(torch.as_tensor(codes).detach().cpu().double())
    require(x.ndim == 2 and x.size > 0, f"{name} must be [N, D], got shape {x.shape}")
    bad = int((~np.isfinite(x)).any(1).sum())
    require(bad == 0, f"{name} must be finite, got {bad} of {len(x)} rows with NaN or infinite values")
    return x


def _labels(name: str, y: Rows, n: int) -> np.ndarray:
    labels = np.asarray(torch.as_tensor(y).detach().cpu())
    require(labels.shape == (n,), f"{name} must be one label for each of {n} rows, got shape {labels.shape}")
    require(labels.dtype.kind in "iu", f"{name} must be integers, got {labels.dtype}")
    unknown = int((labels < 0).sum())
    require(unknown == 0, f"{name} must be known labels, got {unknown} of {n} below 0")
    return labels


def _two_classes(name: str, labels: np.ndarray) -> None:
    classes = np.unique(labels)
    require(len(classes) > 1, f"{name} must hold at least two classes, got {classes.tolist()}")


def _same_width(x: np.ndarray, other: np.ndarray) -> None:
    require(x.shape[1] == other.shape[1], f"codes must have one width, got {x.shape[1]} and {other.shape[1]}")


def _spread(n: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, NUM_TRAIN)).astype(np.int64)


def _problem(train_codes: Rows, train_y: Rows, test_codes: Rows, test_y: Rows) -> tuple[np.ndarray, ...]:
    x, x_test = _codes("train_codes", train_codes), _codes("test_codes", test_codes)
    _same_width(x, x_test)
    y, y_test = _labels("train_y", train_y, len(x)), _labels("test_y", test_y, len(x_test))
    rows = _spread(len(x))
    _two_classes("train_y", y[rows])
    return x[rows], y[rows], x_test, y_test


def _part(hits: Any, n: int) -> Estimate:
    return proportion(torch.arange(n) < int(hits))


def _count(posterior: Distribution, num_samples: int) -> int:
    batch = tuple(posterior.batch_shape)
    require(len(batch) == 1 and batch[0] > 1, f"posterior must be that of at least two images, got {batch}")
    require(num_samples >= 1, f"num_samples must be at least 1, got {num_samples}")
    return batch[0]


def _finite(terms: Tensor) -> Tensor:
    n = terms.shape[-1]
    bad = int((~terms.isfinite()).reshape(-1, n).any(0).sum())
    require(bad == 0, f"log-probabilities of codes must be finite, got {bad} of {n} images where one is not")
    return terms
