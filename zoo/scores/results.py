"""What a score is: numbers with unit, side, protocol and error; `results.json` in memory; the tables.

`results.json`, schema 3: `method`; `numbers` {name: {value, unit, side, protocol, error, interval}}, where a
protocol is {data, how, num_images, num_samples}; `floors` {floor: numbers} of what needs no model (other real
images, independent pixels, raw pixels as codes); `skipped` {metric: reason}; `warnings`; `data` {protocol,
test_sha256, and optionally the protocol's name and short form}; `weights_sha256`; `seed`; `versions`;
`hardware`; `seconds` {metric: time}; `train_seconds`; `peak_memory_mb`; `details` {name: list of numbers}.
Every value is finite.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from zoo.contract.capabilities import Side
from zoo.errors import UsageError, require
from zoo.files import write_json
from zoo.scores.metrics import Z_95

SCHEMA = 3
MOST_DIGITS = 6
ABSOLUTE = 1e-6
TOLERANCE = 1e-4
"""Relative difference below which a number counts as derived again: another machine rounds otherwise."""


@dataclass(frozen=True)
class Protocol:
    """Under what conditions a number was measured; two numbers compare only where theirs are equal."""

    data: str
    """The images, and where it matters what is done to their pixels; empty where there are none."""
    how: str
    """The rest, in words."""
    num_images: int | None = None
    """Samples that were drawn from the method, where it counts how many."""
    num_samples: int | None = None
    """K, importance samples per image, where there are any."""

    def __str__(self) -> str:
        """One line."""
        return "; ".join(part for part in (self.data, self.how) if part)

    def refines(self, other: "Protocol") -> bool:
        """Whether this says all that another does, and more: the treatment of its images, say, or a step."""
        return self != other and self.data.startswith(other.data) and self.how.startswith(other.how)


class Measure(NamedTuple):
    """What holds of a number, whatever method it is measured of."""

    unit: str
    """`{}` stands for what is counted there, as in `of {} chains`."""
    side: Side = Side.ESTIMATE
    better: Literal["higher", "lower"] | None = None
    """Which way is better; None where nothing is ranked by it."""
    board: int | None = None
    """Place of its boards among all; of what is ranked."""
    headline: int | None = None
    """Place among the numbers that stand for a checkpoint in an index; None on its card only."""


@dataclass(frozen=True)
class Number:
    """One result."""

    value: float
    unit: str
    side: Side
    protocol: Protocol
    error: float | None = None
    """Standard error, in the same unit; None where there is none."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval; by default 1.96 standard errors to either side."""

    def __post_init__(self) -> None:
        if self.interval is None and self.error is not None:
            half = Z_95 * self.error
            object.__setattr__(self, "interval", (self.value - half, self.value + half))

    @property
    def finite(self) -> bool:
        """Whether everything in it is; TypeError where something is not even a number."""
        return all(math.isfinite(v) for v in (self.value, self.error or 0.0, *(self.interval or ())))

    def __str__(self) -> str:
        """Side, value and error: two digits of the error and six decimals at most, four of a value alone."""
        if not self.error or not math.isfinite(self.error):
            shown = f"{self.value:.0f}" if self.value % 1 == 0 else f"{self.value:.4g}"
            return f"{self.side.value} {shown}" + ("" if self.error is None else f" ± {self.error:g}")
        digits = min(MOST_DIGITS, max(0, 1 - math.floor(math.log10(self.error))))
        return f"{self.side.value} {self.value:.{digits}f} ± {self.error:.{digits}f}"


Numbers = dict[str, Number]
Row = tuple[str, Protocol, str]
"""Metric, protocol and unit."""


@dataclass(frozen=True)
class Results:
    """Everything that is known about one evaluation; `results.json` in memory."""

    method: str
    numbers: Numbers
    skipped: dict[str, str]
    """Metric to the reason why it was not computed."""
    data: dict[str, str]
    """`protocol`; optionally its parts that tables show, `name` and `short`; and `test_sha256`, the hash of
    the test images as they were scored."""
    weights_sha256: str
    seed: int
    versions: dict[str, str]
    hardware: str
    seconds: dict[str, float]
    """What each metric cost."""
    floors: dict[str, Numbers] = field(default_factory=dict)
    """The same metrics of what needs no model: `train` (other real images), `independent_pixels`, ..."""
    warnings: list[str] = field(default_factory=list)
    train_seconds: float | None = None
    """Time from the start of the fit to the moment when these weights were saved."""
    peak_memory_mb: float | None = None
    details: dict[str, list[float]] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: str | Path) -> None:
        """Write the results as JSON, whole or not at all."""
        value = asdict(self)
        for numbers in (value["numbers"], *value["floors"].values()):
            for number in numbers.values():
                number["side"] = number["side"].value
        write_json(path, value)

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read and validate a results file.

        Raises:
            UsageError: If the file is missing, is not JSON, or does not have this schema.
        """
        try:
            value = json.loads(Path(path).read_text())
            found = value["schema"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"results file {path} cannot be read: {type(error).__name__}: {error}"
            ) from error
        require(found == SCHEMA, f"results must have schema {SCHEMA}, {path} has {found}")
        return _parsed(value, cls, str(path))

    def flat(self) -> dict[str, float | str]:
        """For loggers: `test/fid`, with `side/`, `unit/`, `protocol/`, `error/fid`; the data, their name."""
        found: dict[str, float | str] = {"method": self.method, "data": self.data["protocol"]}
        found |= {"data_name": self.data["name"]} if "name" in self.data else {}
        for key, number in self.numbers.items():
            name = key.split("/", 1)[1]
            found |= {
                key: number.value,
                f"side/{name}": number.side.value,
                f"unit/{name}": number.unit,
                f"protocol/{name}": str(number.protocol),
            }
            if number.error is not None:
                found[f"error/{name}"] = number.error
        return found

    def table(self) -> Table:
        """The numbers, one row each, the floors beside them and the protocols below."""
        return side_by_side([self], ["value"], f"{self.method} on {self.data['protocol']}")

    def remarks(self) -> list[str]:
        """What was skipped and what speaks against the numbers, one line each."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        skipped = [f"skipped {', '.join(names)}: {reason}" for reason, names in reasons.items()]
        return [*skipped, *(f"warning: {warning}" for warning in self.warnings)]

    def with_more(self, other: "Results") -> "Results":
        """This score, and what another one of the same weights has beyond it."""
        require(self.weights_sha256 == other.weights_sha256, "only scores of the same weights can be joined")
        images = self.data.get("test_sha256") == other.data.get("test_sha256")
        require(images, "only scores on the same test images can be joined")
        measured = other.seconds.keys() - other.skipped.keys()
        floors = {
            name: other.floors.get(name, {}) | self.floors.get(name, {})
            for name in dict.fromkeys((*self.floors, *other.floors))
        }
        return replace(
            self,
            numbers=self.numbers | {k: n for k, n in other.numbers.items() if k not in self.numbers},
            skipped={name: reason for name, reason in self.skipped.items() if name not in measured},
            seconds=other.seconds | self.seconds,
            floors=floors,
            warnings=list(dict.fromkeys((*self.warnings, *other.warnings))),
            details=other.details | self.details,
        )

    def agreement(self, other: "Results") -> tuple[list[str], list[str]]:
        """Of the numbers that both have under one protocol: names that agree, lines on the others."""
        same, different = [], []
        for key, number in self.numbers.items():
            recorded = other.numbers.get(key)
            if recorded is None or recorded.protocol != number.protocol:
                continue
            if math.isclose(number.value, recorded.value, rel_tol=TOLERANCE, abs_tol=ABSOLUTE):
                same.append(key)
            else:
                different.append(f"{key}: {number} now, {recorded} recorded")
        return same, different


