"""Facts of diffusion: schedules, posteriors, bounds against oracles, samplers, repairs and toy data."""

import math

import pytest
import torch
from conftest import suited_digits, tiny
from test_contract import batch, begun, images, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Side
from zoo.data.sets import Digits
from zoo.data.toys import ROLL_RADIUS, Heartbeat, SwissRoll
from zoo.errors import UsageError
from zoo.methods.chains.diffusion import Diffusion
from zoo.methods.chains.shared.betas import NoiseSchedule, bumps
from zoo.methods.chains.shared.kernels import BinomialChain, GaussianChain
from zoo.methods.chains.shared.products import Kernel

BITS = math.log(2)
PHASES = torch.stack([(torch.arange(20) % 5 == phase).float() for phase in range(5)]).view(5, 1, 1, 20)


class Nothing(nn.Module):
    """Maps of zeros."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x, t):
        return x.new_zeros(len(x), self.maps * x.shape[1], *x.shape[2:])


class ExactGaussian(GaussianChain):
    """The reverse chain of N(0, s^2) data."""

    def __init__(self, betas: NoiseSchedule, variance: float = 1.0) -> None:
        super().__init__(betas, Nothing(2), "released")
        self.variance = variance

    def reverse(self, x_t, t):
        beta, kept, before = self.rates(t)
        total, prior = kept * self.variance + 1 - kept, before * self.variance + 1 - before
        variance, slope = beta * prior / total, (1 - beta).sqrt() * prior / total
        return Kernel(slope.to(x_t) * x_t, variance.to(x_t).expand_as(x_t))


class ExactHeartbeat(nn.Module):
    """Logits of p(x_0 = 1|x_t), by enumeration of the five phases."""

    def __init__(self, betas: NoiseSchedule, activity: float) -> None:
        super().__init__()
        self.chain = BinomialChain(betas, Nothing(1), activity)

    def forward(self, x, t):
        _, kept, _ = self.chain.rates(t)
        parts = []
        for phase in PHASES:
            p = self.chain.forward_kernel(phase.expand_as(x), kept).mean
            parts.append((x * p.log() + (1 - x) * (-p).log1p()).flatten(1).sum(1))
        weights = torch.stack(parts).softmax(0)
        return torch.einsum("pb,pchw->bchw", weights, PHASES).clamp(1e-12, 1 - 1e-7).logit()


def heartbeat_chain(num_steps: int, activity: float = 0.2) -> BinomialChain:
    betas = NoiseSchedule("harmonic", num_steps, 3)
    return BinomialChain(betas, ExactHeartbeat(betas, activity), activity)


def steps(t: int, n: int = 1) -> torch.Tensor:
    return torch.full((n,), t)


# 1. Schedules.


@pytest.mark.parametrize("num_steps", [2, 40, 2000])
def test_the_harmonic_schedule_takes_away_as_much_at_every_step(num_steps):
    betas = NoiseSchedule("harmonic", num_steps, 3)()
    kept = (1 - betas).cumprod(0)
    t = torch.arange(1, num_steps + 1, dtype=torch.float64)
    torch.testing.assert_close(kept, (num_steps - t) / num_steps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["harmonic", "linear", "learnt"])
def test_gaussian_states_step_by_step_are_those_of_the_closed_form(schedule):
    torch.manual_seed(0)
    chain, n, total = ExactGaussian(NoiseSchedule(schedule, 20, 3)).requires_grad_(False), 200_000, 20
    x = start = torch.full((n, 1, 1, 1), 0.7)
    for t in range(1, total + 1):
        beta, kept, _ = chain.rates(steps(t))
        x = chain.draw(chain.forward_kernel(x, 1 - beta))
        if t in (1, total // 2, total):
            want = chain.forward_kernel(start, kept)
            mean, variance = float(want.mean[0]), float(want.variance[0])
            assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
            assert float(x.var()) == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / n))


def test_binomial_states_step_by_step_are_those_of_the_closed_form():
    torch.manual_seed(0)
    chain, n = heartbeat_chain(10), 200_000
    x = start = (torch.arange(n) % 2).float().view(-1, 1, 1, 1)
    for t in range(1, 11):
        beta, kept, _ = chain.rates(steps(t))
        x = chain.draw(chain.forward_kernel(x, 1 - beta))
        if t in (1, 5, 10):
            want = chain.forward_kernel(start, kept).mean
            for bit in (0, 1):
                p = float(want[bit])
                assert float(x[bit::2].mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) * 2 / n))


def test_the_learnt_schedule_moves_all_but_its_first_step():
    betas = NoiseSchedule("learnt", 1000, 10).requires_grad_(False)
    first = betas().clone()
    assert float(first[0]) == pytest.approx(2e-3, rel=1e-3)
    torch.testing.assert_close(first[1:], 1 / torch.linspace(1000, 2, 1000).double()[1:], rtol=1e-6, atol=0)
    assert NoiseSchedule("learnt", 40, 3, first=1e-3)()[0] == 1e-3
    with torch.no_grad():
        betas.shift.fill_(0.5)
    torch.testing.assert_close(betas()[1:].logit(), first[1:].logit() + 0.5, rtol=1e-6, atol=1e-9)
    assert betas()[0] == first[0]
    with torch.no_grad():
        betas.shift.fill_(-100)
    assert float(betas()[1:].min()) == pytest.approx(1e-6)


def test_bumps_sum_to_one_and_are_centred_over_time():
    b = bumps(99, 4)
    torch.testing.assert_close(b.sum(1), torch.ones(99).double())
    assert (b.argmax(1).diff() >= 0).all()
    assert sorted(set(b.argmax(1).tolist())) == [0, 1, 2, 3]


# 2. Posteriors.


@pytest.mark.parametrize("t", [2, 10, 19])
def test_the_gaussian_posterior_is_the_normalised_product(t):
    chain = ExactGaussian(NoiseSchedule("harmonic", 20, 3))
    x, x_t = torch.tensor(0.8).view(1, 1, 1, 1), torch.tensor(-0.3).view(1, 1, 1, 1)
    beta, _, before = (float(v) for v in chain.rates(steps(t)))
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_q = -0.5 * (-0.3 - math.sqrt(1 - beta) * grid).square() / beta
    log_q = log_q - 0.5 * (grid - math.sqrt(before) * 0.8).square() / (1 - before)
    p = log_q.softmax(0)
    mean = float((p * grid).sum())
    found = chain.posterior(x, x_t, steps(t))
    assert float(found.mean) == pytest.approx(mean, abs=1e-6)
    assert float(found.variance) == pytest.approx(float((p * (grid - mean).square()).sum()), abs=1e-6)


def test_the_posterior_of_the_first_step_is_the_image():
    chain = ExactGaussian(NoiseSchedule("linear", 20, 3))
    x = torch.randn(3, 1, 2, 2)
    found = chain.posterior(x, torch.randn_like(x), steps(1, 3))
    torch.testing.assert_close(found.mean, x)
    assert not found.variance.any()


@pytest.mark.parametrize("t", [2, 10, 20])
def test_the_binomial_posterior_is_the_normalised_product(t):
    chain = heartbeat_chain(20)
    beta, _, before = chain.rates(steps(t))
    for x0 in (0.0, 1.0):
        for x_t in (0.0, 1.0):
            joint = []
            for middle in (0.0, 1.0):
                prior = float(chain.forward_kernel(torch.tensor(x0).view(1, 1, 1, 1), before).mean)
                step = float(chain.forward_kernel(torch.tensor(middle).view(1, 1, 1, 1), 1 - beta).mean)
                joint.append((prior if middle else 1 - prior) * (step if x_t else 1 - step))
            both = (torch.tensor(v).view(1, 1, 1, 1) for v in (x0, x_t))
            assert float(chain.posterior(*both, steps(t)).mean) == pytest.approx(
                joint[1] / sum(joint), abs=1e-6
            )


# 3. The bound.


@pytest.mark.parametrize(("schedule", "num_steps"), [("harmonic", 20), ("linear", 50), ("learnt", 30)])
def test_the_bound_of_standard_normal_data_is_exact(schedule, num_steps):
    """For every image, whatever the schedule; on average -2.0471 bits/dim."""
    torch.manual_seed(0)
    x = torch.randn(50, 1, 2, 2)
    chain = GaussianChain(NoiseSchedule(schedule, num_steps, 3), Nothing(2), "released").requires_grad_(False)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
    noisy = torch.stack([chain.bound(x) for _ in range(50)])
    error = noisy.std(0) / math.sqrt(50) + 1e-4
    assert ((noisy.mean(0) - truth).abs() < 5 * error).all()
    big = torch.randn(200_000, 1, 1, 1)
    assert float(chain.bound(big).mean()) / BITS == pytest.approx(-2.0471, abs=0.01)


def test_the_bound_of_narrow_normal_data():
    torch.manual_seed(0)
    chain = ExactGaussian(NoiseSchedule("linear", 1000, 3), 0.25)
    x = 0.5 * torch.randn(4000, 1, 1, 1)
    truth = torch.distributions.Normal(0.0, 0.5).log_prob(x).flatten(1).sum(1)
    bound = chain.bound(x)
    gap = (bound - truth) / BITS
    assert float(gap.mean()) == pytest.approx(-0.0002, abs=5 * float(gap.std()) / math.sqrt(4000))


def test_the_bound_holds_for_data_of_another_moment():
    """Where the paper's shortcut of the entropies claims more than the truth."""
    torch.manual_seed(0)
    chain = ExactGaussian(NoiseSchedule("harmonic", 40, 3), 4.0)
    x = 2 * torch.randn(20_000, 1, 1, 1)
    truth = torch.distributions.Normal(0.0, 2.0).log_prob(x).flatten(1).sum(1)
    gap = chain.bound(x) - truth
    assert float(gap.mean()) < 4 * float(gap.std()) / math.sqrt(len(x))


