"""Model cards: `README.md` of every checkpoint, `MODEL_CARDS.md` over all; generated, never edited."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from zoo.contract.about import _summary, abilities, departures
from zoo.contract.capabilities import Classifies, Samples
from zoo.contract.method import Method
from zoo.data.sets import facts_of
from zoo.files import write_bytes
from zoo.hub import WEIGHTS, recipe_files, shelf
from zoo.methods import METHODS, from_folder, method_class
from zoo.publishing.checkpoints import CARD, TRAINING, Checkpoint, checkpoints, spread
from zoo.publishing.readme import with_seeds, with_tables
from zoo.publishing.references import Reference, references
from zoo.scores.results import Number, Protocol, Results
from zoo.scores.sections import HEADLINES

INDEX = "MODEL_CARDS.md"
MEGABYTE = 1e6
FIRST = (
    ("samples.png", "Samples"),
    ("reconstructions.png", "Test images, and below each its reconstruction"),
    ("map.png", "Codes of test images in a plane, by label"),
)
"""Pictures by what they show: the first that there is stands on the card."""
VARIATIONS = {
    "variations_0.png": "A label per row: noise next to the pixels drawn anew, that above it kept",
    "variations_1.png": "A label per row: noise above drawn anew, that next to the pixels kept",
    "steered.png": "One code after the other, a category per row, turned from -2 to 2",
}
"""Pictures of what the noise of each level or a code does."""


def write_card(checkpoint: Checkpoint) -> None:
    """Write the checkpoint's `README.md`."""
    write_bytes(checkpoint.folder / CARD, card(checkpoint).encode())


def write_index(root: Path | None = None) -> None:
    """Write `MODEL_CARDS.md` beside the folder of checkpoints, and the table in README."""
    root = root or shelf()
    found, readme = checkpoints(root), root.parent / CARD
    write_bytes(root.parent / INDEX, index(found).encode())
    if readme.is_file():
        write_bytes(readme, with_tables(readme.read_text(), found).encode())


def card(checkpoint: Checkpoint) -> str:
    """The model card, Markdown with the metadata that the Hub reads."""
    config, results = checkpoint.config, checkpoint.results
    kind, data = method_class(config["class"]), facts_of(config["data"])
    protocols = list(dict.fromkeys(number.protocol for number in results.numbers.values()))
    seeds = checkpoint.seeds
    rows = [_row(key, number, results, seeds, protocols) for key, number in results.numbers.items()]
    pictures = {path.name for path in checkpoint.folder.iterdir()}
    return _render(
        "card.md.jinja",
        slug=checkpoint.slug,
        tags=["pytorch-lightning", "generative-model", config["class"].lower(), data.called.lower()],
        datasets=[data.hub] if data.hub else [],
        data_name=data.hub or data.full_name,
        numbers=rows,
        summary=f"{_summary(kind)} Trained on {data.called}.",
        citation=kind.paper,
        use=use(kind, ", ".join(map(str, config["init_args"]["image_shape"]))),
        picture=next(({"file": name, "title": title} for name, title in FIRST if name in pictures), None),
        protocol=results.data["protocol"],
        film="film.gif" in pictures,
        tree="tree.png" in pictures,
        variations={name: title for name, title in VARIATIONS.items() if name in pictures},
        seeds=len(next(iter(seeds.values()))) if seeds else 0,
        seed=yaml.safe_load((checkpoint.folder / TRAINING).read_text())["seed_everything"] if seeds else None,
        protocols=protocols,
        remarks=results.remarks(),
        references=[
            _beside(reference, results) for reference in references() if reference.slug == checkpoint.slug
        ],
        departures=departures(kind),
        recipe=_recipe(checkpoint.slug),
        cost=_cost(checkpoint),
        dropped=_dropped(checkpoint.folder),
        what=f"images like those of {data.called}",
        capabilities=", ".join(abilities(kind)),
        licence=data.credit,
        commands={
            "score": f"`python -m zoo score {checkpoint.slug}`",
            "reproduce": f"`python -m zoo reproduce {checkpoint.slug}"
            + (f" --seeds {len(next(iter(seeds.values())))}`" if seeds else "`"),
        },
    )


