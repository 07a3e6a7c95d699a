"""README's generated table."""

import re
from collections.abc import Iterable

from zoo.data.sets import facts_of, from_recipe
from zoo.methods import method_class
from zoo.publishing.checkpoints import Checkpoint, _shown
from zoo.publishing.references import Reference, references
from zoo.scores.results import Number

BEGIN, END = "<!-- checkpoints -->", "<!-- end of checkpoints -->"
FIRST = (
    "log_prob",
    "log_prob_lower",
    "log_prob_estimate",
    "log_prob_optimistic",
    "bernoulli_score",
    "accuracy",
    "reconstruction_psnr",
    "csl",
    "inception_score",
    "reconstruction_error",
)
"""Of these, README shows the first that a checkpoint has."""


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
        numbers = {key: _shown(one, key) for key in one.results.numbers}
        name, method = next((n for n in FIRST if f"test/{n}" in numbers), None), one.config["class"]
        cells = (
            "" if method == before else f"{method}, {_short(method_class(method).paper)}",
            f"[{slug}](checkpoints/{slug}/README.md)",
            _data(one),
            f"{_plain(name)} {numbers[f'test/{name}']} {_unit(numbers[f'test/{name}'].unit)}" if name else "",
            _in_short(theirs[slug]) if slug in theirs else "",
            *(_of_samples(numbers.get(f"test/{key}"), one, found.values()) for key in ("fid", "coverage")),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        before = method
    return "\n".join(lines)


def _data(one: Checkpoint) -> str:
    """Name, sizes and treatment of a checkpoint's data."""
    return one.results.data.get("short") or from_recipe(one.config["data"]).stated.short


def _of_samples(number: Number | None, one: Checkpoint, found: Iterable[Checkpoint]) -> str:
    """A number of samples, with how many there were where others on the same data had more."""
    if number is None:
        return ""
    data = facts_of(one.config["data"]).name
    same = [other for other in found if facts_of(other.config["data"]).name == data]
    most = max(_sampled(n.protocol) for other in same for n in other.results.numbers.values())
    n = _sampled(number.protocol)
    return str(number) if n == most else f"{number} ({n} samples)"


def _sampled(protocol: str) -> int:
    """How many samples stood against images."""
    n = re.search(r"(\d+) samples against", protocol)
    return int(n[1]) if n else 0


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


def with_table(readme: str, found: dict[str, Checkpoint]) -> str:
    """README with its generated table brought up to date."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{readme_table(found)}\n{END}{after}"
