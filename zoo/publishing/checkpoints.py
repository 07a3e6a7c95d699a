"""`checkpoints/<slug>/`: a trained method as it is published, laid out as a Hub repository.

`config.json` and `model.safetensors` are the method; `metrics.json` its score (`zoo/scores/results.py`);
`train.yaml` every setting of its training; `draws.safetensors` its first images from a stored seed;
`README.md` its card; `samples.png` and other pictures. `seeds.json`, where there is one, has the values of
several seeds, of which `train.yaml` names the published one. The hashes of all published weights, and the
commits at which organisations hold them, are in `zoo/registry.json`.
"""

import json
import math
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from zoo.contract.capabilities import (
    Decodes,
    Encodes,
    Nests,
    Reconstructs,
    Samples,
    Side,
    Steers,
    Varies,
    Walks,
)
from zoo.contract.method import Method
from zoo.data.modules import ImageData
from zoo.data.sets import from_recipe
from zoo.errors import require
from zoo.files import atomic, sha256, write_bytes, write_json
from zoo.hub import (
    CONFIG,
    METRICS,
    REGISTRY,
    RESULTS,
    WEIGHTS,
    data_recipe,
    registry,
    score_file,
    shelf,
)
from zoo.methods import from_folder
from zoo.pictures.grids import save_film, save_grid
from zoo.pictures.trees import save_tree
from zoo.pictures.walks import CODES, code_map, interpolate, paired, traverse, with_nearest
from zoo.scores.results import Number, Protocol, Results
from zoo.scores.sections import HEADLINES

TRAINING, CARD = "train.yaml", "README.md"
DRAWS, SEEDS = "draws.safetensors", "seeds.json"
TRAINING_OF_RUN = "config.yaml"
FEWEST_SEEDS = 2
"""Below which there is no spread."""
MAX_BYTES = 12_000_000
"""Most bytes of published weights."""
NUM_DRAWS, DRAW_SEED = 8, 0
SAME_PIXEL, SAME_SHARE = 1e-3, 0.98
SIDE = 10
STEERED = 2.0
"""To which values continuous codes are turned, either way: twice those of training (Chen et al. 2016)."""
MAPPED = 2000
"""Test images on a map of codes."""
FILM_CHAINS, FILM_COLUMNS, FILM_FRAMES = 16, 4, 40


@dataclass(frozen=True)
class Checkpoint:
    """A published method; its files are read once."""

    slug: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The class and its arguments, and the data."""
        return json.loads((self.folder / CONFIG).read_text())

    @property
    def home(self) -> Path:
        """Where its score and pictures are: its folder, or, of a run's `model/`, that of the run."""
        file = score_file(self.folder)
        return file.parent if file else self.folder

    @cached_property
    def results(self) -> Results:
        """Its score."""
        return Results.read(score_file(self.folder) or self.folder / METRICS)

    @cached_property
    def seeds(self) -> dict[str, list[float]]:
        """The values of a number over seeds 0, 1, ..., by key; empty where there is one run."""
        path = self.folder / SEEDS
        return json.loads(path.read_text()) if path.is_file() else {}

    @property
    def draws(self) -> torch.Tensor:
        """Its first images [8, C, H, W] from seed 0, as they were when it was published."""
        return load_file(self.folder / DRAWS)["images"]


def checkpoints(root: Path | None = None) -> dict[str, Checkpoint]:
    """All checkpoints of a folder by their slugs."""
    root = root or shelf()
    folders = sorted(path.parent for path in root.glob(f"*/{CONFIG}"))
    return {folder.name: Checkpoint(folder.name, folder) for folder in folders}


