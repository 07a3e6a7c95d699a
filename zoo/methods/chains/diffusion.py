"""Sohl-Dickstein et al. Deep Unsupervised Learning using Nonequilibrium Thermodynamics. ICML 2015.

Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli. arXiv:1503.03585, and its released code. Backbone `unet`:
Ronneberger, Fischer, Brox. MICCAI 2015. arXiv:1505.04597; Ho, Jain, Abbeel. NeurIPS 2020. arXiv:2006.11239.

Departs from the paper: every image of a batch draws a step of its own; the bound averages log pi over the
states, where the paper takes the moments of the data for those of the noise; the binary kernel is made of the
network's guess at the image; samples and scores come from a running average of the weights; Adam by default.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.contract import (
    BYTE,
    IMAGES_AT_ONCE,
    Baselines,
    Batch,
    Descent,
    Images,
    PerImage,
    PixelKind,
    Repairs,
    Scores,
    Side,
    Terms,
    Walks,
)
from zoo.errors import at_least, positive, require, share
from zoo.methods.chains.shared.betas import FEWEST_STEPS, ChainSchedule, NoiseSchedule, spread_steps
from zoo.methods.chains.shared.kernels import BinomialChain, Chain, Form, GaussianChain
from zoo.methods.chains.shared.networks import BumpedUNet, MultiScale, StepMLP, StepRBF
from zoo.methods.chains.shared.products import Change, Kernel, with_gaussian, with_pixels, with_smooth
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import halvings
from zoo.parts.networks.unet import UNet
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled


class Diffusion(Descent, Scores, Baselines, Walks, Repairs):
    """Diffusion probabilistic model: a chain turns images into noise, and a learnt one leads back.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        kernel: Gaussian steps for grey pixels, which are brought to mean 0 and variance 1 over all of them
            together; binomial ones for bits.
        num_steps: T, steps of the chain.
        schedule: What each step destroys: `harmonic`, beta_t = 1 / (T - t + 1); `linear`, 1e-4 to 0.02;
            `cosine`; `logsnr`, as much of the logarithm of signal to noise at every step; or `learnt`, for
            the Gaussian kernel.
        first_beta: Of the learnt schedule, which does not learn it, 0 is the released code's 1 / T + 0.001;
            or of `logsnr`, 0 is 0.001. Its noise stays in p(x_0|x_1), and limits the bound.
        activity: Share of ones in the noise of the binomial kernel.
        form: How the Gaussian kernel is made of the network's two maps: as in the released code, as in the
            paper, or with means by `velocity`, which the network says at the same scale at every step.
        backbone: `multiscale`: the paper's for images; `unet`; `attention_unet`, with attention and bumps of
            time; `mlp` and `rbf`: the paper's for its toys, with a read-out per step.
        channels: Maps of the convolutions.
        layers: Layers of multi-scale convolutions, and of 1 x 1 ones above these and the dense tower.
        hidden_dims: Widths of the dense tower or the `mlp`; the last one counts the units of `rbf`.
        num_bumps: J, bumps of time of the read-out and of the learnt schedule.
        ema_decay: Weight of the averaged network against the current one, per batch.
        repair_schedule: Whether what is known counts alike at all steps or grows linearly towards the image.
        optimizer: Adam, or the released code's RMSprop.
        lr: Step size at the start.
        lr_final_share: Share of it that is left at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If a number is out of range, or two options contradict each other.
    """

    paper = "Sohl-Dickstein et al. Deep Unsupervised Learning using Nonequilibrium Thermodynamics. ICML 2015."
    side = Side.LOWER
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        kernel: Literal["gaussian", "binomial"] = "gaussian",
        num_steps: int = 1000,
        schedule: ChainSchedule = "harmonic",
        first_beta: float = 0.0,
        activity: float = 0.5,
        form: Form = "released",
        backbone: Literal["multiscale", "unet", "attention_unet", "mlp", "rbf"] = "multiscale",
        channels: int = 20,
        layers: tuple[int, int] = (4, 2),
        hidden_dims: tuple[int, ...] = (500, 500, 500),
        num_bumps: int = 10,
        ema_decay: float = 0.999,
        repair_schedule: Literal["constant", "linear"] = "constant",
        optimizer: Literal["adam", "rmsprop"] = "adam",
        lr: float = 1e-3,
        lr_final_share: float = 0.01,
        lr_schedule: Schedule = "constant",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(FEWEST_STEPS, num_steps=num_steps)
        at_least(1, layers=layers, hidden_dims=hidden_dims, channels=channels, num_bumps=num_bumps)
        positive(lr=lr, lr_final_share=lr_final_share)
        require(0 < activity < 1, f"activity must be above 0 and below 1, got {activity}")
        share(ema_decay=ema_decay, first_beta=first_beta)
        gaussian = kernel == "gaussian"
        require(gaussian or schedule != "learnt", f"schedule: learnt needs kernel: gaussian, got {kernel}")
        require(
            "unet" not in backbone or halvings(self.image_shape)[0] >= 1,
            f"backbone: {backbone} needs even sides of at least 6, got {self.image_shape}",
        )
        self.kernel, self.repair_schedule = kernel, repair_schedule
        self.optimizer_name, self.lr, self.lr_final_share = optimizer, lr, lr_final_share
        self.lr_schedule: Schedule = lr_schedule
        maps = 2 if gaussian else 1
        network = {
            "multiscale": partial(
                MultiScale,
                sizes=(channels, *layers),
                hidden_dims=hidden_dims,
                num_bumps=num_bumps,
            ),
            "unet": partial(UNet, channels=channels),
            "attention_unet": partial(BumpedUNet, channels=channels, num_bumps=num_bumps),
            "mlp": partial(StepMLP, hidden_dims=hidden_dims),
            "rbf": partial(StepRBF, num_units=hidden_dims[-1]),
        }[backbone](self.image_shape, maps, num_steps)
        betas = NoiseSchedule(schedule, num_steps, num_bumps, first_beta)
        self.chain: Chain = (
            GaussianChain(betas, network, form) if gaussian else BinomialChain(betas, network, activity)
        )
        self.average = Average(self.chain, ema_decay)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",) if self.kernel == "binomial" else ("deq", "real")

    @property
    def averaged(self) -> Chain:
        """The chain that samples and scores."""
        chain = self.average.network
        assert isinstance(chain, Chain)
        return chain

    def start_from(self, data: Any) -> None:
        """Bring grey pixels to mean 0 and variance 1."""
        if self.kernel == "gaussian":
            images = data.images("train")
            n = images.shape.numel()
            mean = sum(x.sum(dtype=torch.float64) for x in images.split(IMAGES_AT_ONCE)) / n
            squares = sum((x - mean).square().sum() for x in images.split(IMAGES_AT_ONCE))
            require(bool(squares > 0), "the training images must differ from a constant")
            self.mean.copy_(mean / BYTE)
            self.std.copy_((squares / (n - 1)).sqrt() / BYTE)

    def standardised(self, x: Images) -> Images:
        """Images as the chain has them."""
        return x if self.kernel == "binomial" else (x - self.mean) / self.std

    def picture(self, x: Images) -> Images:
        """States of the chain as images in [0, 1]."""
        return x if self.kernel == "binomial" else (self.mean + self.std * x).clamp(0, 1)

    def loss(self, batch: Batch) -> Terms:
        x, last = self.standardised(batch.x), self.chain.num_steps
        t = spread_steps(len(x), 2, last, x.device)
        divergence = (last - 1) * self.chain.divergence(x, t)  # equation 14
        return {"loss": divergence - self.chain.ends(x), "divergence": divergence.detach()}

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Move the average."""
        self.average.update(self.chain)

    @torch.no_grad()
    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        """The bound K on the density of pixels in [0, 1], at one draw of the states of so many steps."""
        at_least(1, num_samples=num_samples)
        return self.averaged.bound(self.standardised(x), num_samples) - self._log_volume(x)

    def scored_by(self, num_samples: int) -> str:
        return self.chain.bounded_by(num_samples)

    @torch.no_grad()
    def baseline_log_prob(self, x: Images) -> PerImage:
        states = self.standardised(x)
        null = self.averaged.null_log_prob(Kernel(states, torch.zeros_like(states)))
        return null - self._log_volume(x)

    def _log_volume(self, x: Images) -> Tensor:
        return x[0].numel() * self.std.log()

    @torch.no_grad()
    def entropy_bounds(self, x: Images) -> Tensor:
        """Bounds from below and above on the entropy of each reverse step, [T - 1, 2], in nats."""
        return self.averaged.entropy_bounds(self.standardised(x))

    def _trajectory(
        self, n: int, generator: torch.Generator | None, change: Change | None = None
    ) -> Iterator[Images]:
        """States from noise, then, last, the mean of p(x_0|x_1)."""
        at_least(1, n=n)
        return self.averaged.states(self.mean.new_empty(n, *self.image_shape), generator, change)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return map(self.picture, self._trajectory(n, generator))

    def _end(self, n: int, generator: torch.Generator | None, change: Change | None = None) -> Images:
        return self.picture(deque(self._trajectory(n, generator, change), maxlen=1).pop())

    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known = mask > 0
        change = with_pixels(known, self.standardised(x))
        return torch.where(known, x, self._end(len(x), generator, change))

    def denoise(self, x: Images, sigma: float, *, generator: torch.Generator | None = None) -> Images:
        """Draw images given noisy ones: every step is multiplied by N(x, sigma^2), sigma in units of pixels.

        Raises:
            UsageError: If the kernel is not Gaussian, or sigma not positive.
        """
        require(self.kernel == "gaussian", f"denoise needs kernel: gaussian, got kernel: {self.kernel}")
        positive(sigma=sigma)
        change = with_gaussian(self.standardised(x), (self.std / sigma).square(), self._power)
        return self._end(len(x), generator, change)

    def tilt(
        self, log_r: Callable[[Images], PerImage], n: int, *, generator: torch.Generator | None = None
    ) -> Images:
        """Draw images from p(x) r(x), r smooth: each step's mean moves by its variance times grad log r.

        Args:
            log_r: States of the chain (`standardised`) to log r, [B].
            n: How many images.
            generator: Where the draws come from.
        """
        require(self.kernel == "gaussian", f"tilt needs kernel: gaussian, got kernel: {self.kernel}")
        return self._end(n, generator, with_smooth(log_r, self._power))

    def _power(self, step: int) -> float:
        """The power of r at a step's result, step - 1 of T."""
        num_steps = self.averaged.num_steps
        return 1.0 if self.repair_schedule == "constant" else (num_steps - step + 1) / num_steps

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer, its step size set at the start of each epoch."""
        choice = {"adam": adam, "rmsprop": torch.optim.RMSprop}[self.optimizer_name]
        optimizer = choice(self.chain.parameters(), lr=self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final_share)
