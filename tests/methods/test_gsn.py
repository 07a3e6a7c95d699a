"""Facts of generative stochastic networks: schedule, noise, walkback, the state that a chain carries."""

import copy
import math

import numpy as np
import pytest
import torch
from support import tiny, trainer

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.autoencoders.dae import DAE
from zoo.methods.autoencoders.gsn import GSN
from zoo.parts.corruption import SaltAndPepper

TINY = {"hidden_dims": (16, 8), "num_starts": 9, "walk_steps": 7, "burn_in_steps": 4, "emit_steps": 3}

SHAPE = (1, 2, 3)


def labelled(x) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))


def bits(n: int, shape=SHAPE, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, (n, *shape), generator=torch.Generator().manual_seed(seed)).float()


def small_gsn(shape=SHAPE, **options) -> GSN:
    """With biases that are not zero."""
    torch.manual_seed(0)
    sizes = {"hidden_dims": (5, 4), "num_starts": 4, "walk_steps": 6, "burn_in_steps": 6, "emit_steps": 4}
    method = GSN(shape, **sizes | options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return method


def copying(strength: float = 20.0, **options) -> GSN:
    """One hidden layer whose units copy the pixels, and give them back."""
    method = GSN(SHAPE, hidden_dims=(6,), **options)
    with torch.no_grad():
        method.weights[0].copy_(strength * torch.eye(6))
        method.biases[1].fill_(-strength / 2)
    return method


def watched(method: GSN, monkeypatch) -> tuple[list, list]:
    """What every step is given, and the hidden layers that it leaves."""
    given, left = [], []
    straight = GSN.swept

    def swept(self, x, hidden, noise):
        given.append((x, hidden))
        left.append(straight(self, x, hidden, noise))
        return left[-1]

    monkeypatch.setattr(GSN, "swept", swept)
    return given, left


def as_dae(options) -> tuple[DAE, GSN]:
    """A DAE of one hidden layer of tanh units, and a GSN of one without noise: same settings and seed."""
    shared = {"hidden_dims": (12,), "level": 0.3, "num_starts": 9, "walk_steps": 5, "emit_steps": 4} | options
    torch.manual_seed(4)
    dae = DAE((1, 8, 8), activation="tanh", **shared)
    torch.manual_seed(4)
    gsn = GSN((1, 8, 8), noise=0.0, momentum=0.0, burn_in_steps=5, **shared)
    return dae, gsn


@pytest.mark.parametrize("walkback_steps", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.01, "lr_schedule": "constant"},
        {"lr": 0.01, "lr_final": 1e-3, "lr_schedule": "cosine", "optimizer": "adam"},
    ],
)
def test_one_hidden_layer_without_noise_is_a_denoising_autoencoder_to_the_bit(walkback_steps, options):
    """It starts, learns, walks, emits, repairs and reconstructs as one, from the same seed."""
    found = []
    for method in as_dae({"walkback_steps": walkback_steps} | options):
        torch.manual_seed(5)
        x = bits(7, (1, 8, 8))
        terms = method.loss(labelled(x))
        torch.manual_seed(6)
        data = Digits(binarize="threshold", batch_size=50)
        trainer(max_epochs=2, limit_train_batches=3).fit(method, datamodule=data)
        stream = torch.Generator().manual_seed(1)
        mask = bits(7, (1, 8, 8), seed=8)
        found.append(
            [
                *terms.values(),
                *(value for value in method.state_dict().values() if value.ndim == 2),
                method.starts,
                *method.walk(4, generator=stream),
                *(p.base_dist.logits for p in method.emit(4, generator=stream)),
                method.repair(x, mask, generator=stream),
                method.encode(x),
                method.reconstruct(x),
            ]
        )
    assert len(found[0]) == 2 + 1 + 1 + 5 + 4 + 1 + 2
    assert [i for i, (one, two) in enumerate(zip(*found, strict=True)) if not torch.equal(one, two)] == []


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_odd_layers_read_the_old_even_ones_and_even_layers_the_new_odd_ones(depth):
    method = small_gsn(hidden_dims=(5, 4, 3, 2)[:depth], noise=0.0, level=0.0)
    x, stream = bits(7), torch.Generator().manual_seed(2)
    before = [torch.randn(7, width, generator=stream) for width in method.hidden_dims]
    p, after = method.step(x, before)
    v, w, b = x.flatten(1), list(method.weights), list(method.biases)
    old, new = [v, *before, torch.zeros(7, 1)], [v, *after, torch.zeros(7, 1)]
    down = [*w, torch.zeros(1, method.hidden_dims[-1])]
    for i in range(1, depth + 1):
        read = old if i % 2 else new  # even layers come second
        expected = torch.tanh(b[i] + read[i - 1] @ w[i - 1].T + read[i + 1] @ down[i])
        assert torch.allclose(after[i - 1], expected, atol=1e-6)
    logits = b[0] + after[0] @ w[0]
    assert torch.allclose(p.base_dist.logits.flatten(1), logits, atol=1e-5)
    p, first = method.step(x, method.resting(x))
    assert torch.allclose(first[0], torch.tanh(b[1] + v @ w[0].T), atol=1e-6)
    assert not torch.allclose(first[0], after[0], atol=1e-2)


