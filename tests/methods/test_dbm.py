"""Facts of the deep Boltzmann machine: doubling, mean field, bound, particles, against sums over states."""

import itertools
import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from support import all_states, same, state, suited_digits, tiny, trainer
from torch.nn.functional import softplus

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.capabilities import Partition, Side
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.methods.energy.dbm import DBM, SCORING_STEPS
from zoo.methods.energy.shared.layered import DoubledLevel
from zoo.parts.annealing import enumeration
from zoo.parts.annealing.binary_pair import base_rates
from zoo.parts.annealing.paths import linear
from zoo.parts.annealing.verdicts import log_partition
from zoo.scores.evaluation import Evaluator

TINY = {
    "hidden_dims": (7, 5),
    "pretrain_epochs": (1, 1),
    "num_chains": 5,
    "tracking_steps": 4,
    "walk_steps": 10,
}

SHAPE, D = (1, 2, 4), 8
DEPTHS = [(6, 5), (5, 4, 3)]


def small(*hidden_dims, scale=0.5, **options) -> DBM:
    """A float64 machine with every parameter from N(0, scale^2)."""
    options = {"hidden_dims": hidden_dims, "pretrain_epochs": (1,) * len(hidden_dims)} | options
    method = tiny("DBM", SHAPE, **options).double()
    with torch.no_grad():
        for p in method.parameters():
            p.copy_(scale * torch.randn_like(p))
    return method


def at_phase(method, phase, monkeypatch):
    monkeypatch.setattr(LightningModule, "current_epoch", phase)
    return method


def log_joint(method: DBM) -> torch.Tensor:
    """-E at all settings of all layers, one dimension per layer, written from the paper's energy."""
    weights = [level.weight.detach() for level in method.machine.levels]
    biases = [b.detach() for b in method.machine.biases]
    states = [all_states(len(b)) for b in biases]
    depth = len(biases)

    def along(value, *dims):
        return value.view([value.shape[dims.index(i)] if i in dims else 1 for i in range(depth)])

    total = sum(along(s @ b, i) for i, (s, b) in enumerate(zip(states, biases, strict=True)))
    for i, weight in enumerate(weights):
        total = total + along(states[i] @ weight @ states[i + 1].T, i, i + 1)
    return total


def log_marginal(method: DBM) -> torch.Tensor:
    """log p(v) of all images, [2^D]."""
    score = log_joint(method)
    return score.flatten(1).logsumexp(1) - score.flatten().logsumexp(0)


def pictures() -> torch.Tensor:
    return all_states(D).unflatten(1, SHAPE)


def batch_of(x: torch.Tensor) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)))


# 1. Doubling.


def test_the_composed_conditional_is_the_doubled_pass_upwards():
    """With W2 = W1', a = b and h2 = v: sigmoid(v W1 + h2 W2' + b1) is that of the first level alone."""
    method = small(6, D)
    first, second = method.machine.levels
    with torch.no_grad():
        second.weight.copy_(first.weight.T)
        second.pixels.bias.copy_(first.bias)
    v = all_states(D)
    composed = method.machine.drive([v, v[:, :0], v], 1)
    torch.testing.assert_close(composed, first.up(v), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("depth", "copies"), [(2, [(2, 1), (1, 2)]), (3, [(2, 1), (2, 2), (1, 2)])])
def test_the_layer_is_doubled_that_stands_in_for_a_missing_one(depth, copies):
    method = small(*[4] * depth)
    assert [(level.below, level.above) for level in method.machine.levels] == copies


