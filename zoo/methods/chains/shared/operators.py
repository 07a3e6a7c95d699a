"""One transition operator at any temperature: chains heat on the way from the data, cool on the way back.

Goyal, Ke, Ganguli, Bengio. Variational Walkback. NIPS 2017. arXiv:1711.02282. Step k of a walk leads from
state s_k to s_(k+1), at temperature T_k; s_0 is the image.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo.contract import MID_GREY, Images, PerImage, PerSample
from zoo.methods.chains.shared.kernels import ReverseChain
from zoo.methods.chains.shared.products import Change, Kernel
from zoo.parts.distributions.bits import PIXEL_DIMS, bernoulli
from zoo.parts.distributions.gaussians import Gaussian
from zoo.parts.networks.dense import readout

FIRST_VARIANCE = 0.01
"""Of a pixel at temperature 1, above the floor, before anything is learnt."""
LOGIT_SCALE = 5.0
"""Bits are drawn with logits of at most so much either way, at temperature 1."""
LEAST_RATE = 1e-3
"""Least probability of either value of a bit where chains start."""


class Walk(NamedTuple):
    """A walk away from images, and what the way back under the same steps is worth."""

    end: Images
    """The last state, [B, C, H, W]."""
    log_back: PerSample
    """log p_T(s_k|s_(k+1)) of every step k, [steps, B]."""
    log_away: PerSample
    """log p_T(s_(k+1)|s_k), [steps, B]."""
    variance: Tensor
    """Mean variance of the first step at temperature 1, []."""


class Heating(NamedTuple):
    """How the temperature rises from 1."""

    factor: float
    """T_(k+1) / T_k while it rises."""
    cold_steps: int
    """Steps at temperature 1 before it rises."""
    most: int
    """Most steps in which it rises."""


class Cooling(NamedTuple):
    """What a sampler makes of the temperatures on the way back."""

    repeats: int
    """Steps at each temperature."""
    share: float
    """Share of the variance with which these are drawn."""
    extra: int
    """Steps at temperature 1 after them."""
    emission: Literal["kernel", "guess"]
    """The last image: the mean of the last step, or the network's guess in it."""


class NormedMLP(nn.Module):
    """Fully connected ReLU layers with layer norms: images [B, C, H, W] to maps [B, M, C, H, W].

    Args:
        image_shape: (C, H, W) of one image.
        maps: How many images M to read out.
        hidden_dims: Widths of the layers.
        num_norms: Norms of each layer: step k takes the k-th, or the last; 1 is shared by all steps.
    """

    def __init__(
        self, image_shape: Sequence[int], maps: int, hidden_dims: Sequence[int], num_norms: int
    ) -> None:
        super().__init__()
        dim = math.prod(image_shape)
        widths = [dim, *hidden_dims]
        self.shape = (maps, *image_shape)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.LayerNorm(width) for _ in range(num_norms)) for width in hidden_dims
        )
        self.shares_norms = num_norms == 1
        self.readout = readout(widths[-1], maps * dim)

    def forward(self, x: Images, step: int) -> Tensor:
        """Maps of the state that a step reads."""
        h = x.flatten(1)
        for layer, norms in zip(self.layers, cast("list[nn.ModuleList]", self.norms), strict=True):
            h = norms[min(step, len(norms) - 1)](layer(h)).relu()
        return self.readout(h).float().unflatten(1, self.shape)


