"""One protocol for every method: ask what it can do, feed the metrics, print one table, write one file."""

import json
import math
import os
import platform
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from zoo.capabilities import Infers, Reconstructs, Scores, Side, Weighs
from zoo.data import ImageData
from zoo.errors import UsageError, require
from zoo.estimators import bits_per_dim, importance_bound
from zoo.files import write_bytes, write_json
from zoo.hub import weights_sha256
from zoo.method import Batch, Method
from zoo.metrics import ActiveUnits, PerImage, mean_and_error
from zoo.randomness import own_stream

SCHEMA = 1
LOW_ESS = 10.0
WIDTH = 120
PACKAGES = ("generative-zoo", "torch", "lightning", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Number:
    """One result."""

    value: float
    unit: str
    side: Side
    protocol: str
    error: float | None = None
    """Standard error over test images, in the same unit; None where there is none."""

    def __str__(self) -> str:
        """Side, value and error."""
        digits = 4 if abs(self.value) < 1 else 2
        text = (
            f"{self.side.value} {self.value:.{digits}f}"
            if self.value % 1
            else f"{self.side.value} {self.value:g}"
        )
        return text if self.error is None else f"{text} ± {self.error:.{digits}f}"


@dataclass(frozen=True)
class Results:
    """Everything that is known about one evaluation; `results.json` in memory."""

    method: str
    numbers: dict[str, Number]
    skipped: dict[str, str]
    """Metric to the reason why it was not computed."""
    data: dict[str, str]
    """`protocol` and `test_sha256`, the hash of the test images as they were scored."""
    weights_sha256: str
    seed: int
    versions: dict[str, str]
    hardware: str
    score_seconds: float
    train_seconds: float | None = None
    """Time from the start of the fit to the moment when these weights were saved."""
    details: dict[str, list[float]] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: str | Path) -> None:
        """Write the results as JSON, whole or not at all."""
        value = asdict(self)
        for number in value["numbers"].values():
            number["side"] = number["side"].value
        write_json(path, value)

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read a results file.

        Raises:
            UsageError: If the file is missing, is not JSON, or does not have this schema.
        """
        try:
            value = json.loads(Path(path).read_text())
            require(
                value["schema"] == SCHEMA, f"results must have schema {SCHEMA}, {path} has {value['schema']}"
            )
            numbers = {
                key: Number(**n | {"side": Side(n["side"])}) for key, n in value.pop("numbers").items()
            }
            return cls(**value, numbers=numbers)
        except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UsageError(
                f"results file {path} cannot be read: {type(error).__name__}: {error}"
            ) from error

    def table(self) -> Table:
        """The numbers, one row each."""
        data = self.data["protocol"]
        table = Table(title=f"{self.method} on {data}", title_justify="left")
        for heading in ("metric", "value", "unit", "protocol"):
            table.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
        for name, number in self.numbers.items():
            table.add_row(name, str(number), number.unit, number.protocol.removeprefix(f"{data}; "))
        for name, reason in self.skipped.items():
            table.add_row(name, "-", "", f"skipped: {reason}")
        return table


class Evaluator(Callback):
    """Scores a method on the test split when the trainer tests.

    Every test batch has a random stream of its own, seeded by `seed` and its first row: the same weights
    give the same numbers on one process or several, and two methods with equal latents see the same noise.

    Args:
        num_samples: K, importance samples per image.
        seed: Seed of the evaluation's random streams.
        out: The results file; by default `results.json` beside the checkpoint. The values of every image go
            to a .safetensors file of the same name.

    Raises:
        UsageError: If `num_samples` is below 1 or `seed` is negative.
    """

    def __init__(self, num_samples: int = 5000, seed: int = 0, out: str | None = None) -> None:
        require(num_samples >= 1, f"num_samples must be at least 1, got {num_samples}")
        require(seed >= 0, f"seed must not be negative, got {seed}")
        self.num_samples, self.seed, self.out = num_samples, seed, out
        self.results: Results | None = None
        self.per_image: dict[str, torch.Tensor] = {}

    def on_test_start(self, trainer: Trainer, pl_module: Method) -> None:
        """Start afresh."""
        self._began = time.perf_counter()
        self._values: dict[str, PerImage] = {}
        self._units: list[ActiveUnits] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Method,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Feed the metrics with one batch; a polite kill, which Lightning only notes, ends the test here."""
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        self._add(row=batch.row)
        with own_stream(self.seed, int(batch.row[0])), torch.no_grad():
            if isinstance(pl_module, Weighs):
                bound = importance_bound(pl_module.weigh, batch.x, self.num_samples)
                self._add(
                    log_prob=bound.log_prob, elbo=bound.elbo, rate=bound.rate, distortion=bound.distortion
                )
                self._add(ess=bound.ess)
            elif isinstance(pl_module, Scores):
                self._add(log_prob=pl_module.log_prob(batch.x, self.num_samples))
            if isinstance(pl_module, Infers):
                layers = pl_module.posterior_means(batch.x)
                self._units = self._units or [ActiveUnits().to(batch.x.device) for _ in layers]
                for metric, means in zip(self._units, layers, strict=True):
                    metric.update(means)
            if isinstance(pl_module, Reconstructs):
                error = (pl_module.reconstruct(batch.x) - batch.x).square().flatten(1).sum(1)
                self._add(reconstruction_error=error)

    def _add(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            metric = self._values.setdefault(name, PerImage().to(value.device))
            metric.update(value)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Method) -> None:
        """Compute everything, on every process; print and write on the first."""
        data = data_of(trainer)
        numbers, skipped, details = self._numbers(pl_module, data)
        for name, number in numbers.items():
            if not math.isfinite(number.value):
                raise UsageError(f"{name} must be finite, got {number.value}: the weights cannot be scored")
        self.results = Results(
            method=type(pl_module).__name__,
            numbers=numbers,
            skipped=skipped,
            data={"protocol": data.protocol, "test_sha256": data.test_hash()},
            weights_sha256=weights_sha256(pl_module),
            seed=self.seed,
            versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
            hardware=hardware(pl_module.device, trainer.world_size),
            score_seconds=round(time.perf_counter() - self._began, 2),
            train_seconds=round(pl_module.train_seconds, 2) or None,
            details=details,
        )
        self._report(trainer)

    @rank_zero_only
    def _report(self, trainer: Trainer) -> None:
        assert self.results is not None
        path = Path(self.out) if self.out else results_folder(trainer) / "results.json"
        write_bytes(path.with_suffix(".safetensors"), save(self.per_image))
        self.results.write(path)
        console().print(self.results.table())
        for logger in trainer.loggers:
            logger.log_metrics({name: number.value for name, number in self.results.numbers.items()})

    def _numbers(
        self, method: Method, data: ImageData
    ) -> tuple[dict[str, Number], dict[str, str], dict[str, list[float]]]:
        columns = {name: metric.compute().cpu() for name, metric in self._values.items()}
        order = columns["row"].argsort()
        self.per_image = {name: values[order] for name, values in columns.items()}
        stats = {name: mean_and_error(values) for name, values in self.per_image.items()}
        n = len(order)
        numbers: dict[str, Number] = {}
        skipped: dict[str, str] = {}
        details: dict[str, list[float]] = {}

        def put(name: str, value: float, unit: str, side: Side, how: str, error: float | None = None) -> None:
            error = error if error is not None and math.isfinite(error) else None
            numbers[f"test/{name}"] = Number(value, unit, side, f"{data.protocol}; {how}", error)

        over = f"{n} images"
        if isinstance(method, Scores):
            side = method.side
            key = "log_prob" if side is Side.EXACT else f"log_prob_{side.name.lower()}"
            how = f"{over}, K={self.num_samples} samples" if isinstance(method, Weighs) else over
            value, error = stats["log_prob"]
            put(key, value, "nats/image", side, how, error)
            dims = math.prod(method.image_shape)
            if data.pixels == "real":
                skipped["test/bits_per_dim"] = (
                    "grey levels without dithering have a density, not a probability"
                )
            else:
                flipped = {Side.LOWER: Side.UPPER, Side.UPPER: Side.LOWER}.get(side, side)
                bits = bits_per_dim(-value, dims, bytes_scaled=data.pixels == "deq")
                put("bits_per_dim", bits, "bits/dim", flipped, how, error / (math.log(2) * dims))
        else:
            skipped["test/log_prob"] = f"{type(method).__name__} does not score images"
        if isinstance(method, Weighs):
            how = f"{over}, K={self.num_samples} samples"
            for name, side in (("elbo", Side.LOWER), ("rate", Side.ESTIMATE), ("distortion", Side.ESTIMATE)):
                put(name, stats[name][0], "nats/image", side, how, stats[name][1])
            ess = self.per_image["ess"]
            put("ess_median", float(ess.median()), "samples", Side.ESTIMATE, how)
            put("ess_below_10", float((ess < LOW_ESS).double().mean()), "share of images", Side.ESTIMATE, how)
        if isinstance(method, Infers):
            for layer, metric in enumerate(self._units, 1):
                count, variances = metric.compute()
                suffix = f"_layer_{layer}" if len(self._units) > 1 else ""
                put(
                    f"active_units{suffix}",
                    float(count),
                    f"of {len(variances)}",
                    Side.EXACT,
                    f"{over}, Var > 0.01",
                )
                details[f"log10_variance_of_posterior_mean{suffix}"] = [
                    round(float(v), 3)
                    for v in variances.clamp(min=1e-12).log10().sort(descending=True).values
                ]
        if isinstance(method, Reconstructs):
            value, error = stats["reconstruction_error"]
            put(
                "reconstruction_error",
                value,
                "squared error/image",
                Side.EXACT,
                f"{over}, posterior mean",
                error,
            )
        return numbers, skipped, details


def console() -> Console:
    """Standard output; 120 columns where it is no terminal."""
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


def hardware(device: torch.device, world_size: int) -> str:
    """What the work ran on, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return name if world_size == 1 else f"{world_size} processes on {name}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
