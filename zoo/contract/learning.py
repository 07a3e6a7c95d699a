"""The three ways a method can learn: by one descent, as a game of several players, in closed form."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from zoo.contract.batch import Batch, Terms
from zoo.contract.method import Method
from zoo.errors import NonFiniteError
from zoo.randomness import own_stream

FEWEST_BATCHES = 40
"""Batches of Lightning's in an epoch, for a progress bar to move and a run to be interrupted."""


class Descent(Method):
    """Learns by descending one loss."""

    steps_per_batch: ClassVar[int] = 1
    """Most steps that one batch of Lightning's may carry; 1 for what does something between them."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self._joined, self._part = 1, 0

    @abstractmethod
    def loss(self, batch: Batch) -> Terms:
        """Named terms, each [B] or []; the mean of `loss` is descended.

        Pure: reads parameters, buffers, the batch and the random stream, writes nothing.
        """

    def learning(self) -> list[nn.Parameter]:
        """The parameters that the loss of this epoch moves: all, where a method learns in one phase."""
        return [p for p in self.parameters() if p.requires_grad]

    def join_steps(self, data: Any) -> int:
        """Several, where Lightning's own work between batches counts and nothing in the run listens to it.

        Nothing but the time changes, and the moments at which callbacks hear of batches: all steps see the
        batches that they would see one by one.
        """
        trainer = self.trainer
        shares = trainer.limit_train_batches, trainer.val_check_interval
        listened_to = (
            not isinstance(trainer.strategy, SingleDeviceStrategy),
            trainer.precision not in ("32-true", "bf16-mixed"),
            trainer.accumulate_grad_batches > 1 or bool(trainer.gradient_clip_val),
            trainer.max_steps != -1,
            not all(isinstance(share, float) and share == 1 for share in shares),
        )
        self._batch_size = data.batch_size
        self._batches_in_epoch = math.ceil(len(data.images("train")) / data.batch_size)
        most = 1 if any(listened_to) else self.steps_per_batch
        self._joined = max(1, min(most, self._batches_in_epoch // FEWEST_BATCHES))
        return self._joined

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The mean loss of a batch; where it carries several steps, of the last, after the others."""
        if self._joined == 1:
            return self._mean_loss(batch)
        optimizer, loop = self.trainer.optimizers[0], self.trainer.fit_loop.epoch_loop
        steps = loop.automatic_optimization.optim_progress.optimizer.step
        loss, num_parts = None, math.ceil(len(batch.row) / self._batch_size)
        for i, part in enumerate(self.trainer.datamodule.parted(batch)):  # pyright: ignore
            if loss is not None:
                optimizer.zero_grad()
                with torch.autocast(self.device.type, enabled=False):
                    loss.backward()
                optimizer.step()
                steps.increment_ready()
                steps.increment_completed()
                loop._batches_that_stepped += 1
            self._part, self._ahead = i, 1 - (i + 1) / num_parts
            loss = self._mean_loss(part)
        assert loss is not None
        return loss

    def _mean_loss(self, batch: Batch) -> Tensor:
        terms = self.loss(batch)
        loss = terms["loss"].mean()
        self.log_terms("train", terms, len(batch.x), loss)
        return loss

    def _num_batches(self) -> int:
        if self._joined == 1:
            return super()._num_batches()
        loop = self.trainer.fit_loop
        return self.current_epoch * self._batches_in_epoch + loop.batch_idx * self._joined + self._part

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of a batch, drawn from a stream of its own: looking never changes training."""
        with own_stream(batch_idx, self.global_rank):
            self.log_terms("val", self.loss(batch), len(batch.x))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of a plain loader's batch; the zoo's data modules are scored by `Evaluator`."""
        if self._plain:
            with own_stream(batch_idx, self.global_rank):
                self.log_terms("test", self.loss(batch), len(batch.x))


