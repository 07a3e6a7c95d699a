"""Facts of DDPM: bytes and bounds, variances, DDIM's steps, samplers that end in the data."""

import itertools
import math

import pytest
import torch
from chain_models import BITS, steps
from support import batch, begun, images, tiny, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Side
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.chains.ddpm import DDPM
from zoo.methods.chains.shared.betas import NoiseSchedule
from zoo.methods.chains.shared.denoising import NoiseChain, Sampler
from zoo.methods.chains.shared.products import Kernel

TINY = {"num_steps": 6, "variance": "learnt", "channels": 4, "ema_decay": 0.5, "lr": 3e-3, "warm_up_steps": 2}


class Denoiser(nn.Module):
    """The noise expected in a state of N(0, s^2) data."""

    def __init__(self, betas: NoiseSchedule, std: float) -> None:
        super().__init__()
        self.chain, self.std = NoiseChain(betas, nn.Identity(), "beta"), std

    def forward(self, x, t):
        kept = self.chain.kept(t)
        return ((1 - kept).sqrt() / (kept * self.std**2 + 1 - kept)).to(x) * x


def exact(schedule="linear", num_steps=1000, std=1.0, variance="beta") -> NoiseChain:
    betas = NoiseSchedule(schedule, num_steps, 1)
    return NoiseChain(betas, Denoiser(betas, std), variance)


# The bound.


def test_the_probabilities_of_the_256_bytes_of_a_pixel_sum_to_one():
    chain = exact(num_steps=10)
    x = ((2 * torch.arange(256.0) / 255) - 1).view(256, 1, 1, 1)
    for mean, variance in ((0.3, 1e-4), (-1.2, 0.02), (0.999, 1e-6)):
        p = Kernel(torch.full_like(x, mean), torch.full_like(x, variance))
        log_p = -chain.cost(x, x, steps(1, 256), p).double()
        assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-5)


def test_the_bound_is_the_sum_of_its_terms_in_closed_form():
    """One pixel, T = 2, the exact denoiser: L_2 by its formula, L_1 and L_0 by integrating over states."""
    chain = exact(num_steps=2, std=0.5)
    x = torch.full((1, 1, 1, 1), 2 * 100 / 255 - 1)
    b, kept = chain.betas().tolist(), (1 - chain.betas()).cumprod(0).tolist()
    last = 0.5 * (kept[1] * float(x) ** 2 + (1 - kept[1]) - 1 - math.log(1 - kept[1]))
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    weight = (-0.5 * grid.square()).softmax(0)
    state = [math.sqrt(k) * float(x) + math.sqrt(1 - k) * grid for k in kept]

    def image(i):
        shrunk = state[i] * math.sqrt(kept[i]) * 0.25 / (kept[i] * 0.25 + 1 - kept[i])
        return shrunk.clamp(-1, 1)

    total = math.sqrt(kept[0]) * b[1] / (1 - kept[1])
    own = b[1] * (1 - kept[0]) / (1 - kept[1])
    # the kernel's mean differs from the posterior's by what the guess at the image does
    gap = total * (float(x) - image(1))
    middle = 0.5 * (own / b[1] - 1 - math.log(own / b[1]) + gap.square() / b[1])
    normal = torch.distributions.Normal(image(0), math.sqrt(b[0]))
    first = -(normal.cdf(x.double().view(()) + 1 / 255) - normal.cdf(x.double().view(()) - 1 / 255)).log()
    want = -last - float((weight * middle).sum()) - float((weight * first).sum())
    torch.manual_seed(0)
    found = chain.bound(x.expand(20_000, -1, -1, -1))
    assert float(found.mean()) == pytest.approx(want, abs=4 * float(found.std()) / math.sqrt(20_000))


def test_a_perfect_chain_knows_the_entropy_of_its_bytes():
    """Of N(0, 0.25^2) rounded to bytes: nothing is lost but the steps' coarseness."""
    torch.manual_seed(0)
    chain = exact("cosine", 1000, 0.25, "beta")
    x = (torch.randn(200, 1, 4, 4) * 0.25).clamp(-1, 1)
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    bits = -chain.bound(x, 200) / (16 * BITS)
    truth = 0.5 * math.log2(2 * math.pi * math.e * 0.25**2) - math.log2(2 / 255)
    assert float(bits.mean()) == pytest.approx(truth, abs=0.02)


def test_drawn_steps_estimate_all_of_them():
    torch.manual_seed(0)
    chain, x = exact("cosine", 40, 0.5, "learnt"), torch.zeros(6000, 1, 1, 1)
    chain.network = Twice(chain.network)
    all_steps, some = chain.bound(x), chain.bound(x, 7)
    error = math.hypot(float(all_steps.std()), float(some.std())) / math.sqrt(len(x))
    assert float(some.mean()) == pytest.approx(float(all_steps.mean()), abs=4 * error)
    assert some.std() > all_steps.std()


