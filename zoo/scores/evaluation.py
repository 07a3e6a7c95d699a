"""One protocol for every method: ask what it can do, feed the metrics, print one table, write one file."""

import platform
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from zoo.contract.batch import Batch
from zoo.contract.method import Method
from zoo.contract.saved import class_name, weights_sha256
from zoo.data.modules import ImageData
from zoo.errors import UsageError, one_line, require
from zoo.files import write_bytes
from zoo.randomness import own_stream
from zoo.scores.hardware import hardware, peak_memory
from zoo.scores.metrics import PerImage
from zoo.scores.results import Results
from zoo.scores.scene import Scene
from zoo.scores.sections import SECTIONS, run_sections

WIDTH = 200
PACKAGES = ("generative-zoo", "torch", "lightning", "torchmetrics", "numpy", "scikit-learn", "scipy")
LIGHT_IMAGES = 1000
LIGHT = ("fid", "kid")


class Evaluator(Callback):
    """Scores a method on the test split when the trainer tests.

    Every batch of images and of samples has a random stream of its own, seeded by `seed` and its place: the
    same weights give the same numbers on one process or several, and two methods with equal latents see the
    same noise.

    Args:
        num_samples: K, importance samples per image.
        num_images: Samples drawn from the method, which are held against all test images (no more samples
            than there are of these).
        metrics: Which metrics; by default all but `ais`, which takes minutes.
        every_n_epochs: While training, log `val/fid` and `val/kid` of 1,000 samples against all validation
            images at the validation of every so many epochs; 0 never does. A line says where the feature
            network has learned from these images, which flatters.
        seed: Seed of the evaluation's random streams.
        out: The results file; by default `results.json` beside the checkpoint. The values of every image go
            to a .safetensors file of the same name.

    Raises:
        UsageError: If a number is out of range or a metric unknown.
    """

    def __init__(
        self,
        num_samples: int = 5000,
        num_images: int = 10_000,
        metrics: list[str] | None = None,
        every_n_epochs: int = 0,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        for name, value in {"num_samples": num_samples, "num_images": num_images}.items():
            require(value >= 1, f"{name} must be at least 1, got {value}")
        require(every_n_epochs >= 0, f"every_n_epochs must not be negative, got {every_n_epochs}")
        require(seed >= 0, f"seed must not be negative, got {seed}")
        unknown = ", ".join(sorted(set(metrics or ()) - SECTIONS.keys()))
        require(not unknown, f"metrics must be among {', '.join(SECTIONS)}, got {unknown}")
        require(metrics != [], "metrics must name at least one metric, got none")
        self.num_samples, self.num_images = num_samples, num_images
        self.metrics = tuple(metrics or (name for name in SECTIONS if not SECTIONS[name].on_request))
        self.every_n_epochs, self.seed, self.out = every_n_epochs, seed, out
        self.results: Results | None = None
        self._said = False
        self.per_image: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: Method) -> None:
        """Refuse now what would end the first score while training."""
        trial = trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue]
        if self.every_n_epochs and not trial:
            scene = self._light_scene(trainer, pl_module)
            scene.samples = scene.real("val", scene.n)
            self._run_light(scene)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Log the light metrics of this epoch, if it is their turn; training does not notice."""
        epoch = trainer.current_epoch + 1
        if trainer.sanity_checking or not self.every_n_epochs or epoch % self.every_n_epochs:
            return
        scene = self._light_scene(trainer, pl_module)
        self._run_light(scene)
        for name, number in scene.numbers.items():
            pl_module.log(name, number.value)
        if scene.extractor.learned_from_validation and not self._said:
            self._say(f"val/fid and val/kid flatter: {scene.extractor.name} learned from these images too")

    @rank_zero_only
    def _say(self, line: str) -> None:
        self._said = True
        console().print(line, markup=False, highlight=False)

    def _light_scene(self, trainer: Trainer, method: Method) -> Scene:
        return self._scene(trainer, method, min(LIGHT_IMAGES, self.num_images), "val")

    def _run_light(self, scene: Scene) -> None:
        for name, reason in run_sections(scene, LIGHT):
            require(reason is None, f"every_n_epochs must be 0 where {name} cannot be measured: {reason}")

    def on_test_start(self, trainer: Trainer, pl_module: Method) -> None:
        """Start afresh."""
        self._began = time.perf_counter()
        self._columns: dict[str, PerImage] = {}
        self._refused: dict[str, str] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Method,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read one batch; a polite kill, which Lightning only notes, ends the test here."""
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        with own_stream(self.seed, int(batch.row[0])), torch.no_grad():
            values = self._read(pl_module, batch)
        for name, value in (values | {"row": batch.row}).items():
            self._columns.setdefault(name, PerImage().to(value.device)).update(value)

    def _read(self, method: Method, batch: Batch) -> dict[str, Tensor]:
        """Whatever the wanted metrics need of a batch, one row per image."""
        wanted = [name for name in SECTIONS if name in self.metrics and name not in self._refused]
        values: dict[str, Tensor] = {}
        for reading in dict.fromkeys(reading for name in wanted for reading in SECTIONS[name].reads):
            try:
                values |= reading(method, batch.x, self.num_samples)
            except ValueError as reason:  # also torch's, of values outside a distribution's support
                readers = [name for name in wanted if reading in SECTIONS[name].reads]
                self._refused |= dict.fromkeys(readers, one_line(reason))
        return values

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Compute everything, on every process; print and write on the first."""
        columns = {name: _rows(metric) for name, metric in self._columns.items()}
        order = columns["row"].argsort()
        scene = self._scene(trainer, pl_module, self.num_images, "test")
        scene.refused = self._refused
        scene.per_image = {name: values[order] for name, values in columns.items()}
        self.per_image = {name: values for name, values in scene.per_image.items() if values.ndim == 1}
        seconds, skipped = {"per_image": time.perf_counter() - self._began}, {}
        began = time.perf_counter()
        for name, reason in run_sections(scene, self.metrics):
            seconds[name] = time.perf_counter() - began
            began = time.perf_counter()
            if reason:
                skipped[name] = reason
        for name, number in scene.numbers.items():
            require(number.finite, f"{name} must be finite, got {number}: the weights cannot be scored")
        data = scene.data
        self.results = Results(
            method=class_name(type(pl_module)),
            numbers=scene.numbers,
            skipped=skipped,
            data=data.protocol.written() | {"test_sha256": data.test_hash()},
            weights_sha256=weights_sha256(pl_module),
            seed=self.seed,
            versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            hardware=hardware(pl_module.device, trainer.world_size),
            seconds={name: round(value, 2) for name, value in seconds.items()},
            floors=scene.floors,
            warnings=scene.warnings,
            train_seconds=round(pl_module.train_seconds, 2) or None,
            peak_memory_mb=peak_memory(pl_module.device),
            details=scene.details,
        )
        self._report(trainer)

    def _scene(self, trainer: Trainer, method: Method, n: int, split: Any) -> Scene:
        return Scene(
            method,
            data_of(trainer),
            self.seed,
            self.num_samples,
            n,
            split,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    @rank_zero_only
    def _report(self, trainer: Trainer) -> None:
        assert self.results is not None
        path = Path(self.out) if self.out else results_folder(trainer) / "results.json"
        write_bytes(path.with_suffix(".safetensors"), save(self.per_image))
        self.results.write(path)
        show(self.results)
        for logger in trainer.loggers:
            logger.log_metrics({name: number.value for name, number in self.results.numbers.items()})
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(self.results.flat())


def _rows(metric: PerImage) -> Tensor:
    """The values of every process, a row per image: torchmetrics makes a scalar of a single number."""
    return metric.compute().cpu().view(-1, *metric.values[0].shape[1:])


def show(results: Results) -> None:
    """Print a score, and what speaks against it."""
    console().print(results.table())
    for remark in results.remarks():
        console().print(remark, markup=False, highlight=False)


def console() -> Console:
    """Standard output; 200 columns where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def data_of(trainer: Trainer) -> ImageData:
    """The trainer's data module.

    Raises:
        UsageError: If it is not one of `zoo.data`.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ImageData):
        raise UsageError(f"scores and pictures need a data module of zoo.data, got {type(data).__name__}")
    return data


def results_folder(trainer: Trainer) -> Path:
    """The folder of the checkpoint that is tested, else the run's."""
    return Path(trainer.ckpt_path).parent if trainer.ckpt_path else Path(trainer.log_dir or ".")