def of_noisy_tanh(a: torch.Tensor, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of tanh(a + noise N(0, 1)) by Gauss-Hermite quadrature."""
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(80))
    values = torch.tanh(a.double().unsqueeze(-1) + noise * nodes)
    weights = weights / math.sqrt(2 * math.pi)
    mean = (values * weights).sum(-1)
    return mean, (values.square() * weights).sum(-1) - mean.square()


@pytest.mark.parametrize("noisy_first", [False, True])
def test_noise_before_and_after_the_tanh_of_all_layers_but_the_first(noisy_first):
    noise, n = 0.8, 200_000
    method = small_gsn(hidden_dims=(3, 2), noise=noise, level=0.0, noisy_first=noisy_first)
    x = bits(1).expand(n, *SHAPE)
    torch.manual_seed(1)
    h1, h2 = method.swept(x, method.resting(x), noise)
    a1 = method.biases[1] + x[0].flatten() @ method.weights[0].T
    if noisy_first:
        mean, variance = of_noisy_tanh(a1.detach(), noise)
        assert torch.allclose(h1.mean(0).double(), mean, atol=0.01)
        assert torch.allclose(h1.var(0).double(), variance + noise**2, rtol=0.02)
        residual = h2.detach() - torch.tanh(method.biases[2] + h1 @ method.weights[1].T).detach()
        assert (residual.var(0) > noise**2).all()
    else:
        assert torch.equal(h1, h1[:1].expand_as(h1))
        a2 = method.biases[2] + h1[0] @ method.weights[1].T
        mean, variance = of_noisy_tanh(a2.detach(), noise)
        assert (mean - a2.detach().tanh().double()).abs().max() > 0.02
        assert torch.allclose(h2.mean(0).double(), mean, atol=0.01)
        assert torch.allclose(h2.var(0).double(), variance + noise**2, rtol=0.02)
        assert abs(torch.corrcoef(h2.T)[0, 1].item()) < 0.01  # of its own in each unit


def test_the_gradient_flows_through_hidden_layers_across_steps():
    method, x = small_gsn(), bits(50)
    _, hidden = method.step(x, method.resting(x))
    for h in hidden:
        h.retain_grad()
    p, _ = method.step(x, hidden)
    (-p.log_prob(x)).sum().backward()
    assert hidden[1].grad.abs().sum() > 0  # read by the odd layer of the second step
    assert hidden[0].grad.abs().sum() > 0  # by the even one of the first


def test_every_step_aims_at_the_clean_image_and_no_gradient_passes_a_draw(monkeypatch):
    """The gradient at the logits of step t is sigma(a_t) - x: no other path leads through them."""
    method, x, seen, inputs = small_gsn(walkback_steps=4), bits(50), [], []
    straight = GSN.emission

    def emission(self, z):
        seen.append(straight(self, z))
        seen[-1].base_dist.logits.retain_grad()
        return seen[-1]

    monkeypatch.setattr(GSN, "emission", emission)
    corrupt = method.corrupt.forward
    method.corrupt.forward = lambda state: (inputs.append(state), corrupt(state))[1]
    terms = method.loss(labelled(x))
    terms["loss"].sum().backward()
    assert len(seen) == len(inputs) == 4
    assert torch.allclose(terms["loss"], -sum(p.log_prob(x) for p in seen))
    assert torch.allclose(terms["distortion"], -seen[0].log_prob(x))
    assert torch.equal(inputs[0], x)
    for p in seen:
        assert torch.allclose(p.base_dist.logits.grad, p.mean - x, atol=1e-6)
    for p, state in zip(seen, inputs[1:], strict=False):  # drawn, neither rounded nor left as a mean
        assert not state.requires_grad
        assert set(state.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(state, p.mean.round())
        assert not torch.equal(state, x)
        assert (state - p.mean).mean().abs() < 0.15


def test_the_top_layer_speaks_from_as_many_steps_on_as_there_are_layers():
    for depth in (2, 3, 4):
        torch.manual_seed(0)
        method, x = GSN(SHAPE, hidden_dims=(5,) * depth, noise=0.0), bits(20)
        hidden, heard = method.resting(x), []
        for _ in range(depth):
            p, hidden = method.step(x, hidden)
            method.zero_grad()
            p.log_prob(x).sum().backward(retain_graph=True)
            grad = method.weights[-1].grad
            heard.append(grad is not None and bool(grad.any()))
        assert heard == [False] * (depth - 1) + [True]


def test_neighbours_share_one_matrix_and_a_layer_has_one_bias():
    method = GSN(SHAPE, hidden_dims=(5, 4, 3))
    shapes = sorted(tuple(p.shape) for p in method.parameters())
    assert shapes == sorted([(5, 6), (4, 5), (3, 4), (6,), (5,), (4,), (3,)])
    assert sorted(tuple(p.shape) for p in copy.deepcopy(method).parameters()) == shapes


def test_the_chain_leaves_its_start_where_the_clean_image_is_not_given_back():
    """Copied pixels flip with level / 2 in each step: after t steps (1 - (1 - level)^t) / 2 of them have."""
    level = 0.2
    method = copying(level=level, noise=0.0, num_starts=1, walk_steps=40)
    method.starts.copy_(bits(1))
    apart = [(x - method.starts).abs().mean().item() for x in method.walk(3000)]
    for t in (1, 5, 40):
        assert apart[t - 1] == pytest.approx((1 - (1 - level) ** t) / 2, abs=0.02)
    stuck = copying(level=0.0, noise=0.0, num_starts=1)
    stuck.starts.copy_(bits(1))
    assert (stuck.sample(20) - stuck.starts).abs().max() < 1e-3


@pytest.mark.parametrize("way", ["loss", "walk", "emit", "repair"])
def test_the_hidden_layers_are_carried_from_step_to_step(way, monkeypatch):
    method = small_gsn(walkback_steps=6)
    given, left = watched(method, monkeypatch)
    x = bits(4)
    {
        "loss": lambda: method.loss(labelled(x)),
        "walk": lambda: list(method.walk(4)),
        "emit": lambda: list(method.emit(4)),
        "repair": lambda: method.repair(x, bits(4, seed=4)),
    }[way]()
    assert len(given) == (10 if way == "emit" else 6)
    assert all(not h.any() for h in given[0][1])
    assert all(hidden is before for (_, hidden), before in zip(given[1:], left, strict=False))


def test_the_top_layer_of_a_chain_is_correlated_with_itself(monkeypatch):
    """Two layers that no pixel drives: what one step knows of the last, it knows from the state."""
    method = GSN(SHAPE, hidden_dims=(4, 4), noise=0.5, num_starts=0, walk_steps=20)
    with torch.no_grad():
        method.weights[0].zero_()
        method.weights[1].copy_(2 * torch.eye(4))
    _, left = watched(method, monkeypatch)
    list(method.walk(3000))
    one, two = left[-2][1].flatten(), left[-1][1].flatten()
    assert torch.corrcoef(torch.stack((one, two)))[0, 1] > 0.5
    other = torch.corrcoef(torch.stack((one, two.view(3000, 4).roll(1, 0).flatten())))[0, 1]
    assert other.abs() < 0.05


def test_emissions_follow_the_burn_in_of_the_same_chain():
    method = small_gsn()
    longer = copy.deepcopy(method)
    longer.walk_steps = 10
    walk = list(longer.walk(3, generator=torch.Generator().manual_seed(1)))
    emitted = [p.mean for p in method.emit(3, generator=torch.Generator().manual_seed(1))]
    assert len(list(method.walk(3))) == 6
    assert torch.equal(torch.stack(emitted), torch.stack(walk[6:]))


def test_chains_start_in_images_of_the_first_batch_or_in_random_bits():
    data = Digits(binarize="threshold", batch_size=50)
    method = tiny("GSN", num_starts=120)
    trainer(max_epochs=2, limit_train_batches=2).fit(method, datamodule=data)
    starts = method.starts
    assert torch.equal(starts[:50], starts[50:100])
    seen = data.split("train").x.flatten(1)
    assert (torch.cdist(starts[:50].flatten(1), seen).amin(1) == 0).all()
    assert len(starts[:50].flatten(1).unique(dim=0)) > 45
    first = copying(level=0.0, noise=0.0, num_starts=0, walk_steps=1).sample(4000).round()
    assert first.mean((0, 1)).flatten().tolist() == pytest.approx([0.5] * 6, abs=0.04)
    assert len(first.flatten(1).unique(dim=0)) == 64


def test_reconstruction_has_no_noise_and_no_corruption_and_as_many_steps_as_are_trained():
    method, x = small_gsn(level=1.0, walkback_steps=3), bits(7)
    quiet = copy.deepcopy(method)
    quiet.noise, quiet.corrupt = 0.0, SaltAndPepper(0.0)
    hidden = quiet.resting(x)
    for _ in range(3):
        p, hidden = quiet.step(x, hidden)
    for mode in (True, False):
        assert torch.equal(method.train(mode).encode(x), hidden[0])
        assert torch.equal(method.reconstruct(x), p.mean)
    two = small_gsn(level=1.0, walkback_steps=2)
    assert not torch.allclose(two.encode(x), method.encode(x), atol=1e-3)


def test_the_defaults_are_those_of_the_released_code():
    method = GSN()
    assert [tuple(weight.shape) for weight in method.weights] == [(1500, 784), (1500, 1500)]
    assert isinstance(method.corrupt, SaltAndPepper)
    assert (method.corrupt.level, method.noise, method.noisy_first) == (0.4, 2.0, False)
    assert method.walkback_steps == 4
    for weight in method.weights:
        assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / sum(weight.shape)), rel=1e-3)
    assert not any(bias.any() for bias in method.biases)


def test_untouched_biases_of_the_pixels_start_at_the_mean_image_where_that_is_asked_for():
    data = Digits(binarize="threshold")
    zero, mean = tiny("GSN"), tiny("GSN", bias_start="mean")
    for method in (zero, mean):
        method.start_from(data)
    assert not zero.biases[0].any()
    at_rest = mean.emission(torch.zeros(1, 16)).mean[0]
    assert torch.allclose(at_rest, data.mean_image().clamp(1e-3, 0.999), atol=1e-6)
    mean.start_from(Digits(binarize="none", num_validation=500))  # a run that goes on with other images
    assert torch.equal(at_rest, mean.emission(torch.zeros(1, 16)).mean[0])


def test_the_default_descent_is_the_released_codes_average_of_gradients():
    """There m = m / 2 + g / 2 and a step of 0.25 m on the mean over pixels, times 0.995 after each epoch."""
    method = GSN()
    method.trainer = trainer(max_epochs=1000)
    chosen = method.configure_optimizers()
    optimizer, factor = chosen["optimizer"], chosen["lr_scheduler"].lr_lambdas[0]
    assert [factor(epoch) for epoch in (0, 1, 7)] == pytest.approx([1.0, 0.995, 0.995**7])
    bias, average = method.biases[0], torch.zeros(784)
    expected = bias.detach().clone()
    for step in range(3):
        gradient = torch.randn(784, generator=torch.Generator().manual_seed(step))  # of the sum over pixels
        for parameter in method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        bias.grad = gradient.clone()
        optimizer.step()
        average = 0.5 * average + 0.5 * gradient / 784
        expected -= 0.25 * average
        assert torch.allclose(bias, expected, atol=1e-9)


def learnt(method: GSN, x: torch.Tensor, lr: float) -> GSN:
    optimizer = torch.optim.Adam(method.parameters(), lr)
    for _ in range(200):
        optimizer.zero_grad()
        method.loss(labelled(x))["loss"].mean().backward()
        optimizer.step()
    return method


def test_the_chain_of_one_pixel_samples_the_distribution_it_was_trained_on():
    """One pixel factorises, so walkback is consistent: three of four are on, wherever the chains start."""
    x = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(250).view(-1, 1, 1, 1)
    torch.manual_seed(0)
    method = learnt(GSN((1, 1, 1), hidden_dims=(6, 4), level=0.5, num_starts=0, walk_steps=30), x, lr=0.02)
    shares = [p.mean().item() for p in method.walk(20_000)]
    assert shares[10] == pytest.approx(0.75, abs=0.02)
    assert shares[-1] == pytest.approx(0.75, abs=0.02)


def test_repairs_find_the_other_half_of_what_was_learnt():
    """Two complementary images: a half of one tells which it is, whatever stands in the other half."""
    a = torch.zeros(1, 1, 4, 4)
    a[..., ::2] = 1
    x = torch.cat([a, 1 - a]).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    method = learnt(GSN((1, 4, 4), hidden_dims=(20, 10), level=0.3, noise=0.5, walk_steps=20), x, lr=0.01)
    mask = torch.zeros_like(x)
    mask[..., :2] = 1
    repaired = method.repair(torch.where(mask == 1, x, 1 - x), mask)
    assert ((repaired - x).abs().amax((1, 2, 3)) < 0.1).float().mean() > 0.9
    free = method.repair(x, torch.zeros_like(x))
    assert (free.round() - a).abs().mean((1, 2, 3)).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": ()}, r"hidden_dims must be positive, got \(\)"),
        ({"hidden_dims": (5, 0)}, r"hidden_dims must be positive, got \(5, 0\)"),
        ({"walkback_steps": 1}, "walkback_steps must be at least the number of hidden layers, 2, got 1"),
        ({"walk_steps": 0}, "walk_steps must be at least 1, got 0"),
        ({"emit_steps": 0}, "emit_steps must be at least 1, got 0"),
        ({"burn_in_steps": -1}, "burn_in_steps must not be negative, got -1"),
        ({"num_starts": -1}, "num_starts must not be negative, got -1"),
        ({"noise": -0.5}, "noise must not be negative, got -0.5"),
        ({"level": 1.5}, "a probability, 0 to 1, got 1.5"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"lr_final": 0.0}, "lr_final must be positive, got 0.0"),
    ],
)
def test_impossible_settings_of_the_gsn_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GSN(SHAPE, **{"hidden_dims": (5, 4)} | options)


def test_no_chains_are_not_asked_for():
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        small_gsn().sample(0)
