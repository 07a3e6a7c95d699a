"""Facts of the adversarial game: its optimum, objectives, rounds, penalties and averages."""

import copy
import inspect
import math

import pytest
import torch
from adversarial_models import SHAPE, SMALL_2014, SPECTRAL, Linear, dcgan, mlp2014
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from support import Repeated, images, state, suited_digits, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.errors import NonFiniteError, UsageError
from zoo.methods.adversarial.gan import GAN
from zoo.parts.estimators import gradient_norms

TINY = {
    "latent_dim": 8,
    "backbone": "dcgan",
    "channels": 8,
    "fc_dim": 16,
    "norm": "batch",
    "optimizer": "adam",
    "generator_lr": 2e-3,
    "discriminator_lr": 1e-3,
    "ema_decay": 0.9,
}

WGAN = {"objective": "wasserstein", "penalty": "gradient", "norm": "none", "critic_steps": 5}


def with_logit(method: GAN, discriminator: nn.Module) -> GAN:
    method.discriminator = discriminator
    return method


def with_constant(method: GAN, value: float) -> GAN:
    """The method with d(x) = value + 0 x, whose derivative by its bias is dL/dd."""
    constant = with_logit(method, Linear(64, value))
    with torch.no_grad():
        constant.discriminator.w.zero_()
    return constant


# The objective.


def test_the_optimum_of_the_discriminator_is_the_jensen_shannon_divergence():
    """p = N(0, 1), q = N(1, 1): d* = 0.5 - x, and L_D* = 2 log 2 - 2 JSD with JSD = 0.11142 nats."""
    method = with_logit(GAN(image_shape=(1, 1, 1), **SMALL_2014), Linear(1))
    x, fake = torch.randn(200_000, 1, 1, 1), torch.randn(200_000, 1, 1, 1) + 1
    optimizer = torch.optim.LBFGS(method.discriminator.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = method.discriminator_loss(x, fake)["loss"].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert method.discriminator.w.item() == pytest.approx(-1, abs=0.03)
    assert method.discriminator.b.item() == pytest.approx(0.5, abs=0.03)
    assert closure().item() == pytest.approx(2 * math.log(2) - 2 * 0.11142, abs=0.005)


def test_at_the_equilibrium_the_discriminator_loses_two_log_two():
    loss = with_constant(mlp2014(), 0.0).discriminator_loss(images(), images())["loss"]
    assert loss.shape == (6,)
    assert torch.allclose(loss, torch.tensor(2 * math.log(2)))


@pytest.mark.parametrize(
    ("objective", "at", "value", "slope"),
    [
        ("non_saturating", -10.0, 10.0000454, -0.9999546),
        ("minimax", -10.0, -4.54e-5, -4.54e-5),
        ("non_saturating", 10.0, 4.54e-5, -4.54e-5),
        ("minimax", 10.0, -10.0000454, -0.9999546),
        ("hinge", -10.0, 10.0, -1.0),
        ("wasserstein", 3.0, -3.0, -1.0),
    ],
)
def test_what_the_generator_descends_and_where_it_saturates(objective, at, value, slope):
    method = with_constant(mlp2014(objective=objective), at)
    loss = method.generator_loss(torch.zeros(4, 5))["loss"]
    loss.mean().backward()
    assert loss[0].item() == pytest.approx(value, rel=1e-3)
    assert method.discriminator.b.grad.item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    ("objective", "real", "fake", "value"),
    [
        ("hinge", 2.0, -3.0, 0.0),
        ("hinge", 0.5, 0.25, 1.75),
        ("hinge", -1.0, -3.0, 2.0),
        ("wasserstein", 2.0, -3.0, -5.0),
        ("minimax", 2.0, -3.0, math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))),
        ("non_saturating", 2.0, -3.0, math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))),
    ],
)
def test_what_the_discriminator_descends(objective, real, fake, value):
    method = with_logit(mlp2014(objective=objective), Linear(1))
    with torch.no_grad():
        method.discriminator.w.fill_(1.0)
    x, made = torch.full((3, 1, 1, 1), real), torch.full((3, 1, 1, 1), fake)
    assert method.discriminator_loss(x, made)["loss"].tolist() == pytest.approx([value] * 3)


def test_extreme_logits_neither_overflow_nor_vanish():
    method = with_logit(mlp2014(), Linear(1))
    with torch.no_grad():
        method.discriminator.w.fill_(1.0)
    wrong = method.discriminator_loss(torch.full((1, 1, 1, 1), -300.0), torch.full((1, 1, 1, 1), 300.0))
    assert wrong["loss"].item() == pytest.approx(600.0)


