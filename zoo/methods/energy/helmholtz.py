"""Hinton, Dayan, Frey, Neal. The Wake-Sleep Algorithm for Unsupervised Neural Networks. Science 268, 1995.

doi:10.1126/science.7761831. Also: Dayan, Hinton, Neal, Zemel. The Helmholtz Machine. Neural Computation 7(5),
1995. Bornschein, Bengio. Reweighted Wake-Sleep. ICLR 2015. arXiv:1406.2751 (`algorithm: reweighted`), whose
names the phases have.

Departs from the paper: Adam with a cosine in the place of plain gradient steps; the biases of the pixels
start at the mean training image, those of the hidden units at -1, as in the released code of 2015; in the
place of a sleep phase at every second step, each dreams half as many images (`dreams: 0.5`).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo.contract import (
    Batch,
    Codes,
    Decodes,
    Descent,
    Explains,
    Explanation,
    Images,
    Infers,
    PerImage,
    PerSample,
    PixelKind,
    Reconstructs,
    Samples,
    Side,
    Terms,
    Weights,
)
from zoo.errors import at_least, positive, require
from zoo.parts.distributions.autoregressive import BitHead, BitKind, bit_head, probabilities
from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.pixels import MEAN_RANGE
from zoo.parts.estimators import importance_bound, iwae_bound
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from, own_stream

FIRST_BIAS = -1.0
DRAWS_OF_POSTERIOR = 200
"""Draws of the layers below over which a layer's posterior mean is averaged."""
DRAWS_OF_PRIOR = 10_000
"""Draws from which the variances of the units under the prior are estimated."""


