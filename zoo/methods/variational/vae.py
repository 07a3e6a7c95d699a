"""Kingma, Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114.

Rezende, Mohamed, Wierstra. Stochastic Backpropagation and Approximate Inference in Deep Generative Models.
ICML 2014. arXiv:1401.4082.

Departs from the paper: the default network, two hidden layers of 200 tanh units and 50 latents, is the one of
Burda et al. (2016), as are the Glorot initialisation and the output bias at the logit of the mean training
pixel; Adam with a cosine schedule replaces Adagrad; there is no weight prior. Warm-up (Soenderby et al.
2016) and free bits (Kingma et al. 2016) are options, off by default; the reported bound never contains them.
"""

from collections.abc import Sequence
from typing import Literal

from zoo.contract import Batch, Terms
from zoo.errors import at_least, not_negative, require
from zoo.methods.variational.shared.latent_variable import GaussianCodes
from zoo.parts.distributions.divergences import kl_of, kl_of_units, monte_carlo_kl
from zoo.parts.distributions.pixels import Likelihood
from zoo.parts.estimators import free_bits
from zoo.parts.networks.backbones import Backbone
from zoo.parts.networks.dense import Activation
from zoo.parts.schedules import Schedule, warm_up


class VAE(GaussianCodes):
    """Variational autoencoder with a diagonal Gaussian posterior and a standard normal prior.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Number of latent units.
        backbone: `mlp`, or `conv`: convolutions that halve the sides before the hidden layers.
        channels: Maps after the first convolution; they double with each.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        likelihood: Bernoulli for binary pixels, or Gaussian with a fixed, one learned, or per-pixel sigma.
        sigma: Gaussian sigma (fixed) or where it starts (learned), in units of the pixel range [0, 1].
        num_samples: Latent draws per image and training step.
        kl: Closed form, or the average of log q(z|x) - log p(z) over the draws.
        warmup_epochs: Epochs over which the weight of the KL rises linearly from 0 to 1.
        free_bits: Nats per latent below which its batch-mean KL is not reduced further.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or weight is out of range.
    """

    paper = "Kingma, Welling. Auto-Encoding Variational Bayes. ICLR 2014."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 50,
        backbone: Backbone = "mlp",
        channels: int = 32,
        hidden_dims: tuple[int, ...] = (200, 200),
        activation: Activation = "tanh",
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        num_samples: int = 1,
        kl: Literal["analytic", "monte_carlo"] = "analytic",
        warmup_epochs: float = 0.0,
        free_bits: float = 0.0,
        lr: float = 1e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, num_samples=num_samples)
        not_negative(warmup_epochs=warmup_epochs, free_bits=free_bits)
        require(not (free_bits and kl == "monte_carlo"), "free_bits needs kl: analytic, got kl: monte_carlo")
        self.num_samples, self.kl = num_samples, kl
        self.warmup_epochs, self.free_bits = warmup_epochs, free_bits
        self.build(latent_dim, backbone, channels, hidden_dims, activation, likelihood, sigma)

    def loss(self, batch: Batch) -> Terms:
        q, p = self.posterior(batch.x), self.prior()
        z = q.rsample((self.num_samples,))  # section 2.4
        distortion = -self.likelihood(z).log_prob(batch.x).mean(0)
        rate = monte_carlo_kl(q, p, z) if self.kl == "monte_carlo" else kl_of(q, p, z)  # appendix B
        penalty = free_bits(kl_of_units(q, p, z), self.free_bits) if self.free_bits else rate
        weight = warm_up(self.epochs_done, self.warmup_epochs)
        return {
            "loss": distortion + weight * penalty,
            "elbo": -(distortion + rate),  # equation 3
            "rate": rate,
            "distortion": distortion,
        }
