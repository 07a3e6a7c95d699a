"""Facts of deep belief nets: what is passed up, the tied start, the bound, phases, and who moves when."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from support import all_states, batch, suited_digits, tiny, trainer
from torch.nn.functional import softplus

from zoo.contract.capabilities import Side
from zoo.errors import UsageError
from zoo.methods.energy.dbn import DBN
from zoo.methods.energy.rbm import RBM

TINY = {
    "hidden_dims": (7, 6, 5),
    "pretrain_epochs": (1, 1, 1),
    "updown_steps": (1,),
    "walk_steps": 20,
    "num_starts": 3,
}

SHAPE = (1, 2, 4)
D = 8


def small(*hidden_dims, scale: float = 0.7, **options) -> DBN:
    torch.manual_seed(0)
    options = {"pretrain_epochs": (1,) * len(hidden_dims), "walk_steps": 20} | options
    method = DBN(SHAPE, hidden_dims=hidden_dims, **options).double()
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(std=scale)
    return method.requires_grad_(False)


def at_phase(method: DBN, phase: int, monkeypatch) -> DBN:
    monkeypatch.setattr(LightningModule, "current_epoch", sum(method.pretrain_epochs[:phase]))
    assert method.phase == phase
    return method


def log_joint_of_top(method: DBN) -> torch.Tensor:
    """log p(h) of the units next to the top, by enumeration."""
    top = method.stack.levels[-1]
    h = all_states(top.pixels.dim).double()
    score = h @ top.pixels.bias + softplus(h @ top.weight + top.bias).sum(1)
    return score - score.logsumexp(0)


def log_given(level, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """log p(below|above), [below, above]."""
    logits = above @ level.weight.T + level.pixels.bias
    return below @ logits.T - softplus(logits).sum(1)


def exact_log_prob(method: DBN) -> torch.Tensor:
    """log p(v) of all 256 images, by enumeration of every layer."""
    log_p, above = log_joint_of_top(method), all_states(method.stack.levels[-1].pixels.dim).double()
    for level in method.stack.levels[-2::-1]:
        below = all_states(level.pixels.dim).double()
        log_p, above = (log_given(level, below, above) + log_p).logsumexp(1), below
    return log_p


def pictures() -> torch.Tensor:
    return all_states(D).double().unflatten(1, SHAPE)


# 1. Samples are passed up.


@pytest.mark.parametrize("phase", [1, 2])
def test_a_level_learns_from_bits_that_are_drawn_anew(phase, monkeypatch):
    method = at_phase(tiny("DBN", hidden_dims=(7, 6, 5)), phase, monkeypatch)
    seen = []
    contrast = type(method).contrast
    monkeypatch.setattr(
        type(method),
        "contrast",
        lambda self, level, v: (seen.append((level, v)), contrast(self, level, v))[1],
    )
    given = batch()
    for _ in range(2):
        method.loss(given)
    (level, one), (_, two) = seen
    assert level is method.stack.levels[phase]
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(one, two)


def test_the_first_level_learns_from_the_image_itself(monkeypatch):
    method = at_phase(tiny("DBN"), 0, monkeypatch)
    given = batch()
    seen = []
    monkeypatch.setattr(
        method.stack.levels[0],
        "free_energy",
        lambda v: (seen.append(v), method.stack.levels[0].pixels.energy(v))[1],
    )
    method.loss(given)
    assert torch.equal(seen[0], given.x.flatten(1))


# 2. The tied start.


def test_the_transposed_start_leaves_the_model_as_it_was():
    """The DBN's log p(v) is the RBM's, and the bound is tight whatever K."""
    method = small(6, D, start="transposed")
    first, top = method.stack.levels
    first.tie()
    method.start_level(1, pictures())
    torch.testing.assert_close(top.weight, first.weight.T)
    v = all_states(D).double()
    score = v @ first.pixels.bias + softplus(v @ first.weight + first.bias).sum(1)
    rbm = score - score.logsumexp(0)
    torch.testing.assert_close(exact_log_prob(method), rbm, rtol=0, atol=1e-9)
    bound = method.stack.bound(pictures(), 1) - method.log_partition(1, 1).log_z
    torch.testing.assert_close(bound, rbm, rtol=0, atol=1e-6)  # bits are scored in float32


def test_the_first_level_is_the_rbm_of_the_zoo(monkeypatch):
    """The same loss and the same gradient, from the same weights and draws."""
    method = at_phase(tiny("DBN"), 0, monkeypatch)
    rbm = RBM((1, 8, 8), num_hidden=7)
    rbm.pixels.load_state_dict(method.stack.levels[0].pixels.state_dict())
    with torch.no_grad():
        rbm.weight.copy_(method.stack.levels[0].weight)
    given = batch()
    for one in (method, rbm):
        torch.manual_seed(3)
        one.loss(given)["loss"].mean().backward()
    torch.testing.assert_close(method.stack.levels[0].weight.grad, rbm.weight.grad)
    torch.testing.assert_close(method.stack.levels[0].pixels.bias.grad, rbm.pixels.bias.grad)


# 3. The bound.


@pytest.mark.parametrize("hidden_dims", [(6, 5), (5, 4, 3)])
def test_probabilities_sum_to_one_and_the_bound_lies_below(hidden_dims):
    method = small(*hidden_dims, scale=0.4)
    log_p = exact_log_prob(method)
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    log_z = method.log_partition(1, 1).log_z
    draws = torch.stack([method.stack.bound(pictures(), 1) for _ in range(4000)]) - log_z
    error = draws.std(0) / 4000**0.5
    assert (draws.mean(0) <= log_p + 4 * error).all()
    assert (draws.mean(0) < log_p - 0.01).any(), "the recognition is not exact"
    weights = draws.exp()
    relative = weights.std(0) / 4000**0.5 / log_p.exp()
    assert ((weights.mean(0) / log_p.exp() - 1).abs() < 5 * relative + 1e-6).float().mean() > 0.97
    tighter = (method.stack.bound(pictures(), 200) - log_z).mean()
    assert float(draws.mean()) < float(tighter) < float(log_p.mean()) + 0.05


def test_energy_is_minus_the_bound_and_says_on_which_side():
    method = small(6, 5, scale=0.4, bound_samples=500).float()
    assert DBN.energy_side is Side.UPPER
    log_p = exact_log_prob(method.double())
    found = -method.energy(pictures()) - method.log_partition(1, 1).log_z
    assert float((found - log_p).abs().mean()) < 0.15


# 4. The normaliser.


def test_the_normaliser_is_that_of_the_top_over_either_layer():
    method = small(6, 5)
    top = method.stack.levels[-1]
    over_h1 = all_states(6).double()
    over_h2 = all_states(5).double()
    one = (over_h1 @ top.pixels.bias + softplus(over_h1 @ top.weight + top.bias).sum(1)).logsumexp(0)
    two = (over_h2 @ top.bias + softplus(over_h2 @ top.weight.T + top.pixels.bias).sum(1)).logsumexp(0)
    found = method.log_partition(10, 10)
    assert found.num_steps == 0
    assert found.log_z == pytest.approx(float(one), abs=1e-9)
    assert float(two) == pytest.approx(float(one), abs=1e-9)


def test_annealing_starts_at_the_rates_of_the_units_below_the_top():
    torch.manual_seed(0)
    method = tiny("DBN", hidden_dims=(21, 22), pretrain_epochs=(1, 1))
    x = (torch.rand(300, 1, 8, 8) < 0.3).float()
    method.start_level(1, x)
    torch.testing.assert_close(method.stack.levels[1].pixels.mean, method.stack.means(x, 1).mean(0))
    assert method.log_partition(20, 50).num_steps == 50


# 5. Who moves when.


def test_the_wake_phase_moves_generation_and_the_sleep_phase_recognition(monkeypatch):
    method = at_phase(tiny("DBN", hidden_dims=(7, 6, 5)), 3, monkeypatch)
    top, rest = method.stack.levels[-1], method.stack.levels[:-1]
    generation = {id(p) for level in rest for p in (level.weight, level.pixels.bias)}
    recognition = {id(p) for level in rest for p in (level.weight_up, level.bias_up)}
    for term, moved in (("wake", generation), ("sleep", recognition), ("energy_data", {*map(id, top.theta)})):
        method.zero_grad()
        method.loss(batch())[term].mean().backward()
        got = {id(p) for p in method.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert got == moved - ({id(top.pixels.bias)} - got), term
        assert all(p.grad is None for p in method.parameters() if id(p) not in moved), term


def test_recognition_follows_the_level_that_learns_and_parts_from_it_in_the_up_down_phase():
    method = tiny("DBN", hidden_dims=(7, 6), pretrain_epochs=(1, 1))
    first = method.stack.levels[0]
    trainer(max_epochs=2, limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    assert torch.equal(first.weight, first.weight_up)
    assert torch.equal(first.bias, first.bias_up)
    other = tiny("DBN", hidden_dims=(7, 6), pretrain_epochs=(1, 1))
    trainer(max_epochs=3, limit_train_batches=3).fit(other, datamodule=suited_digits(other))
    assert not torch.equal(other.stack.levels[0].weight, other.stack.levels[0].weight_up)


def test_each_phase_moves_its_own_level():
    moves = []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.before = [level.weight.detach().clone() for level in pl_module.stack.levels]

        def on_train_epoch_end(self, trainer, pl_module):
            pairs = zip(self.before, pl_module.stack.levels, strict=True)
            moves.append([not torch.equal(before, level.weight) for before, level in pairs])

    method = tiny("DBN", hidden_dims=(7, 6, 5), pretrain_epochs=(1, 2, 1))
    trainer(max_epochs=5, limit_train_batches=3, callbacks=[Watch()]).fit(
        method, datamodule=suited_digits(method)
    )
    first, second, third, everything = (
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True] * 3,
    )
    assert moves == [first, second, second, third, everything]


def test_steps_and_step_sizes_of_each_phase():
    seen = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            group = trainer.optimizers[0].param_groups[0]
            seen.append((pl_module.phase, pl_module.num_steps, round(group["lr"], 6), group["momentum"]))

    method = tiny(
        "DBN",
        hidden_dims=(7, 6),
        pretrain_epochs=(4, 2),
        lengthen_every=2,
        updown_steps=(3, 6),
        lr=0.1,
        updown_lr=0.01,
        momentum_epochs=1,
    )
    trainer(max_epochs=10, limit_train_batches=1, callbacks=[Watch()]).fit(
        method, datamodule=suited_digits(method)
    )
    lr = [0.1, 0.075, 0.025, 0.0125, 0.1, 0.05, 0.01, 0.0075, 0.005, 0.0025]
    steps = [1, 1, 2, 2, 1, 1, 3, 3, 6, 6]
    momenta = [0.5, 0.9, 0.9, 0.9, 0.5, 0.9, 0.5, 0.9, 0.9, 0.9]
    phases = [0] * 4 + [1] * 2 + [2] * 4
    assert seen == list(zip(phases, steps, lr, momenta, strict=True))


# Sampling.


def test_samples_have_the_exact_means():
    torch.manual_seed(0)
    method = small(6, 5, scale=0.5, walk_steps=100).float()
    p = exact_log_prob(method.double()).exp()
    want = p @ all_states(D).double()
    x = method.sample(8000).flatten(1)
    error = x.std(0) / 8000**0.5
    assert ((x.mean(0) - want).abs() < 4.5 * error).all()


def test_chains_start_in_images_where_some_are_kept():
    method = tiny("DBN", hidden_dims=(40, 30), pretrain_epochs=(1, 1), num_starts=4, walk_steps=1)
    assert not method.starts.any()
    trainer(limit_train_batches=1).fit(method, datamodule=suited_digits(method))
    assert set(method.starts.unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        for level in method.stack.levels:  # a level that hands every unit through, up and down
            level.weight.zero_()
            level.weight[: level.weight.shape[1]].fill_diagonal_(40.0)
            level.bias.fill_(-20.0)
            level.pixels.bias.fill_(-20.0)
            level.tie()
    drawn = method.sample(50).flatten(1)[:, :30].round()
    kept = method.starts.flatten(1)[:, :30]
    assert (drawn[:, None] == kept).all(2).any(1).all()


def test_codes_go_up_and_pictures_come_down():
    method = small(6, 5)
    x = pictures()[:7]
    one, two = method.stack.levels
    h = (x.flatten(1) @ one.weight_up + one.bias_up).sigmoid()
    h = (h @ two.weight + two.bias).sigmoid()
    torch.testing.assert_close(method.encode(x), h)
    v = ((h @ two.weight.T + two.pixels.bias).sigmoid() @ one.weight.T + one.pixels.bias).sigmoid()
    torch.testing.assert_close(method.reconstruct(x).flatten(1), v)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": (5,), "pretrain_epochs": (1,)}, "hidden_dims must be at least two layers"),
        ({"pretrain_epochs": (1, 1)}, "pretrain_epochs must be one number per hidden layer, 3, got"),
        ({"pretrain_epochs": (1, 0, 1)}, "pretrain_epochs must be at least 1, got 0"),
        ({"start": "transposed"}, "start: transposed needs layers as wide as two below them"),
        ({"updown_steps": ()}, "updown_steps must be at least 1, got 0"),
        ({"updown_lr": 0.0}, "updown_lr must be positive, got 0"),
        ({"momentum_final": 1.0}, "momentum and momentum_final must be below 1, got 1"),
        ({"num_starts": -1}, "num_starts must be at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        tiny("DBN", **options)
