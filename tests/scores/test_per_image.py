"""Values per image: kept in order, with their mean and error."""

import math

import pytest
import torch

from zoo.scores.metrics import PerImage, mean_and_error


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_per_image_keeps_every_value_in_order_and_in_float64():
    values = torch.randn(100)
    metric = PerImage()
    for part in values.split([33, 1, 66]):
        metric.update(part)
    assert metric.compute().dtype == torch.float64
    torch.testing.assert_close(metric.compute(), values.double(), rtol=0, atol=0)
    metric.reset()
    metric.update(values[:2])
    assert len(metric.compute()) == 2


def test_mean_and_standard_error_by_hand():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3) / 2)


def test_a_single_value_has_an_infinite_error():
    assert mean_and_error(torch.tensor([2.5])) == (2.5, math.inf)
