"""Facts of the stacked GAN: what is frozen, what conditions what, three losses, and noise level by level."""

import pytest
import torch
from lightning.pytorch import Callback
from support import batch, images, state, tiny, trainer
from torch import nn

import zoo
from zoo.data import Digits
from zoo.errors import UsageError
from zoo.methods.adversarial.sgan import SGAN

TINY = {
    "noise_dim": 3,
    "feature_dim": 16,
    "hidden_dim": 16,
    "channels": 4,
    "encoder_epochs": 1,
    "independent_epochs": 1,
    "lr": 1e-2,
}
Y = torch.arange(6)
IGNORANT = 1 / 12
"""Squared error of the best guess of a number that is uniform over [0, 1]."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def at(monkeypatch, phase: str, **options) -> SGAN:
    monkeypatch.setattr(SGAN, "phase", phase)
    return tiny("SGAN", **options)


class Seen(Callback):
    """The encoder's weights after each epoch."""

    def __init__(self) -> None:
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(state(pl_module.encoder))


def same_state(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_encoder_is_frozen_once_it_has_learned():
    method, seen = tiny("SGAN"), Seen()
    x = images(n=5)
    start = state(method.encoder)
    trainer(max_epochs=3, callbacks=[seen], limit_train_batches=5, limit_val_batches=0).fit(
        method, datamodule=Digits(binarize="none", batch_size=20)
    )
    assert not same_state(start, seen.states[0])
    assert same_state(seen.states[0], seen.states[1])
    assert same_state(seen.states[0], seen.states[2])
    method.eval()
    features = method.encoder.lower(x)
    method.train()
    assert torch.equal(method.encoder.lower(x), features)


def generators_see(method: SGAN, monkeypatch, x) -> list[torch.Tensor]:
    losses = []

    def descend(player, loss_fn, *args):
        terms = loss_fn(*args)
        if player.startswith("generator"):
            losses.append(terms["loss"].detach())
        return terms

    monkeypatch.setattr(method, "descend", descend)
    torch.manual_seed(1)
    method.training_step(batch()._replace(x=x, y=Y), 0)
    return losses


def test_jointly_the_generators_see_no_image_and_apart_they_do(monkeypatch):
    found = {}
    for phase in ("independent", "joint"):
        losses = []
        for x in (images(), torch.rand(6, 1, 8, 8)):
            torch.manual_seed(0)
            losses.append(generators_see(at(monkeypatch, phase), monkeypatch, x))
        found[phase] = [torch.equal(a, b) for a, b in zip(*losses, strict=True)]
    assert found == {"independent": [True, False], "joint": [True, True]}  # G_1, then G_0


def test_apart_the_image_is_conditioned_on_features_of_real_images_and_jointly_on_made_ones(monkeypatch):
    for phase in ("independent", "joint"):
        method, given = at(monkeypatch, phase), {}
        monkeypatch.setattr(
            method, "descend", lambda player, loss_fn, *args, given=given: given.update({player: args})
        )
        x = images()
        method.training_step(batch()._replace(x=x, y=Y), 0)
        real = method.encoder.lower(x)
        made = given["discriminator_1"][2]
        assert torch.equal(given["discriminator_1"][1], real)
        assert torch.equal(given["generator_0"][1], real if phase == "independent" else made)
        assert torch.equal(given["generator_1"][0], Y)
        assert not torch.equal(real, made)


def test_the_loss_of_a_generator_is_its_three_terms_weighed():
    weights = {"adversarial_weight": 0.5, "conditional_weight": 2.0, "entropy_weight": 7.0}
    method = tiny("SGAN", **weights).eval()
    z = method.draw_noise(6)
    for level, given in enumerate((torch.rand(6, 16), Y)):
        terms = method.generator_loss(level, given, z)
        expected = sum(
            weights[f"{name}_weight"] * terms[name] for name in ("adversarial", "conditional", "entropy")
        )
        torch.testing.assert_close(terms["loss"], expected)
    fake, real = torch.rand(6, 16), torch.rand(6, 16)
    (logit, _), (made, found) = method.judges[1](real), method.judges[1](fake)
    expected = -(logit.sigmoid().log() + (1 - made.sigmoid()).log()) / 2 + 7 * (found - z).square().mean(1)
    torch.testing.assert_close(method.judge_loss(1, real, fake, z)["loss"], expected)


class Inverse(nn.Module):
    """Images of features of an orthogonal map, exactly; the noise is not looked at."""

    def __init__(self, rotation) -> None:
        super().__init__()
        self.rotation = rotation

    def forward(self, h, z):
        return (h @ self.rotation.T).unflatten(1, (1, 8, 8))


def test_an_exact_inverse_has_no_conditional_loss_and_one_of_other_features_has():
    method = tiny("SGAN", feature_dim=64)
    rotation = torch.linalg.qr(torch.randn(64, 64)).Q
    method.encoder.lower = nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False))
    method.encoder.lower[1].weight.data = rotation.T
    method.stack.levels[0] = Inverse(rotation)
    h, z = torch.randn(6, 64), method.draw_noise(6)
    inverted = method.generator_loss(0, h, z)
    torch.testing.assert_close(inverted["conditional"], torch.zeros(6), atol=1e-10, rtol=0)
    shuffled = (method.encoder.lower(method.stack.levels[0](h, z)) - h.roll(1, 0)).square().mean(1)
    assert shuffled.min() > 0.1


