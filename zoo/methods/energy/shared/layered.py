"""Layers of binary units, each coupled to its two neighbours: the machine, and the levels that pretrain it.

Salakhutdinov, Hinton. Deep Boltzmann Machines. AISTATS 2009.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import softplus

from zoo.contract import PerImage, Terms
from zoo.methods.energy.shared.contrastive import first_weights
from zoo.methods.energy.shared.visible import BinaryVisible
from zoo.parts.annealing.binary_pair import BinaryPair, base_rates
from zoo.parts.distributions.bits import draw_bits, entropy

MEANS_SETTLED = 1e-4
"""Mean change of the means at which mean field has converged."""
States = list[Tensor]
"""Units of all layers, from the pixels up, each [B, units]."""


class DoubledLevel(nn.Module):
    """Two neighbouring layers, learning as an RBM in which what stands in for a further neighbour is doubled.

    The hidden units of all levels but the last will have a layer above them: meanwhile a second copy of the
    layer below drives them. The visible units of all levels but the first have one below them: a second copy
    of the hidden layer drives these. A level with both is an ordinary RBM of twice the weights and biases.

    Args:
        shape: (C, H, W) of the layer below.
        num_hidden: Units of the layer above.
        below: Copies of the layer below, 1 or 2.
        above: Copies of the layer above.
    """

    def __init__(self, shape: tuple[int, ...], num_hidden: int, below: int, above: int) -> None:
        super().__init__()
        self.pixels = BinaryVisible(shape)
        self.weight = first_weights(self.pixels.dim, num_hidden)
        self.bias = nn.Parameter(torch.zeros(num_hidden))
        self.below, self.above = below, above

    @property
    def theta(self) -> tuple[nn.Parameter, ...]:
        """What it learns alone: W, b and c."""
        return self.weight, self.bias, self.pixels.bias

    def up(self, v: Tensor) -> Tensor:
        """The logits of p(h = 1|v), all copies of v alike, [B, H]."""
        return self.below * ((v @ self.weight).to(self.bias) + self.bias)

    def down(self, h: Tensor) -> Tensor:
        """The logits of p(v = 1|h), [B, D]."""
        return self.above * ((h @ self.weight.T).to(self.bias) + self.pixels.bias)

    def free_energy(self, v: Tensor) -> Tensor:
        """What has the gradient -v E[h|v] in the weights, [B]; half of it where both layers are doubled."""
        energy = self.pixels.energy(v) - softplus(self.up(v)).sum(1) / self.below
        return energy / min(self.below, self.above)

    def contrast(self, v: Tensor, num_steps: int) -> Terms:
        """The terms of contrastive divergence from units [B, D]."""
        v_model = v
        with torch.no_grad():
            for _ in range(num_steps):
                v_model = draw_bits(self.down(draw_bits(self.up(v_model))))
        data, model = self.free_energy(v), self.free_energy(v_model)
        return {"energy_data": data, "energy_model": model, "loss": data - model}


class LayeredMachine(nn.Module):
    """A deep Boltzmann machine: exp(-E), E = -sum of h_i W_i h_(i+1) - sum of b_i h_i over layers.

    Given the layers of odd number, those of even number, the pixels among them, are independent; and back.

    Args:
        image_shape: (C, H, W) of one image.
        hidden_dims: Units of the hidden layers, from the pixels up.
    """

    levels: Sequence[DoubledLevel]

    def __init__(self, image_shape: tuple[int, ...], hidden_dims: Sequence[int]) -> None:
        super().__init__()
        shapes = (image_shape, *((1, 1, width) for width in hidden_dims))
        last = len(hidden_dims) - 1
        levels = [
            DoubledLevel(shape, width, below=1 if i == last else 2, above=1 if i == 0 else 2)
            for i, (shape, width) in enumerate(zip(shapes, hidden_dims, strict=False))
        ]
        self.levels = cast("Sequence[DoubledLevel]", nn.ModuleList(levels))

    @property
    def pixels(self) -> BinaryVisible:
        """The layer of the image."""
        return self.levels[0].pixels

    @property
    def theta(self) -> list[nn.Parameter]:
        """What all levels learn together."""
        return [self.pixels.bias, *(p for level in self.levels for p in (level.weight, level.bias))]

    @property
    def biases(self) -> list[Tensor]:
        """Of all layers: one between two levels has the biases of both, of which the lower level's learn."""
        own = [level.bias for level in self.levels]
        other = [level.pixels.bias.detach() for level in self.levels[1:]]
        return [self.pixels.bias, *(b + a for b, a in zip(own, other, strict=False)), own[-1]]

    def drive(self, layers: States, i: int, below: Tensor | None = None) -> Tensor:
        """The logits of p(layer i = 1|its neighbours), [B, units]; the part from below may be given."""
        logits = self.biases[i]
        if i > 0:
            below = layers[i - 1] @ self.levels[i - 1].weight if below is None else below
            logits = logits + below.to(logits)
        if i < len(self.levels):
            logits = logits + (layers[i + 1] @ self.levels[i].weight.T).to(logits)
        return logits

    def energy(self, layers: States) -> PerImage:
        """E, or its mean where layers hold the means of independent units, [B]."""
        energy = -torch.stack([h @ b for h, b in zip(layers, self.biases, strict=True)]).sum(0)
        for level, below, above in zip(self.levels, layers, layers[1:], strict=False):
            energy = energy - ((below @ level.weight).to(above) * above).sum(1)
        return energy

    def free_energy(self, layers: States) -> PerImage:
        """-log of the sum of exp(-E) over the layers of odd number, given the others, [B]."""
        energy = -torch.stack([h @ b for h, b in zip(layers[::2], self.biases[::2], strict=True)]).sum(0)
        for i in range(1, len(layers), 2):
            energy = energy - softplus(self.drive(layers, i)).sum(1)
        return energy

    def bound(self, layers: States) -> PerImage:
        """A lower bound on log p of the pixels [B], up to log Z, from the means of the layers above them."""
        return torch.stack([entropy(means) for means in layers[1:]]).sum(0) - self.energy(layers)

    @torch.no_grad()
    def mean_field(self, v: Tensor, num_steps: int) -> States:
        """Pixels [B, D] and the means of the layers above: a pass upwards, then round after round."""
        layers = [v]
        for level, bias in zip(self.levels, self.biases[1:], strict=True):
            layers.append((level.below * (layers[-1] @ level.weight).to(bias) + bias).sigmoid())
        fixed = v @ self.levels[0].weight
        for _ in range(num_steps):
            old = layers[1:]
            for i in range(1, len(layers)):
                layers[i] = self.drive(layers, i, fixed if i == 1 else None).sigmoid()
            if all((a - b).abs().mean() < MEANS_SETTLED for a, b in zip(layers[1:], old, strict=True)):
                break
        return layers

    @torch.no_grad()
    def gibbs(self, layers: States, num_steps: int) -> States:
        """All layers after steps in which those of odd number are drawn, then those of even number."""
        layers = list(layers)
        for _ in range(num_steps):
            for i in (*range(1, len(layers), 2), *range(0, len(layers), 2)):
                layers[i] = draw_bits(self.drive(layers, i))
        return layers

    def start(self, n: int) -> States:
        """Independent units: pixels with the means of training images, hidden ones with one half."""
        hidden = [draw_bits(torch.zeros_like(level.bias).expand(n, -1)) for level in self.levels]
        return [self.pixels.start(n), *hidden]

    @staticmethod
    def joined(layers: States) -> Tensor:
        """The units of the layers of even number, which a step of `gibbs` starts from, [B, ...]."""
        return torch.cat(layers[::2], 1)

    def parted(self, even: Tensor) -> States:
        """All layers of what was `joined`, those of odd number not drawn yet: empty."""
        parts = iter(even.split([len(bias) for bias in self.biases[::2]], 1))
        return [even[:, :0] if i % 2 else next(parts) for i in range(len(self.biases))]

    @torch.no_grad()
    def emission(self, layers: States) -> Independent:
        """p(x|the layer above the pixels)."""
        return self.pixels.emission(self.drive(layers, 0))

    @torch.no_grad()
    def pair(self, particles: Tensor) -> BinaryPair:
        """The layers of odd number, annealed from independent units, and those of even number, summed out.

        Pixels start with the means of training images, hidden units with those of the model. From hidden
        units of one half all chains may end in a mode that has next to no mass, and agree.

        Args:
            particles: Draws from the model, `joined`, [M, ...].
        """
        biases, layers = self.biases, self.parted(particles)
        odd_layers = [self.drive(layers, i).sigmoid() for i in range(1, len(layers), 2)]
        odd_base = base_rates(torch.cat(odd_layers, 1).mean(0))
        hidden = particles[:, self.pixels.dim :].mean(0)
        even_base = torch.cat((base_rates(self.pixels.mean), base_rates(hidden)))
        sizes = [[len(bias) for bias in biases[parity::2]] for parity in (1, 0)]
        weight = biases[0].new_zeros(sum(sizes[0]), sum(sizes[1]))
        blocks = [rows.split(sizes[1], 1) for rows in weight.split(sizes[0])]
        for i, level in enumerate(self.levels):
            odd, even = (i // 2, i // 2 + i % 2)
            blocks[odd][even].copy_(level.weight if i % 2 else level.weight.T)
        odd, even = (torch.cat(biases[parity::2]) for parity in (1, 0))
        return BinaryPair(weight, even, odd, odd_base, even_base)
