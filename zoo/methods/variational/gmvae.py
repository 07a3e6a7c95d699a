"""Dilokthanakul, Mediano, Garnelo, Lee, Salimbeni, Arulkumaran, Shanahan.

Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders. 2016. arXiv:1611.02648 (`v2`: the
final version; `cv`: the first one, submitted to ICLR 2017, with its consistency violation).

Departs from the paper: letters are x data, z code, w style, y cluster. Fully connected tanh networks replace
the convolutional ones and their batch norms; both posteriors stand on one of them; Adam follows a cosine. The
released code turns the label term's gradient round where the floor holds; here it is zero. The reported ELBO
has neither floor nor penalties, and importance weights sum over y exactly.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, kl_divergence

from zoo.contract import Batch, Clusters, Codes, Conditions, Images, Labels, LogProbs, Terms
from zoo.errors import at_least, not_negative, positive
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.divergences import kl_of_units
from zoo.parts.distributions.gaussians import Gaussian, GaussianHead, diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.pixels import Likelihood, pixel_head
from zoo.parts.estimators import free_bits
from zoo.parts.networks.dense import MLP, readout
from zoo.parts.schedules import Schedule
from zoo.randomness import drawing_from, own_stream

COMPONENT_LOG_VARIANCE = (-6.0, 4.0)
DRAWS_FOR_VARIANCE = 1000
"""Styles over which the variance of codes under the prior is averaged."""


class GMVAE(LatentVariable, Clusters, Conditions):
    """VAE whose codes are Gaussian mixtures, every component of them bent by a style w of the image's own.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_clusters: K, components of the mixture.
        num_samples: M, draws of (z, w) per image and training step.
        variant: `v2`: the label's posterior is Bayes' rule p(y|z,w), and its term has a floor; `cv`: it is a
            network q(y|x), and p(y|z,w) is asked to be sure.
        floor: Nats below which the batch mean of the label's KL is not reduced further (`v2`).
        label_weight: Weight of the label's KL (`cv`).
        consistency_weight: Weight of the entropy of p(y|z,w) (`cv`).
        latent_dim: Units of the code z.
        style_dim: Units of the style w.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        prior_hidden_dim: Width of the hidden layer of tanh units between style and components.
        likelihood: Bernoulli for binary pixels or grey levels as targets, or Gaussian with a fixed, one
            learned, or per-pixel sigma.
        sigma: Gaussian sigma (fixed) or where it starts (learned), in units of the pixel range [0, 1].
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, step size or weight is out of range.
    """

    paper = "Dilokthanakul et al. Deep Unsupervised Clustering with Gaussian Mixture VAEs. 2016."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_clusters: int = 10,
        num_samples: int = 1,
        variant: Literal["v2", "cv"] = "v2",
        floor: float = 0.5,
        label_weight: float = 1.0,
        consistency_weight: float = 0.4,
        latent_dim: int = 200,
        style_dim: int = 150,
        hidden_dims: tuple[int, ...] = (500, 500),
        prior_hidden_dim: int = 500,
        likelihood: Likelihood = "bernoulli",
        sigma: float = 0.1,
        lr: float = 1e-4,
        lr_final: float = 1e-5,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule=lr_schedule, adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, num_clusters=num_clusters, num_samples=num_samples, latent_dim=latent_dim)
        at_least(1, style_dim=style_dim, prior_hidden_dim=prior_hidden_dim)
        positive(hidden_dims=hidden_dims, sigma=sigma)
        not_negative(floor=floor, label_weight=label_weight, consistency_weight=consistency_weight)
        self.num_categories = self.num_clusters = num_clusters
        self.num_samples, self.floor = num_samples, floor
        self.label_weight, self.consistency_weight = label_weight, consistency_weight
        self.sizes = (latent_dim, style_dim)
        self.draw_size = max(math.prod(self.image_shape), num_clusters * latent_dim)
        self.encoder = MLP(math.prod(self.image_shape), hidden_dims)
        self.posterior_head = GaussianHead(self.encoder.out_dim, sum(self.sizes))
        self.label_head = readout(self.encoder.out_dim, num_clusters) if variant == "cv" else None
        self.style_network = MLP(style_dim, (prior_hidden_dim,))  # beta
        self.component_head = readout(prior_hidden_dim, num_clusters * 2 * latent_dim)
        self.decoder = MLP(latent_dim, hidden_dims[::-1])
        self.pixels = pixel_head(likelihood, self.decoder.out_dim, self.image_shape, sigma)

    def components(self, w: Tensor) -> Independent:
        """p(z|w,y) of every y, given styles [..., W]: batch [..., K], event [D]."""
        heads = self.component_head(self.style_network(w)).unflatten(-1, (self.num_clusters, -1))
        mean, log_variance = heads.chunk(2, -1)
        return diagonal_gaussian(mean, log_variance.clamp(*COMPONENT_LOG_VARIANCE))

    def mixture(self, w: Tensor) -> MixtureSameFamily:
        """p(z|w) = 1/K sum_y p(z|w,y), given styles [..., W]: batch [...], event [D]."""
        p = self.components(w)
        alike = Categorical(logits=torch.zeros(p.batch_shape, device=w.device), validate_args=False)
        return MixtureSameFamily(alike, p, validate_args=False)

    def prior(self) -> Layers:
        latent_dim, style_dim = self.sizes
        style = standard_gaussian(style_dim, self.device)
        return Layers(style, self.mixture, (style_dim, latent_dim), child_first=True)  # p(w) p(z|w)

    def posterior(self, x: Images) -> Independent:
        return self.posterior_head(self.encoder(x.flatten(-3)))  # q(z|x) q(w|x)

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z[..., : self.sizes[0]]))

    def label_given(self, z: Tensor, w: Tensor) -> Tensor:
        """Bayes' rule: log p(y|z,w), [..., K]."""
        return self.components(w).log_prob(z.unsqueeze(-2)).log_softmax(-1)

    @torch.no_grad()
    def cluster(self, x: Images) -> LogProbs:
        if self.label_head is not None:
            return self.label_head(self.encoder(x.flatten(-3))).float().log_softmax(-1)
        return self.label_given(*self.posterior_means(x))

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return self.posterior(x).mean.split(self.sizes, -1)

    def encode(self, x: Images) -> Codes:
        """Posterior means of z, which is what is decoded; [B, D]."""
        return self.posterior_means(x)[0]

    @torch.no_grad()
    def prior_variance(self, layer: int) -> float | Tensor:
        if layer > 0:
            return 1.0
        with own_stream(0):
            p = self.mixture(torch.randn(DRAWS_FOR_VARIANCE, self.sizes[1], device=self.device))
        return p.variance.mean(0) + p.mean.var(0)

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            w = torch.randn(len(y), self.sizes[1], device=self.device)
            return self.picture(self.components(w).sample()[torch.arange(len(y)), y])

    def loss(self, batch: Batch) -> Terms:
        h = self.encoder(batch.x.flatten(-3))
        q = self.posterior_head(h)
        z, w = q.rsample((self.num_samples,)).split(self.sizes, -1)
        mean, std = (moment[:, None, : self.sizes[0]] for moment in (q.mean, q.stddev))
        q_z = Independent(Gaussian(mean, std, validate_args=False), 1)
        p = self.components(w)
        log_r = p.log_prob(z.unsqueeze(-2)).log_softmax(-1)  # p(y|z,w), [M, B, K]
        log_y = log_r if self.label_head is None else self.label_head(h).float().log_softmax(-1)[None]
        doubt, unsure = (Categorical(logits=log_p).entropy().mean(0) for log_p in (log_y, log_r))

        distortion = -self.likelihood(z).log_prob(batch.x).mean(0)
        rate_z = (log_y.exp() * kl_divergence(q_z, p)).sum(-1).mean(0)
        standard = standard_gaussian(sum(self.sizes), self.device)
        rate_w = kl_of_units(q, standard, z)[:, self.sizes[0] :].sum(-1)
        rate_y = math.log(self.num_clusters) - doubt  # KL(q(y) || 1/K)
        if self.label_head is None:
            penalty = free_bits(rate_y[:, None], self.floor)  # minimum information constraint
        else:
            penalty = self.label_weight * rate_y + self.consistency_weight * unsure
        return {
            "loss": distortion + rate_z + rate_w + penalty,
            "elbo": -(distortion + rate_z + rate_w + rate_y),
            "rate": rate_z + rate_w + rate_y,
            "rate_w": rate_w,
            "rate_y": rate_y,
            "distortion": distortion,
        }
