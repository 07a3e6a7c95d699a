"""Measures of two sets of features, each against a closed form, brute force or another library."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from zoo.errors import UsageError
from zoo.scores import metrics
from zoo.scores.metrics import (
    Estimate,
    Moments,
    Neighbourhoods,
    fid,
    frechet,
    inception_score,
    kid,
    mean_and_error,
    moments,
    neighbourhoods,
    proportion,
    root,
    share_interval,
    wilson,
)


def orthogonal(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]


def shifted(n, d=8, shift=0.3):
    """Draws of a correlated Gaussian that is not the standard one."""
    mixing = torch.eye(d) + 0.3 * torch.randn(d, d, generator=torch.Generator().manual_seed(5))
    return torch.randn(n, d) @ mixing + shift


def numbers_of(result):
    """A flat list of what a metric computes."""
    return [float(v) for v in torch.tensor([result], dtype=torch.float64).flatten()]


# --- shares and means


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (359, 1000), (1, 1), (9_999, 10_000)])
def test_wilson_is_scipys_interval(hits, n):
    expected = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-7)
    low, high = wilson(hits / n, n)
    assert 0 <= low <= hits / n <= high + 1e-12 <= 1 + 1e-12


def test_wilson_of_81_in_263():
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I


def test_share_by_hand():
    hits = torch.tensor([True, True, True, False])
    assert proportion(hits) == pytest.approx((0.75, math.sqrt(0.75 * 0.25 / 4)))
    assert proportion(torch.ones(7, dtype=torch.bool)) == (1.0, 0.0)


def test_mean_and_error_by_hand_and_of_one_value():
    assert mean_and_error(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx((3.0, math.sqrt(7 / 3)))
    assert mean_and_error(torch.tensor([2.5])) == (2.5, math.inf)


def test_means_accumulate_in_float64():
    assert mean_and_error(torch.full((100_000,), 0.1)).value == float(torch.tensor(0.1))


# --- FID


def closed_form():
    """Two Gaussians with diagonal covariances in five dimensions, and their distance."""
    first = torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0], [0.5, 2.0, 1.0, 4.0, 0.01]], dtype=torch.float64)
    second = torch.tensor([[0.0, -1.0, 0.5, 2.0, 3.5], [1.5, 0.3, 1.0, 9.0, 2.0]], dtype=torch.float64)
    distance = (first[0] - second[0]).square().sum() + (first[1].sqrt() - second[1].sqrt()).square().sum()
    return first, second, float(distance)


def test_frechet_of_diagonal_covariances_is_the_closed_form_in_any_basis():
    first, second, expected = closed_form()
    for turn in (torch.eye(5, dtype=torch.float64), *(orthogonal(5) for _ in range(5))):
        one, two = (Moments(turn @ m, turn @ v.diag() @ turn.T) for m, v in (first, second))
        assert frechet(one, two) == pytest.approx(expected, abs=1e-8)
        assert frechet(two, one) == pytest.approx(expected, abs=1e-8)


def test_fid_of_200_000_draws_is_within_one_percent_of_the_closed_form():
    first, second, expected = closed_form()
    real, fake = (m + v.sqrt() * torch.randn(200_000, 5, dtype=torch.float64) for m, v in (first, second))
    value, error = fid(real, fake)
    assert value == pytest.approx(expected, rel=0.01)
    assert abs(value - expected) < 4 * error
    assert error < 0.01 * expected


@pytest.mark.parametrize("rank", [64, 10])
def test_frechet_is_scipys_square_root(rank):
    one, two = (moments(torch.randn(300, rank) @ torch.randn(rank, 64) + 1) for _ in range(2))
    value = frechet(one, two)
    product = one.covariance.numpy() @ two.covariance.numpy()
    with np.errstate(all="ignore"):
        trace = np.trace(scipy.linalg.sqrtm(product + (0 if rank == 64 else 1e-9 * np.eye(64)))).real
    expected = float((one.mean - two.mean).square().sum() + one.covariance.trace() + two.covariance.trace())
    expected -= 2 * trace
    assert math.isfinite(value)
    assert value >= -1e-6
    assert value == pytest.approx(expected, rel=1e-6 if rank == 64 else 1e-3)


def test_fid_of_singular_sets_with_themselves_is_zero():
    features = torch.randn(100, 10) @ torch.randn(10, 64)
    value, error = fid(features, features)
    assert abs(value) < 1e-6
    assert math.isfinite(error)


def test_moments_are_numpys():
    features = torch.randn(40, 6)
    found = moments(features)
    np.testing.assert_allclose(found.mean.numpy(), features.double().numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(features.double().numpy().T), atol=1e-12)


def test_the_root_squared_is_the_matrix():
    matrix = moments(torch.randn(40, 6)).covariance
    torch.testing.assert_close(root(matrix) @ root(matrix), matrix)
    torch.testing.assert_close(root(matrix), root(matrix).T)


def test_fid_does_not_see_translations_and_rotations_and_is_symmetric():
    real, fake = torch.randn(400, 8).double(), shifted(400).double()
    plain = fid(real, fake)
    turn, shift = orthogonal(8), 1000 * torch.randn(8, dtype=torch.float64)
    assert fid(real @ turn + shift, fake @ turn + shift) == pytest.approx(plain, rel=1e-7)
    assert fid(fake, real) == pytest.approx(plain, rel=1e-9)
    assert fid(3 * real, 3 * fake) == pytest.approx((9 * plain.value, 9 * plain.error), rel=1e-9)


@pytest.mark.parametrize("size", [400, 25, 401])
def test_the_error_of_fid_is_a_jackknife_of_blocks_left_out(size):
    real, fake = torch.randn(500, 8), shifted(size)
    variance = 0.0
    for which in (real, fake):
        parts = []
        blocks = np.array_split(np.arange(len(which)), 20)
        for block in blocks:
            kept = which[np.setdiff1d(np.arange(len(which)), block)]
            one, two = (kept, fake) if which is real else (real, kept)
            parts.append(frechet(moments(one), moments(two)))
        variance += 19 * np.var(parts)
    assert fid(real, fake).error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (4, 5), (0, 5), (2, 1)])
def test_fid_of_too_few_images_is_refused(rows, columns):
    rule = f"FID needs more images than the {columns} features, and at least 3, got {rows}"
    with pytest.raises(UsageError, match=rule):
        fid(torch.randn(rows, columns), torch.randn(50, columns))
    with pytest.raises(UsageError, match=rule):
        fid(torch.randn(50, columns), torch.randn(rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(3, 1), (3, 2), (7, 6), (21, 20)])
def test_fid_of_barely_enough_images_is_finite(rows, columns):
    assert all(math.isfinite(v) for v in fid(torch.randn(rows, columns), torch.randn(rows, columns)))


def spread(measure, real, fake, redraw, times):
    """Mean, standard deviation and reported error of a metric over new draws of some of its sets."""
    fixed = real(), fake()
    found = [
        measure(real() if "real" in redraw else fixed[0], fake() if "fake" in redraw else fixed[1])
        for _ in range(times)
    ]
    values, errors = np.array(found).T
    return values, values.std(ddof=1), errors.mean()


def test_the_error_of_fid_is_its_spread():
    _, deviation, error = spread(
        fid, lambda: torch.randn(500, 8), lambda: shifted(500), ("real", "fake"), 200
    )
    assert 0.8 < error / deviation < 1.25  # four standard errors of the ratio: 0.05 + 0.16 / sqrt(200)


@pytest.mark.parametrize("redraw", ["real", "fake"])
def test_the_error_of_fid_covers_the_spread_of_either_set(redraw):
    _, deviation, error = spread(fid, lambda: torch.randn(500, 8), lambda: shifted(500), (redraw,), 60)
    assert error > 0.95 * deviation


def test_one_set_alone_explains_its_own_part_of_the_error_of_fid():
    """A set so large that it is as good as known leaves the other's spread."""
    real = torch.randn(100_000, 8)
    _, deviation, error = spread(fid, lambda: real, lambda: shifted(500), ("fake",), 60)
    assert 0.7 < error / deviation < 1.35