class Game(Method):
    """Learns as several players, each with its own optimizer and its own terms.

    The method writes Lightning's `training_step` as the paper's algorithm box, in calls of `descend`;
    `configure_optimizers` returns one optimizer per player, in the order of `players()`.
    """

    ddp_options = {"broadcast_buffers": False, "find_unused_parameters": True}

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.automatic_optimization = False

    @abstractmethod
    def players(self) -> dict[str, nn.Module]:
        """The players by name, in the order of the optimizers."""

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One round of the game: the paper's algorithm box."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: a game's losses do not measure its players."""

    def descend(
        self, player: str, loss_fn: Callable[..., Terms], *args: Any, clip: float | None = None
    ) -> Terms:
        """One optimizer step of one player; parameters that only others have get no gradient.

        Players may share parameters, such as a trunk: they move in the step of each.

        Args:
            player: Name in `players()`.
            loss_fn: Called with `args`; returns terms whose mean `loss` is descended.
            args: Passed on.
            clip: Largest norm of the player's gradient; None does not clip.
        """
        players = self.players()
        optimizers = self.optimizers()
        optimizer = (optimizers if isinstance(optimizers, list) else [optimizers])[
            list(players).index(player)
        ]
        own = set(players[player].parameters())
        frozen = {p for other in players.values() for p in other.parameters() if p.requires_grad} - own
        for p in frozen:
            p.requires_grad_(False)
        try:
            terms = loss_fn(*args)
            loss = terms["loss"].mean()
            self.log_terms("train", {f"{player}_{name}": term for name, term in terms.items()}, 1, loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if clip is not None:
                self.clip_gradients(
                    optimizer.optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm"
                )
            optimizer.step()
        finally:
            for p in frozen:
                p.requires_grad_(True)
        return terms


class ClosedForm(Method):
    """Learns by passes over the data: absorbs sufficient statistics, solves at the end of each pass.

    What is absorbed lives in buffers that are zero at the start of a pass, what is solved for in parameters
    (distributed training asks for some that have gradients). On several processes the statistics are summed;
    the sampler repeats at most one row per process.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__(image_shape)
        self.automatic_optimization = False

    @property
    def passes(self) -> int | None:
        """Passes over the training set until the answer is exact; None takes all of the trainer's epochs."""
        return 1

    @abstractmethod
    def statistics(self) -> list[Tensor]:
        """The buffers that a pass adds to; summed over processes before `settle`."""

    @abstractmethod
    def absorb(self, batch: Batch) -> None:
        """Add a batch to the sufficient statistics, in place."""

    @abstractmethod
    def settle(self) -> Terms:
        """Solve for the parameters from the statistics of all batches; returns what is to be logged, by key.

        Lightning validates before this: `validation_step` may absorb statistics of held-out images.
        """

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """None: nothing is descended."""
        return []

    def on_fit_start(self) -> None:
        """End the fit after the last pass that changes anything."""
        super().on_fit_start()
        if self.passes is not None:
            self.trainer.fit_loop.max_epochs = self.passes

    def on_train_epoch_start(self) -> None:
        """Forget the last pass, and what a sanity check absorbed."""
        super().on_train_epoch_start()
        for statistic in self.statistics():
            statistic.zero_()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Absorb a batch."""
        with torch.no_grad():
            self.absorb(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: the evaluator scores what was solved."""

    def on_train_epoch_end(self) -> None:
        """Sum the statistics over processes and solve.

        Raises:
            NonFiniteError: Naming statistics that are not finite, before the parameters move, or terms.
        """
        super().on_train_epoch_end()
        with torch.no_grad():
            for statistic in self.statistics():
                statistic.copy_(self.trainer.strategy.reduce(statistic, reduce_op="sum"))
            places = {id(statistic) for statistic in self.statistics()}
            self._stop_unless_finite({n: b for n, b in self.named_buffers() if id(b) in places})
            terms = self.settle()
            self._stop_unless_finite(terms)
            self.log_dict(terms, sync_dist=True)
        # For Lightning a pass is one optimizer step: it saves no checkpoint before the first.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

    def _stop_unless_finite(self, values: Terms) -> None:
        bad = ", ".join(name for name, value in values.items() if not value.isfinite().all())
        if bad:
            raise NonFiniteError(f"training stopped: {bad} not finite after pass {self.current_epoch}")
