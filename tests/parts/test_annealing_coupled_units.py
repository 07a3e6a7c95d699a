"""Coupled binary units: sweeps against one unit after the other, annealing against enumeration."""

import math

import pytest
import torch
from support import all_states

from zoo.errors import UsageError
from zoo.parts.annealing import coupled_units, enumeration
from zoo.parts.annealing.coupled_units import CoupledUnits, sweep
from zoo.parts.annealing.paths import anneal, linear
from zoo.parts.annealing.verdicts import log_partition


def coupled(units=10, scale=0.8, seed=0):
    """A random path, its couplings, biases and base rates from N(0, scale^2)."""
    stream = torch.Generator().manual_seed(seed)
    a = scale * torch.randn(units, units, generator=stream, dtype=torch.float64)
    d, base = scale * torch.randn(2, units, generator=stream, dtype=torch.float64)
    a = a.tril(-1)
    return CoupledUnits(a + a.T, d, base)


def log_density(path, s):
    """Each pair counted once, pair by pair."""
    pairs = sum(path.a[i, j] * s[:, i] * s[:, j] for i in range(len(path.d)) for j in range(i))
    return pairs + s @ path.d


def one_by_one(s, a, d):
    """The text-book sweep, from the random numbers that `sweep` takes."""
    s = s.clone()
    u = torch.rand_like(s)
    for i in torch.randperm(s.shape[1]).tolist():
        s[:, i] = (u[:, i] < (s @ a[i] + d[..., i]).sigmoid()).to(s)
    return s


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("block", [1, 7, 32, 100])
def test_a_sweep_is_that_of_one_unit_after_the_other(scale, block, monkeypatch):
    monkeypatch.setattr(coupled_units, "BLOCK", block)
    path = coupled(50, scale)
    s = (torch.rand(40, 50) < 0.5).double()
    before = s.clone()
    for d in (path.d, torch.randn(40, 50).double()):
        torch.manual_seed(1)
        found = sweep(s, path.a, d)
        torch.manual_seed(1)
        assert torch.equal(found, one_by_one(s, path.a, d))
        assert torch.equal(s, before)
        assert not torch.equal(found, s)


def test_two_units_that_repel_each_other_do_not_oscillate():
    """Both updated at once they would be equal half of the time; here once in 1 + e^2."""
    a, d = torch.tensor([[0.0, -4.0], [-4.0, 0.0]]), torch.tensor([2.0, 2.0])
    states = all_states(2).float()
    truth = (0.5 * (states @ a * states).sum(1) + states @ d).softmax(0)
    torch.manual_seed(0)
    s = torch.zeros(40_000, 2)
    for _ in range(100):
        s = sweep(s, a, d)
    counts = torch.bincount((s @ torch.tensor([1.0, 2.0])).long(), minlength=4) / len(s)
    torch.testing.assert_close(counts, truth, atol=0.01, rtol=0)


def test_units_are_visited_as_often_as_the_energy_says():
    path = coupled(6)
    p = log_density(path, all_states(6)).softmax(0)
    torch.manual_seed(0)
    s = torch.zeros(30_000, 6, dtype=torch.float64)
    for _ in range(30):
        s = sweep(s, path.a, path.d)
    moments = all_states(6).T @ (p[:, None] * all_states(6))
    torch.testing.assert_close(s.T @ s / len(s), moments, atol=0.015, rtol=0)


def test_held_units_stay_and_the_others_follow_them():
    path = coupled(6)
    clamp = torch.zeros(20_000, 6, dtype=torch.float64)
    clamp[:, 0], clamp[:, 3] = torch.inf, -torch.inf
    torch.manual_seed(0)
    s = (torch.rand(20_000, 6) < 0.5).double()
    for _ in range(20):
        s = sweep(s, path.a, path.d + clamp)
    assert (s[:, 0] == 1).all()
    assert (s[:, 3] == 0).all()
    states = all_states(6)
    agree = (states[:, 0] == 1) & (states[:, 3] == 0)
    truth = log_density(path, states).masked_fill(~agree, -math.inf).softmax(0) @ states
    torch.testing.assert_close(s.mean(0), truth, atol=0.015, rtol=0)


def test_log_z_is_the_sum_over_all_settings():
    path = coupled()
    truth = float(log_density(path, all_states(10)).logsumexp(0))
    assert log_partition(path, 2, 1).log_z == pytest.approx(truth, abs=1e-9)
    start = path.log_density(path.place(all_states(10)), 0.0).logsumexp(0)
    assert path.log_z0 == pytest.approx(float(start), abs=1e-9)


def test_annealing_comes_within_a_tenth_of_the_truth(monkeypatch):
    path = coupled()
    truth = path.log_z()
    monkeypatch.setattr(enumeration, "ENUMERABLE", 9)
    torch.manual_seed(0)
    found = log_partition(path, 100, 1000, linear)
    assert found.num_steps == 1000
    assert found.log_z == pytest.approx(truth, abs=0.1)


def test_independent_units_are_annealed_exactly():
    path = coupled()
    free = CoupledUnits(torch.zeros_like(path.a), path.d, path.d)
    log_w, _ = anneal(free, 7, linear(3))
    truth = float((1 + path.d.exp()).log().sum())
    torch.testing.assert_close(log_w, torch.full_like(log_w, truth), atol=1e-9, rtol=0)


def test_what_does_not_fit_is_refused():
    path = coupled(4)
    with pytest.raises(UsageError, match=r"a must be \(4, 4\), got \(3, 3\)"):
        CoupledUnits(path.a[:3, :3], path.d, path.d0)
    with pytest.raises(UsageError, match="base must have 4 units, got 2"):
        CoupledUnits(path.a, path.d, path.d0[:2])
