"""README's generated table."""

import re
from collections.abc import Iterable

from zoo.data.sets import from_recipe
from zoo.methods import method_class
from zoo.publishing.checkpoints import Checkpoint, over_seeds
from zoo.publishing.references import Reference, references
from zoo.scores.sections import HEADLINES, SECTIONS

CHECKPOINTS, METRICS = "checkpoints", "metrics"
"""The tables: each stands between `<!-- NAME -->` and `<!-- end of NAME -->`."""


def readme_table(found: dict[str, Checkpoint]) -> str:
    """The table of README: by method, what every checkpoint scores, and what its paper reports."""
    lines = [
        "| method | checkpoint | data | likelihood or error | the paper's | FID | coverage |",
        "|---" * 7 + "|",
    ]
    theirs = {}
    for reference in references():
        if reference.kind == "paper":
            theirs.setdefault(reference.slug, reference)
    before = ""
    for slug, one in sorted(found.items(), key=lambda item: (item[1].config["class"].lower(), item[0])):
        numbers = one.results.numbers
        name, method = next((n for n in HEADLINES if f"test/{n}" in numbers), None), one.config["class"]
        cells = (
            "" if method == before else f"{method}, {_short(method_class(method).paper)}",
            f"[{slug}](checkpoints/{slug}/README.md)",
            _data(one),
            f"{_plain(name)} {with_seeds(one, f'test/{name}', unit=True)}" if name else "",
            _in_short(theirs[slug]) if slug in theirs else "",
            *(_of_samples(one, f"test/{key}", found.values()) for key in ("fid", "coverage")),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        before = method
    return "\n".join(lines)


def _data(one: Checkpoint) -> str:
    """Name, sizes and treatment of a checkpoint's data."""
    return one.results.data.get("short") or from_recipe(one.config["data"]).stated.short


def with_seeds(one: Checkpoint, key: str, *, unit: bool = False) -> str:
    """The number of a checkpoint's weights, its unit if wanted and, in brackets, what its seeds had."""
    number, beside = one.results.numbers[key], over_seeds(one.seeds.get(key, []))
    return str(number) + (f" {_unit(number.unit)}" if unit else "") + (f" ({beside})" if beside else "")


def _of_samples(one: Checkpoint, key: str, found: Iterable[Checkpoint]) -> str:
    """A number of samples, with how many there were where others on the same data had more."""
    number = one.results.numbers.get(key)
    if number is None:
        return ""
    numbers = [other for one in found for other in one.results.numbers.values()]
    counts = [n.protocol.num_images or 0 for n in numbers if n.protocol.data == number.protocol.data]
    n = number.protocol.num_images
    return with_seeds(one, key) + ("" if n == max(counts) else f" ({n} samples)")


def _short(citation: str) -> str:
    """Authors and year."""
    year = re.findall(r"\b(?:19|20)\d\d\b", citation)[-1]
    authors = citation.split(". ", maxsplit=1)[0]
    return f"{authors}. {year}" if authors.endswith("et al") else f"{authors} {year}"


def _plain(name: str) -> str:
    """A metric's name without its side, which stands before the value."""
    return re.sub(r"_(lower|estimate|optimistic)$", "", name).replace("_", " ")


def _unit(unit: str) -> str:
    return unit.removesuffix("/image")


def _in_short(reference: Reference) -> str:
    how = "" if reference.comparable else " (other protocol)"
    return f"{_plain(reference.metric.removeprefix('test/'))} {reference} {_unit(reference.unit)}{how}"


def metrics_table() -> str:
    """The table of README: what is measured of which methods."""
    lines = ["| `--metrics` | needs | numbers |", "|---" * 3 + "|"]
    for name, section in SECTIONS.items():
        needs = " or ".join(f"`{need.__name__}`" for need in section.needs)
        asked = " (on request)" if section.on_request else ""
        lines.append(f"| `{name}`{asked} | {needs} | {section.text} |")
    return "\n".join(lines)


def with_tables(readme: str, found: dict[str, Checkpoint]) -> str:
    """README with its generated tables brought up to date."""
    for name, table in ((CHECKPOINTS, readme_table(found)), (METRICS, metrics_table())):
        before, begin, rest = readme.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        readme = f"{before}{begin}\n{table}\n{end}{after}" if end else readme
    return readme
