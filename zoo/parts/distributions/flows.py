"""Autoregressive flows: variables without bounds whose density, or whose draws, take one parallel pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from zoo.parts.networks.masked import MADE


class AffineSteps(nn.Module):
    """The map from z to noise, eps = (z - shift) exp(-log_scale) in each of several steps.

    Shift and log-scale of a variable depend on those before it; the order is reversed after each step.

    Args:
        dim: Number D of variables.
        num_steps: Steps.
        hidden_dim: Width of the two hidden layers of each step's MADE.
        mean_only: Every log-scale is 0: the map keeps volumes.
    """

    def __init__(self, dim: int, num_steps: int, hidden_dim: int, mean_only: bool) -> None:
        super().__init__()
        self.steps = nn.ModuleList(MADE(dim, hidden_dim, mean_only) for _ in range(num_steps))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise [..., D] and log |d eps / d z|, [...], in one parallel pass."""
        log_det = torch.zeros_like(z[..., 0])
        for made in self.steps:
            shift, log_scale = made(z)
            z = ((z - shift) * torch.exp(-log_scale)).flip(-1)
            log_det = log_det - log_scale.sum(-1)
        return z, log_det

    def inverse(self, eps: Tensor) -> Tensor:
        """The variables [..., D] of noise [..., D], one after the other: D passes for each step."""
        for made in reversed(self.steps):
            eps = eps.flip(-1)
            z = torch.zeros_like(eps)
            for place in torch.eye(eps.shape[-1], dtype=torch.bool, device=eps.device):
                shift, log_scale = made(z)
                z = torch.where(place, eps * log_scale.exp() + shift, z)
            eps = z
        return eps


class _Flowed(Distribution):
    """A base distribution and the steps that lead from it, or to it.

    Args:
        base: Event [D].
        steps: Of as many variables.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base: Independent, steps: AffineSteps) -> None:
        self.base, self.steps = base, steps
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.real_vector


class AutoregressiveFlow(_Flowed):
    """Variables z whose noise eps(z) is the base's: densities by one pass, draws in turn.

    Papamakarios et al. 2017 (arXiv:1705.07057).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the densities in nats, [...]."""
        eps, log_det = self.steps(value)
        return self.base.log_prob(eps) + log_det

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws [*sample_shape, ..., D]."""
        return self.steps.inverse(self.base.sample(torch.Size(sample_shape)))


class InverseAutoregressiveFlow(_Flowed):
    """Variables z = eps(u) of draws u of the base: draws by one pass, densities of others' draws in turn.

    Kingma et al. 2016 (arXiv:1606.04934). The density of its own last draw is remembered.
    """

    has_rsample = True

    def __init__(self, base: Independent, steps: AffineSteps) -> None:
        super().__init__(base, steps)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Reparameterised draws [*sample_shape, ..., D]."""
        u = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.steps(u)
        self._last = z, u, log_det
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Logarithms of the densities in nats, [...]."""
        if self._last is not None and value is self._last[0]:
            _, u, log_det = self._last
        else:
            u = self.steps.inverse(value)
            _, log_det = self.steps(u)
        return self.base.log_prob(u) - log_det

    @property
    def mean(self) -> Tensor:
        """What becomes of the base's mean, [..., D]; the true mean has no closed form."""
        return self.steps(self.base.mean)[0]
