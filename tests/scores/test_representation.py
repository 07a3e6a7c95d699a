"""Probes, clusters, the two parts of the rate, and outliers: counts by hand, quadrature, closed forms."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from torch.distributions import Distribution, Independent, Normal

from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.parts import estimators
from zoo.parts.distributions.gaussians import diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.scores import representation
from zoo.scores.representation import (
    aggregate_posterior,
    clustering,
    kmeans_clusters,
    knn_accuracy,
    linear_probe,
    outlier_auroc,
    total_correlation,
)

CPU = torch.device("cpu")
POINTS, SCALES = (-2.0, 0.3, 1.5), (0.5, 0.2, 0.9)


def two_blobs(n, distance, dims=4):
    y = torch.arange(n) % 2
    codes = torch.randn(n, dims)
    codes[:, 0] += distance * (y - 0.5)
    return codes, y


def digit_codes():
    data = Digits(binarize="none")
    return [(batch.x.flatten(1), batch.y) for batch in (data.split("train"), data.split("test"))]


# Probes


def test_the_probe_reaches_the_accuracy_of_the_best_rule_for_two_gaussians():
    distance = 2.0
    value, error = linear_probe(*two_blobs(4000, distance), *two_blobs(8000, distance))
    best = float(Normal(0.0, 1.0).cdf(torch.tensor(distance / 2)))
    assert value == pytest.approx(best, abs=0.012)
    assert error == pytest.approx(math.sqrt(value * (1 - value) / 8000))


def test_the_probe_does_not_depend_on_the_scale_of_the_codes_and_survives_dead_ones():
    train, y = two_blobs(500, 3.0)
    test, y_test = two_blobs(500, 3.0)
    plain = linear_probe(train, y, test, y_test)
    scale, shift = torch.tensor([1e-4, 1e4, 3.0, 1e-3]), torch.tensor([0.0, -1.0, 0.0, 100.0])
    assert linear_probe(train * scale + shift, y, test * scale + shift, y_test) == plain
    dead = torch.full((500, 3), 0.1)
    assert linear_probe(torch.cat([train, dead], 1), y, torch.cat([test, dead], 1), y_test) == plain


def test_the_probe_of_uninformative_codes_guesses():
    y = torch.arange(3000) % 3
    assert linear_probe(torch.randn(3000, 5), y, torch.randn(3000, 5), y).value == pytest.approx(
        1 / 3, abs=0.04
    )


def test_the_probe_reads_digits_and_takes_arrays():
    (train, y), (test, y_test) = digit_codes()
    value = linear_probe(train, y, test, y_test).value
    assert value > 0.87
    assert linear_probe(train.numpy(), y.numpy(), test.numpy(), y_test.numpy()).value == value


def test_only_evenly_spaced_training_codes_are_used(monkeypatch):
    monkeypatch.setattr(representation, "NUM_TRAIN", 40)
    (train, y), (test, y_test) = digit_codes()
    order = y.argsort()
    train, y = train[order], y[order]
    rows = np.linspace(0, len(y) - 1, 40).astype(int)
    assert len(np.unique(y[rows])) == 10
    assert linear_probe(train, y, test, y_test) == linear_probe(train[rows], y[rows], test, y_test)
    assert knn_accuracy(train, y, test, y_test) == knn_accuracy(train[rows], y[rows], test, y_test)


def test_a_probe_that_does_not_converge_is_refused(monkeypatch):
    monkeypatch.setattr(representation, "PROBE_STEPS", 2)
    (train, y), (test, y_test) = digit_codes()
    with (
        pytest.warns(match="failed to converge"),
        pytest.raises(UsageError, match="the probe must converge in fewer than 2 steps, got 2"),
    ):
        linear_probe(train, y, test, y_test)


def test_neighbours_vote_as_counted_by_hand():
    train = torch.tensor([[0.0], [1.0], [2.1], [3.3], [4.6]])
    y = torch.tensor([4, 4, 2, 2, 2])
    test = torch.tensor([[0.1], [4.5], [1.2]])
    found = knn_accuracy(train, y, test, torch.tensor([4, 2, 4]), ks=(1, 2, 3, 5))
    assert {k: round(3 * value.value) for k, value in found.items()} == {1: 3, 2: 2, 3: 3, 5: 1}


def test_neighbours_agree_with_the_classifier_of_every_k():
    (train, y), (test, y_test) = digit_codes()
    train, test = train + 0.01 * torch.randn_like(train), test + 0.01 * torch.randn_like(test)
    found = knn_accuracy(train, y + 3, test, y_test + 3)
    assert list(found) == [3, 5, 10]
    for k, (value, error) in found.items():
        reference = KNeighborsClassifier(k, algorithm="brute").fit(train.double().numpy(), y)
        assert value == pytest.approx(reference.score(test.double().numpy(), y_test), abs=1e-12)
        assert error == pytest.approx(math.sqrt(value * (1 - value) / len(y_test)))


@pytest.mark.parametrize("ks", [(), (0, 3), (3, 7)])
def test_impossible_numbers_of_neighbours_are_refused(ks):
    codes, y = two_blobs(6, 1.0)
    with pytest.raises(UsageError, match="ks must lie between 1 and the 6 training codes, got"):
        knn_accuracy(codes, y, codes, y, ks=ks)


@pytest.mark.parametrize("measure", [linear_probe, knn_accuracy])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_codes": torch.full((8, 2), math.nan)},
            "train_codes must be finite, got 8 of 8 rows with NaN",
        ),
        ({"test_codes": torch.full((4, 2), math.inf)}, "test_codes must be finite, got 4 of 4 rows with NaN"),
        ({"test_codes": torch.zeros(4, 3)}, "codes must have one width, got 2 and 3"),
        ({"train_codes": torch.zeros(8)}, r"train_codes must be \[N, D\], got shape \(8,\)"),
        ({"train_y": torch.arange(7)}, r"train_y must be one label for each of 8 rows, got shape \(7,\)"),
        ({"test_y": torch.arange(5)}, r"test_y must be one label for each of 4 rows, got shape \(5,\)"),
        ({"test_y": torch.tensor([0, -1, 1, -1])}, "test_y must be known labels, got 2 of 4 below 0"),
        ({"train_y": torch.ones(8)}, "train_y must be integers, got float32"),
        ({"train_y": torch.full((8,), 3)}, r"train_y must hold at least two classes, got \[3\]"),
    ],
)
def test_unusable_codes_and_labels_are_refused(measure, change, message):
    sets = {"train_codes": torch.randn(8, 2), "train_y": torch.arange(8) % 2}
    sets |= {"test_codes": torch.randn(4, 2), "test_y": torch.arange(4) % 2}
    with pytest.raises(UsageError, match=message):
        measure(**sets | change)


# Clusters


def test_the_three_accuracies_by_hand():
    """Clusters x classes: [[3, 1], [0, 2], [4, 0]]; the most confident examples of 0, 1, 2 are 1, 1, 0."""
    assigned = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    y = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    log_probs = torch.full((10, 3), -9.0)
    log_probs[torch.arange(10), assigned] = -0.5
    log_probs[3, 0] = log_probs[5, 1] = log_probs[8, 2] = -0.1
    found = clustering(log_probs, y)
    assert found.hungarian.value == pytest.approx(0.6)
    assert found.majority.value == pytest.approx(0.9)
    assert found.aae is not None
    assert found.aae.value == pytest.approx(0.7)
    assert found.aae.error == pytest.approx(math.sqrt(0.7 * 0.3 / 10))
    assert found.majority.error == pytest.approx(math.sqrt(0.9 * 0.1 / 10))
    assert found.used_clusters == 3
    assert clustering(assigned, y) == found._replace(aae=None)


@pytest.mark.parametrize("num_clusters", [2, 3, 5, 6])
def test_hungarian_and_majority_agree_with_all_matchings(num_clusters):
    """Four classes: fewer clusters, and more."""
    y = torch.randint(4, (60,))
    assigned = torch.where(torch.rand(60) < 0.6, y, torch.randint(6, (60,))) % num_clusters
    found = clustering(assigned, y)
    slots = [*range(4)] + [-1] * num_clusters  # a class each, or none
    matchings = {labels[:num_clusters] for labels in permutations(slots, min(num_clusters, len(slots)))}
    hits = [sum(labels[a] == b for a, b in zip(assigned, y, strict=True)) for labels in matchings]
    assert found.hungarian.value == pytest.approx(max(hits) / 60)
    majority = sum(int(y[assigned == c].bincount().max()) for c in assigned.unique())
    assert found.majority.value == pytest.approx(majority / 60)
    assert found.hungarian.value <= found.majority.value
    assert found.used_clusters == len(assigned.unique())


def test_perfect_and_permuted_clusters_are_perfect():
    y = torch.arange(40) % 4 + 3
    found = clustering((y * 7) % 11, y)
    assert (found.hungarian.value, found.majority.value, found.used_clusters) == (1.0, 1.0, 4)
    assert (found.nmi, found.ari) == pytest.approx((1.0, 1.0))


def test_names_of_clusters_and_of_classes_do_not_matter():
    y, log_probs = torch.randint(5, (200,)), torch.randn(200, 7).log_softmax(1)
    log_probs[torch.arange(200), y] += 1.0
    one = clustering(log_probs, y)
    two = clustering(log_probs[:, torch.randperm(7)], torch.tensor([9, 4, 0, 2, 7])[y])
    for value, other in zip(
        torch.tensor([*one[:3]]).flatten(), torch.tensor([*two[:3]]).flatten(), strict=True
    ):
        torch.testing.assert_close(value, other)
    assert one[3:] == pytest.approx(two[3:])


def test_one_cluster_holds_the_most_frequent_class():
    y = torch.tensor([0, 1, 1, 2, 1])
    found = clustering(torch.zeros(5, dtype=torch.int64), y)
    assert (found.hungarian.value, found.majority.value) == pytest.approx((0.6, 0.6))
    assert (found.nmi, found.ari, found.used_clusters) == (0.0, 0.0, 1)


def test_dividing_clusters_raises_majority_and_lowers_hungarian():
    y = torch.arange(300) % 3
    assigned = torch.where(torch.rand(300) < 0.7, y, torch.randint(3, (300,)))
    whole, halves = clustering(assigned, y), clustering(assigned * 2 + torch.arange(300) % 2, y)
    assert halves.majority.value >= whole.majority.value
    assert halves.hungarian.value < whole.hungarian.value


def test_normalised_information_by_hand():
    y = torch.tensor([0, 0, 1, 1])
    found = clustering(torch.tensor([0, 0, 1, 2]), y)
    assert found.nmi == pytest.approx(2 * math.log(2) / (math.log(2) + 1.5 * math.log(2)))


@pytest.mark.parametrize(
    ("clusters", "y", "message"),
    [
        (torch.full((4, 2), math.nan), [0, 1, 0, 1], "must be numbers below infinity, got 4 rows without"),
        (torch.tensor([[0.0, -math.inf], [-math.inf] * 2] * 2), [0, 1, 0, 1], "got 2 rows without"),
        (torch.zeros(4), [0, 1, 0, 1], "assignments must be integers from 0, got float32 from 0"),
        (torch.tensor([0, 1, -1, 0]), [0, 1, 0, 1], "assignments must be integers from 0, got int64 from -1"),
        (torch.zeros(4, 2, 2), [0, 1, 0, 1], r"clusters must be \[N\] or \[N, K\], got shape \(4, 2, 2\)"),
        (torch.zeros(3, 2), [0, 1, 0, 1], r"y must be one label for each of 3 rows, got shape \(4,\)"),
        (torch.zeros(4, 2), [0, -1, -1, 1], "y must be known labels, got 2 of 4 below 0"),
        (torch.zeros(4, 2), [5, 5, 5, 5], r"y must hold at least two classes, got \[5\]"),
    ],
)
def test_unusable_clusters_are_refused(clusters, y, message):
    with pytest.raises(UsageError, match=message):
        clustering(clusters, torch.tensor(y))


def test_impossible_cluster_is_no_error():
    log_probs = torch.tensor([[0.0, -math.inf, -9.0], [-9.0, -math.inf, 0.0]])
    assert clustering(log_probs, torch.tensor([0, 1])).used_clusters == 2


def test_k_means_find_three_blobs_and_their_most_central_examples():
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    y = torch.arange(300) % 3
    train, codes = centres[y] + torch.randn(300, 2), centres[y] + torch.randn(300, 2)
    log_probs = kmeans_clusters(train, codes, 3, 0)
    assert log_probs.dtype == torch.float64
    means = torch.stack([train[y == c].mean(0) for c in range(3)])
    squares = (codes.unsqueeze(1) - means).square().sum(-1).double()
    order = torch.cdist(centres, codes[log_probs.argmax(0)]).argmin(1)
    torch.testing.assert_close(-log_probs[:, order], squares, rtol=1e-4, atol=1e-4)
    found = clustering(log_probs, y)
    assert found.aae is not None
    assert (found.hungarian.value, found.majority.value, found.aae.value) == (1.0, 1.0, 1.0)


def test_k_means_are_a_function_of_their_seed():
    train, codes = torch.randn(200, 3), torch.randn(50, 3)
    one, same, other = (kmeans_clusters(train, codes, 8, seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_codes_of_a_collapsed_encoder_share_one_cluster():
    log_probs = kmeans_clusters(torch.ones(50, 3), torch.ones(20, 3), 5, 0)
    assert clustering(log_probs, torch.arange(20) % 2).used_clusters == 1


@pytest.mark.parametrize("k", [0, 51])
def test_impossible_numbers_of_means_are_refused(k):
    with pytest.raises(UsageError, match=f"k must lie between 1 and the 50 training codes, got {k}"):
        kmeans_clusters(torch.randn(50, 3), torch.randn(20, 3), k, 0)


# The two parts of the rate


def three_points(copies=1):
    mean, scale = (torch.tensor(v, dtype=torch.float64).repeat(copies).unsqueeze(1) for v in (POINTS, SCALES))
    return Independent(Normal(mean, scale), 1)


def by_quadrature():
    """Information, marginal KL and rate of the three points under N(0, 1), on a fine grid."""
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    q = Normal(torch.tensor(POINTS).double().unsqueeze(1), torch.tensor(SCALES).double().unsqueeze(1))
    log_q = q.log_prob(z)
    mixture = log_q.logsumexp(0) - math.log(3)
    log_p = Normal(torch.zeros((), dtype=torch.float64), 1.0).log_prob(z)
    width = float(z[1] - z[0])
    information = float((log_q.exp() * (log_q - mixture)).sum() * width / 3)
    marginal_kl = float((mixture.exp() * (mixture - log_p)).sum() * width)
    rate = float(torch.distributions.kl_divergence(q, Normal(torch.zeros(1), torch.ones(1))).mean())
    return information, marginal_kl, rate


def test_the_terms_of_three_points_agree_with_quadrature():
    information, marginal_kl, rate = by_quadrature()
    assert information + marginal_kl == pytest.approx(rate, abs=1e-6)
    found = aggregate_posterior(three_points(), standard_gaussian(1, CPU), num_samples=100_000)
    assert found.information.value == pytest.approx(information, abs=0.006)
    assert found.marginal_kl.value == pytest.approx(marginal_kl, abs=0.012)
    assert found.mean_kl.value == pytest.approx(rate, abs=0.012)
    assert found.cap == pytest.approx(math.log(3))


def test_errors_are_those_of_the_mean_over_images():
    """Copies of three points: the same mixture, so every run estimates the same three numbers."""
    runs = [aggregate_posterior(three_points(100), standard_gaussian(1, CPU)) for _ in range(60)]
    for term in ("marginal_kl", "mean_kl", "information"):
        values = torch.tensor([getattr(run, term) for run in runs], dtype=torch.float64)
        exact = dict(zip(("information", "marginal_kl", "mean_kl"), by_quadrature(), strict=True))[term]
        assert float(values[:, 0].mean()) == pytest.approx(
            exact, abs=4 * float(values[:, 1].mean()) / 60**0.5
        )
        assert 0.5 < float(values[:, 0].std() / values[:, 1].mean()) < 1.25


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_terms_add_up_on_the_same_draws(num_samples):
    posterior = diagonal_gaussian(torch.randn(40, 3), torch.randn(40, 3))
    found = aggregate_posterior(posterior, standard_gaussian(3, CPU), num_samples)
    total = found.information.value + found.marginal_kl.value
    assert total == pytest.approx(found.mean_kl.value, abs=1e-12)


def test_codes_far_apart_reach_the_cap_and_never_pass_it():
    posterior = diagonal_gaussian(100 * torch.arange(50.0).unsqueeze(1), torch.zeros(50, 1))
    found = aggregate_posterior(posterior, standard_gaussian(1, CPU))
    assert found.information.value == pytest.approx(math.log(50), abs=1e-9)
    assert found.information.value <= found.cap + 1e-12


def test_a_collapsed_posterior_carries_nothing():
    posterior = diagonal_gaussian(torch.zeros(30, 2), torch.zeros(30, 2))
    found = aggregate_posterior(posterior, standard_gaussian(2, CPU))
    assert [found.information.value, found.marginal_kl.value, found.mean_kl.value] == pytest.approx(
        [0, 0, 0], abs=1e-6
    )


def test_each_image_is_paired_with_its_own_posterior():
    """Sharp posteriors of very unequal width: a mixed-up pairing costs thousands of nats."""
    scale = torch.tensor([1e-3, 1.0]).repeat(20).unsqueeze(1)
    posterior = Independent(Normal(torch.arange(40.0).unsqueeze(1), scale), 1)
    found = aggregate_posterior(posterior, Independent(Normal(torch.zeros(1), 20 * torch.ones(1)), 1), 50)
    exact = torch.distributions.kl_divergence(posterior.base_dist, Normal(torch.zeros(1), 20.0)).mean()
    assert found.mean_kl.value == pytest.approx(float(exact), abs=0.1)


class Plain(Distribution):
    """A distribution that only its own `log_prob` can read."""

    arg_constraints = {}

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.inner.sample(sample_shape)

    def log_prob(self, value):
        return self.inner.log_prob(value)


def same_draws(posterior, prior, num_samples=2):
    torch.manual_seed(5)
    return torch.tensor([*aggregate_posterior(posterior, prior, num_samples)._replace(cap=(0.0, 0.0))])


@pytest.mark.parametrize("pairs", [1, 100, 5000, 2**20])
def test_matrix_products_broadcasting_and_chunks_agree(pairs, monkeypatch):
    posterior = diagonal_gaussian(3 * torch.randn(37, 4), torch.randn(37, 4))
    prior = standard_gaussian(4, CPU)
    whole = same_draws(posterior, prior)
    for module in (estimators, representation):
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    torch.testing.assert_close(same_draws(posterior, prior), whole, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(same_draws(Plain(posterior), prior), whole, rtol=1e-4, atol=1e-5)


def test_two_stochastic_layers_are_one_variable():
    """q(h1|x) q(h2|h1) with a linear Gaussian second layer, against the joint Gaussian on the same draws."""
    first = diagonal_gaussian(torch.randn(25, 2), torch.randn(25, 2))
    chain = Layers(first, lambda h: diagonal_gaussian(0.5 * h, torch.zeros_like(h)), (2, 2))
    found = aggregate_posterior(chain, standard_gaussian(4, CPU), 200)
    only_first = aggregate_posterior(first, standard_gaussian(2, CPU), 200)
    assert found.information.value == pytest.approx(only_first.information.value, abs=0.05)
    assert found.mean_kl.value == pytest.approx(found.information.value + found.marginal_kl.value)
    second_kl = 0.5 * (0.25 * (first.mean.square() + first.base_dist.variance)).sum(1).mean()
    assert found.mean_kl.value == pytest.approx(only_first.mean_kl.value + float(second_kl), abs=0.06)


def test_total_correlation_of_independent_and_of_tied_variables():
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)) * 20
    independent = Independent(Normal(grid, torch.ones(36, 2)), 1)
    assert total_correlation(independent, 20).value == pytest.approx(0.0, abs=1e-6)
    tied = Independent(Normal(20 * torch.arange(6.0).repeat(3, 1).T, torch.ones(6, 3)), 1)
    assert total_correlation(tied, 20).value == pytest.approx(2 * math.log(6), abs=1e-6)


def test_total_correlation_of_three_points_agrees_with_quadrature(monkeypatch):
    mean = torch.tensor([[-1.0, -1.0], [0.5, 0.7], [1.5, -0.5]], dtype=torch.float64)
    posterior = Independent(Normal(mean, 0.6), 1)
    z = torch.linspace(-6, 6, 601, dtype=torch.float64)
    log_q = Normal(mean[:, :, None], 0.6).log_prob(z)
    joint = (log_q[:, 0, :, None] + log_q[:, 1, None, :]).logsumexp(0) - math.log(3)
    one, two = log_q.logsumexp(0) - math.log(3)
    exact = float((joint.exp() * (joint - one[:, None] - two)).sum() * (z[1] - z[0]) ** 2)
    monkeypatch.setattr(representation, "PAIRS_AT_ONCE", 250_000)
    assert total_correlation(posterior, 40_000).value == pytest.approx(exact, abs=0.006)


def test_unusable_posteriors_are_refused():
    prior = standard_gaussian(2, CPU)
    one = diagonal_gaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(UsageError, match=r"posterior must be that of at least two images, got \(1,\)"):
        aggregate_posterior(one, prior)
    many = diagonal_gaussian(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(UsageError, match="num_samples must be at least 1, got 0"):
        aggregate_posterior(many, prior, 0)
    broken = diagonal_gaussian(torch.tensor([[0.0], [math.nan], [1.0]]), torch.zeros(3, 1))
    with pytest.raises(UsageError, match="log-probabilities of codes must be finite, got 3 of 3 images"):
        aggregate_posterior(broken, standard_gaussian(1, CPU))
    with pytest.raises(UsageError, match="log-probabilities of codes must be finite, got 3 of 3 images"):
        total_correlation(broken)


# Outliers


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0])
def test_two_gaussians_have_the_auroc_of_their_distance(distance):
    value, error = outlier_auroc(torch.randn(20_000) + distance, torch.randn(15_000))
    exact = float(Normal(0.0, 1.0).cdf(torch.tensor(distance / math.sqrt(2))))
    assert abs(value - exact) < 4 * error
    assert error < 0.004


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_auroc_agrees_with_all_pairs_and_the_library(levels):
    inliers, outliers = torch.randint(levels, (60,)) + levels // 4, torch.randint(levels, (45,))
    value, error = outlier_auroc(inliers, outliers)
    wins = (inliers[:, None] > outliers).double() + 0.5 * (inliers[:, None] == outliers)
    assert value == pytest.approx(float(wins.mean()), abs=1e-12)
    exact = wins.mean(1).var() / 60 + wins.mean(0).var() / 45
    assert error == pytest.approx(math.sqrt(exact), abs=1e-12)
    scores, labels = torch.cat([inliers, outliers]), torch.cat([torch.ones(60), torch.zeros(45)])
    assert value == pytest.approx(roc_auc_score(labels, scores))


def test_the_error_of_auroc_is_its_spread():
    runs = torch.tensor([outlier_auroc(torch.randn(50) + 1, torch.randn(30)) for _ in range(500)])
    assert float(runs[:, 0].std() / runs[:, 1].mean()) == pytest.approx(1.0, abs=0.12)


def test_constant_separated_and_swapped_scores():
    assert outlier_auroc(torch.zeros(9), torch.zeros(4)) == (0.5, 0.0)
    assert outlier_auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, -math.inf])) == (1.0, 0.0)
    inliers, outliers = torch.randn(30) + 1, torch.randn(20)
    one, two = outlier_auroc(inliers, outliers), outlier_auroc(outliers, inliers)
    assert one.value + two.value == pytest.approx(1.0)
    assert one.error == pytest.approx(two.error)


def test_only_the_order_of_scores_counts():
    inliers, outliers = torch.randn(30, dtype=torch.float64) + 1, torch.randn(20, dtype=torch.float64)
    plain = outlier_auroc(inliers, outliers)
    assert outlier_auroc((50 * inliers).exp(), (50 * outliers).exp()) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("inliers", "outliers", "message"),
    [
        (torch.tensor([1.0, math.nan]), torch.zeros(3), "inliers must not be NaN, got 1 of 2"),
        (torch.zeros(3), torch.tensor([math.nan, math.nan]), "outliers must not be NaN, got 2 of 2"),
        (torch.zeros(1), torch.zeros(3), r"inliers must be at least two scores \[N\], got shape \(1,\)"),
        (
            torch.zeros(3),
            torch.zeros(3, 1),
            r"outliers must be at least two scores \[N\], got shape \(3, 1\)",
        ),
    ],
)
def test_unusable_scores_are_refused(inliers, outliers, message):
    with pytest.raises(UsageError, match=message):
        outlier_auroc(inliers, outliers)
