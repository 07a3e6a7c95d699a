"""Learnt chains from noise to images, and those whose way there is known in closed form.

Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli. Deep Unsupervised Learning using Nonequilibrium
Thermodynamics. ICML 2015. arXiv:1503.03585. Steps are numbered 1 to T; values at step 0 are the image's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence
from torch.nn.functional import logsigmoid

from zoo.contract import Images, PerImage
from zoo.methods.chains.shared.betas import BETA_RANGE, NoiseSchedule
from zoo.methods.chains.shared.products import Change, Kernel
from zoo.randomness import drawing_from

Steps = Int[Tensor, " images"]
Form = Literal["released", "paper", "velocity"]
LOG_TAU = math.log(2 * math.pi)


def gaussian_divergence(q: Kernel, p: Kernel) -> PerImage:
    """KL between two Gaussian kernels in nats, [B]."""
    ratio = q.variance / p.variance
    distance = (q.mean - p.mean).square() / p.variance
    return 0.5 * (ratio - 1 - ratio.log() + distance).flatten(1).sum(1)


class ReverseChain(nn.Module, ABC):
    """A learnt chain from noise to images: all that drawing, filming and repairing ask of it.

    How it learns is its own affair: from a forward chain in closed form (`Chain`), from states that it has
    drawn itself on the way to a target (infusion training), or from walking away from the data (walkback).
    """

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """The number of steps, T."""

    @abstractmethod
    def noise(self, like: Images) -> Images:
        """States drawn from where the chain starts."""

    @abstractmethod
    def back(self, x: Images, step: int, change: Change | None) -> tuple[Kernel, Images]:
        """One step from the state at `step`, T to 1: the kernel as changed, and the state drawn from it."""

    def states(
        self, like: Images, generator: torch.Generator | None, change: Change | None = None
    ) -> Iterator[Images]:
        """States [n, C, H, W] from noise, then, last, the mean of p(x_0|x_1).

        Args:
            like: Images of the wanted number, shape and device; their values are not read.
            generator: Where the draws come from.
            change: What is made of every kernel.
        """
        with drawing_from(generator):
            x = self.noise(like)
        if change is not None:
            x = change(Kernel(x, torch.zeros_like(x)), self.num_steps + 1).mean
        yield x
        for step in range(self.num_steps, 0, -1):
            with torch.no_grad(), drawing_from(generator):
                kernel, x = self.back(x, step, change)
            yield kernel.mean if step == 1 else x


class Chain(ReverseChain):
    """A forward chain towards noise pi and a reverse one with a learnt kernel, factorial over pixels.

    Args:
        betas: The forward chain's.
        network: What the reverse kernel is made of: `network(x_t, t)`.
    """

    def __init__(self, betas: NoiseSchedule, network: nn.Module) -> None:
        super().__init__()
        self.betas, self.network = betas, network

    @property
    def num_steps(self) -> int:
        return len(self.betas.base)

    def rates(self, t: Steps) -> tuple[Tensor, Tensor, Tensor]:
        """The values of beta_t, alpha-bar_t and alpha-bar_(t-1), each [B, 1, 1, 1], in float64."""
        betas = self.betas()
        kept = torch.cat((betas.new_ones(1), (1 - betas).cumprod(0)))
        beta, now, before = (v.view(-1, 1, 1, 1) for v in (betas[t - 1], kept[t], kept[t - 1]))
        return beta, now, before

    @abstractmethod
    def forward_kernel(self, x: Images, kept: Tensor) -> Kernel:
        """A later state given an earlier one, of which the share `kept` of what was there is left."""

    @abstractmethod
    def draw(self, kernel: Kernel) -> Images:
        """A state."""

    @abstractmethod
    def posterior(self, x: Images, x_t: Images, t: Steps) -> Kernel:
        """q(x_(t-1)|x_t, x_0)."""

    @abstractmethod
    def reverse(self, x_t: Images, t: Steps) -> Kernel:
        """p(x_(t-1)|x_t) for t > 1."""

    @abstractmethod
    def divergence_of(self, x: Images, x_t: Images, t: Steps) -> PerImage:
        """KL between q(x_(t-1)|x_t, x_0) and p(x_(t-1)|x_t), in nats, [B]."""

    @abstractmethod
    def entropy(self, x: Images, kept: Tensor) -> PerImage:
        """Entropy of the state given an earlier one of which the share `kept` is left, in nats, [B]."""

    @abstractmethod
    def null_log_prob(self, kernel: Kernel) -> PerImage:
        """The mean of log pi under a kernel, in nats, [B]."""

    def first_kernel(self, x_1: Images) -> Kernel:
        """p(x_0|x_1): the forward chain's first step, with which pi is in detailed balance."""
        beta, _, _ = self.rates(torch.tensor([1], device=x_1.device))
        return self.forward_kernel(x_1, 1 - beta)

    def divergence(self, x: Images, t: Steps) -> PerImage:
        """The KL of a step for a state drawn at it: minus its share of the bound, [B]."""
        _, kept, _ = self.rates(t)
        return self.divergence_of(x, self.draw(self.forward_kernel(x, kept)), t)

    def ends(self, x: Images) -> PerImage:
        """What the bound has apart from the divergences, [B].

        The paper's H_q(X_T|X_0) - H_q(X_1|X_0) - H_p(X_T) takes for granted that the images have the second
        moment, or the activity, of pi. Here log pi is averaged over the states, so that the bound holds for
        every image.
        """
        first, last = (torch.tensor([t], device=x.device) for t in (1, self.num_steps))
        (_, kept_first, _), (_, kept_last, _) = self.rates(first), self.rates(last)
        entropies = self.entropy(x, kept_last) - self.entropy(x, kept_first)
        null = [self.null_log_prob(self.forward_kernel(x, kept)) for kept in (kept_last, kept_first)]
        return entropies + null[0] - null[1] + self.null_log_prob(self.forward_kernel(x, 1 + 0 * kept_first))

    def bound(self, x: Images, num_draws: int | None = None) -> PerImage:
        """A lower bound on log p(x_0) in nats, [B]: the steps' divergences, each at one drawn state.

        Args:
            x: Images.
            num_draws: Steps drawn for each image, one from each of so many equal stretches, which stand for
                all: the mean is that of the bound. None, or as many as there are, takes every step.
        """
        bound, count = self.ends(x), self.num_steps - 1
        if num_draws is None or num_draws >= count:
            for step in range(2, self.num_steps + 1):
                bound = bound - self.divergence(x, torch.full((len(x),), step, device=x.device))
            return bound
        for i in range(num_draws):
            place = (i + torch.rand(len(x), dtype=torch.float64, device=x.device)) / num_draws
            t = 2 + (count * place).long().clamp(max=count - 1)
            bound = bound - count / num_draws * self.divergence(x, t)
        return bound

    def bounded_by(self, num_draws: int) -> str:
        """How the bound at so many steps is counted; nothing where every step is among them."""
        count = self.num_steps - 1
        return "" if num_draws >= count else f"{num_draws} of {count} steps of the bound, drawn per image"

    def entropy_bounds(self, x: Images) -> Tensor:
        """Bounds on H_q(X_(t-1)|X_t) for t = 2 ... T, means over images, in nats, [T - 1, 2] (section 2.6).

        From below H(X_t|X_(t-1)) + H(X_(t-1)|X_0) - H(X_t|X_0), from above H(X_t|X_(t-1)).
        """
        rows = []
        for step in range(2, self.num_steps + 1):
            beta, kept, before = self.rates(torch.full((1,), step, device=x.device))
            upper = self.entropy(self.forward_kernel(x, before).mean, 1 - beta)
            lower = upper + self.entropy(x, before) - self.entropy(x, kept)
            rows.append(torch.stack((lower.mean(), upper.mean())))
        return torch.stack(rows)

    def back(self, x: Images, step: int, change: Change | None) -> tuple[Kernel, Images]:
        t = torch.full((len(x),), step, device=x.device)
        kernel = self.first_kernel(x) if step == 1 else self.reverse(x, t)
        kernel = kernel if change is None else change(kernel, step)
        return kernel, self.draw(kernel)