@pytest.mark.parametrize(("num_steps", "bits", "error"), [(20, -4.739, 0.052), (50, -3.469, 0.036)])
def test_the_best_reverse_chain_of_the_heartbeat(num_steps, bits, error):
    torch.manual_seed(0)
    bound = heartbeat_chain(num_steps).bound(PHASES.repeat(400, 1, 1, 1)) / BITS
    own = float(bound.std()) / math.sqrt(len(bound))
    assert float(bound.mean()) == pytest.approx(bits, abs=4 * math.hypot(own, error))


def test_heartbeat_baseline_and_first_entropy():
    chain = heartbeat_chain(2000)
    null = chain.null_log_prob(Kernel(PHASES, torch.zeros_like(PHASES)))
    assert float(null.mean()) / BITS == pytest.approx(-14.4386, abs=1e-3)
    _, kept, _ = chain.rates(steps(1))
    assert float(chain.entropy(PHASES, kept).mean()) / BITS == pytest.approx(0.0439, abs=2e-4)


@pytest.mark.parametrize("chain", [heartbeat_chain(12), ExactGaussian(NoiseSchedule("linear", 12, 3), 0.5)])
def test_one_step_at_random_estimates_the_sum_of_all(chain):
    torch.manual_seed(0)
    x = PHASES.repeat(4000, 1, 1, 1)
    total = -(chain.bound(x) - chain.ends(x))
    t = torch.randint(2, 13, (len(x),))
    single = 11 * chain.divergence(x, t)
    error = math.hypot(float(single.std()), float(total.std())) / math.sqrt(len(x))
    assert float(single.mean()) == pytest.approx(float(total.mean()), abs=4 * error)


