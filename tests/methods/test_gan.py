"""Facts of the adversarial family: optima, gradients, penalties, spectra and averages."""

import copy
import inspect
import math

import pytest
import torch
from conftest import suited_digits, tiny
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from test_contract import Repeated, images, state, trainer
from torch import nn

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.errors import NonFiniteError, UsageError
from zoo.methods.adversarial.gan import GAN
from zoo.methods.adversarial.shared.maxout import Maxout
from zoo.parts.estimators import gradient_norms
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import ConvDecoder, ConvEncoder, halvings

SHAPE = (1, 8, 8)
SMALL_2014 = {"latent_dim": 5, "hidden_dims": (12, 10), "maxout_dims": (7, 6), "pieces": 3}
WGAN = {"objective": "wasserstein", "penalty": "gradient", "norm": "none", "critic_steps": 5}
SPECTRAL = {"objective": "hinge", "norm": "spectral"}


def mlp2014(**options) -> GAN:
    torch.manual_seed(0)
    return GAN(image_shape=SHAPE, **SMALL_2014 | options)


def dcgan(shape=SHAPE, **options) -> GAN:
    return tiny("GAN", shape, **options)


class Linear(nn.Module):
    """d(x) = <w, x> + b."""

    def __init__(self, dim: int, bias: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(dim))
        self.b = nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        return (x.flatten(1) @ self.w + self.b).unsqueeze(-1)


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


# Networks.


def test_the_networks_of_2014():
    method = GAN()
    generator = [tuple(p.shape) for p in method.generator.parameters()]
    assert generator == [(1200, 100), (1200,), (1200, 1200), (1200,), (784, 1200), (784,)]
    discriminator = [tuple(p.shape) for p in method.discriminator.parameters()]
    assert discriminator == [(1200, 784), (1200,), (1200, 240), (1200,), (1, 240), (1,)]
    for net, limit in ((method.generator, 0.05), (method.discriminator, 0.005)):
        weights = torch.cat([p.detach().flatten() for p in net.parameters() if p.ndim == 2])
        assert weights.abs().max() <= limit
        assert weights.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
        assert all((p == 0).all() for p in net.parameters() if p.ndim == 1)
    kinds = [type(m).__name__ for m in method.discriminator.modules() if not list(m.children())]
    assert kinds == ["Flatten", "Dropout", "Linear", "Dropout", "Linear", "Dropout", "Linear"]
    assert [m.p for m in method.discriminator.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5]


def test_maxout_is_the_largest_of_its_pieces():
    layer = Maxout(3, 2, 4)
    x = torch.randn(5, 3)
    pieces = layer.linear(x)
    expected = torch.stack((pieces[:, :4].max(1).values, pieces[:, 4:].max(1).values), 1)
    assert torch.equal(layer(x), expected)


def test_the_generator_of_2014_starts_at_the_mean_image():
    method = mlp2014()
    data = Digits(binarize="none")
    trainer(limit_train_batches=0).fit(method, datamodule=data)
    with torch.no_grad():
        for net in (method.generator, method.average.network):
            nn.init.zeros_(net[-1].linear.weight)
    expected = data.mean_image().clamp(1e-3, 0.999)
    assert torch.allclose(method.generator(torch.randn(2, 5)), expected.expand(2, -1, -1, -1), atol=1e-5)
    assert torch.allclose(method.sample(2), expected.expand(2, -1, -1, -1), atol=1e-5)


def test_the_convolutional_networks_of_28_and_32_pixels():
    generator = ConvDecoder(100, (1, 28, 28), 64)
    assert generator[0].weight.shape == (128 * 7 * 7, 100)
    shapes = [tuple(m.weight.shape) for m in generator if isinstance(m, nn.ConvTranspose2d)]
    assert shapes == [(128, 64, 4, 4), (64, 1, 4, 4)]
    kinds = [type(m).__name__ for m in generator]
    stage = ["BatchNorm2d", "ReLU", "ConvTranspose2d"]
    assert kinds == ["Linear", "Unflatten", *stage, *stage]
    encoder = ConvEncoder((1, 28, 28), 64)
    kinds = [type(m).__name__ for m in encoder]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Flatten"]
    assert encoder[1].negative_slope == 0.2
    assert encoder.out_dim == 128 * 7 * 7
    large = ConvDecoder(100, (3, 32, 32), 128)
    assert large[0].weight.shape == (512 * 4 * 4, 100)
    assert [m.weight.shape[1] for m in large if isinstance(m, nn.ConvTranspose2d)] == [256, 128, 3]
    assert halvings((1, 8, 8)) == (1, (4, 4))
    assert halvings((1, 28, 20)) == (2, (7, 5))
    assert halvings((1, 9, 8))[0] == 0