class GaussianStates(Chain):
    """The forward chain of real pixels; pi is N(0, I)."""

    def forward_kernel(self, x: Images, kept: Tensor) -> Kernel:
        return Kernel(kept.sqrt().to(x) * x, (1 - kept).to(x).expand_as(x))

    def draw(self, kernel: Kernel) -> Images:
        return kernel.mean + kernel.variance.sqrt() * torch.randn_like(kernel.mean)

    def noise(self, like: Images) -> Images:
        return torch.randn_like(like)

    def posterior(self, x: Images, x_t: Images, t: Steps) -> Kernel:
        beta, kept, before = self.rates(t)
        of_x = before.sqrt() * beta / (1 - kept)
        of_state = (1 - beta).sqrt() * (1 - before) / (1 - kept)
        variance = beta * (1 - before) / (1 - kept)
        return Kernel(of_x.to(x) * x + of_state.to(x) * x_t, variance.to(x).expand_as(x))

    def divergence_of(self, x: Images, x_t: Images, t: Steps) -> PerImage:
        return gaussian_divergence(self.posterior(x, x_t, t), self.reverse(x_t, t))

    def entropy(self, x: Images, kept: Tensor) -> PerImage:
        return 0.5 * (1 + LOG_TAU + (1 - kept).log()).to(x).expand_as(x).flatten(1).sum(1)

    def null_log_prob(self, kernel: Kernel) -> PerImage:
        return -0.5 * (LOG_TAU + kernel.mean.square() + kernel.variance).flatten(1).sum(1)


