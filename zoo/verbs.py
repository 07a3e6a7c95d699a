"""The light verbs: nothing here imports Lightning's trainer before it must."""

import os
import sys
from typing import Literal

from zoo.errors import OneLine, UsageError, require


def sample(
    model: str, n: int = 64, seed: int = 0, out: str = "samples.png", revision: str | None = None
) -> None:
    """Draw images from a saved model.

    Args:
        model: A folder written by fit (`.../model`), or `owner/name` on the Hub.
        n: How many images.
        seed: Seed of the draw.
        out: A .png (one grid) or .safetensors (tensor `images`, [n, C, H, W] in [0, 1]).
        revision: Branch, tag or commit on the Hub.
    """
    suffix = os.path.splitext(out)[1]
    require(suffix in (".png", ".safetensors"), f"out must end in .png or .safetensors, got {out!r}")
    require(n >= 1, f"n must be at least 1, got {n}")
    require(seed >= 0, f"seed must not be negative, got {seed}")
    import torch

    import zoo
    from zoo.capabilities import Samples

    method = zoo.from_pretrained(model, revision)
    if not isinstance(method, Samples):
        raise UsageError(f"{type(method).__name__} does not sample")
    images = method.sample(n, generator=torch.Generator().manual_seed(seed))
    if suffix == ".png":
        from zoo.callbacks import save_grid

        save_grid(images, out, max(1, round(n**0.5)))
    else:
        from safetensors.torch import save

        from zoo.files import write_bytes

        write_bytes(out, save({"images": images.contiguous()}))
    sys.stdout.write(f"{n} images: {out}\n")


def list_(pattern: str = "*") -> None:
    """List the methods and the recipes.

    Args:
        pattern: Shell pattern that recipe names must match, such as `*mnist*`.
    """
    import ast
    from importlib.util import find_spec
    from pathlib import Path

    from rich.console import Console

    import zoo

    console = Console(highlight=False, soft_wrap=True)
    console.print("methods")
    for name, module in sorted(zoo.METHODS.items()):
        spec = find_spec(module)
        source = Path(spec.origin).read_text() if spec and spec.origin else ""
        citation = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        console.print(f"  {name:8} {' '.join(citation.split())}", markup=False)
    console.print("recipes")
    for slug in zoo.list_models(pattern):
        path = zoo.recipe_files()[slug]
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
    from zoo.callbacks import save_grid
    from zoo.preparation import cache_file

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


def compare(one: str, two: str) -> None:
    """Compare two methods image by image: same test images, same number of samples, same streams.

    Args:
        one: A results.json.
        two: Another, of the same protocol.
    """
    from rich.table import Table
    from safetensors.torch import load_file

    from zoo.evaluation import Results, console
    from zoo.metrics import mean_and_error

    results = [Results.read(path) for path in (one, two)]
    first, second = results
    require(first.data == second.data, f"both must score the same images, got {first.data} and {second.data}")
    require(first.seed == second.seed, f"both must have one seed, got {first.seed} and {second.seed}")
    columns = [load_file(os.path.splitext(path)[0] + ".safetensors") for path in (one, two)]
    table = Table(
        title=f"{first.data['protocol']}, paired over {len(columns[0]['row'])} images", title_justify="left"
    )
    for heading in ("metric", first.method, second.method, "second - first", "unit", "protocol"):
        text = heading in ("metric", "unit", "protocol")
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for name, number in first.numbers.items():
        other = second.numbers.get(name)
        column = "log_prob" if name.startswith("test/log_prob") else name.removeprefix("test/")
        if other is None or other.protocol != number.protocol or any(column not in part for part in columns):
            continue
        mean, error = mean_and_error(columns[1][column] - columns[0][column])
        difference = f"{mean:+.2f} ± {error:.2f}"
        protocol = number.protocol.removeprefix(f"{first.data['protocol']}; ")
        table.add_row(name, str(number), str(other), difference, number.unit, protocol)
    require(table.row_count > 0, f"no metric has one protocol in both {one} and {two}")
    console().print(table)


VERBS = {"sample": sample, "list": list_, "data": data, "compare": compare}


def run(argv: list[str]) -> None:
    """Parse and run one light verb."""
    if argv[0] not in VERBS:
        from zoo.cli import HEAVY

        raise UsageError(f"unknown verb {argv[0]!r}: choose from {', '.join([*HEAVY, *VERBS])}")
    from jsonargparse import ArgumentParser

    class Parser(OneLine, ArgumentParser):
        """Says what is wrong in one line."""

    function = VERBS[argv[0]]
    description = (function.__doc__ or "").split("\n")[0]
    parser = Parser(prog=f"zoo {argv[0]}", description=description, allow_abbrev=False)
    parser.add_function_arguments(function, as_positional=True)
    function(**vars(parser.parse_args(argv[1:])))
