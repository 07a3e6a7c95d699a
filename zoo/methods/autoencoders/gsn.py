"""Bengio, Thibodeau-Laufer, Alain, Yosinski. Deep Generative Stochastic Networks Trainable by Backprop.

ICML 2014. arXiv:1306.1091. Settings: the released code.

Departs from the paper: chains start in training images, not in a test image; Adam, a cosine schedule and
biases that start at the mean image are options. The loss is a sum over pixels and the momentum a plain one:
the default step size is the released code's 0.25 on the mean over pixels, at 28 x 28, times the 0.5 with
which its average of gradients takes up the newest. One hidden layer without noise makes a denoising
autoencoder: the same loss and the same chain.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from zoo.contract import (
    Batch,
    Codes,
    Decodes,
    Descent,
    Emits,
    Encodes,
    Images,
    PixelKind,
    Reconstructs,
    Repairs,
    Terms,
)
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.methods.autoencoders.shared.starts import draw_starts, keep_starts
from zoo.parts.corruption import SaltAndPepper
from zoo.parts.distributions.bits import bernoulli
from zoo.parts.distributions.pixels import MEAN_RANGE
from zoo.parts.optimizers import adam, sgd
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from

Hidden = list[Tensor]
"""States of the hidden layers, from the pixels up, each [B, units]."""


class GSN(Descent, Emits, Encodes, Decodes, Reconstructs, Repairs):
    """Generative stochastic network: a chain of noisy layers that read both neighbours, trained to lead to x.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the hidden layers, from the pixels up; neighbours share one matrix both ways.
        level: Probability that a pixel is replaced by a coin before a step.
        noise: Standard deviation of the noise that noisy units get before their tanh, and again after it.
        noisy_first: Whether units of the hidden layer next to the pixels are noisy too.
        walkback_steps: Steps of the chain that are trained to lead back to the image, at least the number of
            hidden layers, or the top one would say nothing.
        bias_start: Biases of the pixels start at `zero`, or so that the network gives the mean training image
            where its units are at zero (`mean`), which saves the first thousands of batches.
        num_starts: Images of the first training batch that are kept with the weights and in which chains
            start; 0 starts them in random bits.
        walk_steps: Steps of a chain from its start to the sample.
        burn_in_steps: Steps of a chain before those whose states count for the conservative likelihood and
            the Parzen window of chains.
        emit_steps: Steps after these, whose states count.
        optimizer: The optimizer.
        lr: Its step size at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: `constant`; over the trainer's epochs `exponential`, by the same ratio in each, or
            `cosine`.
        momentum: Momentum of `sgd`.

    Raises:
        UsageError: If a size, level or step size is out of range, or the steps of walkback are too few.
    """

    paper = "Bengio et al. Deep Generative Stochastic Networks Trainable by Backprop. ICML 2014."
    starts: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (1500, 1500),
        level: float = 0.4,
        noise: float = 2.0,
        noisy_first: bool = False,
        walkback_steps: int = 4,
        bias_start: Literal["zero", "mean"] = "zero",
        num_starts: int = 100,
        walk_steps: int = 1000,
        burn_in_steps: int = 1000,
        emit_steps: int = 1000,
        optimizer: Literal["sgd", "adam"] = "sgd",
        lr: float = 0.125 / 784,
        lr_final: float = 0.125 / 784 * 0.995**1000,
        lr_schedule: Literal["constant", "exponential", "cosine"] = "exponential",
        momentum: float = 0.5,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        positive(hidden_dims=hidden_dims, lr=lr, lr_final=lr_final)
        at_least(1, walk_steps=walk_steps, emit_steps=emit_steps)
        not_negative(noise=noise, num_starts=num_starts, burn_in_steps=burn_in_steps)
        share(momentum=momentum)
        require(
            walkback_steps >= len(hidden_dims),
            f"walkback_steps must be at least the number of hidden layers, {len(hidden_dims)}, "
            f"got {walkback_steps}",
        )
        self.hidden_dims, self.noise, self.noisy_first = hidden_dims, noise, noisy_first
        self.walkback_steps, self.bias_start, self.walk_steps = walkback_steps, bias_start, walk_steps
        self.burn_in_steps, self.emit_steps = burn_in_steps, emit_steps
        self.optimizer_name, self.lr, self.lr_final, self.momentum = optimizer, lr, lr_final, momentum
        self.lr_schedule: Schedule = lr_schedule
        self.corrupt = SaltAndPepper(level)
        widths = (math.prod(self.image_shape), *hidden_dims)
        self.weights = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(above, below))
            for below, above in zip(widths, hidden_dims, strict=False)
        )
        self.biases = nn.ParameterList(torch.zeros(width) for width in widths)
        self.register_buffer("starts", torch.zeros(num_starts, *self.image_shape))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary", "pseudo")

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("starts",)

    @torch.no_grad()
    def start_from(self, data: Any) -> None:
        """Start untouched biases of the pixels at the mean training image, if asked to."""
        bias = self.biases[0]
        if self.bias_start == "mean" and not bias.any():
            bias.copy_(data.mean_image().clamp(*MEAN_RANGE).logit().flatten())

    def resting(self, x: Images) -> Hidden:
        """Hidden layers at zero, one row for each image."""
        return [x.new_zeros(len(x), width) for width in self.hidden_dims]

    def swept(self, x: Images, hidden: Hidden, noise: float) -> Hidden:
        """Hidden layers once those of odd number, then those of even number have read their neighbours."""
        layers, top = [x.flatten(1), *hidden], len(hidden)
        for i in (*range(1, top + 1, 2), *range(2, top + 1, 2)):
            a = nn.functional.linear(layers[i - 1], self.weights[i - 1], self.biases[i])
            if i < top:
                a = a + layers[i + 1] @ self.weights[i]
            noisy = noise > 0 and (i > 1 or self.noisy_first)
            layers[i] = _jittered(_jittered(a, noise).tanh(), noise) if noisy else a.tanh()
        return layers[1:]

    def emission(self, z: Codes) -> Independent:
        """p(x|h1) of states of the hidden layer next to the pixels."""
        logits = nn.functional.linear(z, self.weights[0].T, self.biases[0])
        return bernoulli(logits.unflatten(-1, self.image_shape))

    def step(self, x: Images, hidden: Hidden) -> tuple[Independent, Hidden]:
        """One step of the chain from images that it corrupts: p(x|h1) and the new hidden layers."""
        hidden = self.swept(self.corrupt(x), hidden, self.noise)
        return self.emission(hidden[0]), hidden

    def loss(self, batch: Batch) -> Terms:
        p, hidden = self.step(batch.x, self.resting(batch.x))
        distortions = [-p.log_prob(batch.x)]
        for _ in range(self.walkback_steps - 1):
            p, hidden = self.step(p.sample(), hidden)
            distortions.append(-p.log_prob(batch.x))
        return {"loss": torch.stack(distortions).sum(0), "distortion": distortions[0]}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep images of the first batch for chains to start in."""
        keep_starts(self.starts, batch.x)

    @torch.no_grad()
    def _next(self, x: Images, hidden: Hidden) -> tuple[Independent, Images, Hidden]:
        p, hidden = self.step(x, hidden)
        return p, p.sample(), hidden

    def _chain(self, n: int, generator: torch.Generator | None) -> Iterator[Independent]:
        with drawing_from(generator):
            x = draw_starts(self.starts, n)
        hidden = self.resting(x)
        while True:
            with drawing_from(generator):
                p, x, hidden = self._next(x, hidden)
            yield p

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        return islice(self._chain(n, generator), self.burn_in_steps, self.burn_in_steps + self.emit_steps)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return (p.mean for p in islice(self._chain(n, generator), self.walk_steps))

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known, mean, hidden = mask.bool(), x, self.resting(x)
        with drawing_from(generator):
            state = torch.where(known, x, torch.randint_like(x, 2))
            for _ in range(self.walk_steps):
                p, drawn, hidden = self._next(state, hidden)
                mean, state = p.mean, torch.where(known, x, drawn)
        return torch.where(known, x, mean)

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        """The hidden layer next to the pixels after as many steps without noise as are trained."""
        hidden = self.resting(x)
        for _ in range(self.walkback_steps):
            hidden = self.swept(x, hidden, 0.0)
        return hidden[0]

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.emission(z).mean

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    def configure_optimizers(self) -> dict:
        """The optimizer, its step size set at the start of each epoch."""
        parameters = self.parameters()
        optimizer = (
            adam(parameters, self.lr)
            if self.optimizer_name == "adam"
            else sgd(parameters, self.lr, self.momentum)
        )
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)


def _jittered(a: Tensor, noise: float) -> Tensor:
    return a + noise * torch.randn_like(a)
