"""Every estimator against a closed form."""

import math
import weakref
from collections import Counter

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal

from zoo.contract.capabilities import Weights
from zoo.errors import UsageError
from zoo.parts import estimators
from zoo.parts.estimators import (
    StreamedBound,
    active_units,
    bits_per_dim,
    csl,
    free_bits,
    importance_bound,
    iwae_bound,
    log_mean_exp,
    log_sum_of_others,
    pairwise_log_prob,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def weights_of(log_w):
    """Weights with the given sum and a non-trivial split into likelihood and ratio."""
    ratio = torch.sin(7 * torch.arange(log_w.numel(), dtype=log_w.dtype)).reshape(log_w.shape)
    return Weights(log_w - ratio, ratio)


def streamed(weights, chunk):
    stream = StreamedBound()
    for likelihood, ratio in zip(weights[0].split(chunk), weights[1].split(chunk), strict=True):
        stream.update(Weights(likelihood, ratio))
    return stream.compute()


def synthetic_means(n=500):
    """Posterior means of an encoder with 7 informative latents and 5 that ignore the image."""
    return torch.cat([torch.randn(n, 7), torch.randn(5).expand(n, 5)], 1)[:, torch.randperm(12)]


@pytest.mark.parametrize("dim", [0, 1])
def test_log_mean_exp_is_the_log_of_the_mean_along_the_given_axis(dim):
    w = torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]], dtype=torch.float64)
    expected = {0: [2.0, 3.0, 7.0], 1: [3.0, 5.0]}[dim]
    torch.testing.assert_close(log_mean_exp(w.log(), dim).exp(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("constant", [-543.4, 0.0, 87.25])
@pytest.mark.parametrize("num_samples", [1, 2, 5, 50, 5000])
def test_constant_weights_give_the_constant_for_any_number_of_samples(constant, num_samples):
    log_w = torch.full((num_samples, 3), constant, dtype=torch.float64)
    expected = torch.full((3,), constant, dtype=torch.float64)
    torch.testing.assert_close(iwae_bound(log_w), expected, rtol=0, atol=1e-9)
    bound = streamed(Weights(log_w - 2.0, torch.full_like(log_w, 2.0)), 7)
    torch.testing.assert_close(bound.log_prob, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(bound.elbo, expected, rtol=0, atol=1e-9)


def test_iwae_bound_reduces_samples_and_not_images():
    log_w = torch.tensor([[0.0, 10.0, 20.0], [0.0, 10.0, 20.0]])
    torch.testing.assert_close(iwae_bound(log_w), torch.tensor([0.0, 10.0, 20.0]))


def test_iwae_bound_has_the_normalised_weights_as_gradient():
    log_w = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(iwae_bound(log_w).sum(), log_w)
    w = log_w.detach().exp()
    torch.testing.assert_close(gradient, w / w.sum(0))
    assert torch.autograd.gradcheck(iwae_bound, log_w)


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_chunks_of_the_same_weights_agree_with_the_direct_estimates(chunk):
    log_likelihood, log_ratio = 5 * torch.randn(500, 11) - 90, 3 * torch.randn(500, 11) - 20
    bound = streamed(Weights(log_likelihood, log_ratio), chunk)
    log_w = (log_likelihood + log_ratio).double()
    w = log_w.softmax(0)
    direct = {
        "log_prob": torch.logsumexp(log_w, 0) - math.log(500),
        "elbo": log_w.mean(0),
        "rate": -log_ratio.double().mean(0),
        "distortion": -log_likelihood.double().mean(0),
        "ess": 1 / w.square().sum(0),
    }
    for name, expected in direct.items():
        torch.testing.assert_close(getattr(bound, name), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize("chunk", [1, 7, 401])
def test_extreme_weights_stay_finite(order, chunk):
    log_w = torch.linspace(-1e4, 1e4, 401, dtype=torch.float64)
    log_w = {"ascending": log_w, "descending": log_w.flip(0), "shuffled": log_w[torch.randperm(401)]}[order]
    bound = streamed(weights_of(log_w.unsqueeze(1).repeat(1, 2)), chunk)
    assert all(value.isfinite().all() for value in bound)
    torch.testing.assert_close(bound.log_prob, torch.full((2,), 1e4, dtype=torch.float64) - math.log(401))
    torch.testing.assert_close(bound.elbo, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(bound.ess, torch.ones(2, dtype=torch.float64))


def test_float32_weights_are_accumulated_in_float64():
    log_w = torch.full((20_000, 1), -0.1)
    bound = streamed(Weights(log_w, torch.zeros_like(log_w)), 1000)
    assert {value.dtype for value in bound} == {torch.float64}
    torch.testing.assert_close(bound.distortion, -log_w[0].double(), rtol=0, atol=1e-11)
    torch.testing.assert_close(bound.log_prob, log_w[0].double(), rtol=0, atol=1e-11)


def test_effective_sample_size_by_hand():
    w = torch.tensor([[5.0, 1.0, 1e-30], [5.0, 2.0, 1e-30], [5.0, 3.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([3.0, 36 / 14, 1.0], dtype=torch.float64)
    torch.testing.assert_close(streamed(weights_of(w.log()), 2).ess, expected)


def test_rate_and_distortion_are_the_two_parts_of_the_elbo():
    log_likelihood, log_ratio = torch.randn(50, 4) - 80, torch.randn(50, 4) - 25
    bound = streamed(Weights(log_likelihood, log_ratio), 9)
    torch.testing.assert_close(bound.rate + bound.distortion, -bound.elbo, rtol=0, atol=1e-12)
    torch.testing.assert_close(bound.rate, -log_ratio.mean(0).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(bound.distortion, -log_likelihood.mean(0).double(), rtol=0, atol=1e-4)
    assert (bound.log_prob > bound.elbo).all()


@pytest.mark.parametrize("num_samples", [0, -3])
def test_no_samples_are_refused(num_samples):
    with pytest.raises(UsageError, match=f"num_samples must be at least 1, got {num_samples}"):
        importance_bound(
            lambda x, k: weights_of(torch.zeros(k, len(x))), torch.zeros(2, 1, 2, 2), num_samples
        )


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(UsageError, match="num_samples must be at least 1, got 0"):
        StreamedBound().compute()


@pytest.mark.parametrize("num_images", [1, 49, 50, 51, 117])
def test_importance_bound_gives_one_row_per_image_in_order(num_images):
    position = torch.arange(num_images, dtype=torch.float32)
    x = position.reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    drawn = Counter()

    def weigh(part, k):
        rows = part[:, 0, 0, 0]
        drawn.update({int(row): k for row in rows})
        return Weights(-rows.repeat(k, 1), -2 * rows.repeat(k, 1))

    bound = importance_bound(weigh, x, 100)
    torch.testing.assert_close(bound.log_prob, -3 * position.double())
    torch.testing.assert_close(bound.distortion, position.double())
    torch.testing.assert_close(bound.rate, 2 * position.double())
    torch.testing.assert_close(bound.ess, torch.full((num_images,), 100.0, dtype=torch.float64))
    assert drawn == dict.fromkeys(range(num_images), 100)


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_importance_bound_in_chunks_agrees_with_the_direct_logsumexp(chunk, monkeypatch):
    monkeypatch.setattr(estimators, "IMAGES_WEIGHED_AT_ONCE", 16)
    monkeypatch.setattr(estimators, "PIXELS_IN_CACHE", chunk * 16 * 4)
    table = 5 * torch.randn(500, 32) - 90
    used = Counter()
    sizes = set()

    def weigh(part, k):
        rows = part[:, 0, 0, 0].long()
        start = used[int(rows[0])]
        used[int(rows[0])] += k
        sizes.add(k)
        return weights_of(table[start : start + k, rows])

    x = torch.arange(32.0).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    bound = importance_bound(weigh, x, 500)
    assert max(sizes) == chunk
    torch.testing.assert_close(bound.log_prob, table.double().logsumexp(0) - math.log(500), rtol=0, atol=1e-5)
    torch.testing.assert_close(bound.elbo, table.double().mean(0), rtol=0, atol=1e-5)


def test_importance_bound_builds_no_graph():
    slope = torch.ones((), requires_grad=True)
    bound = importance_bound(
        lambda x, k: weights_of(slope * torch.ones(k, len(x))), torch.zeros(3, 1, 2, 2), 4
    )
    assert not any(value.requires_grad for value in bound)


def test_free_bits_take_the_batch_mean_inside_the_maximum():
    kl = torch.tensor([[0.0, 2.0, 0.0], [1.0, 4.0, 0.2]])
    torch.testing.assert_close(free_bits(kl, 0.3), torch.tensor(0.5 + 3.0 + 0.3))


def test_free_bits_push_only_the_latents_above_the_floor():
    kl = torch.tensor([[0.0, 2.0, 0.0], [1.0, 4.0, 0.2]], requires_grad=True)
    (gradient,) = torch.autograd.grad(free_bits(kl, 0.3), kl)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]))


def test_free_bits_of_zero_are_the_plain_kl():
    kl = torch.rand(9, 4, dtype=torch.float64, requires_grad=True)
    plain, floored = kl.sum(-1).mean(), free_bits(kl, 0.0)
    torch.testing.assert_close(floored, plain)
    torch.testing.assert_close(torch.autograd.grad(floored, kl), torch.autograd.grad(plain, kl))


def test_seven_informative_latents_count_as_seven_active_units():
    means = synthetic_means()
    assert int(active_units(means).sum()) == 7
    torch.testing.assert_close(active_units(means), (means != means[0]).any(0))


def test_active_units_compare_the_variance_of_the_means_with_one_hundredth():
    unit_variance = torch.randn(1000, 2, dtype=torch.float64)
    unit_variance = (unit_variance - unit_variance.mean(0)) / unit_variance.std(0)
    means = 40 + unit_variance * torch.tensor([0.0095, 0.0105], dtype=torch.float64).sqrt()
    assert active_units(means).tolist() == [False, True]


def test_uniform_density_over_dequantised_bytes_costs_eight_bits():
    dims = 784
    assert bits_per_dim(0.0, dims, bytes_scaled=True) == 8.0
    assert bits_per_dim(dims * math.log(256), dims) == pytest.approx(8.0, abs=1e-12)


def test_bits_per_dim_of_three_binary_pixels_by_hand():
    nats = -math.log(1 / 2) - math.log(1 / 4) - math.log(1 / 8)
    assert bits_per_dim(nats, 3) == pytest.approx(2.0, abs=1e-12)


class TinyRBM:
    """A machine of 10 visible and 8 hidden units, small enough to be summed over all 1024 images."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.w, self.b, self.c = (
            0.8 * torch.randn(shape, dtype=torch.float64, generator=generator)
            for shape in ((10, 8), (8,), (10,))
        )
        self.images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 10)
        free = self.images @ self.c + nn.functional.softplus(self.images @ self.w + self.b).sum(1)
        self.log_p = free.log_softmax(0)

    def emit(self, chains, steps, burn_in=100):
        """Yield p(v|h) of Gibbs chains after `burn_in` steps."""
        v = torch.randint(2, (chains, 10)).double()
        for step in range(burn_in + steps):
            h = torch.bernoulli((v @ self.w + self.b).sigmoid())
            emission = Bernoulli(logits=(h @ self.w.T + self.c).reshape(chains, 1, 2, 5))
            v = emission.sample().flatten(1)
            if step >= burn_in:
                yield Independent(emission, 3)

    def gaps(self, chains, steps, repeats):
        """Mean of log p(v) - CSL over v ~ p, once per repeat."""
        x, p = self.images.reshape(-1, 1, 2, 5), self.log_p.exp()
        return torch.stack(
            [(p * (self.log_p - csl(self.emit(chains, steps), x).log_prob)).sum() for _ in range(repeats)]
        )


def pictures(n):
    return torch.bernoulli(torch.full((n, 1, 2, 3), 0.4))


def emissions(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for n in sizes:
        yield Independent(Bernoulli(logits=3 * torch.randn(n, 1, 2, 3, generator=generator)), 3)


def test_csl_lies_below_the_truth_and_tightens_with_more_states():
    rbm = TinyRBM()
    few, some, many = rbm.gaps(10, 10, 20), rbm.gaps(50, 20, 10), rbm.gaps(250, 20, 8)
    assert 0.0 < float(many.mean()) < 0.01
    assert float(many.mean()) + 0.001 < float(some.mean()) < float(few.mean()) - 0.01
    assert (few > 0).all()


def test_csl_of_one_state_is_exact():
    x = pictures(5)
    emission = next(emissions([1]))
    found = csl([emission], x)
    torch.testing.assert_close(found.log_prob, emission.log_prob(x).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.ess, torch.ones(5, dtype=torch.float64))
    assert (found.without == -math.inf).all()  # no other chain is left
    assert found.num_states == 1


def test_csl_is_the_mean_over_steps_and_chains():
    x = pictures(7)
    logits = torch.stack([emission.base_dist.logits for emission in emissions((3, 3, 3))])
    log_p = Independent(Bernoulli(logits=logits.double()), 3).log_prob(x.double()[:, None, None])
    found = csl(emissions((3, 3, 3)), x)
    assert found.num_states == 9
    assert found.log_prob.dtype == torch.float64
    torch.testing.assert_close(found.log_prob, log_p.exp().mean((1, 2)).log(), rtol=0, atol=1e-6)
    ess = log_p.exp().sum((1, 2)).square() / (2 * log_p).exp().sum((1, 2))
    torch.testing.assert_close(found.ess, ess, rtol=1e-5, atol=0)
    for chain in range(3):
        others = log_p[:, :, torch.arange(3) != chain].exp().mean((1, 2)).log()
        torch.testing.assert_close(found.without[chain], others, rtol=0, atol=1e-6)


def test_repeated_states_change_neither_csl_nor_its_share_of_states():
    x = pictures(4)
    once, thrice = csl(emissions((6,)), x), csl([*emissions((6,)), *emissions((6,)), *emissions((6,))], x)
    torch.testing.assert_close(thrice.log_prob, once.log_prob)
    torch.testing.assert_close(thrice.without, once.without)
    torch.testing.assert_close(thrice.ess, 3 * once.ess)


@pytest.mark.parametrize("pairs", [1, 25, 1000])
def test_csl_in_chunks_is_the_same(pairs, monkeypatch):
    x = pictures(23)
    whole = csl(emissions((5, 5)), x)
    monkeypatch.setattr(estimators, "PAIRS_AT_ONCE", pairs)
    chunks = csl(emissions((5, 5)), x)
    torch.testing.assert_close(chunks.log_prob, whole.log_prob, rtol=0, atol=1e-12)
    torch.testing.assert_close(chunks.ess, whole.ess, rtol=1e-12, atol=0)


def test_csl_keeps_one_step_of_the_chain_at_a_time():
    alive = []

    def chain():
        for emission in emissions([4] * 50):
            alive.append(weakref.ref(emission))
            yield emission
            del emission
            assert sum(reference() is not None for reference in alive) <= 2

    assert csl(chain(), pictures(3)).num_states == 200


def test_csl_of_images_that_no_state_explains():
    emission = Independent(Normal(torch.zeros(2, 1, 2, 3), 1e-3), 3)
    found = csl([emission, emission], torch.ones(2, 1, 2, 3))
    exact = emission.log_prob(torch.ones(1, 2, 3))[0].double()
    torch.testing.assert_close(found.log_prob, exact.expand(2), rtol=1e-6, atol=0)


def test_csl_refuses_what_it_cannot_average():
    with pytest.raises(UsageError, match="emissions must hold at least one state, got 0"):
        csl([], pictures(3))
    with pytest.raises(UsageError, match=r"must be a batch of images \(1, 2, 3\), got \(4,\) of \(1, 3, 2\)"):
        csl([Independent(Bernoulli(logits=torch.zeros(4, 1, 3, 2)), 3)], pictures(3))
    with pytest.raises(UsageError, match=r"must be a batch of images \(1, 2, 3\), got \(\) of \(1, 2, 3\)"):
        csl([Independent(Bernoulli(logits=torch.zeros(1, 2, 3)), 3)], pictures(3))
    with pytest.raises(UsageError, match="emissions must be of 4 chains at every step, got 3"):
        csl(emissions([4, 3]), pictures(3))
    x = pictures(3)
    x[1] = math.nan
    with pytest.raises(UsageError, match="must not be NaN, got NaN for 1 of 3 images"):
        csl(emissions([4]), x)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_log_of_the_sum_of_others_is_that_of_all_but_each(rows):
    log_w = 400 * torch.randn(rows, 3, dtype=torch.float64)  # subtracting from the sum of all would lose them
    log_w[0, 0] = -math.inf
    for row, found in enumerate(log_sum_of_others(log_w)):
        others = log_w[torch.arange(rows) != row].logsumexp(0)
        torch.testing.assert_close(found, others, rtol=1e-12, atol=0)


class Opaque(Distribution):
    """A distribution that only its own `log_prob` can read."""

    arg_constraints = {}

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def log_prob(self, value):
        return self.inner.log_prob(value)


@pytest.mark.parametrize(
    "distribution",
    [
        Independent(
            Bernoulli(logits=torch.linspace(-30, 30, 24, dtype=torch.float64).reshape(4, 1, 2, 3)), 3
        ),
        Independent(
            Bernoulli(probs=torch.linspace(0.1, 0.9, 24, dtype=torch.float64).reshape(4, 1, 2, 3)), 3
        ),
        Independent(Normal(torch.linspace(-3, 9, 24).double().reshape(4, 1, 2, 3), 0.01), 3),
        Independent(Normal(1e3, torch.linspace(0.1, 9, 24).double().reshape(4, 1, 2, 3)), 3),
        Independent(Laplace(torch.linspace(-3, 9, 24).double().reshape(4, 1, 2, 3), 0.5), 3),
    ],
    ids=lambda distribution: type(distribution.base_dist).__name__,
)
@pytest.mark.parametrize("pairs", [1, 60, 2**20])
def test_pairs_by_matrix_product_and_by_broadcasting_agree(distribution, pairs, monkeypatch):
    monkeypatch.setattr(estimators, "PAIRS_AT_ONCE", pairs)
    x = pictures(9).double()
    expected = torch.stack([distribution.log_prob(image) for image in x])
    torch.testing.assert_close(pairwise_log_prob(distribution, x), expected, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(pairwise_log_prob(Opaque(distribution), x), expected, rtol=1e-9, atol=1e-7)
