"""Facts of denoising autoencoders: corruption, walkback, the chain of a table, greedy pretraining."""

import copy
import itertools
import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from support import tiny, trainer
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.autoencoders.dae import DAE
from zoo.parts.corruption import SaltAndPepper
from zoo.parts.distributions.bits import bernoulli
from zoo.parts.estimators import csl
from zoo.parts.networks.dense import TwoWay
from zoo.parts.schedules import phase

TINY = {"hidden_dims": (16, 8), "pretrain_epochs": 1, "num_starts": 9, "walk_steps": 7, "emit_steps": 3}

SHAPE = (1, 2, 3)


def labelled(x) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))


def bits(n: int, shape=SHAPE, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, (n, *shape), generator=torch.Generator().manual_seed(seed)).float()


def small_dae(shape=SHAPE, **options) -> DAE:
    """Without pretraining, with biases that are not zero."""
    torch.manual_seed(0)
    method = DAE(shape, **{"hidden_dims": (5,), "num_starts": 4, "walk_steps": 6, "emit_steps": 4} | options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return method


def identity(method: DAE, logit: float = 30.0) -> DAE:
    """The network that gives back what it sees."""
    method.denoised = lambda x: bernoulli(logit * (2 * x - 1))
    return method


@pytest.mark.parametrize("tied", [True, False])
def test_a_network_of_two_layers_by_hand(tied):
    method = small_dae(hidden_dims=(5, 3), tied=tied)
    x = bits(7)
    one, two = method.layers
    h = torch.sigmoid(x.flatten(1) @ one.weight.T + one.hidden_bias)
    code = torch.sigmoid(h @ two.weight.T + two.hidden_bias)
    down = [layer.weight if layer.weight_down is None else layer.weight_down.T for layer in (one, two)]
    logits = torch.sigmoid(code @ down[1] + two.visible_bias) @ down[0] + one.visible_bias
    assert torch.allclose(method.encode(x), code, atol=1e-6)
    assert torch.allclose(method.decode(code).flatten(1), logits.sigmoid(), atol=1e-6)
    assert torch.allclose(method.reconstruct(x).flatten(1), logits.sigmoid(), atol=1e-6)
    assert torch.allclose(method.denoised(x).base_dist.logits.flatten(1), logits, atol=1e-5)


@pytest.mark.parametrize(("activation", "code"), [("tanh", -1.0), ("relu", 0.0), ("logistic", 0.0)])
def test_activations_of_driven_units(activation, code):
    method = small_dae(activation=activation)
    with torch.no_grad():
        method.layers[0].hidden_bias.fill_(-50.0)
    assert torch.allclose(method.encode(bits(3)), torch.full((3, 5), code), atol=1e-6)


def test_the_loss_is_the_cross_entropy_of_the_clean_image_summed_over_pixels_and_steps():
    x = bits(7)
    method = small_dae(level=0.0, walkback_steps=1)
    p = method.reconstruct(x)
    by_hand = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    terms = method.loss(labelled(x))
    assert torch.allclose(terms["loss"], by_hand, atol=1e-5)
    assert torch.equal(terms["loss"], terms["distortion"])
    method = identity(small_dae(level=0.0, walkback_steps=4), logit=2.0)
    of_ones, x = -6 * torch.tensor(2.0).sigmoid().log(), torch.ones(2000, *SHAPE)
    terms = method.loss(labelled(x))
    assert torch.allclose(terms["distortion"], of_ones.expand(2000))
    # A bit survives a step with probability s = sigmoid(2); a wrong one costs 2 nats more in the next.
    s, wrong = torch.tensor(2.0).sigmoid().item(), [0.0]
    for _ in range(3):
        wrong.append(wrong[-1] * s + (1 - wrong[-1]) * (1 - s))
    expected = sum(of_ones.item() + 6 * 2 * share for share in wrong)
    assert terms["loss"].mean().item() == pytest.approx(expected, rel=0.01)


def test_the_loss_of_the_identity_is_not_zero():
    """It is that of the flipped pixels; were the target the corrupted image, it would vanish."""
    method = identity(small_dae(level=0.4, walkback_steps=1), logit=3.0)
    loss = method.loss(labelled(bits(20_000)))["loss"].mean().item()
    right, wrong = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    assert loss == pytest.approx(6 * (0.8 * right + 0.2 * wrong), rel=0.02)


def test_grey_pixels_have_a_gaussian_likelihood():
    x = torch.rand(7, *SHAPE)
    method = small_dae(likelihood="gaussian", sigma=0.2, corruption="gaussian", level=0.0, walkback_steps=1)
    assert method.accepts == ("real", "deq")
    squares = (x - method.reconstruct(x)).square().flatten(1).sum(1)
    expected = squares / (2 * 0.2**2) + 3 * math.log(2 * math.pi * 0.2**2)
    assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-4)
    p = next(method.emit(1000))
    assert (p.sample() - p.mean).std().item() == pytest.approx(0.2, abs=0.01)
    assert small_dae().accepts == ("binary",)


