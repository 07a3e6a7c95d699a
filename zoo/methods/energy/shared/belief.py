"""The layers of a deep belief net: directed ones below, an RBM at the top."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import softplus

from zoo.contract import Codes, Images, PerImage
from zoo.methods.energy.shared.contrastive import first_weights
from zoo.methods.energy.shared.visible import BinaryVisible
from zoo.parts.distributions.bits import bernoulli, draw_bits
from zoo.parts.estimators import log_mean_exp


class Level(nn.Module):
    """Two neighbouring layers of bits: first an RBM, then p(v|h) by its weights and q(h|v) by its own.

    The top level stays an RBM, and has no other weights.

    Args:
        shape: (C, H, W) of the layer below.
        num_hidden: Units of the layer above.
        top: Whether it stays an RBM.
    """

    def __init__(self, shape: tuple[int, ...], num_hidden: int, top: bool) -> None:
        super().__init__()
        self.pixels = BinaryVisible(shape)
        self.weight = first_weights(self.pixels.dim, num_hidden)
        self.bias = nn.Parameter(torch.zeros(num_hidden))
        self.top = top
        if not top:
            self.weight_up = nn.Parameter(self.weight.detach().clone())
            self.bias_up = nn.Parameter(self.bias.detach().clone())

    @property
    def theta(self) -> tuple[nn.Parameter, ...]:
        """What the RBM learns: W, b, c, and what else it has."""
        return self.weight, self.bias, self.pixels.bias

    def drive(self, v: Tensor) -> Tensor:
        """The RBM's logits vW + b of p(h = 1|v), [B, H]."""
        return (v @ self.weight).to(self.bias) + self.bias

    def free_energy(self, v: Tensor) -> Tensor:
        """The RBM's F(v) = -log sum_h exp(vWh + bh + cv), [B]."""
        return self.pixels.energy(v) - softplus(self.drive(v)).sum(1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, num_steps: int) -> Tensor:
        """Units [B, D] after steps h ~ p(h|v), v ~ p(v|h) of the RBM."""
        for _ in range(num_steps):
            h = draw_bits(torch.addmm(self.bias, v, self.weight).to(self.bias))
            v = draw_bits(torch.addmm(self.pixels.bias, h, self.weight.T).to(self.bias))
        return v

    @torch.no_grad()
    def tie(self) -> None:
        """Set the weights of q(h|v) to those of the RBM."""
        if not self.top:
            self.weight_up.copy_(self.weight)
            self.bias_up.copy_(self.bias)

    def up(self, v: Tensor) -> Tensor:
        """The logits of q(h = 1|v), [B, H]; at the top those of p(h = 1|v)."""
        if self.top:
            return self.drive(v)
        return (v @ self.weight_up).to(self.bias_up) + self.bias_up

    def down(self, h: Tensor) -> Tensor:
        """The logits of p(v = 1|h), [B, D]."""
        return (h @ self.weight.T).to(self.bias) + self.pixels.bias


class Stack(nn.Module):
    """Levels from the pixels up, each one's upper layer the lower layer of the next.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Units of the hidden layers.
        top: The top level, of the last two layers; by default a plain RBM.
    """

    levels: Sequence[Level]

    def __init__(
        self, image_shape: tuple[int, ...], hidden_dims: Sequence[int], top: Level | None = None
    ) -> None:
        super().__init__()
        shapes = [image_shape, *((1, 1, width) for width in hidden_dims)]
        *directed, last = zip(shapes, hidden_dims, strict=False)
        levels = [Level(shape, width, False) for shape, width in directed]
        levels.append(Level(*last, True) if top is None else top)
        self.levels = cast("Sequence[Level]", nn.ModuleList(levels))

    @property
    def top(self) -> Level:
        """The RBM."""
        return self.levels[-1]

    def means(self, x: Images, depth: int) -> Codes:
        """Means of the units at a depth, those of the pixels at 0, passed up from images."""
        h = x.flatten(1)
        for level in self.levels[:depth]:
            h = level.up(h).sigmoid()
        return h

    @torch.no_grad()
    def ascend(self, v: Tensor, depth: int) -> list[Tensor]:
        """Units [B, D], then samples of those above them up to a depth."""
        layers = [v]
        for level in self.levels[:depth]:
            layers.append(draw_bits(level.up(layers[-1])))
        return layers

    def wake(self, layers: Sequence[Tensor]) -> PerImage:
        """Minus log p(v|h) of every directed level, given the units of all layers but the uppermost, [B]."""
        terms = [
            bernoulli(level.down(above), 1).log_prob(below)
            for level, below, above in zip(self.levels, layers, layers[1:], strict=False)
        ]
        return -torch.stack(terms).sum(0)

    def sleep(self, h: Tensor) -> PerImage:
        """Minus log q(h|v) of every directed level, [B], dreaming from units [B, D] next to the top."""
        terms = []
        for level in self.levels[-2::-1]:
            with torch.no_grad():
                v = draw_bits(level.down(h))
            terms.append(bernoulli(level.up(v), 1).log_prob(h))
            h = v
        return -torch.stack(terms).sum(0)

    @torch.no_grad()
    def bound(self, x: Images, num_samples: int) -> PerImage:
        """A lower bound, in expectation, on log p(x) + log Z of the top level, in nats, [B].

        L_K of the hidden layers h drawn from q(h|x): log-mean-exp of log p(x, h) - log q(h|x), the top
        level's own units summed out.
        """
        weights = []
        for _ in range(num_samples):
            layers = self.ascend(x.flatten(1), len(self.levels) - 1)
            log_w = -self.top.free_energy(layers[-1]) - self.wake(layers)
            for level, below, above in zip(self.levels, layers, layers[1:], strict=False):
                log_w = log_w - bernoulli(level.up(below), 1).log_prob(above)
            weights.append(log_w)
        return log_mean_exp(torch.stack(weights))

    @torch.no_grad()
    def emission(self, h: Tensor) -> Independent:
        """p(x|h) of the units [B, D] next to the top, those between drawn."""
        for level in self.levels[-2:0:-1]:
            h = draw_bits(level.down(h))
        return self.levels[0].pixels.emission(self.levels[0].down(h))

    def decode(self, z: Codes, depth: int) -> Images:
        """Mean images [B, C, H, W] of units at a depth, means passed down."""
        for level in reversed(self.levels[:depth]):
            z = level.down(z).sigmoid()
        return z.unflatten(1, self.levels[0].pixels.shape)
