"""Facts of the InfoGAN: bounds on the information of codes, what learns by them, what codes do."""

import math

import pytest
import torch
from support import batch, images, tiny
from torch import nn

from zoo.errors import UsageError
from zoo.methods.adversarial.infogan import ENTROPY, LOG_SIGMA_RANGE, FoundCodes, InfoGAN

TINY = {"noise_dim": 3, "num_codes": 2, "channels": 4, "fc_dim": 16, "head_dim": 8}
LOG_K = math.log(10)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_q_alone_drives_the_information_of_a_category_that_can_be_read_to_its_entropy_and_not_beyond():
    q = nn.Linear(10, 10)
    optimizer = torch.optim.Adam(q.parameters(), 0.1)
    for _ in range(300):
        y = torch.randint(10, (64,))
        x = torch.nn.functional.one_hot(y, 10).float()
        bound = FoundCodes(q(x).log_softmax(1), torch.zeros(64, 0), torch.zeros(64, 0)).of_category(y)
        assert bound.max() <= LOG_K + 1e-5
        optimizer.zero_grad()
        (-bound.mean()).backward()
        optimizer.step()
    assert bound.mean() > LOG_K - 1e-2


def test_a_q_that_knows_nothing_finds_no_information_on_a_category():
    found = FoundCodes(torch.full((6, 10), -LOG_K), torch.zeros(6, 0), torch.zeros(6, 0))
    torch.testing.assert_close(found.of_category(torch.arange(6)), torch.zeros(6), atol=1e-6, rtol=0)


def test_noisy_codes_tell_what_the_gaussian_channel_lets_through():
    """Codes N(0, 1), seen through noise of variance s^2: I = 1/2 log(1 + 1/s^2), with their own entropy."""
    s, n = 0.5, 400_000
    c = torch.randn(n, 1)
    x = c + s * torch.randn(n, 1)
    gain, left = 1 / (1 + s**2), s / math.sqrt(1 + s**2)
    entropy = 0.5 * math.log(2 * math.pi * math.e)

    def bound(gain: float, sigma: float) -> float:
        found = FoundCodes(torch.zeros(n, 1), gain * x, torch.full((n, 1), math.log(sigma)))
        return float((found.of_codes(c) - ENTROPY + entropy).mean())

    assert bound(gain, left) == pytest.approx(0.5 * math.log(1 + 1 / s**2), abs=5e-3)
    assert bound(gain, left) > max(bound(gain, 1.3 * left), bound(gain, 0.8 * left), bound(0.9 * gain, left))


def test_with_sigma_held_at_1_perfect_codes_tell_less_than_nothing():
    c = 2 * torch.rand(50, 1) - 1
    found = FoundCodes(torch.zeros(50, 1), c, torch.zeros(50, 1))
    torch.testing.assert_close(
        found.of_codes(c), torch.full((50, 1), math.log(2) - 0.5 * math.log(2 * math.pi))
    )
    assert found.of_codes(c)[0, 0] == pytest.approx(-0.2258, abs=1e-4)
    method = tiny("InfoGAN", learn_sigma=False)
    assert (method.recogniser(images(n=4))[1].log_sigma == 0).all()


def test_the_logarithm_of_sigma_keeps_within_its_range():
    method = tiny("InfoGAN")
    with torch.no_grad():
        method.recogniser.codes.bias[12:] = torch.tensor([-50.0, 50.0])
    log_sigma = method.recogniser(images(n=4))[1].log_sigma
    torch.testing.assert_close(log_sigma, torch.tensor([LOG_SIGMA_RANGE]).expand(4, 2))


class Identity(nn.Module):
    """The generator's input as an image."""

    def forward(self, v):
        return torch.nn.functional.pad(v, (0, 64 - v.shape[1])).unflatten(1, (1, 8, 8))


class Read(nn.Module):
    """Q of an image that is the generator's input, by known weights."""

    def forward(self, x):
        v = x.flatten(1)
        logits, c = 3 * v[:, 3:13], v[:, 13:15]
        return v.sum(1), FoundCodes(logits.log_softmax(1), 0.5 * c, torch.zeros_like(c))