def test_the_error_of_fid_is_not_too_small_where_both_sets_have_one_distribution():
    _, deviation, error = spread(
        fid, lambda: torch.randn(400, 8), lambda: torch.randn(400, 8), ("real", "fake"), 100
    )
    assert 1.0 < error / deviation < 1.9  # sqrt(2): the first-order term that the jackknife counts on is 0


# --- KID


def kernel(a, b):
    return (float(a @ b) / len(a) + 1) ** 3


def brute_kid(x, y):
    """The unbiased squared MMD, pair by pair."""
    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_kid_is_the_sum_over_pairs():
    x, y = torch.randn(50, 4).double(), shifted(43, 4).double()
    assert kid(x, y).value == pytest.approx(brute_kid(x, y), rel=1e-10)


def test_the_error_of_kid_is_a_jackknife_of_images_left_out():
    x, y = torch.randn(9, 3).double(), shifted(7, 3).double()
    rows = torch.arange(9)
    without_x = [brute_kid(x[rows != i], y) for i in range(9)]
    without_y = [brute_kid(x, y[rows[:7] != j]) for j in range(7)]
    variance = 8 * np.var(without_x) + 6 * np.var(without_y)
    assert kid(x, y).error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kid_is_unbiased_and_may_be_negative_where_both_sets_have_one_distribution():
    draw = lambda: torch.randn(100, 8)  # noqa: E731
    values, deviation, error = spread(kid, draw, draw, ("real", "fake"), 600)
    assert abs(values.mean()) < 3 * deviation / math.sqrt(600)
    assert (values < 0).mean() > 0.3
    assert 1.2 < error / deviation < 1.65  # sqrt(2), see `kid`


