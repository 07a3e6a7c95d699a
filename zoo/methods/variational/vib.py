"""Alemi, Fischer, Dillon, Murphy. Deep Variational Information Bottleneck. ICLR 2017. arXiv:1612.00410.

Settings are those of its released code where the paper's text has others. `scripts/bottleneck.py` draws
errors and information at seven weights of the rate.

Departs from the paper: both terms are in nats, which moves no minimum; the step size falls along a cosine in
the place of a factor of 0.97 every two epochs; a covariance is S T T' S with T unit lower triangular.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import softplus

from zoo.contract import (
    Batch,
    Beliefs,
    ClassifiesCodes,
    Codes,
    Descent,
    Images,
    Infers,
    LogProbs,
    Terms,
    need_labels,
)
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.parts.distributions.divergences import kl_of
from zoo.parts.distributions.gaussians import Gaussian, standard_gaussian
from zoo.parts.estimators import log_mean_exp
from zoo.parts.networks.average import Average
from zoo.parts.networks.dense import MLP, readout
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled

SPREAD_START = -5.0
"""Where softplus starts: standard deviations of about 0.0067."""

Posterior = Literal["diagonal", "full", "point"]


class Bottleneck(nn.Module):
    """Encoder p(z|x) and linear classifier q(y|z).

    Args:
        in_dim: Pixels of an image.
        hidden_dims: Widths of the encoder's hidden layers.
        latent_dim: Dimensions D of the code.
        num_classes: Labels.
        posterior: What p(z|x) is.
        dropout: Share of the hidden units that is dropped in training.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        latent_dim: int,
        num_classes: int,
        posterior: Posterior,
        dropout: float,
    ) -> None:
        super().__init__()
        self.latent_dim, self.posterior = latent_dim, posterior
        self.body = MLP(in_dim, hidden_dims, "relu", dropout)
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        num_spreads = {"diagonal": latent_dim, "full": latent_dim * (latent_dim + 1) // 2, "point": 0}
        self.head = readout(self.body.out_dim, latent_dim + num_spreads[posterior])
        self.classifier = readout(latent_dim, num_classes)

    def prior(self) -> Distribution:
        """The marginal r(z) = N(0, I)."""
        normal = standard_gaussian(self.latent_dim, self.head.weight.device)
        if self.posterior != "full":
            return normal
        return MultivariateNormal(
            normal.mean, scale_tril=torch.diag(torch.ones_like(normal.mean)), validate_args=False
        )

    def forward(self, x: Images) -> Distribution:
        """The posterior p(z|x) of images in [0, 1]: batch [B], event [D]; that of a point has no width."""
        h = self.head(self.body(2 * x.flatten(1) - 1)).float()
        mean, rho, mixing = h.tensor_split((self.latent_dim, 2 * self.latent_dim), 1)
        if self.posterior == "point":
            return Independent(Normal(mean, torch.zeros_like(mean), validate_args=False), 1)
        std = softplus(rho + SPREAD_START)
        if self.posterior == "diagonal":
            return Independent(Gaussian(mean, std, validate_args=False), 1)
        unit = torch.diag_embed(torch.ones_like(mean))
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=x.device)
        unit[:, rows, columns] = mixing
        return MultivariateNormal(mean, scale_tril=std[:, :, None] * unit, validate_args=False)

    def classify(self, z: Codes) -> Tensor:
        """The value of log q(y|z) of codes [..., D]: [..., classes]."""
        return self.classifier(z).float().log_softmax(-1)


