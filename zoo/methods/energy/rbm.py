"""Hinton. Training Products of Experts by Minimizing Contrastive Divergence. Neural Computation 14(8), 2002.

doi:10.1162/089976602760128018. The model: Smolensky. Information Processing in Dynamical Systems: Foundations
of Harmony Theory. In Parallel Distributed Processing, 1986. Persistent chains: Tieleman. Training Restricted
Boltzmann Machines Using Approximations to the Likelihood Gradient. ICML 2008. Fast weights: Tieleman, Hinton.
Using Fast Weights to Improve Persistent Contrastive Divergence. ICML 2009. Settings and score: Salakhutdinov,
Murray. On the Quantitative Analysis of Deep Belief Networks. ICML 2008, and its released code. Equations are
numbered as in Hinton. A Practical Guide to Training Restricted Boltzmann Machines. UTML TR 2010-003.

Departs from the paper: hidden units are summed out at both ends of the gradient, so that it is that of a
difference of free energies; the step size multiplies the whole momentum, not each gradient as it is added;
Gaussian visible units have the standard deviation of their pixel, at least 0.1, as fixed noise.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus

from zoo.contract import (
    Batch,
    Codes,
    Decodes,
    Emits,
    Encodes,
    Images,
    Normalises,
    Partition,
    PerImage,
    PixelKind,
    Reconstructs,
    Repairs,
    Terms,
)
from zoo.errors import at_least, require
from zoo.methods.energy.shared.contrastive import (
    BURN_IN,
    Contrastive,
    Pace,
    first_weights,
    lengthened,
)
from zoo.methods.energy.shared.visible import BinaryVisible, GaussianVisible, Visible
from zoo.parts.distributions.bits import draw_bits
from zoo.randomness import drawing_from, own_stream

FAST = ("fast_weight", "fast_bias", "fast_visible_bias")
FAST_DECAY = 0.95
"""What is left of the fast weights after an update (Tieleman, Hinton 2009)."""


class RBM(Contrastive, Emits, Normalises, Repairs, Encodes, Decodes, Reconstructs):
    """Restricted Boltzmann machine with binary hidden units, trained by contrastive divergence.

    `loss` is a surrogate whose gradient is that of contrastive divergence; its value measures nothing. The
    best checkpoint is picked by the pseudo-likelihood `val/pseudo_log_prob`.

    Args:
        image_shape: (C, H, W) of one image; set from the data on the command line.
        num_hidden: Number of hidden units; up to 20, log Z is exact.
        visible: Bernoulli units for binary pixels, or Gaussian ones for grey levels, which want a step size
            about 50 times smaller.
        algorithm: `cd`: the negative chains start at each batch. `pcd`: they are persistent, and go on from
            where the last batch left them.
        num_chains: Number of persistent chains, on each process.
        gibbs_steps: k, Gibbs steps of the negative chains per batch.
        lengthen_every: Epochs after which k grows by `gibbs_steps` and the step size falls in proportion to
            1 / k; 0 never.
        lr: Step size at the start.
        lr_schedule: Constant, or falling linearly to 0 over the trainer's epochs.
        weight_decay: Decay of the weights, not of the biases.
        momentum: Momentum of the first epochs.
        momentum_final: Momentum afterwards.
        momentum_epochs: Epochs with the first momentum.
        fast_lr: Step size of the fast weights that persistent chains add to the weights; 0 has none.
        walk_steps: Gibbs steps from independent pixels to a sample; a walk shows the second half of them.

    Raises:
        UsageError: If a number is out of range, or fast weights are asked for without persistent chains.
    """

    paper = (
        "Hinton. Training Products of Experts by Minimizing Contrastive Divergence. Neural Computation 2002."
    )
    monitor = ("val/pseudo_log_prob", "max")
    progress = "pseudo_log_prob"
    chains: Tensor

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        num_hidden: int = 500,
        visible: Literal["bernoulli", "gaussian"] = "bernoulli",
        algorithm: Literal["cd", "pcd"] = "cd",
        num_chains: int = 100,
        gibbs_steps: int = 1,
        lengthen_every: int = 0,
        lr: float = 0.05,
        lr_schedule: Literal["constant", "linear"] = "constant",
        weight_decay: float = 2e-4,
        momentum: float = 0.5,
        momentum_final: float = 0.9,
        momentum_epochs: int = 5,
        fast_lr: float = 0.0,
        walk_steps: int = 1000,
    ) -> None:
        pace = Pace(lr, lr_schedule, weight_decay, momentum, momentum_final, momentum_epochs)
        super().__init__(image_shape, pace=pace)
        self.save_hyperparameters()
        at_least(1, num_hidden=num_hidden, num_chains=num_chains, gibbs_steps=gibbs_steps)
        at_least(1, walk_steps=walk_steps)
        at_least(0, lengthen_every=lengthen_every, fast_lr=fast_lr)
        self.persistent = algorithm == "pcd"
        require(self.persistent or not fast_lr, f"fast_lr needs algorithm: pcd, got algorithm: {algorithm}")
        self.gibbs_steps, self.lengthen_every, self.walk_steps = gibbs_steps, lengthen_every, walk_steps
        self.fast_lr = fast_lr
        layer = BinaryVisible if visible == "bernoulli" else GaussianVisible
        self.pixels: Visible = layer(self.image_shape)
        self.weight = first_weights(self.pixels.dim, num_hidden)
        self.bias = nn.Parameter(torch.zeros(num_hidden))
        if self.persistent:
            self.register_buffer("chains", self.pixels.start(num_chains))
        self.fast = FAST if fast_lr else ()
        for name, p in zip(self.fast, self.theta, strict=False):
            self.register_buffer(name, torch.zeros_like(p.detach()))

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        return self.pixels.accepts

    @property
    def per_process(self) -> tuple[str, ...]:
        return ("chains",) if self.persistent else ()

    def start_from(self, data: Any) -> None:
        """Start untouched biases and persistent chains at the training images' means."""
        if self.pixels.untouched:
            self.pixels.start_at(data.mean_image(), data.images("train"))
            if self.persistent:
                with own_stream(torch.initial_seed() % 2**63, self.global_rank):
                    self.chains.copy_(self.pixels.start(len(self.chains)))

    @property
    def theta(self) -> tuple[nn.Parameter, ...]:
        """W [D, H], b [H] and c [D] of E(v, h) = -cv - bh - vWh; |v - c|^2 / 2 for -cv of Gaussian units."""
        return self.weight, self.bias, self.pixels.bias  # equation 1

    def drive(self, v: Tensor) -> Tensor:
        """The logits of p(h = 1|v) = sigmoid(vW + b), [B, H]."""
        return (v @ self.weight).to(self.bias) + self.bias  # equation 7

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), [B]; p(v) = exp(-F(v)) / Z."""
        return self.pixels.energy(v) - softplus(self.drive(v)).sum(1)

    @torch.no_grad()
    def gibbs(
        self, v: Tensor, num_steps: int, weight: Tensor, b: Tensor, c: Tensor, drive: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Units [B, D] after steps h ~ p(h|v), v ~ p(v|h), and the natural parameters of the last p(v|h).

        Where the logits `drive` of the first p(h|v) are known, they are not computed again.
        """
        m = v
        for _ in range(num_steps):
            h = draw_bits(torch.addmm(b, v, weight).to(b) if drive is None else drive)  # equation 7
            drive, m = None, torch.addmm(c, h, weight.T).to(c)
            v = self.pixels.draw(m)  # equation 8: p(v = 1|h) = sigmoid(m), or N(m, 1)
        return v, m

    @property
    def num_steps(self) -> int:
        """Gibbs steps of the negative chains in this epoch, k."""
        return lengthened(self.gibbs_steps, self.current_epoch, self.lengthen_every)

    def loss(self, batch: Batch) -> Terms:
        """F at the batch less F where the negative chains are, which the gradient takes as given.

        The gradient in W is -(<vh>_data - <vh>_model), with the means of h at both ends.
        """
        v = self.pixels.code(batch.x)
        drive = self.drive(v)
        k = self.num_steps
        v_model = self.chains if self.persistent else self.gibbs(v, k, *self.theta, drive=drive)[0]
        energy = self.pixels.energy(v) - softplus(drive).sum(1)  # F(v)
        energy_model = self.free_energy(v_model).mean()
        with torch.no_grad():
            pseudo = self.pixels.log_conditional(v, drive, self.weight) - self.pixels.log_volume
        terms = {"energy_data": energy, "energy_model": energy_model, "pseudo_log_prob": pseudo}
        return terms | {"loss": energy - energy_model}  # equation 9, equation 6 with persistent chains

    @torch.no_grad()
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Move the persistent chains."""
        if self.persistent:
            fast = map(self.get_buffer, self.fast)
            theta = [p + f for p, f in zip(self.theta, fast, strict=True)] if self.fast else self.theta
            self.chains.copy_(self.gibbs(self.chains, self.num_steps, *theta)[0])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the fast weights along the gradient of the slow ones."""
        for name, p in zip(self.fast, self.theta, strict=False):
            assert p.grad is not None
            self.get_buffer(name).mul_(FAST_DECAY).sub_(p.grad, alpha=self.fast_lr)

    def step_size(self) -> float:
        return self.lr * self.gibbs_steps / self.num_steps

    def energy(self, x: Images) -> PerImage:
        return self.free_energy(self.pixels.code(x)) + self.pixels.log_volume

    def log_partition(self, num_chains: int, num_steps: int) -> Partition:
        return self.pixels.log_partition(self.weight, self.bias, num_chains, num_steps)

    def emit(self, n: int, *, generator: torch.Generator | None = None) -> Iterator[Distribution]:
        at_least(1, n=n)
        burn_in = int(BURN_IN * self.walk_steps)
        with drawing_from(generator):
            v, _ = self.gibbs(self.pixels.start(n), burn_in, *self.theta)
        for _ in range(self.walk_steps - burn_in):
            with drawing_from(generator):
                v, m = self.gibbs(v, 1, *self.theta)
            yield self.pixels.emission(m)

    @torch.no_grad()
    def repair(self, x: Images, mask: Images, *, generator: torch.Generator | None = None) -> Images:
        known, v = mask.flatten(1) > 0, self.pixels.code(x)
        m = v
        with drawing_from(generator):
            free = self.pixels.start(len(x))
            for _ in range(self.walk_steps):
                free, m = self.gibbs(torch.where(known, v, free), 1, *self.theta)
        return torch.where(mask > 0, x, _picture(self.pixels.emission(m)))

    @torch.no_grad()
    def encode(self, x: Images) -> Codes:
        return self.drive(self.pixels.code(x)).sigmoid()

    @torch.no_grad()
    def decode(self, z: Codes) -> Images:
        return _picture(self.pixels.emission(torch.addmm(self.pixels.bias, z, self.weight.T)))

    def reconstruct(self, x: Images) -> Images:
        return self.decode(self.encode(x))


def _picture(emission: Distribution) -> Images:
    return emission.mean.clamp(0, 1)
