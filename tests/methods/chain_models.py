"""Reverse chains that are known exactly, which several files check."""

import math

import torch
from torch import nn

from zoo.methods.chains.shared.betas import NoiseSchedule
from zoo.methods.chains.shared.kernels import BinomialChain, GaussianChain
from zoo.methods.chains.shared.products import Kernel

BITS = math.log(2)
PHASES = torch.stack([(torch.arange(20) % 5 == phase).float() for phase in range(5)]).view(5, 1, 1, 20)


class Nothing(nn.Module):
    """Maps of zeros."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x, t):
        return x.new_zeros(len(x), self.maps * x.shape[1], *x.shape[2:])


class ExactGaussian(GaussianChain):
    """The reverse chain of N(0, s^2) data."""

    def __init__(self, betas: NoiseSchedule, variance: float = 1.0) -> None:
        super().__init__(betas, Nothing(2), "released")
        self.variance = variance

    def reverse(self, x_t, t):
        beta, kept, before = self.rates(t)
        total, prior = kept * self.variance + 1 - kept, before * self.variance + 1 - before
        variance, slope = beta * prior / total, (1 - beta).sqrt() * prior / total
        return Kernel(slope.to(x_t) * x_t, variance.to(x_t).expand_as(x_t))


class ExactHeartbeat(nn.Module):
    """Logits of p(x_0 = 1|x_t), by enumeration of the five phases."""

    def __init__(self, betas: NoiseSchedule, activity: float) -> None:
        super().__init__()
        self.chain = BinomialChain(betas, Nothing(1), activity)

    def forward(self, x, t):
        _, kept, _ = self.chain.rates(t)
        parts = []
        for phase in PHASES:
            p = self.chain.forward_kernel(phase.expand_as(x), kept).mean
            parts.append((x * p.log() + (1 - x) * (-p).log1p()).flatten(1).sum(1))
        weights = torch.stack(parts).softmax(0)
        return torch.einsum("pb,pchw->bchw", weights, PHASES).clamp(1e-12, 1 - 1e-7).logit()


def heartbeat_chain(num_steps: int, activity: float = 0.2) -> BinomialChain:
    betas = NoiseSchedule("harmonic", num_steps, 3)
    return BinomialChain(betas, ExactHeartbeat(betas, activity), activity)


def steps(t: int, n: int = 1) -> torch.Tensor:
    return torch.full((n,), t)
