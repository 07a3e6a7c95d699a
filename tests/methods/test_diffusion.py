"""Facts of diffusion: exact bounds, entropies, chains that end in the data."""

import math

import pytest
import torch
from chain_models import BITS, PHASES, ExactGaussian, Nothing, heartbeat_chain, steps
from support import batch, begun, images, suited_digits, tiny, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Side
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.chains.diffusion import Diffusion
from zoo.methods.chains.shared.betas import NoiseSchedule
from zoo.methods.chains.shared.kernels import GaussianChain
from zoo.methods.chains.shared.products import Kernel

TINY = {
    "num_steps": 6,
    "channels": 4,
    "layers": (2, 1),
    "hidden_dims": (8,),
    "num_bumps": 3,
    "schedule": "learnt",
}

# The bound.


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
        outside = method.log_prob(x, 5)
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


def test_the_released_mean_is_a_velocity_with_a_gain():
    """z = -c_t v of the exact v makes the posterior's mean; of harmonic betas c_t is 1 / sqrt(t)."""

    class Velocity(nn.Module):
        def __init__(self, x, noise, gain):
            super().__init__()
            self.x, self.noise, self.gain = x, noise, gain

        def forward(self, x_t, t):
            kept = GaussianChain(betas, Nothing(2), "released").rates(t)[1].float()
            v = kept.sqrt() * self.noise - (1 - kept).sqrt() * self.x
            return torch.cat((-v / t.sqrt().view(-1, 1, 1, 1) if self.gain else v, 0 * v), 1)

    betas, t = NoiseSchedule("harmonic", 10, 3), torch.tensor([2, 5, 9])
    x, noise = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    chains = [
        GaussianChain(betas, Velocity(x, noise, form == "released"), form)
        for form in ("released", "velocity")
    ]
    kept = chains[0].rates(t)[1].float()
    x_t = kept.sqrt() * x + (1 - kept).sqrt() * noise
    want = chains[0].posterior(x, x_t, t).mean
    for chain in chains:
        torch.testing.assert_close(chain.reverse(x_t, t).mean, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chains[1].reverse(x_t, t).variance[:, 0, 0, 0], betas()[t - 1].float())


def test_drawn_steps_estimate_the_bound():
    torch.manual_seed(0)
    chain, x = ExactGaussian(NoiseSchedule("linear", 30, 3), 0.25), torch.ones(8000, 1, 1, 1)
    every, some = chain.bound(x), chain.bound(x, 4)
    error = math.hypot(float(every.std()), float(some.std())) / math.sqrt(len(x))
    assert float(some.mean()) == pytest.approx(float(every.mean()), abs=4 * error)


# Samplers.


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


# Time, averages, normalisation, repairs.


@pytest.mark.parametrize("backbone", ["multiscale", "unet", "attention_unet", "mlp", "rbf"])
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


@pytest.mark.filterwarnings("ignore")
def test_a_short_fit_brings_the_bound_up():
    data = Digits(binarize="none", dequantize=True, batch_size=100)
    x = data.split("test").x[:50]
    method = tiny("Diffusion", num_steps=10, schedule="harmonic", ema_decay=0.5, lr=3e-3)
    method.start_from(data)
    torch.manual_seed(0)
    before = method.log_prob(x, 9).mean().item()
    trainer(max_epochs=15).fit(method, datamodule=data)
    torch.manual_seed(0)
    assert method.log_prob(x, 9).mean().item() > before + 5


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
