"""The folder of a run: checkpoints that are whole, a log that a resumed run goes on with, a progress bar."""

import csv
import io
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from zoo.contract.method import Method
from zoo.files import atomic, write_bytes
from zoo.hub import RUN_CONFIG, RUN_LAST

LAST, BEST, CONFIG = RUN_LAST, "best.ckpt", RUN_CONFIG


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


class RunLog(CSVLogger):
    """metrics.csv in the run's folder; a resumed run goes on where its checkpoint was written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder.parent.parent, name=folder.parent.name, version=folder.name, flush_logs_every_n_steps=1
        )
        self._before = folder / "metrics.csv"
        self._rows: list[dict[str, str]] = []
        if self._before.is_file():
            with self._before.open(newline="") as file:
                self._rows = list(csv.DictReader(file))

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def keep_until(self, epoch: int) -> None:
        """Write the rows of earlier epochs back; call before anything is logged."""
        kept = [row for row in self._rows if row.get("epoch") and int(row["epoch"]) < epoch]
        writer = self.experiment
        writer.metrics_keys = sorted({key for row in kept for key in row}) if kept else []
        if kept:
            with atomic(self._before) as temporary, temporary.open("w", newline="") as file:
                rows = csv.DictWriter(file, fieldnames=writer.metrics_keys)
                rows.writeheader()
                rows.writerows(kept)


class Continuity(Callback):
    """Lets a resumed run keep its earlier metrics."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The checkpoint has been read: its epoch is known."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLog):
                logger.keep_until(trainer.current_epoch)


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
