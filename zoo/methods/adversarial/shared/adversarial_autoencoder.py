"""What adversarial autoencoders share: an encoder, a decoder, and discriminators of codes.

Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016. arXiv:1511.05644.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from zoo.contract import (
    Batch,
    Codes,
    Decodes,
    Encodes,
    Game,
    Images,
    Labels,
    PerImage,
    Reconstructs,
    Samples,
    Terms,
)
from zoo.errors import at_least, positive, require, share
from zoo.methods.adversarial.shared.maxout import SigmoidMLP
from zoo.methods.adversarial.shared.priors import CodePrior, known_or_drawn
from zoo.parts.distributions.gaussians import GaussianHead
from zoo.parts.distributions.pixels import MEAN_RANGE
from zoo.parts.networks.average import evaluated
from zoo.parts.networks.dense import MLP, readout
from zoo.parts.optimizers import adam, sgd
from zoo.parts.schedules import phase
from zoo.randomness import drawing_from

EncoderKind = Literal["deterministic", "gaussian", "universal"]
FALL = 0.1
"""Factor of all step sizes from one stage to the next."""


class Course(NamedTuple):
    """How the players descend; the settings of the same names."""

    optimizer: Literal["sgd", "adam"]
    reconstruction_lr: float
    adversarial_lr: float
    stage_epochs: tuple[int, ...]
    momentum: float
    adam_betas: tuple[float, float]

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            UsageError: If a step size, rate or number of epochs is.
        """
        positive(reconstruction_lr=self.reconstruction_lr, adversarial_lr=self.adversarial_lr)
        at_least(0, stage_epochs=self.stage_epochs)
        share(momentum=self.momentum, adam_betas=self.adam_betas)

    def start(self, network: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimizer of one player."""
        if self.optimizer == "adam":
            return adam(network.parameters(), lr, self.adam_betas)
        return sgd(network.parameters(), lr, self.momentum)


class CodeEncoder(nn.Module):
    """Images [B, C, H, W] to codes [B, D].

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Width of each ReLU layer.
        dim: Numbers D in a code.
        kind: A function of the image, a Gaussian given the image, or a function of image and noise.
        noise_dim: Numbers of noise beside the pixels of the last.
        drop_pixels: Share of pixels that is dropped in training mode.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int],
        dim: int,
        kind: EncoderKind = "deterministic",
        noise_dim: int = 0,
        drop_pixels: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.noise_dim = kind, noise_dim if kind == "universal" else 0
        self.drop = nn.Dropout(drop_pixels)
        self.hidden = MLP(math.prod(image_shape) + self.noise_dim, hidden_dims, "relu")
        width = self.hidden.out_dim
        self.head = GaussianHead(width, dim) if kind == "gaussian" else readout(width, dim)

    def forward(self, x: Images, noisy: bool = True) -> Tensor:
        """Codes: drawn ones, or, without noise, the mean of the Gaussian, the code of noise 0."""
        pixels = self.drop(x.flatten(1))
        noise = torch.randn if noisy else torch.zeros
        h = self.hidden(torch.cat((pixels, noise(len(x), self.noise_dim, device=x.device)), 1))
        if not isinstance(self.head, GaussianHead):
            return self.head(h).float()
        q = self.head(h)
        return q.rsample() if noisy else q.mean