def test_what_is_to_be_found_is_what_the_image_was_made_of():
    method = tiny("InfoGAN", category_weight=2.0, code_weight=0.3)
    method.generator, method.recogniser = Identity(), Read()
    z, (y, c) = method.draw_noise(5), method.draw_codes(5)
    terms = method.generator_loss(z, y, c)
    category = 3 - math.log(math.exp(3) + 9) + LOG_K
    codes = (-0.5 * (0.25 * c.square() + math.log(2 * math.pi)) + math.log(2)).sum(1)
    made = z.sum(1) + 1 + c.sum(1)
    torch.testing.assert_close(terms["loss"], (1 + (-made).exp()).log() - 2 * category - 0.3 * codes)
    fake = method.generator(method.joined(z, y, c))
    right = method.discriminator_loss(images(n=5), fake, y, c)["loss"].mean()
    assert method.discriminator_loss(images(n=5), fake, (y + 1) % 10, c)["loss"].mean() > right + 1
    assert method.discriminator_loss(images(n=5), fake, y, -c)["loss"].mean() > right


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_q_and_the_trunk_learn_by_the_information_and_without_its_weight_q_does_not(weight):
    method = tiny("InfoGAN", category_weight=weight, code_weight=weight)
    before = {name: p.detach().clone() for name, p in method.recogniser.named_parameters()}
    optimizer, _ = method.configure_optimizers()
    y, c = method.draw_codes(6)
    fake = method.generator(method.joined(method.draw_noise(6), y, c)).detach()
    method.discriminator_loss(batch().x, fake, y, c)["loss"].mean().backward()
    optimizer.step()
    moved = {name: not torch.equal(p, before[name]) for name, p in method.recogniser.named_parameters()}
    assert moved["trunk.0.weight"]
    assert moved["real.weight"]
    assert moved["codes.weight"] == moved["hidden.weight"] == bool(weight)


@pytest.mark.parametrize("informed", [True, False])
def test_a_plain_generator_gains_nothing_by_codes_that_can_be_read(informed):
    method = tiny("InfoGAN", inform_generator=informed, category_weight=2.0, code_weight=0.3)
    z, (y, c) = method.draw_noise(6), method.draw_codes(6)
    terms = method.generator_loss(z, y, c)
    made, found = method.recogniser(method.generator(method.joined(z, y, c)))
    weighted = 2 * found.of_category(y) + 0.3 * found.of_codes(c).sum(1)
    expected = -made.sigmoid().log() - (weighted if informed else 0)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["category_information"], found.of_category(y))


def test_players_are_the_generator_and_d_with_q():
    method = tiny("InfoGAN")
    players = method.players()
    assert list(players) == ["discriminator", "generator"]
    assert {name.split(".")[0] for name, _ in players["discriminator"].named_parameters()} == {
        "trunk",
        "real",
        "hidden",
        "norm",
        "codes",
    }


def test_a_steered_code_turns_alone():
    method, asked = tiny("InfoGAN").eval(), []
    method.average.forward = lambda v: asked.append(v) or torch.zeros(len(v), 1, 8, 8)
    values = torch.linspace(-2, 2, 5)
    assert method.steer(torch.tensor([7, 1, 1]), 1, values).shape == (5, 3, 1, 8, 8)
    v = asked[0].unflatten(0, (5, 3))
    torch.testing.assert_close(v[:, :, 3 + 10 + 1], values[:, None].expand(5, 3))
    rest = v[:, :, [*range(14)]]
    assert torch.equal(rest, rest[:1].expand(5, -1, -1))
    assert v[0, :, 3:13].argmax(1).tolist() == [7, 1, 1]
    assert not torch.equal(v[0, 1, :3], v[0, 2, :3])


def test_categories_are_equally_likely_and_codes_uniform():
    method = tiny("InfoGAN")
    y, c = method.draw_codes(50_000)
    torch.testing.assert_close(y.bincount() / 50_000, torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert c.abs().max() <= 1
    torch.testing.assert_close(c.var(0), torch.full((2,), 1 / 3), atol=0.01, rtol=0)


def test_what_is_recovered_is_what_was_drawn():
    method = tiny("InfoGAN").eval()
    method.average, method.recogniser = Identity(), Read()
    category, codes = method.recovered(200)
    torch.testing.assert_close(category, torch.full((200,), 3 - math.log(math.exp(3) + 9) + LOG_K))
    assert codes.shape == (200, 2)
    assert codes.max() <= math.log(2) - 0.5 * math.log(2 * math.pi) + 1e-5


REFUSED = {
    "odd sides": ({"image_shape": (1, 7, 8)}, r"needs images of even sides of at least 6, got \(1, 7, 8\)"),
    "one category": ({"num_categories": 1}, "num_categories must be at least 2, got 1"),
    "a weight below 0": ({"code_weight": -1.0}, "code_weight must not be negative, got -1.0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_out_of_range_is_refused(what):
    options, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        InfoGAN(**{"image_shape": (1, 8, 8)} | options)