def test_every_step_of_walkback_aims_at_the_clean_image_and_no_gradient_passes_a_draw(monkeypatch):
    """The gradient at the logits of step t is sigma(a_t) - x, so it depends on the clean image only."""
    method, x, seen, inputs = small_dae(walkback_steps=3), bits(50), [], []
    straight = TwoWay.down

    def down(layer, h):
        seen.append(straight(layer, h))
        seen[-1].retain_grad()
        return seen[-1]

    monkeypatch.setattr(TwoWay, "down", down)
    corrupt = method.corrupt.forward
    method.corrupt.forward = lambda state: (inputs.append(state), corrupt(state))[1]
    method.loss(labelled(x))["loss"].sum().backward()
    assert len(seen) == len(inputs) == 3
    for a in seen:
        assert torch.allclose(a.grad, a.sigmoid() - x.flatten(1), atol=1e-6)
    assert torch.equal(inputs[0], x)
    assert not any(state.requires_grad for state in inputs)
    for a, state in zip(seen, inputs[1:], strict=False):  # drawn, neither rounded nor left as a mean
        assert set(state.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(state.flatten(1), (a > 0).float())
        assert (state.flatten(1) - a.sigmoid()).mean().abs() < 0.15
        assert not torch.equal(state, x)


def test_walkback_draws_follow_the_logits():
    method, inputs = small_dae(walkback_steps=2), []
    forward = method.corrupt.forward
    method.corrupt.forward = lambda state: (inputs.append(state), forward(state))[1]
    method.denoised = lambda x: bernoulli(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]).view(SHAPE) + 0 * x)
    method.loss(labelled(bits(50_000)))
    assert torch.allclose(
        inputs[1].mean(0).flatten(), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]).sigmoid(), atol=0.01
    )


def test_tied_weights_stay_tied_through_copies_training_and_files(tmp_path):
    method = small_dae(hidden_dims=(5, 3))
    assert len(list(method.parameters())) == 6
    assert len(list(small_dae(hidden_dims=(5, 3), tied=False).parameters())) == 8
    save_pretrained(method, tmp_path / "model")
    for copied in (copy.deepcopy(method), from_pretrained(tmp_path / "model")):
        optimizer = torch.optim.SGD(copied.parameters(), 0.1)
        copied.loss(labelled(bits(9)))["loss"].mean().backward()
        optimizer.step()
        for layer, before in zip(copied.layers, method.layers, strict=True):
            width = layer.weight.shape[0]
            down = layer.down(torch.eye(width)) - layer.visible_bias
            assert torch.allclose(down, layer.weight, atol=1e-6)
            assert not torch.equal(layer.weight, before.weight)


