"""Small machines whose distribution is enumerated, which several files check."""

import torch
from lightning.pytorch import Callback
from support import all_states, suited_digits, tiny, trainer

from zoo.contract.batch import Batch
from zoo.parts.annealing.gaussian_pair import GaussianPair

SHAPE, D, H = (1, 2, 5), 10, 8


def rbm(scale=0.8, shape=SHAPE, num_hidden=H, seed=0, **options):
    """A float64 machine with every parameter from N(0, scale^2)."""
    method = tiny("RBM", shape, num_hidden=num_hidden, **{"fast_lr": 0.0} | options).double()
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in method.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=stream, dtype=torch.float64))
        if options.get("visible") == "gaussian":
            method.pixels.mean.copy_(torch.rand(p.shape, generator=stream, dtype=torch.float64))
            method.pixels.std.copy_(0.2 + 0.3 * torch.rand(p.shape, generator=stream, dtype=torch.float64))
    return method


def joint(method) -> torch.Tensor:
    """-E(v, h) of a binary machine at all settings, [2^D, 2^H], written from the energy."""
    weight, b, c = method.theta
    v, h = all_states(len(c)), all_states(len(b))
    return v @ weight @ h.T + (v @ c)[:, None] + h @ b


def batch_of(v: torch.Tensor, shape=SHAPE) -> Batch:
    n = len(v)
    return Batch(v.unflatten(1, shape), torch.zeros(n, dtype=torch.long), torch.arange(n))


class Record(Callback):
    """Notes the optimizer's settings, k and the weights at every batch."""

    def __init__(self) -> None:
        self.settings, self.states = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        groups = trainer.optimizers[0].param_groups
        self.settings.append(
            (
                trainer.current_epoch,
                groups[0]["lr"],
                groups[0]["momentum"],
                groups[0]["weight_decay"],
                groups[1]["weight_decay"],
                pl_module.num_steps,
            )
        )
        assert groups[0]["lr"] == groups[1]["lr"]
        assert groups[0]["momentum"] == groups[1]["momentum"]
        assert groups[0]["params"] == [pl_module.weight]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def fitted(epochs, method=None, **options):
    method = method or tiny("RBM", **options)
    record = Record()
    trainer(max_epochs=epochs, limit_train_batches=2, limit_val_batches=0, callbacks=[record]).fit(
        method, datamodule=suited_digits(method)
    )
    return method, record


def gaussian(scale=0.5, seed=0, visible=4, hidden=3):
    stream = torch.Generator().manual_seed(seed)
    sizes = [(visible, hidden), (hidden,), (visible,), (visible,)]
    return GaussianPair(*(scale * torch.randn(size, generator=stream, dtype=torch.float64) for size in sizes))
