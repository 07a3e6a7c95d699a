"""Nalisnick, Smyth. Stick-Breaking Variational Autoencoders. ICLR 2017. arXiv:1605.06197, section 6.2.

The arm with few labels: M2 of Kingma, Rezende, Mohamed, Welling. Semi-supervised Learning with Deep
Generative Models. NeurIPS 2014. arXiv:1406.5298, with shares of a stick in the place of its Gaussian latents.

Departs from the paper: the departures of `SBVAE`; labels are summed out for images without one, and the
classifier shares no layer with the encoder.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent
from torch.nn.functional import one_hot

from zoo.contract import (
    Batch,
    Classifies,
    Codes,
    Conditions,
    Descent,
    Encodes,
    Images,
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
    labels_below,
)
from zoo.errors import at_least, not_negative, positive, require
from zoo.parts.distributions.gaussians import GaussianHead, standard_gaussian
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.distributions.sticks import SPREAD, Shares, StickHead, gem_sticks, shares_of
from zoo.parts.estimators import importance_bound
from zoo.parts.networks.dense import MLP, Activation, readout
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from


class SBM2(Descent, Samples, Conditions, Weighs, Classifies, Encodes, Reconstructs):
    """Semi-supervised autoencoder: p(y) p(pi) p(x|pi, y), recognised by q(y|x) q(pi|x, y).

    Images whose label is withheld (`data.labelled`) have it summed out. The bound of every image and the
    classifier's log-likelihood of those with a label are descended together.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_classes: Labels 0, 1, ..., alike under the prior.
        num_shares: K, the length of the code.
        concentration: alpha_0 of the sticks' prior Beta(1, alpha_0).
        posterior: Distribution of the sticks given an image and a label; `gaussian`: K latents under N(0, I),
            which is M2, the control arm.
        supervised_weight: Weight of the classifier's mean over images with a label, against the mean bound.
        hidden_dims: Widths of the hidden layers of encoder and classifier; the decoder mirrors them.
        activation: Non-linearity of the hidden layers.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.

    Raises:
        UsageError: If a number is out of range, or no image has a label.
    """

    paper = "Nalisnick, Smyth. Stick-Breaking Variational Autoencoders. ICLR 2017."
    side = Side.LOWER
    monitor = ("val/elbo", "max")
    progress = "elbo"
    classifies_by = "q(y|x)"
    labelled_share: Tensor
    """Share of the training images that have a label."""

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_classes: int = 10,
        num_shares: int = 50,
        concentration: float = 5.0,
        posterior: Literal["kumaraswamy", "gauss_logit", "gamma", "gaussian"] = "kumaraswamy",
        supervised_weight: float = 0.375,
        hidden_dims: tuple[int, ...] = (500,),
        activation: Activation = "relu",
        lr: float = 3e-4,
        lr_final: float = 3e-4,
        lr_schedule: Schedule = "constant",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(2, num_classes=num_classes, num_shares=num_shares)
        positive(hidden_dims=hidden_dims, concentration=concentration, lr=lr, lr_final=lr_final)
        not_negative(supervised_weight=supervised_weight)
        self.num_classes, self.num_shares, self.concentration = num_classes, num_shares, concentration
        self.supervised_weight, self.gaussian = supervised_weight, posterior == "gaussian"
        self.lr, self.lr_final = lr, lr_final
        self.lr_schedule: Schedule = lr_schedule
        num_pixels = math.prod(self.image_shape)
        self.classifier = MLP(num_pixels, hidden_dims, activation)
        self.class_head = readout(self.classifier.out_dim, num_classes)
        self.encoder = MLP(num_pixels + num_classes, hidden_dims, activation)
        width = self.encoder.out_dim
        start = gem_sticks(num_shares, concentration, torch.device("cpu"))
        self.head = (
            GaussianHead(width, num_shares)
            if posterior == "gaussian"
            else StickHead(width, posterior, start, SPREAD)
        )
        self.decoder = MLP(num_shares + num_classes, hidden_dims[::-1], activation)
        self.pixels = BernoulliPixels(self.decoder.out_dim, self.image_shape)
        self.register_buffer("labelled_share", torch.ones(()))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return self.pixels.accepts

    def start_from(self, data: Any) -> None:
        """Count the labels; start the decoder's output biases at the mean training image."""
        y = data.split("train").y
        known = int((y >= 0).sum())
        require(known > 0, f"SBM2 learns from labels: at least one image must have one, got {known}")
        labels_below(y, self.num_classes)
        self.labelled_share.fill_(known / len(y))
        self.pixels.start_at(data.mean_image())

    def sticks(self) -> Independent:
        """p(v), event [K - 1]; of Gaussian latents p(z), event [K]."""
        if self.gaussian:
            return standard_gaussian(self.num_shares, self.device)
        return gem_sticks(self.num_shares, self.concentration, self.device)

    def code(self, v: Tensor) -> Codes:
        """Shares of sticks; Gaussian latents as they are."""
        return v if self.gaussian else shares_of(v)

    def recognise(self, x: Images, y: Tensor) -> Independent:
        """q(v|x, y) of images [B, ...] and labels [S, B], batch [S, B]."""
        classes = one_hot(torch.arange(self.num_classes, device=x.device), self.num_classes).to(x)
        pixels = x.flatten(1).expand(self.num_classes, -1, -1)
        labels = classes[:, None].expand(-1, len(x), -1)
        h = self.encoder(torch.cat((pixels, labels), -1))
        return self.head(h[y, torch.arange(len(x), device=x.device)])

    def likelihood(self, pi: Codes, y: Tensor) -> Independent:
        """p(x|pi, y) of codes [..., K] and labels [...]."""
        return self.pixels(self.decoder(torch.cat((pi, one_hot(y, self.num_classes).to(pi)), -1)))

    def parts(self, x: Images, y: Tensor) -> Weights:
        """Log p(x|pi, y) and log p(y) p(pi) / q(pi|x, y) of a draw for every label [S, B]."""
        q, p = self.recognise(x, y), self.sticks()
        v = q.rsample()  # the Jacobian of the shares cancels
        log_ratio = p.log_prob(v) - q.log_prob(v) - math.log(self.num_classes)
        return Weights(self.likelihood(self.code(v), y).log_prob(x), log_ratio)

    def classify(self, x: Images) -> LogProbs:
        return self.class_head(self.classifier(x.flatten(1))).float().log_softmax(1)

    def loss(self, batch: Batch) -> Terms:
        x, known = batch.x, batch.y >= 0
        every = torch.arange(self.num_classes, device=x.device)[:, None].expand(-1, len(x))
        bounds, log_q = self.parts(x, every).log_w.T, self.classify(x)  # Kingma et al. 2014, equation 6
        elbo = (log_q.exp() * (bounds - log_q)).sum(1)  # equation 7
        label = batch.y.clamp(min=0)[:, None]
        bound = bounds.gather(1, label)[:, 0].where(known, elbo)
        surprise = -log_q.gather(1, label)[:, 0].where(known, 0)
        weight = self.supervised_weight / self.labelled_share
        return {
            "loss": -bound + weight * surprise,  # equation 9
            "elbo": elbo,
            "bound": bound,
            "surprise": surprise.sum() / known.sum().clamp(min=1),
        }

    def weigh(self, x: Images, num_samples: int) -> Weights:
        log_q = self.classify(x)
        y = Categorical(logits=log_q, validate_args=False).sample(torch.Size((num_samples,)))
        log_likelihood, log_ratio = self.parts(x, y)
        return Weights(log_likelihood, log_ratio - log_q.T.gather(0, y))

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        return importance_bound(self.weigh, x, num_samples, self.draw_size).log_prob

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            v = self.sticks().sample(torch.Size((len(y),)))
        return self.likelihood(self.code(v), y).mean

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            y = torch.randint(self.num_classes, (n,), device=self.device)
            return self.sample_given(y)

    def _mean_code(self, x: Images, y: Tensor) -> Tensor:
        q = self.recognise(x, y)
        return q.mean if self.gaussian else Shares(q).mean

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        every = torch.arange(self.num_classes, device=x.device)[:, None].expand(-1, len(x))
        return (self.classify(x).exp().T[..., None] * self._mean_code(x, every)).sum(0)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        y = self.classify(x).argmax(1)
        return self.likelihood(self._mean_code(x, y[None])[0], y).mean

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.parameters(), self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