class GaussianChain(GaussianStates):
    """Real pixels of unit second moment, and a reverse kernel whose variance is learnt too.

    Args:
        betas: The forward chain's.
        network: (x_t, t) to z_mu and z_Sigma stacked, [B, 2C, H, W].
        form: How these make mean and variance: as in the released code; as in the paper's appendix; or with a
            z_mu that is the velocity sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0, as large at every step.
    """

    def __init__(self, betas: NoiseSchedule, network: nn.Module, form: Form) -> None:
        super().__init__(betas, network)
        self.form = form

    def reverse(self, x_t: Images, t: Steps) -> Kernel:
        beta, kept, before = self.rates(t)
        z, spread = self.network(x_t, t).float().chunk(2, 1)
        logit = beta.clamp(*BETA_RANGE).logit().to(z)
        if self.form == "paper":
            variance = (spread + logit).sigmoid()
            return Kernel((x_t - z) * (1 - variance) + z, variance)
        if self.form == "velocity":
            gain = beta * before.sqrt() / (1 - kept).sqrt()
            return Kernel((1 - beta).sqrt().to(z) * x_t - gain.to(z) * z, (spread + logit).sigmoid())
        variance = (spread / math.sqrt(self.num_steps) + logit).sigmoid()
        return Kernel((1 - beta).sqrt().to(z) * x_t + beta.sqrt().to(z) * z, variance)


class BinomialChain(Chain):
    """Binary pixels; pi has independent bits that are 1 with probability rho.

    The network says p(x_0 = 1|x_t), over which the kernel averages q(x_(t-1)|x_t, x_0): the best kernel has
    this form.

    Args:
        betas: The forward chain's.
        network: (x_t, t) to logits [B, C, H, W].
        activity: Rho.
    """

    def __init__(self, betas: NoiseSchedule, network: nn.Module, activity: float) -> None:
        super().__init__(betas, network)
        self.activity = activity

    def forward_kernel(self, x: Images, kept: Tensor) -> Kernel:
        mean = (kept * x + (1 - kept) * self.activity).to(x)
        return Kernel(mean, mean * (1 - mean))

    def draw(self, kernel: Kernel) -> Images:
        return (torch.rand_like(kernel.mean) < kernel.mean).to(kernel.mean)

    def noise(self, like: Images) -> Images:
        return (torch.rand_like(like) < self.activity).to(like)

    def _posterior_logits(self, x: Images, x_t: Images, t: Steps) -> Tensor:
        beta, _, before = self.rates(t)
        x, x_t = x.double(), x_t.double()
        one = self.forward_kernel(x, before).mean
        if_one = self.forward_kernel(torch.ones_like(x_t), 1 - beta).mean
        if_zero = self.forward_kernel(torch.zeros_like(x_t), 1 - beta).mean
        seen = torch.where(x_t > 0, if_one.log() - if_zero.log(), (-if_one).log1p() - (-if_zero).log1p())
        return (one.logit() + seen).float()

    def posterior(self, x: Images, x_t: Images, t: Steps) -> Kernel:
        mean = self._posterior_logits(x, x_t, t).sigmoid()
        return Kernel(mean, mean * (1 - mean))

    def reverse(self, x_t: Images, t: Steps) -> Kernel:
        one = self.network(x_t, t).float().sigmoid()
        means = [self._posterior_logits(x, x_t, t).sigmoid() for x in (torch.ones_like(x_t), 0 * x_t)]
        mean = one * means[0] + (1 - one) * means[1]
        return Kernel(mean, mean * (1 - mean))

    def divergence_of(self, x: Images, x_t: Images, t: Steps) -> PerImage:
        q = Bernoulli(logits=self._posterior_logits(x, x_t, t), validate_args=False)
        p = Bernoulli(probs=self.reverse(x_t, t).mean, validate_args=False)
        return kl_divergence(q, p).flatten(1).sum(1)

    def entropy(self, x: Images, kept: Tensor) -> PerImage:
        """Here x may be the mean of random bits, over which the entropy is averaged."""
        sure = [self.forward_kernel(bit, kept).mean for bit in (torch.ones_like(x), torch.zeros_like(x))]
        one, zero = (Bernoulli(probs=p, validate_args=False).entropy() for p in sure)
        return (x * one + (1 - x) * zero).flatten(1).sum(1)

    def null_log_prob(self, kernel: Kernel) -> PerImage:
        logit = torch.tensor(self.activity, device=kernel.mean.device).logit()
        return (kernel.mean * logsigmoid(logit) + (1 - kernel.mean) * logsigmoid(-logit)).flatten(1).sum(1)