class Operator(ReverseChain):
    """p_T(s'|s), the walks that it takes away from images, and the chain that leads back.

    Args:
        network: A state and its step to maps [B, M, C, H, W].
        image_shape: (C, H, W) of one image.
        alpha: Share of the old state in the mean of the new one.
        learns_alpha: Whether that is where it starts.
        heating: The temperatures of walks away.
        cooling: What becomes of them on the way back.
    """

    mean: Tensor
    """Of p*, the distribution of the ends of walks, [C, H, W]."""
    variance: Tensor
    """Of p*, [C, H, W]."""
    cold: Tensor
    """Mean variance of the first step of late, []."""
    hottest: Tensor
    """Variance to which walks heat, []."""
    heated: Tensor
    """K, steps of a walk in which the temperature rises, []."""

    def __init__(
        self,
        network: NormedMLP,
        image_shape: Sequence[int],
        alpha: float,
        learns_alpha: bool,
        heating: Heating,
        cooling: Cooling,
    ) -> None:
        super().__init__()
        self.network, self.heating, self.cooling = network, heating, cooling
        self.raw_alpha = nn.Parameter(torch.tensor(alpha).logit(), requires_grad=learns_alpha)
        for name, value in {
            "mean": torch.full(tuple(image_shape), MID_GREY),
            "variance": torch.ones(tuple(image_shape)),
            "cold": torch.tensor(FIRST_VARIANCE),
            "hottest": torch.tensor(1.0),
            "heated": torch.tensor(min(2, heating.most)),
        }.items():
            self.register_buffer(name, value)

    @property
    def alpha(self) -> Tensor:
        """Share of the old state, []."""
        return self.raw_alpha.sigmoid()

    @abstractmethod
    def guess(self, maps: Tensor) -> Images:
        """F(s): the images that the network reads out, in [0, 1]."""

    @abstractmethod
    def transition(self, s: Images, maps: Tensor, temperature: float) -> Independent:
        """p_T(s'|s), given what the network makes of s."""

    @abstractmethod
    def own_variance(self, maps: Tensor) -> Tensor:
        """Variance of a step at temperature 1, broadcast over [B, C, H, W]."""

    @abstractmethod
    def last(self) -> Distribution:
        """p*, event [C, H, W]."""

    def temperatures(self) -> list[float]:
        """T_k of every step of a walk away."""
        factor, cold_steps, _ = self.heating
        return [factor ** max(0, k - cold_steps) for k in range(cold_steps + int(self.heated))]

    def steps_to_heat(self) -> int:
        """The number K of steps after which the variance has risen to the hottest; at least one."""
        needed = math.ceil(math.log(float(self.hottest / self.cold)) / math.log(self.heating.factor))
        return min(max(1, needed), self.heating.most)

    def away(self, x: Images, through: bool = False, released: bool = False) -> Walk:
        """Walk away from images, and score the way back.

        Args:
            x: Images [B, C, H, W].
            through: Let gradients pass through the states and log p_T(s_(k+1)|s_k); else neither has one.
            released: Score the way back as the released code does, at s_k itself, which is wrong.
        """
        s, maps = x, self.network(x, 0)
        first = self.own_variance(maps).detach().mean()
        log_back, log_away = [], []
        through = through and torch.is_grad_enabled()
        for k, temperature in enumerate(self.temperatures()):
            q = self.transition(s, maps, temperature)
            with torch.set_grad_enabled(through):
                s_next = q.rsample() if q.has_rsample else q.sample()
                log_away.append(q.log_prob(s_next))
            maps_next = self.network(s_next, k)
            p = q if released else self.transition(s_next, maps_next, temperature)
            log_back.append(p.log_prob(s))
            s, maps = s_next, maps_next if self.network.shares_norms else self.network(s_next, k + 1)
        return Walk(s, torch.stack(log_back), torch.stack(log_away), first)

    def bracket(self, walk: Walk) -> PerImage:
        """What the bound averages over walks: log p* of the end, and back less away at every step, [B]."""
        return self.last().log_prob(walk.end) + (walk.log_back - walk.log_away).sum(0)

    @torch.no_grad()
    def start_at(self, mean: Tensor, variance: Tensor, hottest: Tensor) -> None:
        """Begin with moments [C, H, W] of the images, and with the variance [] to which walks heat."""
        self.mean.copy_(mean)
        self.variance.copy_(variance + FIRST_VARIANCE)
        self.hottest.copy_(hottest)

    @torch.no_grad()
    def track(self, moments: Sequence[Tensor], decay: float) -> None:
        """Move p* and the variance of the first step towards those of a batch.

        Args:
            moments: Mean and mean square of the ends, [C, H, W], and the variance of the first step, [].
            decay: Weight of what was there.
        """
        mean, square, cold = moments
        variance = square - 2 * self.mean * mean + self.mean.square()
        self.mean = self.mean.lerp(mean, 1 - decay)
        self.variance = self.variance.lerp(variance, 1 - decay)
        self.cold = self.cold.lerp(cold, 1 - decay)

    @property
    def num_steps(self) -> int:
        return self.cooling.repeats * len(self.temperatures()) + self.cooling.extra

    def noise(self, like: Images) -> Images:
        return self.last().sample((len(like),))

    def back(self, x: Images, step: int, change: Change | None) -> tuple[Kernel, Images]:
        repeats, share, extra, emission = self.cooling
        k = max(0, step - extra - 1) // repeats
        maps = self.network(x, k)
        kernel = self.kernel(self.transition(x, maps, self.temperatures()[k]), share)
        if emission == "guess" and step == 1:
            kernel = kernel._replace(mean=self.guess(maps))
        kernel = kernel if change is None else change(kernel, step)
        return kernel, self.draw(kernel)

    @abstractmethod
    def kernel(self, p: Distribution, share: float) -> Kernel:
        """A step's mean, and the share of its variance that is drawn."""

    @abstractmethod
    def draw(self, kernel: Kernel) -> Images:
        """The state after a step."""

    def returning(self, x: Images) -> Change:
        """What makes a chain start where walks away from images end."""
        end = self.away(x).end

        def change(kernel: Kernel, step: int) -> Kernel:
            return kernel._replace(mean=end) if step == self.num_steps + 1 else kernel

        return change


