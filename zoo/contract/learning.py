"""The three ways a method can learn: by one descent, as a game of several players, in closed form."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.contract.batch import Batch, Terms
from zoo.contract.method import Method
from zoo.randomness import own_stream


class Descent(Method):
    """Learns by descending one loss."""

    @abstractmethod
    def loss(self, batch: Batch) -> Terms:
        """Named terms, each [B] or []; the mean of `loss` is descended.

        Pure: reads parameters, buffers, the batch and the random stream, writes nothing.
        """

    def learning(self) -> list[nn.Parameter]:
        """The parameters that the loss of this epoch moves: all, where a method learns in one phase."""
        return [p for p in self.parameters() if p.requires_grad]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        terms = self.loss(batch)
        self.log_terms("train", terms, len(batch.x))
        return terms["loss"].mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms of a batch, drawn from a stream of its own: looking never changes training."""
        with own_stream(batch_idx, self.global_rank):
            self.log_terms("val", self.loss(batch), len(batch.x))


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
            self.log_terms("train", {f"{player}_{name}": term for name, term in terms.items()}, 1)
            optimizer.zero_grad()
            self.manual_backward(terms["loss"].mean())
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
        """Sum the statistics over processes and solve."""
        super().on_train_epoch_end()
        with torch.no_grad():
            for statistic in self.statistics():
                statistic.copy_(self.trainer.strategy.reduce(statistic, reduce_op="sum"))
            self.log_dict(self.settle(), sync_dist=True)
        # For Lightning a pass is one optimizer step: it saves no checkpoint before the first.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()
