"""Shu. Gaussian Mixture VAE: Lessons in Variational Inference, Generative Models, and Deep Nets. 2016.

Its control arm (`label: decoder`) is the model M2 of Kingma, Rezende, Mohamed, Welling. Semi-supervised
Learning with Deep Generative Models. NeurIPS 2014. arXiv:1406.5298, of whose bound without labels both are.

Departs from the paper: hidden units are tanh, not ReLU; KL(q(z|x,y) || p(z|y)) is in closed form; Adam
follows a cosine.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, kl_divergence
from torch.nn.functional import linear, one_hot

from zoo.contract import (
    Batch,
    Clusters,
    Codes,
    Conditions,
    Descent,
    Images,
    Infers,
    Labels,
    LogProbs,
    PerImage,
    PixelKind,
    Reconstructs,
    Samples,
    Side,
    Terms,
    Weighs,
    Weights,
)
from zoo.errors import at_least, positive
from zoo.parts.distributions.gaussians import Gaussian, GaussianHead, diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.estimators import importance_bound
from zoo.parts.networks.dense import MLP, readout
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from


class ExplicitMixture(Descent, Samples, Conditions, Weighs, Infers, Reconstructs, Clusters):
    """VAE with a label that is summed out, and a Gaussian of codes for each of its values.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_clusters: K, values of the label.
        label: What depends on the label: the `prior` of codes, p(z|y), so that labels are a mixture; or the
            `decoder`, p(x|z,y), which is M2 and learns to do without the label.
        num_samples: Draws of z per image, label and training step.
        latent_dim: Units of the code z.
        hidden_dims: Widths of the hidden layers of q(y|x) and of q(z|x,y); the decoder mirrors them.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size or step size is out of range.
    """

    paper = "Shu. Gaussian Mixture VAE: Lessons in Variational Inference and Generative Models. 2016."
    side = Side.LOWER
    monitor = ("val/elbo", "max")
    progress = "elbo"
    steps_per_batch = 10

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_clusters: int = 10,
        label: Literal["prior", "decoder"] = "prior",
        num_samples: int = 1,
        latent_dim: int = 64,
        hidden_dims: tuple[int, ...] = (512, 512),
        lr: float = 1e-3,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
        adam_eps: float = 1e-8,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, num_clusters=num_clusters, num_samples=num_samples, latent_dim=latent_dim)
        positive(hidden_dims=hidden_dims, lr=lr, lr_final=lr_final, adam_eps=adam_eps)
        self.num_categories = self.num_clusters = num_clusters
        self.label, self.num_samples, self.latent_dim = label, num_samples, latent_dim
        self.lr, self.lr_final, self.adam_eps = lr, lr_final, adam_eps
        self.lr_schedule: Schedule = lr_schedule
        num_pixels = math.prod(self.image_shape)
        self.labeller = MLP(num_pixels, hidden_dims)
        self.label_head = readout(self.labeller.out_dim, num_clusters)
        self.encoder = MLP(num_pixels + num_clusters, hidden_dims)
        self.posterior_head = GaussianHead(self.encoder.out_dim, latent_dim)
        told = num_clusters if label == "decoder" else 0
        self.decoder = MLP(latent_dim + told, hidden_dims[::-1])
        self.pixels = BernoulliPixels(self.decoder.out_dim, self.image_shape)
        self.components: nn.Parameter | None = None
        if label == "prior":
            means = nn.init.xavier_uniform_(torch.empty(num_clusters, latent_dim))
            self.components = nn.Parameter(torch.cat((means, torch.zeros_like(means)), 1))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return self.pixels.accepts

    def start_from(self, data: Any) -> None:
        """Start the decoder's output biases at the mean training image."""
        self.pixels.start_at(data.mean_image())

    def prior(self, y: Tensor) -> Independent:
        """p(z|y) of labels [...]: event [D]; the same for all labels where the decoder is told."""
        if self.components is None:
            return standard_gaussian(self.latent_dim, self.device)
        return diagonal_gaussian(*self.components[y].chunk(2, -1))

    def posterior(self, x: Images) -> Independent:
        """q(z|x,y) of every label: batch [K, B], event [D].

        The first layer reads the image once for all labels.
        """
        first, *rest = self.encoder
        assert isinstance(first, nn.Linear)
        seen, told = first.weight.split((math.prod(self.image_shape), self.num_clusters), 1)
        h = linear(x.flatten(-3), seen) + (told.T + first.bias)[:, None]
        for layer in rest:
            h = layer(h)
        return self.posterior_head(h)

    def log_labels(self, x: Images) -> Tensor:
        """The value of log q(y|x), [B, K]."""
        return self.label_head(self.labeller(x.flatten(-3))).float().log_softmax(-1)

    def likelihood(self, z: Codes, y: Tensor) -> Independent:
        """p(x|z,y) of codes [..., D] and their labels, which broadcast: event [C, H, W]."""
        if self.components is None:
            told = one_hot(y, self.num_clusters).to(z).expand(*z.shape[:-1], -1)
            z = torch.cat((z, told), -1)
        return self.pixels(self.decoder(z))

    def loss(self, batch: Batch) -> Terms:
        q, y = self.posterior(batch.x), torch.arange(self.num_clusters, device=self.device)[:, None]
        z = q.rsample((self.num_samples,))  # [S, K, B, D]
        log_q_y = self.log_labels(batch.x).T  # [K, B]
        share = log_q_y.exp()
        distortion = -(share * self.likelihood(z, y).log_prob(batch.x).mean(0)).sum(0)
        rate_y = math.log(self.num_clusters) - Categorical(logits=log_q_y.T).entropy()  # KL(q(y|x) || 1/K)
        rate = (share * kl_divergence(q, self.prior(y))).sum(0) + rate_y
        return {
            "loss": distortion + rate,
            "elbo": -(distortion + rate),
            "rate": rate,
            "rate_y": rate_y,
            "distortion": distortion,
        }

    def weigh(self, x: Images, num_samples: int) -> Weights:
        labels, q_of_all = Categorical(logits=self.log_labels(x), validate_args=False), self.posterior(x)
        y = labels.sample((num_samples,))  # [S, B]
        mean, std = (t[y, torch.arange(len(x))] for t in (q_of_all.mean, q_of_all.stddev))
        q = Independent(Gaussian(mean, std, validate_args=False), 1)
        z = q.sample()
        log_prior = self.prior(y).log_prob(z) - math.log(self.num_clusters)
        log_q = q.log_prob(z) + labels.log_prob(y)
        return Weights(self.likelihood(z, y).log_prob(x), log_prior - log_q)

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        return importance_bound(self.weigh, x, num_samples).log_prob

    @torch.no_grad()
    def cluster(self, x: Images) -> LogProbs:
        return self.log_labels(x)

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return ((self.log_labels(x).exp().T.unsqueeze(-1) * self.posterior(x).mean).sum(0),)

    @torch.no_grad()
    def prior_variance(self, layer: int) -> Tensor:
        p = self.prior(torch.arange(self.num_clusters, device=self.device))
        p = p.expand((self.num_clusters,))
        return (p.variance + (p.mean - p.mean.mean(0)).square()).mean(0)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        y = self.log_labels(x).argmax(1)
        z = self.posterior(x).mean[y, torch.arange(len(x))]
        return self.likelihood(z, y).mean

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.sample_given(torch.randint(self.num_clusters, (n,), device=self.device))

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            z = self.prior(y).expand(y.shape).sample()
        return self.likelihood(z, y).mean

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.parameters(), self.lr, eps=self.adam_eps)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
