"""The folder of a run: checkpoints that are whole, a log that a resumed run goes on with, a progress bar."""

import csv
import io
import logging
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from zoo.contract.method import Method
from zoo.errors import require
from zoo.files import atomic, write_bytes
from zoo.hub import RUN_CONFIG, RUN_LAST

LAST, BEST, CONFIG = RUN_LAST, "best.ckpt", RUN_CONFIG
WANDB_ID = "wandb_id.txt"
MAY_CHANGE = {
    "ckpt_path",
    "config",
    "weights_only",
    "data.path",  # the images are compared themselves, and so is the number of processes
    "trainer.devices",
    "trainer.num_nodes",
    "wandb",
    "grids",
    *(f"score.{name}" for name in ("num_samples", "num_images", "metrics", "seed", "out")),
    *(f"trainer.{name}" for name in ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")),
    *(f"trainer.{name}" for name in ("logger", "log_every_n_steps", "callbacks", "default_root_dir")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")),
    *(f"trainer.{name}" for name in ("enable_autolog_hparams", "model_registry")),
    *(f"trainer.{name}" for name in ("profiler", "barebones", "detect_anomaly", "fast_dev_run")),
    *(f"trainer.{name}" for name in ("accelerator", "benchmark", "deterministic", "inference_mode")),
    *(f"trainer.{name}" for name in ("limit_test_batches", "limit_predict_batches", "num_sanity_val_steps")),
}
"""Settings that a resumed run may change: how long it trains, where it runs, what it writes. Of all others, a
change makes it another run."""


def quieten() -> None:
    """Silence advice about choices that are made on purpose."""
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*The number of training batches.*",
        ".*Total length of .list. across ranks is zero.*",
        ".*`broadcast_buffers` is deprecated.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, also where the temporary folder is on another disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, then rename."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(path, content.getvalue())


class _Rows(ExperimentWriter):
    """Rows of a file that may be there already."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """Nothing: what is there is gone on with."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        _write_rows(path, fieldnames, _read_rows(path))


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, keys: list[str], rows: list[dict[str, str]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=keys)
        writer.writeheader()
        writer.writerows(rows)


class RunLog(CSVLogger):
    """metrics.csv in the run's folder; a resumed run goes on where its checkpoint was written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder.parent.parent, name=folder.parent.name, version=folder.name, flush_logs_every_n_steps=1
        )
        self._file = folder / "metrics.csv"

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """What writes the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        return cast(_Rows, self._experiment)

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def keep_until(self, epoch: int) -> None:
        """Leave the rows of earlier epochs only; call before anything is logged."""
        if not self._file.is_file():
            return
        rows = [row for row in _read_rows(self._file) if row.get("epoch") and int(row["epoch"]) < epoch]
        self.experiment.metrics_keys = keys = sorted({key for row in rows for key in row})
        if rows:
            _write_rows(self._file, keys, rows)
        else:
            self._file.unlink()


class Continuity(Callback):
    """Lets a resumed run keep its metrics and its best checkpoint; says where nothing is left to train."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is trained yet."""
        self._trains = False

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Of a run that was moved, the kept checkpoints are where it is now."""
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                before, now = str(state["dirpath"]), str(callback.dirpath)
                for name, value in state.items():
                    if isinstance(value, str):
                        state[name] = value.replace(before, now, 1)
                state["best_k_models"] = {
                    path.replace(before, now, 1): score for path, score in state["best_k_models"].items()
                }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The checkpoint has been read: its epoch is known."""
        self._trains = True
        self._keep(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where no epoch began, this is the first that is heard."""
        if not self._trains:
            self._keep(trainer)
            if trainer.is_global_zero:
                sys.stdout.write(
                    f"nothing left to train: {trainer.current_epoch} epochs are done "
                    f"of trainer.max_epochs: {trainer.max_epochs}\n"
                )

    def _keep(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, RunLog):
                logger.keep_until(trainer.current_epoch)


class TimeLimit(Timer):
    """`trainer.max_time`, counted from the start of each fit: a resumed run has as much time again."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the time of earlier fits does not count."""


class Unvalidated(Callback):
    """Refuses, where nothing is validated, what waits for a validation metric."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the callbacks and the schedules of step sizes.

        Raises:
            UsageError: Naming the metric and what waits for it.
        """
        data = getattr(trainer, "datamodule", None)
        if trainer.limit_val_batches != 0 and (data is None or data.num_validation != 0):
            return
        waiting = [
            (type(callback).__name__, callback.monitor)
            for callback in trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, (EarlyStopping, ModelCheckpoint))
        ]
        waiting += [
            (type(config.scheduler).__name__, config.monitor) for config in trainer.lr_scheduler_configs
        ]
        for name, monitor in waiting:
            require(
                not (monitor or "").startswith("val/"),
                f"{name} needs validation images to watch {monitor}: data.num_validation must be at least 1, "
                "and trainer.limit_val_batches not 0",
            )


class Progress(RichProgressBar):
    """Rich's progress bar, drawn five times a second and not at every batch, without the version number."""

    INTERVAL = 0.2
    drawn = 0.0

    def refresh(self, hard: bool = False) -> None:
        """Read the metrics and draw if it must be or if it is time to."""
        now = time.monotonic()
        if hard or now - self.drawn >= self.INTERVAL:
            self.drawn = now
            super()._update_metrics(self.trainer, self.trainer.lightning_module)
            super().refresh(hard)

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: they are read when the bar is drawn."""

    def get_metrics(self, trainer: Trainer, pl_module: Method) -> dict[str, Any]:  # pyright: ignore
        """What stands at the end of the bar: metrics of the last epoch, a term of the last batch."""
        metrics = super().get_metrics(trainer, pl_module) | pl_module.last_term()
        return {key: value for key, value in metrics.items() if key != "v_num"}


def _new_folder(parent: Path) -> Path:
    """Reserve `version_N`, the first that does not exist; processes other than the first take the newest."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = parent / f"version_{number}"
        try:
            if rank_zero_only.rank == 0:
                folder.mkdir()
            elif (parent / f"version_{number + 1}").exists():
                raise FileExistsError
            return folder
        except FileExistsError:
            number += 1


def wandb_id(folder: Path) -> str | None:
    """The id of a run on W&B, kept in its folder: a resumed run goes on with it. Of the first process."""
    if rank_zero_only.rank != 0:
        return None
    path = folder / WANDB_ID
    if not path.is_file():
        write_bytes(path, f"{secrets.token_hex(4)}\n".encode())
    return path.read_text().strip()


def changed(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What a resumed run may not change and does: a line for each, as in `data.batch_size was 50, got 500`.

    Args:
        old: The settings of the run, nested; those that only one side has are not compared.
        new: The settings that are asked for.
        name: What both are called on the command line; all settings have no name.
    """
    if name in MAY_CHANGE:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield f"{name} was {old}, got {new}"
    elif old.get("class_path") != new.get("class_path"):
        yield f"{name} was {old.get('class_path')}, got {new.get('class_path')}"
    else:
        for key in (key for key in new if key in old):
            below = name if key == "init_args" else f"{name}.{key}".strip(".")
            yield from changed(old[key], new[key], below)
