"""Bengio, Yao, Alain, Vincent. Generalized Denoising Auto-Encoders as Generative Models. NIPS 2013.

arXiv:1305.6663. Also: Vincent, Larochelle, Bengio, Manzagol. Extracting and Composing Robust Features with
Denoising Autoencoders. ICML 2008. doi:10.1145/1390156.1390294.

Departs from the paper: walkback has a fixed number of steps, as in the released code, not a geometric one;
stacked layers are trained together in the end on the images, not with a classifier on the labels; grey pixels
have a Gaussian likelihood in the place of cross-entropy; tanh, ReLU, Adam and a cosine schedule are options.
The loss is a sum over pixels: the default step size is the released code's 10 on their mean, at 28 x 28.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, cast

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
from zoo.errors import at_least, not_negative, positive, require
from zoo.methods.autoencoders.shared.starts import draw_starts, keep_starts
from zoo.parts.corruption import Corruption, process
from zoo.parts.distributions.bits import bernoulli
from zoo.parts.distributions.pixels import gaussian_pixels
from zoo.parts.networks.dense import TwoWay
from zoo.parts.optimizers import adam, sgd
from zoo.parts.schedules import Schedule, phase, scheduled
from zoo.randomness import drawing_from


class DAE(Descent, Emits, Encodes, Decodes, Reconstructs, Repairs):
    """Denoising autoencoder: p(x|x~) for corrupted images x~; corrupting and denoising in turn samples p(x).

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Widths of the hidden layers, from the pixels to the code.
        tied: Each layer's way down uses the transposed weights of its way up.
        activation: Non-linearity of the hidden layers.
        corruption: What happens to an image: pixels are set to zero (`mask`), replaced by a coin
            (`salt_pepper`), or given additive noise (`gaussian`).
        level: Probability that a pixel is hit, or the standard deviation of the noise in units of the pixel
            range.
        walkback_steps: Steps of the chain that are trained to lead back to the image; 1 denoises only.
        likelihood: Bernoulli for binary pixels, Gaussian with a fixed sigma for grey ones.
        sigma: The Gaussian's sigma, in units of the pixel range.
        pretrain_epochs: Epochs in which each layer in turn, from the pixels up, learns to denoise what the
            layers below it make of an image, before all of them are trained together; 0 trains them together
            from the start.
        num_starts: Images of the first training batch that are kept with the weights and in which chains
            start; 0 starts them in random bits.
        walk_steps: Steps of a chain from its start to the sample.
        emit_steps: Steps after these whose states count for the conservative likelihood.
        optimizer: The optimizer.
        lr: Its step size at the start.
        lr_final: Step size at the end of the cosine schedule.
        lr_schedule: `constant`, or `cosine` over the trainer's epochs.

    Raises:
        UsageError: If a size, level or step size is out of range, or hidden layers that are no probabilities
            are to be pretrained.
    """

    paper = "Bengio et al. Generalized Denoising Auto-Encoders as Generative Models. NIPS 2013."
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}
    layers: Sequence[TwoWay]
    starts: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (2000,),
        tied: bool = True,
        activation: Literal["logistic", "tanh", "relu"] = "logistic",
        corruption: Corruption = "salt_pepper",
        level: float = 0.4,
        walkback_steps: int = 5,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        sigma: float = 0.1,
        pretrain_epochs: int = 0,
        num_starts: int = 100,
        walk_steps: int = 1000,
        emit_steps: int = 1000,
        optimizer: Literal["sgd", "adam"] = "sgd",
        lr: float = 10 / 784,
        lr_final: float = 1e-5,
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, walkback_steps=walkback_steps, walk_steps=walk_steps, emit_steps=emit_steps)
        positive(hidden_dims=hidden_dims, sigma=sigma, lr=lr, lr_final=lr_final)
        not_negative(pretrain_epochs=pretrain_epochs, num_starts=num_starts)
        require(
            not pretrain_epochs or len(hidden_dims) == 1 or activation == "logistic",
            f"pretrain_epochs of several layers needs activation: logistic, got {activation}",
        )
        self.walkback_steps, self.walk_steps, self.emit_steps = walkback_steps, walk_steps, emit_steps
        self.likelihood, self.sigma, self.pretrain_epochs = likelihood, sigma, pretrain_epochs
        self.optimizer_name, self.lr, self.lr_final = optimizer, lr, lr_final
        self.lr_schedule: Schedule = lr_schedule
        self.corrupt = process(corruption, level)
        self.activation = {"logistic": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[activation]
        widths = (math.prod(self.image_shape), *hidden_dims)
        layers = [TwoWay(*pair, tied) for pair in zip(widths, hidden_dims, strict=False)]
        self.layers = cast("Sequence[TwoWay]", nn.ModuleList(layers))
        self.register_buffer("starts", torch.zeros(num_starts, *self.image_shape))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("binary",) if self.likelihood == "bernoulli" else ("real", "deq")

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("starts",)

    @property
    def phase(self) -> int:
        """The layer that is pretrained in this epoch; their number once all are trained together."""
        return phase(self.current_epoch, len(self.layers) * (self.pretrain_epochs,))

    def learning(self) -> list[nn.Parameter]:
        together = self.phase == len(self.layers)
        return super().learning() if together else list(self.layers[self.phase].parameters())

    def hidden(self, x: Images, depth: int) -> Codes:
        """Activations of the hidden layer at a depth, pixels at 0; nothing is corrupted."""
        h = x.flatten(-3)
        for layer in self.layers[:depth]:
            h = self.activation(layer.up(h))
        return h

    def emission(self, z: Codes) -> Independent:
        """p(x|z) of activations of the top hidden layer."""
        for layer in self.layers[:0:-1]:
            z = self.activation(layer.down(z))
        return self._pixels(self.layers[0].down(z))

    def denoised(self, x: Images) -> Independent:
        """p(x|x~) of images x~ as they are."""
        return self.emission(self.hidden(x, len(self.layers)))

    def _pixels(self, logits: Tensor) -> Independent:
        logits = logits.unflatten(-1, self.image_shape)
        return bernoulli(logits) if self.likelihood == "bernoulli" else gaussian_pixels(logits, self.sigma)

    def loss(self, batch: Batch) -> Terms:
        if self.phase < len(self.layers):
            distortion = self._distortion_of_layer(self.phase, batch.x)
            return {"loss": distortion, "distortion": distortion}
        p = self.denoised(self.corrupt(batch.x))
        distortions = [-p.log_prob(batch.x)]  # Bengio et al., equation 4
        for _ in range(self.walkback_steps - 1):  # algorithm 1
            p = self.denoised(self.corrupt(p.sample()))
            distortions.append(-p.log_prob(batch.x))
        return {"loss": torch.stack(distortions).sum(0), "distortion": distortions[0]}

    def _distortion_of_layer(self, index: int, x: Images) -> Tensor:
        """Minus log p(h|h~) of the activations h below one layer, given their corruption (Vincent et al.)."""
        layer = self.layers[index]
        with torch.no_grad():
            h = self.hidden(x, index).float()
        logits = layer.down(self.activation(layer.up(self.corrupt(h))))
        return -(bernoulli(logits, 1).log_prob(h) if index else self._pixels(logits).log_prob(x))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Keep images of the first batch, over again where it is small, for chains to start in."""
        keep_starts(self.starts, batch.x)

    @torch.no_grad()
    def _next(self, x: Images) -> tuple[Independent, Images]:
        """One step of the chain: p(x|x~) at the corrupted state, and the next state drawn from it."""
        p = self.denoised(self.corrupt(x))
        return p, p.sample()

    def _chain(self, n: int, generator: torch.Generator | None) -> Iterator[Independent]:
        with drawing_from(generator):
            x = draw_starts(self.starts, n)
        while True:
            with drawing_from(generator):
                p, x = self._next(x)
            yield p

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Independent]:
        return islice(self._chain(n, generator), self.walk_steps, self.walk_steps + self.emit_steps)

    def walk(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Images]:
        return (p.mean for p in islice(self._chain(n, generator), self.walk_steps))

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known, mean = mask.bool(), x
        with drawing_from(generator):
            state = torch.where(known, x, torch.randint_like(x, 2))
            for _ in range(self.walk_steps):
                p, drawn = self._next(state)
                mean, state = p.mean, torch.where(known, x, drawn)
        return torch.where(known, x, mean)

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        return self.hidden(x, len(self.layers))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.emission(z).mean

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    def configure_optimizers(self) -> dict:
        """The optimizer, its step size set at the start of each epoch."""
        choice = {"sgd": sgd, "adam": adam}[self.optimizer_name]
        optimizer = choice(self.parameters(), self.lr)
        return scheduled(optimizer, self.lr_schedule, self.trainer.max_epochs, self.lr_final / self.lr)
