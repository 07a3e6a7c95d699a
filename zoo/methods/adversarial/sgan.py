"""Huang, Li, Poursaeed, Hopcroft, Belongie. Stacked Generative Adversarial Networks. CVPR 2017.

arXiv:1612.04357.

Departs from the paper: the encoder learns in the first epochs of the same run and is saved with it, and its
convolutions keep the sides; images are made and judged by the networks of the DCGAN, whose convolutions are
4/2/1; samples come from a running average of the generators' weights (`ema_decay: 0` samples from the
generators themselves); their images are those of MNIST's networks, whose discriminators know no labels.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from zoo.contract import (
    Batch,
    Classifies,
    Game,
    Images,
    Labels,
    LogProbs,
    Samples,
    Terms,
    Varies,
    need_labels,
)
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.methods.adversarial.shared.stacked import (
    FEATURES,
    IMAGE,
    FeatureEncoder,
    FeatureGenerator,
    GeneratorStack,
    ImageGenerator,
    Judge,
    LeakyMLP,
)
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import ConvEncoder, halvings, start_dcgan
from zoo.parts.optimizers import adam
from zoo.parts.schedules import phase
from zoo.randomness import drawing_from

LEVELS = (IMAGE, FEATURES)
PHASES = ("encoder", "independent", "joint")


class SGAN(Game, Samples, Varies, Classifies):
    """Generators of two levels, label to features and features to image, that invert a classifier's halves.

    Epochs of three phases: the encoder learns to classify and is frozen; each level learns from the encoder's
    features of real images; both learn on top of each other, from labels alone.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_classes: Number of labels.
        noise_dim: Numbers of noise of each level, uniform over [0, 1].
        feature_dim: Width F of the features h_1.
        hidden_dim: Width of the two hidden layers of G_1, and half of it those of D_1.
        channels: Maps of G_0 and D_0 next to the image.
        adversarial_weight: lambda_1, of the adversarial loss.
        conditional_weight: lambda_2, of how well the encoder gets back what an image or feature was made for.
        entropy_weight: lambda_3, of how well Q gets back the noise; 0 leaves Q untrained.
        cross_level_weight: Share of G_0's loss that G_1 descends in the joint phase beside its own.
        encoder_epochs: Epochs of the encoder.
        independent_epochs: Epochs of the levels apart; what is left of the training is joint.
        encoder_lr: Step size of the encoder's Adam.
        lr: Step size of the others'.
        adam_betas: Their decay rates.
        ema_decay: Weight of the averaged generators against the current ones, per batch.

    Raises:
        UsageError: If a size, rate or weight is out of range.
    """

    paper = "Huang, Li, Poursaeed, Hopcroft, Belongie. Stacked Generative Adversarial Networks. CVPR 2017."
    progress = "generator_0_loss"
    classifies_by = "p(y|x) of the encoder"
    num_levels = len(LEVELS)

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_classes: int = 10,
        noise_dim: int = 50,
        feature_dim: int = 256,
        hidden_dim: int = 512,
        channels: int = 32,
        adversarial_weight: float = 1.0,
        conditional_weight: float = 1.0,
        entropy_weight: float = 10.0,
        cross_level_weight: float = 0.0,
        encoder_epochs: int = 2,
        independent_epochs: int = 100,
        encoder_lr: float = 1e-3,
        lr: float = 1e-4,
        adam_betas: tuple[float, float] = (0.5, 0.999),
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, noise_dim=noise_dim, feature_dim=feature_dim, channels=channels)
        at_least(2, num_classes=num_classes, hidden_dim=hidden_dim)
        at_least(0, encoder_epochs=encoder_epochs, independent_epochs=independent_epochs)
        positive(encoder_lr=encoder_lr, lr=lr)
        not_negative(adversarial_weight=adversarial_weight, conditional_weight=conditional_weight)
        not_negative(entropy_weight=entropy_weight, cross_level_weight=cross_level_weight)
        share(adam_betas=adam_betas, ema_decay=ema_decay)
        shape_ok = halvings(self.image_shape)[0] >= 1
        require(shape_ok, f"SGAN needs images of even sides of at least 6, got {self.image_shape}")
        self.num_classes, self.noise_dim = num_classes, noise_dim
        self.weights = (adversarial_weight, conditional_weight, entropy_weight)
        self.cross_level_weight, self.lengths = cross_level_weight, (encoder_epochs, independent_epochs)
        self.encoder_lr, self.lr, self.adam_betas = encoder_lr, lr, adam_betas
        self.encoder = FeatureEncoder(self.image_shape, feature_dim, num_classes)
        self.stack = GeneratorStack(
            ImageGenerator(noise_dim, feature_dim, self.image_shape, channels),
            FeatureGenerator(noise_dim, num_classes, hidden_dim, feature_dim),
        )
        of_images = ConvEncoder(self.image_shape, channels, feature_dim, batch_norm=False)
        of_features = LeakyMLP(feature_dim, (hidden_dim // 2,) * 2)
        self.judges = nn.ModuleList(Judge(t, t.out_dim, noise_dim) for t in (of_images, of_features))
        for network in (self.stack, self.judges):
            start_dcgan(network)
        self.average = Average(self.stack, ema_decay)

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(n for n in self.state_dict() if not n.startswith(("average.", "encoder.")))

    @property
    def phase(self) -> Literal["encoder", "independent", "joint"]:
        """What learns in this epoch."""
        return PHASES[phase(self.current_epoch, self.lengths)]

    def start_from(self, data: Any) -> None:
        """Look whether all training images have a label."""
        need_labels(data.split("train").y, self.num_classes)

    def players(self) -> dict[str, nn.Module]:
        levels = {f"discriminator_{i}": self.judges[i] for i in LEVELS}
        levels |= {f"generator_{i}": self.stack.levels[i] for i in LEVELS}
        return {"encoder": self.encoder, **levels}

    def draw_noise(self, n: int) -> Tensor:
        """Noise of one level, [n, D]."""
        return torch.rand(n, self.noise_dim, device=self.device)

    def encoder_loss(self, x: Images, y: Labels) -> Terms:
        """What the encoder descends: cross-entropy."""
        logits = self.encoder(x)
        right = (logits.detach().argmax(1) == y).float()
        return {"loss": cross_entropy(logits.float(), y, reduction="none"), "accuracy": right}

    def judge_loss(self, level: int, h: Tensor, fake: Tensor, z: Tensor) -> Terms:
        """What D_i and Q_i descend, given real and generated h_i, and the noise of these."""
        (real, _), (made, found) = self.judges[level](h), self.judges[level](fake)
        entropy = (found - z).square().mean(1)
        loss = (softplus(-real) + softplus(made)) / 2  # equation 5, halved as in the released code
        return {"loss": loss + self.weights[2] * entropy, "entropy": entropy.detach()}

    def generator_loss(self, level: int, given: Tensor, z: Tensor) -> Terms:
        """What G_i descends, given labels or features: equation 4."""
        h = self.stack.levels[level](given, z)
        made, found = self.judges[level](h)
        if level == FEATURES:
            conditional = cross_entropy(self.encoder.upper(h).float(), given, reduction="none")
        else:
            conditional = (self.encoder.lower(h) - given).square().mean(1)  # equation 7
        terms = {"adversarial": softplus(-made), "conditional": conditional}
        terms["entropy"] = (found - z).square().mean(1)  # equation 8
        weighed = [weight * term for weight, term in zip(self.weights, terms.values(), strict=True)]
        return {"loss": sum(weighed[1:], weighed[0]), **{n: term.detach() for n, term in terms.items()}}

    def features_loss(self, y: Labels, z: Sequence[Tensor]) -> Terms:
        """What G_1 descends: its own loss, and in the joint phase a share of that of the level below."""
        terms = self.generator_loss(FEATURES, y, z[FEATURES])
        if self.phase == "joint" and self.cross_level_weight:
            below = self.generator_loss(IMAGE, self.stack.levels[FEATURES](y, z[FEATURES]), z[IMAGE])
            terms["loss"] = terms["loss"] + self.cross_level_weight * below["loss"]
        return terms

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch.x, batch.y
        if self.phase == "encoder":
            self.descend("encoder", self.encoder_loss, x, y)
            return
        z, (image, features) = [self.draw_noise(len(x)) for _ in LEVELS], self.stack.levels
        with torch.no_grad():
            real = self.encoder.lower(x)
            made = features(y, z[FEATURES])
            given = real if self.phase == "independent" else made
            fake = image(given, z[IMAGE])
        for level, h, generated in ((FEATURES, real, made), (IMAGE, x, fake)):
            self.descend(f"discriminator_{level}", self.judge_loss, level, h, generated, z[level])
        self.descend("generator_1", self.features_loss, y, z)
        self.descend("generator_0", self.generator_loss, IMAGE, given, z[IMAGE])
        self.average.update(self.stack)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per player."""
        rates = {"encoder": self.encoder_lr}
        return [
            adam(network.parameters(), rates.get(name, self.lr), self.adam_betas)
            for name, network in self.players().items()
        ]

    @torch.no_grad()
    def classify(self, x: Images) -> LogProbs:
        return self.encoder(x).float().log_softmax(1)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        return self.sample_given(torch.arange(n, device=self.device) % self.num_classes, generator=generator)

    @torch.no_grad()
    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            return self.average(y, [self.draw_noise(len(y)) for _ in LEVELS])

    @torch.no_grad()
    def vary(self, y: Labels, level: int, n: int, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            z = [self.draw_noise(len(y)).repeat(n, 1) for _ in LEVELS]
            z[level] = self.draw_noise(n * len(y))
        return self.average(y.repeat(n), z).unflatten(0, (n, len(y)))