def test_the_defaults_are_the_papers():
    defaults = {name: p.default for name, p in inspect.signature(GAN).parameters.items()}
    assert defaults["objective"] == "non_saturating"
    assert (defaults["optimizer"], defaults["generator_lr"], defaults["critic_steps"]) == ("sgd", 0.1, 1)
    assert (defaults["backbone"], defaults["latent_dim"]) == ("mlp2014", 100)


# The round.


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_a_round_is_the_algorithm_box_with_fresh_noise_every_time(critic_steps, monkeypatch):
    method = dcgan(critic_steps=critic_steps)
    calls, noises = [], []
    draw, descend = GAN.draw_noise, GAN.descend

    def recording_draw(self, n):
        noises.append(draw(self, n))
        return noises[-1]

    def recording_descend(self, player, loss_fn, *args, **options):
        calls.append((player, args, any(p.requires_grad for p in args)))
        return descend(self, player, loss_fn, *args, **options)

    monkeypatch.setattr(GAN, "draw_noise", recording_draw)
    monkeypatch.setattr(GAN, "descend", recording_descend)
    loader = Repeated(Batch(images(), torch.zeros(6).long(), torch.arange(6)))
    trainer().fit(method, loader, loader)
    assert [who for who, _, _ in calls] == ["discriminator"] * critic_steps + ["generator"]
    assert not any(differentiable for _, _, differentiable in calls)
    assert all(torch.equal(args[0], loader.batches[0].x) for _, args, _ in calls[:-1])
    assert len(noises) == critic_steps + 1
    assert len({noise.sum().item() for noise in noises}) == len(noises)
    assert all(noise.shape == (6, 8) for noise in noises)


@pytest.mark.parametrize("options", [{}, SPECTRAL, WGAN], ids=["batch", "spectral", "wgan"])
def test_only_the_player_and_the_statistics_of_a_forward_move_in_a_step(options, monkeypatch):
    """A step of D moves D and the batch statistics of G; a step of G moves G and the statistics of both."""
    method = dcgan(**options)
    moved = []
    descend = GAN.descend

    def recording(self, player, *args, **rest):
        before = state(self)
        terms = descend(self, player, *args, **rest)
        moved.append((player, {k for k, v in self.state_dict().items() if not torch.equal(v, before[k])}))
        return terms

    monkeypatch.setattr(GAN, "descend", recording)
    trainer(limit_train_batches=2).fit(method, datamodule=suited_digits(method))
    parameters = dict(method.named_parameters())
    statistics = ("running_mean", "running_var", "num_batches_tracked", "._u", "._v")
    for player, names in moved:
        own = {name for name in parameters if name.startswith(f"{player}.")}
        shift = {"discriminator.1.bias"}  # cancels from a difference of logits
        assert own - shift <= {name for name in names if name in parameters} <= own
        assert all(name.endswith(statistics) for name in names if name not in parameters)
        others = {name for name in names if not name.startswith(f"{player}.")}
        assert others == (
            {
                name
                for name, value in state(method).items()
                if name.startswith("discriminator.") and name.endswith(statistics) and value.shape != (1,)
            }
            if player == "generator"
            else set()
        )


def test_noise_has_mean_zero_and_variance_one_and_is_bounded():
    z = dcgan().draw_noise(50_000)
    assert z.mean().abs() < 0.01
    assert z.var().item() == pytest.approx(1, abs=0.01)
    assert z.abs().max() <= math.sqrt(3)


def test_sgd_follows_the_schedules_of_the_paper():
    """Step size divided by a constant after every batch, down to its floor; momentum rising by the epoch."""
    method = mlp2014(lr_decay=1.5, lr_final=0.02, momentum_epochs=4.0, discriminator_lr=0.05)
    seen = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))

    loader = Repeated(Batch(images(), torch.zeros(6).long(), torch.arange(6)), 2)
    trainer(max_epochs=3, callbacks=[Look()]).fit(method, loader, loader)
    expected = [
        (max(0.02, lr / 1.5**i), 0.5 + 0.2 * min(1, (i + 1) / 8)) for i in range(6) for lr in (0.05, 0.1)
    ]
    assert seen == [pytest.approx(pair) for pair in expected]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resuming_continues_the_schedules_and_reproduces_the_next_loss(tmp_path):
    def fit(epochs, ckpt_path=None):
        method = mlp2014(lr_decay=1.1, momentum_epochs=4.0)
        keep = ModelCheckpoint(tmp_path, filename=f"{epochs}", save_on_train_epoch_end=True)
        fitting = trainer(
            max_epochs=epochs, enable_checkpointing=True, callbacks=[keep], limit_train_batches=4
        )
        fitting.fit(method, datamodule=suited_digits(method), ckpt_path=ckpt_path)
        return method, fitting

    straight, one = fit(3)
    fit(2)
    resumed, two = fit(3, tmp_path / "2.ckpt")
    assert all(
        torch.equal(a, b) for a, b in zip(state(straight).values(), state(resumed).values(), strict=True)
    )
    for key in ("train/discriminator_loss", "train/generator_loss"):
        assert one.callback_metrics[key] == two.callback_metrics[key]
    assert int(resumed.average.updates) == 12


