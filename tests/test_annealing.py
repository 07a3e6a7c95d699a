"""Annealing: every estimate against enumeration, quadrature or a closed form."""

import math

import numpy as np
import pytest
import torch
from conftest import tiny
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from zoo.contract.capabilities import Explanation, Partition, Weights
from zoo.data.sets import MNIST
from zoo.errors import UsageError
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.binary_pair import BinaryPair, base_rates, raise_log_prob
from zoo.parts.annealing.enumeration import settings
from zoo.parts.annealing.latents import LatentPath, latent_ais, latent_ais_back
from zoo.parts.annealing.paths import Path, anneal, anneal_back, linear, sigmoid, tripartite, upper_bound
from zoo.parts.annealing.verdicts import exactly, judged, log_partition, partition
from zoo.parts.estimators import importance_bound, log_mean_exp

SCHEDULES = [linear, sigmoid, tripartite]
STARTS = ["prior", "posterior"]


def pair_of(visible=10, hidden=8, scale=0.8, seed=0, dtype=torch.float64):
    """A random pair, every parameter and the base rates from N(0, scale^2)."""
    stream = torch.Generator().manual_seed(seed)
    sizes = [(visible, hidden), (hidden,), (visible,), (visible,)]
    return BinaryPair(*(scale * torch.randn(size, generator=stream, dtype=dtype) for size in sizes))


def all_states(units):
    """Every binary vector of the length, counted with Python."""
    rows = [[number >> bit & 1 for bit in range(units)] for number in range(2**units)]
    return torch.tensor(rows, dtype=torch.float64)


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
    assert partition(log_w, 10).error == pytest.approx(0.0, abs=1e-10)
    assert partition(log_w, 10).ess == pytest.approx(20.0)


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
    estimate = partition(anneal(pair, 100, linear(1000))[0], 1000)
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
    forward = partition(anneal(pair, n, betas)[0], 4)
    back = anneal_back(pair, pair.place(pair.exact_draws(n)), betas)[0]
    inverse = partition(-back, 4)
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
    estimates = [partition(row, 20) for row in log_w]
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
    one, two = (partition(anneal(model, 2000, linear(50))[0], 50) for model in (pair, other))
    assert abs(one.log_z - two.log_z) < 4 * math.hypot(one.error, two.error)
    assert one.error < 0.05


def test_more_steps_give_better_weights():
    pair = pair_of(10, 8, 1.2)
    sizes = [partition(anneal(pair, 500, linear(steps))[0], steps).ess for steps in (5, 50, 500)]
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
        partition(torch.zeros(1), 1)
    with pytest.raises(UsageError, match="num_chains must be at least 1, got 0"):
        raise_log_prob(pair_of(), torch.zeros(1, 10).double(), 0, schedule(2))


# Partitions and verdicts.


def test_partition_by_hand():
    w = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    p = partition(w.log() + 500, 7)
    error = math.sqrt((4 + 1 + 9) / 2 / 3) / 3
    assert p.log_z == pytest.approx(500 + math.log(3))
    assert p.error == pytest.approx(error)
    assert (p.ess, p.num_steps) == (pytest.approx(81 / 41), 7)
    assert p.spread == pytest.approx(np.std(np.log([1, 2, 6]), ddof=1))
    assert p.high == pytest.approx(500 + math.log(3 + 3 * 3 * error))
    assert p.low == -math.inf


def test_the_interval_is_symmetric_around_z_and_not_around_log_z():
    w = torch.tensor([4.0, 5.0, 6.0, 5.0], dtype=torch.float64)
    p = partition(w.log(), 1)
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


# A really trained pair.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An RBM with 12 hidden units after 4000 persistent updates on binarised MNIST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
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
    return pair


def annealed(pair):
    return lambda chains, steps: partition(anneal(pair, chains, linear(steps))[0], steps)


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


# Latents.


def gaussian_model(x, shift=0.0, stretch=1.0, seed=0):
    """Probabilistic PCA, two latents and five pixels; the posterior is exact but for shift and stretch."""
    stream = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 2, generator=stream, dtype=torch.float64)
    m = torch.randn(5, generator=stream, dtype=torch.float64)
    s = 0.5
    precision = torch.eye(2).double() + w.T @ w / s**2
    mean = torch.linalg.solve(precision, w.T @ (x - m).T / s**2).T
    root = torch.linalg.cholesky(precision.inverse())
    explanation = Explanation(
        Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1),
        MultivariateNormal(mean + shift, scale_tril=(stretch * root).expand(len(x), 2, 2)),
        lambda z: Independent(Normal(z @ w.T + m, s), 1).log_prob(x),
    )
    marginal = MultivariateNormal(m, w @ w.T + s**2 * torch.eye(5).double())
    return explanation, marginal


IMAGES = torch.tensor([[0.5, -1.0, 0.3, 1.0, -0.2], [3.0, 2.0, -2.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 2.0, -3.0]])


