"""Jiang, Zheng, Tan, Tang, Zhou. Variational Deep Embedding. IJCAI 2017. arXiv:1611.05148.

Layers may learn one by one before, as in Xie, Girshick, Farhadi. Unsupervised Deep Embedding for Clustering
Analysis. ICML 2016. arXiv:1511.06335. Settings are also those of the released code.

Departs from the paper: images are assigned by p(c|z) at their posterior mean, where training takes a draw;
the bound has its constant (the released code adds D log 2 pi once per dimension). The mixture is a group of
its own in one Adam, which moves each parameter by itself. Likelihoods sum c out: a tighter bound than g's.
"""

import logging
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.distributions import Independent, MixtureSameFamily, Normal, kl_divergence

from zoo.contract import (
    IMAGES_AT_ONCE,
    Batch,
    Clusters,
    Codes,
    Conditions,
    Images,
    Labels,
    LogProbs,
    PerImage,
    Terms,
)
from zoo.errors import at_least, positive, require, share
from zoo.methods.variational.shared.latent_variable import LatentVariable
from zoo.parts.distributions.gaussians import diagonal_gaussian
from zoo.parts.distributions.mixture import DiagonalMixture
from zoo.parts.distributions.pixels import BernoulliPixels
from zoo.parts.networks.dense import MLP, readout
from zoo.parts.optimizers import adam
from zoo.parts.schedules import phase
from zoo.randomness import drawing_from, mix, own_stream

START_LOG_VARIANCE = -4.0
"""Of q(z|x) when the mixture begins to learn."""
LR_FACTOR, LR_EVERY = 0.9, 10
"""The step size falls to so much of itself every so many epochs (released code)."""
SMALL_SHARE = 0.01
"""A cluster with less of the images counts as lost."""


