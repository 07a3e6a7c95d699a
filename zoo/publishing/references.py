"""Numbers that others report, or that were expected, beside those of a checkpoint: `references/<method>.yaml`."""

from pathlib import Path
from typing import NamedTuple

import yaml

from zoo.contract.capabilities import Side

REFERENCES = Path(__file__).parent / "references.yaml"


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
    """All of `references.yaml`."""
    entries = yaml.safe_load(REFERENCES.read_text())
    return [
        Reference(**(entry | {"side": Side(entry["side"]), "value": float(entry["value"])}))
        for entry in entries
    ]
