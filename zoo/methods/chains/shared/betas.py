"""How fast a chain of images forgets its start.

Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli. Deep Unsupervised Learning using Nonequilibrium
Thermodynamics. ICML 2015. arXiv:1503.03585. Schedule `linear`: Ho, Jain, Abbeel 2020, arXiv:2006.11239;
`cosine`: Nichol, Dhariwal 2021, arXiv:2102.09672. Steps are numbered 1 to T.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

ChainSchedule = Literal["harmonic", "linear", "cosine", "logsnr", "learnt"]
FEWEST_STEPS = 2
LINEAR_BETAS = (1e-4, 0.02)
FIRST_BETA_MORE = 1e-3
"""What the released code adds to the first beta of its learnt schedule, which is not learnt."""
BETA_RANGE = (1e-6, 1 - 1e-5)
COSINE_OFFSET = 0.008
MOST_COSINE_BETA = 0.999
FIRST_LOGSNR_BETA = 1e-3


def spread_steps(n: int, first: int, last: int, device: torch.device) -> Tensor:
    """Steps of n images, [n]: each is uniform from first to last, together they are spread evenly."""
    places = (torch.rand((), device=device) + torch.arange(n, device=device) / n) % 1
    return first + ((last - first + 1) * places).long().clamp(max=last - first)


def bumps(num_steps: int, num_bumps: int) -> Tensor:
    """Gaussian bumps of time, [T, J], normalised at each step; as wide as their centres are apart."""
    t = torch.arange(1, num_steps + 1, dtype=torch.float64)
    spacing = num_steps / (num_bumps + 1)
    centres = spacing * torch.arange(1, num_bumps + 1, dtype=torch.float64)
    return (-0.5 * ((t[:, None] - centres) / spacing).square()).softmax(1)


class NoiseSchedule(nn.Module):
    """How much of its input each step replaces by noise.

    Args:
        schedule: `harmonic`: 1 / (T - t + 1), which takes away as much at every step; `linear`, from 1e-4 to
            0.02; `cosine`: alpha-bar falls as the square of a cosine; `logsnr`: the logarithm of alpha-bar
            over 1 - alpha-bar falls as much at every step, to minus where it began; `learnt`, as the paper's:
            near 1 / (T, ..., 2), moved by bumps of time, the first one fixed.
        num_steps: T.
        num_bumps: Bumps of the learnt schedule.
        first: First beta of the learnt schedule, where 0 is the released code's 1 / T + 0.001, and of
            `logsnr`, where 0 is 0.001.
    """

    base: Tensor
    bumps: Tensor

    def __init__(self, schedule: ChainSchedule, num_steps: int, num_bumps: int, first: float = 0.0) -> None:
        super().__init__()
        t = torch.arange(1, num_steps + 1, dtype=torch.float64)
        self.shift: nn.Parameter | None = None
        if schedule == "harmonic":
            base = 1 / (num_steps - t + 1)
        elif schedule == "linear":
            base = torch.linspace(*LINEAR_BETAS, num_steps, dtype=torch.float64)
        elif schedule == "cosine":
            phase = (torch.cat((t.new_zeros(1), t)) / num_steps + COSINE_OFFSET) / (1 + COSINE_OFFSET)
            kept = (0.5 * math.pi * phase).cos().square()
            base = (1 - kept[1:] / kept[:-1]).clamp(max=MOST_COSINE_BETA)
        elif schedule == "logsnr":
            beta = first or FIRST_LOGSNR_BETA
            start = math.log((1 - beta) / beta)
            kept = torch.linspace(start, -start, num_steps, dtype=torch.float64).sigmoid()
            base = 1 - kept / torch.cat((t.new_ones(1), kept[:-1]))
        else:
            base = 1 / torch.linspace(num_steps, 2, num_steps, dtype=torch.float64)
            base[0] = first or base[0] + FIRST_BETA_MORE
            self.shift = nn.Parameter(torch.zeros(num_bumps))
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("bumps", bumps(num_steps, num_bumps), persistent=False)

    def forward(self) -> Tensor:
        """Beta of every step, [T], in float64."""
        if self.shift is None:
            return self.base
        moved = (self.base.logit() + self.bumps @ self.shift.double()).sigmoid().clamp(*BETA_RANGE)
        return torch.cat((self.base[:1], moved[1:]))
