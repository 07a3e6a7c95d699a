"""Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio. Generative Adversarial Nets.

NIPS 2014. arXiv:1406.2661. Backbone `dcgan`: Radford, Metz, Chintala. Unsupervised Representation Learning
with Deep Convolutional Generative Adversarial Networks. ICLR 2016. arXiv:1511.06434. Options: Gulrajani et
al. 2017 (arXiv:1704.00028), Miyato et al. 2018 (arXiv:1802.05957), Mescheder et al. 2018 (arXiv:1801.04406).

Departs from the paper: samples come from a running average of the generator's weights, whose batch-norm
statistics are the generator's latest (`ema_decay: 0` samples from the generator itself); all steps of the
discriminator in one round see the same real images, each with noise of its own; the initialisation, noise,
dropout and schedules of the default network are those of the released code, which halves the discriminator's
loss and moves both players at once where this follows Algorithm 1.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import relu, softplus

from zoo.contract import Batch, Codes, Decodes, Game, Images, PerImage, Samples, Terms
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.methods.adversarial.shared.maxout import MaxoutMLP, SigmoidMLP, start_uniform
from zoo.parts.distributions.pixels import MEAN_RANGE
from zoo.parts.estimators import gradient_norms
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import (
    ConvDecoder,
    ConvEncoder,
    Norm,
    halvings,
    normalise_spectrally,
    start_dcgan,
)
from zoo.parts.optimizers import adam, sgd
from zoo.parts.schedules import warm_up
from zoo.randomness import drawing_from

GENERATOR_START, DISCRIMINATOR_START = 0.05, 0.005
"""Half-width of the uniform initial weights of the 2014 networks."""
DROP_PIXELS, DROP_UNITS = 0.2, 0.5
UNIT_VARIANCE = math.sqrt(3)


class GAN(Game, Samples, Decodes):
    """Generative adversarial nets: G makes images of noise, D tells them from real ones, both learn by it.

    What is saved holds D, G and its average, which samples: a loaded model can be trained on.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Number of noise units, each uniform over [-sqrt 3, sqrt 3].
        backbone: `mlp2014`: ReLU generator and maxout discriminator with dropout, as in the paper; `dcgan`:
            convolutions, for images whose sides can be halved (28 -> 7, 32 -> 4).
        hidden_dims: Widths of the hidden layers of the `mlp2014` generator.
        maxout_dims: Units in each layer of the `mlp2014` discriminator.
        pieces: Linear functions per maxout unit.
        channels: Maps of the `dcgan` layers next to the image, doubled inwards: 64 gives 128 x 7 x 7 inside
            28 x 28, 128 gives 512 x 4 x 4 inside 32 x 32.
        fc_dim: Width of a fully connected layer between noise or logit and the maps of `dcgan`; 0: none.
        norm: Normalisation of D; the `dcgan` generator always has batch norm.
        objective: `non_saturating` or `minimax` (the paper's two), `hinge`, or `wasserstein`.
        penalty: `gradient` pulls the norm of D's gradient between real and generated images to 1 (WGAN-GP),
            `r1` that at real images to 0.
        penalty_weight: Weight of the penalty; for `r1` that is gamma / 2.
        critic_steps: Steps of D per step of G; the paper's k.
        optimizer: SGD with momentum, or Adam.
        generator_lr: Step size of G at the start.
        discriminator_lr: Step size of D at the start.
        lr_decay: What both step sizes are divided by after every batch.
        lr_final: Step size below which the decay does not go.
        momentum: Of SGD, at the start.
        momentum_final: Of SGD, in the end.
        momentum_epochs: Epochs until it is there, rising linearly.
        adam_betas: Adam's decay rates.
        ema_decay: Weight of the averaged generator against the current one, per batch.

    Raises:
        UsageError: If a size, rate or weight is out of range, or two options contradict each other.
    """

    paper = "Goodfellow, Pouget-Abadie, Mirza, Xu et al. Generative Adversarial Nets. NIPS 2014."
    progress = "discriminator_loss"

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 100,
        backbone: Literal["mlp2014", "dcgan"] = "mlp2014",
        hidden_dims: tuple[int, ...] = (1200, 1200),
        maxout_dims: tuple[int, ...] = (240, 240),
        pieces: int = 5,
        channels: int = 64,
        fc_dim: int = 0,
        norm: Norm = "none",
        objective: Literal["non_saturating", "minimax", "hinge", "wasserstein"] = "non_saturating",
        penalty: Literal["none", "gradient", "r1"] = "none",
        penalty_weight: float = 10.0,
        critic_steps: int = 1,
        optimizer: Literal["sgd", "adam"] = "sgd",
        generator_lr: float = 0.1,
        discriminator_lr: float = 0.1,
        lr_decay: float = 1.000004,
        lr_final: float = 1e-6,
        momentum: float = 0.5,
        momentum_final: float = 0.7,
        momentum_epochs: float = 250.0,
        adam_betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, latent_dim=latent_dim, hidden_dims=hidden_dims, maxout_dims=maxout_dims, pieces=pieces)
        at_least(1, channels=channels, critic_steps=critic_steps, lr_decay=lr_decay)
        positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr, lr_final=lr_final)
        not_negative(fc_dim=fc_dim, penalty_weight=penalty_weight, momentum_epochs=momentum_epochs)
        share(momentum=momentum, momentum_final=momentum_final, adam_betas=adam_betas, ema_decay=ema_decay)
        batch = norm == "batch"
        require(not batch or penalty == "none", f"penalty: {penalty} needs norm: none or spectral, got batch")
        require(not batch or backbone == "dcgan", f"norm: batch needs backbone: dcgan, got {backbone}")
        self.latent_dim, self.critic_steps = latent_dim, critic_steps
        self.objective, self.penalty, self.penalty_weight = objective, penalty, penalty_weight
        self.optimizer, self.adam_betas = optimizer, adam_betas
        self.rates = {"discriminator": discriminator_lr, "generator": generator_lr}
        self.lr_decay, self.lr_final = lr_decay, lr_final
        self.momentum, self.momentum_final, self.momentum_epochs = momentum, momentum_final, momentum_epochs
        if backbone == "mlp2014":
            self.generator = SigmoidMLP(latent_dim, hidden_dims, self.image_shape)
            trunk = MaxoutMLP(self.image_shape, maxout_dims, pieces, DROP_PIXELS, DROP_UNITS)
            starts = [partial(start_uniform, limit=limit) for limit in (DISCRIMINATOR_START, GENERATOR_START)]
        else:
            shape_ok = halvings(self.image_shape)[0] >= 1
            require(shape_ok, f"backbone: dcgan needs even sides of at least 6, got {self.image_shape}")
            self.generator = ConvDecoder(latent_dim, self.image_shape, channels, fc_dim)
            trunk = ConvEncoder(self.image_shape, channels, fc_dim, batch_norm=batch)
            starts = [start_dcgan, start_dcgan]
        self.discriminator = nn.Sequential(trunk, nn.Linear(trunk.out_dim, 1))
        starts[0](self.discriminator)
        starts[1](self.generator)
        if norm == "spectral":
            normalise_spectrally(self.discriminator)
        self.average = Average(self.generator, ema_decay)

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(name for name in self.state_dict() if not name.startswith("average."))

    def start_from(self, data: Any) -> None:
        """Start the output biases of an untouched `mlp2014` generator at the mean training image."""
        for network in (self.generator, self.average.network):
            if isinstance(network, SigmoidMLP):
                network.start_at(data.mean_image().clamp(*MEAN_RANGE).logit())

    def players(self) -> dict[str, nn.Module]:
        return {"discriminator": self.discriminator, "generator": self.generator}

    def draw_noise(self, n: int) -> Codes:
        """Noise z [n, D], uniform with variance 1."""
        return UNIT_VARIANCE * (2 * torch.rand(n, self.latent_dim, device=self.device) - 1)

    def logit(self, x: Images) -> PerImage:
        """The discriminator's logit d(x) that images are real: D(x) is its sigmoid."""
        return self.discriminator(x).squeeze(-1).float()

    def discriminator_loss(self, x: Images, fake: Images) -> Terms:
        """What the discriminator descends, given real and generated images."""
        real, made = self.logit(x), self.logit(fake)
        if self.objective == "hinge":
            loss = relu(1 - real) + relu(1 + made)  # Miyato et al., equation 16
        elif self.objective == "wasserstein":
            loss = made - real  # Gulrajani et al., equation 3
        else:
            loss = softplus(-real) + softplus(made)  # equation 1, times -1
        if self.penalty == "none":
            return {"loss": loss}
        penalty = self.gradient_penalty(x, fake)
        return {"loss": loss + self.penalty_weight * penalty, "distance": loss, "penalty": penalty}

    def gradient_penalty(self, x: Images, fake: Images) -> PerImage:
        """How far the gradient of the logit is from what the penalty wants."""
        if self.penalty == "r1":
            return gradient_norms(self.logit, x).square()  # Mescheder et al., equation 9
        epsilon = torch.rand(len(x), 1, 1, 1, device=x.device)
        between = epsilon * x + (1 - epsilon) * fake
        return (gradient_norms(self.logit, between) - 1).square()  # Gulrajani et al., equation 3

    def generator_loss(self, z: Codes) -> Terms:
        """What the generator descends, given noise."""
        made = self.logit(self.generator(z))
        if self.objective == "non_saturating":
            return {"loss": softplus(-made)}  # section 3: maximise log D(G(z))
        if self.objective == "minimax":
            return {"loss": -softplus(made)}  # equation 1: minimise log(1 - D(G(z)))
        return {"loss": -made}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        n = len(batch.x)
        for _ in range(self.critic_steps):  # Algorithm 1
            with torch.no_grad():
                fake = self.generator(self.draw_noise(n))
            self.descend("discriminator", self.discriminator_loss, batch.x, fake)
        self.descend("generator", self.generator_loss, self.draw_noise(n))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set step sizes and momentum."""
        decay = self.lr_decay**-self.trainer.fit_loop.total_batch_idx
        rise = warm_up(self.epochs_done, self.momentum_epochs)
        for player, optimizer in zip(self.players(), self.trainer.optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = max(self.lr_final, self.rates[player] * decay)
                if self.optimizer == "sgd":
                    group["momentum"] = self.momentum + rise * (self.momentum_final - self.momentum)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Move the average."""
        self.average.update(self.generator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per player."""
        return [
            adam(net.parameters(), self.rates[name], self.adam_betas)
            if self.optimizer == "adam"
            else sgd(net.parameters(), self.rates[name], self.momentum)
            for name, net in self.players().items()
        ]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.average(self.draw_noise(n))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.average(z)
