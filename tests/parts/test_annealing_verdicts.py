"""Which annealed constants are believed."""

import math

import numpy as np
import pytest
import torch

from zoo.contract.capabilities import Partition
from zoo.data.sets import MNIST
from zoo.parts.annealing.binary_pair import BinaryPair, base_rates
from zoo.parts.annealing.paths import anneal, linear
from zoo.parts.annealing.verdicts import estimated, exactly, judged, log_partition

# Partitions and verdicts.


def test_partition_by_hand():
    w = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    p = estimated(w.log() + 500, 7)
    error = math.sqrt((4 + 1 + 9) / 2 / 3) / 3
    assert p.log_z == pytest.approx(500 + math.log(3))
    assert p.error == pytest.approx(error)
    assert (p.ess, p.num_steps) == (pytest.approx(81 / 41), 7)
    assert p.spread == pytest.approx(np.std(np.log([1, 2, 6]), ddof=1))
    assert p.high == pytest.approx(500 + math.log(3 + 3 * 3 * error))
    assert p.low == -math.inf


def test_the_interval_is_symmetric_around_z_and_not_around_log_z():
    w = torch.tensor([4.0, 5.0, 6.0, 5.0], dtype=torch.float64)
    p = estimated(w.log(), 1)
    sigma = math.sqrt(2 / 3) / 2
    assert (p.low, p.high) == (
        pytest.approx(math.log(5 - 3 * sigma)),
        pytest.approx(math.log(5 + 3 * sigma)),
    )


def verdict_on(run, pilot, num_chains=100):
    """The verdict on given (log Z, error, ess, spread) of a run of 400 steps and of its pilot."""
    table = {
        steps: Partition(log_z, error, -math.inf, math.inf, ess, steps, spread)
        for steps, (log_z, error, ess, spread) in {400: run, 100: pilot}.items()
    }
    asked = []

    def estimate(chains, steps):
        asked.append((chains, steps))
        return table[steps]

    verdict = judged(estimate, num_chains, 400)
    assert (verdict.partition, verdict.pilot) == (table[400], table[100])
    assert asked == [(num_chains, 400), (num_chains, 100)]
    return verdict


def test_a_run_that_agrees_with_its_pilot_is_believed():
    verdict = verdict_on((10.0, 0.1, 60.0, 0.7), (9.6, 0.1, 40.0, 2.0))
    assert (verdict.refusal, verdict.rerun) == (None, None)


@pytest.mark.parametrize("pilot", [9.5, 10.5])
def test_a_run_that_disagrees_with_its_pilot_is_run_again(pilot):
    verdict = verdict_on((10.0, 0.1, 60.0, 0.7), (pilot, 0.1, 40.0, 1.0))
    assert verdict.refusal is None
    assert "log Z must agree with that of 100 steps" in verdict.rerun


def test_few_effective_chains_are_refused():
    pilot = (10.0, 0.5, 9.0, 0.8)
    refused = verdict_on((10.0, 0.5, 4.9, 0.8), pilot)
    assert refused.refusal == "the effective number of chains must be at least 5, got 4.9"
    assert refused.rerun is None
    assert verdict_on((10.0, 0.5, 5.0, 0.8), pilot).refusal is None


def test_log_weights_that_spread_are_run_again():
    pilot = (10.0, 0.1, 60.0, 2.0)
    wide = verdict_on((10.0, 0.1, 60.0, 1.26), pilot)
    assert wide.refusal is None
    assert wide.rerun == "log-weights must spread by at most 1 nat, got 1.3"
    assert verdict_on((10.0, 0.1, 60.0, 1.0), pilot).rerun is None


def test_an_exact_log_z_needs_no_pilot():
    calls = []

    def estimate(chains, steps):
        calls.append(steps)
        return exactly(3.5)

    verdict = judged(estimate, 100, 400)
    assert verdict == (exactly(3.5), exactly(3.5), None, None)
    assert calls == [400]


# A really trained pair.


@pytest.fixture(scope="module")
def trained(once, cache):
    """An RBM with 12 hidden units after 4000 persistent updates on binarised MNIST."""
    folder = once("trained", lambda folder: torch.save(learnt(cache), folder / "pair.pt"))
    return BinaryPair(*torch.load(folder / "pair.pt"))


def learnt(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(cache))
        data = MNIST(binarize="fixed")
        x, mean = data.split("train").x.flatten(1), data.mean_image()
    torch.manual_seed(0)
    updates, base = 4000, base_rates(mean)
    w, b, c = 0.01 * torch.randn(784, 12), torch.zeros(12), base.clone()
    chains = x[:100]
    for update in range(updates):
        v = x[torch.randint(len(x), (100,))]
        h = torch.bernoulli((chains @ w + b).sigmoid())
        chains = torch.bernoulli((h @ w.T + c).sigmoid())
        up, down = (v @ w + b).sigmoid(), (chains @ w + b).sigmoid()
        rate = 0.05 * (1 - update / updates) / 100
        w += rate * (v.T @ up - chains.T @ down)
        b += rate * (up - down).sum(0)
        c += rate * (v - chains).sum(0)
    pair = BinaryPair(w, b, c, base)
    log_p = pair.log_density(pair.place(x[:1000]), 1.0).mean() - log_partition(pair, 2, 1).log_z
    assert log_p > -165  # base rates alone give -206
    return w, b, c, base


def annealed(pair):
    return lambda chains, steps: estimated(anneal(pair, chains, linear(steps))[0], steps)


@pytest.mark.data
def test_a_short_schedule_on_a_trained_pair_is_caught(trained):
    """Even where 100 chains agree on a wrong answer, with half of them effective."""
    for _ in range(10):
        assert judged(annealed(trained), 100, 100).rerun is not None


@pytest.mark.data
@pytest.mark.slow
def test_a_long_schedule_on_a_trained_pair_is_believed(trained):
    verdict = judged(annealed(trained), 100, 4000)
    assert (verdict.refusal, verdict.rerun) == (None, None)
    assert abs(verdict.partition.log_z - log_partition(trained, 2, 1).log_z) < 0.3


@pytest.mark.data
@pytest.mark.slow
def test_the_gate_of_a_trained_pair(trained):
    estimate = annealed(trained)(500, 5000)
    assert abs(estimate.log_z - log_partition(trained, 2, 1).log_z) < 0.15