def test_the_loss_is_an_estimate_of_minus_the_bound():
    torch.manual_seed(0)
    method = begun("Diffusion", schedule="harmonic", ema_decay=0.0)
    x = images(n=3).repeat(2000, 1, 1, 1)
    given = Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))
    with torch.no_grad():
        loss = method.loss(given)["loss"]
        bound = method.chain.bound(method.standardised(x))
    error = math.hypot(float(loss.std()), float(bound.std())) / math.sqrt(len(x))
    assert float(loss.mean()) == pytest.approx(-float(bound.mean()), abs=4 * error)


def test_a_density_of_pixels_counts_their_scale():
    method = begun("Diffusion")
    x = images()
    with torch.no_grad():
        torch.manual_seed(1)
        inside = method.averaged.bound(method.standardised(x))
        torch.manual_seed(1)
        outside = method.log_prob(x, 1)
    torch.testing.assert_close(outside, inside - 64 * method.std.log())
    assert 0 < float(method.std) < 1
    assert method.side is Side.LOWER
    gain = outside - method.baseline_log_prob(x)
    null = torch.distributions.Normal(0.0, 1.0).log_prob(method.standardised(x)).flatten(1).sum(1)
    torch.testing.assert_close(gain, inside - null)


@pytest.mark.parametrize("chain", [heartbeat_chain(15), ExactGaussian(NoiseSchedule("linear", 15, 3))])
def test_entropy_bounds_are_ordered(chain):
    lower, upper = chain.entropy_bounds(PHASES).T
    assert lower.shape == (14,)
    assert (lower <= upper + 1e-5).all()