def binary_model(x, latent_dim, seed=0):
    """A tanh decoder of six binary pixels with a poor posterior, and log p(x) by quadrature."""
    stream = torch.Generator().manual_seed(seed)
    one = 1.5 * torch.randn(latent_dim, 8, generator=stream, dtype=torch.float64)
    two = 1.5 * torch.randn(8, 6, generator=stream, dtype=torch.float64)
    zeros = torch.zeros(latent_dim).double()
    prior = Independent(Normal(zeros, zeros + 1), 1)

    def likelihood(z):
        return Independent(Bernoulli(logits=(z @ one).tanh() @ two), 1)

    posterior = Independent(Normal(x[:, :latent_dim] - 0.5, 0.8 * torch.ones(len(x), latent_dim)), 1)
    line = torch.linspace(-7, 7, 141).double()
    grid = torch.cartesian_prod(*[line] * latent_dim).reshape(-1, 1, latent_dim)
    cell = latent_dim * math.log(float(line[1] - line[0]))
    truth = (likelihood(grid).log_prob(x) + prior.log_prob(grid)).logsumexp(0) + cell
    return Explanation(prior, posterior, lambda z: likelihood(z).log_prob(x)), truth, likelihood


@pytest.mark.parametrize("start", STARTS)
def test_probabilistic_pca_within_a_twentieth_of_a_nat(start):
    x = IMAGES.double()
    explanation, marginal = gaussian_model(x, shift=0.4, stretch=1.5)
    result = latent_ais(explanation, 1000, 150, start)
    torch.testing.assert_close(result.log_prob, marginal.log_prob(x), rtol=0, atol=0.05)
    assert result.log_prob.dtype == torch.float64
    assert (result.ess > 500).all()
    assert (result.ess <= 1000).all()


@pytest.mark.parametrize("start", STARTS)
def test_adapting_the_step_size_to_few_chains_biases_nothing(start):
    """The mean weight of 5000 copies of an image, two chains each, is its probability."""
    x = IMAGES[2:].double().expand(5000, 5)
    explanation, marginal = gaussian_model(x, shift=0.4, stretch=1.5)
    log_w, _ = anneal(LatentPath(explanation, start), 2, sigmoid(30))
    estimate = partition(log_w.flatten(), 30)
    assert estimate.error < 0.02
    assert estimate.log_z == pytest.approx(float(marginal.log_prob(x[0])), abs=4 * estimate.error)