def scored(folders: Sequence[Path]) -> list[Checkpoint]:
    """All scored methods in folders and below them: checkpoints, and finished runs of `zoo fit`.

    A checkpoint is called by its folder, a run by its recipe and version (`vae-digits-version_0`); where two
    have one name, folders above them are put before it.
    """
    models = sorted(
        {
            path.parent.resolve()
            for folder in folders
            for path in folder.rglob(CONFIG)
            if (path.parent / WEIGHTS).is_file() and score_file(path.parent) is not None
        }
    )
    parts = [folder.parent.parts if folder.name == "model" else folder.parts for folder in models]
    lengths = [2 if folder.name == "model" else 1 for folder in models]
    names = ["-".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
    for _ in range(max(map(len, parts), default=0)):
        counts = Counter(names)
        lengths = [length + (counts[name] > 1) for length, name in zip(lengths, names, strict=True)]
        names = ["-".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
    return [Checkpoint(name, folder) for name, folder in zip(names, models, strict=True)]


def collect(slug: str, runs: Sequence[Path], root: Path | None = None) -> Checkpoint:
    """Make `checkpoints/<slug>` of finished runs, whole or not at all; the typical one is published.

    Args:
        slug: Name of their recipe.
        runs: Folders of runs that differ in their seed alone, in its order.
        root: Where the checkpoints are; by default in the checkout.

    Raises:
        UsageError: If a run is not finished, or its weights are too large or not those of its score.
    """
    root = root or shelf()
    for folder in runs:
        complete = all((folder / name).is_file() for name in (RESULTS, TRAINING_OF_RUN, f"model/{WEIGHTS}"))
        require(complete, f"a run must be finished and scored before it is published, {folder} is not")
    seeds = _over_seeds(runs)
    run = runs[typical(seeds)]
    size = (run / "model" / WEIGHTS).stat().st_size
    require(size <= MAX_BYTES, f"published weights must have at most {MAX_BYTES} bytes, {slug} has {size}")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{slug}.", dir=root) as scratch:
        folder = Path(scratch) / slug
        folder.mkdir()
        for source, name in (
            (run / "model" / CONFIG, CONFIG),
            (run / "model" / WEIGHTS, WEIGHTS),
            (run / RESULTS, METRICS),
            (run / TRAINING_OF_RUN, TRAINING),
        ):
            shutil.copyfile(source, folder / name)
        if len(runs) > 1:
            write_json(folder / SEEDS, seeds)
        draw(from_folder(folder), from_recipe(data_recipe(folder)), folder)
        if (root / slug).exists():
            shutil.rmtree(root / slug)
        folder.replace(root / slug)
    return Checkpoint(slug, root / slug)


def _over_seeds(runs: Sequence[Path]) -> dict[str, list[float]]:
    """Numbers that all runs have, in the order of the runs."""
    results = [Results.read(run / RESULTS) for run in runs]
    shared = [key for key in results[0].numbers if all(key in other.numbers for other in results)]
    return {key: [result.numbers[key].value for result in results] for key in shared}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def over_seeds(values: Sequence[float]) -> str:
    """What stands beside a checkpoint's own number: mean ± deviation over its seeds; empty for one run."""
    if len(values) < FEWEST_SEEDS:
        return ""
    shown = Number(spread(values)[0], "", Side.ESTIMATE, Protocol("", ""), spread(values)[1])
    return f"{len(values)} seeds: {str(shown).removeprefix('~ ')}"


def typical(seeds: dict[str, list[float]]) -> int:
    """Which run is published: the one whose headline numbers lie nearest the medians over seeds.

    Distances are in mean distances of a number's values from their median, and summed; the first of equals.
    """
    values = [seeds[key] for key in (f"test/{name}" for name in HEADLINES) if key in seeds]
    distances = [[abs(value - statistics.median(row)) for value in row] for row in values]
    scaled = [[distance / statistics.fmean(row) for distance in row] for row in distances if any(row)]
    totals = [math.fsum(column) for column in zip(*scaled, strict=True)]
    return totals.index(min(totals)) if totals else 0


def first_draws(method: Samples) -> torch.Tensor:
    """The images [8, C, H, W] that a checkpoint stores, drawn again."""
    return method.sample(NUM_DRAWS, generator=torch.Generator().manual_seed(DRAW_SEED))


def drawn_again(checkpoint: Checkpoint) -> tuple[bool, float]:
    """Whether the stored images come out of the weights again, and the largest difference of a pixel.

    Another machine rounds otherwise, and a chain of bits may then part from the stored one: one pixel in
    fifty may differ by more than 1e-3. Of what does not sample nothing is stored, and nothing differs.
    """
    method = from_folder(checkpoint.folder)
    if not isinstance(method, Samples):
        return True, 0.0
    again = first_draws(method)
    difference = (again - checkpoint.draws).abs()
    return bool((difference < SAME_PIXEL).float().mean() > SAME_SHARE), float(difference.max())


@torch.no_grad()
def draw(method: Method, data: ImageData, folder: Path) -> None:
    """Write the stored draws and the pictures of what a method can do, from stored seeds.

    Args:
        method: Loaded, in eval mode.
        data: What it was trained on.
        folder: Where to.
    """
    data.prepare_data()
    data.setup()
    x = data.split("test", 2 * SIDE).x
    if isinstance(method, Samples):
        write_bytes(folder / DRAWS, save({"images": first_draws(method).contiguous()}))
        images = method.sample(SIDE**2, generator=torch.Generator().manual_seed(DRAW_SEED))
        save_grid(images, folder / "samples.png", SIDE)
        images, neighbours, _ = with_nearest(method, data, SIDE, DRAW_SEED)
        save_grid(torch.cat((images, neighbours)), folder / "nearest.png", SIDE)
    if isinstance(method, Walks):
        states = method.walk(FILM_CHAINS, generator=torch.Generator().manual_seed(DRAW_SEED))
        save_film(states, folder / "film.gif", FILM_COLUMNS, FILM_FRAMES)
    if isinstance(method, Varies):
        y = torch.arange(SIDE) % len(data.class_names)
        for level in range(method.num_levels):
            images = method.vary(y, level, SIDE, generator=torch.Generator().manual_seed(DRAW_SEED))
            save_grid(images.transpose(0, 1).flatten(0, 1), folder / f"variations_{level}.png", SIDE)
    if isinstance(method, Steers):
        values, y = torch.linspace(-STEERED, STEERED, SIDE), torch.arange(method.num_categories or SIDE)
        turned = [
            method.steer(y, code, values, generator=torch.Generator().manual_seed(DRAW_SEED)).transpose(0, 1)
            for code in range(method.num_codes)
        ]
        save_grid(torch.cat(turned).flatten(0, 1), folder / "steered.png", SIDE)
    if isinstance(method, Nests):
        save_tree(method, folder / "tree.png")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(DRAW_SEED)
        if isinstance(method, Reconstructs):
            pairs = torch.cat((x[:SIDE], method.reconstruct(x[:SIDE])))
            save_grid(pairs, folder / "reconstructions.png", len(pairs) // 2)
        if isinstance(method, Encodes) and isinstance(method, Decodes):
            rows = interpolate(method, *paired(x), SIDE)
            save_grid(rows.flatten(0, 1), folder / "interpolations.png", SIDE)
            x = data.split("test", CODES).x
            directions = min(SIDE, method.encode(x[:1]).shape[1], len(x) - 1)
            if directions:
                rows = traverse(method, x, directions, SIDE)
                save_grid(rows.flatten(0, 1), folder / "traversals.png", SIDE)
        leads_back = isinstance(method, (Samples, Decodes))
        if isinstance(method, Encodes) and not leads_back and method.encode(x[:1]).shape[1] > 1:
            with atomic(folder / "map.png") as temporary:
                code_map(method, data, MAPPED).save(temporary, format="PNG")


def register(checkpoint: Checkpoint) -> None:
    """Enter the hashes of a checkpoint's method in the registry; commits of other weights are forgotten."""
    entries = registry()
    hashes = {name: sha256(checkpoint.folder / name) for name in (CONFIG, WEIGHTS)}
    known = entries.get(checkpoint.slug, {})
    revisions = known.get("revisions", {}) if known.get("sha256") == hashes else {}
    entries[checkpoint.slug] = {"sha256": hashes, "revisions": revisions}
    write_json(REGISTRY, dict(sorted(entries.items())))
