"""Facts of the adversarial autoencoder: its priors, phases and encoders."""

import math

import pytest
import torch
from support import images, state, tiny, trainer
from torch.nn.functional import softplus

from zoo.data import Digits
from zoo.errors import UsageError
from zoo.methods.adversarial.aae import AAE
from zoo.methods.adversarial.shared.priors import RADIUS, ROLL_PITCH, prior_of
from zoo.methods.variational.infovae import InfoVAE
from zoo.scores.parzen import kernel_log_prob

TINY = {
    "latent_dim": 2,
    "hidden_dims": (16,),
    "optimizer": "adam",
    "reconstruction_lr": 1e-3,
    "adversarial_lr": 1e-3,
}
ANY = torch.full((10_000,), -1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grey() -> Digits:
    return Digits(binarize="none")


# ---------------------------------------------------------------- priors


def test_codes_of_the_prior_have_its_standard_deviation():
    method = tiny("AAE", latent_dim=8, prior_std=5.0)
    z = method.draw(ANY)
    torch.testing.assert_close(z.std(0), torch.full((8,), 5.0), rtol=0.03, atol=0)
    torch.testing.assert_close(z.T.cov(), 25 * torch.eye(8), rtol=0, atol=1.5)
    assert float(z.mean(0).abs().max()) < 0.25


def test_what_is_sampled_are_decoded_codes_of_the_prior():
    method = tiny("AAE", prior_std=5.0)
    codes = []
    decode = method.decoder.forward
    method.decoder.forward = lambda z: codes.append(z) or decode(z)
    method.sample(5000)
    assert float(torch.cat(codes).std()) == pytest.approx(5.0, rel=0.02)


def test_a_mode_of_the_ring_is_nearest_to_the_draws_of_its_label():
    y = torch.arange(10_000) % 10
    z = prior_of("ring", 2, 1.0).draw(y)
    angles = 2 * math.pi * torch.arange(10) / 10
    centres = RADIUS * torch.stack([angles.cos(), angles.sin()], 1)
    assert float((torch.cdist(z, centres).argmin(1) == y).float().mean()) >= 0.99
    along = torch.stack([angles.cos(), angles.sin()], 1)[y]
    radial = (z * along).sum(1)
    tangential = z[:, 1] * along[:, 0] - z[:, 0] * along[:, 1]
    assert float(radial.std()) == pytest.approx(0.5, rel=0.05)
    assert float(tangential.std()) == pytest.approx(0.1, rel=0.05)
    assert float(radial.mean()) == pytest.approx(RADIUS, rel=0.02)


def test_the_swiss_roll_is_a_spiral_in_ten_parts_of_equal_probability():
    y = torch.arange(10_000) % 10
    z = prior_of("swiss_roll", 2, 1.0).draw(y)
    turn = z.norm(dim=1) / ROLL_PITCH
    torch.testing.assert_close(
        z, ROLL_PITCH * turn[:, None] * torch.stack([turn.cos(), turn.sin()], 1), atol=1e-4, rtol=0
    )
    share = (turn / (3 * math.pi)).square()
    assert float(((share * 10).long().clamp(max=9) == y).float().mean()) > 0.999
    torch.testing.assert_close(share.mean(), torch.tensor(0.5), atol=0.01, rtol=0)


@pytest.mark.parametrize("prior", ["ring", "swiss_roll"])
def test_without_a_label_a_draw_is_of_any_mode(prior):
    whole, parts = (prior_of(prior, 2, 1.0).draw(y) for y in (ANY, torch.arange(10_000) % 10))
    torch.testing.assert_close(whole.T.cov(), parts.T.cov(), atol=0.4, rtol=0.1)
    assert not torch.equal(whole, parts)


# ---------------------------------------------------------------- labels


def test_a_labelled_image_is_held_against_its_mode_and_the_judge_is_told():
    method = tiny("AAE", prior="ring", label_aware=True)
    y = torch.tensor([3, -1, 9])
    assert method.hints(y).argmax(1).tolist() == [3, 10, 9]
    assert torch.equal(method.modes(y), y)
    drawn = []
    draw = method.code_prior.draw
    method.code_prior.draw = lambda y: drawn.append(y) or draw(y)
    method.discriminator_loss(torch.randn(3, 2), y)
    assert torch.equal(drawn[0], y)


def test_unless_it_is_aware_of_labels_they_change_nothing():
    method, z = tiny("AAE", prior="ring"), torch.randn(4, 2)
    one, two = torch.arange(4), torch.full((4,), -1)
    losses = []
    for y in (one, two):
        torch.manual_seed(1)
        losses.append(method.discriminator_loss(z, y)["loss"])
    assert torch.equal(*losses)


# ---------------------------------------------------------------- phases


def steps_of(method, data, *phases):
    """What of the method moved in one step of each of these phases."""
    moved = {}

    def step(batch, batch_idx):
        for player in phases:
            before = state(method)
            z = method.code(batch.x).detach()
            arguments = {"autoencoder": (batch.x,), "discriminator": (z, batch.y)}
            loss = getattr(method, {"autoencoder": "reconstruction"}.get(player, player) + "_loss")
            method.descend(player, loss, *arguments.get(player, (batch.x, batch.y)))
            changed = {k for k, v in state(method).items() if not torch.equal(v, before[k])}
            moved[player] = {key.split(".")[0] for key in changed}

    method.training_step = step
    trainer(limit_train_batches=1, limit_val_batches=0).fit(method, datamodule=data)
    return moved


def test_each_phase_moves_its_own_networks():
    moved = steps_of(tiny("AAE"), grey(), "autoencoder", "discriminator", "encoder")
    assert moved == {
        "autoencoder": {"encoder", "decoder"},
        "discriminator": {"discriminator"},
        "encoder": {"encoder"},
    }


def test_codes_come_to_the_discriminator_without_a_gradient():
    method, seen = tiny("AAE"), []
    judge = method.discriminator_loss
    method.discriminator_loss = lambda z, y: seen.append(z.requires_grad) or judge(z, y)
    trainer(limit_train_batches=2).fit(method, datamodule=grey())
    assert seen == [False, False]


def test_three_optimizers_with_states_of_their_own():
    method = tiny("AAE")
    fitting = trainer(limit_train_batches=3)
    fitting.fit(method, datamodule=grey())
    players = dict(zip(method.players(), fitting.optimizers, strict=True))
    assert list(players) == ["autoencoder", "discriminator", "encoder"]
    for p in method.encoder.parameters():
        one, other = (players[name].state[p] for name in ("autoencoder", "encoder"))
        assert one["exp_avg"].data_ptr() != other["exp_avg"].data_ptr()
        assert not torch.equal(one["exp_avg"], other["exp_avg"])
    judge = {id(p) for p in method.discriminator.parameters()}
    others = [p for name in ("autoencoder", "encoder") for p in players[name].state]
    assert not judge & {id(p) for p in others}
    assert {id(p) for p in players["discriminator"].state} == judge


def test_step_sizes_fall_to_a_tenth_at_the_end_of_each_stage():
    rates = []

    class Look(AAE):
        paper = "None."

        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            rates.append([group["lr"] for o in self.trainer.optimizers for group in o.param_groups])

    method = Look((1, 8, 8), **TINY | {"stage_epochs": (1, 1), "adversarial_lr": 0.01})
    trainer(max_epochs=3, limit_train_batches=1).fit(method, datamodule=grey())
    for row, factor in zip(rates, (1, 0.1, 0.01), strict=True):
        assert row == pytest.approx([1e-3 * factor, 1e-2 * factor, 1e-2 * factor])
    del Look


def test_it_is_the_infovae_of_alpha_and_lam_one_whose_divergence_the_discriminator_tells():
    """The encoder's two steps descend that objective: values, and gradients, to rounding."""
    method, x, y = tiny("AAE", drop_pixels=0.0), images(), torch.full((6,), -1)
    special = InfoVAE((1, 8, 8), alpha=1.0, lam=1.0)
    (logit,) = method.logits(method.code(x), y)
    distortion = (method.decoder(method.code(x)) - x).square().flatten(1).sum(1)
    rate = torch.full((6,), 123.0)
    whole = special.objective(distortion, rate, softplus(-logit))
    phases = method.reconstruction_loss(x)["loss"] + method.encoder_loss(x, y)["loss"]
    torch.testing.assert_close(whole, phases, rtol=1e-6, atol=1e-6)
    weights = list(method.encoder.parameters())
    for one, other in zip(
        torch.autograd.grad(whole.mean(), weights), torch.autograd.grad(phases.mean(), weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_discriminator_descends_the_loss_whose_least_tells_two_gaussians_apart():
    """At the logit log p/q the loss is 2 log 2 - 2 JS; another logit costs more."""
    method = tiny("AAE", prior_std=1.0)
    z = torch.randn(20_000, 2) + 1
    method.draw = lambda y: torch.randn(len(y), 2)

    def at(scale):
        method.logits = lambda z, y: [scale * (1 - z.sum(1))]
        torch.manual_seed(1)
        return float(method.discriminator_loss(z, torch.full((len(z),), -1))["loss"].mean())

    assert at(1.0) < min(at(0.7), at(1.3), at(0.0))
    assert at(0.0) == pytest.approx(2 * math.log(2))


# ---------------------------------------------------------------- encoders


@pytest.mark.parametrize("kind", ["deterministic", "gaussian", "universal"])
def test_only_the_deterministic_encoder_gives_an_image_one_code(kind):
    method, x = tiny("AAE", encoder=kind, drop_pixels=0.0), images()
    assert torch.equal(method.code(x), method.code(x)) == (kind == "deterministic")
    assert torch.equal(method.encode(x), method.encode(x))
    if kind == "gaussian":
        draws = torch.stack([method.code(x) for _ in range(2000)])
        assert ((draws.mean(0) - method.encode(x)).abs() < 5 * draws.std(0) / 2000**0.5).all()
    else:
        torch.testing.assert_close(method.encode(x), method.code(x, noisy=False))


@pytest.mark.parametrize("kind", ["deterministic", "gaussian", "universal"])
@pytest.mark.parametrize("prior", ["gaussian", "ring", "swiss_roll"])
def test_every_encoder_learns_with_every_prior(kind, prior):
    method = tiny("AAE", encoder=kind, prior=prior, label_aware=prior != "gaussian", noise_dim=3)
    before = state(method)
    trainer(limit_train_batches=2, limit_val_batches=0).fit(method, datamodule=grey())
    after = state(method)
    assert all(value.isfinite().all() for value in after.values())
    assert all(not torch.equal(after[key], before[key]) for key in before if key.endswith("weight"))


def test_pixels_are_dropped_in_training_alone():
    method, x = tiny("AAE", drop_pixels=0.5), images()
    assert not torch.equal(method.code(x), method.code(x))
    assert torch.equal(method.encode(x), method.eval().code(x))


def test_codes_become_the_priors():
    """After a short run, two numbers of a code: mean, and covariance within 30 % of the prior's."""
    method = tiny("AAE", hidden_dims=(64,), prior_std=2.0, drop_pixels=0.0)
    trainer(max_epochs=15, limit_val_batches=0).fit(method, datamodule=Digits(binarize="none", batch_size=50))
    z = method.encode(grey().split("test").x)
    assert float(z.mean(0).abs().max()) < 0.7
    assert ((z.std(0) / 2).log().abs() < math.log(1.3)).all()
    assert abs(float(z.T.corrcoef()[0, 1])) < 0.3


# ---------------------------------------------------------------- the score of the paper


def test_a_kernel_at_the_image_gives_the_peak_of_the_gaussian():
    x = torch.rand(1, 784)
    value = kernel_log_prob(x, x, [0.2])[0, 0]
    assert float(value) == pytest.approx(-392 * math.log(2 * math.pi * 0.2**2))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"prior": "ring"}, "prior: ring needs latent_dim: 2, got 8"),
        ({"label_aware": True}, "label_aware needs prior: ring or swiss_roll, got gaussian"),
        ({"prior_std": 0.0}, "prior_std must be positive, got 0.0"),
        ({"drop_pixels": 1.0}, "drop_pixels must be at least 0 and below 1, got 1.0"),
        ({"adversarial_lr": 0.0}, "adversarial_lr must be positive, got 0.0"),
        ({"stage_epochs": (-1,)}, "stage_epochs must be at least 0, got -1"),
    ],
)
def test_settings_that_contradict_are_refused(settings, line):
    with pytest.raises(UsageError, match=line):
        AAE(**settings)
