"""The Parzen-window score: one kernel, a known density, brute force, and real images."""

import math
import resource

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from zoo.data.sets import MNIST, Digits
from zoo.errors import UsageError
from zoo.scores import parzen as module
from zoo.scores.metrics import mean_and_error
from zoo.scores.parzen import kernel_log_prob, parzen


def cloud(n, dims=5, scale=1.0, offset=0.0):
    return offset + scale * torch.randn(n, dims)


def brute_force(samples, images, sigma):
    """Every kernel by name, in float64."""
    kernels = Normal(samples.double().flatten(1), sigma)
    log_p = kernels.log_prob(images.double().flatten(1).unsqueeze(1)).sum(-1)
    return log_p.logsumexp(1) - math.log(len(samples))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 3.0])
def test_one_sample_is_one_gaussian(sigma):
    y, x = torch.rand(1, 1, 7, 9), torch.rand(20, 1, 7, 9)
    gaussian = Normal(y.double(), sigma).log_prob(x.double()).sum((1, 2, 3))
    torch.testing.assert_close(kernel_log_prob(y, x, [sigma])[0], gaussian, rtol=1e-12, atol=0)
    peak = kernel_log_prob(y, y, [sigma])
    assert float(peak) == pytest.approx(-63 / 2 * math.log(2 * math.pi * sigma**2), abs=1e-10)


def test_one_sample_scores_as_the_gaussian_of_the_chosen_sigma():
    y, validation, x = cloud(1, 3, 0.2), cloud(200, 3, 0.2), cloud(50, 3, 0.2)
    score = parzen(y, validation, x)
    exact = Normal(y.double(), score.sigma).log_prob(x.double()).sum(1)
    torch.testing.assert_close(score.log_prob, exact, rtol=1e-10, atol=1e-10)
    best = float((validation - y).square().mean().sqrt())
    assert score.sigma == pytest.approx(best, abs=0.005)


@pytest.mark.parametrize("sigma", [0.1, 0.17, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_every_sigma_agrees_with_brute_force_far_from_the_origin_too(sigma, offset):
    samples, images = cloud(70, offset=offset), cloud(30, offset=offset)
    log_prob = kernel_log_prob(samples, images, [0.5, sigma, 2.0])
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob[1], brute_force(samples, images, sigma), rtol=1e-9, atol=1e-9)


def test_a_sample_far_from_all_kernels_keeps_a_finite_score():
    samples, images = cloud(10), cloud(3, offset=1000.0)
    log_prob = kernel_log_prob(samples, images, [0.1])[0]
    torch.testing.assert_close(log_prob, brute_force(samples, images, 0.1), rtol=1e-9, atol=1e-9)


def test_a_hundred_thousand_draws_of_a_gaussian_give_its_density():
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.5]])
    truth = MultivariateNormal(torch.tensor([1.0, -2.0]), covariance)
    samples, validation, test = (truth.sample((n,)) for n in (100_000, 200, 300))
    score = parzen(samples, validation, test)
    assert float(score.log_prob.mean()) == pytest.approx(float(truth.log_prob(test).mean()), abs=0.02)
    assert 0.05 < score.sigma < 0.4


@pytest.mark.parametrize("pairs", [1, 70, 300, 10**9])
def test_chunks_change_nothing(pairs, monkeypatch):
    samples, images = cloud(70), cloud(31)
    whole = kernel_log_prob(samples, images, [0.3, 0.7])
    monkeypatch.setattr(module, "KERNELS_AT_ONCE", pairs)
    torch.testing.assert_close(kernel_log_prob(samples, images, [0.3, 0.7]), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("count", "blocks"), [(60, 20), (43, 20), (7, 20), (12, 3)])