def test_entropy_bounds_contain_the_entropy_of_a_gaussian_reverse_step():
    chain = ExactGaussian(NoiseSchedule("linear", 15, 3), 0.25)
    bounds = chain.entropy_bounds(torch.zeros(1, 1, 1, 1))
    for step, (lower, upper) in zip(range(2, 16), bounds.tolist(), strict=True):
        variance = float(chain.reverse(torch.zeros(1, 1, 1, 1), steps(step)).variance)
        entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
        assert lower - 1e-5 <= entropy <= upper + 1e-5


def test_the_paper_s_form_of_the_kernel():
    class Ones(nn.Module):
        def forward(self, x, t):
            return torch.cat((torch.full_like(x, 2.0), torch.full_like(x, 0.5)), 1)

    betas = NoiseSchedule("harmonic", 10, 3)
    x, beta = torch.randn(4, 1, 2, 2), 1 / 6
    logit = math.log(beta / (1 - beta))
    released = GaussianChain(betas, Ones(), "released").reverse(x, steps(5, 4))
    variance = 1 / (1 + math.exp(-(0.5 / math.sqrt(10) + logit)))
    torch.testing.assert_close(released.variance, torch.full_like(x, variance))
    torch.testing.assert_close(released.mean, math.sqrt(1 - beta) * x + math.sqrt(beta) * 2)
    paper = GaussianChain(betas, Ones(), "paper").reverse(x, steps(5, 4))
    variance = 1 / (1 + math.exp(-(0.5 + logit)))
    torch.testing.assert_close(paper.variance, torch.full_like(x, variance))
    torch.testing.assert_close(paper.mean, (x - 2) * (1 - variance) + 2)


# 4. Samplers.


@pytest.mark.parametrize(("kind", "ratio"), [("exact", 1.0), ("beta", 0.9999), ("posterior", 0.9911)])
def test_the_variance_that_a_linear_reverse_chain_ends_with(kind, ratio):
    chain = ExactGaussian(NoiseSchedule("linear", 1000, 3))
    one, variance = torch.ones(1, 1, 1, 1), 1.0
    for t in range(1000, 1, -1):
        kernel = chain.reverse(one, steps(t))
        spread = {
            "exact": kernel.variance,
            "beta": chain.rates(steps(t))[0],
            "posterior": chain.posterior(one, one, steps(t)).variance,
        }[kind]
        variance = float(kernel.mean) ** 2 * variance + float(spread)
    first = float(chain.first_kernel(one).mean)
    assert first**2 * variance == pytest.approx(ratio * first**2, abs=2e-4)


def test_drawn_chains_end_in_the_distribution_of_the_data():
    torch.manual_seed(0)
    method = begun("Diffusion", (1, 8, 8))
    method.average.network = ExactGaussian(NoiseSchedule("harmonic", 50, 3), 0.25)
    method.mean.fill_(0.5)
    method.std.fill_(0.1)
    x = (method.sample(2000) - 0.5) / 0.1
    assert float(x.mean()) == pytest.approx(0, abs=4 * 0.5 / math.sqrt(x.numel()))
    beta = 1 / 50  # the last step's mean, not its noise
    assert float(x.var()) == pytest.approx((1 - beta) * (0.25 * (1 - beta) + beta), rel=0.02)


