"""The verbs that say what there is."""

import sys
from typing import Literal

from zoo.hub import list_models, recipe_files
from zoo.methods import METHODS


def list_(pattern: str = "*", pretrained: bool = False) -> None:
    """List the methods and the recipes.

    Args:
        pattern: Shell pattern that recipe names must match, such as `*mnist*`.
        pretrained: Only recipes with a trained checkpoint.
    """
    import ast
    from importlib.util import find_spec
    from pathlib import Path

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print("methods")
    for name, module in sorted(METHODS.items()):
        spec = find_spec(module)
        source = Path(spec.origin).read_text() if spec and spec.origin else ""
        citation = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        console.print(f"  {name:8} {' '.join(citation.split())}", markup=False)
    console.print("recipes")
    for slug in list_models(pattern, pretrained):
        path = recipe_files()[slug]
        first = path.read_text().splitlines()[0].removeprefix("# ")
        console.print(f"  {slug:18} {first}", markup=False)


def data(
    action: Literal["prepare", "show"],
    name: Literal["Digits", "MNIST", "FashionMNIST"] = "MNIST",
    out: str | None = None,
) -> None:
    """Prepare a data set's cache, or show what is in it.

    Args:
        action: `prepare` converts the images once; `show` also prints sizes and hashes and writes a grid.
        name: The data set.
        out: With `show`: the PNG to write; by default NAME.png in lower case.
    """
    import time

    from zoo import data as modules
    from zoo.data.sources import cache_file
    from zoo.pictures.grids import save_grid

    began = time.perf_counter()
    module = getattr(modules, name)()
    module.prepare_data()
    module.setup()
    sys.stdout.write(f"{module.protocol}\n")
    sys.stdout.write(f"cache: {cache_file(module.source)} ({time.perf_counter() - began:.2f} s)\n")
    if action == "show":
        out = out or f"{name.lower()}.png"
        sys.stdout.write(f"test sha256: {module.test_hash()}\n")
        sys.stdout.write(f"mean pixel: {float(module.mean_image().mean()):.4f}\n")
        save_grid(module.split("train").x[:100], out, 10)
        sys.stdout.write(f"first 100 training images: {out}\n")