class Helmholtz(Descent, Samples, Explains, Infers, Decodes, Reconstructs):
    """Helmholtz machine: layers of bits that generate the image downwards and recognise it upwards.

    p(x, h) = p(h_L) ... p(h_1|h_2) p(x|h_1) and q(h|x) = q(h_1|x) ... q(h_L|h_{L-1}). No gradient crosses a
    draw: in the wake phase the generative net learns from recognised images, in the sleep phase the
    recognition net from dreamt ones.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the hidden layers, from the pixels up.
        algorithm: `wake_sleep`: all draws of the wake phase count alike. `reweighted`: each counts by its
            importance weight, and the recognition net learns from them too.
        num_samples: K, draws of the hidden units per image in the wake phase.
        dreams: Images dreamt in the sleep phase, per image of the batch; 0 leaves the recognition net to the
            reweighted wake phase.
        generative: Conditionals of the generative net, the pixels' and the top layer's included: independent
            units (`sbn`), or each unit dependent on those before it, linearly (`darn`) or through hidden
            units (`nade`). Pixels that depend on one another are drawn in samples.
        recognition: Conditionals of the recognition net.
        nade_dim: Hidden units of every `nade`.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If there is no hidden layer, a number is out of range, or nothing would train the
            recognition net.
    """

    paper = "Hinton et al. The Wake-Sleep Algorithm for Unsupervised Neural Networks. Science 1995."
    side = Side.LOWER
    monitor = ("val/bound", "max")
    progress = "bound"
    steps_per_batch = 10
    generative: Sequence[BitHead]
    recognition: Sequence[BitHead]

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (200, 200),
        algorithm: Literal["wake_sleep", "reweighted"] = "wake_sleep",
        num_samples: int = 1,
        dreams: float = 1.0,
        generative: BitKind = "sbn",
        recognition: BitKind = "sbn",
        nade_dim: int = 100,
        lr: float = 1e-3,
        lr_final: float = 1e-5,
        lr_schedule: Schedule = "cosine",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        require(len(hidden_dims) > 0, f"hidden_dims must be at least one layer, got {hidden_dims}")
        at_least(1, hidden_dims=hidden_dims, num_samples=num_samples, nade_dim=nade_dim)
        at_least(0, dreams=dreams)
        positive(lr=lr, lr_final=lr_final)
        self.reweighted = algorithm == "reweighted"
        require(self.reweighted or dreams > 0, f"algorithm: wake_sleep needs dreams, got dreams: {dreams:g}")
        self.hidden_dims, self.num_samples, self.dreams = hidden_dims, num_samples, dreams
        self.lr, self.lr_final = lr, lr_final
        self.lr_schedule: Schedule = lr_schedule
        self.draws_pixels = generative != "sbn"
        widths = (math.prod(self.image_shape), *hidden_dims)
        # generative[l] is p(h_l|h_{l+1}) with h_0 = x, the last p(h_L); recognition[l] is q(h_{l+1}|h_l).
        down = [
            bit_head(generative, above, width, FIRST_BIAS, nade_dim)
            for width, above in zip(widths, (*hidden_dims, 0), strict=True)
        ]
        up = [
            bit_head(recognition, below, width, FIRST_BIAS, nade_dim)
            for below, width in zip(widths, hidden_dims, strict=False)
        ]
        self.generative = cast("Sequence[BitHead]", nn.ModuleList(down))
        self.recognition = cast("Sequence[BitHead]", nn.ModuleList(up))
        self.draw_size = max(sum(hidden_dims), *(head.draw_size for head in (*down, *up)))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",)

    @torch.no_grad()
    def start_from(self, data: Any) -> None:
        """Start untouched biases of the pixels at the mean training image."""
        bias = self.generative[0].drive.bias
        if (bias == FIRST_BIAS).all():
            bias.copy_(data.mean_image().clamp(*MEAN_RANGE).logit().flatten())

    def prior(self) -> Distribution:
        """p(h) of all hidden layers (h_1, ..., h_L), event [H_1 + ... + H_L]."""
        *lower, top = self.generative[1:]
        p, dims = top(), self.hidden_dims
        for i in range(len(lower) - 1, -1, -1):
            above = slice(0, dims[i + 1])
            p = Layers(p, partial(_given, lower[i], above), (sum(dims[i + 1 :]), dims[i]), child_first=True)
        return p

    def posterior(self, x: Images) -> Distribution:
        """q(h|x) of all hidden layers (h_1, ..., h_L), batch [B]."""
        first, *upper = self.recognition
        q, dims = first(x.flatten(1)), self.hidden_dims
        for i, head in enumerate(upper):
            below = slice(sum(dims[:i]), sum(dims[: i + 1]))
            q = Layers(q, partial(_given, head, below), (sum(dims[: i + 1]), dims[i + 1]))
        return q

    def likelihood(self, h: Tensor) -> Distribution:
        """p(x|h_1) of hidden units [..., H_1 + ...], event [C * H * W]."""
        return self.generative[0](h[..., : self.hidden_dims[0]])

    def explain(self, x: Images) -> Explanation:
        return Explanation(
            self.prior(), self.posterior(x), lambda h: self.likelihood(h).log_prob(x.flatten(1))
        )

    def weigh(self, x: Images, num_samples: int) -> Weights:
        prior, q, log_likelihood = self.explain(x)
        h = q.sample(torch.Size((num_samples,)))
        return Weights(log_likelihood(h), prior.log_prob(h) - q.log_prob(h))

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        return importance_bound(self.weigh, x, num_samples, self.draw_size).log_prob

    def shares(self, log_w: PerSample) -> PerSample:
        """How much each draw counts in the wake phase, [K, B]; over the draws of an image they sum to 1."""
        if self.reweighted:
            return log_w.detach().softmax(0)
        return torch.full_like(log_w.detach(), 1 / len(log_w))

    def loss(self, batch: Batch) -> Terms:
        prior, q, log_likelihood = self.explain(batch.x)
        h = q.sample(torch.Size((self.num_samples,)))
        log_x, log_h, log_q = log_likelihood(h), prior.log_prob(h), q.log_prob(h)
        log_w = log_x + log_h - log_q
        share = self.shares(log_w)
        terms = {"wake": -(share * (log_x + log_h)).sum(0)}  # wake-phase p update
        if self.reweighted:
            terms["wake_q"] = -(share * log_q).sum(0)  # wake-phase q update
        if self.dreams:
            terms["sleep"] = self.sleep(max(1, round(self.dreams * len(batch.x))))  # sleep-phase q update
        log_w = log_w.detach()
        return {
            **terms,
            "loss": torch.stack([term.expand(len(batch.x)) for term in terms.values()]).sum(0),
            "bound": iwae_bound(log_w),
            "elbo": log_w.mean(0),
            "rate": (log_q - log_h).detach().mean(0),
            "distortion": -log_x.detach().mean(0),
        }

    def sleep(self, num_dreams: int) -> Tensor:
        """Minus log q(h|x) of dreams (x, h), their mean times `dreams`, []."""
        with torch.no_grad():
            h = self.prior().sample(torch.Size((num_dreams,)))
            x = self.likelihood(h).sample().unflatten(-1, self.image_shape)
        return -self.dreams * self.posterior(x).log_prob(h).mean()

    def picture(self, h: Tensor) -> Images:
        """The image of units [..., H_1], or of their means: drawn where pixels depend on one another."""
        p = self.generative[0](h)
        return (p.sample() if self.draws_pixels else p.mean).unflatten(-1, self.image_shape)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            return self.picture(self.prior().sample(torch.Size((n,)))[:, : self.hidden_dims[0]])

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        h, means, draws = x.flatten(1), [], torch.Size((DRAWS_OF_POSTERIOR,))
        for head in self.recognition:
            q = head(h)
            h, draws = q.sample(draws), torch.Size()
            means.append(probabilities(q, h).mean(0))
        return tuple(means)

    @torch.no_grad()
    def prior_variance(self, layer: int) -> Tensor:
        with own_stream(layer):
            h = self.prior().sample(torch.Size((DRAWS_OF_PRIOR,)))
        p = (h.split(self.hidden_dims, 1)[layer].sum(0) + 1) / (DRAWS_OF_PRIOR + 2)
        return p * (1 - p)

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        for head in self.generative[-2:0:-1]:
            z = head(z).mean
        return self.picture(z)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.picture(self.recognition[0](x.flatten(1)).mean)

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(self.parameters(), self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)


def _given(head: BitHead, which: slice, h: Tensor) -> Distribution:
    return head(h[..., which])
