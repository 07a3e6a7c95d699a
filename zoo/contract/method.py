"""A method: what every generative model here is, whatever it learns by."""

import math
import time
from abc import ABC
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from zoo.contract.batch import Batch, PixelKind, Terms
from zoo.contract.gathered import Gathered
from zoo.contract.loaders import LoadedImages, TrainingImages, as_batch, refuse_kind
from zoo.contract.saved import Saved
from zoo.errors import NonFiniteError, require
from zoo.randomness import mix

CHECK_EVERY = 50
"""Batches between two looks at the terms, which may have to wait for the device."""
Stage = Literal["train", "val", "test"]
MADE_BY: dict[PixelKind, str] = {
    "binary": "--data.binarize=dynamic",
    "real": "--data.binarize=none",
    "deq": "--data.binarize=none --data.dequantize=true",
    "pseudo": "--data.binarize=pseudo",
}
"""What makes each kind of pixels of grey levels."""


class Method(Saved, ABC):
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
    samples, the one of lowest `val/fid` where the score measures that while training. Without validation
    images the last is kept."""
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
        self._plain = True
        """Whether batches come from a loader that is none of the zoo's."""
        self._began = 0.0
        self._ahead = 0.0
        """Share of Lightning's batch whose steps are still to come."""
        self._gathered = {"train": Gathered(), "val": Gathered(), "test": Gathered()}

    @property
    def accepts(self) -> tuple[PixelKind, ...]:
        """Kinds of pixels for which this method's objective means what it says."""
        return ("binary", "real", "deq")

    @property
    def needs_validation(self) -> bool:
        """Whether it cannot learn without validation images."""
        return False

    @property
    def needs_data_module(self) -> bool:
        """Whether it asks for training images by their rows while it learns, which no plain loader knows."""
        return False

    @property
    def per_process(self) -> tuple[str, ...]:
        """Buffers that differ between processes, such as persistent chains: a checkpoint keeps them all."""
        return ()

    @property
    def epochs_done(self) -> float:
        """Passes over the training set so far, fractions included; 0 without a trainer.

        Counted in batches: Lightning's `global_step` counts optimizer steps, which differ between methods.
        """
        if self._trainer is None:
            return 0.0
        loop = self._trainer.fit_loop
        return (loop.epoch_loop.batch_progress.total.ready - self._ahead) / max(1, loop.max_batches)

    def setup(self, stage: str) -> None:
        """Tell DDP how to share the method; refuse unsuitable data, and start a fit from suitable ones."""
        if isinstance(self.trainer.strategy, DDPStrategy):
            for option, value in self.ddp_options.items():
                self.trainer.strategy._ddp_kwargs.setdefault(option, value)
        data = getattr(self.trainer, "datamodule", None)
        self._plain = not isinstance(data, TrainingImages)
        vars(self).pop("on_before_batch_transfer", None)
        if self._plain:  # on the class, Lightning would warn of it beside every data module
            self.on_before_batch_transfer = self._taken
        if data is not None and not self._plain:
            self.refuse_unsuitable(data)
            if stage == "fit":
                self._refuse_batch_of_one(data)
                data.steps_per_batch = self.join_steps(data)
                self.data_recipe = data.recipe()
                self.start_from(data)
        elif stage == "fit":
            self._start_from_loader()

    def _start_from_loader(self) -> None:
        name = type(self).__name__
        require(
            not self.needs_data_module,
            f"{name} asks for training images by their rows: fit it with a data module of zoo.data, "
            "not with a plain loader",
        )
        self.data_recipe, data = None, LoadedImages(self.trainer.fit_loop._data_source.dataloader())
        shape = tuple(data.first.x.shape[1:])
        require(
            shape == self.image_shape,
            f"image_shape must match the images: {name} has {self.image_shape}, the loader {shape}",
        )
        refuse_kind(data.first.x, self.accepts, name)
        self.start_from(data)

    def _taken(self, batch: Any, dataloader_idx: int) -> Batch:
        """A plain loader's batch, refused if it holds no images of a kind that the method learns from."""
        taken = as_batch(batch)
        refuse_kind(taken.x, self.accepts, type(self).__name__)
        return taken

    def join_steps(self, data: Any) -> int:
        """How many batches of a data module Lightning is given at once: 1, but for what splits them again."""
        return 1

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
            f"set {' or '.join(MADE_BY[kind] for kind in self.accepts)}, or the model's likelihood",
        )
        require(
            data.num_validation != 0 or not self.needs_validation,
            f"{name} learns from validation images: data.num_validation must be at least 1, got 0",
        )

    def _refuse_batch_of_one(self, data: Any) -> None:
        if not any(isinstance(part, nn.BatchNorm1d) for part in self.modules()):
            return
        n, size = len(data.images("train")), data.batch_size
        alone = size == 1 or math.ceil(n / self.trainer.world_size) % size == 1
        require(
            not alone,
            f"{type(self).__name__} normalises by the batch: no batch may hold a single image, got one of "
            f"{n} training images by data.batch_size: {size}",
        )

    def on_fit_start(self) -> None:
        """Start the clock, and choose the seed of the run's streams; a resumed run brings both.

        What `from_pretrained` gave is in eval mode, and learns in train mode.
        """
        if not self.training:
            self.train()
        self._began = time.monotonic() - self.train_seconds
        if self.stream_seed is None:
            self.stream_seed = torch.initial_seed() % 2**63

    def on_train_epoch_start(self) -> None:
        """Start this epoch's random stream, so that a run resumed at an epoch's end repeats it exactly."""
        self._gathered["train"].clear()
        torch.manual_seed(mix(self.stream_seed or 0, self.current_epoch, self.global_rank))

    def on_train_epoch_end(self) -> None:
        """Look at the last batches' terms before anything is saved, and log the epoch's."""
        self._look("train")
        self._log_gathered("train")

    def on_validation_epoch_start(self) -> None:
        """Forget a validation that was broken off."""
        self._gathered["val"].clear()

    def on_validation_epoch_end(self) -> None:
        """Log the terms of all batches."""
        self._look("val")
        self._log_gathered("val")

    def on_test_epoch_start(self) -> None:
        """Forget a test that was broken off."""
        self._gathered["test"].clear()

    def on_test_epoch_end(self) -> None:
        """Log the terms of a plain loader's batches."""
        self._look("test")
        self._log_gathered("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random streams' seed, the seconds of training and every process's own buffers."""
        self._look("train")
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

    def log_terms(self, stage: Stage, terms: Terms, batch_size: int, loss: Tensor | None = None) -> None:
        """Gather the terms of a batch: at the epoch's end the mean of each over images is `stage/name`.

        A training loss that is not finite stops the run before the weights are touched where a look costs
        nothing, on the CPU. Every other term is looked at after some batches: at most `CHECK_EVERY`, and
        before a checkpoint is written or the epoch ends.

        Args:
            stage: `train`, `val`, or of a plain loader `test`.
            terms: Each [B] or [].
            batch_size: The batch's weight in the mean.
            loss: The mean that is descended, if one is.

        Raises:
            NonFiniteError: Naming the batch, the training terms that are not finite and their values.
        """
        gathered = self._gathered[stage]
        gathered.add(self._num_batches(), terms, batch_size)
        seen = loss is not None and loss.device.type == "cpu"
        broken = seen and not math.isfinite(loss.detach())  # pyright: ignore[reportOptionalMemberAccess]
        if broken or gathered.num_waiting >= CHECK_EVERY:
            self._look(stage)

    def _num_batches(self) -> int:
        """Batches before this one, over all epochs."""
        return self.trainer.fit_loop.total_batch_idx

    def last_term(self) -> dict[str, float]:
        """What a progress bar shows of the last training batch, by key."""
        value = self._gathered["train"].last(self.progress)
        return {} if value is None else {f"train/{self.progress}": float(value)}

    def last_mean(self, name: str) -> Tensor:
        """A term's mean over the last training batch, on its device, []."""
        value = self._gathered["train"].last(name)
        assert value is not None
        return value

    def _look(self, stage: Stage) -> None:
        bad = self._gathered[stage].settle()
        if bad and stage == "train":
            raise NonFiniteError(f"training stopped: {bad} (epoch {self.current_epoch})")

    def _log_gathered(self, stage: Stage) -> None:
        for name, mean, weight in self._gathered[stage].means():
            self.log(
                f"{stage}/{name}",
                mean,
                on_step=False,
                on_epoch=True,
                batch_size=weight,
                prog_bar=name == self.progress,
                sync_dist=stage != "train",
            )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: `evaluation.Evaluator` scores the batch by asking what the method can do."""

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The batch: `callbacks.Predictions` writes what the method can say of it."""
        return batch
