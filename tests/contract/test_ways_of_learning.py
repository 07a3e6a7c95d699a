"""The three ways to learn, each proved by the smallest method there is."""

import copy

import pytest
import torch
from support import MatchingMeans, MeanByDescent, MeanInOnePass, Repeated, batch, state, tiny, trainer
from torch import nn

from zoo.contract.capabilities import Samples
from zoo.contract.learning import Game
from zoo.contract.method import Method
from zoo.data.sets import Digits
from zoo.errors import NonFiniteError, UsageError


def test_a_descent_descends(digits):
    method = MeanByDescent(lr=0.1)
    trainer(max_epochs=8).fit(method, datamodule=Digits(binarize="none"))
    expected = Digits(binarize="none").mean_image()
    assert (method.mean - expected).abs().max() < 0.1
    assert float(method.trainer.callback_metrics["val/distance"]) < 10


def test_a_game_moves_one_player_at_a_time_and_reaches_its_answer():
    method = MatchingMeans()
    trainer(max_epochs=2).fit(method, datamodule=Digits(binarize="none"))
    assert all(unmoved for unmoved, _ in method.seen)
    assert method.seen[0] == (True, True)
    mean = float(Digits(binarize="none").mean_image().mean())
    assert method.right.weight.item() == pytest.approx(mean, abs=0.02)
    assert method.left.weight.item() == pytest.approx(mean, abs=0.05)
    assert all(p.requires_grad for p in method.parameters())
    metrics = method.trainer.callback_metrics
    assert {"train/left_loss", "train/right_loss"} <= metrics.keys()


class Halving(Game):
    """Player `one` halves its weight's distance to 1 three times a round; `two` looks on, then learns it."""

    paper = "A game of mixed precision."

    def __init__(self, image_shape=(1, 8, 8)) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def players(self):
        return {"one": self.one, "two": self.two}

    def training_step(self, batch, batch_idx):
        x = torch.ones(1, 1, device=self.device)
        with torch.no_grad():
            self.two(x), self.one(x)
        for _ in range(3):
            self.descend("one", lambda: {"loss": (self.one(x).float() - 1).square()})
        self.descend("two", lambda: {"loss": (self.two(x) - self.one(x).detach()).float().square()})

    def configure_optimizers(self):
        return [torch.optim.SGD(player.parameters(), 0.25) for player in self.players().values()]


def test_a_game_in_mixed_precision_sees_every_step_and_learns_what_was_looked_at_without_gradient():
    """Autocast keeps low-precision copies of weights until the step ends: stale ones, or without gradient."""
    method = Halving()
    with torch.no_grad():
        method.one.weight.fill_(0.0)
        method.two.weight.fill_(0.0)
    loader = Repeated(batch())
    trainer(precision="bf16-mixed").fit(method, loader, loader)
    assert method.one.weight.item() == pytest.approx(7 / 8, abs=0.01)
    assert method.two.weight.item() == pytest.approx(7 / 16, abs=0.01)


def test_a_game_clips_the_gradient_norm():
    method = MatchingMeans(clip=1e-3)
    start = method.right.weight.item()
    trainer(limit_train_batches=1).fit(method, datamodule=Digits())
    assert 0 < abs(method.right.weight.item() - start) <= 0.2 * 1e-3 * 1.01


def test_a_closed_form_is_exact_after_one_pass_however_many_epochs_are_asked_for():
    method = MeanInOnePass()
    data = Digits(binarize="none")
    trainer(max_epochs=5).fit(method, datamodule=data)
    assert int(method.count) == len(data.split("train").y)
    assert int(method.trainer.callback_metrics["train/count"]) == len(data.split("train").y)
    assert method.trainer.current_epoch == 1
    assert torch.allclose(method.mean, data.split("train").x.double().mean(0), atol=1e-12)


def test_a_closed_form_of_many_passes_forgets_the_last_one_at_the_start_of_the_next(monkeypatch):
    monkeypatch.setattr(MeanInOnePass, "passes", None)
    method = MeanInOnePass()
    data = Digits(binarize="none")
    trainer(max_epochs=3).fit(method, datamodule=data)
    assert int(method.count) == len(data.split("train").y)
    assert method.trainer.current_epoch == 3


def test_epochs_are_counted_in_batches_for_a_game_with_two_optimizers():
    method = MatchingMeans()
    trainer(max_epochs=2).fit(method, datamodule=Digits())
    assert method.epochs_done == pytest.approx(2.0)


@pytest.mark.parametrize("cls", [MeanByDescent, MatchingMeans])
def test_a_term_that_is_not_finite_stops_the_run_with_its_name_and_batch(cls):
    method = cls()
    with torch.no_grad():
        next(iter(method.parameters())).fill_(float("nan"))
    before = state(copy.deepcopy(method))
    with pytest.raises(NonFiniteError, match=r"loss = nan.* at batch 0 \(epoch 0\)"):
        trainer().fit(method, datamodule=Digits())
    assert torch.equal(
        torch.stack([v.isnan().all() for v in before.values()]),
        torch.stack([v.isnan().all() for v in method.state_dict().values()]),
    )


def test_a_method_refuses_pixels_it_cannot_score():
    assert not issubclass(Method, Samples)
    with pytest.raises(UsageError, match="VAE needs binary or pseudo pixels, the data are real"):
        trainer().fit(tiny("VAE"), datamodule=Digits(binarize="none"))
    with pytest.raises(UsageError, match="VAE needs deq pixels, the data are real"):
        trainer().fit(tiny("VAE", likelihood="gaussian_learned"), datamodule=Digits(binarize="none"))
    with pytest.raises(UsageError, match=r"image_shape must match the data: VAE has \(1, 9, 9\)"):
        trainer().fit(tiny("VAE", (1, 9, 9)), datamodule=Digits())


def test_each_way_of_learning_on_two_processes(two_processes):
    """The same on both; for the closed form sums of both."""
    learnt = {name: values for name, *values in map(str.split, two_processes("ways_of_learning"))}
    mean = Digits(binarize="none").mean_image().mean().item()
    for cls in (MeanByDescent, MatchingMeans, MeanInOnePass):
        one, two = learnt[cls.__name__]
        assert one == two
        assert float(one) == pytest.approx(mean, abs=0.02)


def test_a_pass_over_images_that_are_not_finite_stops_before_anything_is_solved():
    method, data = MeanInOnePass(), Digits(binarize="none", batch_size=50)
    data.setup()
    kept = data._splits["train"]
    x = kept.x.float() / 255
    x[700, 0, 3, 3] = torch.nan
    data._splits["train"] = type(kept)(x, kept.y)
    with pytest.raises(NonFiniteError, match="training stopped: total not finite after pass 0"):
        trainer(max_epochs=1).fit(method, datamodule=data)
    assert not method.mean.any()


def test_a_solution_that_is_not_finite_stops_the_run(monkeypatch):
    monkeypatch.setattr(MeanInOnePass, "settle", lambda self: {"train/count": self.count / 0})
    with pytest.raises(NonFiniteError, match="train/count not finite after pass 0"):
        trainer(max_epochs=1).fit(MeanInOnePass(), datamodule=Digits(binarize="none", batch_size=50))
