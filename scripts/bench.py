"""Speed as ratios within one run: each line compares two ways of doing the same work.

    python scripts/bench.py [--only PATTERN] [--json FILE] [--peer pythae] [--rounds N]

The first table holds a method's training under its trainer against the same mathematics in a loop written by
hand (`handwritten.py`), epoch by epoch in turn, in processor seconds of one thread: medians of the images per
second, and medians and quartiles of the ratios. The second table compares parts of the library. Times differ
between machines and days; the ratios are what to watch.
"""

import argparse
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handwritten
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table
from torch.nn.functional import embedding
from torch.utils.data import DataLoader, TensorDataset

from zoo.contract.batch import Batch
from zoo.contract.learning import Descent
from zoo.contract.method import Method
from zoo.data.kept import ByteImages
from zoo.data.modules import Pixels, Rows
from zoo.data.sets import Digits
from zoo.methods.adversarial.gan import GAN
from zoo.methods.autoencoders.dae import DAE
from zoo.methods.autoencoders.glo import GLO
from zoo.methods.autoencoders.pca import PCA
from zoo.methods.chains.diffusion import Diffusion
from zoo.methods.energy.rbm import RBM
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.vae import VAE
from zoo.parts import estimators
from zoo.parts.annealing.binary_pair import BinaryPair
from zoo.parts.annealing.paths import anneal, linear
from zoo.parts.estimators import importance_bound
from zoo.parts.optimizers import LazyAdam, lazy_adam
from zoo.pictures.walks import nearest
from zoo.scores.metrics import fid, frechet, kid, moments, neighbourhoods
from zoo.scores.parzen import parzen


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of a few runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def start(statement: str) -> float:
    """Seconds until a fresh interpreter has run a statement."""
    return seconds(
        lambda: subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True), 3
    )


def fake_mnist(num_batches: int = 100, batch_size: int = 100, **options: Any) -> Digits:
    """A data module with MNIST's shape and no file behind it."""
    data, n = Digits(pad=10, batch_size=batch_size, num_validation=1, **options), num_batches * batch_size
    data.setup()
    x, y = data.originals("train"), data.labels("train")
    repeats = n // len(y) + 1
    x = x.repeat(repeats, 1, 1, 1)[:n]
    data._splits["train"] = Pixels(x, y.repeat(repeats)[:n])
    data._images["train"] = ByteImages(x, torch.arange(n))
    return data


def through_rows(data: Digits) -> Callable[[], None]:
    """One pass: loader of rows, gather and binarise a batch at a time."""
    loader = data.train_dataloader()

    def work() -> None:
        for rows in loader:
            data.batch(rows)

    return work


def through_pixels(data: Digits) -> Callable[[], None]:
    """One pass the usual way: a loader of float images, collated one by one, then binarised."""
    x = data.originals("train").float() / 255
    loader = DataLoader(TensorDataset(x, data._splits["train"].y), batch_size=100, shuffle=True)

    def work() -> None:
        for x, _ in loader:
            torch.bernoulli(x)

    return work


def steps(method: Descent, batch: Batch, count: int = 50) -> Callable[[], None]:
    """Loss and gradient of one batch, a few times."""

    def work() -> None:
        for _ in range(count):
            method.loss(batch)["loss"].mean().backward()

    return work


def bound(method: VAE, x: torch.Tensor, budget: int) -> Callable[[], None]:
    """The importance bound with so many pixels decoded at once."""

    def work() -> None:
        estimators.PIXELS_IN_CACHE = budget
        importance_bound(method.weigh, x, 500)

    return work


def distance_of(distance: Callable, n: int) -> float:
    """Seconds to hold n features against n others."""
    real, fake = torch.randn(2, n, 128).unbind()
    return seconds(lambda: distance(real, fake), 3)


def fid_alone(real: torch.Tensor, fake: torch.Tensor) -> float:
    """FID without its standard error."""
    return frechet(moments(real), moments(fake))


def parzen_of(n: int) -> float:
    """Seconds to score n images of MNIST's size under n samples."""
    samples, validation, test = torch.rand(3, n, 784).unbind()
    return seconds(lambda: parzen(samples, validation[:500], test), 1)


