"""Zhao, Song, Ermon. The Information Autoencoding Family. UAI 2018. arXiv:1806.06514.

In full: A Lagrangian Perspective on Latent Variable Generative Models.

Other members of the family, as the paper reads them: the InfoGAN maximises the mutual information and matches
p(x) by a discriminator; ALI and BiGAN match the joint distributions, ALICE and CycleGAN add conditional
entropies; the `InfoVAE` has these limits with weights that are given and not learned.

Departs from the paper: tanh units for softplus; the MMD is the unbiased statistic, where the released code
has the biased one, so that limits mean another thing here; the output bias starts at the logit of the mean
training pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.contract import Batch, Terms
from zoo.errors import not_negative, positive, require
from zoo.methods.variational.shared.latent_variable import GaussianCodes
from zoo.methods.variational.shared.matching import codes_of, from_standard
from zoo.parts.distributions.divergences import kl_of
from zoo.parts.distributions.pixels import Likelihood
from zoo.parts.kernels import RadialKernel
from zoo.parts.networks.backbones import Backbone
from zoo.parts.networks.dense import Activation
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled

UNITS_OF_MMD = 1e4
"""The limit of the squared MMD is given in ten-thousandths."""
LEAST, MOST = 1e-3, 100.0
"""Between them the multipliers stay."""
BETAS = (0.5, 0.999)
FORGETTING, STEADY = 0.01, 1e-8
"""Of RMSProp: the weight of the newest squared slope, and what is added to their root."""


class LagVAE(GaussianCodes):
    """Variational autoencoder whose codes tell much or little of images, within limits to its bound and MMD.

    The limits' weights are Lagrange multipliers: each grows while its limit is exceeded, and falls while it
    is kept.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        information: Weight of the mutual information of image and code: maximised above 0, minimised below.
        nelbo_limit: Most nats of the negative ELBO.
        mmd_limit: Most ten-thousandths of the squared MMD of all codes from the prior, unbiased.
        multiplier_lr: Step size of RMSProp, by which the multipliers climb.
        kernel: `rbf`, as wide as the number of latents, or `imq`, inverse multiquadrics of seven widths.
        latent_dim: Number of latent units.
        backbone: `mlp`, or `conv`: convolutions that halve the sides before the hidden layers.
        channels: Maps after the first convolution; they double with each.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        likelihood: Bernoulli for binary pixels, or Gaussian with a fixed, one learned, or per-pixel sigma.
        sigma: Gaussian sigma (fixed) or where it starts (learned), in units of the pixel range [0, 1].
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or limit is out of range, or the information has no weight.
    """

    paper = (
        "Zhao, Song, Ermon. The Information Autoencoding Family: A Lagrangian Perspective on Latent Variable "
        "Generative Models. UAI 2018."
    )
    monitor = None
    steps_per_batch = 1
    multipliers: Tensor
    """Those of the two limits, [2]."""
    squares: Tensor
    """Running means of their squared slopes, [2]."""

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        information: float = 1.0,
        nelbo_limit: float = 86.0,
        mmd_limit: float = 5.0,
        multiplier_lr: float = 1e-4,
        kernel: RadialKernel = "rbf",
        latent_dim: int = 64,
        backbone: Backbone = "mlp",
        channels: int = 32,
        hidden_dims: tuple[int, ...] = (1024, 1024),
        activation: Activation = "tanh",
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        lr: float = 1e-4,
        lr_final: float = 1e-5,
        lr_schedule: Schedule = "constant",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        positive(multiplier_lr=multiplier_lr)
        not_negative(mmd_limit=mmd_limit)
        require(information != 0, f"information must be above or below 0, got {information}")
        self.information, self.nelbo_limit, self.mmd_limit = information, nelbo_limit, mmd_limit
        self.multiplier_lr = multiplier_lr
        self.kernel: RadialKernel = kernel
        self.build(latent_dim, backbone, channels, hidden_dims, activation, likelihood, sigma)
        self.register_buffer("multipliers", torch.ones(2))
        self.register_buffer("squares", torch.zeros(2))

    def loss(self, batch: Batch) -> Terms:
        q = self.posterior(batch.x)
        z = q.rsample()
        distortion = -self.likelihood(z).log_prob(batch.x)
        rate = kl_of(q, self.prior(), z.unsqueeze(0))
        elbo = -(distortion + rate)
        distance = from_standard(codes_of(q, z), "mmd", self.kernel)
        told = distortion if self.information > 0 else rate  # bounds of the information, section 4.2
        over_bound, over_mmd = self.excess(elbo, distance)
        limits = self.multipliers[0] * over_bound + self.multipliers[1] * over_mmd
        return {
            "loss": abs(self.information) * told + limits,
            "elbo": elbo,
            "rate": rate,
            "distortion": distortion,
            "distance": distance,
        }

    def excess(self, elbo: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the limits are exceeded: what the multipliers climb."""
        return -elbo - self.nelbo_limit, UNITS_OF_MMD * distance - self.mmd_limit

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Move the multipliers up the slopes of the batch that was descended, alike on all processes."""
        excess = self.excess(self.last_mean("elbo"), self.last_mean("distance"))
        self.climb(self.trainer.strategy.reduce(torch.stack(excess), reduce_op="mean"))

    @torch.no_grad()
    def climb(self, slope: Tensor) -> None:
        """One step of RMSProp up a slope [2]."""
        self.squares.lerp_(slope.square(), FORGETTING)
        self.multipliers.add_(self.multiplier_lr * slope / (self.squares.sqrt() + STEADY)).clamp_(LEAST, MOST)

    def configure_optimizers(self) -> dict:
        """Adam of the networks; the multipliers move by `climb`."""
        optimizer = adam(self.parameters(), self.lr, BETAS, self.adam_eps)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
