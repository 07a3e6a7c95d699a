"""Annealed importance sampling of binary pairs against enumeration."""

import math

import numpy as np
import pytest
import torch
from support import all_states

from zoo.contract.capabilities import Partition
from zoo.errors import UsageError
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.binary_pair import BinaryPair, base_rates, raise_log_prob
from zoo.parts.annealing.enumeration import settings
from zoo.parts.annealing.paths import anneal, anneal_back, linear, sigmoid, tripartite, upper_bound
from zoo.parts.annealing.verdicts import estimated, log_partition
from zoo.parts.estimators import log_mean_exp

SCHEDULES = [linear, sigmoid, tripartite]


def pair_of(visible=10, hidden=8, scale=0.8, seed=0, dtype=torch.float64):
    """A random pair, every parameter and the base rates from N(0, scale^2)."""
    stream = torch.Generator().manual_seed(seed)
    sizes = [(visible, hidden), (hidden,), (visible,), (visible,)]
    return BinaryPair(*(scale * torch.randn(size, generator=stream, dtype=dtype) for size in sizes))


def brute_force(pair):
    """The value of log Z as the sum over all pairs (v, h), written from the energy."""
    v, h = all_states(len(pair.c)), all_states(len(pair.b))
    score = v @ pair.weight @ h.T + (v @ pair.c)[:, None] + h @ pair.b
    return float(score.logsumexp((0, 1)))


def at(pair, beta):
    """The pair whose target is f_beta of the given one."""
    visible = (1 - beta) * pair.c0 + beta * pair.c
    return BinaryPair(beta * pair.weight, beta * pair.b, visible, pair.c0)


class Frozen(BinaryPair):
    """Chains that never move: weights telescope to log f_1 - log f_0."""

    def transition(self, state, beta):
        return state


# Pairs: enumeration.


@pytest.mark.parametrize(("visible", "hidden"), [(6, 4), (4, 6), (5, 5)])
def test_log_z_is_the_same_over_v_over_h_and_over_both(visible, hidden):
    pair = pair_of(visible, hidden)
    truth = brute_force(pair)
    assert float(pair.log_densities().logsumexp(0)) == pytest.approx(truth, abs=1e-9)
    assert float(pair.swapped().log_densities().logsumexp(0)) == pytest.approx(truth, abs=1e-9)
    assert log_partition(pair, 2, 1) == Partition(
        *[pytest.approx(value, abs=1e-9) for value in (truth, 0.0, truth, truth)], math.inf, 0, 0.0
    )


def test_log_z0_is_the_sum_of_f_0_with_h_log_2_and_the_base_rates():
    pair = pair_of(6, 4)
    total = pair.log_density(pair.place(all_states(6)), 0.0).logsumexp(0)
    assert pair.log_z0 == pytest.approx(float(total), abs=1e-9)
    by_hand = 4 * math.log(2) + sum(math.log1p(math.exp(c)) for c in pair.c0.tolist())
    assert pair.log_z0 == pytest.approx(by_hand, abs=1e-9)


def test_hidden_units_may_start_at_base_rates_too(monkeypatch):
    """f_0 has independent units in both layers; with either layer summed out the same log Z is found."""
    b0 = torch.linspace(-2, 1, 8, dtype=torch.float64)
    plain = pair_of()
    pair = BinaryPair(plain.weight, plain.b, plain.c, plain.c0, b0)
    total = pair.log_density(pair.place(all_states(10)), 0.0).logsumexp(0)
    assert pair.log_z0 == pytest.approx(float(total), abs=1e-9)
    assert pair.log_z0 == pytest.approx(float((1 + b0.exp()).log().sum() + (1 + plain.c0.exp()).log().sum()))
    truth = brute_force(plain)
    assert pair.log_z() == pytest.approx(truth, abs=1e-9)
    monkeypatch.setattr(enumeration, "ENUMERABLE", 5)
    for one in (pair, pair.swapped()):
        torch.manual_seed(0)
        assert log_partition(one, 100, 1000, linear).log_z == pytest.approx(truth, abs=0.1)
    still = BinaryPair(torch.zeros(10, 8).double(), b0, plain.c0, plain.c0, b0)
    log_w, _ = anneal(still, 5, linear(3))
    torch.testing.assert_close(log_w, torch.full_like(log_w, still.log_z0), atol=1e-9, rtol=0)
    with pytest.raises(UsageError, match="hidden_base must have 8 units, got 7"):
        BinaryPair(plain.weight, plain.b, plain.c, plain.c0, b0[:7])


def test_states_are_visited_once_each_in_the_order_of_their_numbers():
    torch.testing.assert_close(settings(torch.arange(32), torch.zeros(5).double()), all_states(5))


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_enumeration_in_chunks_changes_nothing(budget, monkeypatch):
    pair = pair_of(9, 30)
    whole = pair.log_densities()
    monkeypatch.setattr(enumeration, "ENUMERATED_AT_ONCE", budget)
    torch.testing.assert_close(pair.log_densities(), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("visible", "hidden"), [(4, 7), (7, 4)])