def test_the_error_is_over_the_images_and_a_jackknife_of_blocks_of_samples(count, blocks):
    samples, validation, test = cloud(count, scale=0.2), cloud(100, scale=0.2), cloud(40, scale=0.2)
    score = parzen(samples, validation, test, blocks)
    parts = np.array_split(np.arange(count), min(blocks, count))
    kept = [samples[np.setdiff1d(np.arange(count), part)] for part in parts]
    values = [float(brute_force(others, test, score.sigma).mean()) for others in kept]
    variance = (len(parts) - 1) * np.var(values) + float(score.log_prob.var()) / 40
    assert score.mean == pytest.approx((float(score.log_prob.mean()), math.sqrt(variance)), rel=1e-9)


def test_the_error_is_the_spread_of_new_images_and_new_samples():
    """Over the images alone it was half of that."""
    validation = cloud(100, 20, 0.3)
    found = [parzen(cloud(60, 20, 0.3), validation, cloud(400, 20, 0.3)) for _ in range(60)]
    values, errors = np.array([score.mean for score in found]).T
    assert 0.8 < errors.mean() / values.std(ddof=1) < 1.4
    alone = np.mean([mean_and_error(score.log_prob).error for score in found])
    assert alone / values.std(ddof=1) < 0.7


def test_the_error_of_a_single_sample_cannot_be_told():
    assert parzen(cloud(1), cloud(100), cloud(5)).mean.error == math.inf


def test_a_block_far_from_the_others_is_left_out_exactly():
    """Its kernels are all of the mass: what is left without it would vanish in a difference."""
    samples = torch.cat((cloud(5, scale=0.01), cloud(5, scale=0.01, offset=40.0)))
    validation, test = cloud(100, scale=0.1), cloud(30, scale=0.01)
    score = parzen(samples, validation, test, 2)
    values = [float(brute_force(part, test, score.sigma).mean()) for part in samples.split(5)]
    assert score.mean.error == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-6)


def test_the_order_of_samples_and_of_images_does_not_matter():
    samples, validation, test = cloud(60, scale=0.2), cloud(100, scale=0.2), cloud(40, scale=0.2)
    score = parzen(samples, validation, test)
    order = torch.randperm(40)
    mixed = parzen(samples.flip(0), validation.flip(0), test[order])
    assert mixed.sigma == score.sigma
    torch.testing.assert_close(mixed.log_prob, score.log_prob[order])


def test_sigma_is_chosen_by_validation_images_alone():
    samples, validation = cloud(500, scale=0.3), cloud(150, scale=0.3)
    near, far = (parzen(samples, validation, cloud(50, scale=scale)) for scale in (0.3, 2.0))
    same = parzen(samples, validation, validation)
    assert near.sigma == far.sigma == same.sigma
    assert near.curve == far.curve == same.curve
    assert float(same.log_prob.mean()) == pytest.approx(same.curve[same.sigma], rel=1e-12)
    torch.testing.assert_close(same.log_prob, brute_force(samples, validation, same.sigma))


def test_the_chosen_sigma_is_the_best_of_all_that_were_tried():
    score = parzen(cloud(300, scale=0.4), cloud(120, scale=0.4), cloud(10))
    assert score.curve[score.sigma] == max(score.curve.values())
    assert list(score.curve) == sorted(score.curve)


def test_near_the_papers_optimum_the_grids_are_the_papers():
    samples, validation = torch.zeros(1, 40), cloud(200, 40, 0.18)
    curve = parzen(samples, validation, validation).curve
    coarse = [10 ** (step / 9 - 1) for step in range(10)]
    fine = [0.01 * step for step in range(12, 31)]
    assert list(curve) == pytest.approx(sorted(coarse + fine), rel=1e-12)


@pytest.mark.parametrize("scale", [0.0035, 0.02, 0.105, 0.4, 0.95, 1.04, 30.0, 200.0])
def test_one_kernel_finds_the_standard_deviation_of_data_on_any_scale(scale):
    validation = cloud(200, 400, scale)
    sigma = parzen(torch.zeros(1, 400), validation, validation).sigma
    step = 10.0 ** (math.floor(math.log10(sigma)) - 1)
    best = float(validation.double().square().mean().sqrt())
    assert abs(sigma - best) < 0.51 * step


