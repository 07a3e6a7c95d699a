"""Facts of the InfoVAE: its special cases, its divergences, how it descends."""

import pytest
import torch
from torch.distributions import Independent, Normal
from variational_models import SHAPE, batch_of, binary_images, scrambled, seeded_terms, tiny_vae

from zoo.errors import UsageError
from zoo.methods.variational.infovae import InfoVAE
from zoo.parts.kernels import mmd, stein_discrepancy

TINY = {"latent_dim": 4, "hidden_dims": (16,)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny_infovae(**settings):
    return scrambled(InfoVAE(**({"image_shape": SHAPE, "latent_dim": 3, "hidden_dims": (6, 6)} | settings)))


def beside_a_vae(**settings):
    """A VAE, and an InfoVAE of these settings with its weights; terms of both with the same draws."""
    vae, info = tiny_vae(), tiny_infovae(**settings)
    info.load_state_dict(vae.state_dict())
    x = binary_images(20)
    return seeded_terms(vae, x), seeded_terms(info, x)


@pytest.mark.parametrize("divergence", ["mmd", "stein"])
@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_without_alpha_and_with_a_weight_of_one_it_is_the_vae_to_the_last_bit(divergence, kernel):
    vae, info = beside_a_vae(alpha=0.0, lam=1.0, divergence=divergence, kernel=kernel)
    for name, term in vae.items():
        assert torch.equal(term, info[name]), name


@pytest.mark.parametrize("beta", [0.25, 2.0, 4.0])
def test_weights_that_add_up_to_one_are_the_beta_vae_to_the_last_bit(beta):
    vae, info = beside_a_vae(alpha=1 - beta, lam=beta)
    assert torch.equal(info["loss"], vae["distortion"] + beta * vae["rate"])


def test_alpha_of_one_forgets_the_rate_and_weighs_the_divergence_by_lam():
    vae, info = beside_a_vae(alpha=1.0, lam=1000.0)
    assert torch.equal(info["loss"], vae["distortion"] + 1000 * info["distance"])
    assert float(info["distance"].detach().abs()) > 1e-5


def test_between_them_the_weights_are_those_of_equation_6():
    _, info = beside_a_vae(alpha=0.5, lam=10.0)
    wanted = info["distortion"] + 0.5 * info["rate"] + 9.5 * info["distance"]
    torch.testing.assert_close(info["loss"], wanted)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_distance_is_that_of_the_codes_which_are_decoded(kernel):
    x = binary_images(30)
    for divergence in ("mmd", "stein"):
        info = tiny_infovae(divergence=divergence, kernel=kernel)
        found = seeded_terms(info, x)["distance"]
        torch.manual_seed(1)
        z = info.posterior(x).rsample()
        exact = (
            mmd(z, torch.randn(30, 3), kernel) if divergence == "mmd" else stein_discrepancy(z, -z, kernel)
        )
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("divergence", ["mmd", "stein"])
def test_codes_that_are_spread_as_the_prior_have_no_distance_on_average(divergence, monkeypatch):
    info = tiny_infovae(divergence=divergence)
    monkeypatch.setattr(
        info, "posterior", lambda x: Independent(Normal(torch.zeros(len(x), 3), torch.ones(len(x), 3)), 1)
    )
    batch = batch_of(binary_images(50))
    values = torch.stack([info.loss(batch)["distance"] for _ in range(200)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 200**0.5
    assert float(values.min()) < 0


def test_an_image_that_is_alone_is_compared_through_two_draws_of_its_code():
    terms = tiny_infovae().loss(batch_of(binary_images(1)))
    assert all(term.isfinite().all() for term in terms.values())


def test_the_divergence_reaches_the_encoder_and_not_the_decoder():
    info = tiny_infovae()
    info.loss(batch_of(binary_images(30)))["distance"].backward()
    assert info.posterior_head.linear.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*info.decoder.parameters(), *info.pixels.parameters()])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"alpha": 1.5}, "alpha must be at most 1, got 1.5"),
        ({"alpha": -1.0, "lam": 1.0}, r"alpha \+ lam must be at least 1, got -1.0 \+ 1.0"),
        ({"lam": -2.0}, "lam must not be negative, got -2.0"),
    ],
)
def test_weights_of_which_one_would_be_negative_are_refused(settings, line):
    with pytest.raises(UsageError, match=line):
        InfoVAE(**settings)
