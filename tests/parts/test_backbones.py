"""Dense and convolutional backbones: shapes, starts, leading dimensions, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from zoo.errors import UsageError
from zoo.methods.variational.infovae import InfoVAE
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.lagvae import LagVAE
from zoo.methods.variational.ncrp_vae import NCRPVAE
from zoo.methods.variational.vae import VAE
from zoo.parts.distributions.pixels import pixel_head
from zoo.parts.networks.backbones import MapReadout, decoder_of, encoder_of, pixel_readout

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "frey": (1, 28, 20),
    "emoji": (3, 32, 32),
    "large": (3, 64, 64),
}
LIKELIHOODS = ["bernoulli", "gaussian_fixed", "gaussian_learned", "gaussian_per_pixel"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("backbone", ["mlp", "conv"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_images_go_to_features_and_codes_to_images(backbone, shape):
    encoder = encoder_of(backbone, shape, 4, (6, 5), "relu")
    decoder = decoder_of(backbone, 3, shape, 4, (5, 6), "relu")
    readout = pixel_readout(decoder.out_dim, shape, 2)
    assert encoder(torch.rand(2, *shape)).shape == (2, 5)
    channels, *sides = shape
    assert readout(decoder(torch.randn(7, 2, 3))).shape == (7, 2, 2 * channels, *sides)


@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_draws_of_a_code_are_decoded_as_if_one_by_one(backbone):
    decoder = decoder_of(backbone, 3, (3, 16, 8), 4, (5,))
    pixels = pixel_head("gaussian_per_pixel", decoder.out_dim, (3, 16, 8), 0.1)
    z, x = torch.randn(4, 2, 3), torch.rand(2, 3, 16, 8)
    together = pixels(decoder(z)).log_prob(x)
    one_by_one = torch.stack([pixels(decoder(one)).log_prob(x) for one in z])
    torch.testing.assert_close(together, one_by_one)


def test_what_convolutions_read_is_centred():
    encoder = encoder_of("conv", (1, 8, 8), 2, (3,))
    grey = torch.full((1, 1, 8, 8), 0.5)
    assert not encoder(grey).any()  # all biases start at zero


def test_maps_keep_their_variance_on_the_way_through_relus():
    encoder, decoder = (
        encoder_of("conv", (3, 64, 64), 16, (64,), "relu"),
        decoder_of("conv", 64, (3, 64, 64), 16, (64,), "relu"),
    )
    with torch.no_grad():
        up, down = encoder.maps(torch.randn(16, 3, 64, 64)), decoder(torch.randn(64, 64))
    assert 0.3 < float(up.square().mean()) < 3
    assert 0.3 < float(down.square().mean()) < 3


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_convolutional_decoder_starts_at_the_mean_image(likelihood):
    vae = VAE((1, 8, 8), latent_dim=3, backbone="conv", channels=2, hidden_dims=(6,), likelihood=likelihood)
    mean = torch.rand(1, 8, 8)
    nn.init.zeros_(vae.pixels.mean_logits.convolution.weight)
    vae.pixels.start_at(mean)
    picture = vae.likelihood(torch.randn(5, 3)).mean
    torch.testing.assert_close(picture, mean.clamp(1e-3, 0.999).expand(5, -1, -1, -1))
    trained = vae.pixels.mean_logits.bias.clone()
    vae.pixels.start_at(torch.zeros(1, 8, 8))
    assert torch.equal(vae.pixels.mean_logits.bias, trained)


def test_a_pixel_reads_the_four_maps_around_it():
    readout = MapReadout(1, (1, 8, 8))
    h = torch.randn(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(readout(h)[0, 0, 3, 4], h)
    seen = torch.zeros(4, 4)
    seen[1:3, 1:3] = 1  # rows 1, 2 and columns 1, 2 lie next to pixel (3, 4)
    assert torch.equal((gradient[0, 0] != 0).float(), seen)


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 4, 8), (3, 5, 5)])
def test_sides_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(UsageError, match=rf"even and above 4 .*, got {shape[1]} x {shape[2]}"):
        VAE(shape, backbone="conv")


def test_channels_must_be_positive():
    with pytest.raises(UsageError, match="channels must be positive, got 0"):
        encoder_of("conv", (1, 8, 8), 0, (3,))


@pytest.mark.parametrize("kind", [VAE, IWAE, InfoVAE, LagVAE, NCRPVAE])
def test_colour_images_of_a_convolutional_model_are_weighed(kind):
    model = kind((3, 16, 16), backbone="conv", channels=2, hidden_dims=(6,), likelihood="gaussian_fixed")
    x = torch.rand(2, 3, 16, 16)
    assert model.log_weights(x, 3).shape == (3, 2)
    assert model.accepts == ("real", "deq")
    peak = -3 * 16 * 16 * math.log(0.1 * math.sqrt(2 * math.pi))
    assert bool((model.likelihood(model.prior().sample((4,))).log_prob(x[0]) <= peak).all())
