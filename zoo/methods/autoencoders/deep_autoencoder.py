"""Hinton, Salakhutdinov. Reducing the Dimensionality of Data with Neural Networks. Science 313, 2006.

doi:10.1126/science.1127647. Settings are also those of its released code.

Departs from the paper: Adam, from zero moments in each phase, in the place of gradient steps with momentum
for the RBMs and of conjugate gradients for the tuning; hidden units of the RBMs are summed out at both ends
of the contrastive gradient; Glorot weights without RBMs, tanh and ReLU are options.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from zoo.contract import Batch, Codes, Decodes, Descent, Encodes, Images, PixelKind, Reconstructs, Terms
from zoo.errors import at_least, positive, require
from zoo.parts.distributions.bits import bernoulli, draw_bits
from zoo.parts.networks.dense import TwoWay
from zoo.parts.optimizers import adam
from zoo.parts.schedules import cosine, phase

RBM_WEIGHTS = 0.1
"""Standard deviation of the RBMs' weights at the start."""


class DeepAutoencoder(Descent, Encodes, Decodes, Reconstructs):
    """Deep autoencoder with a linear code, whose layers first learn one by one as RBMs.

    Each RBM learns from the means of the units below it, with grey levels as probabilities; the uppermost has
    Gaussian hidden units of variance 1. Then the stack is unrolled into an encoder and a decoder, which go
    their own ways and minimise the cross-entropy of the pixels. While RBMs learn, `loss` is a surrogate whose
    value measures nothing.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        hidden_dims: Units of the encoder's hidden layers, from the pixels to the code; the decoder mirrors
            them.
        latent_dim: Dimensions of the code.
        init: The layers start as RBMs (`rbm`), or with Glorot-uniform weights and no RBM (`glorot`).
        activation: Non-linearity of the hidden layers; RBMs need `logistic`.
        pretrain_epochs: Epochs of each RBM; what is left of the trainer's epochs tunes the whole.
        pretrain_lr: Step size of the RBMs.
        weight_decay: Decay of the RBMs' weights.
        lr: Step size of the tuning at its start.
        lr_final: Step size at the end of its cosine schedule.

    Raises:
        UsageError: If a size or step size is out of range, or RBMs are asked for with other units.
    """

    paper = "Hinton, Salakhutdinov. Reducing the Dimensionality of Data with Neural Networks. Science 2006."
    progress = "distortion"
    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}
    layers: Sequence[TwoWay]

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        hidden_dims: tuple[int, ...] = (1000, 500, 250),
        latent_dim: int = 30,
        init: Literal["rbm", "glorot"] = "rbm",
        activation: Literal["logistic", "tanh", "relu"] = "logistic",
        pretrain_epochs: int = 50,
        pretrain_lr: float = 5e-3,
        weight_decay: float = 2e-4,
        lr: float = 1e-3,
        lr_final: float = 1e-5,
    ) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        at_least(1, hidden_dims=hidden_dims or 1, latent_dim=latent_dim, pretrain_epochs=pretrain_epochs)
        at_least(0, weight_decay=weight_decay)
        positive(pretrain_lr=pretrain_lr, lr=lr, lr_final=lr_final)
        fit = init == "glorot" or activation == "logistic"
        require(fit, f"init: rbm needs activation: logistic, got activation: {activation}")
        widths = (math.prod(self.image_shape), *hidden_dims, latent_dim)
        layers = [TwoWay(*pair, tied=False) for pair in pairwise(widths)]
        self.layers = cast("Sequence[TwoWay]", nn.ModuleList(layers))
        self.activation = {"logistic": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[activation]
        self.lengths = (pretrain_epochs,) * len(layers) if init == "rbm" else ()
        self.pretrain_lr, self.weight_decay = pretrain_lr, weight_decay
        self.lr, self.lr_final = lr, lr_final
        if init == "rbm":
            for layer in self.layers:
                nn.init.normal_(layer.weight, std=RBM_WEIGHTS)
                self.unroll(layer)

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return ("real", "binary")

    @property
    def phase(self) -> int:
        """The RBM that learns in this epoch; from their number on the whole is tuned."""
        return phase(self.current_epoch, self.lengths)

    @property
    def rbm(self) -> TwoWay | None:
        """The layer that learns as an RBM in this epoch; None while the whole is tuned."""
        return self.layers[self.phase] if self.phase < len(self.lengths) else None

    def learning(self) -> list[nn.Parameter]:
        if self.rbm is None:
            return super().learning()
        return [self.rbm.weight, self.rbm.hidden_bias, self.rbm.visible_bias]

    def hidden(self, x: Images, depth: int) -> Codes:
        """Activations [B, D] of a layer of the encoder, the pixels at 0; the code is linear."""
        h = x.flatten(1)
        for i, layer in enumerate(self.layers[:depth], 1):
            h = layer.up(h) if i == len(self.layers) else self.activation(layer.up(h))
        return h

    def logits(self, z: Codes) -> Tensor:
        """Logits of the pixels [B, C, H, W] of codes."""
        for layer in self.layers[:0:-1]:
            z = self.activation(layer.down(z))
        return self.layers[0].down(z).unflatten(-1, self.image_shape)

    def loss(self, batch: Batch) -> Terms:
        if self.rbm is not None:
            return self.contrast(self.rbm, batch.x)
        distortion = -bernoulli(self.logits(self.hidden(batch.x, len(self.layers)))).log_prob(batch.x)
        return {"loss": distortion, "distortion": distortion}

    def contrast(self, rbm: TwoWay, x: Images) -> Terms:
        """The terms of CD-1: F at the means v of the units below an RBM, less F at their reconstructions."""
        with torch.no_grad():
            v = self.hidden(x, self.phase).float()
            a = rbm.up(v).float()
            h = a + torch.randn_like(a) if self.phase == len(self.layers) - 1 else draw_bits(a)
            m = linear(h, rbm.weight.T, rbm.visible_bias).float()
        data, model = self.free_energy(rbm, v), self.free_energy(rbm, m.sigmoid())
        decay = 0.5 * self.weight_decay * rbm.weight.square().sum()
        return {"loss": data - model + decay, "energy_data": data, "energy_model": model}

    def free_energy(self, rbm: TwoWay, v: Tensor) -> Tensor:
        """F(v) of an RBM, its bits or Gaussian units of variance 1 summed out, [B]."""
        a = rbm.up(v).float()
        gaussian = self.phase == len(self.layers) - 1
        return -v @ rbm.visible_bias - (0.5 * a.square() if gaussian else softplus(a)).sum(1)

    @staticmethod
    @torch.no_grad()
    def unroll(layer: TwoWay) -> None:
        """Let the decoder's weights be those of the encoder, transposed."""
        assert layer.weight_down is not None
        layer.weight_down.copy_(layer.weight.T)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Let the decoder follow an RBM."""
        if self.rbm is not None:
            self.unroll(self.rbm)

    def on_train_epoch_start(self) -> None:
        """Set the epoch's step size; in the first of a phase forget the moments of the last."""
        super().on_train_epoch_start()
        optimizer, starts = self.trainer.optimizers[0], [0, *accumulate(self.lengths)]
        if self.current_epoch in starts:
            optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = self.step_size(starts[-1])

    def step_size(self, tuned_from: int) -> float:
        """Of this epoch, where the tuning begins at an epoch."""
        if self.rbm is not None:
            return self.pretrain_lr
        epoch, length = self.current_epoch - tuned_from, (self.trainer.max_epochs or 0) - tuned_from
        return self.lr * cosine(float(epoch), float(length), self.lr_final / self.lr)

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        return self.hidden(x, len(self.layers))

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return self.logits(z).sigmoid()

    @torch.no_grad()
    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam; its step size is set at the start of each epoch."""
        length = self.trainer.max_epochs or 0
        require(length > 0, f"trainer.max_epochs must be positive, got {length}")
        return adam(self.parameters(), self.lr)
