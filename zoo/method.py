"""The contract: what a batch is, and the three ways a method can learn."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from zoo.errors import NonFiniteError, require
from zoo.randomness import mix, own_stream

PixelKind = Literal["binary", "real", "deq"]
"""binary: 0 or 1; real: grey levels in [0, 1] as they are; deq: (byte + U[0, 1)) / 256."""

CHECK_EVERY = 50
"""Batches between two looks at whether the terms are finite on an accelerator, where a look has to wait."""


class Batch(NamedTuple):
    """What every data module yields."""

    x: Tensor
    """[B, C, H, W] float32 pixels in [0, 1]."""
    y: Tensor
    """[B] int64 labels; -1 where there is none."""
    row: Tensor
    """[B] int64 positions in the split."""


Terms = dict[str, Tensor]
"""Named parts of an objective, each [B] or []; `loss` is what is descended."""


class Method(LightningModule, ABC):
    """A generative model and the rule by which it learns.

    Args:
        image_shape: (C, H, W) of one image.

    Raises:
        UsageError: If the shape is not three positive integers.
    """

    paper: ClassVar[str]
    """Citation: authors, title, venue, year."""
    monitor: ClassVar[tuple[str, Literal["min", "max"]] | None] = None
    """Validation metric that picks the best checkpoint, and its direction; None keeps the last, or, of what
    samples, the one of lowest `val/fid` where the score measures that while training."""
    progress: ClassVar[str] = "loss"
    """The term shown in the progress bar."""
    ddp_options: ClassVar[dict[str, bool]] = {"broadcast_buffers": False}
    """How several processes share the method: each keeps its own buffers (persistent chains differ)."""

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        shape_ok = len(image_shape) == 3 and all(size > 0 for size in image_shape)
        require(shape_ok, f"image_shape must be three positive integers (C, H, W), got {tuple(image_shape)}")
        self.image_shape = tuple(image_shape)
        self.stream_seed: int | None = None
        self.train_seconds = 0.0
        self._began = 0.0
        self._finite: list[tuple[int, tuple[str, ...], Tensor]] = []

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        """Kinds of pixels for which this method's objective means what it says."""
        return ("binary", "real", "deq")

    @property
    def needs_validation(self) -> bool:
        """Whether what is kept is chosen on validation images."""
        return self.monitor is not None

    @property
    def per_process(self) -> tuple[str, ...]:
        """Buffers that differ between processes, such as persistent chains: a checkpoint keeps them all."""
        return ()

    @property
    def unpublished(self) -> tuple[str, ...]:
        """State that checkpoints keep and published weights leave out, such as a code per training image."""
        return ()

    @property
    def epochs_done(self) -> float:
        """Passes over the training set so far, fractions included; 0 without a trainer.

        Counted in batches: Lightning's `global_step` counts optimizer steps, which differ between methods.
        """
        if self._trainer is None:
            return 0.0
        loop = self._trainer.fit_loop
        return loop.epoch_loop.batch_progress.total.ready / max(1, loop.max_batches)

    def setup(self, stage: str) -> None:
        """Tell DDP how to share the method; refuse unsuitable data, and start a fit from suitable ones."""
        if isinstance(self.trainer.strategy, DDPStrategy):
            for option, value in self.ddp_options.items():
                self.trainer.strategy._ddp_kwargs.setdefault(option, value)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.refuse_unsuitable(data)
            if stage == "fit":
                self.start_from(data)

    def start_from(self, data: Any) -> None:
        """Take up what the method's start needs of the training images, on every process alike.

        Called before each fit, a resumed one included, whose checkpoint is loaded afterwards.
        """

    def refuse_unsuitable(self, data: Any) -> None:
        """Compare a data module's shape and kind of pixels with what the method can learn from.

        Raises:
            UsageError: If they do not agree.
        """
        name = type(self).__name__
        require(
            self.image_shape == tuple(data.image_shape),
            f"image_shape must match the data: {name} has {self.image_shape}, the data {data.image_shape}",
        )
        require(
            data.pixels in self.accepts,
            f"{name} needs {' or '.join(self.accepts)} pixels, the data are {data.pixels}: "
            "set data.binarize or data.dequantize, or the model's likelihood",
        )
        require(
            data.num_validation != 0 or not self.needs_validation,
            f"{name} chooses by validation: data.num_validation must be at least 1, got 0",
        )

    def on_fit_start(self) -> None:
        """Start the clock, and choose the seed of the run's streams; a resumed run brings both."""
        self._began = time.monotonic() - self.train_seconds
        if self.stream_seed is None:
            self.stream_seed = torch.initial_seed() % 2**63

    def on_train_epoch_start(self) -> None:
        """Start this epoch's random stream, so that a run resumed at an epoch's end repeats it exactly."""
        torch.manual_seed(mix(self.stream_seed or 0, self.current_epoch, self.global_rank))

    def on_train_epoch_end(self) -> None:
        """Look at the last batches' terms before anything is saved."""
        self._stop_if_not_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random streams' seed, the seconds of training and every process's own buffers."""
        if self.trainer.world_size > 1:
            own = {name: self.get_buffer(name) for name in self.per_process}
            checkpoint["per_process"] = self.all_gather(own)
        checkpoint["stream_seed"] = self.stream_seed
        checkpoint["train_seconds"] = time.monotonic() - self._began

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again; processes beyond those that saved share their buffers."""
        for name, buffers in checkpoint.get("per_process", {}).items():
            checkpoint["state_dict"][name] = buffers[self.global_rank % len(buffers)]
        self.stream_seed, self.train_seconds = checkpoint["stream_seed"], checkpoint["train_seconds"]

    def log_terms(self, stage: str, terms: Terms, batch_size: int) -> None:
        """Log the mean of every term as `stage/name`; stop the run at a training term that is not finite.

        Raises:
            NonFiniteError: Naming the batch, the term and its value.
        """
        means = {name: term.detach().float().mean() for name, term in terms.items()}
        if stage == "train":
            self._finite.append(
                (self.trainer.fit_loop.total_batch_idx, tuple(means), torch.stack([*means.values()]))
            )
            if self.device.type == "cpu" or len(self._finite) >= CHECK_EVERY:
                self._stop_if_not_finite()
        for name, mean in means.items():
            self.log(
                f"{stage}/{name}",
                mean,
                on_step=False,
                on_epoch=True,
                batch_size=batch_size,
                prog_bar=name == self.progress,
                sync_dist=stage != "train",
            )

    def _stop_if_not_finite(self) -> None:
        pending, self._finite = self._finite, []
        if not pending or bool(torch.stack([values.sum() for _, _, values in pending]).isfinite().all()):
            return
        for step, names, values in pending:
            bad = [
                f"{n} = {v}" for n, v in zip(names, values.tolist(), strict=True) if not abs(v) < float("inf")
            ]
            if bad:
                raise NonFiniteError(
                    f"training stopped: {', '.join(bad)} at batch {step} (epoch {self.current_epoch})"
                )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: `evaluation.Evaluator` scores the batch by asking what the method can do."""

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The batch: `callbacks.Predictions` writes what the method can say of it."""
        return batch


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
        """One optimizer step of one player; the others' parameters get no gradient.

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
        frozen = [p for name, other in players.items() if name != player for p in other.parameters()]
        frozen = [p for p in frozen if p.requires_grad]
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
