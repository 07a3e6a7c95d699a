"""Small games that several files check."""

import torch
from support import tiny
from torch import nn

from zoo.methods.adversarial.gan import GAN

SHAPE = (1, 8, 8)
SMALL_2014 = {"latent_dim": 5, "hidden_dims": (12, 10), "maxout_dims": (7, 6), "pieces": 3}
SPECTRAL = {"objective": "hinge", "norm": "spectral"}


def mlp2014(**options) -> GAN:
    torch.manual_seed(0)
    return GAN(image_shape=SHAPE, **SMALL_2014 | options)


def dcgan(shape=SHAPE, **options) -> GAN:
    return tiny("GAN", shape, **options)


class Linear(nn.Module):
    """d(x) = <w, x> + b."""

    def __init__(self, dim: int, bias: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(dim))
        self.b = nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        return (x.flatten(1) @ self.w + self.b).unsqueeze(-1)
