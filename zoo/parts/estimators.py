"""Weights into estimates, once each. All logarithms are natural, all results in nats."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from zoo.contract.capabilities import Weights
from zoo.contract.shapes import Images, PerImage, PerSample
from zoo.errors import require

PIXELS_IN_CACHE = 1_600_000
"""Pixels, or other numbers of draws, decoded at once on a CPU: larger chunks leave the cache, smaller ones
pay for Python."""
PIXELS_ON_DEVICE = 2**27
"""The same on an accelerator."""
IMAGES_WEIGHED_AT_ONCE = 50
"""Images per slice on a CPU: the encoder runs once per chunk of samples, so few images and many samples."""
PAIRS_AT_ONCE = 2**20
"""Pairs of a value and a distribution whose log-probabilities are held at once: 8 MiB an array."""


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """The value of log (1/K) sum_k exp(log_w_k) along `dim`."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


def log_sum_of_others(log_w: Tensor) -> Tensor:
    """For every row of [n, ...] the log of the sum of exp over all other rows; -inf where there is none."""
    none = torch.full_like(log_w[:1], -math.inf)
    before = torch.cat((none, log_w[:-1].logcumsumexp(0)))
    after = torch.cat((log_w[1:].flip(0).logcumsumexp(0).flip(0), none))
    return torch.logaddexp(before, after)


class Bound(NamedTuple):
    """What K importance samples per image say, each [B], float64, in nats (`ess` in samples)."""

    log_prob: Tensor
    """L_K = log (1/K) sum_k w_k, a lower bound of log p(x) in expectation."""
    elbo: Tensor
    """(1/K) sum_k log w_k = -(rate + distortion)."""
    rate: Tensor
    """E_q[log q(z|x) - log p(z)]."""
    distortion: Tensor
    """-E_q[log p(x|z)]."""
    ess: Tensor
    """Effective sample size (sum w)^2 / sum w^2, between 1 and K."""


class StreamedBound:
    """Running importance bound of B images: any number of chunks of weights, constant memory.

    Keeps per image the largest log-weight m and the sums of exp(lw - m) and exp(2(lw - m)) in float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self.peak = self.mass = self.mass_of_squares = torch.tensor(0.0)
        self.log_likelihood = self.log_ratio = torch.tensor(0.0, dtype=torch.float64)

    def update(self, weights: Weights) -> None:
        """Add a chunk of weights [k, B]."""
        log_w = weights.log_w.double()
        peak = log_w.amax(0) if self.count == 0 else torch.maximum(self.peak, log_w.amax(0))
        decay = 0.0 if self.count == 0 else (self.peak - peak).exp()
        w = (log_w - peak).exp()
        self.mass = self.mass * decay + w.sum(0)
        self.mass_of_squares = self.mass_of_squares * decay**2 + w.square().sum(0)
        self.log_likelihood = self.log_likelihood + weights.log_likelihood.double().sum(0)
        self.log_ratio = self.log_ratio + weights.log_ratio.double().sum(0)
        self.peak = peak
        self.count += log_w.shape[0]

    def compute(self) -> Bound:
        """The bound after all chunks so far."""
        require(self.count > 0, "num_samples must be at least 1, got 0")
        distortion = -self.log_likelihood / self.count
        rate = -self.log_ratio / self.count
        return Bound(
            log_prob=self.peak + self.mass.log() - math.log(self.count),
            elbo=-(rate + distortion),
            rate=rate,
            distortion=distortion,
            ess=self.mass.square() / self.mass_of_squares,
        )


@torch.no_grad()
def importance_bound(
    weigh: Callable[[Images, int], Weights], x: Images, num_samples: int, draw_size: int | None = None
) -> Bound:
    """The importance-weighted bound of Burda et al. (2016), equation 8, in bounded memory for any K.

    Args:
        weigh: Draws weights [k, b] for images [b, C, H, W], such as `Weighs.weigh`.
        x: Images [B, C, H, W].
        num_samples: K, samples per image.
        draw_size: Numbers that one draw for one image takes (`Weighs.draw_size`); None counts its pixels.

    Raises:
        UsageError: If `num_samples` or `draw_size` is below 1.
    """
    require(num_samples >= 1, f"num_samples must be at least 1, got {num_samples}")
    size = x[0].numel() if draw_size is None else draw_size
    require(size >= 1, f"draw_size must be at least 1, got {size}")
    on_cpu = x.device.type == "cpu"
    images = IMAGES_WEIGHED_AT_ONCE if on_cpu else len(x)
    budget = PIXELS_IN_CACHE if on_cpu else PIXELS_ON_DEVICE
    parts = []
    for part in x.split(max(1, images)):
        chunk = max(1, budget // (len(part) * size))
        stream = StreamedBound()
        while stream.count < num_samples:
            stream.update(weigh(part, min(chunk, num_samples - stream.count)))
        parts.append(stream.compute())
    return Bound(*(torch.cat(column) for column in zip(*parts, strict=True)))


def iwae_bound(log_w: PerSample) -> PerImage:
    """L_K of weights [K, B], differentiable (Burda et al. 2016, equation 8)."""
    return log_mean_exp(log_w, 0)


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Sum over latents of max(floor, batch mean of KL_j), kl [B, D] (Kingma et al. 2016, appendix C.8).

    The KL is that of every unit, as from `divergences.kl_of_units`.
    """
    return kl.mean(0).clamp(min=floor).sum()


