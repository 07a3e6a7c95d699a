"""Nalisnick, Smyth. Stick-Breaking Variational Autoencoders. ICLR 2017. arXiv:1605.06197.

Departs from the paper: the series of the KL has 50 terms and a tail in the place of ten terms without one;
Gamma sticks have exact gradients in the place of those of an approximate inverse CDF; the posterior starts at
the prior, hidden layers He-uniform, the output bias at the logit of the mean training pixel; pixels are
binarised dynamically (the paper does not say how). The arm with labels is `SBM2`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.contract import Batch, Codes, Divides, Images, Terms, Weights
from zoo.errors import at_least, positive
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.divergences import kl_of, monte_carlo_kl
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.distributions.sticks import (
    SPREAD,
    Shares,
    StickHead,
    StickKind,
    gem_sticks,
    share_dimension,
    shares_of,
)
from zoo.parts.networks.dense import MLP, Activation
from zoo.parts.schedules import Schedule


class SBVAE(LatentVariable, Divides):
    """Variational autoencoder whose code is a point of the simplex: shares of a stick, under a GEM prior.

    The posterior is cut off after `num_shares`: its last share is all that is left.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_shares: K, the length of the code.
        concentration: alpha_0 of the sticks' prior Beta(1, alpha_0): the larger, the more shares are used.
        posterior: Distribution of the sticks given an image.
        kl: `analytic`: closed form, which Gauss-logit sticks lack: they are averaged over draws as with
            `monte_carlo`.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        num_samples: Latent draws per image and training step.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or the concentration is out of range.
    """

    paper = "Nalisnick, Smyth. Stick-Breaking Variational Autoencoders. ICLR 2017."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_shares: int = 50,
        concentration: float = 5.0,
        posterior: StickKind = "kumaraswamy",
        kl: Literal["analytic", "monte_carlo"] = "analytic",
        hidden_dims: tuple[int, ...] = (500,),
        activation: Activation = "relu",
        num_samples: int = 1,
        lr: float = 3e-4,
        lr_final: float = 3e-4,
        lr_schedule: Schedule = "constant",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(2, num_shares=num_shares)
        at_least(1, num_samples=num_samples)
        positive(hidden_dims=hidden_dims, concentration=concentration)
        self.num_shares, self.concentration = num_shares, concentration
        self.kl, self.num_samples = kl, num_samples
        start = gem_sticks(num_shares, concentration, torch.device("cpu"))
        self.encoder = MLP(math.prod(self.image_shape), hidden_dims, activation)
        self.stick_head = StickHead(self.encoder.out_dim, posterior, start, SPREAD)
        self.decoder = MLP(num_shares, hidden_dims[::-1], activation)
        self.pixels = BernoulliPixels(self.decoder.out_dim, self.image_shape)

    def prior(self) -> Shares:
        return Shares(gem_sticks(self.num_shares, self.concentration, self.device))  # pi ~ GEM(alpha_0)

    def posterior(self, x: Images) -> Shares:
        return Shares(self.stick_head(self.encoder(x.flatten(-3))))  # section 4.1

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z))

    def loss(self, batch: Batch) -> Terms:
        q, p = self.posterior(batch.x), self.prior()
        v = q.sticks.rsample((self.num_samples,))
        pi = shares_of(v)  # pi_k = v_k prod_{j<k} (1 - v_j), equation 2
        distortion = -self.likelihood(pi).log_prob(batch.x).mean(0)
        divergence = monte_carlo_kl if self.kl == "monte_carlo" else kl_of
        rate = divergence(q.sticks, p.sticks, v)
        return {
            "loss": distortion + rate,  # equation 6
            "elbo": -(distortion + rate),
            "rate": rate,
            "distortion": distortion,
            "effective_dim": share_dimension(pi.detach()).mean(0),
        }

    def weigh(self, x: Images, num_samples: int) -> Weights:
        """The ratio is that of the sticks: the Jacobian of the shares cancels."""
        q, p = self.posterior(x), self.prior()
        v = q.sticks.rsample((num_samples,))
        pi = shares_of(v)
        return Weights(self.likelihood(pi).log_prob(x), p.sticks.log_prob(v) - q.sticks.log_prob(v))

    @torch.no_grad()
    def divide(self, x: Images) -> Codes:
        return self.posterior(x).mean

    def share_norms(self) -> Tensor:
        """Norms of the decoder's weights that read each share."""
        return self.decoder.get_parameter("0.weight").detach().norm(dim=0)