def use(kind: type[Method], shape: str) -> dict[str, str]:
    """What a method is for: its task as the Hub names it, a line of Python, and a verb.

    Args:
        kind: Its class.
        shape: Of one of its images.
    """
    of_images = f"of images x [B, {shape}] in [0, 1]"
    if issubclass(kind, Samples):
        draw = "images = method.sample(64, generator=torch.Generator().manual_seed(0))"
        example = f"{draw}  # [64, {shape}] in [0, 1]"
        return {"task": "unconditional-image-generation", "example": example, "verb": "draws"}
    if issubclass(kind, Classifies):
        example = f"log_p = method.classify(x)  # [B, classes] {of_images}"
        return {"task": "image-classification", "example": example, "verb": "classifies"}
    example = f"codes = method.encode(x)  # [B, D] {of_images}"
    return {"task": "image-feature-extraction", "example": example, "verb": "encodes"}


def index(found: dict[str, Checkpoint]) -> str:
    """`MODEL_CARDS.md`: a section per method, with its checkpoints and what others report."""
    known, sections = references(), []
    for name in sorted(METHODS):
        kind = method_class(name)
        mine = {slug: one for slug, one in found.items() if one.config["class"] == name}
        scores = {slug: one.results for slug, one in mine.items()}
        measured = {key.removeprefix("test/") for one in scores.values() for key in one.numbers}
        shown = [name for name in HEADLINES if name in measured]
        sections.append(
            {
                "name": name,
                "summary": _summary(kind),
                "citation": kind.paper,
                "capabilities": ", ".join(abilities(kind)),
                "departures": departures(kind),
                "headings": shown,
                "rows": [_headline(slug, one, shown) for slug, one in mine.items()],
                "references": [
                    {"slug": r.slug, **_beside(r, scores[r.slug])} for r in known if r.slug in scores
                ],
            }
        )
    return _render("index.md.jinja", sections=sections)


def _recipe(slug: str) -> str:
    path = recipe_files().get(slug)
    return f"configs/{path.parent.name}/{path.name}" if path else "unknown"


def _row(
    key: str, number: Number, results: Results, seeds: dict[str, list[float]], protocols: Sequence[Protocol]
) -> dict[str, Any]:
    floors = {name: numbers.get(key) for name, numbers in results.floors.items()}
    low, high = number.interval or (math.nan, math.nan)
    return {
        "key": key,
        "name": key.removeprefix("test/"),
        "value": number.value,
        "shown": str(number),
        "interval": f"[{low:.5g}, {high:.5g}]" if number.interval else "",
        "unit": number.unit,
        "over_seeds": "{:.5g} ± {:.2g}".format(*spread(seeds[key])) if key in seeds else "",
        "train": floors.get("train") or "",
        "noise": floors.get("independent_pixels") or "",
        "place": protocols.index(number.protocol) + 1,
    }


def _beside(reference: Reference, results: Results) -> dict[str, Any]:
    ours = results.numbers.get(reference.metric)
    return {
        "name": reference.metric.removeprefix("test/"),
        "ours": "not measured" if ours is None else str(ours),
        "theirs": str(reference),
        "protocol": reference.protocol,
        "whose": f"{reference.kind}: {reference.source}",
        "comparable": reference.reading,
        "why": reference.why,
    }


def _headline(slug: str, checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Any]:
    results, cells = checkpoint.results, []
    for name in names:
        key = f"test/{name}"
        cells.append(with_seeds(checkpoint, key) if key in results.numbers else "")
    return {"slug": slug, "data": results.data["protocol"], "cells": cells}


def _cost(checkpoint: Checkpoint) -> str:
    results = checkpoint.results
    size = (checkpoint.folder / WEIGHTS).stat().st_size
    parts = [f"{size / MEGABYTE:.2f} MB of weights"]
    if results.train_seconds is not None:
        parts.append(f"{results.train_seconds:.0f} s of training")
    parts.append(f"{sum(results.seconds.values()):.0f} s of scoring on {results.hardware}")
    if results.peak_memory_mb is not None:
        parts.append(f"{results.peak_memory_mb:.0f} MB of memory")
    return "It took " + ", ".join(parts[1:]) + f"; {parts[0]}."


def _dropped(folder: Path) -> str:
    """Parts that checkpoints of a training keep and published weights leave out."""
    return ", ".join(sorted({name.split(".")[0] for name in from_folder(folder).unpublished}))


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("zoo.publishing", "."),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
