"""Zhao, Song, Ermon. InfoVAE: Balancing Learning and Inference in Variational Autoencoders. AAAI 2019.

arXiv:1706.02262. The member of the family whose divergence needs a discriminator is the `AAE`.

Departs from the paper: the default networks are fully connected; `stein` is the unbiased
kernelised Stein discrepancy of Liu, Lee and Jordan (2016) in the place of Stein variational gradients; Adam
with a cosine schedule; the output bias starts at the logit of the mean training pixel.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from zoo.contract import Batch, Terms
from zoo.errors import not_negative, require
from zoo.methods.variational.shared.latent_variable import GaussianCodes
from zoo.methods.variational.shared.matching import codes_of, from_standard
from zoo.parts.distributions.divergences import kl_of
from zoo.parts.distributions.pixels import Likelihood
from zoo.parts.kernels import RadialKernel
from zoo.parts.networks.backbones import Backbone
from zoo.parts.networks.dense import Activation
from zoo.parts.schedules import Schedule


class InfoVAE(GaussianCodes):
    """Variational autoencoder that weighs what codes tell of images, and how all codes together are spread.

    alpha = 0, lam = 1 is the VAE; alpha + lam = 1 the beta-VAE of beta = lam; alpha = 1 the MMD-VAE. With
    alpha near 1 a posterior may be far narrower than the true one: the bound L_K is then loose, and `ais`
    tells the likelihood.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        alpha: Weight of the mutual information of image and code: the rate has weight 1 - alpha.
        lam: Weight of the divergence of q(z) from p(z): beyond the rate it has weight alpha + lam - 1.
        divergence: `mmd`: maximum mean discrepancy from as many draws of the prior; `stein`: kernelised Stein
            discrepancy. Both squared and without bias, over the codes of a batch: 200 images or more.
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
        UsageError: If a size, step size or weight is out of range.
    """

    paper = (
        "Zhao, Song, Ermon. InfoVAE: Balancing Learning and Inference in Variational Autoencoders. AAAI 2019."
    )
    monitor = ("val/loss", "min")

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        alpha: float = 1.0,
        lam: float = 1000.0,
        divergence: Literal["mmd", "stein"] = "mmd",
        kernel: RadialKernel = "rbf",
        latent_dim: int = 10,
        backbone: Backbone = "mlp",
        channels: int = 32,
        hidden_dims: tuple[int, ...] = (200, 200),
        activation: Activation = "tanh",
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        lr: float = 1e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        not_negative(lam=lam)
        require(alpha <= 1, f"alpha must be at most 1, got {alpha}")
        least = alpha + lam >= 1
        require(least, f"alpha + lam must be at least 1, got {alpha} + {lam}")
        self.alpha, self.lam = alpha, lam
        self.divergence: Literal["mmd", "stein"] = divergence
        self.kernel: RadialKernel = kernel
        self.build(latent_dim, backbone, channels, hidden_dims, activation, likelihood, sigma)

    def objective(self, distortion: Tensor, rate: Tensor, distance: Tensor) -> Tensor:
        """What is descended, given its three parts in nats: minus equation 6."""
        return distortion + (1 - self.alpha) * rate + (self.alpha + self.lam - 1) * distance

    def loss(self, batch: Batch) -> Terms:
        q = self.posterior(batch.x)
        z = q.rsample()
        distortion = -self.likelihood(z).log_prob(batch.x)
        rate = kl_of(q, self.prior(), z.unsqueeze(0))
        distance = from_standard(codes_of(q, z), self.divergence, self.kernel)
        return {
            "loss": self.objective(distortion, rate, distance),
            "elbo": -(distortion + rate),
            "rate": rate,
            "distortion": distortion,
            "distance": distance,
        }