@pytest.mark.parametrize(("below", "above"), [(2, 1), (1, 2), (2, 2)])
def test_a_level_moves_by_the_statistics_of_contrastive_divergence(below, above):
    """<v h> of the data less that of the chains, the conditionals written from the specification."""
    torch.manual_seed(0)
    level = DoubledLevel((1, 1, 6), 4, below, above).double()
    with torch.no_grad():
        for p in level.theta:
            p.copy_(torch.randn_like(p))
    weight, b, a = (p.detach() for p in level.theta)
    v = (torch.rand(9, 6) < 0.5).double()
    torch.manual_seed(3)
    level.contrast(v, 2)["loss"].mean().backward()
    torch.manual_seed(3)
    model = v
    for _ in range(2):
        h = (torch.rand(9, 4, dtype=torch.float64) < (below * (model @ weight + b)).sigmoid()).double()
        model = (torch.rand(9, 6, dtype=torch.float64) < (above * (h @ weight.T + a)).sigmoid()).double()
    means = [(below * (units @ weight + b)).sigmoid() for units in (v, model)]
    share = 0.5 if below == above == 2 else 1
    expected = share * (model.T @ means[1] - v.T @ means[0]) / 9
    torch.testing.assert_close(level.weight.grad, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(level.bias.grad, share * (means[1] - means[0]).mean(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(level.pixels.bias.grad, share * (model - v).mean(0), atol=1e-9, rtol=0)


def test_levels_learn_from_bits_drawn_by_the_doubled_pass_below(monkeypatch):
    method = at_phase(tiny("DBM", hidden_dims=(7, 6, 5), pretrain_epochs=(1, 1, 1)), 2, monkeypatch)
    seen = []
    monkeypatch.setattr(
        method.machine.levels[2], "contrast", lambda v, k: seen.append(v) or {"loss": v.sum() * 0}
    )
    x = torch.ones(2000, 1, 8, 8)
    method.loss(batch_of(x))
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    first, second = method.machine.levels[:2]
    with torch.no_grad():
        first.weight.fill_(1.0)
        second.bias.copy_(torch.linspace(-1, 1, 6))
    method.loss(batch_of(x))
    expected = (2 * (torch.ones(7) @ second.weight + second.bias)).sigmoid()
    torch.testing.assert_close(seen[1].mean(0), expected.detach(), atol=0.04, rtol=0)
    assert seen[1].shape == (2000, 6)


def test_the_chains_of_each_level_grow_and_its_steps_shrink():
    class Look(Callback):
        seen: list = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            self.seen.append((pl_module.phase, pl_module.num_steps, round(lr, 6)))

    options = {"pretrain_epochs": (3, 2), "cd_steps": 2, "lengthen_every": 1, "lr_schedule": "constant"}
    method, look = tiny("DBM", lr=0.12, joint_lr=0.01, **options), Look()
    options = {"max_epochs": 6, "limit_train_batches": 1, "limit_val_batches": 0}
    trainer(callbacks=[look], **options).fit(method, datamodule=suited_digits(method))
    levels = [(0, 2, 0.12), (0, 4, 0.06), (0, 6, 0.04), (1, 2, 0.12), (1, 4, 0.06)]
    assert look.seen[:5] == levels
    assert (look.seen[5][0], look.seen[5][2]) == (2, 0.01)


@pytest.mark.parametrize("index", [1, 2])
def test_a_level_starts_at_the_means_of_the_units_below_it(index):
    method = small(5, 4, 3, scale=0.3)
    with torch.no_grad():
        method.machine.levels[index].weight.zero_()
    x = pictures()
    method.start_level(index, x)
    h = x.flatten(1)
    for level in method.machine.levels[:index]:
        h = (2 * (h @ level.weight + level.bias)).sigmoid()
    level = method.machine.levels[index]
    visible = level.down(torch.zeros(1, len(level.bias)).double()).sigmoid()[0]
    expected = (len(x) * h.mean(0) + 1) / (len(x) + 2)
    torch.testing.assert_close(visible, expected, atol=1e-9, rtol=0)


# 2. The bound and log Z.


@pytest.mark.parametrize("hidden_dims", DEPTHS)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_probabilities_sum_to_one_and_the_bound_lies_below(hidden_dims, scale):
    method = small(*hidden_dims, scale=scale)
    log_p = log_marginal(method)
    bound = -method.energy(pictures()) - method.log_partition(2, 1).log_z
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    assert (bound <= log_p + 1e-9).all()
    assert float((log_p - bound).max()) > 1e-3
    assert DBM.energy_side is Side.UPPER


def test_without_second_weights_the_bound_is_that_of_an_rbm_and_tight():
    method = small(6, 5)
    first, second = method.machine.levels
    with torch.no_grad():
        second.weight.zero_()
    v, (c, b1, b2) = all_states(D), (b.detach() for b in method.machine.biases)
    score = v @ c + softplus(v @ first.weight.detach() + b1).sum(1)
    log_z = method.log_partition(2, 1).log_z
    assert log_z == pytest.approx(float(score.logsumexp(0) + softplus(b2).sum()), abs=1e-9)
    bound = -method.energy(pictures()) - log_z
    torch.testing.assert_close(bound, score - score.logsumexp(0), atol=1e-6, rtol=0, check_dtype=False)


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_annealing_comes_within_a_tenth_of_the_truth(hidden_dims, monkeypatch):
    """The layers of even number are summed out, those of odd number drawn: with and without a base rate."""
    method = small(*hidden_dims)
    truth = float(log_joint(method).flatten().logsumexp(0))
    exact = method.log_partition(2, 1)
    assert exact.num_steps == 0
    assert exact.log_z == pytest.approx(truth, abs=1e-9)
    pair = method.machine.pair(method.particles)
    assert len(pair.c) == sum(hidden_dims[::2])
    assert len(pair.b) == D + sum(hidden_dims[1::2])
    monkeypatch.setattr(enumeration, "ENUMERABLE", 2)
    for mean in (0.5, 0.1):
        method.machine.pixels.mean.fill_(mean)
        pair = method.machine.pair(method.particles)
        torch.testing.assert_close(pair.b0[:D], base_rates(method.machine.pixels.mean))
        layers = method.machine.parted(method.particles)
        above = [method.machine.drive(layers, i).sigmoid() for i in range(1, len(layers), 2)]
        torch.testing.assert_close(pair.c0, base_rates(torch.cat(above, 1).mean(0)))
        torch.testing.assert_close(pair.b0[D:], base_rates(method.particles[:, D:].mean(0)))
        assert pair.log_z0 == pytest.approx(float(softplus(torch.cat((pair.b0, pair.c0))).sum()), abs=1e-6)
        torch.manual_seed(0)
        found = log_partition(pair, 100, 1000, linear)
        assert found.num_steps == 1000
        assert found.log_z == pytest.approx(truth, abs=0.1)


# 3. Mean field.


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_the_bound_never_falls_from_round_to_round_and_settles(hidden_dims):
    method = small(*hidden_dims, scale=1.5)
    v = all_states(D)
    bounds = torch.stack([method.machine.bound(method.machine.mean_field(v, k)) for k in range(12)])
    assert (bounds.diff(dim=0) >= -1e-9).all()
    assert bounds.diff(dim=0)[0].max() > 1e-2
    layers = method.machine.mean_field(v, SCORING_STEPS)
    for i in range(1, len(layers)):
        solved = method.machine.drive(layers, i).sigmoid()
        assert float((solved - layers[i]).abs().mean().detach()) < 1e-3


def test_the_gradient_of_the_surrogate_is_that_of_data_means_less_particles(monkeypatch):
    method = at_phase(small(6, 5), 2, monkeypatch)
    x = (torch.rand(7, *SHAPE) < 0.5).double()
    found = dict(
        zip(
            method.learning(),
            torch.autograd.grad(method.loss(batch_of(x))["loss"].mean(), method.learning()),
            strict=True,
        )
    )
    first, second = method.machine.levels
    v, m1, m2 = method.machine.mean_field(x.flatten(1), method.mean_field_steps)
    vf, h2 = method.particles.split([D, 5], 1)
    h1 = (vf @ first.weight + h2 @ second.weight.T + method.machine.biases[1]).sigmoid()
    expected = {
        first.weight: vf.T @ h1 / len(vf) - v.T @ m1 / len(v),
        second.weight: h1.T @ h2 / len(vf) - m1.T @ m2 / len(v),
        first.pixels.bias: vf.mean(0) - v.mean(0),
        first.bias: h1.mean(0) - m1.mean(0),
        second.bias: h2.mean(0) - m2.mean(0),
    }
    assert set(found) == set(expected)
    for p, value in expected.items():
        torch.testing.assert_close(found[p], value.detach(), atol=1e-9, rtol=0)


# 4. Particles.


def test_particles_move_in_joint_learning_alone_go_on_and_travel(tmp_path):
    class Look(Callback):
        seen: list = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append((pl_module.phase, pl_module.particles.clone()))

    method, look = tiny("DBM", num_chains=200), Look()
    options = {"max_epochs": 4, "limit_train_batches": 2, "limit_val_batches": 0}
    trainer(callbacks=[look], **options).fit(method, datamodule=suited_digits(method))
    for (_, one), (phase, two) in itertools.pairwise(look.seen):
        assert torch.equal(one, two) == (phase < 2)
        assert float((one == two).float().mean()) > 0.3
    save_pretrained(method, tmp_path / "model")
    assert same(state(method), state(from_pretrained(tmp_path / "model")))


def test_the_data_phase_does_not_see_the_particles():
    method = small(6, 5)
    v = all_states(D)
    before = method.machine.mean_field(v, 5)
    method.particles.fill_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, method.machine.mean_field(v, 5), strict=True))


@pytest.mark.parametrize("hidden_dims", DEPTHS)
def test_particles_visit_states_as_often_as_the_energy_says(hidden_dims):
    method = small(*hidden_dims)
    p = log_joint(method)
    p = (p - p.flatten().logsumexp(0)).exp()
    torch.manual_seed(0)
    layers = method.machine.gibbs(method.machine.start(20_000), 60)
    for i, units in enumerate(layers):
        marginal = p.sum([j for j in range(len(layers)) if j != i])
        truth = marginal @ all_states(units.shape[1])
        torch.testing.assert_close(units.mean(0), truth, atol=0.02, rtol=0, check_dtype=False)
    joined = method.machine.joined(layers)
    again = method.machine.parted(joined)
    assert all(torch.equal(a, b) for a, b in zip(layers[::2], again[::2], strict=True))


# 5. What it can do.


@pytest.mark.parametrize("walk_from", ["particles", "random"])
def test_chains_start_where_they_are_told_to(walk_from):
    method = tiny("DBM", walk_from=walk_from, walk_steps=1)
    with torch.no_grad():
        method.machine.levels[1].weight.zero_()
        method.machine.levels[0].weight.fill_(4.0)
        method.machine.levels[0].bias.fill_(-50.0)
        method.machine.pixels.bias.fill_(-14.0)
    method.particles.fill_(1)
    method.machine.pixels.mean.fill_(0.0)
    found = method.sample(50)
    assert float(found.mean()) == pytest.approx(float(walk_from == "particles"), abs=0.01)


def test_long_runs_visit_images_as_often_as_the_model_says():
    method = small(6, 5, walk_steps=60)
    truth = log_marginal(method).exp() @ all_states(D)
    found = method.sample(20_000).flatten(1).mean(0)
    torch.testing.assert_close(found, truth, atol=0.02, rtol=0, check_dtype=False)
    assert len(list(method.emit(2))) == 30
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        method.sample(0)


def test_repairs_are_drawn_from_the_models_conditional():
    method = small(6, 5, walk_steps=40)
    known = torch.arange(D) < 4
    x = (torch.rand(1, D) < 0.5).double()
    states, log_p = all_states(D), log_marginal(method)
    agree = (states[:, known] == x[:, known]).all(1)
    truth = (log_p.masked_fill(~agree, -math.inf).softmax(0) @ states)[~known]
    many, mask = (value.expand(20_000, -1).unflatten(1, SHAPE) for value in (x, known.double()))
    found = method.repair(many, mask, generator=torch.Generator().manual_seed(0)).flatten(1)
    torch.testing.assert_close(found[:, ~known].mean(0), truth, atol=0.02, rtol=0, check_dtype=False)


def test_log_z_is_tracked_while_all_levels_learn(monkeypatch):
    seen = []
    method = tiny("DBM", hidden_dims=(30, 25), tracking_steps=3)
    monkeypatch.setattr(
        type(method), "log", lambda self, name, value, **_: seen.append((self.current_epoch, name))
    )
    options = {"max_epochs": 4, "limit_train_batches": 1, "limit_val_batches": 1}
    trainer(num_sanity_val_steps=0, **options).fit(method, datamodule=suited_digits(method))
    tracked = [(epoch, name) for epoch, name in seen if "partition" in name]
    assert tracked == [
        (epoch, f"val/{name}") for epoch in (2, 3) for name in ("log_partition", "partition_ess")
    ]


@pytest.mark.parametrize(("scale", "steps", "refused"), [(0.05, 24, False), (6.0, 1, True)])
def test_a_score_takes_the_papers_distributions_and_few_effective_chains_stop_it(
    scale, steps, refused, monkeypatch, tmp_path
):
    assert DBM.partition_steps == 20_000
    monkeypatch.setattr(DBM, "partition_steps", steps)
    method = tiny("DBM", hidden_dims=(30, 25))
    with torch.no_grad():
        for level in method.machine.levels:
            level.weight.copy_(scale * torch.randn_like(level.weight))
    evaluator = Evaluator(metrics=["partition"], out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    if refused:
        assert "effective number of chains must be at least 5" in evaluator.results.skipped["partition"]
        assert not evaluator.results.numbers
    else:
        how = evaluator.results.numbers["test/log_prob_estimate"].protocol.how
        assert "AIS, 100 chains, 24 distributions, a bound on the energy" in how


def test_a_log_z_that_makes_images_likelier_than_certain_is_refused(tmp_path, monkeypatch):
    """Chains that all miss the mass of the model agree with one another: their effective number is high."""
    method = tiny("DBM", **TINY)
    low = Partition(-1e4, 0.01, -1e4, -1e4, 90.0, 20_000, 0.1)
    monkeypatch.setattr(method, "log_partition", lambda chains, steps: low)
    evaluator = Evaluator(metrics=["partition"], out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    assert "the mean of log p(x) must be at most 0 nats" in evaluator.results.skipped["partition"]
    assert not evaluator.results.numbers


@pytest.mark.parametrize("hidden_dims", [(12, 10), (8, 8, 4)])
def test_the_likelihood_of_unseen_digits_improves_with_joint_learning(hidden_dims):
    """By an exact log Z: above that after pretraining and that of independent pixels."""

    class Bound(Callback):
        found: list = []

        def on_train_epoch_end(self, trainer, method):
            if trainer.current_epoch + 1 in (sum(method.pretrain_epochs), trainer.max_epochs):
                log_z = method.log_partition(2, 1).log_z
                self.found.append(float(-method.energy(x).mean() - log_z))

    epochs = (3,) * len(hidden_dims)
    options = {"hidden_dims": hidden_dims, "pretrain_epochs": epochs, "momentum_final": 0.5}
    options |= {"lr": 0.2, "joint_lr": 0.1, "num_chains": 50, "tracking_steps": 0, "gibbs_steps": 2}
    method, bound = tiny("DBM", **options), Bound()
    data = suited_digits(method, batch_size=50)
    data.setup()
    x = data.split("test").x
    trainer(max_epochs=sum(epochs) + 5, limit_val_batches=0, callbacks=[bound]).fit(method, datamodule=data)
    alone = method.machine.pixels.emission(base_rates(data.mean_image())).log_prob(x).mean()
    before, after = bound.found
    assert after > before
    assert after > float(alone) + 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"hidden_dims": (5,), "pretrain_epochs": (1,)},
            r"hidden_dims must be at least two layers, got \(5,\)",
        ),
        ({"pretrain_epochs": (1, 1, 1)}, r"must be one number per hidden layer, 2, got \(1, 1, 1\)"),
        ({"hidden_dims": (5, 0)}, "hidden_dims must be at least 1, got 0"),
        ({"pretrain_epochs": (0, 1)}, "pretrain_epochs must be at least 1, got 0"),
        ({"cd_steps": 0}, "cd_steps must be at least 1, got 0"),
        ({"lengthen_every": -1}, "lengthen_every must be at least 0, got -1"),
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"gibbs_steps": 0}, "gibbs_steps must be at least 1, got 0"),
        ({"mean_field_steps": 0}, "mean_field_steps must be at least 1, got 0"),
        ({"tracking_steps": -1}, "tracking_steps must be at least 0, got -1"),
        ({"walk_steps": 0}, "walk_steps must be at least 1, got 0"),
        ({"joint_lr": 0.0}, r"joint_lr must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(option, message):
    with pytest.raises(UsageError, match=message):
        tiny("DBM", **option)