def test_the_exact_heartbeat_is_sampled():
    torch.manual_seed(0)
    method = Diffusion((1, 1, 20), kernel="binomial", num_steps=200, activity=0.2, backbone="mlp")
    method.average.network = heartbeat_chain(200)
    x = method.sample(400, generator=torch.Generator().manual_seed(0)).round()
    known = (x[:, None] == PHASES).flatten(2).all(2)
    assert float(known.any(1).float().mean()) > 0.85
    assert known.float().mean(0).min() > 0.1


def test_a_trajectory_has_every_state():
    method = begun("Diffusion")
    states = list(method.walk(3))
    assert len(states) == method.chain.num_steps + 1
    assert all(state.shape == (3, 1, 8, 8) for state in states)


# 5. Time, averages, normalisation, repairs.


@pytest.mark.parametrize("backbone", ["multiscale", "unet", "mlp", "rbf"])
@pytest.mark.parametrize("kernel", ["gaussian", "binomial"])
def test_every_image_has_a_time_of_its_own(backbone, kernel):
    method = tiny("Diffusion", backbone=backbone, kernel=kernel, schedule="harmonic")
    for p in method.chain.network.parameters():
        nn.init.normal_(p, std=0.3)
    x, t = images(), torch.tensor([2, 3, 4, 5, 6, 2])
    y = method.chain.network(x, t)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(method.chain.network(x[order], t[order]), y[order])
    same = method.chain.network(x[:1].expand(2, -1, -1, -1), torch.tensor([2, 5]))
    assert (same[0] - same[1]).abs().max() > 1e-4


def test_the_average_of_a_constant_stream():
    method = begun("Diffusion", ema_decay=0.5)
    with torch.no_grad():
        for p in method.average.network.parameters():
            p.zero_()
        for p in method.chain.parameters():
            p.fill_(1.0)
    weight = 0.0
    for k in range(6):
        method.on_train_batch_end(None, batch(), k)
        decay = min(0.5, (1 + k) / (10 + k))
        weight = decay * weight + 1 - decay
        for p in method.average.network.parameters():
            torch.testing.assert_close(p, torch.full_like(p, weight))


def test_the_chain_sees_unit_second_moment():
    method = tiny("Diffusion")
    data = suited_digits(method)
    method.start_from(data)
    x = method.standardised(data.originals("train").float() / 255)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.square().mean()) == pytest.approx(1, abs=1e-4)


def test_bits_are_not_standardised():
    method = tiny("Diffusion", kernel="binomial", schedule="harmonic")
    method.start_from(suited_digits(method))
    x = images()
    assert torch.equal(method.standardised(x), x)


def test_what_is_known_comes_back_to_the_bit():
    method = begun("Diffusion")
    x, mask = torch.rand(3, 1, 8, 8), torch.zeros(3, 1, 8, 8)
    mask[..., :4] = 1
    assert torch.equal(method.repair(x, mask)[..., :4], x[..., :4])


class Correlated(ExactGaussian):
    """The reverse chain of a two-dimensional Gaussian, pixel by pixel given both."""

    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])

    def reverse(self, x_t, t):
        beta, kept, before = (float(v[0]) for v in self.rates(t))
        eye = torch.eye(2)
        prior = before * self.covariance + (1 - before) * eye
        total = kept * self.covariance + (1 - kept) * eye
        gain = math.sqrt(1 - beta) * prior @ torch.linalg.inv(total)
        left = prior - gain @ (math.sqrt(1 - beta) * prior)
        mean = x_t.flatten(1) @ gain.T
        return Kernel(mean.view_as(x_t), left.diag().view(1, 1, 1, 2).expand_as(x_t))


def test_a_clamped_chain_is_not_the_conditional():
    torch.manual_seed(0)
    method = Diffusion((1, 1, 2), num_steps=1000, schedule="linear", backbone="rbf")
    method.average.network = Correlated(NoiseSchedule("linear", 1000, 3))
    method.std.fill_(0.05)
    method.mean.fill_(0.5)
    x = torch.full((4000, 1, 1, 2), 0.55)
    mask = torch.tensor([1.0, 0.0]).expand_as(x)
    other = (method.repair(x, mask)[..., 1] - 0.5) / 0.05
    assert float(other.mean()) == pytest.approx(0.606, abs=4 * math.sqrt(0.495 / 4000))
    assert float(other.var()) == pytest.approx(0.495, abs=4 * 0.495 * math.sqrt(2 / 4000))


