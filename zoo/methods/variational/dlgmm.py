"""Nalisnick, Hertel, Smyth. Approximate Inference for Deep Latent Gaussian Mixtures. NIPS workshop 2016.

Workshop on Bayesian Deep Learning. Its sticks are those of Nalisnick, Smyth. Stick-Breaking Variational
Autoencoders. ICLR 2017. arXiv:1605.06197.

Departs from the paper: the entropy is that of the mixture, by the table of all draws under all components;
that of the released code, each component at its own draw, is `entropy: legacy`. The series of the sticks' KL
has 50 terms and a tail; hidden layers start He-uniform, mean shares uniform, the output bias at the logit of
the mean training pixel.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, kl_divergence

from zoo.contract import Batch, Codes, Divides, Images, Terms, Weights
from zoo.errors import at_least, positive
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.gaussians import diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.distributions.sticks import Shares, StickHead, dirichlet_sticks, log_shares
from zoo.parts.distributions.strata import chosen, log_mixture, log_sum_of_own, log_table, mean_divergence
from zoo.parts.networks.dense import MLP, Activation, readout
from zoo.parts.schedules import Schedule


class DLGMM(LatentVariable, Divides):
    """Deep latent Gaussian mixture model: a posterior of K Gaussians whose shares are broken off a stick.

    pi ~ Dirichlet(alpha), z ~ sum_k pi_k N(0, I), x ~ p(x|z); q(v|x) Kumaraswamy, q(z|v, x) the mixture. The
    latents are (z, v); the bound draws every component once and weighs it by its share.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_components: K.
        latent_dim: Units of z.
        concentration: alpha of the symmetric Dirichlet prior.
        entropy: What is descended with. `mixture`: the mixture's. `legacy`: the released code's, which is no
            entropy: a control arm. The reported bound has the mixture's.
        shares: Those of the entropy: drawn, with gradients along the sticks, or their means.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        num_samples: S, draws of every component per image and training step.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or the concentration is out of range.
    """

    paper = "Nalisnick, Hertel, Smyth. Approximate Inference for Deep Latent Gaussian Mixtures. NIPS 2016."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_components: int = 3,
        latent_dim: int = 25,
        concentration: float = 1.0,
        entropy: Literal["mixture", "legacy"] = "mixture",
        shares: Literal["sampled", "mean"] = "sampled",
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
        at_least(1, num_components=num_components, latent_dim=latent_dim, num_samples=num_samples)
        positive(hidden_dims=hidden_dims, concentration=concentration)
        self.num_components, self.latent_dim, self.num_samples = num_components, latent_dim, num_samples
        self.concentration, self.entropy, self.shares = concentration, entropy, shares
        self.encoder = MLP(math.prod(self.image_shape), hidden_dims, activation)
        uniform = dirichlet_sticks(num_components, 1.0, torch.device("cpu"))
        self.stick_head = (
            StickHead(self.encoder.out_dim, "kumaraswamy", uniform, 0.0) if num_components > 1 else None
        )
        self.component_head = readout(self.encoder.out_dim, 2 * num_components * latent_dim)
        self.decoder = MLP(latent_dim, hidden_dims[::-1], activation)
        self.pixels = BernoulliPixels(self.decoder.out_dim, self.image_shape)

    def sticks(self) -> Independent:
        """p(v), event [K - 1]: Beta(alpha, (K - k) alpha)."""
        return dirichlet_sticks(self.num_components, self.concentration, self.device)

    def prior(self) -> Distribution:
        z = standard_gaussian(self.latent_dim, self.device)  # sum_k pi_k N(0, I), whatever pi
        return Layers(self.sticks(), lambda v: z.expand(v.shape[:-1]), self._sizes, child_first=True)

    def recognise(self, x: Images) -> tuple[Independent, Independent]:
        """q(v|x), batch [B], event [K - 1], and q_k(z|x), batch [B, K], event [D]."""
        h = self.encoder(x.flatten(-3))
        mean, log_variance = self.component_head(h).unflatten(-1, (self.num_components, -1)).chunk(2, -1)
        components = diagonal_gaussian(mean, log_variance)
        if self.stick_head is None:
            return cast(Independent, self.sticks().expand(h.shape[:-1])), components
        return self.stick_head(h), components

    def posterior(self, x: Images) -> Distribution:
        sticks, components = self.recognise(x)
        return Layers(sticks, partial(_mixture, components), self._sizes, child_first=True)

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z[..., : self.latent_dim]))

    def loss(self, batch: Batch) -> Terms:
        q_v, q_z = self.recognise(batch.x)
        v, z = q_v.rsample((self.num_samples,)), q_z.rsample((self.num_samples,))
        mean = Shares(q_v).mean
        log_pi = log_shares(v) if self.shares == "sampled" else mean.log().expand(len(z), *mean.shape)
        log_likelihood = self.likelihood(z).log_prob(batch.x.unsqueeze(1))
        log_prior = standard_gaussian(self.latent_dim, self.device).log_prob(z)
        distortion = -(mean * log_likelihood).sum(-1).mean(0)
        table = log_table(q_z, z)
        log_q = log_pi.exp() * log_mixture(log_pi, table)
        rate = (log_q - mean * log_prior).sum(-1).mean(0)
        rate = rate + kl_divergence(q_v, self.sticks())
        loss = distortion + rate
        if self.entropy == "legacy":
            loss = loss + (log_sum_of_own(log_pi, table) - log_q.sum(-1)).mean(0)
        used = {f"share_{k}": share for k, share in enumerate(mean.detach().unbind(-1))}
        return {
            "loss": loss,
            "elbo": -(distortion + rate),
            "rate": rate,
            "distortion": distortion,
            "component_divergence": mean_divergence(q_z).detach(),
            **used,
        }

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.num_components - 1, self.latent_dim

    def weigh(self, x: Images, num_samples: int) -> Weights:
        """Draws choose one component each, and weigh by the density of all."""
        q = self.posterior(x)
        z = q.sample(torch.Size((num_samples,)))
        return Weights(self.likelihood(z).log_prob(x), self.prior().log_prob(z) - q.log_prob(z))

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return (self.posterior(x).mean[..., : self.latent_dim],)

    def prior_variance(self, layer: int) -> float:
        return 1.0

    @torch.no_grad()
    def divide(self, x: Images) -> Codes:
        return Shares(self.recognise(x)[0]).mean


def _mixture(components: Independent, v: Tensor) -> MixtureSameFamily:
    """The value of sum_k pi_k q_k(z|x) given sticks v [..., K - 1]."""
    log_pi = log_shares(v)
    choice = Categorical(logits=log_pi, validate_args=False)
    return MixtureSameFamily(choice, chosen(components, log_pi.shape), validate_args=False)
