"""How far the codes of many images together are from the prior."""

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo.parts.kernels import RadialKernel, mmd, stein_discrepancy


def codes_of(q: Distribution, z: Tensor) -> Tensor:
    """Draws of q(z), the mixture of the posteriors of a batch: theirs, or two of an image that is alone.

    Args:
        q: Posteriors, batch [B].
        z: One draw of each, [B, D].
    """
    return z if len(z) > 1 else torch.cat((z, q.rsample()))


def from_standard(z: Tensor, divergence: Literal["mmd", "stein"], kernel: RadialKernel) -> Tensor:
    """Squared discrepancy of codes [B, D] from N(0, I), unbiased, [].

    Args:
        z: Two or more draws.
        divergence: `mmd`, from as many draws of N(0, I), or `stein`.
        kernel: As of `kernels.gram`.
    """
    if divergence == "stein":
        return stein_discrepancy(z, -z, kernel)  # the gradient of log N(z; 0, I) is -z
    return mmd(z, torch.randn_like(z), kernel)