@pytest.mark.parametrize(("real", "fake"), [(200, 200), (60, 400)])
def test_the_error_of_kid_is_its_spread(real, fake):
    _, deviation, error = spread(
        kid, lambda: torch.randn(real, 8), lambda: shifted(fake), ("real", "fake"), 400
    )
    assert 0.8 < error / deviation < 1.2


def test_kid_is_symmetric_and_grows_with_the_distance():
    x = torch.randn(80, 5)
    assert kid(x, shifted(70, 5)).value > 0
    values = [kid(x, x[:40] + shift).value for shift in (0.5, 1.0, 2.0)]
    assert all(a < b for a, b in pairwise(values))
    y = shifted(70, 5)
    assert kid(x, y) == pytest.approx(kid(y, x), rel=1e-9)


@pytest.mark.parametrize(("m", "n"), [(2, 10), (10, 2), (0, 10), (10, 0)])
def test_kid_of_too_few_images_is_refused(m, n):
    with pytest.raises(UsageError, match=f"KID needs at least 3 images on each side, got {m} and {n}"):
        kid(torch.randn(m, 4), torch.randn(n, 4))


# --- inception score


def one_hot(labels, classes):
    return nn.functional.one_hot(labels, classes).double().log()


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_score_of_certain_and_balanced_predictions_is_the_number_of_classes(classes):
    labels = torch.arange(classes).repeat(20)
    value, error = inception_score(one_hot(labels, classes), splits=1)
    assert value == pytest.approx(classes, rel=1e-12)
    assert error == math.inf  # one split says nothing of the spread


def test_the_score_of_uniform_predictions_and_of_a_single_class_is_one():
    uniform = torch.full((50, 10), -math.log(10), dtype=torch.float64)
    assert inception_score(uniform) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert inception_score(one_hot(torch.full((50,), 3), 10)) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_the_score_of_half_the_classes():
    labels = torch.arange(5).repeat(30)
    assert inception_score(one_hot(labels, 10), splits=1).value == pytest.approx(5)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("n", [10, 13, 400])
