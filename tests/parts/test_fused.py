"""Fused optimizers: the unfused steps, clipping, older states, and gradients with rows."""

import pytest
import torch
from lightning.pytorch import Callback
from support import MatchingMeans, suited_digits, tiny, trainer
from torch import nn

from zoo.data.sets import Digits
from zoo.parts.optimizers import LazyAdam, adam, lazy_adam, sgd


def descended(make, steps: int = 5, **settings) -> torch.Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    optimizer = make(layer.parameters(), **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize(
    ("mine", "theirs", "settings"),
    [
        (adam, torch.optim.Adam, {"lr": 1e-2, "betas": (0.5, 0.99), "eps": 1e-4}),
        (sgd, torch.optim.SGD, {"lr": 1e-2, "momentum": 0.7}),
        (lazy_adam, torch.optim.Adam, {"lr": 1e-2}),
    ],
)
def test_a_fused_optimizer_steps_like_an_unfused_one(mine, theirs, settings):
    fused = mine([nn.Parameter(torch.zeros(2))], **settings)
    assert all(group["fused"] for group in fused.param_groups)
    one, two = descended(mine, **settings), descended(theirs, **settings, foreach=False)
    assert torch.allclose(one, two, atol=1e-6)


def test_parameters_form_one_group_and_groups_keep_their_settings():
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    assert [len(group["params"]) for group in adam(iter([p, q]), 0.1).param_groups] == [2]
    groups = sgd([{"params": iter([p]), "weight_decay": 0.5}, {"params": [q]}], 0.1).param_groups
    assert [(group["params"][0] is p, group["weight_decay"]) for group in groups] == [(True, 0.5), (False, 0)]


def test_what_no_kernel_fuses_is_not_fused():
    (group,) = adam([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], 0.1).param_groups
    assert not group["fused"]


def test_the_state_of_an_unfused_optimizer_goes_on():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    old = torch.optim.Adam(layer.parameters(), 1e-2)
    layer(torch.randn(4, 6)).square().sum().backward()
    old.step()
    new = adam(layer.parameters(), 1e-2)
    new.load_state_dict(old.state_dict())
    before = layer.weight.detach().clone()
    new.step()
    assert float(new.state[layer.weight]["step"]) == 2
    assert not torch.equal(before, layer.weight)


def test_rows_without_a_gradient_stay_where_they_are():
    codes = nn.Parameter(torch.ones(5, 2))
    optimizer = lazy_adam([codes], lr=0.1)
    assert isinstance(optimizer, LazyAdam)
    nn.functional.embedding(torch.tensor([1, 3]), codes, sparse=True).sum().backward()
    optimizer.step()
    moved = (codes != 1).all(1)
    assert moved.tolist() == [False, True, False, True, False]
    assert torch.allclose(codes[moved], torch.full((2, 2), 0.9))


class FusedGame(MatchingMeans):
    def configure_optimizers(self):
        return [sgd(player.parameters(), 0.2) for player in self.players().values()]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_game_clips_gradients_under_fused_optimizers(precision):
    method = FusedGame(clip=1e-3)
    start = method.right.weight.item()
    trainer(limit_train_batches=1, precision=precision).fit(method, datamodule=Digits())
    assert 0 < abs(method.right.weight.item() - start) <= 0.2 * 1e-3 * 1.01


class Norms(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.norm = torch.stack([p.grad.norm() for p in pl_module.parameters()]).norm()


def test_the_trainers_clipping_holds_under_a_fused_optimizer():
    method, norms = tiny("VAE"), Norms()
    clipped = {"precision": "bf16-mixed", "gradient_clip_val": 0.5, "callbacks": [norms]}
    trainer(limit_train_batches=1, **clipped).fit(method, datamodule=suited_digits(method))
    assert norms.norm == pytest.approx(0.5, rel=1e-3)
