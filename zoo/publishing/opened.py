"""A saved method together with the data it was trained on."""

from pathlib import Path
from typing import Any

from zoo.contract.method import Method
from zoo.data.sets import from_recipe
from zoo.hub import data_recipe
from zoo.methods import from_folder


def opened(folder: Path, code: type[Method] | None = None) -> tuple[Any, Any]:
    """The method that was saved there, and the data it was trained on.

    Args:
        folder: Holds `config.json` and `model.safetensors`.
        code: The class of a method that is not in the registry.
    """
    method, data = from_folder(folder, code), from_recipe(data_recipe(folder))
    data.prepare_data()
    data.setup()
    return method, data