def annealing(num_steps: int) -> float:
    """Seconds of 100 chains of an RBM of MNIST's size."""
    stream = torch.Generator().manual_seed(0)
    weight = 0.01 * torch.randn(784, 500, generator=stream)
    pair = BinaryPair(weight, torch.zeros(500), torch.zeros(784), torch.zeros(784))
    return seconds(lambda: anneal(pair, 100, linear(num_steps)), 3)


def codes_step(optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """Seconds of a step of a batch's codes among 50,000, by sparse gradients or by dense ones."""
    codes = torch.nn.Parameter(torch.randn(50_000, 32))
    descent, rows = optimizer([codes]), torch.arange(128)
    sparse = optimizer is LazyAdam

    def step() -> None:
        descent.zero_grad()
        embedding(rows, codes, sparse=sparse).square().sum().backward()
        descent.step()

    return seconds(step)


def nearest_of(num_references: int) -> float:
    """Seconds to find the nearest reference of 1,000 images of MNIST's size."""
    stream = torch.Generator().manual_seed(0)
    images = torch.rand(1000, 1, 28, 28, generator=stream)
    references = torch.rand(num_references, 1, 28, 28, generator=stream)
    return seconds(lambda: nearest(images, references), 3)


@dataclass
class Loop:
    """A method's training, the same written by hand, and a peer's."""

    name: str
    method: Callable[[], Method]
    data: Callable[[], Digits]
    hand: Callable[[Digits, Method], handwritten.Epoch]
    precision: Any = "32-true"
    others: dict[str, Callable[[Digits], handwritten.Epoch]] | None = None


class InTurn(Callback):
    """Runs an epoch of each other loop after each epoch of the trainer, and times all of them.

    Args:
        others: By name.
    """

    def __init__(self, others: dict[str, handwritten.Epoch]) -> None:
        self.others = others
        self.seconds: dict[str, list[float]] = {"zoo": [], **{name: [] for name in others}}
        self.began: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, _: Any) -> None:
        """The first epoch warms up, and is not counted."""
        if trainer.current_epoch == 1:
            self.began = time.process_time()

    def on_train_epoch_end(self, *_: Any) -> None:
        """The trainer's epoch ends with what it does between two of them."""
        if self.began is not None:
            self.seconds["zoo"].append(time.process_time() - self.began)
        for name, epoch in self.others.items():
            began = time.process_time()
            epoch()
            if self.began is not None:
                self.seconds[name].append(time.process_time() - began)
        self.began = time.process_time() if self.began is not None else None


def compare(loop: Loop, peer: str | None, rounds: int) -> dict[str, Any]:
    """Images per second of each way, and the ratios of the rounds."""
    torch.manual_seed(0)
    data, method = loop.data(), loop.method()
    others = {"hand": loop.hand(data, method)}
    others |= {name: make(data) for name, make in (loop.others or {}).items() if name in ("bf16 hand", peer)}
    clock = InTurn(others)
    trainer = Trainer(
        max_epochs=rounds + 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        inference_mode=False,
        accelerator="cpu",
        precision=loop.precision,
        callbacks=[clock],
    )
    if isinstance(method, PCA):  # one pass is all it takes
        type(method).passes = None  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(method, datamodule=data)
    n = len(data.images("train"))
    speeds = {name: n / statistics.median(seconds) for name, seconds in clock.seconds.items()}
    ratios = {
        name: statistics.quantiles(
            [a / b for a, b in zip(clock.seconds[name], clock.seconds["zoo"], strict=True)]
        )
        for name in others
    }
    return {"name": loop.name, "images_per_second": speeds, "zoo_against": ratios}


SMALL, LARGE = (784, 400, 20), (784, 200, 200, 50)


def pythae(
    widths: tuple[int, ...], activation: type[torch.nn.Module]
) -> Callable[[Digits], handwritten.Epoch]:
    """A peer's loop, in a folder that is thrown away."""
    return lambda data: handwritten.pythae_vae(data, widths, activation, tempfile.mkdtemp())


def importance(num_samples: int, batch_size: int, num_batches: int, precision: Any) -> Loop:
    """An IWAE against the loop in float32, and in a mixed run against the mixed one too."""
    mixed = precision != "32-true"
    return Loop(
        f"IWAE k={num_samples}, batch {batch_size}" + (", bf16" if mixed else ""),
        lambda: IWAE(num_samples=num_samples, lr_schedule="constant"),
        lambda: fake_mnist(num_batches, batch_size),
        lambda data, _: handwritten.iwae(data, num_samples),
        precision,
        {"bf16 hand": lambda data: handwritten.iwae(data, num_samples, mixed=True)} if mixed else None,
    )


