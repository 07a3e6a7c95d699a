"""Annealing the latents of a model with a decoder, by Hamiltonian Monte Carlo.

Wu, Burda, Salakhutdinov, Grosse. On the Quantitative Analysis of Decoder-Based Generative Models. ICLR
2017. arXiv:1611.04273.

Departs from the paper: step sizes are adapted per image over all its chains, and jittered; latents with
bounds, such as sticks, move in coordinates without.
"""

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from zoo.contract.capabilities import Explanation
from zoo.contract.shapes import Codes, PerImage
from zoo.parts.annealing.paths import Path, anneal, anneal_back, effective_size, sigmoid, upper_bound
from zoo.parts.distributions.supports import unbounded
from zoo.parts.estimators import log_mean_exp

LEAPFROG_STEPS = 10
ACCEPTANCE = 0.65
"""Acceptance towards which step sizes are adapted (Wu et al. 2017, appendix)."""
FIRST_STEP_SIZE = 0.1
ADAPTATION = 0.2
"""Change of the log of the step size per unit of surplus acceptance."""
JITTER = 0.2
"""Largest relative change of a step size from one transition to the next, against resonance."""
Start = Literal["prior", "posterior"]


class LatentState(NamedTuple):
    """Chains of latents, K for each of B images."""

    z: Tensor
    """Coordinates without bounds: the latents themselves where these have none, [K, B, D]."""
    log_start: Tensor
    """log of the normalised density at the start, [K, B], in these coordinates."""
    log_joint: Tensor
    """log p(x, z), [K, B], in these coordinates."""
    log_step: Tensor
    """log of the step size, [B]."""
    accepted: Tensor
    """Probabilities of acceptance so far, averaged over chains and summed over transitions, [B]."""


class LatentPath(Path[LatentState]):
    """From the prior, or the approximate posterior, to p(x, z): z by Hamiltonian Monte Carlo.

    f_beta(z) = s(z)^(1 - beta) p(x, z)^beta with s(z) = p(z) (Wu et al. 2017, equation 4) or q(z|x). Latents
    with bounds (sticks, a simplex) move in torch's coordinates without, to which both densities are brought
    by the Jacobian.

    Args:
        explanation: Prior, posterior and likelihood of the latents of B images.
        start: The density s.

    Raises:
        UsageError: If the prior's or the posterior's latents are discrete, or do not say where they live.
    """

    log_z0 = 0.0

    def __init__(self, explanation: Explanation, start: Start) -> None:
        self.explanation = explanation
        (images,) = explanation.posterior.batch_shape
        prior = start == "prior"
        self.first, self.shape = (explanation.prior, (images,)) if prior else (explanation.posterior, ())
        unbounded(explanation.posterior)  # refused where its draws cannot be moved, whatever the prior's
        self.values = unbounded(explanation.prior)

    def place(self, z: Tensor) -> LatentState:
        """Chains at latents [K, B, D], with a first step size."""
        z = cast(Tensor, self.values.inv(z))
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
        """The values of log s(z) and log p(x, z), and the gradient of log f_beta in z alone.

        Coordinates that have diverged are not looked at: their densities are zero.
        """
        lost = ~z.isfinite().all(-1)
        with torch.enable_grad():
            z = z.detach().masked_fill(lost.unsqueeze(-1), 0).requires_grad_()
            latents = cast(Tensor, self.values(z))
            log_volume = self.values.log_abs_det_jacobian(z, latents)
            log_start = self.first.log_prob(latents) + log_volume
            log_joint = self.explanation.prior.log_prob(latents) + log_volume
            log_joint = log_joint + self.explanation.log_likelihood(latents)
            (slope,) = torch.autograd.grad(((1 - beta) * log_start + beta * log_joint).sum(), z)
        nowhere = -math.inf
        return (
            log_start.detach().masked_fill(lost, nowhere),
            log_joint.detach().masked_fill(lost, nowhere),
            slope,
        )


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
