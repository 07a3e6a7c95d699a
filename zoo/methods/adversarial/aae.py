"""Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016. arXiv:1511.05644.

Departs from the paper: pixels are dropped at the encoder's door; weights start He- and Glorot-uniform, the
output bias at the logit of the mean training pixel; sizes of ring and swiss roll are this package's. The
Parzen score in which the paper reports likelihoods rewards smooth, prototypical samples, and puts the data
themselves (10,000 training images as kernel centres) below them: it is kept for history, not to rank.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn.functional import one_hot

from zoo.contract import Labels
from zoo.errors import at_least, require, share
from zoo.methods.adversarial.shared.adversarial_autoencoder import (
    AdversarialAutoencoder,
    CodeEncoder,
    Course,
    EncoderKind,
)
from zoo.methods.adversarial.shared.priors import MODES, Prior, prior_of


class AAE(AdversarialAutoencoder):
    """Autoencoder whose codes a discriminator cannot tell from draws of a prior.

    It has no likelihood. It is the InfoVAE of alpha = lam = 1 whose divergence a discriminator tells.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Numbers in a code; 2 for the priors in the plane.
        prior: N(0, `prior_std`^2 I); a ring of ten Gaussians; or a swiss roll, in ten parts.
        prior_std: Standard deviation of the first.
        label_aware: Tell the discriminator the label, or that there is none: codes of labelled images are
            held against the mode of their label, the others against the whole prior.
        encoder: `deterministic`; `gaussian`: a diagonal Gaussian given the image; `universal`: a function of
            image and noise, of which `encode` gives the code of noise 0.
        noise_dim: Numbers of Gaussian noise beside the pixels of the `universal` encoder.
        hidden_dims: Widths of the ReLU layers of encoder and discriminator; the decoder mirrors them.
        drop_pixels: Share of pixels that the encoder does not see while training.
        optimizer: SGD with momentum, or Adam; every phase has moments of its own.
        reconstruction_lr: Step size of encoder and decoder in the phase of reconstruction, at the start.
        adversarial_lr: Step size of discriminator and encoder in the phase of regularisation.
        stage_epochs: Epochs after each of which all step sizes fall to a tenth.
        momentum: Of SGD.
        adam_betas: Adam's decay rates.

    Raises:
        UsageError: If a size, rate or step size is out of range, or labels have no modes in the prior.
    """

    paper = "Makhzani, Shlens, Jaitly, Goodfellow, Frey. Adversarial Autoencoders. 2016."

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 8,
        prior: Prior = "gaussian",
        prior_std: float = 5.0,
        label_aware: bool = False,
        encoder: EncoderKind = "deterministic",
        noise_dim: int = 20,
        hidden_dims: tuple[int, ...] = (1000, 1000),
        drop_pixels: float = 0.2,
        optimizer: Literal["sgd", "adam"] = "sgd",
        reconstruction_lr: float = 0.01,
        adversarial_lr: float = 0.1,
        stage_epochs: tuple[int, ...] = (50, 950),
        momentum: float = 0.9,
        adam_betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        at_least(1, latent_dim=latent_dim, noise_dim=noise_dim)
        share(drop_pixels=drop_pixels)
        shape = prior_of(prior, latent_dim, prior_std)
        require(
            shape.has_modes or not label_aware, f"label_aware needs prior: ring or swiss_roll, got {prior}"
        )
        super().__init__(
            image_shape,
            prior=shape,
            num_hints=MODES + 1 if label_aware else 0,
            hidden_dims=hidden_dims,
            encoder=lambda: CodeEncoder(
                image_shape, hidden_dims, latent_dim, encoder, noise_dim, drop_pixels
            ),
            course=Course(
                optimizer, reconstruction_lr, adversarial_lr, tuple(stage_epochs), momentum, adam_betas
            ),
        )
        self.save_hyperparameters()
        self.label_aware = label_aware

    def hints(self, y: Labels) -> Tensor:
        if not self.label_aware:
            return super().hints(y)
        return one_hot(y.where(y >= 0, MODES), MODES + 1).float()  # the last: unknown

    def modes(self, y: Labels) -> Labels:
        return y if self.label_aware else super().modes(y)
