"""Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever, Abbeel. Variational Lossy Autoencoder.

ICLR 2017. arXiv:1611.02731.

Departs from the paper: encoder and generator are fully connected, not residual convolutions; only the image
is masked, not the maps of the code, which the paper joins to it; masked weights are not tied; Adam with a
cosine schedule replaces Adamax, and there is neither weight normalisation nor an average of the weights; the
last layers of the flow start next to zero, not at it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo.contract import Batch, Codes, Images, PixelKind, Terms, Walks
from zoo.errors import at_least, not_negative, positive, require
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.divergences import monte_carlo_kl
from zoo.parts.distributions.flows import AffineSteps, AutoregressiveFlow, InverseAutoregressiveFlow
from zoo.parts.distributions.gaussians import GaussianHead, standard_gaussian
from zoo.parts.distributions.pixels import MEAN_RANGE
from zoo.parts.distributions.raster import RasterPixels
from zoo.parts.estimators import free_bits
from zoo.parts.networks.dense import MLP, PixelReadout
from zoo.parts.networks.masked import RasterNetwork
from zoo.parts.schedules import Schedule
from zoo.randomness import drawing_from, own_stream

UP, DOWN, EASE = 1.1, 0.9, 1.05
"""Soft free bits: factors of the weight of the KL, and how far above the free bits it may lie in peace."""
WEIGHT_RANGE = (1e-3, 1.0)
DRAWS_FOR_PRIOR = 2000
"""Draws behind the variance of a prior that is a flow."""


class VLAE(Walks, LatentVariable):
    """Autoencoder whose decoder draws pixels one by one and sees few of them: the code keeps the rest.

    An image takes H W steps, of one pixel in every layer: together the work of one pass, but one after the
    other; 500 images of 28 x 28 take a second of one core. Where the flow stands in the prior, their codes
    take `latent_dim` passes for each step of the flow. `zoo sample --film` shows the rows as they are drawn.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Number of latent units.
        hidden_dims: Widths of the encoder's hidden layers; those from the code to the maps mirror them.
        context_channels: Maps that the decoder sees of the code.
        channels: Maps of the decoder's masked convolutions.
        num_layers: Masked 3 x 3 convolutions; a pixel sees as many rows above it, and columns to each side.
        num_pointwise: 1 x 1 convolutions behind them.
        conditional: Whether the decoder sees the code; without it, the decoder alone, it sees that of zeros.
        flow: In the prior, autoregressive; or in the posterior, inverse autoregressive, its matched rival.
        flow_steps: Steps of the flow; 0 leaves it out.
        flow_dim: Width of the two hidden layers of each step.
        mean_only: Steps of the flow shift and do not scale.
        free_bits: Nats per latent below which the batch-mean KL of all latents is not reduced further.
        soft_free_bits: The KL has a weight instead that falls by 10 % while it is below the free bits, and
            rises by 10 %, to at most 1, while it is over 5 % above them.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or weight is out of range, or free bits are asked of an unseen code.
    """

    paper = "Chen, Kingma, Salimans et al. Variational Lossy Autoencoder. ICLR 2017."
    draws_pixels = True
    steps_per_batch = 1
    kl_weight: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 64,
        hidden_dims: tuple[int, ...] = (200, 200),
        context_channels: int = 4,
        channels: int = 12,
        num_layers: int = 6,
        num_pointwise: int = 4,
        conditional: bool = True,
        flow: Literal["prior", "posterior"] = "prior",
        flow_steps: int = 4,
        flow_dim: int = 640,
        mean_only: bool = True,
        free_bits: float = 0.1225,
        soft_free_bits: bool = False,
        lr: float = 2e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, latent_dim=latent_dim, context_channels=context_channels, channels=channels)
        at_least(1, num_layers=num_layers, flow_dim=flow_dim)
        positive(hidden_dims=hidden_dims)
        not_negative(num_pointwise=num_pointwise, flow_steps=flow_steps, free_bits=free_bits)
        require(conditional or not free_bits, f"free_bits need conditional: true, got {free_bits}")
        require(bool(free_bits) or not soft_free_bits, "soft_free_bits needs free_bits, got free_bits: 0")
        self.latent_dim, self.conditional, self.flow_in = latent_dim, conditional, flow
        self.free_bits, self.soft_free_bits = free_bits, soft_free_bits
        _, *size = self.image_shape
        self.draw_size = max(channels, context_channels) * math.prod(size)
        self.encoder = MLP(math.prod(self.image_shape), hidden_dims, "relu")
        self.posterior_head = GaussianHead(self.encoder.out_dim, latent_dim)
        self.generator = MLP(latent_dim, hidden_dims[::-1], "relu")
        self.maps = PixelReadout(self.generator.out_dim, (context_channels, *size))
        self.decoder = RasterNetwork(self.image_shape, context_channels, channels, num_layers, num_pointwise)
        self.flow = AffineSteps(latent_dim, flow_steps, flow_dim, mean_only)
        self.register_buffer("kl_weight", torch.ones(()))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",)

    def start_from(self, data: Any) -> None:
        """Start the decoder's output biases, if untouched, at the mean of all training pixels."""
        bias, mean = self.decoder.last.bias, data.mean_image().mean((1, 2))
        assert bias is not None
        with torch.no_grad():
            if not bias.any():
                bias.copy_(mean.clamp(*MEAN_RANGE).logit())

    def prior(self) -> Distribution:
        noise = standard_gaussian(self.latent_dim, self.device)
        return AutoregressiveFlow(noise, self.flow) if self.flow_in == "prior" else noise  # section 3.2

    def posterior(self, x: Images) -> Distribution:
        q = self.posterior_head(self.encoder(x.flatten(-3)))
        return q if self.flow_in == "prior" else InverseAutoregressiveFlow(q, self.flow)

    def likelihood(self, z: Codes) -> RasterPixels:
        seen = z if self.conditional else torch.zeros_like(z)
        maps = self.maps(self.generator(seen))
        return RasterPixels(self.decoder, maps, self.image_shape[0])  # section 3.1

    def loss(self, batch: Batch) -> Terms:
        q = self.posterior(batch.x)
        z = q.rsample(torch.Size((1,)))
        distortion = -self.likelihood(z).log_prob(batch.x).mean(0)
        rate = monte_carlo_kl(q, self.prior(), z)
        held = free_bits(rate.unsqueeze(1), self.floor)
        penalty = self.kl_weight * rate if self.soft_free_bits else held
        return {
            "loss": distortion + penalty,
            "elbo": -(distortion + rate),
            "rate": rate,
            "distortion": distortion,
        }

    @property
    def floor(self) -> float:
        """The free bits of all latents together, in nats."""
        return self.free_bits * self.latent_dim

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Soft free bits: move the weight of the KL by the rate of the batch that was descended."""
        if self.soft_free_bits:
            self.weigh_kl(self.trainer.strategy.reduce(self.last_mean("rate"), reduce_op="mean"))

    def weigh_kl(self, rate: Tensor) -> None:
        """Move the weight of the KL by 10 %, in the direction that leads the rate to the free bits."""
        factor = 1.0 + (UP - 1) * (rate > EASE * self.floor) + (DOWN - 1) * (rate < self.floor)
        self.kl_weight.mul_(factor).clamp_(*WEIGHT_RANGE)

    @torch.no_grad()
    def prior_variance(self, layer: int) -> Tensor:
        if self.flow_in == "posterior":
            return self.prior().variance
        with own_stream(layer):
            return self.prior().sample(torch.Size((DRAWS_FOR_PRIOR,))).var(0)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        """Yield n images after each row that is drawn; what is not drawn yet is grey."""
        at_least(1, n=n)
        with drawing_from(generator):
            z = self.prior().sample(torch.Size((n,)))
            uniform = torch.rand(n, *self.image_shape, device=self.device)
        return self._drawn(z, uniform)

    @torch.no_grad()
    def _drawn(self, z: Codes, uniform: Images) -> Iterator[Images]:
        return self.likelihood(z).unfold(uniform)

    def picture(self, z: Codes) -> Images:
        """Pixels drawn given the codes [..., D], by the same random numbers at every call."""
        with own_stream(0):
            uniform = torch.rand(*z.shape[:-1], *self.image_shape, device=z.device)
        *_, x = self._drawn(z, uniform)
        return x.view(uniform.shape)