def test_the_conditional_loss_of_features_is_the_encoders_surprise_at_the_label():
    method = tiny("SGAN").eval()
    z = method.draw_noise(6)
    features = method.stack.levels[1](Y, z)
    expected = -method.encoder.upper(features).log_softmax(1)[torch.arange(6), Y]
    torch.testing.assert_close(method.generator_loss(1, Y, z)["conditional"], expected)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_level_above_gets_its_share_of_the_loss_below_jointly_alone(weight, monkeypatch):
    for phase in ("independent", "joint"):
        method = at(monkeypatch, phase, cross_level_weight=weight).eval()
        z = [method.draw_noise(6) for _ in range(2)]
        below = method.generator_loss(0, method.stack.levels[1](Y, z[1]), z[0])["loss"]
        expected = method.generator_loss(1, Y, z[1])["loss"] + (weight * below if phase == "joint" else 0)
        torch.testing.assert_close(method.features_loss(Y, z)["loss"], expected)


def test_q_finds_the_noise_again_and_without_its_loss_it_cannot(monkeypatch):
    """Features alone, whose noise can be read: from the error of a guess to less than half of it."""
    found = {}
    for weight in (0.0, 10.0):
        method = at(
            monkeypatch, "independent", entropy_weight=weight, noise_dim=2, hidden_dim=64, feature_dim=64
        )
        optimizers = dict(zip(method.players(), method.configure_optimizers(), strict=True))
        errors = []
        for _ in range(800):
            y, z = torch.randint(10, (50,)), torch.rand(50, 2)
            real = torch.rand(50, 64)
            fake = method.stack.levels[1](y, z).detach()
            for player, loss, arguments in (
                ("discriminator_1", method.judge_loss, (1, real, fake, z)),
                ("generator_1", method.generator_loss, (1, y, z)),
            ):
                method.zero_grad()
                terms = loss(*arguments)
                terms["loss"].mean().backward()
                optimizers[player].step()
            errors.append(terms["entropy"].mean().item())
        found[weight] = errors[0], sum(errors[-20:]) / 20
    assert found[10.0][0] > 0.9 * IGNORANT
    assert found[10.0][1] < 0.5 * IGNORANT
    assert found[0.0][1] > 0.95 * IGNORANT


def test_features_of_the_generator_have_the_encoders_support():
    method = tiny("SGAN")
    assert method.stack.levels[1](torch.randint(10, (200,)), method.draw_noise(200)).min() == 0
    assert method.encoder.lower(images(n=50)).min() == 0


def test_published_features_are_spread_as_those_of_images():
    method, data = zoo.from_pretrained("sgan-digits"), Digits(binarize="none")
    data.setup()
    train = data.split("train")
    with torch.no_grad():
        real = method.encoder.lower(train.x)
        made = method.average.network.levels[1](train.y, method.draw_noise(len(train.y)))
    torch.testing.assert_close(made.mean(), real.mean(), rtol=0.25, atol=0)
    torch.testing.assert_close(made.std(), real.std(), rtol=0.25, atol=0)


def blank(asked: list):
    """Generators whose images are black; what they are asked for is kept."""

    def forward(y, z):
        asked.append((y, z))
        return torch.zeros(len(y), 1, 8, 8)

    return forward


def test_samples_are_balanced_over_labels(monkeypatch):
    method, asked = tiny("SGAN").eval(), []
    monkeypatch.setattr(method.average, "forward", blank(asked))
    method.sample(30)
    assert asked[0][0].bincount().tolist() == [3] * 10


@pytest.mark.parametrize("level", [0, 1])
def test_variations_of_one_level_keep_the_noise_of_the_other(level, monkeypatch):
    method, asked = tiny("SGAN").eval(), []
    monkeypatch.setattr(method.average, "forward", blank(asked))
    assert method.vary(torch.tensor([4, 2]), level, 3).shape == (3, 2, 1, 8, 8)
    ((y, z),) = asked
    assert y.tolist() == [4, 2, 4, 2, 4, 2]
    kept, drawn = z[1 - level], z[level]
    assert torch.equal(kept[2:], kept[:2].repeat(2, 1))
    assert not torch.equal(kept[0], kept[1])
    assert len(drawn.unique(dim=0)) == 6


def test_published_are_the_averaged_generators_and_the_encoder():
    method = tiny("SGAN")
    kept = {name.split(".")[0] for name in method.state_dict() if name not in method.unpublished}
    assert kept == {"average", "encoder"}


REFUSED = {
    "odd sides": ({"image_shape": (1, 7, 8)}, r"needs images of even sides of at least 6, got \(1, 7, 8\)"),
    "one class": ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    "a weight below 0": ({"entropy_weight": -1.0}, "entropy_weight must not be negative, got -1.0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_out_of_range_is_refused(what):
    options, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        SGAN(**{"image_shape": (1, 8, 8)} | options)


def test_images_without_labels_are_refused():
    with pytest.raises(UsageError, match="every image needs a label between 0 and 9, got -1"):
        trainer().fit(tiny("SGAN"), datamodule=Digits(binarize="none", labelled=100))
