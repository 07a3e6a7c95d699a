"""Normalising constants by annealing, and how far to trust them.

Neal. Annealed Importance Sampling. Statistics and Computing 2001. arXiv:physics/9803008.
Salakhutdinov, Murray. On the Quantitative Analysis of Deep Belief Networks. ICML 2008 (paths of an RBM).
Burda, Grosse, Salakhutdinov. Accurate and Conservative Estimates of MRF Log-likelihood using Reverse
Annealing. AISTATS 2015. arXiv:1412.8566 (RAISE).
Grosse, Ghahramani, Adams. Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo. 2015.
arXiv:1511.02543 (chains run backwards from exact draws).
Wu, Burda, Salakhutdinov, Grosse. On the Quantitative Analysis of Decoder-Based Generative Models. ICLR
2017. arXiv:1611.04273 (latents by Hamiltonian Monte Carlo).

Departs from the papers: a base rate has 5 % pseudo-counts of either value, so that it is finite where a unit
is always on; step sizes are adapted per image over all its chains, and jittered.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from zoo.contract.capabilities import Explanation, Partition
from zoo.contract.shapes import Codes, PerImage
from zoo.distributions import draw_bits
from zoo.errors import require
from zoo.estimators import log_mean_exp

ENUMERABLE = 20
"""Units of the smaller layer up to which log Z is summed over all their settings."""
ENUMERATED_AT_ONCE = 2**22
"""Activations held at once while summing, in float64."""
PSEUDO_COUNTS = 0.05
"""Counts of a 0 and of a 1 that a base rate adds to each image."""
SIGMAS = 3.0
"""Standard errors between the estimate and either end of its interval, and between two runs that agree."""
LOWEST_ESS = 5.0
"""Effective chains below which no log Z is reported."""
WIDEST_SPREAD = 1.0
"""Standard deviation of log-weights, in nats, above which their tails escape any error bar."""
SHORTER = 4
"""How many times fewer steps a pilot takes."""

LEAPFROG_STEPS = 10
ACCEPTANCE = 0.65
"""Acceptance towards which step sizes are adapted (Wu et al. 2017, appendix)."""
FIRST_STEP_SIZE = 0.1
ADAPTATION = 0.2
"""Change of the log of the step size per unit of surplus acceptance."""
JITTER = 0.2
"""Largest relative change of a step size from one transition to the next, against resonance."""

State = TypeVar("State")
Start = Literal["prior", "posterior"]
Betas = Float[Tensor, " points"]
Units = Float[Tensor, "chains units"]


class Path(ABC, Generic[State]):
    """Unnormalised densities f_beta from one that can be drawn from (beta = 0) to the target (beta = 1)."""

    log_z0: float
    """log of the integral of f_0, in nats."""

    @abstractmethod
    def start(self, num_chains: int) -> State:
        """Exact draws at beta = 0."""

    @abstractmethod
    def log_density(self, state: State, beta: float) -> Tensor:
        """The value of log f_beta in nats, one per chain, float64."""

    @abstractmethod
    def transition(self, state: State, beta: float) -> State:
        """One move of every chain, reversible with respect to f_beta."""


@torch.no_grad()
def anneal(path: Path[State], num_chains: int, betas: Betas) -> tuple[Tensor, State]:
    """Annealed importance sampling (Neal 2001, equation 11): the mean of exp(log_w) is Z in expectation.

    Args:
        path: From the start to the target.
        num_chains: Independent chains.
        betas: Inverse temperatures, from 0 to 1; a run has one step less than points.

    Returns:
        One estimate of log Z per chain, log weight + log Z_0, float64; and where the chains ended.

    Raises:
        UsageError: If `num_chains` is below 1.
    """
    require(num_chains >= 1, f"num_chains must be at least 1, got {num_chains}")
    state = path.start(num_chains)
    log_w = torch.tensor(path.log_z0, dtype=torch.float64)
    for low, high in pairwise(betas.tolist()):
        if low > 0:
            state = path.transition(state, low)
        log_w = log_w + path.log_density(state, high) - path.log_density(state, low)
    return log_w, state


@torch.no_grad()
def anneal_back(path: Path[State], state: State, betas: Betas) -> tuple[Tensor, State]:
    """The same chain from the target to the start: the mean of exp(-log_w) is 1/Z in expectation.

    That holds where `state` is an exact draw from the target; so -log mean exp(-log_w) is an upper bound of
    log Z in expectation (Grosse, Ghahramani, Adams 2015, section 3).

    Args:
        path: From the start to the target.
        state: Draws from the target.
        betas: Inverse temperatures, from 0 to 1.

    Returns:
        As from `anneal`.
    """
    log_w = torch.tensor(path.log_z0, dtype=torch.float64)
    for high, low in pairwise(betas.flip(0).tolist()):
        state = path.transition(state, high)
        log_w = log_w + path.log_density(state, high) - path.log_density(state, low)
    return log_w, state


def upper_bound(log_w: Tensor) -> Tensor:
    """-log mean exp(-log_w) along the first dimension, of weights of `anneal_back`."""
    return -log_mean_exp(-log_w)


def effective_size(log_w: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 along the first dimension, between 1 and its length."""
    return 1 / log_w.softmax(0).square().sum(0)