class VaDE(LatentVariable, Clusters, Conditions):
    """Autoencoder whose codes learn a mixture of Gaussians: variational deep embedding.

    In one fit, layers first learn alone as denoising autoencoders if they are to, then all of them as one
    autoencoder; a mixture is fitted to its codes, and all of it ascends the bound. A run that ends with the
    autoencoder is the paper's control, AE+GMM, and its checkpoint is where a longer one goes on.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_components: Number of clusters.
        latent_dim: Dimensions of the code.
        hidden_dims: Widths of the encoder's hidden layers; the decoder mirrors them.
        pretrain_epochs: Epochs of each layer alone; 0 leaves this out.
        pretrain_dropout: Share of a layer's inputs and outputs that are set to zero while it learns alone.
        autoencoder_epochs: Epochs of the whole autoencoder; what is left of the trainer's is for the bound.
        pretrain_lr: Step size of Adam before the bound.
        lr: Step size for the bound at its start; it falls by a tenth every ten epochs.
        lr_final: Step size below which it does not fall.
        mixture_lr: Step size of the mixture at the start of the bound; it falls in proportion.
        adam_eps: Adam's epsilon.

    Raises:
        UsageError: If a size, number of epochs or step size is out of range.
    """

    paper = "Jiang, Zheng, Tan, Tang, Zhou. Variational Deep Embedding. IJCAI 2017."
    monitor = None
    progress = "distortion"
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_components: int = 10,
        latent_dim: int = 10,
        hidden_dims: tuple[int, ...] = (500, 500, 2000),
        pretrain_epochs: int = 0,
        pretrain_dropout: float = 0.2,
        autoencoder_epochs: int = 50,
        pretrain_lr: float = 1e-3,
        lr: float = 2e-3,
        lr_final: float = 2e-4,
        mixture_lr: float = 2e-3,
        adam_eps: float = 1e-4,
    ) -> None:
        super().__init__(image_shape, lr=lr, lr_final=lr_final, lr_schedule="constant", adam_eps=adam_eps)
        self.save_hyperparameters()
        at_least(1, num_components=num_components, latent_dim=latent_dim)
        at_least(1, hidden_dims=hidden_dims, autoencoder_epochs=autoencoder_epochs)
        at_least(0, pretrain_epochs=pretrain_epochs)
        share(pretrain_dropout=pretrain_dropout)
        positive(pretrain_lr=pretrain_lr, mixture_lr=mixture_lr)
        self.num_categories, self.latent_dim = num_components, latent_dim
        self.pretrain_lr, self.mixture_lr = pretrain_lr, mixture_lr
        self.encoder = MLP(math.prod(self.image_shape), hidden_dims, "relu")
        self.mean, self.log_variance = (readout(self.encoder.out_dim, latent_dim) for _ in range(2))
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, START_LOG_VARIANCE)
        self.decoder = MLP(latent_dim, hidden_dims[::-1], "relu")
        self.pixels = BernoulliPixels(self.decoder.out_dim, self.image_shape)
        self.mixture, self.dropout = DiagonalMixture(num_components, latent_dim), nn.Dropout(pretrain_dropout)
        self.num_layers = len(hidden_dims) + 1
        self.lengths = (pretrain_epochs,) * self.num_layers + (autoencoder_epochs,)

    @property
    def phase(self) -> int:
        """The layer that learns alone in this epoch, from the pixels up; then the autoencoder, the bound."""
        return phase(self.current_epoch, self.lengths)

    def learning(self) -> list[nn.Parameter]:
        if self.phase > self.num_layers:
            return list(self.parameters())
        autoencoder = (self.encoder, self.mean, self.decoder, self.pixels)
        parts = autoencoder if self.phase == self.num_layers else self.layer(self.phase)
        return [p for part in parts for p in part.parameters()]

    def layer(self, index: int) -> tuple[nn.Module, nn.Module]:
        """A layer's way up and its way down: affine maps, with a ReLU but for the code and the pixels."""
        i = self.num_layers - 1 - index
        up = nn.Sequential(*list(self.encoder)[2 * index : 2 * index + 2]) if i else self.mean
        return up, nn.Sequential(*list(self.decoder)[2 * i : 2 * i + 2]) if index else self.pixels

    def prior(self) -> MixtureSameFamily:
        return self.mixture()

    def posterior(self, x: Images) -> Independent:
        h = self.encoder(x.flatten(-3))
        return diagonal_gaussian(self.mean(h), self.log_variance(h))

    def likelihood(self, z: Codes) -> Independent:
        return self.pixels(self.decoder(z))

    def loss(self, batch: Batch) -> Terms:
        if self.phase < self.num_layers:
            return {"loss": self.layer_loss(batch.x)}
        if self.phase == self.num_layers:
            z = self.mean(self.encoder(batch.x.flatten(-3)))
            distortion = -self.likelihood(z).log_prob(batch.x)
            return {"loss": distortion, "distortion": distortion}
        q = self.posterior(batch.x)
        z = q.rsample()  # L = 1
        distortion, log_g = -self.likelihood(z).log_prob(batch.x), self.mixture.assign(z)  # equation 16
        rate = self.rate(q, log_g)
        shares = {f"share_{c}": g for c, g in enumerate(log_g.exp().unbind(1))}
        loss = distortion + rate
        return {"loss": loss, "elbo": -loss, "rate": rate, "distortion": distortion, **shares}

    def layer_loss(self, x: Images) -> PerImage:
        """What a layer loses of its inputs, some of which it does not see, through some of its outputs."""
        up, down = self.layer(self.phase)
        with torch.no_grad():
            h = nn.Sequential(*list(self.encoder)[: 2 * self.phase])(x.flatten(-3))
        back = down(self.dropout(up(self.dropout(h))))
        return (back - h).square().sum(1) if self.phase else -back.log_prob(x)

    def rate(self, q: Independent, log_g: LogProbs) -> PerImage:
        """KL(q(z|x) g(c) || p(z, c)) in nats, [B]: equation 12 without its first term.

        Args:
            q: q(z|x), batch [B], event [D].
            log_g: log g, [B, C].
        """
        each = Independent(Normal(q.mean.unsqueeze(1), q.stddev.unsqueeze(1), validate_args=False), 1)
        divergences = kl_divergence(each, self.mixture.components())
        return (log_g.exp() * (divergences + log_g - self.mixture.choice().logits)).sum(1)

    @property
    def needs_data_module(self) -> bool:
        return True

    def start_from(self, data: Any) -> None:
        super().start_from(data)
        n, num = len(data.images("train")), len(self.mixture.logits)
        require(num <= n, f"num_components must be at most the {n} training images, got {num}")

    def on_train_epoch_start(self) -> None:
        """Set the epoch's step sizes; in the first of a phase forget the moments of the last."""
        super().on_train_epoch_start()
        optimizer = self.trainer.optimizers[0]
        if self.current_epoch in (0, *accumulate(self.lengths)):
            optimizer.state.clear()
        for group, lr in zip(optimizer.param_groups, (self.lr, self.mixture_lr), strict=True):
            group["lr"] = lr * self.step_size() / self.lr

    def step_size(self) -> float:
        """Of the networks in this epoch."""
        if self.phase <= self.num_layers:
            return self.pretrain_lr
        epoch = self.current_epoch - sum(self.lengths)
        return max(self.lr_final, self.lr * LR_FACTOR ** (epoch // LR_EVERY))

    def on_train_epoch_end(self) -> None:
        """Fit the mixture to the codes of the autoencoder that has learned, on every process alike."""
        super().on_train_epoch_end()
        if self.current_epoch + 1 == sum(self.lengths):
            data = self.trainer.datamodule  # pyright: ignore
            rows = torch.arange(len(data.images("train"))).split(IMAGES_AT_ONCE)
            with own_stream(self.current_epoch):
                codes = [self.encode(data.split("train", part).x.to(self.device)) for part in rows]
            self.mixture.fit(torch.cat(codes), mix(self.stream_seed or 0) % 2**32)

    def on_train_end(self) -> None:
        """Say which clusters have been lost."""
        shares = {n: mean for n, mean, _ in self._gathered["train"].means() if n.startswith("share_")}
        small = [f"{name} = {mean:.4f}" for name, mean in shares.items() if mean < SMALL_SHARE]
        if small and self.trainer.is_global_zero:
            logging.getLogger(__name__).warning(
                "VaDE: %d of %d clusters hold less than 1 %% of the training images: %s",
                len(small),
                len(shares),
                ", ".join(small),
            )

    @torch.no_grad()
    def cluster(self, x: Images) -> LogProbs:
        return self.mixture.assign(self.posterior(x).mean)

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        components = self.mixture.components()
        with drawing_from(generator):
            noise = torch.randn(len(y), self.latent_dim, device=self.device)
        return self.picture(components.mean[y] + components.stddev[y] * noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a group for the networks and one for the mixture; step sizes are set each epoch."""
        mixture = list(self.mixture.parameters())
        mine = {id(p) for p in mixture}
        networks = [p for p in self.parameters() if id(p) not in mine]
        return adam([{"params": networks}, {"params": mixture}], self.lr, eps=self.adam_eps)
