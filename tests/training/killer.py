"""Callbacks that end a fit in the middle of an epoch."""

import os
import signal

from lightning.pytorch import Callback


class BreakError(Exception):
    """What `BreakInEpoch` raises."""


class BreakInEpoch(Callback):
    """Raises at batch 3 of an epoch.

    Args:
        epoch: The epoch that is not survived.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 3:
            self.end()

    def end(self):
        raise BreakError


class KillInEpoch(BreakInEpoch):
    """Kills its own process, without any clean-up, at batch 3 of an epoch."""

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)
