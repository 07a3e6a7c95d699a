"""How all codes together are spread against the prior: closed forms of Gaussians."""

import math

import pytest
import torch
from support import tiny
from torch.distributions import Independent, Normal

from zoo.contract.capabilities import Beliefs, Side
from zoo.data import Digits
from zoo.parts.kernels import gram, mmd
from zoo.scores.metrics import squared_mmd
from zoo.scores.scene import Scene
from zoo.scores.sections import SECTIONS, run_sections


def made(dim, mean, std, monkeypatch):
    """The section's numbers where all posteriors are one Gaussian and the prior is N(0, 4 I)."""
    method = tiny("VAE")

    def normal(m, s, *shape):
        return Independent(Normal(torch.full((*shape, dim), m), torch.full((*shape, dim), s)), 1)

    monkeypatch.setattr(method, "believe", lambda x: Beliefs(normal(0.0, 2.0), normal(mean, std, len(x))))
    scene = Scene(method, Digits(), 0, 5, 10_000)
    ((_, reason),) = run_sections(scene, ["matching"])
    return {name.removeprefix("test/"): number for name, number in scene.numbers.items()}, reason


def test_a_spread_of_half_the_priors_is_read_as_such(monkeypatch):
    numbers, reason = made(3, 1.0, 1.0, monkeypatch)
    assert reason is None
    assert numbers["code_variance"].value == pytest.approx(0.25, rel=0.15)
    assert numbers["code_log_det"].value == pytest.approx(3 * math.log(0.25), abs=0.5)
    c = 9  # E exp(-|d|^2 / c) of d ~ N(m, w I)
    within = [(1 + 2 * w / c) ** -1.5 for w in (2.0, 8.0)]
    across = (1 + 2 * 5 / c) ** -1.5 * math.exp(-3 / (c + 2 * 5))
    distance = numbers["code_mmd"]
    assert abs(distance.value - (sum(within) - 2 * across)) < 4 * distance.error
    assert distance.side is Side.ESTIMATE
    assert distance.protocol.how == "359 posteriors, one draw each; as many draws of the prior"


def test_codes_that_are_the_priors_are_no_distance_from_it(monkeypatch):
    numbers, _ = made(4, 0.0, 2.0, monkeypatch)
    assert abs(numbers["code_mmd"].value) < 4 * numbers["code_mmd"].error
    assert abs(numbers["code_log_det"].value) < 0.6
    assert numbers["code_variance"].value == pytest.approx(1, rel=0.2)


def test_fewer_codes_than_numbers_in_one_have_no_covariance(monkeypatch):
    _, reason = made(400, 0.0, 1.0, monkeypatch)
    assert reason == "the covariance of codes of 400 numbers needs more images, got 359"


def test_the_distance_is_the_statistic_that_trains():
    torch.manual_seed(0)
    x, y = torch.randn(700, 3).double(), 0.5 + torch.randn(600, 3).double()
    found = squared_mmd(x, y, lambda a, b: gram(a, b, "rbf"), lambda a: torch.ones(len(a)).double())
    assert found.value == pytest.approx(float(mmd(x, y, "rbf")), rel=1e-9)


def test_the_section_leaves_the_numbers_of_the_aggregate_alone():
    method, data = tiny("VAE"), Digits()
    alone, both = Scene(method, data, 0, 5, 100), Scene(method, data, 0, 5, 100)
    for scene, wanted in ((alone, ["aggregate"]), (both, ["aggregate", "matching"])):
        assert {reason for _, reason in run_sections(scene, wanted)} == {None}
    assert all(both.numbers[name] == number for name, number in alone.numbers.items())
    assert SECTIONS["matching"].numbers.keys() == {
        name.removeprefix("test/") for name in both.numbers.keys() - alone.numbers.keys()
    }