def glo_loop(data: Digits, _: Method) -> handwritten.Epoch:
    """GLO's loss, its optimizer and its projection."""
    from zoo.methods.autoencoders.glo import into_ball

    method = GLO()
    method.start_from(data)
    groups = [{"params": list(method.generator.parameters())}, {"params": [method.codes], "lr": 1e-2}]

    def project() -> None:
        with torch.no_grad():
            method.codes.copy_(into_ball(method.codes))

    return handwritten.bare(data, method, lazy_adam(groups, lr=1e-3), project)


def diffusion_loop(data: Digits, _: Method) -> handwritten.Epoch:
    """Diffusion's loss, its optimizer and its average."""
    method = Diffusion()
    method.start_from(data)
    optimizer = torch.optim.Adam(method.chain.parameters(), 1e-3, fused=True)
    return handwritten.bare(data, method, optimizer, lambda: method.average.update(method.chain))


def loops() -> list[Loop]:
    """The trainings."""
    relu, tanh = torch.nn.ReLU, torch.nn.Tanh
    return [
        Loop(
            "VAE 784-400-20, batch 128",
            lambda: VAE(latent_dim=20, hidden_dims=(400,), activation="relu", lr_schedule="constant"),
            lambda: fake_mnist(400, 128),
            lambda data, _: handwritten.vae(data, SMALL, relu),
        ),
        Loop(
            "VAE 784-200-200-50, batch 100",
            lambda: VAE(lr_schedule="constant"),
            lambda: fake_mnist(400),
            lambda data, _: handwritten.vae(data, LARGE, tanh),
        ),
        Loop(
            "VAE 784-400-20, bits drawn once",
            lambda: VAE(latent_dim=20, hidden_dims=(400,), activation="relu", lr_schedule="constant"),
            lambda: fake_mnist(400, 128, binarize="fixed"),
            lambda data, _: handwritten.vae(data, SMALL, relu),
            others={"pythae": pythae(SMALL, relu)},
        ),
        Loop(
            "VAE 784-200-200-50, bits drawn once",
            lambda: VAE(lr_schedule="constant"),
            lambda: fake_mnist(400, binarize="fixed"),
            lambda data, _: handwritten.vae(data, LARGE, tanh),
            others={"pythae": pythae(LARGE, tanh)},
        ),
        *(
            importance(k, size, count, precision)
            for precision in ("32-true", "bf16-mixed")
            for k, size, count in ((5, 100, 120), (50, 20, 120))
        ),
        Loop("RBM, CD-1", RBM, lambda: fake_mnist(100), lambda data, _: handwritten.rbm(data)),
        Loop("DAE, walkback 5", DAE, lambda: fake_mnist(10), lambda data, _: handwritten.dae(data)),
        Loop(
            "GAN, maxout",
            GAN,
            lambda: fake_mnist(20),
            handwritten.gan,  # pyright: ignore[reportArgumentType]
        ),
        Loop("GLO", GLO, lambda: fake_mnist(8, 128, binarize="none"), glo_loop),
        Loop(
            "Diffusion",
            Diffusion,
            lambda: fake_mnist(6, 100, binarize="none", dequantize=True),
            diffusion_loop,
        ),
        Loop(
            "PCA",
            lambda: PCA(latent_dim=30),
            lambda: fake_mnist(100, binarize="none", dequantize=True),
            lambda data, _: handwritten.pca(data),
        ),
    ]


Row = tuple[str, Callable[[], float], str, Callable[[], float]]