class Twice(nn.Module):
    """The noise, and an even mixture of the variances."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, t):
        return torch.cat((self.network(x, t), torch.zeros_like(x)), 1)


def test_a_density_of_dithered_pixels_is_the_probability_of_their_byte():
    method = begun("DDPM", eta=0.0)
    k = torch.randint(256, (5, 1, 8, 8))
    same = [k / 255, (k + torch.rand(k.shape)) / 256, (k + 0.999) / 256]
    for x in same:
        torch.testing.assert_close(method.coded(x), k * 2 / 255 - 1)
    values = []
    for x in same:
        torch.manual_seed(1)
        values.append(method.log_prob(x, 100))
    assert torch.equal(values[0], values[1])
    torch.manual_seed(1)
    torch.testing.assert_close(values[0], method.averaged.bound(method.coded(k / 255)) + 64 * math.log(256))
    assert method.side is Side.LOWER
    assert method.scored_by(3) == "3 of 5 steps of the bound, drawn per image"
    assert method.scored_by(5) == ""


# The objective.


def test_the_loss_is_the_squared_error_of_the_noise():
    method = tiny("DDPM", variance="beta", num_steps=50)
    method.chain.network = Denoiser(method.chain.betas, 1.0)
    x = torch.full((20_000, 1, 2, 2), 0.5)  # byte 128
    torch.manual_seed(0)
    loss = method.loss(Batch(x, torch.zeros(len(x)).long(), torch.arange(len(x))))["loss"]
    kept = (1 - method.chain.betas()).cumprod(0)
    # eps - sqrt(1 - kept) (sqrt(kept) x + sqrt(1 - kept) eps) = kept eps - ...
    want = kept.square() + (1 - kept) * kept / 255**2
    assert float(loss.mean()) == pytest.approx(float(want.mean()), abs=0.003)


def test_the_bound_teaches_the_variance_alone():
    method = begun("DDPM", bound_weight=1.0)
    nn.init.normal_(method.chain.network.last.weight, std=0.1)
    terms = method.loss(batch())
    (terms["loss"] - terms["distance"]).mean().backward()
    means, variances = method.chain.network.last.weight.grad.chunk(2)
    assert variances.abs().sum() > 0
    method.zero_grad()
    torch.manual_seed(3)
    method.loss(batch())["loss"].mean().backward()
    both = method.chain.network.last.weight.grad[: len(means)].clone()
    method.zero_grad()
    method.bound_weight = 0.0
    torch.manual_seed(3)
    method.loss(batch())["loss"].mean().backward()
    torch.testing.assert_close(method.chain.network.last.weight.grad[: len(means)], both)


def test_the_term_of_the_bound_estimates_it_in_bits_per_dim():
    method = begun("DDPM", (1, 6, 6), num_steps=6)
    x = images((1, 6, 6), n=3).repeat(200, 1, 1, 1)
    with torch.no_grad():
        torch.manual_seed(0)
        term = method.loss(Batch(x, torch.zeros(len(x)).long(), torch.arange(len(x))))["divergence"]
        coded = method.coded(x)
        last = method.chain.forward_kernel(coded, method.chain.kept(steps(6)))
        start = 0.5 * (last.mean.square() + last.variance - 1 - last.variance.log()).flatten(1).sum(1)
        want = (-method.chain.bound(coded) - start) / (36 * BITS)
    error = math.hypot(float(term.std()), float(want.std())) / math.sqrt(len(x))
    assert float(term.mean()) == pytest.approx(float(want.mean()), abs=4 * error)


# Variances.


@pytest.mark.parametrize("t", [2, 5, 10])
def test_the_range_of_the_learnt_variance(t):
    """At v = -1 the posterior's, at 1 beta, between them by logarithms."""
    x_t, betas = torch.randn(3, 1, 2, 2), NoiseSchedule("linear", 10, 1)
    chains = {v: NoiseChain(betas, Constant(v), "learnt") for v in (-1.0, 0.0, 1.0)}
    found = {v: float(chain.reverse(x_t, steps(t, 3)).variance[0, 0, 0, 0]) for v, chain in chains.items()}
    beta, kept, before = (float(v) for v in chains[0.0].rates(steps(t)))
    posterior = beta * (1 - before) / (1 - kept)
    assert found[-1.0] == pytest.approx(posterior, rel=1e-5)
    assert found[1.0] == pytest.approx(beta, rel=1e-5)
    assert found[0.0] == pytest.approx(math.sqrt(beta * posterior), rel=1e-5)


class Constant(nn.Module):
    """No noise, and a constant share of the variances."""

    def __init__(self, v: float) -> None:
        super().__init__()
        self.v = v

    def forward(self, x, t):
        return torch.cat((torch.zeros_like(x), torch.full_like(x, self.v)), 1)


