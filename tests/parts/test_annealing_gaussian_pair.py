"""Annealing of Gaussian visible with binary hidden units."""

import math

import pytest
import torch
from energy_models import gaussian
from support import all_states

from zoo.errors import UsageError
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.gaussian_pair import GaussianPair
from zoo.parts.annealing.paths import anneal, linear


def test_the_gaussian_path_runs_from_what_it_draws_to_the_model():
    pair = gaussian()
    state = pair.start(5)
    normal = torch.distributions.Normal(pair.c0, 1.0)
    expected = normal.log_prob(state.v).sum(1) + pair.log_z0
    torch.testing.assert_close(pair.log_density(state, 0.0), expected)
    h = all_states(3)
    scores = state.v @ pair.weight @ h.T + h @ pair.b - 0.5 * (state.v - pair.c).square().sum(1, keepdim=True)
    torch.testing.assert_close(pair.log_density(state, 1.0), scores.logsumexp(1))


@pytest.mark.parametrize("beta", [0.3, 0.7, 1.0])
def test_gaussian_transitions_leave_each_density_as_it_is(beta):
    pair = gaussian(scale=0.8)
    at = GaussianPair(beta * pair.weight, beta * pair.b, (1 - beta) * pair.c0 + beta * pair.c, pair.c0)
    h = all_states(3)
    p = at.log_densities().softmax(0)
    mean = at.c + p @ h @ at.weight.T
    drawn = h[torch.multinomial(p, 100_000, replacement=True)]
    v = at.c + drawn @ at.weight.T + torch.randn(100_000, 4, dtype=torch.float64)
    moved = pair.transition(pair.place(v), beta)
    torch.testing.assert_close(moved.v.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(moved.v.T.cov(), v.T.cov(), atol=0.04, rtol=0)
    torch.testing.assert_close(moved.drive, moved.v @ pair.weight + pair.b)


def test_gaussian_chains_find_log_z_and_more_steps_weigh_more_evenly():
    pair = gaussian(scale=1.0, visible=6, hidden=5)
    truth = float(pair.log_densities().logsumexp(0))
    spreads = []
    for num_steps in (10, 1000):
        log_w, _ = anneal(pair, 400, linear(num_steps))
        spreads.append(float(log_w.std()))
    assert float(log_w.logsumexp(0)) - math.log(400) == pytest.approx(truth, abs=0.1)
    assert spreads[1] < spreads[0]


def test_gaussian_enumeration_in_chunks_changes_nothing(monkeypatch):
    whole = gaussian().log_densities()
    monkeypatch.setattr(enumeration, "ENUMERATED_AT_ONCE", 12)
    torch.testing.assert_close(gaussian().log_densities(), whole)
    with pytest.raises(UsageError, match="at most 20 units to be enumerated, got 21"):
        gaussian(hidden=21).log_densities()
    with pytest.raises(UsageError, match=r"weight must be \(4, 2\), got \(4, 3\)"):
        GaussianPair(torch.zeros(4, 3), torch.zeros(2), torch.zeros(4), torch.zeros(4))
    with pytest.raises(UsageError, match="base must have 4 units, got 3"):
        GaussianPair(torch.zeros(4, 3), torch.zeros(3), torch.zeros(4), torch.zeros(3))
