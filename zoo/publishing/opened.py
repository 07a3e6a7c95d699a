"""A saved method together with the data it was trained on."""

from pathlib import Path
from typing import Any

import zoo
from zoo.data.sets import from_recipe
from zoo.hub import data_recipe


def opened(folder: Path) -> tuple[Any, Any]:
    """The method that was saved there, and the data it was trained on."""
    method, data = zoo.from_pretrained(folder), from_recipe(data_recipe(folder))
    data.prepare_data()
    data.setup()
    return method, data
