"""The loop: terms gathered and logged once an epoch, a look for what is not finite, several steps at once."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from support import MeanByDescent, suited_digits, tiny, trainer
from torch import nn

from zoo.contract import learning
from zoo.contract.gathered import Gathered
from zoo.data.sets import Digits
from zoo.errors import NonFiniteError
from zoo.training.runs import Progress


def test_means_are_weighted_by_the_size_of_batches_of_any_shape():
    gathered = Gathered()
    columns = [torch.randn(4), torch.randn(4), torch.randn(3)]
    for step, column in enumerate(columns):
        gathered.add(step, {"a": column, "b": column.sum()}, len(column))
    assert gathered.settle() is None
    (a, mean, weight), (b, scalar, _) = gathered.means()
    assert (a, b, weight) == ("a", "b", 11)
    assert mean == pytest.approx(torch.cat(columns).mean().item(), abs=1e-6)
    expected = sum(len(c) * c.sum().item() for c in columns) / 11
    assert scalar == pytest.approx(expected, abs=1e-6)
    gathered.clear()
    assert list(gathered.means()) == []


def test_a_scalar_is_kept_as_it_was_and_the_last_batch_can_be_read():
    gathered, scale = Gathered(), nn.Parameter(torch.tensor(1.0))
    gathered.add(0, {"scale": scale}, 1)
    with torch.no_grad():
        scale.fill_(5.0)
    gathered.add(1, {"scale": scale}, 1)
    assert gathered.last("scale") == 5.0
    assert gathered.last("loss") is None
    gathered.settle()
    assert list(gathered.means()) == [("scale", 3.0, 2)]


def test_the_first_batch_that_is_not_finite_is_named_with_its_terms():
    gathered = Gathered()
    gathered.add(7, {"loss": torch.ones(2), "rate": torch.tensor([1.0, math.inf])}, 2)
    gathered.add(6, {"loss": torch.tensor(math.nan)}, 1)
    assert gathered.settle() == "loss = nan at batch 6"
    assert gathered.num_waiting == 0


class Breaking(MeanByDescent):
    """A term that is no loss is infinite at the sixth batch."""

    def loss(self, batch):
        infinite = self.trainer.fit_loop.total_batch_idx == 5
        return super().loss(batch) | {"extra": torch.tensor(math.inf if infinite else 0.0)}


def test_another_term_that_is_not_finite_stops_the_run_before_the_epoch_ends(tmp_path):
    keep = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
    fitting = trainer(max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    with pytest.raises(NonFiniteError, match=r"stopped: extra = inf at batch 5 \(epoch 0\)"):
        fitting.fit(Breaking(), datamodule=Digits(binarize="none"))
    assert not list(tmp_path.iterdir())


def test_another_term_that_is_not_finite_stops_the_run_before_a_checkpoint_is_written(tmp_path):
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=8)
    fitting = trainer(max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    with pytest.raises(NonFiniteError, match="extra = inf at batch 5"):
        fitting.fit(Breaking(), datamodule=Digits(binarize="none"))
    assert fitting.global_step == 8
    assert not list(tmp_path.iterdir())


class Means(Callback):
    """What an epoch should log, reckoned from what a method's loss says of each batch."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.count = 0

    def on_train_start(self, trainer, pl_module):
        inner = pl_module.loss

        def loss(batch):
            terms = inner(batch)
            if pl_module.training:
                self.count += len(batch.x)
                for name, term in terms.items():
                    self.totals[name] = self.totals.get(name, 0.0) + term.double().sum().item()
            return terms

        pl_module.loss = loss


def test_an_epoch_logs_the_mean_over_images_of_every_term():
    method, means = tiny("VAE"), Means()
    fitting = trainer(max_epochs=1, callbacks=[means])
    fitting.fit(method, datamodule=suited_digits(method, batch_size=50))
    for name, total in means.totals.items():
        logged = float(fitting.callback_metrics[f"train/{name}"])
        assert logged == pytest.approx(total / means.count, rel=1e-5)
    assert {f"val/{name}" for name in means.totals} <= set(fitting.callback_metrics)


def test_the_progress_bar_reads_the_last_batch():
    method = tiny("VAE")
    fitting = trainer(max_epochs=1, limit_train_batches=2)
    fitting.fit(method, datamodule=suited_digits(method))
    (shown,) = method.last_term().items()
    assert shown[0] == "train/elbo"
    bar = Progress()
    bar._trainer = fitting
    assert bar.get_metrics(fitting, method)["train/elbo"] == shown[1]


class Counting(Callback):
    """Batches that a callback hears of."""

    heard = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.heard += 1


def fitted(monkeypatch, steps: int, **options) -> tuple[dict, dict, int, int, float]:
    monkeypatch.setattr(learning, "FEWEST_BATCHES", 2)
    method = tiny("VAE")
    monkeypatch.setattr(type(method), "steps_per_batch", steps)
    counting = Counting()
    fitting = trainer(max_epochs=2, callbacks=[counting], **options)
    fitting.fit(method, datamodule=suited_digits(method, batch_size=50))
    metrics = {key: float(value) for key, value in fitting.callback_metrics.items()}
    state = {key: value.clone() for key, value in method.state_dict().items()}
    return state, metrics, counting.heard, fitting.global_step, method.epochs_done


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_several_steps_in_a_batch_are_the_steps_they_would_be_one_by_one(monkeypatch, precision):
    one, metrics, heard, steps, done = fitted(monkeypatch, 1, precision=precision)
    many, same, heard_of_many, steps_of_many, done_of_many = fitted(monkeypatch, 9, precision=precision)
    assert (heard, heard_of_many) == (2 * 26, 2 * 3)
    assert (steps, done) == (steps_of_many, done_of_many) == (2 * 26, 2.0)
    assert metrics == same
    assert all(torch.equal(one[key], many[key]) for key in one)


def test_fractions_of_an_epoch_count_the_steps_within_a_batch(monkeypatch):
    monkeypatch.setattr(learning, "FEWEST_BATCHES", 2)
    method = tiny("VAE")
    seen, inner = [], method.loss

    def loss(batch):
        if method.training:
            seen.append(method.epochs_done)
        return inner(batch)

    monkeypatch.setattr(method, "loss", loss)
    monkeypatch.setattr(type(method), "steps_per_batch", 13)
    trainer(max_epochs=1).fit(method, datamodule=suited_digits(method, batch_size=50))
    assert seen == pytest.approx([(i + 1) / 26 for i in range(26)])


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ({"gradient_clip_val": 1.0}, 52),
        ({"accumulate_grad_batches": 2}, 52),
        ({"limit_train_batches": 4}, 8),
        ({"max_steps": 9}, 9),
    ],
)
def test_what_listens_between_steps_gets_them_one_by_one(monkeypatch, options, heard):
    assert fitted(monkeypatch, 9, **options)[2] == heard


class BreakingLater(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            inner, calls = pl_module.loss, iter(range(99))

            def loss(batch):
                terms = inner(batch)
                return terms | {"loss": terms["loss"] * (math.nan if next(calls) == 12 else 1)}

            pl_module.loss = loss


def test_a_batch_of_several_steps_names_the_step_that_broke(monkeypatch):
    monkeypatch.setattr(Counting, "on_train_epoch_start", BreakingLater.on_train_epoch_start)
    with pytest.raises(NonFiniteError, match=r"loss = nan at batch 38 \(epoch 1\)"):
        fitted(monkeypatch, 9)
