"""Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel. InfoGAN. NIPS 2016. arXiv:1606.03657.

In full: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets.

Departs from the paper: samples come from a running average of the generator's weights (`ema_decay: 0` samples
from the generator itself); leaky units of slope 0.2; each player's step draws noise and codes of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot, softplus

from zoo.contract import (
    Batch,
    Game,
    Images,
    Labels,
    LogProbs,
    Recovers,
    Samples,
    Steers,
    Terms,
)
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import LEAK, ConvDecoder, ConvEncoder, halvings, start_dcgan
from zoo.parts.optimizers import adam
from zoo.randomness import drawing_from

LOG_SIGMA_RANGE = (-5.0, 1.0)
ENTROPY = math.log(2)
"""Of a code that is uniform over [-1, 1], in nats."""


class FoundCodes(NamedTuple):
    """Q(c|x): what is thought of the codes of images."""

    log_category: Tensor
    """Log-probabilities of the categories, [B, K]."""
    mean: Tensor
    """Of each continuous code, [B, J]."""
    log_sigma: Tensor
    """Logarithm of its standard deviation, [B, J]."""

    def of_category(self, y: Labels) -> Tensor:
        """The value of log Q(y|x) + H(y), at most H = log K: [B], in nats."""
        log_q = self.log_category.gather(1, y[:, None])[:, 0]
        return log_q + math.log(self.log_category.shape[1])

    def of_codes(self, c: Tensor) -> Tensor:
        """The value of log Q(c_j|x) + H(c_j) of codes [B, J]: [B, J], in nats."""
        z = (c - self.mean) * (-self.log_sigma).exp()
        log_q = -0.5 * (z.square() + math.log(2 * math.pi)) - self.log_sigma
        return log_q + ENTROPY


class Recogniser(nn.Module):
    """D and Q on one trunk: the logit that images are real, [B], and what their codes are.

    Args:
        trunk: Images to features.
        trunk_dim: Width of these.
        hidden_dim: Width of Q's own layer.
        num_categories: Categories.
        num_codes: Continuous codes.
        learn_sigma: Whether Q says how sure it is of these; else sigma is 1.
    """

    def __init__(
        self,
        trunk: nn.Module,
        trunk_dim: int,
        hidden_dim: int,
        num_categories: int,
        num_codes: int,
        learn_sigma: bool,
    ) -> None:
        super().__init__()
        self.trunk, self.real = trunk, nn.Linear(trunk_dim, 1)
        self.hidden, self.norm = nn.Linear(trunk_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim)
        self.widths = (num_categories, num_codes, num_codes if learn_sigma else 0)
        self.codes = nn.Linear(hidden_dim, sum(self.widths))

    def forward(self, x: Images) -> tuple[Tensor, FoundCodes]:
        """Logit and codes, in float32."""
        features = self.trunk(x)
        q = self.codes(leaky_relu(self.norm(self.hidden(features)), LEAK)).float()
        logits, mean, log_sigma = q.split(self.widths, 1)
        sure = log_sigma.clamp(*LOG_SIGMA_RANGE) if self.widths[-1] else torch.zeros_like(mean)
        return self.real(features).squeeze(-1).float(), FoundCodes(logits.log_softmax(1), mean, sure)


class InfoGAN(Game, Samples, Recovers, Steers):
    """A GAN some of whose noise, a category and continuous codes, can be told from its images.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        noise_dim: Numbers of noise that need not be told, uniform over [-1, 1].
        num_categories: Categories, equally likely.
        num_codes: Continuous codes, uniform over [-1, 1].
        channels: Maps next to the image.
        fc_dim: Width of the layer between the maps and noise or logit.
        head_dim: Width of Q's own layer.
        category_weight: Weight of the information on the category.
        code_weight: Weight of the information on the continuous codes.
        inform_generator: Whether G descends the information too; else it plays a plain GAN, and Q alone
            tries to read its codes, as in the paper's figure 1.
        learn_sigma: Whether Q learns the spread of these, or holds it at 1, as the released code does: the
            bound on their information is then below 0.
        generator_lr: Step size of G's Adam.
        discriminator_lr: Step size of that of D and Q.
        adam_betas: Their decay rates.
        ema_decay: Weight of the averaged generator against the current one, per batch.

    Raises:
        UsageError: If a size, rate or weight is out of range.
    """

    paper = (
        "Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel. InfoGAN: Interpretable Representation Learning "
        "by Information Maximizing Generative Adversarial Nets. NIPS 2016."
    )
    progress = "generator_category_information"

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        noise_dim: int = 62,
        num_categories: int = 10,
        num_codes: int = 2,
        channels: int = 64,
        fc_dim: int = 1024,
        head_dim: int = 128,
        category_weight: float = 1.0,
        code_weight: float = 0.1,
        inform_generator: bool = True,
        learn_sigma: bool = True,
        generator_lr: float = 1e-3,
        discriminator_lr: float = 2e-4,
        adam_betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, noise_dim=noise_dim, num_codes=num_codes, channels=channels, fc_dim=fc_dim)
        at_least(1, head_dim=head_dim)
        at_least(2, num_categories=num_categories)
        not_negative(category_weight=category_weight, code_weight=code_weight)
        positive(generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        share(adam_betas=adam_betas, ema_decay=ema_decay)
        shape_ok = halvings(self.image_shape)[0] >= 1
        require(shape_ok, f"InfoGAN needs images of even sides of at least 6, got {self.image_shape}")
        self.noise_dim, self.num_categories, self.num_codes = noise_dim, num_categories, num_codes
        self.category_weight, self.code_weight = category_weight, code_weight
        self.inform_generator = inform_generator
        self.rates = {"discriminator": discriminator_lr, "generator": generator_lr}
        self.adam_betas = adam_betas
        width = noise_dim + num_categories + num_codes
        self.generator = ConvDecoder(width, self.image_shape, channels, fc_dim)
        trunk = ConvEncoder(self.image_shape, channels, fc_dim)
        self.recogniser = Recogniser(trunk, trunk.out_dim, head_dim, num_categories, num_codes, learn_sigma)
        for network in (self.generator, self.recogniser):
            start_dcgan(network)
        self.average = Average(self.generator, ema_decay)

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(name for name in self.state_dict() if name.startswith("generator."))

    def players(self) -> dict[str, nn.Module]:
        return {"discriminator": self.recogniser, "generator": self.generator}

    def draw_noise(self, n: int) -> Tensor:
        """Noise [n, D] that need not be told."""
        return 2 * torch.rand(n, self.noise_dim, device=self.device) - 1

    def draw_codes(self, n: int) -> tuple[Labels, Tensor]:
        """Categories [n] and continuous codes [n, J]."""
        y = torch.randint(self.num_categories, (n,), device=self.device)
        return y, 2 * torch.rand(n, self.num_codes, device=self.device) - 1

    def joined(self, z: Tensor, y: Labels, c: Tensor) -> Tensor:
        """Noise, categories and codes as the generator takes them, [B, D + K + J]."""
        return torch.cat((z, one_hot(y, self.num_categories).float(), c), 1)

    def information(self, found: FoundCodes, y: Labels, c: Tensor) -> tuple[Terms, Tensor]:
        """Lower bounds on what images tell of codes, [B] in nats, and their weighted sum: equation 5."""
        category, codes = found.of_category(y), found.of_codes(c).sum(1)
        weighted = self.category_weight * category + self.code_weight * codes
        return {"category_information": category.detach(), "code_information": codes.detach()}, weighted

    def discriminator_loss(self, x: Images, fake: Images, y: Labels, c: Tensor) -> Terms:
        """What D and Q descend, given real and generated images and the codes of these."""
        real, (made, found) = self.recogniser(x)[0], self.recogniser(fake)
        bounds, weighted = self.information(found, y, c)
        return {"loss": softplus(-real) + softplus(made) - weighted, **bounds}  # equation 6

    def generator_loss(self, z: Tensor, y: Labels, c: Tensor) -> Terms:
        """What G descends, given noise and codes."""
        made, found = self.recogniser(self.generator(self.joined(z, y, c)))
        bounds, weighted = self.information(found, y, c)
        return {"loss": softplus(-made) - (weighted if self.inform_generator else 0), **bounds}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        n = len(batch.x)
        y, c = self.draw_codes(n)
        with torch.no_grad():
            fake = self.generator(self.joined(self.draw_noise(n), y, c))
        self.descend("discriminator", self.discriminator_loss, batch.x, fake, y, c)
        z, (y, c) = self.draw_noise(n), self.draw_codes(n)
        self.descend("generator", self.generator_loss, z, y, c)
        self.average.update(self.generator)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per player."""
        return [adam(net.parameters(), self.rates[n], self.adam_betas) for n, net in self.players().items()]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            z, (y, c) = self.draw_noise(n), self.draw_codes(n)
        return self.average(self.joined(z, y, c))

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            z, (_, c) = self.draw_noise(len(y)), self.draw_codes(len(y))
        return self.average(self.joined(z, y, c))

    @torch.no_grad()
    def cluster(self, x: Images) -> LogProbs:
        return self.recogniser(x)[1].log_category

    @torch.no_grad()
    def recovered(self, n: int) -> tuple[Tensor, Tensor]:
        z, (y, c) = self.draw_noise(n), self.draw_codes(n)
        found = self.recogniser(self.average(self.joined(z, y, c)))[1]
        return found.of_category(y), found.of_codes(c)

    @torch.no_grad()
    def steer(
        self, y: Labels, code: int, values: Tensor, *, generator: torch.Generator | None = None
    ) -> Images:
        with drawing_from(generator):
            z, (_, c) = self.draw_noise(len(y)), self.draw_codes(len(y))
        n = len(values)
        c = c.repeat(n, 1)
        c[:, code] = values.repeat_interleave(len(y))
        return self.average(self.joined(z.repeat(n, 1), y.repeat(n), c)).unflatten(0, (n, len(y)))