class VIB(Descent, Infers, ClassifiesCodes):
    """Classifier through a code that holds as little of the image as the labels allow.

    Training descends E[-log q(y|z)] + beta KL(p(z|x) || N(0, I)). What classifies is a running average of the
    weights, over several draws of the code.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_classes: Labels 0, 1, ..., that every training image must have.
        hidden_dims: Widths of the encoder's hidden layers.
        latent_dim: Dimensions of the code.
        posterior: Gaussian with a diagonal or a full covariance; `point` has no noise, and so no rate: the
            deterministic control.
        beta: Weight of the rate.
        num_samples: Draws of the code per image and training step.
        num_draws: Draws of the code whose probabilities are averaged where an image is classified.
        dropout: Share of the hidden units that is dropped in training.
        ema_decay: Weight of the running average of the weights against the current ones, per batch.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.
        beta1: Decay of Adam's first moment.

    Raises:
        UsageError: If a number is out of range, a point is given a rate, or an image has no label.
    """

    paper = "Alemi, Fischer, Dillon, Murphy. Deep Variational Information Bottleneck. ICLR 2017."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_classes: int = 10,
        hidden_dims: tuple[int, ...] = (1024, 1024),
        latent_dim: int = 256,
        posterior: Posterior = "diagonal",
        beta: float = 1e-3,
        num_samples: int = 1,
        num_draws: int = 12,
        dropout: float = 0.0,
        ema_decay: float = 0.999,
        lr: float = 1e-4,
        lr_final: float = 5e-6,
        lr_schedule: Schedule = "cosine",
        beta1: float = 0.5,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, hidden_dims=hidden_dims, latent_dim=latent_dim)
        at_least(1, num_samples=num_samples, num_draws=num_draws)
        at_least(2, num_classes=num_classes)
        not_negative(beta=beta)
        positive(lr=lr, lr_final=lr_final)
        share(dropout=dropout, ema_decay=ema_decay, beta1=beta1)
        require(
            posterior != "point" or beta == 0, f"posterior: point has no rate: beta must be 0, got {beta}"
        )
        self.num_classes, self.posterior = num_classes, posterior
        self.beta, self.num_samples, self.num_draws = beta, num_samples, num_draws
        self.lr, self.lr_final, self.beta1 = lr, lr_final, beta1
        self.lr_schedule: Schedule = lr_schedule
        if posterior != "point":
            self.classifies_by = f"p(y|x) of {num_draws} codes"
        in_dim = math.prod(self.image_shape)
        self.network = Bottleneck(in_dim, hidden_dims, latent_dim, num_classes, posterior, dropout)
        self.average = Average(self.network, ema_decay)

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(name for name in self.state_dict() if not name.startswith("average."))

    @property
    def averaged(self) -> Bottleneck:
        """The network that classifies."""
        network = self.average.network
        assert isinstance(network, Bottleneck)
        return network

    def start_from(self, data: Any) -> None:
        """Refuse images without a label."""
        need_labels(data.split("train").y, self.num_classes)

    def loss(self, batch: Batch) -> Terms:
        q = self.network(batch.x)
        z = q.rsample((self.num_samples,))
        log_q = self.network.classify(z)
        distortion = -log_q.gather(-1, batch.y.expand(len(z), -1)[..., None])[..., 0].mean(0)
        if self.posterior == "point":
            return {"loss": distortion, "distortion": distortion}
        rate = kl_of(q, self.network.prior(), z)
        return {"loss": distortion + self.beta * rate, "distortion": distortion, "rate": rate}  # equation 17

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Move the average."""
        self.average.update(self.network)

    @torch.no_grad()
    def believe(self, x: Images) -> Beliefs:
        require(self.posterior != "point", "posterior: point has no density, and its code no finite rate")
        return Beliefs(self.averaged.prior(), self.average(x))

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return (self.average(x).mean,)

    @torch.no_grad()
    def classify_codes(self, z: Codes) -> Tensor:
        return self.averaged.classify(z)

    @torch.no_grad()
    def classify(self, x: Images) -> LogProbs:
        z = self.average(x).sample((1 if self.posterior == "point" else self.num_draws,))
        return log_mean_exp(self.averaged.classify(z))

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.network.parameters(), self.lr, betas=(self.beta1, 0.999))
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