# Penalties.


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_gradient_penalty_of_a_linear_critic_is_exact_per_image_and_reaches_its_weights(repeats):
    method = with_logit(dcgan(**WGAN), Linear(64))
    w = method.discriminator.w
    x, fake = torch.rand(5, *SHAPE).repeat(repeats, 1, 1, 1), torch.rand(5, *SHAPE).repeat(repeats, 1, 1, 1)
    terms = method.discriminator_loss(x, fake)
    expected = (w.norm() - 1).square()
    assert terms["penalty"].shape == (5 * repeats,)
    assert terms["penalty"].tolist() == pytest.approx([expected.item()] * 5 * repeats, rel=1e-4)
    assert torch.allclose(terms["loss"], terms["distance"] + 10 * terms["penalty"])
    terms["penalty"].mean().backward()
    assert torch.allclose(w.grad, 2 * (w.norm() - 1) * w.detach() / w.norm(), atol=1e-4)


def test_the_gradient_penalty_looks_between_real_and_generated_with_a_share_per_image(monkeypatch):
    method = dcgan(**WGAN)
    seen = {}
    monkeypatch.setattr(
        "zoo.methods.adversarial.gan.gradient_norms", lambda f, x: seen.update(x=x) or torch.ones(len(x))
    )
    real, fake = torch.zeros(50, *SHAPE), torch.ones(50, *SHAPE)
    assert method.gradient_penalty(real, fake).sum() == 0
    shares = seen["x"].flatten(1)
    assert torch.equal(shares, shares[:, :1].expand_as(shares))
    assert shares[:, 0].unique().numel() == 50
    assert 0 <= shares.min() < 0.2
    assert 0.8 < shares.max() <= 1


def test_r1_is_the_squared_gradient_at_real_images_alone():
    class Bowl(nn.Module):
        """d(x) = |x|^2 / 2, whose gradient is x."""

        def forward(self, x):
            return x.square().flatten(1).sum(1, keepdim=True) / 2

    method = with_logit(dcgan(penalty="r1", norm="none", penalty_weight=0.5), Bowl())
    x, fake = torch.rand(4, *SHAPE), torch.rand(4, *SHAPE)
    terms = method.discriminator_loss(x, fake)
    assert torch.allclose(terms["penalty"], x.square().flatten(1).sum(1))
    assert torch.allclose(terms["loss"], terms["distance"] + 0.5 * terms["penalty"])


def test_gradient_norms_of_a_square_and_in_mixed_precision():
    x = torch.rand(3, *SHAPE)
    expected = 2 * x.flatten(1).norm(dim=1)
    assert torch.allclose(gradient_norms(lambda v: v.square().flatten(1).sum(1), x), expected)
    layer = nn.Linear(64, 1)
    with torch.autocast("cpu", torch.bfloat16):
        norms = gradient_norms(lambda v: layer(v.flatten(1)).squeeze(1), x.bfloat16())
    assert norms.dtype == torch.float32
    assert torch.allclose(norms, layer.weight.norm().expand(3), rtol=1e-6)


def test_the_gradient_of_a_constant_has_a_penalty_that_can_be_descended():
    method = with_constant(dcgan(**WGAN), 1.0)
    method.discriminator_loss(images(), images())["loss"].mean().backward()
    assert method.discriminator.w.grad.isfinite().all()


