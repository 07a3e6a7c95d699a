"""What several test files call: tiny methods and their data, trainers, the command line in this process."""

import contextlib
import importlib
import io
import os
import random
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import nn

import zoo
from zoo.cli.main import main
from zoo.contract.batch import Batch, Terms
from zoo.contract.capabilities import Samples
from zoo.contract.learning import ClosedForm, Descent, Game
from zoo.contract.method import Method
from zoo.data.sets import Digits

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ALL = sorted(zoo.METHODS)
RECIPE = str(ROOT / "configs/variational/vae_digits.yaml")
FIT = ["fit", "--config", RECIPE, "--trainer.max_epochs=1", "--score.num_samples=3"]
"""The words of a short fit."""
EPOCHS_OF_PHASES = 4
"""In so many epochs the tiny methods have gone through all of their phases."""


def settings(name: str) -> dict[str, Any]:
    """The small settings of a method: TINY of `tests/methods/test_<module>.py`."""
    return importlib.import_module(f"test_{zoo.METHODS[name].rsplit('.', 1)[1]}").TINY


def tiny(name: str, image_shape: tuple[int, int, int] = (1, 8, 8), **options) -> Method:
    """A small, seeded instance of a method."""
    torch.manual_seed(0)
    return zoo.method_class(name)(image_shape=image_shape, **settings(name) | options)


def suited_digits(method: Method, **options) -> Digits:
    """The embedded digits with pixels that the method can score."""
    kind = next(kind for kind in ("binary", "deq", "real") if kind in method.accepts)
    treatment = {"binary": "dynamic"}.get(kind, "none")
    return Digits(binarize=treatment, dequantize=kind == "deq", **options)


def all_states(units: int) -> torch.Tensor:
    """Every binary vector of the length, counted with Python: [2^units, units], float64."""
    rows = [[number >> bit & 1 for bit in range(units)] for number in range(2**units)]
    return torch.tensor(rows, dtype=torch.float64)


def having(capability: type) -> list[str]:
    return [name for name in ALL if issubclass(zoo.method_class(name), capability)]


def trainer(**options) -> Trainer:
    settings = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "inference_mode": False,
    }
    return Trainer(**settings | options)


def images(shape=(1, 8, 8), n=6) -> torch.Tensor:
    return (torch.rand(n, *shape) < 0.3).float()


def batch(shape=(1, 8, 8), n=6) -> Batch:
    return Batch(images(shape, n), torch.arange(n) % 3, torch.arange(n))


class Handful:
    """What a method may ask of the data before a fit, of six images."""

    def __init__(self, shape) -> None:
        self.x = images(shape)

    def originals(self, split):
        return (255 * self.x).byte()

    images = originals

    def mean_image(self):
        return self.x.mean(0)

    def split(self, name, which=None):
        return batch(self.x.shape[1:])


def begun(name: str, shape=(1, 8, 8), **options) -> Method:
    """A tiny instance that has seen its data, as before its first step."""
    method = tiny(name, shape, **options)
    method.start_from(Handful(shape))
    return method


def state(method: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def lasting(method: Method) -> dict[str, torch.Tensor]:
    """The state, in training mode without what batch norms keep of the last batches."""
    if not method.training:
        return state(method)
    norms = [
        name for name, part in method.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    fleeting = {f"{norm}.{name}" for norm in norms for name, _ in method.get_submodule(norm).named_buffers()}
    return {name: value for name, value in state(method).items() if name not in fleeting}


class Repeated:
    """A loader of one batch, again and again, for shapes of which there are no data."""

    def __init__(self, batch: Batch, times: int = 1) -> None:
        self.batches = [batch] * times

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class MeanByDescent(Descent, Samples):
    """Learns the mean image by least squares."""

    paper = "Least squares."

    def __init__(self, image_shape=(1, 8, 8), lr: float = 0.5) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.lr = lr
        self.mean = nn.Parameter(torch.zeros(self.image_shape))

    def loss(self, batch: Batch) -> Terms:
        distance = (batch.x - self.mean).square().flatten(1).sum(1)
        return {"loss": distance, "distance": distance}

    def sample(self, n, *, generator=None):
        return self.mean.detach().clamp(0, 1).expand(n, *self.image_shape)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class MatchingMeans(Game):
    """Player `left` descends (left - right)^2, player `right` (right - mean)^2: a game with one answer."""

    paper = "A game."

    def __init__(self, image_shape=(1, 8, 8), clip: float | None = None) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.clip = clip
        self.left, self.right = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.seen: list[tuple[bool, bool]] = []

    def players(self):
        return {"left": self.left, "right": self.right}

    def left_loss(self, target):
        return {"loss": (self.left.weight - self.right.weight).square().sum() + 0 * target}

    def right_loss(self, target):
        return {"loss": (self.right.weight + 0 * self.left.weight - target).square().sum()}

    def training_step(self, batch, batch_idx):
        before = self.left.weight.detach().clone()
        self.descend("right", self.right_loss, batch.x.mean(), clip=self.clip)
        self.seen.append((torch.equal(before, self.left.weight), self.left.weight.grad is None))
        self.descend("left", self.left_loss, batch.x.mean(), clip=self.clip)

    def configure_optimizers(self):
        return [torch.optim.SGD(player.parameters(), 0.2) for player in self.players().values()]


class MeanInOnePass(ClosedForm):
    """The mean image, exactly."""

    paper = "Arithmetic."

    def __init__(self, image_shape=(1, 8, 8)) -> None:
        super().__init__(image_shape)
        self.save_hyperparameters()
        self.register_buffer("total", torch.zeros(self.image_shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.mean = nn.Parameter(torch.zeros(self.image_shape, dtype=torch.float64))

    def statistics(self):
        return [self.total, self.count]

    def absorb(self, batch):
        self.total += batch.x.double().sum(0)
        self.count += len(batch.x)

    def settle(self):
        self.mean.copy_(self.total / self.count)
        return {"train/count": self.count}


class Finished(NamedTuple):
    """What a command left: its status and what it said."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Whatever a command sets for its whole process is afterwards as it was before."""
    argv, cwd, env = sys.argv, Path.cwd(), dict(os.environ)
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    loggers = [getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    annotations = dict(Trainer.__init__.__annotations__)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.argv = argv
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        random.setstate(streams[0])
        np.random.set_state(streams[1])
        torch.set_rng_state(streams[2])
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warns)
        torch.backends.cudnn.benchmark = benchmark
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        Trainer.__init__.__annotations__ = annotations


def zoo_in_process(*arguments: str, cwd: Path, env: dict[str, str], check: bool) -> Finished:
    """`python -m zoo` without the process: the same words, status, and standard streams."""
    out, err = io.StringIO(), io.StringIO()
    with restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(cwd)
        os.environ.update(env)
        sys.argv = ["zoo", *arguments]
        try:
            main(arguments)
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
    assert not check or status == 0, out.getvalue() + err.getvalue()
    return Finished(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """The kernel refuses this process larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def child(*command: str, cwd: Path, env: dict[str, str] | None = None, **options):
    """Run Python in a process of its own that finds the zoo and the test files."""
    paths = os.pathsep.join(map(str, (ROOT, TESTS, TESTS / "methods", TESTS / "scores", TESTS / "training")))
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths} | (env or {}),
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        **options,
    )