def test_the_score_lies_between_one_and_the_number_of_classes(sharpness, n):
    log_probs = (sharpness * torch.randn(n, 7)).log_softmax(-1)
    for splits in (1, 2, 10):
        value, error = inception_score(log_probs, splits)
        assert 1 - 1e-6 <= value <= 7 + 1e-6
        assert error >= 0


def test_the_score_is_the_exponential_of_the_mean_divergence_from_the_marginal():
    probs = (2 * torch.randn(60, 4, dtype=torch.float64)).softmax(-1)
    divergence = scipy.stats.entropy(probs.numpy(), probs.mean(0, keepdim=True).numpy(), axis=1)
    assert inception_score(probs.log(), 1).value == pytest.approx(math.exp(divergence.mean()), rel=1e-12)


def test_splits_are_shuffled_averaged_and_give_the_error():
    labels = torch.arange(10).repeat_interleave(100)  # in order: unshuffled, every split holds one class
    log_probs = one_hot(labels, 10)
    value, error = inception_score(log_probs)
    assert 9 < value < 10
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    parts = [inception_score(part, 1).value for part in log_probs[order].tensor_split(10)]
    assert value == pytest.approx(np.mean(parts))
    assert error == pytest.approx(np.std(parts, ddof=1) / math.sqrt(10))


def test_the_score_leaves_the_random_stream_alone():
    before = torch.get_rng_state()
    inception_score(torch.randn(30, 4).log_softmax(-1))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randn(30, 4)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(("n", "splits"), [(9, 10), (0, 10), (5, 0)])
def test_a_score_of_too_few_images_is_refused(n, splits):
    with pytest.raises(UsageError, match=f"the inception score needs at least {splits} images, got {n}"):
        inception_score(torch.zeros(n, 4), splits)


# --- neighbourhoods


