"""The family's base: a prior, a posterior and a likelihood, and everything that follows from the three."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo.contract import (
    Codes,
    Decodes,
    Descent,
    Explains,
    Explanation,
    Images,
    Infers,
    PerImage,
    PerSample,
    PixelKind,
    Reconstructs,
    Samples,
    Side,
    Weights,
)
from zoo.errors import at_least, positive
from zoo.parts.distributions.gaussians import GaussianHead, standard_gaussian
from zoo.parts.distributions.pixels import Likelihood, PixelHead, pixel_head
from zoo.parts.estimators import importance_bound
from zoo.parts.networks.backbones import Backbone, decoder_of, encoder_of
from zoo.parts.networks.dense import Activation
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from


class LatentVariable(Descent, Samples, Explains, Infers, Decodes, Reconstructs):
    """p(x, z) = p(z) p(x|z) with an amortised posterior q(z|x) that can be reparameterised.

    Discrete latents stand on `Weighs` and a base of their own: `weigh` here draws by `rsample`.

    Args:
        image_shape: (C, H, W) of one image.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: `constant`; `cosine` over the trainer's epochs; `tripling_stages`: eight stages of
            1, 3, ..., 2187 epochs with a geometric decay (Burda et al. 2016).
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a step size or epsilon is not positive.
    """

    side = Side.LOWER
    monitor = ("val/elbo", "max")
    progress = "elbo"
    steps_per_batch = 10
    pixels: PixelHead
    """The last module of the decoder: features to p(x|z)."""

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        lr: float,
        lr_final: float,
        lr_schedule: Schedule,
        adam_eps: float,
    ) -> None:
        super().__init__(image_shape)
        positive(lr=lr, lr_final=lr_final, adam_eps=adam_eps)
        self.lr, self.lr_final, self.adam_eps = lr, lr_final, adam_eps
        self.lr_schedule: Schedule = lr_schedule

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return self.pixels.accepts

    def start_from(self, data: Any) -> None:
        """Start the decoder's output biases at the mean training image."""
        self.pixels.start_at(data.mean_image())

    @abstractmethod
    def prior(self) -> Distribution:
        """p(z), event [D]."""

    @abstractmethod
    def posterior(self, x: Images) -> Distribution:
        """q(z|x), batch [B], event [D]."""

    @abstractmethod
    def likelihood(self, z: Codes) -> Distribution:
        """p(x|z) of codes [..., D], event [C, H, W]."""

    def weigh(self, x: Images, num_samples: int) -> Weights:
        q = self.posterior(x)
        z = q.rsample((num_samples,))
        return Weights(self.likelihood(z).log_prob(x), self.prior().log_prob(z) - q.log_prob(z))

    def explain(self, x: Images) -> Explanation:
        return Explanation(self.prior(), self.posterior(x), lambda z: self.likelihood(z).log_prob(x))

    def log_weights(self, x: Images, num_samples: int) -> PerSample:
        """Log-weights log p(x, z) - log q(z|x) of posterior draws, [K, B], in nats."""
        return self.weigh(x, num_samples).log_w

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        return importance_bound(self.weigh, x, num_samples, self.draw_size).log_prob

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.picture(self.prior().sample((n,)))

    def prior_variance(self, layer: int) -> float | Tensor:
        return self.prior().variance

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return (self.posterior(x).mean,)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.picture(z)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.picture(self.posterior(x).mean)

    def picture(self, z: Codes) -> Images:
        """The image of codes [..., D]: the mean of p(x|z).

        A likelihood whose pixels depend on one another has no mean of its kind: its method draws them here.
        """
        return self.likelihood(z).mean

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.parameters(), self.lr, eps=self.adam_eps)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)


class GaussianCodes(LatentVariable):
    """One layer of codes: q(z|x) is a diagonal Gaussian, p(z) = N(0, I) unless a method says otherwise."""

    latent_dim: int
    encoder: nn.Module
    """Images [..., C, H, W] to features."""
    posterior_head: GaussianHead
    decoder: nn.Module
    """Codes [..., D] to what `pixels` reads."""

    def build(
        self,
        latent_dim: int,
        backbone: Backbone,
        channels: int,
        hidden_dims: Sequence[int],
        activation: Activation,
        likelihood: Likelihood,
        sigma: float,
    ) -> None:
        """Make encoder, posterior, decoder and pixels; the decoder mirrors the encoder.

        Raises:
            UsageError: If a size or sigma is not positive, or the images do not suit convolutions.
        """
        at_least(1, latent_dim=latent_dim)
        positive(hidden_dims=hidden_dims, sigma=sigma)
        shape, widths = self.image_shape, hidden_dims[::-1]
        self.latent_dim = latent_dim
        self.encoder = encoder_of(backbone, shape, channels, hidden_dims, activation)
        self.posterior_head = GaussianHead(self.encoder.out_dim, latent_dim)
        self.decoder = decoder_of(backbone, latent_dim, shape, channels, widths, activation)
        self.pixels = pixel_head(likelihood, self.decoder.out_dim, shape, sigma)

    def prior(self) -> Distribution:
        return standard_gaussian(self.latent_dim, self.device)

    def posterior(self, x: Images) -> Independent:
        return self.posterior_head(self.encoder(x))

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z))