def side_by_side(results: Sequence[Results], names: Sequence[str], title: str = "side by side") -> Table:
    """One column per model, then the floors; one row per metric and protocol: two never share a row.

    Args:
        results: Scores of models on one data set.
        names: Heading of each.
        title: Stands above the table.
    """
    floors: dict[str, dict[Row, Number]] = {}
    for result in results:
        for name, numbers in result.floors.items():
            floors.setdefault(name, {}).update(_by_row(numbers))
    models = [(name, _by_row(r.numbers)) for name, r in zip(names, results, strict=True)]
    columns = [*models, *((name.replace("_", " "), cells) for name, cells in floors.items())]
    rows = {row: None for _, cells in columns for row in cells}
    protocols = list(dict.fromkeys(protocol for _, protocol, _ in rows))
    images: dict[str, set[str]] = {}
    for result in results:
        images.setdefault(result.data.get("protocol", ""), set()).add(result.data.get("test_sha256", ""))
    mixed = [
        f"warning: several sets of test images: {data}" for data, found in images.items() if len(found) > 1
    ]
    heading = escape(f"{title} (± one standard error)")
    table = Table(title=heading, title_justify="left", caption_justify="left")
    numbered = (f"({i}) {protocol}" for i, protocol in enumerate(protocols, 1))
    table.caption = Text("\n".join((*numbered, *mixed)))
    table.add_column("metric (protocol)", no_wrap=True)
    for name, _ in columns:
        table.add_column(escape(name), justify="right")
    table.add_column("unit")
    for key, protocol, unit in rows:
        values = [str(cells.get((key, protocol, unit), "")) for _, cells in columns]
        table.add_row(f"{key.removeprefix('test/')} ({protocols.index(protocol) + 1})", *values, unit)
    return table


def _by_row(numbers: Numbers) -> dict[Row, Number]:
    """Numbers by metric, protocol and unit: by the row of a table in which they may stand."""
    return {(key, number.protocol, number.unit): number for key, number in numbers.items()}


def _parsed(value: Any, kind: Any, place: str) -> Any:
    """A JSON value as what an annotation says: a dataclass, `Side`, dict, list, tuple or scalar.

    Raises:
        UsageError: If it is something else or not finite; names the place in the file.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return None if value is None else _parsed(value, inner[0], place)
    if is_dataclass(kind):
        kinds = {entry.name: entry.type for entry in fields(kind)}
        _check_type(value, dict, place)
        wrong = ", ".join(sorted(kinds.keys() ^ value.keys()))
        require(not wrong, f"{place} must have the entries {', '.join(kinds)}, differs in {wrong}")
        return cast(Any, kind)(**{k: _parsed(value[k], of, f"{k} of {place}") for k, of in kinds.items()})
    if kind is Side:
        sides = [side.value for side in Side]
        require(value in sides, f"{place} must be one of {' '.join(sides)}, got {value!r}")
        return Side(value)
    _check_type(value, {float: (float, int), tuple: list}.get(origin, origin), place)
    if origin is dict:
        return {key: _parsed(entry, inner[1], f"{key} of {place}") for key, entry in value.items()}
    if inner:
        fits = origin is list or len(value) == len(inner)
        require(fits, f"{place} must have {len(inner)} entries, got {len(value)}")
        return origin(_parsed(entry, inner[0], f"an entry of {place}") for entry in value)
    require(origin is not float or math.isfinite(value), f"{place} must be finite, got {value}")
    return origin(value)


def _check_type(value: Any, wanted: type | tuple[type, ...], place: str) -> None:
    names = " or ".join(kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
    fits = isinstance(value, wanted) and not isinstance(value, bool)
    require(fits, f"{place} must be of type {names}, got {value!r}")