class GaussianOperator(Operator):
    """N(alpha s + (1 - alpha) F(s), T sigma^2) of grey pixels.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Widths of the network's layers.
        num_norms: Layer norms of each.
        variance: Whether sigma^2 depends on the state, or is one number per pixel.
        floor: Least sigma^2.
        others: What every operator takes.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int],
        num_norms: int,
        variance: Literal["pixel", "state"],
        floor: float,
        others: tuple[float, bool, Heating, Cooling],
    ) -> None:
        maps = 2 if variance == "state" else 1
        super().__init__(NormedMLP(image_shape, maps, hidden_dims, num_norms), image_shape, *others)
        self.floor = floor
        start = math.log(math.expm1(FIRST_VARIANCE))
        self.raw_variance: nn.Parameter | None = None
        if variance == "pixel":
            self.raw_variance = nn.Parameter(torch.full(tuple(image_shape), start))
        else:
            with torch.no_grad():
                self.network.readout.bias.unflatten(0, self.network.shape)[1].fill_(start)

    def guess(self, maps: Tensor) -> Images:
        return maps[:, 0].sigmoid()

    def own_variance(self, maps: Tensor) -> Tensor:
        raw = maps[:, 1] if self.raw_variance is None else self.raw_variance
        return nn.functional.softplus(raw) + self.floor

    def transition(self, s: Images, maps: Tensor, temperature: float) -> Independent:
        mean = torch.lerp(self.guess(maps), s, self.alpha)
        std = (temperature * self.own_variance(maps)).sqrt().expand_as(mean)
        return Independent(Gaussian(mean, std, validate_args=False), PIXEL_DIMS)

    def last(self) -> Independent:
        return Independent(Gaussian(self.mean, self.variance.sqrt(), validate_args=False), PIXEL_DIMS)

    def kernel(self, p: Distribution, share: float) -> Kernel:
        return Kernel(p.mean, share * p.variance)

    def draw(self, kernel: Kernel) -> Images:
        return kernel.mean + kernel.variance.sqrt() * torch.randn_like(kernel.mean)


class BernoulliOperator(Operator):
    """B(sigmoid of [alpha s + (1 - alpha) F(s)] / T) of bits, s and F(s) in +-5.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Widths of the network's layers.
        num_norms: Layer norms of each.
        others: What every operator takes.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_dims: Sequence[int],
        num_norms: int,
        others: tuple[float, bool, Heating, Cooling],
    ) -> None:
        super().__init__(NormedMLP(image_shape, 1, hidden_dims, num_norms), image_shape, *others)

    def guess(self, maps: Tensor) -> Images:
        return (1 + maps[:, 0].tanh()) / 2

    def own_variance(self, maps: Tensor) -> Tensor:
        p = (LOGIT_SCALE * maps[:, 0].tanh()).sigmoid()
        return p * (1 - p)

    def transition(self, s: Images, maps: Tensor, temperature: float) -> Independent:
        signs = torch.lerp(maps[:, 0].tanh(), 2 * s - 1, self.alpha)
        return bernoulli(LOGIT_SCALE / temperature * signs)

    def last(self) -> Independent:
        return bernoulli(self.mean.clamp(LEAST_RATE, 1 - LEAST_RATE).logit())

    def kernel(self, p: Distribution, share: float) -> Kernel:
        return Kernel(p.mean, p.variance)

    def draw(self, kernel: Kernel) -> Images:
        return torch.bernoulli(kernel.mean)