def test_dcgan_starts_from_narrow_gaussians():
    method = GAN(backbone="dcgan", norm="batch", fc_dim=512)
    for net in method.players().values():
        weights = torch.cat([p.detach().flatten() for p in net.parameters() if p.ndim > 1])
        assert weights.std().item() == pytest.approx(0.02, rel=0.01)
        gains = torch.cat(
            [m.weight.detach() for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
        )
        assert gains.mean().item() == pytest.approx(1, abs=0.005)
        assert 0.015 < gains.std() < 0.025


def test_pixels_leave_the_generator_and_enter_the_discriminator_in_one_range():
    """Saturated, the generator makes exactly the black and white of the loader; D sees [-1, 1] of both."""
    method = dcgan((1, 8, 8))
    seen = []
    method.discriminator[0][0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        method.average.network[-1].weight.mul_(1e4)
    fake, real = method.sample(50), Digits(binarize="none").split("train").x
    for extreme in (torch.amin, torch.amax):
        assert extreme(fake, (0, 1, 2, 3)).item() == pytest.approx(
            extreme(real, (0, 1, 2, 3)).item(), abs=0.01
        )
    for x in (fake, real):
        method.logit(x)
        assert seen[-1].min().item() == pytest.approx(-1, abs=0.02)
        assert seen[-1].max().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("make", [dcgan, mlp2014])
def test_images_and_logits_are_float32_in_mixed_precision(make):
    method = make()
    with torch.autocast("cpu", torch.bfloat16):
        fake = method.generator(method.draw_noise(4))
        assert fake.dtype == torch.float32
        assert method.logit(fake).dtype == torch.float32


def test_gradients_in_mixed_precision_are_those_of_full_precision():
    gradients = []
    for precision in ("32-true", "bf16-mixed"):
        method = mlp2014(optimizer="adam")
        for module in method.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for parameter in method.parameters():
            nn.init.normal_(parameter, std=0.3)
        found = []

        class Look(Callback):
            def on_before_optimizer_step(self, trainer, pl_module, optimizer, found=found):
                found.append(torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]))

        loader = Repeated(Batch(images(n=64), torch.zeros(64).long(), torch.arange(64)))
        torch.manual_seed(0)
        fitting = trainer(precision=precision, callbacks=[Look()])
        fitting.fit(method, loader, loader)
        gradients.append(found)
    for full, mixed in zip(*gradients, strict=True):
        assert nn.functional.cosine_similarity(full, mixed, dim=0) > 0.995
        assert mixed.norm().item() == pytest.approx(full.norm().item(), rel=0.05)


@pytest.mark.parametrize("backbone", ["dcgan", "mlp2014"])
def test_spectral_norms_are_one_and_freeze_in_eval(backbone):
    method = dcgan((1, 28, 28), **SPECTRAL) if backbone == "dcgan" else mlp2014(**SPECTRAL)
    x = images(method.image_shape)
    layers = [m for m in method.discriminator.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in method.discriminator.modules())
    assert len(layers) == (4 if backbone == "dcgan" else 3)
    for _ in range(50):
        method.logit(x)
    method.eval()
    before = state(method)
    for layer in layers:
        top = torch.linalg.svdvals(layer.weight.flatten(1))[0].item()
        assert top == pytest.approx(1, abs=1e-3)
    one, two = method.logit(x), method.logit(x)
    assert torch.equal(one, two)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_batch_norm_sees_real_and_generated_images_in_passes_of_their_own():
    method = dcgan((1, 28, 28))
    sizes = []
    norm = next(m for m in method.discriminator.modules() if isinstance(m, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    method.discriminator_loss(images((1, 28, 28), 4), images((1, 28, 28), 7)[:4])
    assert sizes == [4, 4]


# The average.


def test_the_average_warms_up_towards_its_decay_and_copies_buffers():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = Average(net, 0.9)
    start = net[0].weight.item()
    with torch.no_grad():
        net[0].weight.fill_(start + 1)
    net[1].running_mean.fill_(5.0)
    gap = 1.0
    for t in range(200):
        average.update(net)
        gap *= min(0.9, (1 + t) / (10 + t))
        assert start + 1 - average.network[0].weight.item() == pytest.approx(gap, abs=1e-5)
    assert int(average.updates) == 200
    assert average.network[1].running_mean.item() == 5.0
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in net.parameters())


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
