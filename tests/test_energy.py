"""Energies: gradients, free energies, chains and constants against enumeration or quadrature."""

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import suited_digits, tiny
from lightning.pytorch import Callback
from test_contract import images, same, state, trainer
from torch.nn.functional import logsigmoid

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.binary_pair import base_rates
from zoo.parts.annealing.gaussian_pair import GaussianPair
from zoo.parts.annealing.paths import anneal, linear
from zoo.parts.estimators import csl
from zoo.parts.schedules import linear as falling

SHAPE, D, H = (1, 2, 5), 10, 8
VARIANTS = {
    "cd": {"algorithm": "cd", "fast_lr": 0.0},
    "pcd": {"fast_lr": 0.0},
    "fast": {},
    "gaussian cd": {"visible": "gaussian", "algorithm": "cd", "fast_lr": 0.0, "lr": 1e-3},
    "gaussian pcd": {"visible": "gaussian", "lr": 1e-3},
}


def all_states(units: int) -> torch.Tensor:
    rows = [[number >> bit & 1 for bit in range(units)] for number in range(2**units)]
    return torch.tensor(rows, dtype=torch.float64)


def rbm(scale=0.8, shape=SHAPE, num_hidden=H, seed=0, **options):
    """A float64 machine with every parameter from N(0, scale^2)."""
    method = tiny("RBM", shape, num_hidden=num_hidden, **{"fast_lr": 0.0} | options).double()
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in method.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=stream, dtype=torch.float64))
        if options.get("visible") == "gaussian":
            method.pixels.mean.copy_(torch.rand(p.shape, generator=stream, dtype=torch.float64))
            method.pixels.std.copy_(0.2 + 0.3 * torch.rand(p.shape, generator=stream, dtype=torch.float64))
    return method


def joint(method) -> torch.Tensor:
    """-E(v, h) of a binary machine at all settings, [2^D, 2^H], written from the energy."""
    weight, b, c = method.theta
    v, h = all_states(len(c)), all_states(len(b))
    return v @ weight @ h.T + (v @ c)[:, None] + h @ b


def batch_of(v: torch.Tensor, shape=SHAPE) -> Batch:
    n = len(v)
    return Batch(v.unflatten(1, shape), torch.zeros(n, dtype=torch.long), torch.arange(n))


def gradient(method, batch) -> dict[str, torch.Tensor]:
    method.zero_grad()
    method.loss(batch)["loss"].mean().backward()
    return {name: p.grad.clone() for name, p in method.named_parameters()}


