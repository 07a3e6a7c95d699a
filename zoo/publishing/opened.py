"""A saved method together with the data it was trained on."""

from pathlib import Path
from typing import Any

from zoo.data.sets import from_recipe
from zoo.hub import data_recipe
from zoo.methods import from_folder


def opened(folder: Path) -> tuple[Any, Any]:
    """The method that was saved there, and the data it was trained on."""
    method, data = from_folder(folder), from_recipe(data_recipe(folder))
    data.prepare_data()
    data.setup()
    return method, data
