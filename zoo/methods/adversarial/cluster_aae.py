"""Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016. arXiv:1511.05644.

Section 6: the model that clusters without labels. The paper's accuracy gives a cluster the label of its most
confident test image (`cluster_accuracy_aae`).

Departs from the paper: weights start He- and Glorot-uniform, the output bias at the logit of the mean
training pixel; both discriminators take one step together, as do the encoder's against both.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from zoo.contract import Clusters, Conditions, Images, Labels, LogProbs
from zoo.errors import at_least, share
from zoo.methods.adversarial.shared.adversarial_autoencoder import AdversarialAutoencoder, CodeEncoder, Course
from zoo.methods.adversarial.shared.priors import GaussianPrior


class ClusterAAE(AdversarialAutoencoder, Clusters, Conditions):
    """Adversarial autoencoder of cluster and style, which groups images without labels.

    A code is the probabilities of the clusters, and a style; one discriminator holds each against its prior.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_clusters: Clusters, alike in frequency.
        latent_dim: Numbers of the style.
        prior_std: Standard deviation of the style's prior.
        hidden_dims: Widths of the ReLU layers of encoder and discriminators; the decoder mirrors them.
        drop_pixels: Share of pixels that the encoder does not see while training.
        optimizer: SGD with momentum, or Adam; every phase has moments of its own.
        reconstruction_lr: Step size of encoder and decoder in the phase of reconstruction, at the start.
        adversarial_lr: Step size of discriminators and encoder in the phase of regularisation.
        stage_epochs: Epochs after each of which all step sizes fall to a tenth.
        momentum: Of SGD.
        adam_betas: Adam's decay rates.

    Raises:
        UsageError: If a size, rate or step size is out of range.
    """

    paper = "Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_clusters: int = 16,
        latent_dim: int = 5,
        prior_std: float = 1.0,
        hidden_dims: tuple[int, ...] = (1000, 1000),
        drop_pixels: float = 0.0,
        optimizer: Literal["sgd", "adam"] = "sgd",
        reconstruction_lr: float = 0.01,
        adversarial_lr: float = 0.1,
        stage_epochs: tuple[int, ...] = (50, 950),
        momentum: float = 0.9,
        adam_betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        at_least(1, latent_dim=latent_dim)
        at_least(2, num_clusters=num_clusters)
        share(drop_pixels=drop_pixels)
        super().__init__(
            image_shape,
            prior=GaussianPrior(latent_dim, prior_std),
            num_categories=num_clusters,
            hidden_dims=hidden_dims,
            encoder=lambda: CodeEncoder(
                image_shape, hidden_dims, num_clusters + latent_dim, drop_pixels=drop_pixels
            ),
            course=Course(
                optimizer, reconstruction_lr, adversarial_lr, tuple(stage_epochs), momentum, adam_betas
            ),
        )
        self.save_hyperparameters()
        self.num_categories = num_clusters

    def cluster(self, x: Images) -> LogProbs:
        return self.log_categories(x)

    def sample_given(self, y: Labels, *, generator: torch.Generator | None = None) -> Images:
        return self.drawn_of(y, generator)