def gradient_norms(f: Callable[[Tensor], Tensor], x: Images) -> PerImage:
    """Norm over all pixels of the gradient of f at each image, in float32; differentiable in f's parameters.

    Args:
        f: Images [B, C, H, W] to one number each, [B], each of its own image alone.
        x: Images [B, C, H, W].
    """
    with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
        x = x.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def active_units(means: Tensor, threshold: float = 1e-2, prior_variance: float | Tensor = 1.0) -> Tensor:
    """Which columns of posterior means [N, D] vary by over `threshold` (Burda et al. 2016, section 5.2).

    Args:
        means: E[z|x] of N images.
        threshold: Share of the prior's variance.
        prior_variance: What that is, one number or [D]: 1 for the N(0, I) of the paper.
    """
    return means.double().var(0) > threshold * torch.as_tensor(prior_variance, dtype=torch.float64)


def bits_per_dim(nats: float, dims: int, bytes_scaled: bool = False) -> float:
    """Nats per image to bits per dimension.

    Args:
        nats: Negative log-likelihood per image.
        dims: Number of pixel values C * H * W.
        bytes_scaled: The density is over dequantised bytes scaled to [0, 1]: 8 bits are added back.
    """
    return nats / (math.log(2) * dims) + (8.0 if bytes_scaled else 0.0)


def psnr(x: Images, y: Images) -> PerImage:
    """Peak signal-to-noise ratio between images [B, C, H, W] in [0, 1], in decibels."""
    return -10 * (x - y).square().flatten(1).mean(1).log10()


def pairwise_log_prob(distribution: Distribution, values: Tensor) -> Tensor:
    """The value of log p_j(x_i) of every x under every member of a batch of p, [N, M], float64.

    Independent Gaussian and Bernoulli variables cost a matrix product; others are broadcast, in chunks.

    Args:
        distribution: p, batch [M].
        values: x, [N, *event].
    """
    x = values.flatten(1).double()
    base = distribution.base_dist if isinstance(distribution, Independent) else None
    if isinstance(base, Normal):
        mean, precision = base.loc.flatten(1).double(), base.scale.flatten(1).double().square().reciprocal()
        squares = x.square() @ precision.T - 2 * x @ (precision * mean).T + (precision * mean.square()).sum(1)
        log_scale = 0.5 * (precision.log() - math.log(2 * math.pi)).sum(1)
        return log_scale - 0.5 * squares.clamp(min=0)
    if isinstance(base, Bernoulli):
        logits = base.logits.flatten(1).double()
        return x @ logits.T - torch.nn.functional.softplus(logits).sum(1)
    rows = max(1, PAIRS_AT_ONCE // (distribution.batch_shape[0] * x.shape[1]))
    return torch.cat([distribution.log_prob(part.unsqueeze(1)).double() for part in values.split(rows)])


class Conservative(NamedTuple):
    """What the states of a model's own Markov chains say of B images."""

    log_prob: Tensor
    """log (1/S) sum_s p(x|s) in nats, [B], float64; below log p(x) in expectation where the chains mix."""
    without: Tensor
    """The same without the states of each of the n chains, [n, B]; of a single chain -inf."""
    ess: Tensor
    """Effective number of states (sum p)^2 / sum p^2, [B], float64, 1 to S; NaN where every p(x|s) is 0."""
    num_states: int
    """S, over all chains and steps."""


@torch.no_grad()
def csl(emissions: Iterable[Distribution], x: Images) -> Conservative:
    """The conservative sampling-based log-likelihood, in memory that does not grow with the chains' length.

    Bengio, Yao and Cho, "Bounding the test log-likelihood of generative models", 2013, arXiv:1311.6184,
    equation 4. The chains must not start from the images that are scored.

    Args:
        emissions: p(x|state) of n chains, batch [n], event [C, H, W], step by step as `Emits.emit` yields
            them, without the steps in which the chains forget their start.
        x: Images [B, C, H, W].

    Raises:
        UsageError: If there is no emission, its shape is not that of the images, the number of chains
            changes, or a result is NaN.
    """
    mass = mass_of_squares = torch.empty(0)
    steps = 0
    for emission in emissions:
        batch, event = tuple(emission.batch_shape), tuple(emission.event_shape)
        suits = len(batch) == 1 and event == tuple(x.shape[1:])
        require(suits, f"emissions must be a batch of images {tuple(x.shape[1:])}, got {batch} of {event}")
        if steps == 0:
            mass = torch.full((len(x), *batch), -math.inf, dtype=torch.float64, device=x.device)
            mass_of_squares = mass[:, 0].clone()
        chains = mass.shape[1]
        require(batch[0] == chains, f"emissions must be of {chains} chains at every step, got {batch[0]}")
        rows = max(1, PAIRS_AT_ONCE // max(chains, x[0].numel()))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            log_p = pairwise_log_prob(emission, x[part])
            mass[part] = torch.logaddexp(mass[part], log_p)
            mass_of_squares[part] = torch.logaddexp(mass_of_squares[part], (2 * log_p).logsumexp(1))
        steps += 1
    require(steps > 0, "emissions must hold at least one state, got 0")
    bad = int(mass.isnan().any(1).sum())
    require(bad == 0, f"log-probabilities of emissions must not be NaN, got NaN for {bad} of {len(x)} images")
    total, chains = mass.logsumexp(1), mass.shape[1]
    without = log_sum_of_others(mass.T) - math.log(max(1, chains - 1) * steps)
    ess = (2 * total - mass_of_squares).exp()
    return Conservative(total - math.log(chains * steps), without, ess, chains * steps)
