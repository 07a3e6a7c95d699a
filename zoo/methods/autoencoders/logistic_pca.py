"""Schein, Saul, Ungar. A Generalized Linear Model for PCA of Binary Data. AISTATS 2003.

Also: de Leeuw. Principal Component Analysis of Binary Data by Iterated Singular Value Decomposition. CSDA 50,
2006; Landgraf, Lee. Dimensionality Reduction for Binary Data through the Projection of Natural Parameters.
arXiv:1510.06112: the parabola that a step towards a code climbs.

Departs from the paper: batches of images take turns, and the weights follow Adam in the place of a solution
in closed form; codes are drawn to zero by a small ridge, without which those of separable images have no
bound.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.contract import Batch, Codes, Decodes, Descent, Encodes, Images, PixelKind, Reconstructs, Terms
from zoo.errors import at_least, positive
from zoo.parts.distributions.bits import bernoulli
from zoo.parts.networks.dense import readout
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled

CURVATURE = 0.25
"""The logistic loss curves nowhere more than this."""


class LogisticPCA(Descent, Encodes, Decodes, Reconstructs):
    """Logistic PCA: the logits of the pixels are linear in a code, and the code of an image is its best.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dim: Dimensions of the code.
        encode_steps: Steps towards the code of an image, each of which lowers its loss.
        ridge: Weight of half the squared norm of a code beside the cross-entropy of its pixels.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If a number is not positive.
    """

    paper = "Schein, Saul, Ungar. A Generalized Linear Model for PCA of Binary Data. AISTATS 2003."
    progress = "distortion"

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dim: int = 30,
        encode_steps: int = 30,
        ridge: float = 0.01,
        lr: float = 1e-2,
        lr_final: float = 1e-4,
        lr_schedule: Schedule = "cosine",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, latent_dim=latent_dim, encode_steps=encode_steps)
        positive(ridge=ridge, lr=lr, lr_final=lr_final)
        self.latent_dim, self.encode_steps, self.ridge = latent_dim, encode_steps, ridge
        self.lr, self.lr_final = lr, lr_final
        self.lr_schedule: Schedule = lr_schedule
        self.linear: nn.Linear = readout(latent_dim, math.prod(self.image_shape))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("real", "binary")

    def logits(self, z: Codes) -> Tensor:
        """Logits of the pixels [B, C, H, W]."""
        return self.linear(z).unflatten(-1, self.image_shape)

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        weight, v = self.linear.weight.float(), x.flatten(1).float()  # [D, q], [B, D]
        eye = torch.eye(self.latent_dim).to(weight)
        with torch.autocast(x.device.type, enabled=False):
            inverse = torch.linalg.inv(CURVATURE * weight.T @ weight + self.ridge * eye)
            z = torch.zeros(len(v), self.latent_dim).to(weight)
            for _ in range(self.encode_steps):
                slope = (v - self.linear(z).sigmoid()) @ weight - self.ridge * z
                z = z + slope @ inverse  # the top of a parabola that lies below
        return z

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.x)
        distortion = -bernoulli(self.logits(z)).log_prob(batch.x)
        return {"loss": distortion, "distortion": distortion}

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.logits(z).sigmoid()

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.parameters(), self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