def linear(num_steps: int) -> Betas:
    """Equal steps from 0 to 1: inverse temperatures [num_steps + 1], float64."""
    require(num_steps >= 1, f"num_steps must be at least 1, got {num_steps}")
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def sigmoid(num_steps: int, rad: float = 4.0) -> Betas:
    """Steps of a logistic curve on [-rad, rad], shortest at both ends (Wu et al. 2017, appendix)."""
    curve = torch.sigmoid(rad * (2 * linear(num_steps) - 1))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def tripartite(num_steps: int) -> Betas:
    """500 : 4000 : 10000 equal steps on [0, .5], [.5, .9] and [.9, 1] (Salakhutdinov, Murray 2008)."""
    done, beta = [0.0, 500 / 14_500, 4_500 / 14_500, 1.0], [0.0, 0.5, 0.9, 1.0]
    return torch.from_numpy(np.interp(linear(num_steps).numpy(), done, beta))


def partition(log_w: PerImage, num_steps: int) -> Partition:
    """The log Z of the weights of chains [M]; its error by the delta method.

    Args:
        log_w: One estimate of log Z per chain, as from `anneal`.
        num_steps: Steps that the chains took.

    Raises:
        UsageError: If there are fewer than two chains.
    """
    require(len(log_w) > 1, f"num_chains must be at least 2, got {len(log_w)}")
    log_w = log_w.double()
    log_z = float(log_mean_exp(log_w))
    error = float((log_w - log_z).exp().std()) / math.sqrt(len(log_w))
    margin = SIGMAS * error
    low = log_z + math.log1p(-margin) if margin < 1 else -math.inf
    high, ess = log_z + math.log1p(margin), float(effective_size(log_w))
    return Partition(log_z, error, low, high, ess, num_steps, float(log_w.std()))


def exactly(log_z: float) -> Partition:
    """A log Z that was not estimated."""
    return Partition(log_z, 0.0, log_z, log_z, math.inf, 0, 0.0)


class Verdict(NamedTuple):
    """An estimate of log Z and what speaks against it."""

    partition: Partition
    pilot: Partition
    """The same with a quarter of the steps; the estimate itself where that is exact."""
    refusal: str | None
    """Why no number may be reported; None where one may."""
    rerun: str | None
    """Why the run should be repeated with four times the steps; None where it need not."""


