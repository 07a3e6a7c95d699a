"""Diagonal Gaussians of a network's features."""

import math

import pytest
import torch
from variational_models import zeroed

from zoo.parts.distributions.gaussians import GaussianHead, diagonal_gaussian


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_second_half_of_the_posterior_head_is_a_log_variance():
    head = zeroed(GaussianHead(4, 2))
    with torch.no_grad():
        head.linear.bias.copy_(torch.tensor([1.0, 2.0, math.log(9.0), math.log(0.25)]))
    q = head(torch.zeros(1, 4))
    torch.testing.assert_close(q.mean, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(q.stddev, torch.tensor([[3.0, 0.5]]))


def test_log_variance_is_clamped():
    log_variance = torch.tensor([-1e4, -11.0, -9.0, 0.0, 7.0, 9.0, 1e4])
    q = diagonal_gaussian(torch.zeros(7), log_variance)
    expected = torch.tensor([-5.0, -5.0, -4.5, 0.0, 3.5, 4.0, 4.0]).exp()
    torch.testing.assert_close(q.stddev, expected)


def test_gaussians_of_bfloat16_features_are_computed_in_float32():
    q = diagonal_gaussian(torch.randn(5).bfloat16(), torch.full((5,), -3.0).bfloat16())
    assert q.mean.dtype == q.stddev.dtype == torch.float32
    torch.testing.assert_close(q.stddev, torch.full((5,), math.exp(-1.5)))
