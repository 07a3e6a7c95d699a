"""Dai, Damianou, Gonzalez, Lawrence. Variational Auto-encoded Deep Gaussian Processes. ICLR 2016.

arXiv:1511.06455.

Departs from the paper: the bound may keep an explicit q(u) of every layer's functions, so that it is a sum
over images and learns from small batches (Hensman et al. 2013); a network may give the variances of the
codes, which are one vector per layer in the released code; Adam with a cosine schedule replaces L-BFGS;
noise starts at half of the variance, not a hundredth, and q(u) at what suits the codes of some training
images. An image's score is charged its share of KL(q(u) || p(u)), as in the bound of all training images.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zoo.contract import (
    MID_GREY,
    Batch,
    Codes,
    Decodes,
    Descent,
    Images,
    Infers,
    PerImage,
    PixelKind,
    Reconstructs,
    Repairs,
    Samples,
    Scores,
    Side,
    Terms,
)
from zoo.errors import at_least, not_negative, positive, require
from zoo.parts.distributions.gaussian_process import Columns, InputsHead, SparseGP, UncertainInputs
from zoo.parts.networks.dense import MLP
from zoo.parts.optimizers import adam
from zoo.parts.schedules import Schedule, scheduled
from zoo.randomness import drawing_from, own_stream

START_IMAGES = 1000
"""Training images whose codes start the Gaussian processes."""
REPAIRED_AT_ONCE = 50
"""Images whose codes are fitted together: each holds its own expectations of pairs of inducing inputs."""


class VAEDGP(Descent, Samples, Scores, Infers, Decodes, Reconstructs, Repairs):
    """Deep Gaussian process p(x|h_1) p(h_1|h_2) ... p(h_L), whose codes a chain of networks infers.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        latent_dims: Number of codes of every layer, the one next to the pixels first.
        hidden_dims: Widths of the hidden layers of every recognition network.
        num_inducing: Inducing inputs of every layer.
        bound: `uncollapsed` is a sum over images; `collapsed` has solved for q(u) of all, in one batch.
        var: Variances of codes: `shared`, one vector per layer, or `amortised` by the network.
        frozen_noise_epochs: Epochs in which the noise of every layer stays where it starts.
        repair_steps: Steps of Adam by which codes are fitted to the known pixels of an image.
        repair_lr: Their step size at the start; it falls to zero.
        lr: Step size of Adam at the start.
        lr_final: Step size at the end of the schedule.
        lr_schedule: How the step size falls.

    Raises:
        UsageError: If a size or step size is out of range, or batches do not suit the bound.
    """

    paper = "Dai, Damianou, Gonzalez, Lawrence. Variational Auto-encoded Deep Gaussian Processes. ICLR 2016."
    side = Side.LOWER
    monitor = ("val/elbo", "max")
    progress = "elbo"
    steps_per_batch = 10
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}
    mean_image: Tensor
    num_train: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        latent_dims: tuple[int, ...] = (10,),
        hidden_dims: tuple[int, ...] = (500, 300),
        num_inducing: int = 100,
        bound: Literal["uncollapsed", "collapsed"] = "uncollapsed",
        var: Literal["shared", "amortised"] = "shared",
        frozen_noise_epochs: int = 2,
        repair_steps: int = 300,
        repair_lr: float = 0.05,
        lr: float = 1e-2,
        lr_final: float = 1e-3,
        lr_schedule: Schedule = "cosine",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, latent_dims=latent_dims, num_inducing=num_inducing, repair_steps=repair_steps)
        positive(hidden_dims=hidden_dims, repair_lr=repair_lr, lr=lr, lr_final=lr_final)
        not_negative(frozen_noise_epochs=frozen_noise_epochs)
        self.latent_dims, self.frozen_noise_epochs = tuple(latent_dims), frozen_noise_epochs
        self.repair_steps, self.repair_lr, self.lr, self.lr_final = repair_steps, repair_lr, lr, lr_final
        self.lr_schedule: Schedule = lr_schedule
        self.collapses = bound == "collapsed"
        self.recognition, layers = nn.ModuleList(), nn.ModuleList()
        self.layers = cast("Sequence[SparseGP]", layers)
        for below, dim in pairwise((math.prod(self.image_shape), *latent_dims)):
            net, layer = MLP(below, hidden_dims, "tanh"), SparseGP(dim, below, num_inducing)
            self.recognition.append(net.append(InputsHead(net.out_dim, dim, amortised=var == "amortised")))
            layer.whitened_mean.requires_grad = layer.raw_root.requires_grad = not self.collapses
            layers.append(layer)
        self.register_buffer("mean_image", torch.full(self.image_shape, MID_GREY))
        self.register_buffer("num_train", torch.tensor(0))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("deq",)

    def learning(self) -> list[nn.Parameter]:
        frozen = self.current_epoch < self.frozen_noise_epochs
        noises = [id(layer.log_noise) for layer in self.layers if frozen]
        return [p for p in super().learning() if id(p) not in noises]

    def start_from(self, data: Any) -> None:
        """Centre the pixels, and start the Gaussian processes at some training images and their codes."""
        started, n = bool(self.num_train), len(data.images("train"))
        if self.collapses:
            rule, size = f"needs all {n} training images in one batch of one process", data.batch_size
            alone = size >= n and self.trainer.world_size == 1
            require(alone, f"bound: collapsed {rule}, got batches of {size} on {self.trainer.world_size}")
        self.num_train.fill_(n)
        if started:
            return
        self.mean_image.copy_(data.mean_image())
        with own_stream(0):
            y = self._centred(data.split("train", START_IMAGES).x.to(self.device))
        for layer, h, target in self._fits(y):
            layer.start(h, target, n / len(y))

    def _centred(self, x: Images) -> Tensor:
        return (x - self.mean_image).flatten(1).double()

    def _codes(self, y: Tensor) -> list[UncertainInputs]:
        """q(h_l|x) of every layer, each from the mean of the one below (section 3)."""
        codes, t = [], y.float()
        for recognise in self.recognition:
            codes.append(recognise(t))
            t = codes[-1].mean.float()
        return codes

    @torch.no_grad()
    def _fits(self, y: Tensor) -> list[tuple[SparseGP, UncertainInputs, Tensor]]:
        """Every layer, the codes above it, and the means [B, P] that it explains."""
        codes = self._codes(y)
        return list(zip(self.layers, codes, [y, *(h.mean for h in codes[:-1])], strict=True))

    def _terms(
        self, y: Tensor, codes: Sequence[UncertainInputs], columns: Columns = slice(None), joint: bool = False
    ) -> Terms:
        """The bound of centred images, of which some columns are known, and its parts, in nats per image.

        If all training images are here (`joint`), q(u) is solved for, and its KL is in what layers explain.
        """
        free = self.current_epoch >= self.frozen_noise_epochs
        targets = [(y, y.new_zeros(1)), *((h.mean, h.variance.sum(1)) for h in codes[:-1])]
        fits = []
        for i, (layer, h, (target, spread)) in enumerate(zip(self.layers, codes, targets, strict=True)):
            if joint:
                fits.append(layer.collapsed(h, target, spread, learn_noise=free) / len(y))
            else:
                known = columns if i == 0 else slice(None)
                fits.append(layer.explained(h, target, spread, columns=known, learn_noise=free))
        *inner, top = codes
        rate = 0.5 * (top.mean.square() + top.variance - 1 - top.variance.log()).sum(1)
        for fit, h in zip(fits[1:], inner, strict=True):
            rate = rate - fit - 0.5 * (2 * math.pi * math.e * h.variance).log().sum(1)
        kl = y.new_zeros(()) if joint else torch.stack([layer.kl() for layer in self.layers]).sum()
        functions = kl / self.num_train.clamp(min=1)
        elbo = fits[0] - rate - functions
        parts = {"loss": -elbo, "elbo": elbo, "rate": rate, "distortion": -fits[0], "functions": functions}
        return {name: part.float() for name, part in parts.items()}

    def loss(self, batch: Batch) -> Terms:
        y = self._centred(batch.x)
        return self._terms(y, self._codes(y), joint=self.collapses and self.training)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Keep the q(u) that the collapsed bound has solved for."""
        if self.collapses:
            for layer, h, target in self._fits(self._centred(batch.x)):
                layer.settle(h, target)

    @torch.no_grad()
    def log_prob(self, x: Images, num_samples: int) -> PerImage:
        at_least(1, num_samples=num_samples)  # in closed form: no number of samples changes it
        y = self._centred(x)
        return self._terms(y, self._codes(y))["elbo"]

    def _picture(self, h: Tensor) -> Images:
        """Mean images of the codes next to the pixels, [B, Q]."""
        f = self.layers[0].predict(h).mean.float().unflatten(1, self.image_shape)
        return (self.mean_image + f).clamp(0, 1)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Images:
        at_least(1, n=n)
        with drawing_from(generator):
            h = torch.randn(n, self.latent_dims[-1], device=self.device)
            for layer in self.layers[:0:-1]:
                h = layer.predict(h).sample()
        return self._picture(h)

    @torch.no_grad()
    def posterior_means(self, x: Images) -> tuple[Codes, ...]:
        return tuple(h.mean.float() for h in self._codes(self._centred(x)))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        for layer in self.layers[:0:-1]:
            z = layer.predict(z).mean
        return self._picture(z)

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known = mask.bool()
        y = self._centred(torch.where(known, x, self.mean_image))
        with drawing_from(generator):
            h = torch.randn(len(x), self.latent_dims[0], dtype=y.dtype, device=x.device)
        for columns in known.flatten(1).unique(dim=0):
            alike = (known.flatten(1) == columns).all(1)
            for rows in alike.nonzero().flatten().split(REPAIRED_AT_ONCE):
                fitted = self._fitted(y[rows], columns)
                h[rows] = fitted.mean + fitted.variance.sqrt() * h[rows]
        return torch.where(known, x, self._picture(h))

    @torch.no_grad()
    def _fitted(self, y: Tensor, columns: Tensor) -> UncertainInputs:
        """q(h_1) of images of which some pixels are known: descends the bound of these in all codes."""
        start = [part for h in self._codes(y) for part in (h.mean, h.variance.log().expand_as(h.mean))]
        free = [part.clone().requires_grad_() for part in start]
        optimizer = adam(free, self.repair_lr)
        with torch.enable_grad():
            for step in range(self.repair_steps):
                optimizer.param_groups[0]["lr"] = self.repair_lr * (1 - step / self.repair_steps)
                codes = [UncertainInputs(m, v.exp()) for m, v in zip(free[::2], free[1::2], strict=True)]
                loss = -self._terms(y[:, columns], codes, columns)["elbo"].sum()
                for part, gradient in zip(free, torch.autograd.grad(loss, free), strict=True):
                    part.grad = gradient
                optimizer.step()
        return UncertainInputs(free[0].detach(), free[1].detach().exp())

    def configure_optimizers(self) -> dict:
        """Adam, its step size set at the start of each epoch."""
        optimizer = adam([p for p in self.parameters() if p.requires_grad], self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
