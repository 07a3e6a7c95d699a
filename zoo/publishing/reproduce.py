"""From a recipe to its checkpoint: train, score, collect, write the card. What is already there is kept."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from zoo.errors import UsageError, require
from zoo.hub import RESULTS, WEIGHTS, recipe_files
from zoo.training.runs import CONFIG, LAST

Budget = Literal["cpu", "gpu", "paper"]

RUNS = Path("runs/reproduce")
ACCELERATORS = {"cpu": "cpu", "gpu": "gpu", "paper": "auto"}


class Training(NamedTuple):
    """One run that a checkpoint needs."""

    slug: str
    recipe: Path
    seed: int
    accelerator: str

    @property
    def root(self) -> Path:
        """Where the runs of this seed are."""
        return RUNS / f"seed_{self.seed}"

    def versions(self) -> list[Path]:
        """Runs of this recipe as it is now, the newest last."""
        wanted = yaml.safe_load(self.recipe.read_text()) | {"seed_everything": self.seed}
        found = (self.root / self.slug).glob(f"version_*/{CONFIG}")
        runs = [path.parent for path in found if _covers(yaml.safe_load(path.read_text()), wanted)]
        return sorted(runs, key=lambda run: int(run.name.removeprefix("version_")))

    @property
    def finished(self) -> Path | None:
        """The newest run that was scored and saved."""
        done = [
            run
            for run in self.versions()
            if (run / RESULTS).is_file() and (run / "model" / WEIGHTS).is_file()
        ]
        return done[-1] if done else None

    def command(self) -> list[str]:
        """The command line that trains and scores, or goes on where an interrupted one stopped."""
        begun = [run / LAST for run in self.versions() if (run / LAST).is_file()]
        settings = {
            "config": os.path.relpath(self.recipe),
            "seed_everything": self.seed,
            "trainer.default_root_dir": self.root,
            "trainer.accelerator": self.accelerator,
        } | ({"ckpt_path": begun[-1]} if begun else {})
        return ["-m", "zoo", "fit", *(f"--{name}={value}" for name, value in settings.items())]


def reproduce(
    slugs: Sequence[str],
    budget: Budget = "cpu",
    seeds: int = 1,
    hours: float | None = None,
    print_only: bool = False,
    out: str | None = None,
) -> None:
    """Train, score and collect checkpoints one after another.

    Args:
        slugs: Recipes.
        budget: Which variant of them, and where it runs.
        seeds: Runs with seeds 0, 1, ...; the weights of the one nearest the median are published.
        hours: No training begins after so many hours.
        print_only: Print the commands, run nothing.
        out: Folder of checkpoints; by default the checkout's, whose registry and `MODEL_CARDS.md` follow.

    Raises:
        UsageError: If there is no such recipe, or a training fails.
    """
    require(seeds >= 1, f"seeds must be at least 1, got {seeds}")
    require(hours is None or hours > 0, f"hours must be positive, got {hours}")
    began, chosen = time.monotonic(), [recipe_of(slug, budget) for slug in slugs]
    for position, (slug, recipe) in enumerate(chosen):
        trainings = [Training(slug, recipe, seed, ACCELERATORS[budget]) for seed in range(seeds)]
        if print_only:
            for training in trainings:
                sys.stdout.write(" ".join(["python", *training.command()]) + "\n")
            continue
        for training in trainings:
            if training.finished is not None:
                continue
            if hours is not None and time.monotonic() - began > hours * 3600:
                left = ", ".join(name for name, _ in chosen[position:])
                sys.stdout.write(f"{hours:g} hours are over; the same command goes on with {left}\n")
                return
            run_one(training)
        shelve(slug, [training.finished for training in trainings if training.finished], out)


def recipe_of(slug: str, budget: Budget) -> tuple[str, Path]:
    """The slug and file of the variant of a recipe that a budget asks for.

    Raises:
        UsageError: If there is none.
    """
    recipes = recipe_files()
    if slug not in recipes:
        raise UsageError(f"slug must be a recipe (zoo list), got {slug!r}")
    if budget != "paper":
        return slug, recipes[slug]
    parts = slug.split("-")
    variants = ["-".join((*parts[:i], "paper", *parts[i:])) for i in range(1, len(parts))]
    variant = next((name for name in variants if name in recipes), None)
    if variant is None:
        raise UsageError(f"{slug} has no paper-sized recipe, such as {variants[0]}")
    return variant, recipes[variant]


def run_one(training: Training) -> Path:
    """Train and score in a process of its own.

    Raises:
        UsageError: If it fails.
    """
    command = training.command()
    sys.stdout.write(" ".join(["python", *command]) + "\n")
    sys.stdout.flush()
    status = subprocess.run([sys.executable, *command], check=False).returncode
    if status or training.finished is None:
        raise UsageError(
            f"the training of {training.slug} with seed {training.seed} ended with status {status}"
        )
    return training.finished


def shelve(slug: str, runs: Sequence[Path], out: str | None) -> None:
    """Collect the checkpoint of finished runs, write its card, and bring registry and index up to date."""
    from zoo.publishing.cards import write_card, write_index
    from zoo.publishing.checkpoints import collect, register

    checkpoint = collect(slug, runs, Path(out) if out else None)
    write_card(checkpoint)
    if out is None:
        register(checkpoint)
        write_index()
    sys.stdout.write(f"checkpoint: {checkpoint.folder}\n")


def _covers(config: Any, wanted: Any) -> bool:
    """Whether a run's settings are the wanted ones; what the recipe does not name is free."""
    if isinstance(wanted, dict):
        return isinstance(config, dict) and all(
            _covers(config.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(config, list) and len(config) == len(wanted) and all(map(_covers, config, wanted))
    if isinstance(wanted, str) and isinstance(config, str):
        return config == wanted or config.endswith(f".{wanted}")
    if isinstance(wanted, str) and isinstance(config, float):
        return config == float(wanted)  # YAML 1.1 reads 1e-3 as text
    return config == wanted