def parts() -> list[Row]:
    """What is compared, and against what."""
    torch.manual_seed(0)
    data = fake_mnist()
    batch = data.batch(Rows("train", torch.arange(100)))
    images, vae, cache = batch.x, VAE(), estimators.PIXELS_IN_CACHE
    iwae5 = steps(IWAE(num_samples=5), batch)
    return [
        ("import zoo", lambda: start("import zoo"), "import torch", lambda: start("import torch")),
        (
            "epoch of rows",
            lambda: seconds(through_rows(data)),
            "epoch of pixels",
            lambda: seconds(through_pixels(data)),
        ),
        ("IWAE k=5 step", lambda: seconds(iwae5), "VAE step", lambda: seconds(steps(vae, batch))),
        (
            "DReG k=5 step",
            lambda: seconds(steps(IWAE(num_samples=5, objective="dreg"), batch)),
            "IWAE k=5 step",
            lambda: seconds(iwae5),
        ),
        (
            "L_500, chunks in cache",
            lambda: seconds(bound(vae, images, cache), 3),
            "L_500, one chunk",
            lambda: seconds(bound(vae, images, 2**30), 3),
        ),
        (
            "FID with its error, n=4000",
            lambda: distance_of(fid, 4000),
            "FID alone",
            lambda: distance_of(fid_alone, 4000),
        ),
        ("KID, n=4000", lambda: distance_of(kid, 4000), "n=2000", lambda: distance_of(kid, 2000)),
        (
            "neighbourhoods, n=4000",
            lambda: distance_of(neighbourhoods, 4000),
            "n=2000",
            lambda: distance_of(neighbourhoods, 2000),
        ),
        ("Parzen, n=4000", lambda: parzen_of(4000), "n=2000", lambda: parzen_of(2000)),
        (
            "DAE, walkback 5, step",
            lambda: seconds(steps(DAE(walkback_steps=5), batch)),
            "walkback 1",
            lambda: seconds(steps(DAE(walkback_steps=1), batch)),
        ),
        (
            "RBM, CD-10 step",
            lambda: seconds(steps(RBM(gibbs_steps=10), batch)),
            "CD-1",
            lambda: seconds(steps(RBM(), batch)),
        ),
        (
            "codes, lazy Adam",
            lambda: codes_step(LazyAdam),
            "dense Adam",
            lambda: codes_step(torch.optim.Adam),
        ),
        ("nearest of 50k, n=1000", lambda: nearest_of(50_000), "of 10k", lambda: nearest_of(10_000)),
        ("AIS of an RBM, 200 steps", lambda: annealing(200), "100 steps", lambda: annealing(100)),
    ]


def hardware() -> str:
    """The processor, and what torch makes of it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    processor = names[0] if names else platform.processor()
    units = ", ".join(bf16) or "no bf16 units"
    return f"{processor}, {units}, {os.cpu_count()} cores, torch {torch.__version__}"


def show(title: str, columns: dict[str, list[str]]) -> None:
    """Print a table, its first column to the left."""
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(columns):
        table.add_column(heading, justify="left" if i == 0 or heading == "against" else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="regular expression: the lines to measure")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--peer", choices=["pythae"], help="a library to hold the VAEs against, if installed")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each training loop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    chosen = [loop for loop in loops() if re.search(given.only, loop.name)]
    results = [compare(loop, given.peer, given.rounds) for loop in chosen]
    peers = {name for result in results for name in result["zoo_against"]} - {"hand"}
    columns: dict[str, list[str]] = {"method": [result["name"] for result in results]}
    for name in ("zoo", "hand", *sorted(peers)):
        speeds = [result["images_per_second"].get(name) for result in results]
        columns[f"{name}, images/s"] = ["" if speed is None else f"{speed:,.0f}" for speed in speeds]
    for name in ("hand", *sorted(peers)):
        ratios = [result["zoo_against"].get(name) for result in results]
        columns[f"zoo / {name}"] = [
            "" if r is None else f"{r[1]:.2f} ({r[0]:.2f}-{r[2]:.2f})" for r in ratios
        ]
    if results:
        show(f"{hardware()}, one thread", columns)
    compared = [
        {"this": this, "seconds": mine(), "against": against, "other": other()}
        for this, mine, against, other in parts()
        if re.search(given.only, this)
    ]
    if compared:
        show(
            f"{hardware()}, one thread",
            {
                "this": [row["this"] for row in compared],
                "s": [f"{row['seconds']:.3f}" for row in compared],
                "against": [row["against"] for row in compared],
                "other s": [f"{row['other']:.3f}" for row in compared],
                "ratio": [f"{row['seconds'] / row['other']:.2f}" for row in compared],
            },
        )
    if given.json:
        content = {"hardware": hardware(), "loops": results, "parts": compared}
        given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