def statistics(method, v: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean of -dE/dtheta with h summed out: the text-book formula of either phase."""
    weight, b, _ = (p.detach() for p in method.theta)
    ph = (v @ weight + b).sigmoid()
    return {"weight": v.T @ ph / len(v), "bias": ph.mean(0), "pixels.bias": v.mean(0)}


# Learning.


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_gradient_of_the_surrogate_is_the_formula_of_contrastive_divergence(num_steps):
    method = rbm(algorithm="cd", gibbs_steps=num_steps)
    weight, b, c = (p.detach() for p in method.theta)
    v = (torch.rand(7, D) < 0.4).double()
    torch.manual_seed(5)
    found = gradient(method, batch_of(v))
    torch.manual_seed(5)
    negative = v
    for _ in range(num_steps):
        up = (negative @ weight + b).sigmoid()
        h = (torch.rand_like(up) < up).double()
        down = (h @ weight.T + c).sigmoid()
        negative = (torch.rand_like(down) < down).double()
    data, model = statistics(method, v), statistics(method, negative)
    for name, value in found.items():
        torch.testing.assert_close(value, model[name] - data[name], atol=1e-12, rtol=0)


def test_persistent_chains_and_batch_are_averaged_each_by_its_own_number():
    method = rbm(num_chains=9)
    v = (torch.rand(4, D) < 0.4).double()
    found = gradient(method, batch_of(v))
    data, model = statistics(method, v), statistics(method, method.chains)
    for name, value in found.items():
        torch.testing.assert_close(value, model[name] - data[name], atol=1e-12, rtol=0)


def exact_gradient(method, v: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of -log p(v), averaged over v, by automatic differentiation through an enumerated log Z."""
    method.zero_grad()
    (joint(method).logsumexp((0, 1)) + method.free_energy(v).mean()).backward()
    return {name: p.grad.clone() for name, p in method.named_parameters()}


def test_the_exact_gradient_is_that_of_the_free_energies_of_data_and_model():
    method = rbm()
    v = (torch.rand(5, D) < 0.4).double()
    found = exact_gradient(method, v)
    p = joint(method).logsumexp(1).softmax(0).detach()
    states = all_states(D)
    up = (states @ method.weight + method.bias).sigmoid().detach()
    model = {"weight": (p[:, None] * states).T @ up, "bias": p @ up, "pixels.bias": p @ states}
    data = statistics(method, v)
    for name, value in found.items():
        torch.testing.assert_close(value, model[name] - data[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("num_steps", "cosine"), [(1, 0.95), (10, 0.999)])
def test_contrastive_divergence_points_along_the_exact_gradient(num_steps, cosine):
    method = rbm(algorithm="cd", gibbs_steps=num_steps)
    v = (torch.rand(20, D) < 0.4).double()
    exact = torch.cat([g.flatten() for g in exact_gradient(method, v).values()])
    found = torch.cat([g.flatten() for g in gradient(method, batch_of(v.repeat(1000, 1))).values()])
    assert torch.cosine_similarity(found, exact, dim=0) >= cosine


def test_the_gaussian_surrogate_follows_the_score_of_its_own_density():
    """With chains drawn from the model itself the gradient is that of -log p, up to their noise."""
    method = rbm(visible="gaussian", scale=0.3, num_hidden=3, shape=(1, 1, 4), num_chains=100_000)
    weight, b, c = method.theta
    v = torch.randn(50, 4, dtype=torch.float64)
    h = all_states(3)
    log_h = h @ b + (h @ weight.T) @ c + 0.5 * (h @ weight.T).square().sum(1)
    method.zero_grad()
    (log_h.logsumexp(0) + method.free_energy(v).mean()).backward()
    exact = {name: p.grad.clone() for name, p in method.named_parameters()}
    drawn = h[torch.multinomial(log_h.softmax(0).detach(), 100_000, replacement=True)]
    method.chains.copy_((c + drawn @ weight.T).detach() + torch.randn(100_000, 4))
    found = gradient(method, batch_of(method.pixels.mean + method.pixels.std * v, (1, 1, 4)))
    for name, value in found.items():
        torch.testing.assert_close(value, exact[name], atol=0.03, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_reaches_every_parameter_and_travels(name, tmp_path):
    method = tiny("RBM", **VARIANTS[name])
    method.loss(Batch(images(), torch.arange(6), torch.arange(6)))["loss"].mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())
    fitted = tiny("RBM", **VARIANTS[name])
    trainer(limit_train_batches=3).fit(fitted, datamodule=suited_digits(fitted))
    save_pretrained(fitted, tmp_path / "model")
    assert same(state(fitted), state(from_pretrained(tmp_path / "model")))


def test_only_what_the_visible_units_are_is_learnt_from():
    for visible, kind, binarize in (("bernoulli", "binary", "none"), ("gaussian", "real or deq", "dynamic")):
        with pytest.raises(UsageError, match=f"RBM needs {kind} pixels"):
            trainer().fit(tiny("RBM", visible=visible), datamodule=Digits(binarize=binarize))


class Record(Callback):
    """Notes the optimizer's settings, k and the weights at every batch."""

    def __init__(self) -> None:
        self.settings, self.states = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        groups = trainer.optimizers[0].param_groups
        self.settings.append(
            (
                trainer.current_epoch,
                groups[0]["lr"],
                groups[0]["momentum"],
                groups[0]["weight_decay"],
                groups[1]["weight_decay"],
                pl_module.num_steps,
            )
        )
        assert groups[0]["lr"] == groups[1]["lr"]
        assert groups[0]["momentum"] == groups[1]["momentum"]
        assert groups[0]["params"] == [pl_module.weight]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def fitted(epochs, method=None, **options):
    method = method or tiny("RBM", **options)
    record = Record()
    trainer(max_epochs=epochs, limit_train_batches=2, limit_val_batches=0, callbacks=[record]).fit(
        method, datamodule=suited_digits(method)
    )
    return method, record


def test_the_released_recipe_lengthens_the_chains_and_shortens_the_steps():
    _, record = fitted(6, algorithm="cd", fast_lr=0.0, lengthen_every=2, momentum_epochs=3)
    by_epoch = [record.settings[2 * epoch][1:] for epoch in range(6)]
    assert [row[4] for row in by_epoch] == [1, 1, 2, 2, 3, 3]
    assert [row[0] for row in by_epoch] == pytest.approx([0.05 / k for k in (1, 1, 2, 2, 3, 3)])
    assert [row[1] for row in by_epoch] == [0.5] * 3 + [0.9] * 3
    assert {row[2:4] for row in by_epoch} == {(2e-4, 0.0)}


def test_a_chain_of_k_steps_is_taken_when_k_is_asked_for(monkeypatch):
    method = rbm(algorithm="cd", gibbs_steps=4)
    calls = []
    monkeypatch.setattr(method.pixels, "draw", lambda m: calls.append(m) or m.sigmoid().round())
    method.loss(batch_of((torch.rand(3, D) < 0.5).double()))
    assert len(calls) == 4


def test_the_step_size_falls_linearly_towards_zero():
    _, record = fitted(4, lr_schedule="linear", gibbs_steps=3)
    assert [record.settings[2 * e][1] for e in range(4)] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    assert falling(2.0, 4.0) == 0.5
    assert (falling(9.0, 4.0), falling(0.0, 0.0)) == (0.0, 0.0)
    with pytest.raises(UsageError, match=r"linear needs a positive trainer\.max_epochs, got -1"):
        trainer(max_epochs=-1).fit(tiny("RBM", lr_schedule="linear"), datamodule=Digits())


def test_weights_move_by_momentum_and_decay_and_biases_do_not_decay():
    """The first two updates, by hand from the gradients."""
    method = tiny("RBM", algorithm="cd", fast_lr=0.0, weight_decay=0.1, lr=0.1)
    grads = []
    method.on_before_optimizer_step = lambda optimizer: grads.append([p.grad.clone() for p in method.theta])
    _, record = fitted(1, method)
    one, two = ([s["weight"], s["bias"], s["pixels.bias"]] for s in record.states)
    for i, decay in enumerate((0.1, 0.0, 0.0)):
        first = (one[i] - two[i]) / 0.1  # 0.5 (g1 + decay w0) + g2 + decay w1
        w0 = (one[i] + 0.1 * grads[0][i]) / (1 - 0.1 * decay)
        expected = 0.5 * (grads[0][i] + decay * w0) + grads[1][i] + decay * one[i]
        torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-4)


def test_it_starts_at_the_base_rates_and_only_once():
    method, _ = fitted(1, algorithm="cd", fast_lr=0.0, lr=1e-9)
    data = suited_digits(method)
    mean, n = data.mean_image().flatten(), len(data.originals("train"))
    expected = ((n * mean + 1) / (n + 2)).logit()
    torch.testing.assert_close(method.pixels.bias.detach(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(method.pixels.mean, mean)
    drawn = method.pixels.start(20_000).mean(0)
    torch.testing.assert_close(drawn, base_rates(mean).sigmoid(), atol=0.02, rtol=0)
    with torch.no_grad():
        method.pixels.bias.add_(1.0)
    fitted(1, method)
    torch.testing.assert_close(method.pixels.bias.detach(), expected + 1, atol=1e-5, rtol=1e-5)


def test_persistent_chains_start_at_the_base_rates_too():
    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            self.mean = pl_module.chains.mean(0)

    look, method = Look(), tiny("RBM", num_chains=5000)
    data = suited_digits(method)
    trainer(limit_train_batches=1, limit_val_batches=0, callbacks=[look]).fit(method, datamodule=data)
    torch.testing.assert_close(look.mean, base_rates(data.mean_image()).sigmoid(), atol=0.04, rtol=0)


def test_gaussian_units_are_standardised_pixels():
    method, _ = fitted(1, visible="gaussian", lr=1e-9)
    data = suited_digits(method)
    v = method.pixels.code(data.split("train").x)
    std = data.split("train").x.flatten(1).std(0)
    assert v.mean(0).abs().max() < 0.05
    torch.testing.assert_close(v.std(0)[std > 0.11], torch.ones(int((std > 0.11).sum())), atol=0.02, rtol=0)
    assert method.pixels.std.min() == pytest.approx(0.1)
    assert (v.std(0)[std < 0.09] < 1).all()


# Persistent chains.


def test_chains_of_a_model_that_does_not_learn_have_its_exact_moments():
    method = rbm(num_chains=100, scale=0.5)
    p = joint(method).logsumexp(1).softmax(0).detach()
    states = all_states(D)
    first, second = p @ states, states.T @ (p[:, None] * states)
    seen, outer = torch.zeros(D).double(), torch.zeros(D, D).double()
    steps = 2000
    for step in range(steps + 100):
        method.on_train_batch_start(None, 0)
        assert ((method.chains == 0) | (method.chains == 1)).all()
        if step >= 100:
            seen += method.chains.mean(0) / steps
            outer += method.chains.T @ method.chains / (100 * steps)
    torch.testing.assert_close(seen, first, atol=0.01, rtol=0)
    torch.testing.assert_close(outer, second, atol=0.01, rtol=0)


def test_chains_go_on_where_they_were():
    """Strong weights freeze a chain in its mode: one that was reset would not stay there."""
    method = rbm(num_chains=50)
    with torch.no_grad():
        method.weight.fill_(30.0)
        method.bias.fill_(-30.0 * D / 2)
        method.pixels.bias.fill_(-30.0 * H / 2)
    method.chains.zero_()
    method.chains[:25] = 1
    before = method.chains.clone()
    for batch_idx in range(20):
        method.on_train_batch_start(None, batch_idx)
    assert torch.equal(method.chains, before)


def test_chains_take_k_steps_a_batch_and_only_then(digits):
    method = tiny("RBM", fast_lr=0.0, gibbs_steps=3, num_hidden=4)
    calls = []
    draw = method.pixels.draw
    method.pixels.draw = lambda m: calls.append(len(m)) or draw(m)
    trainer(max_epochs=2, limit_train_batches=4).fit(method, datamodule=digits)
    assert calls == [5] * 3 * 8


def test_fast_weights_follow_the_gradient_and_decay():
    method = tiny("RBM", fast_lr=0.3, lr=1e-9)
    grads = []
    before = method.on_before_optimizer_step

    def note(optimizer):
        grads.append([p.grad.clone() for p in method.theta])
        before(optimizer)

    method.on_before_optimizer_step = note
    _, record = fitted(2, method)
    expected = [torch.zeros_like(p) for p in method.theta]
    for step, kept in zip(grads, record.states, strict=True):
        for i, name in enumerate(("fast_weight", "fast_bias", "fast_visible_bias")):
            expected[i] = 19 / 20 * expected[i] - 0.3 * step[i]
            torch.testing.assert_close(kept[name], expected[i])


def test_fast_weights_move_the_chains_and_nothing_else():
    plain, fast = tiny("RBM", fast_lr=0.0), tiny("RBM", fast_lr=0.3)
    with torch.no_grad():
        plain.weight.normal_()
    x = images()
    for name in ("fast_weight", "fast_bias", "fast_visible_bias"):
        fast.load_state_dict(plain.state_dict(), strict=False)
        for other in ("fast_weight", "fast_bias", "fast_visible_bias"):
            fast.get_buffer(other).zero_()
        fast.get_buffer(name).fill_(100.0)
        torch.manual_seed(1)
        start = (torch.rand(5, 64) < 0.5).float()
        for method in (plain, fast):
            method.chains.copy_(start)
            torch.manual_seed(2)
            method.on_train_batch_start(None, 0)
        assert not torch.equal(plain.chains, fast.chains), name
        assert torch.equal(plain.energy(x), fast.energy(x))
        draws = [m.sample(3, generator=torch.Generator().manual_seed(0)) for m in (plain, fast)]
        assert torch.equal(*draws)


def test_each_process_keeps_its_own_chains_and_the_checkpoint_all(tmp_path):
    script = Path(__file__).parent / "two_chains.py"
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "weights equal, chains differ\nresumed: every process has its own\n"


# Free energies and constants.


def test_the_free_energy_sums_over_the_hidden_units():
    method = rbm()
    energy = method.energy(all_states(D).unflatten(1, SHAPE))
    torch.testing.assert_close(-energy, joint(method).logsumexp(1), atol=1e-9, rtol=0)
    both = joint(method).logsumexp((0, 1))
    torch.testing.assert_close((-energy).logsumexp(0), both, atol=1e-9, rtol=0)
    assert method.log_partition(2, 1).log_z == pytest.approx(both.item(), abs=1e-9)


@pytest.mark.parametrize(("shape", "num_hidden"), [(SHAPE, H), (SHAPE, 25), ((1, 5, 5), 6)])
def test_log_z_is_exact_where_either_layer_is_small(shape, num_hidden):
    method = rbm(shape=shape, num_hidden=num_hidden, scale=0.4)
    weight, b, c = (p.detach() for p in method.theta)
    if len(c) <= len(b):
        states = all_states(len(c))
        truth = (states @ c + torch.nn.functional.softplus(states @ weight + b).sum(1)).logsumexp(0)
    else:
        states = all_states(len(b))
        truth = (states @ b + torch.nn.functional.softplus(states @ weight.T + c).sum(1)).logsumexp(0)
    found = method.log_partition(2, 1)
    assert found.num_steps == 0
    assert found.log_z == pytest.approx(float(truth), abs=1e-9)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_annealing_agrees_with_the_exact_constant(visible, monkeypatch):
    method = rbm(visible=visible, scale=0.5)
    with torch.no_grad():
        method.pixels.mean.uniform_(0.1, 0.9)
    truth = method.log_partition(2, 1).log_z
    monkeypatch.setattr(enumeration, "ENUMERABLE", 0)
    found = method.log_partition(200, 1000)
    assert found.num_steps == 1000
    assert found.ess > 100
    assert found.log_z == pytest.approx(truth, abs=0.1)


def test_annealing_starts_at_the_training_images_base_rates(monkeypatch):
    """Without weights that start is the model: every chain is exact."""
    method = rbm()
    monkeypatch.setattr(enumeration, "ENUMERABLE", 0)
    with torch.no_grad():
        method.weight.zero_()
        method.pixels.mean.uniform_(0.1, 0.9)
        method.pixels.bias.copy_(base_rates(method.pixels.mean))
        method.bias.zero_()
    found = method.log_partition(10, 3)
    assert found.error < 1e-12
    truth = H * math.log(2) + float(torch.nn.functional.softplus(method.pixels.bias.detach()).sum())
    assert found.log_z == pytest.approx(truth, abs=1e-9)


def plane(low: float, high: float, n: int = 801):
    """A square grid of points [n^2, 2] and the log of the area of a cell."""
    line = torch.linspace(low, high, n, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    return points, 2 * math.log(float(line[1] - line[0]))


def test_a_gaussian_machine_is_a_density_of_images():
    method = rbm(visible="gaussian", shape=(1, 1, 2), num_hidden=3)
    weight, b, c = (p.detach() for p in method.theta)
    v, log_cell = plane(-12, 12)
    h = all_states(3)
    scores = v @ weight @ h.T + h @ b - 0.5 * (v - c).square().sum(1, keepdim=True)
    log_z = method.log_partition(2, 1)
    assert log_z.num_steps == 0
    assert log_z.log_z == pytest.approx(float((scores + log_cell).logsumexp((0, 1))), abs=1e-6)
    torch.testing.assert_close(-method.free_energy(v), scores.logsumexp(1))
    x, log_cell = plane(-5, 6)
    log_p = -method.energy(x.unflatten(1, (1, 1, 2))) - log_z.log_z
    assert (log_p + log_cell).logsumexp(0).item() == pytest.approx(0.0, abs=1e-6)


def gaussian(scale=0.5, seed=0, visible=4, hidden=3):
    stream = torch.Generator().manual_seed(seed)
    sizes = [(visible, hidden), (hidden,), (visible,), (visible,)]
    return GaussianPair(*(scale * torch.randn(size, generator=stream, dtype=torch.float64) for size in sizes))


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


# The monitor.


def test_the_pseudo_likelihood_of_binary_units_is_that_of_the_enumerated_conditionals():
    method = rbm()
    states, log_p = all_states(D), joint(method).logsumexp(1).detach()
    v = states[123:124]
    exact = []
    for i in range(D):
        flipped = v.clone()
        flipped[0, i] = 1 - flipped[0, i]
        other = int((flipped[0] * 2 ** torch.arange(D)).sum())
        exact.append(float(logsigmoid(log_p[123] - log_p[other])))
    terms = method.loss(batch_of(v.repeat(20_000, 1)))
    values = terms["pseudo_log_prob"]
    assert not values.requires_grad
    assert float(values.mean()) == pytest.approx(sum(exact), abs=0.15)
    for value in values.unique():
        assert min(abs(float(value) / D - e) for e in exact) < 1e-9
    assert len(values.unique()) == D


def test_the_pseudo_likelihood_of_gaussian_units_is_that_of_a_fine_grid():
    method = rbm(visible="gaussian", shape=(1, 1, 4), num_hidden=6)
    v = torch.randn(1, 4, dtype=torch.float64)
    line = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    exact = []
    for i in range(4):
        along = v.repeat(len(line), 1)
        along[:, i] = line
        log_z = (-method.free_energy(along)).logsumexp(0) + math.log(float(line[1] - line[0]))
        exact.append((-method.free_energy(v) - log_z).item())
    x = (method.pixels.mean + method.pixels.std * v).repeat(2000, 1)
    values = method.loss(batch_of(x, (1, 1, 4)))["pseudo_log_prob"] + method.pixels.log_volume
    assert len(values.detach().mul(1e6).round().unique()) == 4
    for value in values.unique():
        assert min(abs(float(value) / 4 - e) for e in exact) < 1e-4


# Walks.


def test_a_walk_is_the_means_of_what_is_emitted_and_a_sample_its_end():
    for options in ({}, {"visible": "gaussian"}):
        method = tiny("RBM", sample_steps=7, **options)

        def stream():
            return torch.Generator().manual_seed(3)

        emitted = list(method.emit(5, generator=stream()))
        walked = list(method.walk(5, generator=stream()))
        assert len(walked) == 4  # the first three of seven steps are burn-in
        for emission, image in zip(emitted, walked, strict=True):
            assert (emission.batch_shape, emission.event_shape) == ((5,), (1, 8, 8))
            assert torch.equal(emission.mean.clamp(0, 1), image)
            assert not image.requires_grad
        assert torch.equal(method.sample(5, generator=stream()), walked[-1])
        assert not any(torch.equal(a, b) for a, b in pairwise(walked))
        with pytest.raises(UsageError, match="n must be at least 1, got 0"):
            method.sample(0)


def test_a_walk_with_a_generator_leaves_the_callers_stream_and_gradients_alone():
    method = tiny("RBM")
    walk = method.walk(2, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    for _ in range(3):
        next(walk)
        assert torch.is_grad_enabled()
        assert torch.equal(before, torch.get_rng_state())


def test_a_walk_goes_on_from_state_to_state_and_burns_in_before_the_first(monkeypatch):
    method = tiny("RBM", sample_steps=7)
    steps, gibbs = [], method.pixels.gibbs

    def note(v, num_steps, *theta):
        after, m = gibbs(v, num_steps, *theta)
        steps.append((num_steps, v, after))
        return after, m

    monkeypatch.setattr(method.pixels, "gibbs", note)
    method.sample(3)
    assert [num_steps for num_steps, _, _ in steps] == [3, 1, 1, 1, 1]
    assert all(last[2] is first[1] for last, first in pairwise(steps))


def test_long_runs_visit_images_as_often_as_the_model_says():
    method = rbm(scale=0.5, sample_steps=60)
    p = joint(method).logsumexp(1).softmax(0).detach()
    torch.testing.assert_close(
        method.sample(20_000).flatten(1).mean(0),
        (p @ all_states(D)).float(),
        atol=0.02,
        rtol=0,
        check_dtype=False,
    )


def test_the_conservative_likelihood_is_below_the_truth_and_near_it():
    method = rbm(scale=0.5, sample_steps=200)
    log_p = joint(method).logsumexp(1).log_softmax(0).detach()
    found = csl(method.emit(100), all_states(D).unflatten(1, SHAPE)).log_prob
    gap = float((log_p.exp() * (log_p - found)).sum())
    assert -0.001 < gap < 0.01


def test_gaussian_emissions_are_densities_of_images():
    method = rbm(visible="gaussian", shape=(1, 1, 3), num_hidden=4, scale=0.5, sample_steps=400)
    x = method.pixels.mean + method.pixels.std * torch.randn(40, 3, dtype=torch.float64)
    x = x.unflatten(1, (1, 1, 3))
    truth = -method.energy(x) - method.log_partition(2, 1).log_z
    found = csl(method.emit(100), x).log_prob
    torch.testing.assert_close(found, truth.detach(), atol=0.05, rtol=0)


# Codes and repairs.


def test_codes_are_hidden_means_and_go_back_to_visible_ones():
    method = rbm()
    x = (torch.rand(3, *SHAPE) < 0.5).double()
    weight, b, c = (p.detach() for p in method.theta)
    code = (x.flatten(1) @ weight + b).sigmoid()
    torch.testing.assert_close(method.encode(x), code)
    image = (code @ weight.T + c).sigmoid().float()
    torch.testing.assert_close(method.decode(code).flatten(1), image)
    assert torch.equal(method.reconstruct(x), method.decode(method.encode(x)))


def test_repairs_keep_what_is_known_and_draw_the_rest_from_the_models_conditional():
    method = rbm(sample_steps=30)
    known = torch.arange(D) < 6
    x = (torch.rand(1, D) < 0.5).double()
    states, log_p = all_states(D), joint(method).logsumexp(1).detach()
    agree = (states[:, known] == x[:, known]).all(1)
    truth = (log_p.masked_fill(~agree, -math.inf).softmax(0) @ states)[~known]
    many = x.expand(20_000, -1).unflatten(1, SHAPE)
    mask = known.double().expand(20_000, -1).unflatten(1, SHAPE)
    before = torch.get_rng_state()
    found = method.repair(many, mask, generator=torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[:, known], many.flatten(1)[:, known])
    torch.testing.assert_close(found[:, ~known].mean(0), truth, atol=0.015, rtol=0)


def test_gaussian_repairs_are_images_that_agree_with_what_is_known():
    method = tiny("RBM", visible="gaussian")
    x, mask = torch.rand(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) < 0.5).float()
    found = method.repair(x, mask)
    assert torch.equal(found[mask > 0], x[mask > 0])
    assert 0 <= found.min() <= found.max() <= 1
    assert not torch.equal(found[mask == 0], x[mask == 0])


# Everything together.


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_hidden": 0}, "num_hidden must be at least 1, got 0"),
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"gibbs_steps": 0}, "gibbs_steps must be at least 1, got 0"),
        ({"sample_steps": 0}, "sample_steps must be at least 1, got 0"),
        ({"lengthen_every": -1}, "lengthen_every must be at least 0, got -1"),
        ({"weight_decay": -1.0}, r"weight_decay must be at least 0, got -1.0"),
        ({"momentum_epochs": -1}, "momentum_epochs must be at least 0, got -1"),
        ({"fast_lr": -0.1}, r"fast_lr must be at least 0, got -0.1"),
        ({"lr": 0.0}, r"lr must be positive, got 0.0"),
        ({"momentum": -0.1}, r"momentum must be at least 0, got -0.1"),
        ({"momentum_final": 1.0}, r"momentum and momentum_final must be below 1, got 1.0"),
        ({"algorithm": "cd"}, "fast_lr needs algorithm: pcd, got algorithm: cd"),
    ],
)
def test_what_cannot_be_is_refused(option, message):
    with pytest.raises(UsageError, match=message):
        tiny("RBM", **option)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_likelihood_of_unseen_digits_improves(name):
    """By an exact log Z, against what biases alone reach."""
    options = VARIANTS[name] | {"num_hidden": 16, "lr": 0.02 if "gaussian" in name else 0.4}
    method = tiny("RBM", **options, num_chains=50, momentum_final=0.5, lr_schedule="linear")
    data = suited_digits(method, batch_size=50)
    trainer(max_epochs=6, limit_val_batches=0).fit(method, datamodule=data)
    x = data.split("test").x
    with torch.no_grad():
        log_p = (-method.energy(x)).mean() - method.log_partition(2, 1).log_z
        method.weight.zero_()
        alone = method.energy(x).double().mean() + method.log_partition(2, 1).log_z
    assert float(log_p + alone) > 1
