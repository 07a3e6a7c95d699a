"""Goyal et al. Variational Walkback: Learning a Transition Operator as a Stochastic Recurrent Net. NIPS 2017.

Goyal, Ke, Ganguli, Bengio. arXiv:1711.02282. The growth rule, the steps at temperature 1 and the operator of
bits are from memory.

Departs from the paper: layer norms in the place of batch norms; one update per walk, not one per step; no
convolutional network; samples and scores come from a running average of the weights; Adam. A variance per
pixel, gradients of the whole bound, weights of the steps, steps repeated when sampling and the guess F(s)
as the sample are options: with the paper's choices the bound rises while samples leave the data.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.contract import (
    BYTE,
    IMAGES_AT_ONCE,
    Batch,
    Descent,
    Images,
    PerImage,
    PixelKind,
    Repairs,
    Returns,
    Side,
    Terms,
    Weighs,
    Weights,
)
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.methods.chains.shared.operators import (
    BernoulliOperator,
    Cooling,
    GaussianOperator,
    Heating,
    Operator,
    Walk,
)
from zoo.methods.chains.shared.products import Change, with_pixels
from zoo.parts.estimators import importance_bound
from zoo.parts.networks.average import Average
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from


class Walkback(Descent, Weighs, Returns, Repairs):
    """A transition operator that learns to undo its own steps away from the data, each hotter than the last.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        kernel: Gaussian steps for grey pixels, Bernoulli ones for bits.
        hidden_dims: Widths of the network's layers.
        step_norm: Give every step of a walk layer norms of its own.
        variance: Whether the Gaussian's sigma^2 is a function of the state or one number per pixel.
        floor: Least sigma^2, in units of the squared pixel range; bounds at different floors do not compare.
        alpha: Share of the old state in the mean of the new one.
        learn_alpha: Whether that is where it starts.
        factor: By which the temperature rises at each step.
        cold_steps: Steps at temperature 1 before it rises.
        num_steps: Most steps in which it rises.
        growth: How these come to be: `heat`, as many as heat the variance of the first step to `heat`;
            `epoch`, two, and one more each epoch.
        heat: The variance to which `heat` heats, in mean variances of the training images' pixels.
        grad: `walk`, the paper's: states are given, and log p_T(s_(k+1)|s_k) has no gradient; `full`, through
            the states too, of the whole bound.
        step_weight: Power of its temperature by which a step counts in the loss; 0 counts all alike.
        formula: `paper`; `released` scores the way back at the state that is to be reached, as the released
            code does: no bound, a control.
        end_decay: Weight of what is known of the walks' ends, from which samples start, against a batch.
        repeats: Steps of the sampler at each temperature.
        repeat_share: Share of the variance with which these are drawn.
        extra_steps: Steps of the sampler at temperature 1 after the last.
        emission: The sample: the mean of the last step (`kernel`), or the network's guess in it (`guess`).
        ema_decay: Weight of the averaged weights against the current ones, per batch.
        lr: Step size of Adam at the start.
        lr_final_share: Share of it that is left at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If a number is out of range, or two options contradict each other.
    """

    paper = (
        "Goyal et al. Variational Walkback: Learning a Transition Operator as a Stochastic Recurrent Net. "
        "NIPS 2017."
    )
    side = Side.LOWER
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        kernel: Literal["gaussian", "bernoulli"] = "gaussian",
        hidden_dims: tuple[int, ...] = (1200,),
        step_norm: bool = True,
        variance: Literal["pixel", "state"] = "state",
        floor: float = 1e-4,
        alpha: float = 0.5,
        learn_alpha: bool = True,
        factor: float = 2.0,
        cold_steps: int = 0,
        num_steps: int = 30,
        growth: Literal["heat", "epoch"] = "heat",
        heat: float = 1.0,
        grad: Literal["walk", "full"] = "walk",
        step_weight: float = 0.0,
        formula: Literal["paper", "released"] = "paper",
        end_decay: float = 0.99,
        repeats: int = 1,
        repeat_share: float = 1.0,
        extra_steps: int = 0,
        emission: Literal["kernel", "guess"] = "kernel",
        ema_decay: float = 0.998,
        lr: float = 1e-3,
        lr_final_share: float = 0.01,
        lr_schedule: Schedule = "constant",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, hidden_dims=hidden_dims, num_steps=num_steps, repeats=repeats)
        not_negative(cold_steps=cold_steps, extra_steps=extra_steps)
        positive(floor=floor, heat=heat, repeat_share=repeat_share, lr=lr, lr_final_share=lr_final_share)
        share(end_decay=end_decay, ema_decay=ema_decay)
        require(0 < alpha < 1, f"alpha must be above 0 and below 1, got {alpha}")
        require(factor > 1, f"factor must be above 1, got {factor}")
        gaussian = kernel == "gaussian"
        require(gaussian or growth == "epoch", f"growth: {growth} needs kernel: gaussian, got {kernel}")
        require(gaussian or grad == "walk", f"grad: {grad} needs kernel: gaussian, got {kernel}")
        require(
            grad == "walk" or (step_weight == 0 and formula == "paper"),
            f"grad: full needs step_weight: 0 and formula: paper, got {step_weight:g} and {formula}",
        )
        self.kernel, self.growth, self.heat = kernel, growth, heat
        self.grad, self.step_weight, self.formula, self.end_decay = grad, step_weight, formula, end_decay
        self.lr, self.lr_final_share = lr, lr_final_share
        self.lr_schedule: Schedule = lr_schedule
        heating = Heating(factor, cold_steps, num_steps)
        others = (alpha, learn_alpha, heating, Cooling(repeats, repeat_share, extra_steps, emission))
        num_norms = cold_steps + num_steps if step_norm else 1
        self.chain: Operator = (
            GaussianOperator(self.image_shape, hidden_dims, num_norms, variance, floor, others)
            if gaussian
            else BernoulliOperator(self.image_shape, hidden_dims, num_norms, others)
        )
        self.average = Average(self.chain, ema_decay)

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",) if self.kernel == "bernoulli" else ("real", "deq")

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(f"chain.{name}" for name in self.chain.state_dict())

    @property
    def averaged(self) -> Operator:
        """The operator that samples and scores."""
        chain = self.average.network
        assert isinstance(chain, Operator)
        return chain

    def start_from(self, data: Any) -> None:
        """Take the moments of the images for those of the walks' ends, until there are some."""
        images = data.images("train")
        parts = (part.double() / BYTE for part in images.split(IMAGES_AT_ONCE))
        sums = [torch.stack((x.sum(0), x.square().sum(0))) for x in parts]
        mean, square = torch.stack(sums).sum(0) / len(images)
        variance = square - mean.square()
        require(bool(variance.mean() > 0), "the training images must differ from one another")
        for chain in (self.chain, self.averaged):
            chain.start_at(mean, variance, self.heat * variance.mean())

    def on_train_epoch_start(self) -> None:
        """Lengthen the walks, where that goes by epochs."""
        super().on_train_epoch_start()
        if self.growth == "epoch":
            self.chain.heated.fill_(min(2 + self.current_epoch, self.chain.heating.most))

    def away(self, x: Images) -> Walk:
        """A walk of the operator that learns, with the gradients that it learns by."""
        return self.chain.away(x, self.grad == "full", self.formula == "released")

    def terms(self, walk: Walk) -> Terms:
        """The loss of a walk, and the bound, which it is not."""
        elbo = self.chain.bracket(walk)
        if self.grad == "full":
            return {"loss": -elbo, "elbo": elbo.detach()}
        weights = walk.log_back.new_tensor(self.chain.temperatures()).pow(self.step_weight)
        return {"loss": -(weights @ walk.log_back), "elbo": elbo.detach()}

    def loss(self, batch: Batch) -> Terms:
        return self.terms(self.away(batch.x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a batch; where its walks ended is kept for those that start there."""
        walk = self.away(batch.x)
        terms = self.terms(walk)
        loss = terms["loss"].mean()
        self.log_terms("train", terms, len(batch.x), loss)
        end = walk.end.detach()
        moments = (end.mean(0), end.square().mean(0), walk.variance)
        self.chain.track([self.trainer.strategy.reduce(m, reduce_op="mean") for m in moments], self.end_decay)
        return loss

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Lengthen the walks, where that goes by their heat, and move the average."""
        if self.growth == "heat":
            self.chain.heated.fill_(self.chain.steps_to_heat())
        self.average.update(self.chain)

    @torch.no_grad()
    def weigh(self, x: Images, num_samples: int) -> Weights:
        walk = self.averaged.away(x.repeat(num_samples, 1, 1, 1))
        log_likelihood = walk.log_back[0]
        log_ratio = self.averaged.bracket(walk) - log_likelihood
        return Weights(*(part.view(num_samples, len(x)) for part in (log_likelihood, log_ratio)))

    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        return importance_bound(self.weigh, x, num_samples, self.draw_size).log_prob

    def _states(
        self, n: int, generator: torch.Generator | None, change: Change | None = None
    ) -> Iterator[Images]:
        at_least(1, n=n)
        states = self.averaged.states(self.averaged.mean.new_empty(n, *self.image_shape), generator, change)
        return (x.clamp(0, 1) for x in states)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return self._states(n, generator)

    @torch.no_grad()
    def walk_back(self, x: Images, *, generator: torch.Generator | None = None) -> Images:
        with drawing_from(generator):
            change = self.averaged.returning(x)
        return deque(self._states(len(x), generator, change), maxlen=1).pop()

    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known = mask > 0
        change = with_pixels(known, x)
        end = deque(self._states(len(x), generator, change), maxlen=1).pop()
        return torch.where(known, x, end)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam(filter(lambda p: p.requires_grad, self.chain.parameters()), self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final_share)