def brute_points(x, y):
    """What precision and density count of every fake, and recall and coverage of every real image."""

    def radius(points, i, k):
        return sorted(math.dist(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    x, y = x.tolist(), y.tolist()
    near, wide = ([radius(x, i, k) for i in range(len(x))] for k in (3, 5))
    fake_near = [radius(y, j, 3) for j in range(len(y))]
    precise = [any(math.dist(f, r) <= near[i] for i, r in enumerate(x)) for f in y]
    recalled = [any(math.dist(f, r) <= fake_near[j] for j, f in enumerate(y)) for r in x]
    counts = [sum(math.dist(f, r) <= wide[i] for i, r in enumerate(x)) / 5 for f in y]
    covered = [any(math.dist(f, r) <= wide[i] for f in y) for i, r in enumerate(x)]
    return precise, recalled, counts, covered


def brute_neighbourhoods(x, y):
    """Precision, recall, density and coverage, distance by distance."""
    return [float(np.mean(part)) for part in brute_points(x, y)]


@pytest.mark.parametrize(("m", "n", "shift"), [(40, 40, 0.0), (7, 60, 1.0), (60, 7, 1.5), (50, 31, 3.0)])
def test_neighbourhoods_are_counted_by_hand(m, n, shift):
    x, y = torch.randn(m, 3).double(), (1.5 * torch.randn(n, 3) + shift).double()
    found = neighbourhoods(x, y)
    assert [e.value for e in found] == pytest.approx(brute_neighbourhoods(x, y), abs=1e-12)


@pytest.mark.parametrize(("m", "n", "shift"), [(41, 52, 0.5), (7, 30, 0.0), (30, 7, 1.0), (21, 45, 2.0)])
def test_the_errors_of_neighbourhoods_are_a_jackknife_of_blocks_left_out(m, n, shift):
    x, y = torch.randn(m, 2).double(), (1.2 * torch.randn(n, 2) + shift).double()
    rows = np.arange(m), np.arange(n)
    kept = [[np.setdiff1d(r, block) for block in np.array_split(r, min(20, len(r)))] for r in rows]
    without_real, without_fake = (
        [brute_points(x[k], y) for k in kept[0]],
        [brute_points(x, y[k]) for k in kept[1]],
    )
    for i, found in enumerate(neighbourhoods(x, y)):
        balls, points = (without_real, without_fake) if i in (0, 2) else (without_fake, without_real)
        parts = np.array([np.asarray(part[i], float) for part in balls])  # the points are all there
        variance = (len(balls) - 1) * np.var(parts.mean(1))
        changes = parts - parts.mean(0)
        twice = (1 - 1 / len(balls)) * sum(np.var(change, ddof=1) for change in changes) / parts.shape[1]
        variance = max(0.0, variance - twice)
        variance += (len(points) - 1) * np.var([np.mean(part[i]) for part in points])
        assert found.error == pytest.approx(math.sqrt(variance), abs=1e-12), found


def test_the_neighbours_of_an_image_may_all_be_of_its_block():
    """In order along a line, an image's neighbours leave with its block or the next."""
    x = (torch.arange(160.0) + torch.rand(160)).unsqueeze(1).double()
    near, far = metrics._radii(x, (3, 5))
    for k, radii in ((3, near), (5, far)):
        for b in (*range(20), None):
            distance = (x - x.T).square().fill_diagonal_(math.inf)
            distance[:, torch.arange(160) // 8 == b] = math.inf
            expected = distance.sort(1).values[:, k - 1]
            torch.testing.assert_close(radii[:, 20 if b is None else b], expected, rtol=1e-9, atol=1e-9)


def test_balls_are_closed():
    """On a line of integers every third neighbour lies on the edge of some ball."""
    x = torch.arange(-8.0, 9.0).unsqueeze(1)
    y = torch.tensor([-10.0, -9.0, 0.0, 9.0, 10.0, 11.0, 13.0, 14.0]).unsqueeze(1)
    for real, fake in ((x, y), (y, x)):
        values = [e.value for e in neighbourhoods(real, fake)]
        assert values == pytest.approx(brute_neighbourhoods(real, fake), abs=1e-12)
    precise = neighbourhoods(x, y).precision.value
    assert precise == 6 / 8  # 11 is on the edge of the end point's ball, 13 is outside


def test_sets_of_one_distribution_have_density_1_and_coverage_31_of_32():
    found = [neighbourhoods(torch.randn(400, 3), torch.randn(400, 3)) for _ in range(40)]
    values = np.array([[e.value for e in n] for n in found])
    mean, deviation = values.mean(0), values.std(0, ddof=1) / math.sqrt(40)
    assert abs(mean[2] - 1) < 4 * deviation[2]
    expected = 1 - math.prod((400 - i) / (800 - 1 - i) for i in range(5))
    assert abs(mean[3] - expected) < 4 * deviation[3]
    assert expected == pytest.approx(1 - 2**-5, abs=1e-3)
    assert abs(mean[0] - mean[1]) < 4 * (deviation[0] + deviation[1])


def test_disjoint_supports_share_nothing():
    found = neighbourhoods(torch.rand(100, 4), torch.rand(80, 4) + 10)
    assert [e.value for e in found] == [0.0, 0.0, 0.0, 0.0]


def test_a_support_inside_the_real_one_is_precise_and_recalls_little():
    found = neighbourhoods(torch.rand(500, 2), 0.4 + 0.1 * torch.rand(300, 2))
    assert found.precision.value == 1.0
    assert found.recall.value < 0.05
    assert found.coverage.value < 0.1
    assert found.density.value > 0.8


def test_a_support_around_the_real_one_recalls_all_and_is_imprecise():
    found = neighbourhoods(0.4 + 0.1 * torch.rand(300, 2), torch.rand(500, 2))
    assert found.recall.value > 0.9
    assert found.precision.value < 0.1


def test_a_collapsed_generator_is_precise_and_covers_nothing():
    real = torch.randn(500, 3)
    found = neighbourhoods(real, 0.001 * torch.randn(500, 3))
    assert found.precision.value > 0.95
    assert found.recall.value < 0.01
    assert found.coverage.value < 0.1


@pytest.mark.parametrize("place", [0.0, 0.7, 1e6])
def test_identical_fakes_give_defined_values(place):
    real, fake = torch.randn(100, 4), torch.full((100, 4), place)
    found = [fid(real, fake), kid(real, fake), *neighbourhoods(real, fake)]
    assert all(math.isfinite(v) for e in found for v in e)
    assert all(0 <= e.value <= 1 for e in (found[2], found[3], found[5]))
    assert found[3].value == 0.0
    assert found[0].value == pytest.approx(
        float((fake.double().mean(0) - real.double().mean(0)).square().sum() + real.double().var(0).sum()),
        rel=1e-6,
    )


def test_sets_that_are_one_point_have_no_distance():
    same = torch.full((30, 4), 0.7)
    assert fid(same, same) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert kid(same, same) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert all(math.isfinite(v) for e in neighbourhoods(same, same) for v in e)


@pytest.mark.parametrize(("m", "n"), [(6, 50), (50, 6), (0, 50), (50, 0)])
def test_neighbourhoods_of_too_few_images_are_refused(m, n):
    with pytest.raises(UsageError, match="neighbourhoods need more than 6 images on each side, got"):
        neighbourhoods(torch.randn(m, 4), torch.randn(n, 4))


def test_neighbourhoods_do_not_see_translations_rotations_and_scales():
    x, y = torch.randn(90, 4).double(), torch.randn(80, 4).double() + 0.5
    plain = neighbourhoods(x, y)
    turn = orthogonal(4)
    assert neighbourhoods(3 * x @ turn + 1e7, 3 * y @ turn + 1e7) == plain


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 0.5), (0.6, 0.0)])
def test_the_intervals_of_neighbourhoods_cover_their_mean_when_both_sets_are_redrawn(scale, shift):
    found = [neighbourhoods(torch.randn(300, 8), torch.randn(300, 8) * scale + shift) for _ in range(40)]
    for name in Neighbourhoods._fields:
        values, errors = np.array([getattr(n, name) for n in found]).T
        assert 0.7 < errors.mean() / values.std(ddof=1) < 1.8, name
        spans = np.array([share_interval(getattr(n, name), 300) for n in found])
        if name == "density":
            spans = np.stack([values - 1.96 * errors, values + 1.96 * errors], 1)
        inside = (spans[:, 0] <= values.mean()) & (values.mean() <= spans[:, 1])
        assert inside.mean() >= 0.85, name