def judged(estimate: Callable[[int, int], Partition], num_chains: int, num_steps: int) -> Verdict:
    """Estimate log Z and ask a pilot run whether the schedule was long enough; it costs a quarter more.

    Chains that are annealed too fast miss most of Z: log Z comes out low and likelihoods high.

    Args:
        estimate: (num_chains, num_steps) to log Z, such as `Normalises.log_partition`.
        num_chains: Independent chains.
        num_steps: Steps of the run.
    """
    run = estimate(num_chains, num_steps)
    if run.num_steps == 0:
        return Verdict(run, run, None, None)
    pilot = estimate(num_chains, max(1, num_steps // SHORTER))
    refusal = rerun = None
    if run.ess < LOWEST_ESS:
        refusal = f"the effective number of chains must be at least {LOWEST_ESS:g}, got {run.ess:.1f}"
    sigma = math.hypot(run.error, pilot.error)
    if run.spread > WIDEST_SPREAD:
        rerun = f"log-weights must spread by at most {WIDEST_SPREAD:g} nat, got {run.spread:.1f}"
    elif not abs(run.log_z - pilot.log_z) <= SIGMAS * sigma:
        rerun = (
            f"log Z must agree with that of {pilot.num_steps} steps, {pilot.log_z:.2f}, "
            f"within {SIGMAS:g} standard errors of {sigma:.2f}, got {run.log_z:.2f}"
        )
    return Verdict(run, pilot, refusal, rerun)


def base_rates(mean: Tensor) -> Float[Tensor, " units"]:  # noqa: F722
    """Logits [D] of the means of binary units, such as a mean image, with 5 % pseudo-counts of 0 and of 1."""
    return ((mean.flatten() + PSEUDO_COUNTS) / (1 + 2 * PSEUDO_COUNTS)).logit()


class PairState(NamedTuple):
    """Chains of a `BinaryPair`."""

    v: Tensor
    """[M, D], zeros and ones."""
    drive: Tensor
    """vW + b, [M, H]."""
    base: Tensor
    """c0 v, [M], float64."""
    bias: Tensor
    """c v, [M], float64."""


class BinaryPair(Path[PairState]):
    """Two layers of binary units, exp(vWh + bh + cv), annealed from independent v; h is summed out.

    log f_beta(v) = (1 - beta) c0 v + beta c v + sum_j softplus(beta (vW + b)_j).

    Args:
        weight: W, [D, H].
        hidden_bias: b, [H].
        visible_bias: c, [D].
        base: c0, [D]: logits of the start, such as `base_rates`.

    Raises:
        UsageError: If the biases do not fit the weight.
    """

    def __init__(self, weight: Tensor, hidden_bias: Tensor, visible_bias: Tensor, base: Tensor) -> None:
        sizes = (len(visible_bias), len(hidden_bias))
        require(tuple(weight.shape) == sizes, f"weight must be {sizes}, got {tuple(weight.shape)}")
        require(len(base) == sizes[0], f"base must have {sizes[0]} units, got {len(base)}")
        self.weight, self.b, self.c, self.c0 = (
            value.detach() for value in (weight, hidden_bias, visible_bias, base)
        )
        self.log_z0 = sizes[1] * math.log(2) + float(softplus(self.c0.double()).sum())

    def place(self, v: Units) -> PairState:
        """Chains at visible states [M, D]."""
        base, bias = (v @ torch.stack((self.c0, self.c), 1)).double().unbind(1)
        return PairState(v, torch.addmm(self.b, v, self.weight), base, bias)

    def start(self, num_chains: int) -> PairState:
        """Draws of v from the base rates."""
        return self.place(draw_bits(self.c0.expand(num_chains, -1)))

    def log_density(self, state: PairState, beta: float) -> Tensor:
        """The value of log f_beta(v), [M]; at beta = 1 minus the free energy."""
        hidden = softplus(beta * state.drive).sum(1, dtype=torch.float64)
        return (1 - beta) * state.base + beta * state.bias + hidden

    def transition(self, state: PairState, beta: float) -> PairState:
        """Draw h given v, then v given h."""
        h = draw_bits(beta * state.drive)
        return self.place(
            draw_bits(torch.addmm((1 - beta) * self.c0 + beta * self.c, h, self.weight.T, alpha=beta))
        )

    def swapped(self) -> "BinaryPair":
        """The same model with its layers exchanged; its chains start at one half."""
        return BinaryPair(self.weight.T, self.c, self.b, torch.zeros_like(self.b))

    def smaller(self) -> "BinaryPair":
        """The model with its smaller layer as v."""
        return self if len(self.c) <= len(self.b) else self.swapped()

    def log_densities(self) -> Float[Tensor, " settings"]:  # noqa: F722
        """The value of log f_1 at all 2^D settings of v, in the order of `settings`; float64.

        Raises:
            UsageError: If there are more than 20 units in v.
        """
        units = len(self.c)
        require(
            units <= ENUMERABLE, f"a layer must have at most {ENUMERABLE} units to be enumerated, got {units}"
        )
        exact = BinaryPair(self.weight.double(), self.b.double(), self.c.double(), self.c0.double())
        scores = exact.c.new_empty(2**units)
        rows = max(1, ENUMERATED_AT_ONCE // max(self.weight.shape))
        for numbers in torch.arange(2**units, device=scores.device).split(rows):
            scores[numbers] = exact.log_density(exact.place(settings(numbers, exact.c)), 1.0)
        return scores

    def exact_draws(self, num_chains: int) -> Units:
        """Independent draws of v from the model, [M, D]; only where a layer can be enumerated."""
        smaller = self.smaller()
        numbers = torch.multinomial(smaller.log_densities().softmax(0), num_chains, replacement=True)
        drawn = settings(numbers, smaller.c)
        return drawn if smaller is self else draw_bits(torch.addmm(self.c, drawn, self.weight.T))


def settings(numbers: Tensor, like: Tensor) -> Units:
    """Binary digits of integers [M], the lowest first: states [M, D] of as many units as `like` has."""
    return (numbers[:, None] >> torch.arange(len(like), device=numbers.device) & 1).to(like.dtype)


def log_partition(
    pair: BinaryPair, num_chains: int, num_steps: int, schedule: Callable[[int], Betas] = tripartite
) -> Partition:
    """The log Z of a pair: summed where the smaller layer has at most 20 units, else annealed.

    Args:
        pair: Two layers of binary units.
        num_chains: Independent chains.
        num_steps: Steps from the base rates to the pair.
        schedule: Number of steps to inverse temperatures.
    """
    if min(pair.weight.shape) <= ENUMERABLE:
        return exactly(float(pair.smaller().log_densities().logsumexp(0)))
    return partition(anneal(pair, num_chains, schedule(num_steps))[0], num_steps)


@torch.no_grad()
def raise_log_prob(path: BinaryPair, x: Units, num_chains: int, betas: Betas) -> PerImage:
    """A lower bound, in expectation, on log p of the annealed model at each image, [B] (RAISE, algorithm 2).

    The annealed model draws v by running the chain of `anneal` forwards, and comes close to the pair itself
    when the schedule is long. Cost and memory are those of B * num_chains chains.

    Args:
        path: The pair that is annealed.
        x: Binary images [B, D].
        num_chains: Chains per image.
        betas: Inverse temperatures, from 0 to 1.

    Raises:
        UsageError: If `num_chains` is below 1.
    """
    require(num_chains >= 1, f"num_chains must be at least 1, got {num_chains}")
    start = path.place(x.repeat(num_chains, 1))
    log_w = anneal_back(path, start, betas)[0]
    return log_mean_exp((path.log_density(start, 1.0) - log_w).unflatten(0, (num_chains, len(x))))


class LatentState(NamedTuple):
    """Chains of latents, K for each of B images."""

    z: Tensor
    """[K, B, D]."""
    log_start: Tensor
    """log of the normalised density at the start, [K, B]."""
    log_joint: Tensor
    """log p(x, z), [K, B]."""
    log_step: Tensor
    """log of the step size, [B]."""
    accepted: Tensor
    """Probabilities of acceptance so far, averaged over chains and summed over transitions, [B]."""


class LatentPath(Path[LatentState]):
    """From the prior, or the approximate posterior, to p(x, z): z by Hamiltonian Monte Carlo.

    f_beta(z) = s(z)^(1 - beta) p(x, z)^beta with s(z) = p(z) (Wu et al. 2017, equation 4) or q(z|x).

    Args:
        explanation: Prior, posterior and likelihood of the latents of B images.
        start: The density s.
    """

    log_z0 = 0.0

    def __init__(self, explanation: Explanation, start: Start) -> None:
        self.explanation = explanation
        (images,) = explanation.posterior.batch_shape
        prior = start == "prior"
        self.first, self.shape = (explanation.prior, (images,)) if prior else (explanation.posterior, ())

    def place(self, z: Tensor) -> LatentState:
        """Chains at latents [K, B, D], with a first step size."""
        log_start, log_joint, _ = self._look(z, 1.0)
        log_step = torch.full_like(z[0, :, 0], math.log(FIRST_STEP_SIZE))
        return LatentState(z, log_start, log_joint, log_step, torch.zeros_like(log_step))

    def start(self, num_chains: int) -> LatentState:
        """Draws from s."""
        return self.place(self.first.sample(torch.Size((num_chains, *self.shape))))

    def log_density(self, state: LatentState, beta: float) -> Tensor:
        """The value of log f_beta(z), [K, B]."""
        return (1 - beta) * state.log_start.double() + beta * state.log_joint.double()

    def transition(self, state: LatentState, beta: float) -> LatentState:
        """Ten leapfrog steps from a fresh momentum, accepted or refused; then the step size moves on."""
        size = state.log_step.exp() * (1 + JITTER * (2 * torch.rand_like(state.log_step) - 1))
        size = size.unsqueeze(-1)
        z, momentum = state.z, torch.randn_like(state.z)
        kinetic = 0.5 * momentum.square().sum(-1)
        slope = self._look(z, beta)[2]
        for _ in range(LEAPFROG_STEPS):
            momentum = momentum + 0.5 * size * slope
            z = z + size * momentum
            log_start, log_joint, slope = self._look(z, beta)
            momentum = momentum + 0.5 * size * slope
        there = state._replace(z=z, log_start=log_start, log_joint=log_joint)
        log_ratio = self.log_density(there, beta) - self.log_density(state, beta)
        log_ratio = log_ratio + kinetic - 0.5 * momentum.square().sum(-1)
        accepted = log_ratio.exp().clamp(max=1).nan_to_num(0.0)  # a trajectory that diverged is refused
        chosen = torch.rand_like(accepted) < accepted
        mean = accepted.mean(0).to(state.log_step)
        return LatentState(
            torch.where(chosen.unsqueeze(-1), z, state.z),
            torch.where(chosen, log_start, state.log_start),
            torch.where(chosen, log_joint, state.log_joint),
            state.log_step + ADAPTATION * (mean - ACCEPTANCE),
            state.accepted + mean,
        )

    def _look(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """The values of log s(z) and log p(x, z), and the gradient of log f_beta in z alone."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start = self.first.log_prob(z)
            log_joint = self.explanation.prior.log_prob(z) + self.explanation.log_likelihood(z)
            (slope,) = torch.autograd.grad(((1 - beta) * log_start + beta * log_joint).sum(), z)
        return log_start.detach(), log_joint.detach(), slope


class LatentEstimate(NamedTuple):
    """What annealed latents say of B images."""

    log_prob: PerImage
    """The value of log p(x) in nats, float64."""
    ess: PerImage
    """Effective number of chains."""
    acceptance: PerImage
    """Mean acceptance of the Hamiltonian moves."""


def latent_ais(
    explanation: Explanation, num_chains: int, num_steps: int, start: Start = "prior"
) -> LatentEstimate:
    """Log p(x) of a model with a decoder: a lower bound in expectation (Wu et al. 2017, section 3).

    Args:
        explanation: Prior, posterior and likelihood of the latents of B images, as from `Explains.explain`.
        num_chains: K, chains per image; all K * B are decoded at once.
        num_steps: Steps of the sigmoid schedule.
        start: Where the chains start.
    """
    log_w, last = anneal(LatentPath(explanation, start), num_chains, sigmoid(num_steps))
    return LatentEstimate(log_mean_exp(log_w), effective_size(log_w), last.accepted / max(1, num_steps - 1))


def latent_ais_back(
    explanation: Explanation, z: Codes, num_chains: int, num_steps: int, start: Start = "prior"
) -> LatentEstimate:
    """Log p(x) of images that were drawn from the model: an upper bound in expectation.

    Args:
        explanation: Prior, posterior and likelihood of the latents of those B images.
        z: The latents [B, D] from which they were drawn.
        num_chains: K, chains per image.
        num_steps: Steps of the sigmoid schedule.
        start: Where the chains end.
    """
    path = LatentPath(explanation, start)
    log_w, last = anneal_back(path, path.place(z.expand(num_chains, *z.shape)), sigmoid(num_steps))
    return LatentEstimate(upper_bound(log_w), effective_size(-log_w), last.accepted / num_steps)