def test_without_decay_the_average_is_the_network():
    method = dcgan(ema_decay=0.0)
    trainer(limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    pairs = zip(
        method.generator.state_dict().values(), method.average.network.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_moves_the_average_once_a_round_and_its_buffers_are_the_generators(precision):
    method = dcgan(critic_steps=2)
    trainer(limit_train_batches=7, precision=precision).fit(method, datamodule=suited_digits(method))
    assert int(method.average.updates) == 7
    buffers = dict(method.generator.named_buffers())
    assert buffers
    for name, copied in method.average.network.named_buffers():
        assert torch.equal(copied, buffers[name])
    assert all(p.dtype == torch.float32 for p in method.average.parameters())
    for (name, parameter), average in zip(
        method.generator.named_parameters(), method.average.network.parameters(), strict=True
    ):
        assert not torch.equal(parameter, average), name


def test_samples_come_from_the_average_in_eval_mode_whatever_the_mode():
    method = dcgan()
    trainer(limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    z = method.draw_noise(6)
    method.train()
    training = method.decode(z)
    assert method.average.network.training
    method.eval()
    assert torch.equal(training, method.decode(z))
    assert torch.allclose(training[:2], method.decode(z[:2]), atol=1e-6)
    assert not method.average.network.training
    for parameter in method.generator.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(training, method.decode(z))
    frozen = copy.deepcopy(method.average.network).eval()
    assert torch.equal(training, frozen(z))


def test_a_run_that_blows_up_stops_before_the_average_is_touched():
    method = dcgan()
    with torch.no_grad():
        next(method.generator.parameters()).fill_(math.nan)
    before = state(method.average)
    with pytest.raises(NonFiniteError, match="discriminator_loss = nan"):
        trainer(limit_train_batches=1).fit(method, datamodule=suited_digits(method))
    assert all(torch.equal(v, before[k]) for k, v in method.average.state_dict().items())


# Options.


@pytest.mark.parametrize(
    "options",
    [
        WGAN | {"adam_betas": (0.0, 0.9)},
        SPECTRAL,
        SPECTRAL | {"penalty": "r1"},
        {"objective": "minimax"},
        {"penalty": "r1", "norm": "none", "penalty_weight": 5.0},
    ],
    ids=["wgan", "spectral hinge", "spectral r1", "minimax", "r1"],
)
@pytest.mark.parametrize("make", [dcgan, mlp2014])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_option_learns_with_both_backbones(make, options, precision):
    method = make(optimizer="adam", generator_lr=1e-3, discriminator_lr=1e-3, **options)
    before = state(method)
    fitting = trainer(limit_train_batches=3, precision=precision)
    fitting.fit(method, datamodule=suited_digits(method))
    after = method.state_dict()
    assert all(v.isfinite().all() for v in after.values())
    moved = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"generator", "discriminator", "average"}
    wanted = {"train/discriminator_loss", "train/generator_loss"}
    if "penalty" in options:
        wanted |= {"train/discriminator_penalty", "train/discriminator_distance"}
    assert {key for key in fitting.callback_metrics if key.startswith("train/")} == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"hidden_dims": ()}, "hidden_dims must be at least 1, got 0"),
        ({"maxout_dims": (3, 0)}, "maxout_dims must be at least 1, got 0"),
        ({"pieces": 0}, "pieces must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"lr_decay": 0.9}, "lr_decay must be at least 1, got 0.9"),
        ({"fc_dim": -1}, "fc_dim must not be negative, got -1"),
        ({"penalty_weight": -1.0}, r"penalty_weight must not be negative, got -1\.0"),
        ({"momentum_epochs": -1.0}, r"momentum_epochs must not be negative, got -1\.0"),
        ({"generator_lr": 0.0}, r"generator_lr must be positive, got 0\.0"),
        ({"discriminator_lr": -0.1}, r"discriminator_lr must be positive, got -0\.1"),
        ({"lr_final": 0.0}, r"lr_final must be positive, got 0\.0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1\.0"),
        ({"momentum_final": -0.1}, r"momentum_final must be at least 0 and below 1, got -0\.1"),
        ({"ema_decay": 1.0}, r"ema_decay must be at least 0 and below 1, got 1\.0"),
        ({"adam_betas": (0.5, 1.0)}, r"adam_betas must be at least 0 and below 1, got 1\.0"),
        ({"norm": "batch"}, "norm: batch needs backbone: dcgan, got mlp2014"),
        (
            {"backbone": "dcgan", "norm": "batch", "penalty": "r1"},
            "penalty: r1 needs norm: none or spectral, got batch",
        ),
        ({"backbone": "dcgan", "image_shape": (1, 9, 8)}, r"needs even sides of at least 6, got \(1, 9, 8\)"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GAN(**options)