def test_scaling_everything_scales_sigma_and_shifts_the_score():
    samples, validation, test = cloud(400, scale=0.4), cloud(200, scale=0.4), cloud(100, scale=0.4)
    one, ten = parzen(samples, validation, test), parzen(10 * samples, 10 * validation, 10 * test)
    shift = -5 * math.log(10)
    assert ten.sigma == pytest.approx(10 * one.sigma, rel=0.1)
    assert float(ten.log_prob.mean()) == pytest.approx(float(one.log_prob.mean()) + shift, abs=0.05)


def test_validation_images_among_the_samples_are_told_from_a_score():
    samples = cloud(200)
    with pytest.raises(UsageError, match=r"the best sigma must lie between 0\.001 and 1000\.0, got 0\.0001"):
        parzen(samples, samples[:150], cloud(10))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 100, 1), "samples must hold at least 1 images, got 0"),
        ((5, 99, 1), "validation must hold at least 100 images, got 99"),
        ((5, 100, 0), "test must hold at least 1 images, got 0"),
    ],
)
def test_too_few_images_are_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        parzen(*(torch.rand(n, 1, 2, 2) for n in sizes))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(which, value):
    sets = [torch.rand(120, 1, 2, 2) for _ in range(3)]
    sets[which][[7, 9], 0, 1, 1] = value
    name = ("samples", "validation", "test")[which]
    with pytest.raises(UsageError, match=f"{name} must be finite, got 2 images with NaN or infinite values"):
        parzen(*sets)


@pytest.mark.parametrize("which", [1, 2])
def test_other_shapes_are_refused(which):
    sets = [torch.rand(120, 1, 2, 2) for _ in range(3)]
    sets[which] = torch.rand(120, 1, 4, 1)
    name = ("samples", "validation", "test")[which]
    with pytest.raises(UsageError, match=rf"{name} must have the shape of .* \(1, 2, 2\), got \(1, 4, 1\)"):
        parzen(*sets)


def test_memory_does_not_grow_with_the_number_of_pairs():
    """20,000 images and as many samples: their distances alone would take 3 GiB."""
    samples, images = cloud(20_000), cloud(20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kernel_log_prob(samples, images, [0.3])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_digits_score_best_inside_the_grid():
    data = Digits(binarize="none")
    train, validation, test = (data.split(name).x for name in ("train", "val", "test"))
    score = parzen(train, validation, test)
    assert 0.1 < score.sigma < 0.3
    noise = parzen(torch.rand_like(train), validation, test)
    assert float(score.log_prob.mean()) > float(noise.log_prob.mean()) + 20


@pytest.mark.data
@pytest.mark.slow
def test_real_training_images_score_244_nats():
    """Every other test image; all 10,000 score 242.7 with an error of 1.8."""
    data = MNIST(binarize="none")
    samples = data.split("train").x[:10_000]
    score = parzen(samples, data.split("val").x[:1000], data.split("test").x[::2])
    value, error = mean_and_error(score.log_prob)
    assert score.sigma == pytest.approx(0.175, abs=0.011)
    assert value == pytest.approx(244, abs=3)
    assert error == pytest.approx(2.6, abs=0.2)


@pytest.mark.data
def test_binary_draws_and_the_mean_image_score_far_below_the_images_they_come_from():
    """The reference numbers are those of the first 2,000 test images at the sigma given with them."""
    data = MNIST(binarize="none")
    train, test = data.split("train").x, data.split("test").x[:2000]
    draws = (torch.rand(10_000, 1, 28, 28) < train[:10_000]).float()
    mean = train.mean(0, keepdim=True)
    scores = [kernel_log_prob(draws, test, [0.20]).mean(), kernel_log_prob(mean, test, [0.25]).mean()]
    assert [float(score) for score in scores] == pytest.approx([68, -35], abs=3)