def test_the_first_step_takes_the_posterior_s_variance_of_the_second():
    chain = exact(num_steps=10, variance="posterior")
    x = torch.randn(2, 1, 2, 2)
    one, two = (chain.reverse(x, steps(t, 2)).variance for t in (1, 2))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(chain.posterior(x, x, steps(2, 2)).variance, two)


@pytest.mark.parametrize("t", [2, 7])
def test_the_mean_is_the_posterior_s_of_the_clipped_image(t):
    chain = exact(num_steps=10, std=3.0)
    x_t = 4 * torch.randn(50, 1, 2, 2)
    kept = float((1 - chain.betas()).cumprod(0)[t - 1])
    noise = chain.network(x_t, steps(t, 50))
    x = ((x_t - math.sqrt(1 - kept) * noise) / math.sqrt(kept)).clamp(-1, 1)
    assert (x.abs() == 1).any()
    want = chain.posterior(x, x_t, steps(t, 50)).mean
    torch.testing.assert_close(chain.reverse(x_t, steps(t, 50)).mean, want, rtol=1e-4, atol=1e-5)
    with_eta = chain.jump(noise, x_t, steps(t, 50), steps(t - 1, 50), 1.0)
    torch.testing.assert_close(with_eta.mean, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(with_eta.variance, chain.posterior(x, x_t, steps(t, 50)).variance)


# Samplers.


@pytest.mark.parametrize(
    ("variance", "eta", "walk_steps", "ratio"),
    [
        ("beta", None, 1000, 0.9999),
        ("posterior", None, 1000, 0.9911),
        ("beta", 1.0, 1000, 0.9911),
        ("beta", 0.0, 1000, 0.996),
        ("beta", 0.0, 100, 0.964),
        ("beta", 0.0, 50, 0.928),
    ],
)
def test_the_variance_that_every_sampler_of_standard_normal_data_ends_with(variance, eta, walk_steps, ratio):
    """The linear recursion of the exact denoiser, read off a state so small that nothing is clipped."""
    chain = exact(variance=variance)
    sampler, spread, one = Sampler(chain, walk_steps, eta), 1.0, torch.full((1, 1, 1, 1), 1e-3)
    for step in range(sampler.num_steps, 0, -1):
        kernel, _ = sampler.back(one, step, None)
        spread = (float(kernel.mean) / 1e-3) ** 2 * spread + (float(kernel.variance) if step > 1 else 0)
    assert spread == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("walk_steps", [20, 7])
def test_a_deterministic_chain_turns_by_the_angles_between_its_steps(walk_steps):
    """Of standard normal data: a state shrinks by the cosine of the angle of which alpha-bar is cos^2."""
    chain = exact()
    sampler, scale, x = Sampler(chain, walk_steps, 0.0), 1.0, torch.full((1, 1, 1, 1), 1e-3)
    for step in range(walk_steps, 0, -1):
        scale *= float(sampler.back(x, step, None)[0].mean) / 1e-3
    angles = (1 - chain.betas()).cumprod(0).sqrt().acos()
    places = [0.0] + [float(angles[t - 1]) for t in sampler.steps[1:]]
    want = math.prod(math.cos(b - a) for a, b in itertools.pairwise(places))
    assert scale == pytest.approx(want, abs=1e-4)


def test_drawn_chains_end_in_the_distribution_of_the_data():
    torch.manual_seed(0)
    method = begun("DDPM", num_steps=200)
    method.average.network = exact("cosine", 200, 0.25)
    x = 2 * method.sample(1500) - 1
    assert float(x.mean()) == pytest.approx(0, abs=4 * 0.25 / math.sqrt(x.numel()))
    assert float(x.std()) == pytest.approx(0.25, rel=0.03)


def test_without_noise_of_its_own_a_chain_is_a_function_of_where_it_starts():
    method = begun("DDPM", eta=0.0)
    start = torch.randn(3, 1, 8, 8)
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        x = start
        for step in range(method.sampler.num_steps, 0, -1):
            with torch.no_grad():
                _, x = method.sampler.back(x, step, None)
        ends.append(x)
    assert torch.equal(*ends)


@pytest.mark.parametrize(("walk_steps", "want"), [(0, 7), (3, 4), (1, 2)])
def test_a_walk_takes_the_steps_that_it_is_told(walk_steps, want):
    method = begun("DDPM", walk_steps=walk_steps)
    assert len(list(method.walk(2))) == want
    assert method.sampler.steps[0] == 0
    assert method.sampler.steps[-1] == 6
    assert all(a < b for a, b in itertools.pairwise(method.sampler.steps))


def test_the_steps_of_a_walk_are_spread_evenly_and_distinct():
    chain = exact()
    for walk_steps in (1, 7, 50, 999, 1000):
        taken = Sampler(chain, walk_steps, None).steps
        gaps = {b - a for a, b in itertools.pairwise(taken)}
        assert len(taken) == walk_steps + 1
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1


def test_a_repair_puts_known_pixels_at_the_noise_of_every_step():
    """On a Gaussian plane: what is hidden moves by the exact chain's gains, not to the conditional 0.8."""
    torch.manual_seed(0)
    method = DDPM((1, 8, 8), num_steps=300, schedule="cosine", channels=4, eta=1.0)
    method.average.network = Pairs(NoiseSchedule("cosine", 300, 1), nn.Identity(), "posterior")
    x = torch.full((400, 1, 8, 8), 0.5 + 0.5 * 0.2)
    mask = torch.zeros_like(x)
    mask[..., ::2] = 1
    repaired = method.repair(x, mask)
    assert torch.equal(repaired[..., ::2], x[..., ::2])
    other = (2 * repaired[..., 1::2] - 1) / 0.2
    betas = method.averaged.betas()
    kept = [1.0, *(1 - betas).cumprod(0).tolist()]
    covariance, eye = 0.04 * torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double(), torch.eye(2).double()
    hidden = 0.0
    for t in range(300, 0, -1):
        before, total = (k * covariance + (1 - k) * eye for k in (kept[t - 1], kept[t]))
        gain = math.sqrt(1 - float(betas[t - 1])) * before @ torch.linalg.inv(total)
        seen = math.sqrt(kept[t]) if t < 300 else 0.0
        hidden = float(gain[1] @ torch.tensor([seen, hidden]).double())
    assert float(other.mean()) == pytest.approx(hidden, abs=0.03)
    assert 0.4 < hidden < 0.8


class Pairs(NoiseChain):
    """The exact chain of neighbouring pixels of standard deviation 0.2 and correlation 0.8."""

    def said(self, x_t, t):
        kept = float(self.kept(t)[0])
        covariance = 0.04 * torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        total = kept * covariance + (1 - kept) * torch.eye(2)
        pairs = x_t.unflatten(3, (-1, 2))
        return math.sqrt(1 - kept) * (pairs @ torch.linalg.inv(total)).flatten(3)


# Time, averages, settings.


def test_every_image_has_a_time_of_its_own():
    method = tiny("DDPM")
    for p in method.chain.network.parameters():
        nn.init.normal_(p, std=0.3)
    x, t = images(), torch.tensor([2, 3, 4, 5, 6, 1])
    y = method.chain.said(x, t)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    torch.testing.assert_close(method.chain.said(x[order], t[order]), y[order])
    same = method.chain.said(x[:1].expand(2, -1, -1, -1), torch.tensor([2, 5]))
    assert (same[0] - same[1]).abs().max() > 1e-4


def test_the_average_alone_is_published_and_samples():
    method = begun("DDPM")
    kept = method.state_dict().keys() - set(method.unpublished)
    assert {name.split(".")[0] for name in kept} == {"average"}
    before = method.sample(2, generator=torch.Generator().manual_seed(0))
    for p in method.chain.parameters():
        nn.init.zeros_(p)
    assert torch.equal(before, method.sample(2, generator=torch.Generator().manual_seed(0)))


def test_step_sizes_rise_and_fall_with_every_batch():
    method = tiny("DDPM", lr=1.0, warm_up_steps=4, lr_schedule="cosine")
    method._trainer = type("Told", (), {"estimated_stepping_batches": 100})()
    chosen = method.configure_optimizers()
    assert chosen["lr_scheduler"]["interval"] == "step"
    factor = chosen["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert factor(0) == pytest.approx(0.25)
    assert factor(3) == pytest.approx(0.5 + 0.5 * math.cos(0.03 * math.pi))
    assert factor(50) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps must be at least 2, got 1"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"walk_steps": -1}, "walk_steps must be at least 0, got -1"),
        ({"walk_steps": 7}, "walk_steps must be at most num_steps: 6, got 7"),
        ({"eta": -0.5}, "eta must not be negative, got -0.5"),
        ({"bound_weight": -1.0}, "bound_weight must not be negative, got -1.0"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, got 1.0"),
        ({"lr": 0.0}, "lr must be positive, got 0"),
        ({"image_shape": (1, 7, 7)}, "image_shape must have even sides of at least 6"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tiny("DDPM", **options)


@pytest.mark.filterwarnings("ignore")
def test_a_short_fit_brings_the_bound_up():
    data = Digits(binarize="none", dequantize=True, batch_size=100)
    x = data.split("test").x[:50]
    method = tiny("DDPM", num_steps=10, schedule="cosine", channels=4)
    torch.manual_seed(0)
    before = method.log_prob(x, 10).mean().item()
    trainer(max_epochs=4).fit(method, datamodule=data)
    torch.manual_seed(0)
    assert method.log_prob(x, 10).mean().item() > before + 5
