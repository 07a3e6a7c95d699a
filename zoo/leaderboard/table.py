"""The leaderboard: checkpoints ranked by one number at a time, under one protocol at a time.

A board is one metric under one protocol, in one unit and with one side: two protocols never meet on one
board, nor does a bound with an estimate. A checkpoint's rank is one more than the number of checkpoints that
are clearly better: those whose 95 % interval lies wholly on the better side of its own. Where intervals
overlap, checkpoints share a rank; overlapping is not transitive, so a rank says how many are clearly better
and nothing more, and need not grow down the board. Of a bound (`>=`, `<=`) the intervals are those of the
bound, which may be loose. What is ranked is the published weights; beside them stand mean and deviation over
the seeds that were trained.

Methods that cluster stand on boards of their own, one for each way of counting what is right; their floors
are k-means of pixels, and k-means of the codes of VAEs that do not cluster.
"""

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from zoo.data.sets import facts_of
from zoo.errors import require
from zoo.methods import family_of
from zoo.publishing.checkpoints import Checkpoint, over_seeds
from zoo.scores.results import Number, Numbers, Protocol
from zoo.scores.sections import MEASURES, RANKED, SECTIONS, said_of

FLOORS = {"train": "training images", "independent_pixels": "independent pixels"}
VAES = "variational"
"""The family whose codes are floors of the boards of clusters."""


class Entry(NamedTuple):
    """A checkpoint on a board."""

    slug: str
    method: str
    family: str
    number: Number
    seeds: str
    """Mean and deviation over seeds; empty where there is one run."""


class Place(NamedTuple):
    """What the numbers of one board share."""

    data: str
    metric: str
    protocol: Protocol
    unit: str
    side: str

    def __str__(self) -> str:
        """For the order of boards of one metric."""
        return f"{self.protocol} {self.unit} {self.side}"


class Board(NamedTuple):
    """One metric under one protocol."""

    data: str
    metric: str
    protocol: Protocol
    unit: str
    side: str
    entries: tuple[Entry, ...]
    """The best first."""
    floors: dict[str, Number]
    """The same number of what needs no model; not ranked."""

    @property
    def higher(self) -> bool:
        """Whether a higher value is better."""
        return MEASURES[self.metric].better == "higher"

    @property
    def text(self) -> str:
        """What the metric says, in a sentence."""
        return said_of(self.metric)

    def ranks(self) -> list[int]:
        """One more than the number of clearly better entries, per entry."""
        spans = [_span(entry.number) for entry in self.entries]
        if self.higher:
            return [1 + sum(other[0] > span[1] for other in spans) for span in spans]
        return [1 + sum(other[1] < span[0] for other in spans) for span in spans]


class Entrant(NamedTuple):
    """What is compared: a checkpoint, or a run that was logged elsewhere."""

    slug: str
    method: str
    """Name in the registry; of one outside the zoo its full path."""
    data: str
    """Name of the data set."""
    numbers: Numbers
    floors: dict[str, Numbers]
    seeds: dict[str, list[float]]
    """Values over several seeds, by key; empty where there is one run."""


def entrant(one: Checkpoint) -> Entrant:
    """A checkpoint, as it is compared."""
    results = one.results
    data = results.data.get("name") or facts_of(one.config["data"]).full_name
    return Entrant(one.slug, one.config["class"], data, results.numbers, results.floors, one.seeds)


def boards(
    entrants: Iterable[Entrant],
    data: str = "*",
    metric: str | None = None,
    family: str = "*",
    num_least: int = 1,
) -> list[Board]:
    """All boards, by data set, then metric, then protocol.

    Args:
        entrants: What is compared.
        data: Shell pattern of the data set's name, such as `mnist`.
        metric: One of those that are ranked; by default all.
        family: Shell pattern of the family, such as `energy`.
        num_least: Fewest entries of a board.

    Raises:
        UsageError: If the metric is not ranked.
    """
    known = ", ".join(RANKED)
    require(metric is None or metric in RANKED, f"metric must be one of {known}, got {metric!r}")
    entries: dict[Place, list[Entry]] = {}
    floors: dict[Place, dict[str, Number]] = {}
    for one in entrants:
        room = family_of(one.method)
        if not (fnmatch(one.data, data) and fnmatch(room, family)):
            continue
        for key, number in one.numbers.items():
            short = key.removeprefix("test/")
            if short not in RANKED or metric not in (None, short):
                continue
            place = Place(one.data, short, number.protocol, number.unit, number.side.value)
            entry = Entry(one.slug, one.method, room, number, over_seeds(one.seeds.get(key, [])))
            entries.setdefault(place, []).append(entry)
            for floor, numbers in one.floors.items():
                if key in numbers and numbers[key].protocol == number.protocol:
                    floors.setdefault(place, {})[FLOORS.get(floor, floor)] = numbers[key]
    for place in entries:
        floors.setdefault(place, {}).update(_codes_beside(place, entries))
    found = []
    for place in sorted(entries, key=lambda place: (place.data, RANKED.index(place.metric), str(place))):
        ranked = sorted(entries[place], key=lambda entry: entry.number.value)
        if MEASURES[place.metric].better == "higher":
            ranked.sort(key=lambda entry: -entry.number.value)
        if len(ranked) >= num_least:
            found.append(Board(*place, tuple(ranked), floors[place]))
    return found


def _codes_beside(place: Place, entries: dict[Place, list[Entry]]) -> dict[str, Number]:
    """K-means of VAEs' codes beside those that cluster the same images by themselves, by what is shown."""
    if place.metric not in SECTIONS["clusters"].numbers:
        return {}
    return {
        f"k-means of {entry.slug} codes": entry.number
        for other, found in entries.items()
        if (other.data, other.metric) == (place.data, place.metric) and other.protocol.refines(place.protocol)
        for entry in found
        if entry.family == VAES
    }


def table(board: Board) -> Table:
    """A board for the terminal; fits 80 columns."""
    better = "higher" if board.higher else "lower"
    shown = Table(title=escape(f"{board.data}: {board.metric}, {board.unit}; {better} is better"))
    shown.title_justify = shown.caption_justify = "left"
    shown.caption = Text(str(board.protocol))
    shown.add_column("rank", justify="right")
    shown.add_column("checkpoint", no_wrap=True)
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("over seeds", justify="right")
    for rank, entry in zip(board.ranks(), board.entries, strict=True):
        shown.add_row(str(rank), entry.slug, str(entry.number), entry.seeds)
    for name, number in board.floors.items():
        shown.add_row("", Text(name, style="italic"), str(number), "")
    return shown


SIGNS = (
    "= exact, >= a lower bound, <= an upper bound, >~ too low on average, <~ too high, ~ an estimate. "
    "± one standard error; over seeds mean and deviation."
)
READING = (
    "A rank is one more than the number of clearly better checkpoints: 95 % intervals that overlap share it. "
    f"{SIGNS} Floors in italics are not ranked."
)


def _span(number: Number) -> tuple[float, float]:
    return number.interval or (number.value, number.value)