def test_exact_draws_have_the_exact_frequencies(visible, hidden):
    pair = pair_of(visible, hidden)
    n = 200_000
    numbers = (pair.exact_draws(n) @ (2.0 ** torch.arange(visible).double())).long()
    observed = numbers.bincount(minlength=2**visible) / n
    expected = pair.log_densities().softmax(0)
    tolerance = 5 * (expected / n).sqrt() + 1e-12
    assert ((observed - expected).abs() < tolerance).all()


def test_the_smaller_layer_is_enumerated_up_to_twenty_units():
    wide = BinaryPair(torch.zeros(21, 20), torch.zeros(20), torch.zeros(21), torch.zeros(21))
    with pytest.raises(UsageError, match="at most 20 units to be enumerated, got 21"):
        wide.log_densities()
    small = pair_of(3, 40)
    assert log_partition(small, 2, 1).num_steps == 0
    assert log_partition(small.swapped(), 2, 1).num_steps == 0
    large = pair_of(21, 21, 0.01)
    annealed = log_partition(large, 10, 5)
    assert annealed.num_steps == 5
    assert annealed.log_z == pytest.approx(42 * math.log(2), abs=1.0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"weight must be \(3, 2\), got \(2, 3\)"):
        BinaryPair(torch.zeros(2, 3), torch.zeros(2), torch.zeros(3), torch.zeros(3))
    with pytest.raises(UsageError, match="base must have 3 units, got 2"):
        BinaryPair(torch.zeros(3, 2), torch.zeros(2), torch.zeros(3), torch.zeros(2))


def test_base_rates_are_smoothed_logits_and_finite_at_both_ends():
    rates = base_rates(torch.tensor([[[0.0, 0.5], [0.9, 1.0]]])).sigmoid()
    torch.testing.assert_close(rates, torch.tensor([0.05, 0.55, 0.95, 1.05]) / 1.1)


# Pairs: annealing.


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_weights_and_with_the_right_base_every_chain_is_exact(schedule):
    c = torch.randn(7, dtype=torch.float64)
    pair = BinaryPair(torch.zeros(7, 5).double(), torch.zeros(5).double(), c, c)
    log_w = anneal(pair, 20, schedule(10))[0]
    torch.testing.assert_close(log_w, torch.full_like(log_w, brute_force(pair)), rtol=0, atol=1e-10)
    assert estimated(log_w, 10).error == pytest.approx(0.0, abs=1e-10)
    assert estimated(log_w, 10).ess == pytest.approx(20.0)


