"""Pictures and predictions: they ask a method what it can do, and draw from a stream of their own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Classifies, Clusters, Decodes, Encodes, Reconstructs, Samples
from zoo.contract.method import Method
from zoo.data.modules import Split
from zoo.errors import require
from zoo.evaluation import data_of, results_folder
from zoo.files import atomic, write_bytes
from zoo.randomness import own_stream
from zoo.walks import interpolate

GAP = 3
SMALLEST_SIDE = 56
"""Smaller images are enlarged, pixel by pixel, until a side has this many."""
FRAME_MS, LAST_FRAME_MS = 100, 2000
"""How long the frames of a film stand, in milliseconds."""


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images [N, C, H, W] in [0, 1] as one picture, row by row, grey lines between them."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    zoom = max(1, -(-SMALLEST_SIDE // max(height, width)))
    array = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy().transpose(0, 2, 3, 1)
    array = array.repeat(zoom, 1).repeat(zoom, 2)
    height, width = height * zoom, width * zoom
    down, across = height + GAP, width + GAP
    canvas = np.full((rows * down + GAP, columns * across + GAP, channels), 128, np.uint8)
    for i, picture in enumerate(array):
        top, left = (i // columns) * down + GAP, (i % columns) * across + GAP
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)


def save_grid(images: Tensor, path: str | Path, columns: int) -> None:
    """Write `grid(images)` as a PNG."""
    with atomic(path) as temporary:
        grid(images, columns).save(temporary, format="PNG")


def save_film(states: Iterable[Tensor], path: str | Path, columns: int, num_frames: int) -> None:
    """Write the states [N, C, H, W] of N chains as an animated GIF, or PNG, that dwells on the last.

    Args:
        states: First to last.
        path: Ends in .gif or .png.
        columns: Chains per row.
        num_frames: Most frames, evenly spaced over the states, the first and the last among them.
    """
    kept = [(state.detach().float().cpu().clamp(0, 1) * 255).round().byte() for state in states]
    frames = min(num_frames, len(kept))
    shown = [kept[round(float(i))] for i in np.linspace(0, len(kept) - 1, frames)]
    first, *rest = [grid(state.float() / 255, columns) for state in shown]
    durations = [FRAME_MS] * len(rest) + [LAST_FRAME_MS]
    with atomic(path) as temporary:
        kind = Path(path).suffix[1:].upper()
        first.save(temporary, kind, save_all=True, append_images=rest, duration=durations, loop=0)


class Grids(Callback):
    """Writes `samples.png`, `reconstructions.png` and `interpolations.png` while training and after the test.

    Args:
        every_n_epochs: Training epochs between two pictures.
        side: Images per row and per column.
        seed: Seed of the pictures' random stream.
    """

    def __init__(self, every_n_epochs: int = 10, side: int = 10, seed: int = 0) -> None:
        require(every_n_epochs >= 1, f"every_n_epochs must be at least 1, got {every_n_epochs}")
        require(side >= 1, f"side must be at least 1, got {side}")
        self.every_n_epochs, self.side, self.seed = every_n_epochs, side, seed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Draw every so many epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and not trainer.fast_dev_run:  # pyright: ignore
            split = "val" if len(data_of(trainer).originals("val")) else "train"
            self._draw(trainer, pl_module, Path(trainer.log_dir or "."), split)

    def on_test_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Draw the weights that were scored."""
        self._draw(trainer, pl_module, results_folder(trainer), "test")

    @torch.no_grad()
    def _draw(self, trainer: Trainer, method: Method, folder: Path, split: Split) -> None:
        if not trainer.is_global_zero:
            return
        pictures: dict[str, Tensor] = {}
        training = method.training
        method.eval()
        with own_stream(self.seed):
            if isinstance(method, Samples):
                pictures["samples"] = method.sample(self.side**2)
            if isinstance(method, Reconstructs):
                x = data_of(trainer).split(split).x[: self.side**2 // 2].to(method.device)
                pairs = torch.stack((x, method.reconstruct(x)), 1)
                pictures["reconstructions"] = pairs.flatten(0, 1)
            if isinstance(method, Encodes) and isinstance(method, Decodes) and self.side > 1:
                x = data_of(trainer).split(split).x[: 2 * self.side].to(method.device)
                pictures["interpolations"] = interpolate(method, x[::2], x[1::2], self.side).flatten(0, 1)
        method.train(training)
        for name, images in pictures.items():
            save_grid(images, folder / f"{name}.png", self.side)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(name, [grid(images, self.side)])


class Predictions(Callback):
    """Writes `predictions.safetensors`: row, label, and whatever the method can say of every test image."""

    def on_predict_start(self, trainer: Trainer, pl_module: Method) -> None:
        """Start afresh; one process only."""
        require(trainer.world_size == 1, f"predict runs on one process, got {trainer.world_size}")
        self._columns: dict[str, list[Tensor]] = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: Method,
        outputs: Batch,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the method about one batch."""
        columns = {"row": outputs.row, "y": outputs.y}
        with own_stream(batch_idx), torch.no_grad():
            if isinstance(pl_module, Encodes):
                columns["code"] = pl_module.encode(outputs.x)
            if isinstance(pl_module, Reconstructs):
                columns["reconstruction"] = pl_module.reconstruct(outputs.x)
            if isinstance(pl_module, Classifies):
                columns["log_prob_class"] = pl_module.classify(outputs.x)
            if isinstance(pl_module, Clusters):
                columns["log_prob_cluster"] = pl_module.cluster(outputs.x)
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column.cpu())

    def on_predict_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Write the file."""
        path = results_folder(trainer) / "predictions.safetensors"
        write_bytes(path, save({name: torch.cat(parts) for name, parts in self._columns.items()}))
        Console().print(f"predictions: {path}")