def standard_normal_plane(**options) -> Diffusion:
    """The exact chain of N(0, I) in two pixels of mean 0.5 and standard deviation 0.05."""
    method = Diffusion((1, 1, 2), num_steps=200, backbone="rbf", **options)
    method.average.network = ExactGaussian(NoiseSchedule("harmonic", 200, 3))
    method.std.fill_(0.05)
    method.mean.fill_(0.5)
    return method


def test_denoising_gaussian_data_moves_towards_what_was_seen():
    torch.manual_seed(0)
    method = standard_normal_plane()
    seen = torch.full((2000, 1, 1, 2), 0.55)
    far, near = (((method.denoise(seen, sigma) - 0.5) / 0.05) for sigma in (5.0, 0.0005))
    assert float(far.mean()) == pytest.approx(0, abs=0.1)
    torch.testing.assert_close(near.mean(), torch.tensor(1.0), rtol=0, atol=0.02)
    assert float(near.var()) < 0.01 < float(far.var())


def test_tilting_moves_the_mean():
    torch.manual_seed(0)
    method = standard_normal_plane(repair_schedule="linear")
    x = (method.tilt(lambda x: 0.3 * x.flatten(1).sum(1), 4000) - 0.5) / 0.05
    assert 0.1 < float(x.mean()) < 1.0
    still = (method.tilt(lambda x: 0.0 * x.flatten(1).sum(1), 4000) - 0.5) / 0.05
    assert float(still.mean()) == pytest.approx(0, abs=4 / math.sqrt(8000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"kernel": "binomial"}, "schedule: learnt needs kernel: gaussian, got binomial"),
        ({"activity": 1.0}, "activity must be above 0 and below 1, got 1.0"),
        ({"first_beta": 1.0}, "first_beta must be at least 0 and below 1, got 1.0"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"hidden_dims": (0,)}, "hidden_dims must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tiny("Diffusion", **options)


def test_what_a_binomial_chain_cannot_do_is_refused():
    method = tiny("Diffusion", kernel="binomial", schedule="harmonic")
    with pytest.raises(UsageError, match="denoise needs kernel: gaussian"):
        method.denoise(images(), 0.1)
    with pytest.raises(UsageError, match="tilt needs kernel: gaussian"):
        method.tilt(lambda x: x.flatten(1).sum(1), 2)


# Toy data.


def test_heartbeats_are_the_five_phases():
    data = Heartbeat()
    for split in ("train", "val", "test"):
        given = data.split(split)
        assert given.x.shape[1:] == (1, 1, 20)
        assert torch.equal(given.x, PHASES[given.y])
        assert float(given.y.bincount(minlength=5).float().std()) < 0.2 * len(given.y) / 5


def test_the_swiss_roll_is_a_spiral():
    data = SwissRoll(binarize="none", dequantize=True)
    x = data.split("train").x.flatten(1)
    assert x.shape[1] == 2
    assert 0 < float(x.min()) < 0.2
    assert 0.85 < float(x.max()) < 1
    turns = (x - 0.5) * 2 * ROLL_RADIUS  # the radius of scikit-learn's spiral is its angle
    angle = torch.atan2(turns[:, 1], turns[:, 0]).remainder(2 * math.pi)
    off = (turns.norm(dim=1) - angle).remainder(2 * math.pi)
    off = torch.minimum(off, 2 * math.pi - off)
    assert 0.3 < float(off.square().mean().sqrt()) < 0.8, "noise of 0.5 about the spiral"


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.flatten(1).double(), y.flatten(1).double()
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


@pytest.mark.filterwarnings("ignore")
def test_a_short_fit_brings_the_bound_up():
    data = Digits(binarize="none", dequantize=True, batch_size=100)
    x = data.split("test").x[:50]
    method = tiny("Diffusion", num_steps=10, schedule="harmonic", ema_decay=0.5, lr=3e-3)
    method.start_from(data)
    torch.manual_seed(0)
    before = method.log_prob(x, 1).mean().item()
    trainer(max_epochs=15).fit(method, datamodule=data)
    torch.manual_seed(0)
    assert method.log_prob(x, 1).mean().item() > before + 5