def test_the_tied_weight_learns_from_both_ways():
    """Its gradient is the sum of those of two free matrices with the same values."""
    tied, free = small_dae(level=0.0, walkback_steps=1), small_dae(level=0.0, walkback_steps=1, tied=False)
    state = dict(tied.state_dict())
    free.load_state_dict(state | {"layers.0.weight_down": state["layers.0.weight"].T})
    for method in (tied, free):
        method.loss(labelled(bits(9)))["loss"].sum().backward()
    expected = free.layers[0].weight.grad + free.layers[0].weight_down.grad.T
    assert free.layers[0].weight_down.grad.abs().max() > 0.1
    assert torch.allclose(tied.layers[0].weight.grad, expected, atol=1e-5)


def test_weights_start_in_the_range_of_the_paper():
    layer = TwoWay(784, 2000)
    assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 2784), rel=1e-3)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 2784), rel=0.01)
    assert not layer.hidden_bias.any()
    assert not layer.visible_bias.any()


def test_the_defaults_are_those_of_the_released_code():
    method = DAE()
    assert (method.walkback_steps, method.corrupt.level, method.layers[0].weight.shape[0]) == (5, 0.4, 2000)
    assert isinstance(method.corrupt, SaltAndPepper)
    assert method.activation is torch.sigmoid
    assert method.lr * 784 == pytest.approx(10)  # on the mean over pixels there, on their sum here
    fitting = trainer(limit_train_batches=1)
    method = small_dae((1, 8, 8), lr=0.1)
    before = copy.deepcopy(method)
    fitting.fit(method, datamodule=Digits(binarize="threshold"))
    assert isinstance(fitting.optimizers[0], torch.optim.SGD)
    assert fitting.optimizers[0].param_groups[0]["momentum"] == 0
    assert not torch.equal(before.layers[0].weight, method.layers[0].weight)


def test_the_chain_is_stuck_without_corruption_and_moves_with_it():
    starts = bits(4)
    for level, moves in ((0.0, False), (0.4, True)):
        method = identity(small_dae(level=level))
        method.starts.copy_(starts)
        distance = (method.sample(50).unsqueeze(1) - starts).abs().flatten(2).sum(2).amin(1)
        assert bool(distance.max() > 0.5) == moves
        for p in method.emit(5):
            assert not p.mean.requires_grad


def test_reconstruction_is_not_corrupted_in_either_mode():
    method = small_dae(level=1.0)
    x = bits(7)
    expected = method.denoised(x).mean
    for mode in (True, False):
        assert torch.equal(method.train(mode).reconstruct(x), expected)


def test_emissions_go_on_where_the_walk_ends():
    method = small_dae()
    longer = copy.deepcopy(method)
    longer.walk_steps = 10
    walk = list(longer.walk(3, generator=torch.Generator().manual_seed(1)))
    emitted = [p.mean for p in method.emit(3, generator=torch.Generator().manual_seed(1))]
    assert len(list(method.walk(3))) == 6
    assert torch.equal(torch.stack(emitted), torch.stack(walk[6:]))


def test_chains_start_in_images_of_the_first_batch_and_the_file_keeps_them(tmp_path):
    data = Digits(binarize="threshold", batch_size=50)
    method = tiny("DAE", num_starts=120, pretrain_epochs=0)
    trainer(max_epochs=2, limit_train_batches=2).fit(method, datamodule=data)
    starts = method.starts
    assert torch.equal(starts[:50], starts[50:100])
    assert torch.equal(starts[:20], starts[100:])
    seen = data.split("train").x.flatten(1)
    assert (torch.cdist(starts[:50].flatten(1), seen).amin(1) == 0).all()
    assert len(starts[:50].flatten(1).unique(dim=0)) > 45
    before = starts.clone()
    method.on_train_batch_start(labelled(bits(9, (1, 8, 8))), 0)
    assert torch.equal(method.starts, before)
    save_pretrained(method, tmp_path / "model")
    loaded = identity(from_pretrained(tmp_path / "model"))
    loaded.corrupt.level = 0.0
    assert (torch.cdist(loaded.sample(20).flatten(1), before.flatten(1)).amin(1) < 1e-6).all()


