"""Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016. arXiv:1511.05644.

Section 5: the semi-supervised model.

Departs from the paper: weights start He- and Glorot-uniform, the output bias at the logit of the mean
training pixel; both discriminators take one step together, as do the encoder's against both.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributions import Categorical

from zoo.contract import Batch, Classifies, Conditions, Images, Labels, LogProbs, Terms, labels_below
from zoo.errors import at_least, positive, require, share
from zoo.methods.adversarial.shared.adversarial_autoencoder import AdversarialAutoencoder, CodeEncoder, Course
from zoo.methods.adversarial.shared.priors import GaussianPrior


class LabelAAE(AdversarialAutoencoder, Classifies, Conditions):
    """Adversarial autoencoder of label and style, which learns from few labels and many images.

    A code is the probabilities of the labels, and a style; one discriminator holds each against its prior,
    and a third phase teaches the encoder the labels that are known.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_classes: Labels 0, 1, ...
        latent_dim: Numbers of the style.
        prior_std: Standard deviation of the style's prior.
        hidden_dims: Widths of the ReLU layers of encoder and discriminators; the decoder mirrors them.
        drop_pixels: Share of pixels that the encoder does not see while training.
        optimizer: SGD with momentum, or Adam; every phase has moments of its own.
        reconstruction_lr: Step size of encoder and decoder in the phase of reconstruction, at the start.
        adversarial_lr: Step size of discriminators and encoder in the phase of regularisation.
        label_lr: Step size of the encoder in the phase of labels.
        stage_epochs: Epochs after each of which all step sizes fall to a tenth.
        momentum: Of SGD.
        adam_betas: Adam's decay rates.

    Raises:
        UsageError: If a size, rate or step size is out of range, or no training image has a label.
    """

    paper = "Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_classes: int = 10,
        latent_dim: int = 10,
        prior_std: float = 1.0,
        hidden_dims: tuple[int, ...] = (1000, 1000),
        drop_pixels: float = 0.0,
        optimizer: Literal["sgd", "adam"] = "sgd",
        reconstruction_lr: float = 0.01,
        adversarial_lr: float = 0.1,
        label_lr: float = 0.1,
        stage_epochs: tuple[int, ...] = (50, 950),
        momentum: float = 0.9,
        adam_betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        at_least(1, latent_dim=latent_dim)
        at_least(2, num_classes=num_classes)
        positive(label_lr=label_lr)
        share(drop_pixels=drop_pixels)
        super().__init__(
            image_shape,
            prior=GaussianPrior(latent_dim, prior_std),
            num_categories=num_classes,
            hidden_dims=hidden_dims,
            encoder=lambda: CodeEncoder(
                image_shape, hidden_dims, num_classes + latent_dim, drop_pixels=drop_pixels
            ),
            course=Course(
                optimizer, reconstruction_lr, adversarial_lr, tuple(stage_epochs), momentum, adam_betas
            ),
        )
        self.save_hyperparameters()
        self.label_lr = label_lr
        self._shown: tuple[Images, Labels] | None = None

    def start_from(self, data: Any) -> None:
        """Start the decoder; where few images have labels, keep these at hand."""
        super().start_from(data)
        y = data.split("train").y
        known = (y >= 0).nonzero()[:, 0]
        require(len(known) > 0, f"LabelAAE needs labels, got none of {len(y)} training images")
        labels_below(y, self.num_parts)
        few = data.split("train", known) if len(known) < len(y) else None
        self._shown = None if few is None else (few.x, few.y)

    def players(self) -> dict[str, nn.Module]:
        return super().players() | {"classifier": self.encoder}

    def rate_of(self, player: str) -> float:
        return self.label_lr if player == "classifier" else super().rate_of(player)

    def labelled(self, batch: Batch) -> tuple[Images, Labels]:
        """Images and their labels: the batch's, or, where some are withheld, as many drawn of those known."""
        if self._shown is None:
            return batch.x, batch.y
        x, y = self._shown
        rows = torch.randint(len(y), (len(batch.x),), device=y.device)
        return x[rows].to(batch.x.device), y[rows].to(batch.y.device)

    def label_loss(self, x: Images, y: Labels) -> Terms:
        """What the encoder descends on labelled images: cross-entropy."""
        logits = self.encoder(x)[:, : self.num_parts]
        return {"loss": -Categorical(logits=logits, validate_args=False).log_prob(y)}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.descend("classifier", self.label_loss, *self.labelled(batch))

    def classify(self, x: Images) -> LogProbs:
        return self.log_categories(x)

    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        return self.drawn_of(y, generator)