def test_chains_that_start_at_the_exact_posterior_are_exact():
    x = IMAGES.double()
    explanation, marginal = gaussian_model(x)
    result = latent_ais(explanation, 3, 5, "posterior")
    torch.testing.assert_close(result.log_prob, marginal.log_prob(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(result.ess, torch.full((3,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_a_binary_decoder_agrees_with_quadrature(latent_dim, start):
    x = all_states(6)[[0, 13, 37, 63]]
    explanation, truth, _ = binary_model(x, latent_dim)
    result = latent_ais(explanation, 1000, 100, start)
    error = float((1 / result.ess).max().sqrt())
    torch.testing.assert_close(result.log_prob, truth, rtol=0, atol=4 * error)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("step_size", "acceptance"), [(0.05, 0.95), (0.25, 0.3)])
def test_hamiltonian_moves_leave_f_beta_as_it_is(start, step_size, acceptance):
    """f_beta of a Gaussian model is Gaussian: exact draws keep their moments, whatever the step size."""
    x, beta, n = IMAGES[:1].double(), 0.5, 40_000
    explanation, _ = gaussian_model(x, shift=0.4, stretch=1.5)
    path = LatentPath(explanation, start)

    def log_f(z):
        return path.log_density(path.place(z.reshape(1, 1, 2)), beta).sum()

    precision, slope = -hessian(log_f), gradient(log_f)
    target = MultivariateNormal(torch.linalg.solve(precision, slope), precision_matrix=precision)
    before = target.sample((n, 1))
    state = path.place(before)
    after = path.transition(state._replace(log_step=torch.full((1,), math.log(step_size)).double()), beta)
    moved = (after.z != before).any(-1).double().mean()
    assert float(moved) == pytest.approx(float(after.accepted), abs=0.02)
    assert float(moved) > acceptance
    assert float((after.z - before).square().mean()) > 0.01
    z = after.z[:, 0]
    torch.testing.assert_close(z.mean(0), target.mean, rtol=0, atol=0.025)
    torch.testing.assert_close(z.T.cov(), target.covariance_matrix, rtol=0.05, atol=0.01)


def gradient(log_f, h=1e-3):
    """Central differences at zero, exact for a quadratic."""
    eye = h * torch.eye(2).double()
    return torch.stack([(log_f(e) - log_f(-e)) / (2 * h) for e in eye])


def hessian(log_f, h=1e-1):
    eye = h * torch.eye(2).double()
    rows = [
        [(log_f(a + b) - log_f(a - b) - log_f(b - a) + log_f(-a - b)) / (4 * h * h) for b in eye] for a in eye
    ]
    return torch.tensor(rows).double()


def test_step_sizes_settle_at_the_wanted_acceptance_for_each_image():
    """Two images whose posteriors differ in width by a hundred."""
    scale = torch.tensor([1.0, 0.01]).double()
    prior = Independent(Normal(torch.zeros(20).double(), torch.ones(20).double()), 1)
    posterior = Independent(Normal(torch.zeros(2, 20).double(), torch.ones(2, 20).double()), 1)

    def log_likelihood(z):
        return -0.5 * (z / scale[:, None]).square().sum(-1)

    path = LatentPath(Explanation(prior, posterior, log_likelihood), "prior")
    state = path.start(10)
    for _ in range(150):
        state = path.transition(state, 1.0)
    settled = state._replace(accepted=torch.zeros(2).double())
    for _ in range(50):
        settled = path.transition(settled, 1.0)
    torch.testing.assert_close(settled.accepted / 50, torch.full((2,), 0.65).double(), rtol=0, atol=0.1)
    ratio = float((settled.log_step[0] - settled.log_step[1]).exp())
    assert 40 < ratio < 110


def test_forward_and_backward_latents_bracket_the_truth():
    """Images drawn from the model: below on average forwards, above backwards, closer with more steps."""
    latent_dim, images = 2, 500
    prior = Independent(Normal(torch.zeros(latent_dim).double(), torch.ones(latent_dim).double()), 1)
    z = prior.sample((images,))
    likelihood = binary_model(torch.zeros(1, 6).double(), latent_dim)[2]
    x = likelihood(z).sample()
    kinds, which = x.unique(dim=0, return_inverse=True)
    truth = binary_model(kinds, latent_dim)[1][which]
    explanation = binary_model(x[:1], latent_dim)[0]._replace(
        log_likelihood=lambda z: likelihood(z).log_prob(x),
        posterior=Independent(Normal(torch.zeros(images, latent_dim).double(), 1.0), 1),
    )
    widths = []
    for steps in (3, 40):
        low = latent_ais(explanation, 2, steps).log_prob - truth
        high = latent_ais_back(explanation, z, 2, steps).log_prob - truth
        error = 3 / math.sqrt(images)
        assert float(low.mean()) < error * float(low.std())
        assert float(high.mean()) > -error * float(high.std())
        widths.append(float(high.mean() - low.mean()))
    assert widths[0] > widths[1] > 0
    assert widths[1] < 0.3


@pytest.mark.parametrize("start", STARTS)
def test_more_steps_do_not_lower_the_bound(start):
    x = all_states(6)
    explanation, truth, _ = binary_model(x, 2)
    gaps = [
        float((truth - latent_ais(explanation, 5, steps, start).log_prob).mean()) for steps in (2, 15, 100)
    ]
    assert gaps[0] > gaps[1] + 0.05
    assert gaps[1] > gaps[2] - 0.03
    assert abs(gaps[2]) < 0.15


@pytest.mark.parametrize(
    ("name", "options"),
    [("VAE", {}), ("VAE", {"likelihood": "gaussian_fixed", "sigma": 0.7}), ("IWAE", {})],
    ids=["binary", "gaussian", "two layers"],
)
def test_methods_with_decoders_agree_with_many_draws_from_their_prior(name, options):
    method = tiny(name, (1, 4, 4), **options)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.rand(3, 1, 4, 4).round()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    explanation = method.explain(x)  # with a graph: annealing must neither need it nor use it up

    def weigh(x, k):
        z = explanation.prior.sample((k, len(x)))
        return Weights(explanation.log_likelihood(z), torch.zeros(k, len(x)))

    expected = importance_bound(weigh, x, 300_000)
    assert (expected.ess > 1000).all()
    for start in STARTS:
        result = latent_ais(explanation, 100, 60, start)
        torch.testing.assert_close(result.log_prob, expected.log_prob, rtol=0, atol=0.2)
        assert not result.log_prob.requires_grad
    assert all(parameter.grad is None for parameter in method.parameters())
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key])


def test_latents_of_the_same_stream_are_the_same():
    explanation, _ = gaussian_model(IMAGES.double(), 0.4, 1.5)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(latent_ais(explanation, 4, 10).log_prob)
    assert torch.equal(*runs)


def test_a_trajectory_that_diverges_is_refused():
    zeros = torch.zeros(3, 2)
    normal = Independent(Normal(zeros, 1.0, validate_args=False), 1)
    explanation = Explanation(
        Independent(Normal(zeros[0], 1.0, validate_args=False), 1), normal, normal.log_prob
    )
    path = LatentPath(explanation, "prior")
    state = path.start(5)
    wild = state._replace(log_step=torch.full((3,), 30.0))
    after = path.transition(wild, 1.0)
    assert torch.equal(after.z, state.z)
    assert (after.accepted == 0).all()
    assert (after.log_step < wild.log_step).all()


def test_a_path_names_what_it_lacks():
    with pytest.raises(TypeError, match="abstract"):
        Path()
