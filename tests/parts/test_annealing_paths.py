"""Schedules of annealing."""

import math

import numpy as np
import pytest
import torch

from zoo.parts.annealing.paths import Path, linear, sigmoid, tripartite

SCHEDULES = [linear, sigmoid, tripartite]


# Schedules.


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_schedules_rise_from_zero_to_one(schedule, num_steps):
    betas = schedule(num_steps)
    assert betas.dtype == torch.float64
    assert len(betas) == num_steps + 1
    assert (float(betas[0]), float(betas[-1])) == (0.0, 1.0)
    assert (betas.diff() > 0).all()


def test_linear_steps_are_equal():
    torch.testing.assert_close(linear(40).diff(), torch.full((40,), 1 / 40, dtype=torch.float64))


def test_sigmoid_follows_the_logistic_curve_between_minus_and_plus_rad():
    def logistic(x):
        return 1 / (1 + math.exp(-x))

    for rad in (4.0, 2.0):
        span = logistic(rad) - logistic(-rad)
        expected = [(logistic(rad * (2 * t / 9 - 1)) - logistic(-rad)) / span for t in range(10)]
        np.testing.assert_allclose(sigmoid(9, rad).numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(sigmoid(9), sigmoid(9, 4.0))


def test_tripartite_is_the_published_schedule_at_its_own_length_and_in_proportion_elsewhere():
    steps = tripartite(14_500).diff()
    for part, length in ((steps[:500], 1e-3), (steps[500:4500], 1e-4), (steps[4500:], 1e-5)):
        torch.testing.assert_close(part, torch.full_like(part, length))
    torch.testing.assert_close(tripartite(145), tripartite(14_500)[::100])


def test_a_path_names_what_it_lacks():
    with pytest.raises(TypeError, match="abstract"):
        Path()
