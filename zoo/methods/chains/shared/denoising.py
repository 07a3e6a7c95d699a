"""Chains whose network says the noise in a state, and the way back over some of their steps.

DDPM: Ho, Jain, Abbeel 2020, arXiv:2006.11239, whose equations bear no name here. Improved DDPM: Nichol,
Dhariwal 2021, arXiv:2102.09672. DDIM: Song, Meng, Ermon 2021, arXiv:2010.02502. Steps are numbered 1 to T;
0 is the image.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.contract import Images, PerImage
from zoo.methods.chains.shared.betas import NoiseSchedule
from zoo.methods.chains.shared.kernels import GaussianStates, ReverseChain, Steps, gaussian_divergence
from zoo.methods.chains.shared.products import Change, Kernel
from zoo.parts.distributions.pixels import GaussianBytes

Variance = Literal["beta", "posterior", "learnt"]


class Guess(NamedTuple):
    """What a network makes of a state."""

    x: Images
    """The image, in [-1, 1]."""
    noise: Images
    """The noise that this leaves."""
    share: Tensor
    """Of a learnt variance: 1 where it is beta, 0 where it is the posterior's, in logarithms."""


class NoiseChain(GaussianStates):
    """A chain whose network says the noise of a state, from images in [-1, 1] to N(0, I).

    Args:
        betas: The forward chain's.
        network: (x_t, t) to the noise, and to v of a learnt variance, [B, C, H, W] or [B, 2C, H, W].
        variance: Of the reverse kernels: beta, that of q(x_(t-1)|x_t, x_0), or learnt between them.
    """

    def __init__(self, betas: NoiseSchedule, network: nn.Module, variance: Variance) -> None:
        super().__init__(betas, network)
        self.variance = variance

    def kept(self, t: Steps) -> Tensor:
        """The value of alpha-bar after steps t, which may be 0, [B, 1, 1, 1], in float64."""
        return torch.cat((self.betas.base.new_ones(1), (1 - self.betas()).cumprod(0)))[t].view(-1, 1, 1, 1)

    def said(self, x_t: Images, t: Steps) -> Tensor:
        """What the network says of states, [B, C, H, W] or [B, 2C, H, W], in float32."""
        return self.network(x_t, t).float()

    def guess(self, maps: Tensor, x_t: Images, t: Steps) -> Guess:
        """The image and the noise in a state, such that they make it, of what the network makes of it."""
        noise, v = maps.chunk(2, 1) if self.variance == "learnt" else (maps, torch.zeros_like(maps))
        kept = self.kept(t)
        signal, spread = kept.sqrt().to(maps), (1 - kept).sqrt().to(maps)
        x = ((x_t - spread * noise) / signal).clamp(-1, 1)  # equation 15
        return Guess(x, (x_t - signal * x) / spread, (v + 1) / 2)

    def jump(self, maps: Tensor, x_t: Images, t: Steps, s: Steps, eta: float | None = None) -> Kernel:
        """p(x_s|x_t) for s < t.

        Args:
            maps: What the network makes of x_t.
            x_t: States at steps t.
            t: Steps, [B].
            s: Earlier ones, [B], which may be 0.
            eta: DDIM's, or None for the chain's own variance.
        """
        x, noise, v = self.guess(maps, x_t, t)
        now, then = self.kept(t), self.kept(s)
        beta = 1 - now / then
        posterior = beta * (1 - then) / (1 - now)
        drawn = posterior if eta is None else eta**2 * posterior  # DDIM, equation 16
        left = (1 - then - drawn).clamp(min=0).sqrt()
        mean = then.sqrt().to(x) * x + left.to(x) * noise  # DDIM, equation 12
        if eta is not None:
            return Kernel(mean, drawn.to(x).expand_as(x))
        least = self.least_variance
        variance = torch.where(s.view(-1, 1, 1, 1) == 0, least, posterior).to(x)
        if self.variance == "beta":
            variance = beta.to(x)
        elif self.variance == "learnt":
            variance = (v * beta.log().to(x) + (1 - v) * variance.log()).exp()  # improved DDPM, equation 15
        return Kernel(mean, variance.expand_as(x))

    @property
    def least_variance(self) -> Tensor:
        """That of q(x_1|x_2, x_0), which stands for the first step's, which is 0, []."""
        beta, kept, before = self.rates(torch.full((1,), 2, device=self.betas.base.device))
        return beta * (1 - before) / (1 - kept)

    def reverse(self, x_t: Images, t: Steps) -> Kernel:
        return self.jump(self.said(x_t, t), x_t, t, t - 1)

    def divergence_of(self, x: Images, x_t: Images, t: Steps) -> PerImage:
        """L_(t-1) of equation 5; of the first step L_0, minus log p(x_0|x_1) of the bytes."""
        return self.cost(x, x_t, t, self.reverse(x_t, t))

    def cost(self, x: Images, x_t: Images, t: Steps, p: Kernel) -> PerImage:
        """The same, of a given p(x_(t-1)|x_t)."""
        first = t == 1
        q = self.posterior(x, x_t, t)
        q = q._replace(variance=torch.where(first.view(-1, 1, 1, 1), p.variance.detach(), q.variance))
        last = GaussianBytes(p.mean[first], p.variance[first].sqrt(), validate_args=False)
        return gaussian_divergence(q, p).masked_scatter(first, -last.log_prob(x[first]).flatten(1).sum(1))

    def ends(self, x: Images) -> PerImage:
        """The bound less the divergences: L_0 and L_T of equation 5, with minus signs."""
        t = torch.full((len(x),), self.num_steps, device=x.device)
        last = self.forward_kernel(x, self.kept(t))
        pi = Kernel(torch.zeros_like(x), torch.ones_like(x))
        return -gaussian_divergence(last, pi) - self.divergence(x, torch.ones_like(t))


class Sampler(ReverseChain):
    """The way back of a chain, over some of its steps.

    Args:
        chain: The chain.
        walk_steps: Steps that are taken, spread evenly; the last one of the chain is among them.
        eta: DDIM's, or None.
    """

    def __init__(self, chain: NoiseChain, walk_steps: int, eta: float | None) -> None:
        super().__init__()
        self.chain, self.eta = chain, eta
        places = torch.arange(walk_steps + 1, dtype=torch.float64) / walk_steps
        self.steps = (chain.num_steps * places).round().long().tolist()

    @property
    def num_steps(self) -> int:
        return len(self.steps) - 1

    def noise(self, like: Images) -> Images:
        return self.chain.noise(like)

    def back(self, x: Images, step: int, change: Change | None) -> tuple[Kernel, Images]:
        t, s = (torch.full((len(x),), self.steps[i], device=x.device) for i in (step, step - 1))
        kernel = self.chain.jump(self.chain.said(x, t), x, t, s, self.eta)
        kernel = kernel if change is None else change(kernel, step)
        return kernel, self.chain.draw(kernel)

    def kept(self) -> list[float]:
        """The value of alpha-bar where each step leads to, the first one's, which is 1, first."""
        device = self.chain.betas.base.device
        return self.chain.kept(torch.tensor(self.steps[:-1], device=device)).flatten().tolist()