def test_the_errors_know_the_balls_of_outliers_that_hold_much_or_nothing():
    """Tenths of heavy-tailed sets agree too well: the errors from them were 0.38 of the spread."""
    torch.manual_seed(3)
    scales, mixing = torch.logspace(0, -2, 16), torch.randn(16, 16)
    draws = torch.distributions.StudentT(3.0)
    found = [
        neighbourhoods(*(size * draws.sample((200, 16)) * scales @ mixing for size in (1, 4)))
        for _ in range(40)
    ]
    for name in ("precision", "density"):
        values, errors = np.array([getattr(n, name) for n in found]).T
        assert 0.7 < errors.mean() / values.std(ddof=1) < 1.5, name
        assert (abs(values - values.mean()) < 1.96 * errors).mean() >= 0.8, name


def test_the_interval_of_a_share_is_never_narrower_than_wilsons_and_stays_in_the_unit_interval():
    assert share_interval(Estimate(0.0, 0.0), 100) == wilson(0.0, 100)
    assert share_interval(Estimate(1.0, 0.0), 100) == wilson(1.0, 100)
    low, high = share_interval(Estimate(0.5, 0.1), 1000)
    assert (low, high) == pytest.approx((0.5 - 0.1959964, 0.5 + 0.1959964))
    assert share_interval(Estimate(0.9, 0.2), 1000)[1] == 1.0


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunks_change_nothing(rows, monkeypatch):
    x, y = torch.randn(70, 4), shifted(45, 4)
    whole = kid(x, y), neighbourhoods(x, y)
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", rows)
    assert kid(x, y) == pytest.approx(whole[0], rel=1e-9)
    assert numbers_of(neighbourhoods(x, y)) == pytest.approx(numbers_of(whole[1]), abs=1e-12)
