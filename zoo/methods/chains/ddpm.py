"""Ho, Jain, Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS 2020. arXiv:2006.11239.

Learnt variances, the cosine schedule: Nichol, Dhariwal. Improved Denoising Diffusion Probabilistic Models.
ICML 2021. arXiv:2102.09672. `eta`: Song, Meng, Ermon. Denoising Diffusion Implicit Models. ICLR 2021.
arXiv:2010.02502.

Departs from the papers: the U-Net has one block a size either way, attention at its smallest maps only, no
dropout; the steps of a batch are spread evenly over T; Adam forgets squares of gradients by 0.99.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from zoo.contract import (
    BYTE,
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
from zoo.errors import at_least, not_negative, positive, require, share
from zoo.methods.chains.shared.betas import FEWEST_STEPS, NoiseSchedule, spread_steps
from zoo.methods.chains.shared.denoising import NoiseChain, Sampler, Variance
from zoo.methods.chains.shared.products import Change, with_noised
from zoo.parts.networks.average import Average
from zoo.parts.networks.convolutional import halvings
from zoo.parts.networks.unet import AttentionUNet
from zoo.parts.optimizers import adam
from zoo.parts.schedules import scheduled_steps

NUM_BYTES = BYTE + 1
ADAM_BETAS = (0.9, 0.99)


class DDPM(Descent, Scores, Walks, Repairs):
    """Denoising diffusion: a network learns the noise in noisy images, and takes it away step by step.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_steps: T, steps of the chain.
        schedule: What each step destroys: `linear`, beta from 1e-4 to 0.02; `cosine`; or `logsnr`, as much of
            the logarithm of signal to noise at every step.
        variance: Of the steps back: `beta`, `posterior`, or `learnt` between them by the bound.
        bound_weight: Weight of the bound, in bits/dim, which a learnt variance descends.
        walk_steps: Steps that are taken to draw an image, spread over the chain; 0 takes all.
        eta: Noise of these steps in units of the posterior's, as DDIM has it: 0 draws none; null keeps the
            variance of the chain.
        channels: Maps of the U-Net at full size, doubled at each halving.
        ema_decay: Weight of the averaged network against the current one, per batch.
        lr: Step size of Adam at its top.
        lr_schedule: `constant`, or `cosine` to 0 over the trainer's epochs.
        warm_up_steps: Batches over which it rises from 0.

    Raises:
        UsageError: If a number is out of range.
    """

    paper = "Ho, Jain, Abbeel. Denoising Diffusion Probabilistic Models. NeurIPS 2020."
    side = Side.LOWER

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_steps: int = 1000,
        schedule: Literal["linear", "cosine", "logsnr"] = "linear",
        variance: Variance = "beta",
        bound_weight: float = 1e-3,
        walk_steps: int = 0,
        eta: float | None = None,
        channels: int = 128,
        ema_decay: float = 0.9999,
        lr: float = 2e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warm_up_steps: int = 5000,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(FEWEST_STEPS, num_steps=num_steps)
        at_least(1, channels=channels)
        at_least(0, walk_steps=walk_steps, warm_up_steps=warm_up_steps)
        require(
            walk_steps <= num_steps,
            f"walk_steps must be at most num_steps: {num_steps}, got {walk_steps}",
        )
        positive(lr=lr)
        not_negative(bound_weight=bound_weight, eta=eta or 0.0)
        share(ema_decay=ema_decay)
        require(
            halvings(self.image_shape)[0] >= 1,
            f"image_shape must have even sides of at least 6, got {self.image_shape}",
        )
        self.bound_weight, self.walk_steps, self.eta = bound_weight, walk_steps or num_steps, eta
        self.lr, self.warm_up_steps = lr, warm_up_steps
        self.lr_schedule: Literal["constant", "cosine"] = lr_schedule
        network = AttentionUNet(self.image_shape, 2 if variance == "learnt" else 1, num_steps, channels)
        self.chain = NoiseChain(NoiseSchedule(schedule, num_steps, 1), network, variance)
        self.average = Average(self.chain, ema_decay)

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("deq", "real")

    @property
    def unpublished(self) -> tuple[str, ...]:
        return tuple(name for name in self.state_dict() if not name.startswith("average."))

    @property
    def averaged(self) -> NoiseChain:
        """The chain that samples and scores."""
        chain = self.average.network
        assert isinstance(chain, NoiseChain)
        return chain

    @property
    def sampler(self) -> Sampler:
        """The chain by which images are drawn."""
        return Sampler(self.averaged, self.walk_steps, self.eta)

    def coded(self, x: Images) -> Images:
        """Bytes at 2 k / 255 - 1, of pixels that are k / 255 or dithered, (k + u) / 256."""
        return (NUM_BYTES * x).floor().clamp(max=BYTE) * (2 / BYTE) - 1

    def picture(self, x: Images) -> Images:
        """States of the chain as images in [0, 1]."""
        return ((x + 1) / 2).clamp(0, 1)

    def loss(self, batch: Batch) -> Terms:
        x, chain = self.coded(batch.x), self.chain
        t = spread_steps(len(x), 1, chain.num_steps, x.device)
        kept, noise = chain.kept(t), torch.randn_like(x)
        x_t = kept.sqrt().to(x) * x + (1 - kept).sqrt().to(x) * noise
        maps = chain.said(x_t, t)
        distance = (noise - maps[:, : x.shape[1]]).square().flatten(1).mean(1)  # equation 14
        if chain.variance != "learnt":
            return {"loss": distance, "distance": distance.detach()}
        p = chain.jump(maps, x_t, t, t - 1)
        cost = chain.cost(x, x_t, t, p._replace(mean=p.mean.detach()))
        divergence = chain.num_steps / (x[0].numel() * math.log(2)) * cost
        loss = distance + self.bound_weight * divergence  # improved DDPM, equation 16
        return {"loss": loss, "distance": distance.detach(), "divergence": divergence.detach()}

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Move the average."""
        self.average.update(self.chain)

    @torch.no_grad()
    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        """The bound on log P(bytes), as a density of dithered pixels, at so many of the steps."""
        at_least(1, num_samples=num_samples)
        bound = self.averaged.bound(self.coded(x), num_samples)
        return bound + x[0].numel() * math.log(NUM_BYTES)

    def scored_by(self, num_samples: int) -> str:
        return self.chain.bounded_by(num_samples)

    def _trajectory(
        self, n: int, generator: torch.Generator | None, change: Change | None = None
    ) -> Iterator[Images]:
        at_least(1, n=n)
        like = torch.empty(n, *self.image_shape, device=self.device)
        return map(self.picture, self.sampler.states(like, generator, change))

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return self._trajectory(n, generator)

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        """Known pixels enter every step with its noise (Song et al. 2021, arXiv:2011.13456)."""
        known = mask > 0
        change = with_noised(known, self.coded(x), self.sampler.kept())
        drawn = deque(self._trajectory(len(x), generator, change), maxlen=1).pop()
        return torch.where(known, x, drawn)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, its step size set before each step."""
        optimizer = adam(self.chain.parameters(), self.lr, ADAM_BETAS)
        steps = self.trainer.estimated_stepping_batches
        return scheduled_steps(optimizer, self.lr_schedule, steps, self.warm_up_steps)