def test_chains_start_in_random_bits_where_no_image_is_kept():
    method = identity(small_dae(num_starts=0, level=0.0))
    first = method.sample(4000)
    assert first.round().mean((0, 1)).flatten().tolist() == pytest.approx([0.5] * 6, abs=0.04)
    assert len(first.round().flatten(1).unique(dim=0)) == 64


def test_the_chain_of_a_table_samples_the_distribution_it_was_trained_on():
    """Six pixels, a free logit for each of 64 corrupted images: consistent up to p(x|x~) that factorises."""
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(64, *SHAPE)
    place = 2 ** torch.arange(5, -1, -1)

    def index(x):
        return (x.flatten(1).long() * place).sum(1)

    stream = torch.Generator().manual_seed(0)
    data = (0.3 * torch.randn(64, generator=stream)).softmax(0)
    level = 0.04
    method = small_dae(level=level, walkback_steps=1, num_starts=0, walk_steps=200, emit_steps=20)
    table = nn.Parameter(torch.zeros(64, 6))
    method.denoised = lambda x: bernoulli(table[index(x)].view(-1, *SHAPE))
    optimizer = torch.optim.Adam([table], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    x = states.repeat_interleave((20_000 * data).round().long(), 0)
    for _ in range(500):
        optimizer.zero_grad()
        method.loss(labelled(x))["loss"].mean().backward()
        optimizer.step()
        schedule.step()

    flips = (states.unsqueeze(1) != states).flatten(2).sum(2).double()
    corrupted = (level / 2) ** flips * (1 - level / 2) ** (6 - flips)
    with torch.no_grad():
        back = method.denoised(states).log_prob(states.unsqueeze(1)).double().exp().T
    stationary = torch.linalg.matrix_power(corrupted @ back, 10_000)[0]
    assert (stationary - data).abs().sum().item() / 2 < 0.03
    visits = torch.zeros(64)
    for p in method.emit(10_000):
        visits += index(p.sample()).bincount(minlength=64)
    seen = visits / visits.sum()
    assert (seen - stationary).abs().sum().item() / 2 < 0.02
    assert (seen - data).abs().sum().item() / 2 < 0.03
    assert (torch.full((64,), 1 / 64) - data).abs().sum().item() / 2 > 0.1

    found = csl(method.emit(2000), states)
    gap = (data * (data.log() - found.log_prob)).sum().item()
    assert -0.005 < gap < 0.02


def test_repairs_find_the_other_half_of_what_was_learnt():
    """Two complementary images: a half of one tells which it is, whatever stands in the other half."""
    a = torch.zeros(1, 1, 4, 4)
    a[..., ::2] = 1
    x = torch.cat([a, 1 - a]).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    method = DAE((1, 4, 4), hidden_dims=(20,), level=0.2, walkback_steps=2, walk_steps=20)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        method.loss(labelled(x))["loss"].mean().backward()
        optimizer.step()
    mask = torch.zeros_like(x)
    mask[..., :2] = 1
    repaired = method.repair(torch.where(mask == 1, x, 1 - x), mask)
    assert (repaired - x).abs().max() < 0.05
    away = method.repair(x, torch.zeros_like(x))
    assert len(away.round().flatten(1).unique(dim=0)) == 2


def test_phases_follow_one_another():
    assert [phase(epoch, (2, 1, 0, 3)) for epoch in range(8)] == [0, 0, 1, 3, 3, 3, 4, 4]
    assert phase(0, ()) == phase(0, (5,)) == 0
    assert phase(0, (0, 0)) == 2


def test_each_epoch_of_pretraining_moves_one_layer_and_then_all_move():
    moved: list[set[str]] = []

    class Compare(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

        def on_train_epoch_end(self, trainer, pl_module):
            parameters = pl_module.named_parameters()
            moved.append({name for name, p in parameters if not torch.equal(p, self.before[name])})

    method = tiny("DAE", hidden_dims=(16, 8, 4), pretrain_epochs=2, optimizer="adam", lr=1e-3)
    data = Digits(binarize="threshold")
    trainer(max_epochs=8, limit_train_batches=3, callbacks=[Compare()]).fit(method, datamodule=data)
    names = [name for name, _ in method.named_parameters()]
    of_layer = [{name for name in names if name.startswith(f"layers.{i}.")} for i in range(3)]
    assert moved == [part for part in of_layer for _ in range(2)] + [set(names)] * 2


def test_a_hidden_layer_learns_to_denoise_the_clean_activations_below_it(monkeypatch):
    method = small_dae(hidden_dims=(5, 3), pretrain_epochs=1, level=0.0)
    x = bits(7)
    for epoch in (0, 1):
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        h = method.hidden(x, epoch)
        assert torch.equal(h, x.flatten(1)) == (epoch == 0)
        layer = method.layers[epoch]
        p = layer.down(torch.sigmoid(layer.up(h))).sigmoid()
        expected = -(h * p.log() + (1 - h) * (1 - p).log()).sum(1)
        assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-5)
    monkeypatch.setattr(LightningModule, "current_epoch", 1)
    method.corrupt.level = 1.0  # now the layer sees coins only, and its target stays
    torch.manual_seed(5)
    one = method.loss(labelled(x))["loss"]
    torch.manual_seed(5)
    h = method.hidden(x, 1)
    logits = method.layers[1].down(torch.sigmoid(method.layers[1].up(SaltAndPepper(1.0)(h))))
    assert torch.allclose(one, -(h * logits - nn.functional.softplus(logits)).sum(1), atol=1e-5)


def test_pretraining_of_grey_images_keeps_their_likelihood(monkeypatch):
    monkeypatch.setattr(LightningModule, "current_epoch", 0)
    method = small_dae(likelihood="gaussian", sigma=0.2, pretrain_epochs=1, level=0.0, hidden_dims=(5, 3))
    x = torch.rand(7, *SHAPE)
    layer = method.layers[0]
    mean = layer.down(torch.sigmoid(layer.up(x.flatten(1)))).sigmoid()
    expected = -Normal(mean, 0.2).log_prob(x.flatten(1)).sum(1)
    assert torch.allclose(method.loss(labelled(x))["loss"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": ()}, r"hidden_dims must be positive, got \(\)"),
        ({"hidden_dims": (5, 0)}, r"hidden_dims must be positive, got \(5, 0\)"),
        ({"walkback_steps": 0}, "walkback_steps must be at least 1, got 0"),
        ({"walk_steps": 0}, "walk_steps must be at least 1, got 0"),
        ({"emit_steps": 0}, "emit_steps must be at least 1, got 0"),
        ({"pretrain_epochs": -1}, "pretrain_epochs must not be negative, got -1"),
        ({"num_starts": -1}, "num_starts must not be negative, got -1"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"lr_final": 0.0}, "lr_final must be positive, got 0.0"),
        ({"level": 1.5}, "a probability, 0 to 1, got 1.5"),
        (
            {"hidden_dims": (5, 3), "activation": "tanh", "pretrain_epochs": 1},
            "pretrain_epochs of several layers needs activation: logistic, got tanh",
        ),
    ],
)
def test_impossible_settings_of_the_dae_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DAE(SHAPE, **options)


def test_no_images_are_not_asked_for():
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        small_dae().sample(0)


@pytest.mark.slow
def test_states_of_the_chain_explain_unseen_digits():
    """Better than independent pixels do, by states that are too few for a tight bound: 1,500."""
    data = Digits(batch_size=50)
    torch.manual_seed(0)
    method = DAE((1, 8, 8), hidden_dims=(64, 64), level=0.15, walkback_steps=2, walk_steps=60, emit_steps=15)
    method.optimizer_name, method.lr = "adam", 3e-3
    x = data.split("test").x
    before = csl(method.emit(100), x).log_prob.mean().item()
    trainer(max_epochs=25).fit(method, datamodule=data)
    after = csl(method.emit(100), x).log_prob.mean().item()
    independent = Independent(Bernoulli(data.mean_image().clamp(1e-3, 0.999)), 3)
    baseline = independent.log_prob(x).mean().item()
    assert before < baseline
    assert after > baseline + 1
