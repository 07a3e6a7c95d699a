"""Speed as ratios within one run: each line compares two ways of doing the same work.

    python scripts/bench.py

Times differ between machines and days; the ratios are what to watch.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table
from torch.nn.functional import embedding
from torch.utils.data import DataLoader, TensorDataset

from zoo.contract.batch import Batch
from zoo.contract.learning import Descent
from zoo.data.modules import Rows
from zoo.data.sets import Digits
from zoo.methods.autoencoders.dae import DAE
from zoo.methods.energy.rbm import RBM
from zoo.methods.variational.iwae import IWAE
from zoo.methods.variational.vae import VAE
from zoo.parts import estimators
from zoo.parts.annealing.binary_pair import BinaryPair
from zoo.parts.annealing.paths import anneal, linear
from zoo.parts.estimators import importance_bound
from zoo.parts.optimizers import LazyAdam
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


def fake_mnist(n: int = 10_000) -> Digits:
    """A data module with MNIST's shape and no file behind it."""
    data = Digits(pad=10)
    data.setup()
    for name, kept in data._splits.items():
        data._splits[name] = type(kept)(
            kept.x.repeat(n // len(kept.y) + 1, 1, 1, 1)[:n], kept.y.repeat(99)[:n]
        )
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
    x = data._splits["train"].x.float() / 255
    loader = DataLoader(TensorDataset(x, data._splits["train"].y), batch_size=100, shuffle=True)

    def work() -> None:
        for x, _ in loader:
            torch.bernoulli(x)

    return work


def fit(data: Digits) -> Callable[[], None]:
    """One epoch under the trainer."""

    def work() -> None:
        trainer = Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            accelerator="cpu",
        )
        trainer.fit(VAE(), datamodule=data)

    return work


def bare_loop(data: Digits) -> Callable[[], None]:
    """One epoch as a bare loop over the same batches, loss and optimizer."""

    def work() -> None:
        method = VAE()
        optimizer = torch.optim.Adam(method.parameters(), 1e-3)
        for rows in data.train_dataloader():
            loss = method.loss(data.batch(rows))["loss"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

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


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    data = fake_mnist()
    batch = data.batch(Rows("train", torch.arange(100)))
    images = batch.x
    vae = VAE()
    rows: list[tuple[str, float, str, float]] = [
        ("import zoo", start("import zoo"), "import torch", start("import torch")),
        ("epoch of rows", seconds(through_rows(data)), "epoch of pixels", seconds(through_pixels(data))),
        ("epoch, Trainer", seconds(fit(data), 3), "epoch, bare loop", seconds(bare_loop(data), 3)),
        ("IWAE k=5 step", seconds(steps(IWAE(num_samples=5), batch)), "VAE step", seconds(steps(vae, batch))),
        (
            "DReG k=5 step",
            seconds(steps(IWAE(num_samples=5, objective="dreg"), batch)),
            "IWAE k=5 step",
            seconds(steps(IWAE(num_samples=5), batch)),
        ),
        (
            "L_500, chunks in cache",
            seconds(bound(vae, images, estimators.PIXELS_IN_CACHE), 3),
            "L_500, one chunk",
            seconds(bound(vae, images, 2**30), 3),
        ),
        ("FID with its error, n=4000", distance_of(fid, 4000), "FID alone", distance_of(fid_alone, 4000)),
        ("KID, n=4000", distance_of(kid, 4000), "n=2000", distance_of(kid, 2000)),
        (
            "neighbourhoods, n=4000",
            distance_of(neighbourhoods, 4000),
            "n=2000",
            distance_of(neighbourhoods, 2000),
        ),
        ("Parzen, n=4000", parzen_of(4000), "n=2000", parzen_of(2000)),
        (
            "DAE, walkback 5, step",
            seconds(steps(DAE(walkback_steps=5), batch)),
            "walkback 1",
            seconds(steps(DAE(walkback_steps=1), batch)),
        ),
        ("RBM, CD-10 step", seconds(steps(RBM(gibbs_steps=10), batch)), "CD-1", seconds(steps(RBM(), batch))),
        ("codes, lazy Adam", codes_step(LazyAdam), "dense Adam", codes_step(torch.optim.Adam)),
        ("nearest of 50k, n=1000", nearest_of(50_000), "of 10k", nearest_of(10_000)),
        ("AIS of an RBM, 200 steps", annealing(200), "100 steps", annealing(100)),
    ]
    table = Table(title=f"{os.cpu_count()} cores, {torch.get_num_threads()} threads", title_justify="left")
    for heading in ("this", "s", "against", "s", "ratio"):
        table.add_column(heading, justify="left" if heading in ("this", "against") else "right")
    for this, mine, against, other in rows:
        table.add_row(this, f"{mine:.3f}", against, f"{other:.3f}", f"{mine / other:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
