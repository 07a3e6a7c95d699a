"""Pictures and predictions, which draw from a stream of their own, and weights of half the size."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from zoo.contract.batch import Batch
from zoo.contract.capabilities import Classifies, Clusters, Decodes, Encodes, Reconstructs, Samples
from zoo.contract.method import Method
from zoo.data.modules import Split
from zoo.errors import require
from zoo.files import write_bytes
from zoo.pictures.grids import grid, save_grid
from zoo.pictures.walks import interpolate, paired
from zoo.randomness import own_stream
from zoo.scores.evaluation import data_of, results_folder


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
            split = "val" if len(data_of(trainer).images("val")) else "train"
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
                x = data_of(trainer).split(split, self.side**2 // 2).x.to(method.device)
                pairs = torch.stack((x, method.reconstruct(x)), 1)
                pictures["reconstructions"] = pairs.flatten(0, 1)
            if isinstance(method, Encodes) and isinstance(method, Decodes) and self.side > 1:
                x = data_of(trainer).split(split, 2 * self.side).x.to(method.device)
                first, second = paired(x)
                pictures["interpolations"] = interpolate(method, first, second, self.side).flatten(0, 1)
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


class HalfWeights(Callback):
    """Rounds the weights to float16 after the training, before they are scored and saved: half of the bytes.

    Computation stays in float32. Numbers are those of the rounded weights.
    """

    @torch.no_grad()
    def on_test_start(self, trainer: Trainer, pl_module: Method) -> None:
        """Round what is float32."""
        largest = torch.finfo(torch.float16).max
        for name, tensor in pl_module.state_dict().items():
            if tensor.dtype == torch.float32:
                fits = bool((tensor.abs() <= largest).all())
                require(fits, f"{name} must lie within ±{largest:.0f} to be rounded to float16")
                tensor.copy_(tensor.half())
