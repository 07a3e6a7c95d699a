"""The leaderboard as one self-contained page: tables, pictures and films inside it, no network needed."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zoo.contract.about import abilities, departures
from zoo.contract.method import Method
from zoo.files import write_bytes
from zoo.hub import shelf
from zoo.leaderboard.table import READING, Board, boards, entrant
from zoo.methods import METHODS, class_named, family_of
from zoo.publishing.cards import VARIATIONS
from zoo.publishing.checkpoints import Checkpoint
from zoo.publishing.references import Reference, references
from zoo.scores.results import Number

PICTURES = {
    "samples.png": "samples",
    "nearest.png": "samples, and below each its nearest training image",
    "reconstructions.png": "test images, and below each its reconstruction",
    "interpolations.png": "from one test image to another, through codes",
    "traversals.png": "along the principal directions of the codes",
    "map.png": "codes of test images in a plane, by label",
    "film.gif": "chains on their way to samples",
    "tree.png": "the tree of groups, each node by what it stands for",
    **VARIATIONS,
}
KINDS = {".png": "image/png", ".gif": "image/gif"}
WIDTH, LEFT, STEP, MARGIN = 640, 190, 26, 24
PLOT_PADDING = 0.08


def write_page(checkpoints: Sequence[Checkpoint], folder: Path, own: Sequence[type[Method]] = ()) -> Path:
    """Write `index.html`; returns its path.

    Args:
        checkpoints: What is compared.
        folder: Where to.
        own: Classes of methods outside the zoo; of others the page knows no more than their names.
    """
    environment = Environment(
        loader=PackageLoader("zoo.leaderboard", "."), autoescape=True, undefined=StrictUndefined
    )
    shown = boards(map(entrant, checkpoints))
    text = environment.get_template("page.html.jinja").render(
        reading=READING,
        sets=[
            {"name": name, **_columns([board for board in shown if board.data == name])}
            for name in dict.fromkeys(board.data for board in shown)
        ],
        cards=[_card(one, own) for one in checkpoints],
        plots=_plots(checkpoints),
        families=sorted({_family(one) for one in checkpoints}),
    )
    path = folder / "index.html"
    write_bytes(path, text.encode())
    return path


def _family(one: Checkpoint) -> str:
    return family_of(one.config["class"])


def _columns(shown: Sequence[Board]) -> dict[str, Any]:
    """A table of one data set: a row per checkpoint, a column per board."""
    slugs = {entry.slug: entry for board in shown for entry in board.entries}
    cells = [
        {
            entry.slug: _cell(entry.number, rank)
            for entry, rank in zip(board.entries, board.ranks(), strict=True)
        }
        for board in shown
    ]
    rows = []
    for slug in sorted(slugs):
        found = [column.get(slug) for column in cells]
        rows.append({"slug": slug, "family": slugs[slug].family, "cells": found})
    names = dict.fromkeys(name for board in shown for name in board.floors)
    floors = [
        {"name": name, "cells": [_cell(b.floors[name], None) if name in b.floors else None for b in shown]}
        for name in names
    ]
    return {"boards": shown, "rows": rows, "floors": floors}


def _cell(number: Number, rank: int | None) -> dict[str, Any]:
    return {"text": str(number), "value": number.value, "rank": rank}


def _card(one: Checkpoint, own: Sequence[type[Method]]) -> dict[str, Any]:
    name = one.config["class"]
    kind = class_named(name, own)
    place = one.slug if one.folder.resolve().parent == shelf().resolve() else os.path.relpath(one.folder)
    pictures = [
        {"name": name, "alt": f"{one.slug}: {text}", "text": text, "source": _embedded(one.home / name)}
        for name, text in PICTURES.items()
        if (one.home / name).is_file()
    ]
    return {
        "slug": one.slug,
        "family": _family(one),
        "paper": getattr(kind, "paper", name),
        "data": one.results.data["protocol"],
        "departures": departures(kind) if kind else None,
        "abilities": ", ".join(abilities(kind)) if kind else None,
        "model": place if name in METHODS else f"{place} --code {name}",
        "pictures": pictures,
    }


def _embedded(path: Path) -> str:
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _plots(checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Ours and others' numbers: one plot per metric and unit, a row per reference."""
    results = {one.slug: one.results for one in checkpoints}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for reference in references():
        ours = results[reference.slug].numbers.get(reference.metric) if reference.slug in results else None
        if ours is None:
            continue
        low, high = ours.interval or (ours.value, ours.value)
        row = {"reference": reference, "ours": ours, "low": low, "high": high}
        groups.setdefault((reference.metric.removeprefix("test/"), reference.unit), []).append(row)
    return [_plot(name, unit, rows) for (name, unit), rows in sorted(groups.items())]


def _plot(name: str, unit: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = [value for row in rows for value in (row["low"], row["high"], row["reference"].value)]
    padding = PLOT_PADDING * ((max(values) - min(values)) or 1.0)
    first, last = min(values) - padding, max(values) + padding

    def x(value: float) -> float:
        return round(LEFT + (value - first) / (last - first) * (WIDTH - LEFT - MARGIN), 1)

    drawn = [
        {
            "y": MARGIN + i * STEP,
            "label": f"{row['reference'].slug}, {row['reference'].kind}",
            "low": x(row["low"]),
            "high": x(row["high"]),
            "ours": x(row["ours"].value),
            "theirs": x(row["reference"].value),
            "text": _in_words(row["reference"], row["ours"]),
        }
        for i, row in enumerate(rows)
    ]
    ticks = [{"x": x(value), "text": f"{value:.4g}"} for value in (min(values), max(values))]
    return {
        "name": name,
        "unit": unit,
        "rows": drawn,
        "ticks": ticks,
        "width": WIDTH,
        "left": LEFT,
        "right": WIDTH - MARGIN,
        "height": 2 * MARGIN + len(rows) * STEP,
    }


def _in_words(reference: Reference, ours: Number) -> str:
    reading = "comparable" if reference.comparable else "not comparable"
    theirs = f"{reference.kind} {reference} ({reference.source})"
    return f"{reference.slug}: ours {ours}, {theirs}, {reading}: {reference.why}"
