"""What others report, or what was expected, beside the number of a checkpoint: `references/<method>.yaml`.

`kind`: paper (the method's own), public (another's number for the method), target (what was expected here of
this recipe's budget). `comparable`: whether the protocols agree so far that the two may be read as one scale;
`why` names the difference or the cause of the gap. `second-hand`: quoted by others, not read in its source.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from zoo.contract.capabilities import Side

REFERENCES = Path(__file__).parent / "references"


class Reference(NamedTuple):
    """A number that others report, or that was expected, beside one of a checkpoint."""

    slug: str
    metric: str
    kind: str
    side: Side
    value: float
    unit: str
    comparable: bool
    protocol: str
    source: str
    why: str

    def __str__(self) -> str:
        """Side and value."""
        return f"{self.side.value} {self.value:g}"

    @property
    def reading(self) -> str:
        """Whether it stands on the same scale."""
        return "yes" if self.comparable else "no"


def references() -> list[Reference]:
    """All of them, method by method."""
    files = sorted(REFERENCES.glob("*.yaml"))
    entries = [entry for file in files for entry in yaml.safe_load(file.read_text())]
    return [
        Reference(**(entry | {"side": Side(entry["side"]), "value": float(entry["value"])}))
        for entry in entries
    ]