def test_biases_alone_are_annealed_without_error_in_the_hidden_ones():
    """With W = 0 and c0 = c the hidden sum does not depend on v: exact for any b."""
    b, c = torch.randn(5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    pair = BinaryPair(torch.zeros(7, 5).double(), b, c, c)
    log_w = anneal(pair, 20, linear(3))[0]
    torch.testing.assert_close(log_w, torch.full_like(log_w, brute_force(pair)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_random_pairs_come_within_a_tenth_of_a_nat(seed):
    pair = pair_of(seed=seed, dtype=torch.float32)
    torch.manual_seed(seed)
    estimate = estimated(anneal(pair, 100, linear(1000))[0], 1000)
    truth = log_partition(pair, 2, 1).log_z
    assert abs(estimate.log_z - truth) < 0.1
    assert estimate.ess > 80


def test_chains_move_without_disturbing_f_beta_and_reversibly():
    pair, beta, n = pair_of(3, 4, 1.5), 0.6, 400_000
    target = at(pair, beta)
    states = pair.place(all_states(3))
    torch.testing.assert_close(pair.log_density(states, beta), target.log_densities(), rtol=0, atol=1e-12)
    digits = 2.0 ** torch.arange(3).double()
    before = target.exact_draws(n)
    after = pair.transition(pair.place(before), beta).v
    pairs = (8 * (before @ digits) + after @ digits).long().bincount(minlength=64).reshape(8, 8).double() / n
    expected = target.log_densities().softmax(0)
    assert ((pairs.sum(0) - expected).abs() < 5 * (expected / n).sqrt()).all()
    assert ((pairs - pairs.T).abs() < 5 * ((pairs + pairs.T) / n).sqrt() + 1e-12).all()
    assert float(pairs.diagonal().sum()) < 0.9


def test_the_mean_weight_is_z_and_the_mean_inverse_weight_backwards_is_its_inverse():
    pair = pair_of(6, 5, 1.0)
    truth, betas, n = brute_force(pair), linear(4), 200_000
    forward = estimated(anneal(pair, n, betas)[0], 4)
    back = anneal_back(pair, pair.place(pair.exact_draws(n)), betas)[0]
    inverse = estimated(-back, 4)
    assert forward.error < 0.01
    assert inverse.error < 0.01
    assert abs(forward.log_z - truth) < 4 * forward.error
    assert abs(-inverse.log_z - truth) < 4 * inverse.error
    assert float(upper_bound(back)) == pytest.approx(-inverse.log_z)


def test_forward_and_backward_chains_bracket_log_z_on_average():
    pair, groups = pair_of(8, 6, 1.0), 2000
    truth, widths = brute_force(pair), []
    for steps in (5, 20):
        low = anneal(pair, 5 * groups, linear(steps))[0].unflatten(0, (5, groups))
        start = pair.place(pair.exact_draws(5 * groups))
        high = anneal_back(pair, start, linear(steps))[0].unflatten(0, (5, groups))
        low, high = log_mean_exp(low), upper_bound(high)
        assert float(low.mean()) + 3 * float(low.std()) / math.sqrt(groups) < truth
        assert float(high.mean()) - 3 * float(high.std()) / math.sqrt(groups) > truth
        widths.append(float(high.mean() - low.mean()))
    assert widths[0] < 1.2
    assert widths[1] < 0.3


def test_error_bars_cover_the_truth_as_often_as_they_say():
    pair, runs, chains = pair_of(8, 6, 0.8), 400, 200
    truth = brute_force(pair)
    log_w = anneal(pair, runs * chains, linear(20))[0].unflatten(0, (runs, chains))
    estimates = [estimated(row, 20) for row in log_w]
    assert 0.3 * chains < np.median([p.ess for p in estimates]) < 0.9 * chains
    z = np.array([(p.log_z - truth) / p.error for p in estimates])
    assert 0.60 < np.mean(abs(z) < 1) < 0.76
    assert 0.90 < np.mean(abs(z) < 2) < 0.985
    inside = [p.low < truth < p.high for p in estimates]
    assert np.mean(inside) > 0.98


def test_exchanging_hidden_units_changes_nothing():
    pair = pair_of(10, 8)
    order = torch.randperm(8)
    other = BinaryPair(pair.weight[:, order], pair.b[order], pair.c, pair.c0)
    runs = []
    for model in (pair, other):
        torch.manual_seed(1)
        runs.append(anneal(model, 50, linear(1))[0])
    torch.testing.assert_close(*runs, rtol=0, atol=1e-12)
    one, two = (estimated(anneal(model, 2000, linear(50))[0], 50) for model in (pair, other))
    assert abs(one.log_z - two.log_z) < 4 * math.hypot(one.error, two.error)
    assert one.error < 0.05


def test_more_steps_give_better_weights():
    pair = pair_of(10, 8, 1.2)
    sizes = [estimated(anneal(pair, 500, linear(steps))[0], steps).ess for steps in (5, 50, 500)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_same_stream_gives_the_same_weights():
    pair = pair_of()
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(anneal(pair, 10, linear(20))[0])
    assert torch.equal(*runs)


def test_states_in_float32_lose_no_weight():
    """At the size of an RBM of MNIST, 2000 differences of single-precision terms add up to the whole."""
    single = pair_of(784, 500, 0.05, dtype=torch.float32)
    double = [value.double() for value in (single.weight, single.b, single.c, single.c0)]
    frozen, exact = Frozen(single.weight, single.b, single.c, single.c0), BinaryPair(*double)
    log_w, last = anneal(frozen, 4, linear(2000))
    assert log_w.dtype == torch.float64
    state = exact.place(last.v.double())
    expected = exact.log_z0 + exact.log_density(state, 1.0) - exact.log_density(state, 0.0)
    torch.testing.assert_close(log_w, expected, rtol=0, atol=1e-3)


def test_annealing_builds_no_graph():
    weight = torch.randn(6, 4, requires_grad=True)
    pair = BinaryPair(weight, torch.zeros(4), torch.zeros(6), torch.zeros(6))
    assert not anneal(pair, 3, linear(3))[0].requires_grad
    assert not pair.log_densities().requires_grad
    assert weight.grad is None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_too_little_is_refused(schedule):
    with pytest.raises(UsageError, match="num_steps must be at least 1, got 0"):
        schedule(0)
    with pytest.raises(UsageError, match="num_chains must be at least 1, got 0"):
        anneal(pair_of(), 0, schedule(2))
    with pytest.raises(UsageError, match="num_chains must be at least 2, got 1"):
        estimated(torch.zeros(1), 1)
    with pytest.raises(UsageError, match="num_chains must be at least 1, got 0"):
        raise_log_prob(pair_of(), torch.zeros(1, 10).double(), 0, schedule(2))


# RAISE.


def test_raise_sums_to_one_over_all_images():
    """The annealed model is a distribution: at two steps far from the pair, and still normalised."""
    pair = pair_of(5, 4, 2.0)
    x = all_states(5)
    log_p = raise_log_prob(pair, x, 4000, linear(2))
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=0.01)
    truth = pair.log_densities().log_softmax(0)
    assert float((truth.exp() * (truth - log_p)).sum()) > 0.05


def test_raise_is_conservative_and_tightens_with_the_schedule():
    pair = pair_of(10, 8)
    x = pair.exact_draws(100)
    truth = pair.log_density(pair.place(x), 1.0) - brute_force(pair)
    gaps = [float((truth - raise_log_prob(pair, x, 20, linear(steps))).mean()) for steps in (10, 100, 1000)]
    assert gaps[0] > gaps[1] > 0
    assert gaps[0] > 0.02
    assert -0.005 < gaps[2] < 0.02
