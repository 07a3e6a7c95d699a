"""Images for every method: one family of data modules, all yielding the same `Batch`."""

from zoo.data.facts import DataProtocol, Facts
from zoo.data.modules import Binarize, ImageData, Pixels, Rows, Split
from zoo.data.sets import (
    DATA,
    MNIST,
    Digits,
    FashionMNIST,
    FreyFaces,
    HubImages,
    ImageFolder,
    facts_of,
    from_recipe,
)
from zoo.data.toys import Heartbeat, Plane, SwissRoll

__all__ = [
    "DATA",
    "MNIST",
    "Binarize",
    "DataProtocol",
    "Digits",
    "Facts",
    "FashionMNIST",
    "FreyFaces",
    "Heartbeat",
    "HubImages",
    "ImageData",
    "ImageFolder",
    "Pixels",
    "Plane",
    "Rows",
    "Split",
    "SwissRoll",
    "facts_of",
    "from_recipe",
]


def __getattr__(name: str) -> type[ImageData]:
    if name in DATA:
        return DATA[name]
    raise AttributeError(f"module 'zoo.data' has no attribute {name!r}")