class AdversarialAutoencoder(Game, Samples, Encodes, Decodes, Reconstructs):
    """An autoencoder whose codes a discriminator cannot tell from draws of a prior.

    A code is, where there are categories, their probabilities, and then what is drawn from the prior.

    Args:
        image_shape: (C, H, W) of one image.
        prior: Of the code beside the categories.
        num_categories: Number K of categories; 0 for none.
        num_hints: What the discriminator is told beside the code.
        hidden_dims: Widths of the ReLU layers of the encoder and the discriminators; the decoder mirrors
            them.
        encoder: What makes the encoder, of `num_categories + prior.dim` outputs.
        course: How the players descend.

    Raises:
        UsageError: If a size or rate is out of range.
    """

    progress = "autoencoder_loss"

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        prior: CodePrior,
        num_categories: int = 0,
        num_hints: int = 0,
        hidden_dims: tuple[int, ...],
        encoder: Callable[[], CodeEncoder],
        course: Course,
    ) -> None:
        super().__init__(image_shape)
        at_least(1, hidden_dims=hidden_dims, latent_dim=prior.dim)
        course.check()
        self.code_prior, self.num_parts, self.course = prior, num_categories, course
        self.encoder = encoder()
        self.decoder = SigmoidMLP(num_categories + prior.dim, hidden_dims[::-1], self.image_shape)
        self.discriminator = nn.ModuleDict({"code": _judge(prior.dim + num_hints, hidden_dims)})
        if num_categories:
            self.discriminator["category"] = _judge(num_categories, hidden_dims)

    def start_from(self, data: Any) -> None:
        """Start the decoder's untouched output biases at the mean training image."""
        self.decoder.start_at(data.mean_image().clamp(*MEAN_RANGE).logit())

    def players(self) -> dict[str, nn.Module]:
        return {
            "autoencoder": nn.ModuleList([self.encoder, self.decoder]),
            "discriminator": self.discriminator,
            "encoder": self.encoder,
        }

    def rate_of(self, player: str) -> float:
        """Step size of a player at the start."""
        return self.course.reconstruction_lr if player == "autoencoder" else self.course.adversarial_lr

    def code(self, x: Images, noisy: bool = True) -> Codes:
        """Codes [B, K + D] of images."""
        out = self.encoder(x, noisy)
        return torch.cat((out[:, : self.num_parts].softmax(1), out[:, self.num_parts :]), 1)

    def draw(self, y: Labels) -> Codes:
        """Codes [B, K + D] of the prior, of a category each, or of a mode; of any where y is -1."""
        if not self.num_parts:
            return self.code_prior.draw(y)
        category = known_or_drawn(y, self.num_parts)
        z = self.code_prior.draw(torch.full_like(y, -1))
        return torch.cat((one_hot(category, self.num_parts).to(z), z), 1)

    def hints(self, y: Labels) -> Tensor:
        """What the discriminator is told beside the codes of images of these labels, [B, num_hints]."""
        return torch.empty(len(y), 0, device=y.device)

    def logits(self, z: Codes, y: Labels) -> list[PerImage]:
        """Every discriminator's logit that a code is the prior's, given the label of its image."""
        parts = {"category": z[:, : self.num_parts]}
        parts["code"] = torch.cat((z[:, self.num_parts :], self.hints(y)), 1)
        return [judge(parts[name]).squeeze(-1).float() for name, judge in self.discriminator.items()]

    def reconstruction_loss(self, x: Images) -> Terms:
        """What encoder and decoder descend together: squared error of an image."""
        return {"loss": (self.decoder(self.code(x)) - x).square().flatten(1).sum(1)}

    def discriminator_loss(self, z: Codes, y: Labels) -> Terms:
        """What the discriminators descend, given codes of images with labels y."""
        real, fake = self.logits(self.draw(self.modes(y)), y), self.logits(z, y)
        return {"loss": sum(softplus(-r) + softplus(f) for r, f in zip(real, fake, strict=True))}  # pyright: ignore

    def encoder_loss(self, x: Images, y: Labels) -> Terms:
        """What the encoder descends against the discriminators."""
        return {"loss": sum(softplus(-logit) for logit in self.logits(self.code(x), y))}  # pyright: ignore

    def modes(self, y: Labels) -> Labels:
        """Which draws of the prior codes of images of these labels are held against; -1 for any."""
        return torch.full_like(y, -1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.descend("autoencoder", self.reconstruction_loss, batch.x)
        with torch.no_grad():
            z = self.code(batch.x)
        self.descend("discriminator", self.discriminator_loss, z, batch.y)
        self.descend("encoder", self.encoder_loss, batch.x, batch.y)

    def on_train_epoch_start(self) -> None:
        """Set the step sizes of the stage."""
        super().on_train_epoch_start()
        factor = FALL ** phase(self.current_epoch, self.course.stage_epochs)
        for player, optimizer in zip(self.players(), self.trainer.optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = factor * self.rate_of(player)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per player: the encoder's steps in different phases have moments of their own."""
        return [self.course.start(net, self.rate_of(name)) for name, net in self.players().items()]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.decoder(self.draw(torch.full((n,), -1, device=self.device)))

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        with evaluated(self.encoder):
            return self.code(x, noisy=False)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.decoder(z)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decoder(self.encode(x))

    def log_categories(self, x: Images) -> Tensor:
        """Logarithms of the probabilities of the categories, [B, K]."""
        with evaluated(self.encoder), torch.no_grad():
            return self.encoder(x, noisy=False)[:, : self.num_parts].log_softmax(1)

    def drawn_of(self, y: Labels, generator: torch.Generator | None) -> Images:
        """An image of each category asked for, [B, C, H, W].

        Raises:
            UsageError: If there is no such category.
        """
        inside = len(y) == 0 or (int(y.min()) >= 0 and int(y.max()) < self.num_parts)
        require(inside, f"y must lie between 0 and {self.num_parts - 1}, got {y.tolist() if len(y) else []}")
        with drawing_from(generator), torch.no_grad():
            return self.decoder(self.draw(y))


def _judge(in_dim: int, hidden_dims: Sequence[int]) -> nn.Sequential:
    hidden = MLP(in_dim, hidden_dims, "relu")
    return nn.Sequential(hidden, readout(hidden.out_dim, 1))
