"""Schedules of step sizes."""

from collections import Counter

import pytest
import torch

from zoo.parts.schedules import cosine, exponential, tripling_stages, warm_up


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_warm_up_is_linear_and_then_one():
    assert [warm_up(epoch, 10.0) for epoch in (0.0, 2.5, 5.0, 10.0, 400.0)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert warm_up(0.0, 0.0) == 1.0


def test_cosine_runs_from_one_to_its_final_value():
    assert cosine(0.0, 20.0, 0.1) == 1.0
    assert cosine(10.0, 20.0, 0.1) == pytest.approx(0.55)
    assert cosine(20.0 / 3.0, 20.0, 0.1) == pytest.approx(0.1 + 0.9 * 0.75)
    assert cosine(20.0, 20.0, 0.1) == cosine(35.0, 20.0, 0.1) == pytest.approx(0.1)
    assert cosine(0.0, 0.0, 0.1) == pytest.approx(0.1)


def test_exponential_falls_by_the_same_ratio_in_each_epoch_and_then_stays():
    factors = [exponential(float(epoch), 1000.0, 0.995**1000) for epoch in (0, 1, 2, 1000, 2000)]
    assert factors == pytest.approx([1.0, 0.995, 0.995**2, 0.995**1000, 0.995**1000])
    assert exponential(0.0, 0.0, 0.1) == pytest.approx(0.1)


def test_tripling_stages_last_3_to_the_i_epochs_each_and_3280_together():
    lengths = list(Counter(tripling_stages(float(epoch), 8, 0.1) for epoch in range(3280)).values())
    assert lengths == [1, 3, 9, 27, 81, 243, 729, 2187]


def test_tripling_stages_change_at_their_boundaries_to_the_papers_rates():
    rates = [1e-3 * 10 ** (-i / 7) for i in range(8)]
    for i, boundary in enumerate([1.0, 4.0, 13.0, 40.0, 121.0, 364.0, 1093.0]):
        assert 1e-3 * tripling_stages(boundary - 0.01, 8, 0.1) == pytest.approx(rates[i])
        assert 1e-3 * tripling_stages(boundary, 8, 0.1) == pytest.approx(rates[i + 1])
    assert 1e-3 * tripling_stages(0.0, 8, 0.1) == pytest.approx(1e-3)
    assert 1e-3 * tripling_stages(1e9, 8, 0.1) == pytest.approx(1e-4)
