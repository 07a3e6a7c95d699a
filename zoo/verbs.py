"""The light verbs: nothing here imports Lightning's trainer before it must."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from zoo.errors import OneLine, UsageError, require
from zoo.pictures import interpolate, nearest, repair, traverse

MOST_PORT = 65535


def sample(
    model: str,
    n: int = 64,
    seed: int = 0,
    out: str | None = None,
    film: bool = False,
    frames: int = 60,
    revision: str | None = None,
) -> None:
    """Draw images from a saved model.

    Args:
        model: A slug (`vae-mnist`), a folder (`.../model`), or `owner/name` on the Hub.
        n: How many images.
        seed: Seed of the draw.
        out: A .png (one grid) or .safetensors (tensor `images`, [n, C, H, W] in [0, 1]); of a film, a .gif or
            an animated .png. By default samples.png or film.gif.
        film: Show the Markov chains on their way to the images.
        frames: Most frames of a film, evenly spaced over the chains' steps.
        revision: Branch, tag or commit on the Hub.
    """
    out = out or ("film.gif" if film else "samples.png")
    suffix = os.path.splitext(out)[1]
    kinds = (".gif", ".png") if film else (".png", ".safetensors")
    require(suffix in kinds, f"out must end in {' or '.join(kinds)}, got {out!r}")
    require(n >= 1, f"n must be at least 1, got {n}")
    require(frames >= 1, f"frames must be at least 1, got {frames}")
    require(seed >= 0, f"seed must not be negative, got {seed}")
    import torch

    import zoo
    from zoo.contract.capabilities import Samples, Walks

    method = zoo.from_pretrained(model, revision)
    name, columns = type(method).__name__, max(1, round(n**0.5))
    generator = torch.Generator().manual_seed(seed)
    if film:
        from zoo.pictures.grids import save_film

        if not isinstance(method, Walks):
            raise UsageError(f"{name} has no chain to film")
        save_film(method.walk(n, generator=generator), out, columns, frames)
        sys.stdout.write(f"film of {n} chains: {out}\n")
        return
    if not isinstance(method, Samples):
        raise UsageError(f"{name} does not sample")
    images = method.sample(n, generator=generator)
    if suffix == ".png":
        from zoo.pictures.grids import save_grid

        save_grid(images, out, columns)
    else:
        from safetensors.torch import save

        from zoo.files import write_bytes

        write_bytes(out, save({"images": images.contiguous()}))
    sys.stdout.write(f"{n} images: {out}\n")


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

    import zoo

    console = Console(highlight=False, soft_wrap=True)
    console.print("methods")
    for name, module in sorted(zoo.METHODS.items()):
        spec = find_spec(module)
        source = Path(spec.origin).read_text() if spec and spec.origin else ""
        citation = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        console.print(f"  {name:8} {' '.join(citation.split())}", markup=False)
    console.print("recipes")
    for slug in zoo.list_models(pattern, pretrained):
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


def score(
    models: list[str],
    metrics: list[str] | None = None,
    data: str | None = None,
    num_samples: int = 5000,
    num_images: int = 10_000,
    seed: int = 0,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    revision: str | None = None,
    out: str | None = None,
) -> None:
    """Score saved models from their weights alone, and print them side by side.

    Args:
        models: Slugs (`vae-mnist`), folders (`.../model`), or `owner/name` on the Hub.
        metrics: Which metrics, such as `fid kid`; by default all but `ais`.
        data: Class of the data (`MNIST`); by default what the model was trained on.
        num_samples: K, importance samples per image.
        num_images: Samples drawn from each model, and images they are held against.
        seed: Seed of the evaluation's random streams.
        device: Where to run.
        revision: Branch, tag or commit on the Hub.
        out: A folder for one results file per model; by default none is written.
    """
    import tempfile
    from pathlib import Path

    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    import zoo
    from zoo.data.sets import from_recipe
    from zoo.hub import data_recipe, model_folder
    from zoo.scores.evaluation import Evaluator, console
    from zoo.scores.results import side_by_side
    from zoo.training.runs import quieten

    Evaluator(num_samples, num_images, metrics, seed=seed)  # refuses what it must before a model is loaded
    quieten()
    torch.use_deterministic_algorithms(True, warn_only=True)
    names = [_heading(model) for model in models]
    repeated = ", ".join(sorted({name for name in names if names.count(name) > 1}))
    require(not repeated, f"models must have different names, got two of {repeated}")
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for model, name in zip(models, names, strict=True):
            folder = model_folder(model, revision)
            method, module = zoo.from_pretrained(folder), from_recipe(data_recipe(folder, data))
            file = Path(out or scratch) / f"{name}.json"
            evaluator = Evaluator(num_samples, num_images, metrics, seed=seed, out=str(file))
            try:
                trainer = Trainer(
                    accelerator=device,
                    devices=1,
                    logger=False,
                    callbacks=[evaluator],
                    enable_checkpointing=False,
                    enable_progress_bar=sys.stdout.isatty(),
                    enable_model_summary=False,
                    inference_mode=False,
                )
            except MisconfigurationException as error:
                raise UsageError(f"device must be there, got {device}: {error}") from error
            trainer.test(method, datamodule=module, verbose=False)
            found.append(evaluator.results)
            _say_whether_it_agrees(found[-1], folder)
            if out:
                sys.stdout.write(f"results: {file}\n")
    if len(models) > 1:
        console().print(side_by_side(found, names))


def _heading(model: str) -> str:
    """What to call a model: the run's name for `runs/vae-mnist/version_0/model`, else the folder's."""
    *above, last = [part for part in model.split("/") if part]
    return "-".join(above[-2:]) if last == "model" and above else last


def _say_whether_it_agrees(results, folder) -> None:  # noqa: ANN001
    """Hold a score against the results file that lies with the model, if one does."""
    from zoo.hub import METRICS, RESULTS
    from zoo.scores.results import Results

    places = (folder / METRICS, folder / RESULTS, folder.parent / RESULTS)
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        return
    try:
        recorded = Results.read(file)
    except UsageError as error:
        sys.stdout.write(f"not compared with the recorded score: {error}\n")
        return
    if recorded.weights_sha256 != results.weights_sha256:
        sys.stdout.write(f"{file} scores other weights\n")
        return
    same, different = results.agreement(recorded)
    sys.stdout.write(f"{len(same)} numbers agree with {file}, {len(different)} do not\n")
    for line in different:
        sys.stdout.write(f"  {line}\n")


def compare(results: list[str]) -> None:
    """Print results files side by side; two of the same images also as a difference, paired image by image.

    Args:
        results: Files written by fit, test or score (`results.json`).
    """
    from zoo.scores.evaluation import console
    from zoo.scores.results import Results, side_by_side

    require(len(results) > 1, f"compare needs at least two results files, got {len(results)}")
    read = [Results.read(path) for path in results]
    names = [result.method for result in read]
    if len(set(names)) < len(names):
        names = [os.path.dirname(path) or path for path in results]
    console().print(side_by_side(read, names))
    if len(read) == 2:
        _paired(read, results)


def _paired(results: list, paths: list[str]) -> None:
    from rich.table import Table
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from zoo.scores.evaluation import console
    from zoo.scores.metrics import mean_and_error

    first, second = results
    require(first.data == second.data, f"both must score the same images, got {first.data} and {second.data}")
    require(first.seed == second.seed, f"both must have one seed, got {first.seed} and {second.seed}")
    columns = []
    for path in paths:
        file = os.path.splitext(path)[0] + ".safetensors"
        try:
            columns.append(load_file(file))
        except (OSError, SafetensorError) as error:
            reason = "missing" if not os.path.isfile(file) else str(error)
            raise UsageError(f"{path} must have its images' values beside it, {file} is {reason}") from error
    table = Table(
        title=f"{first.data['protocol']}, paired over {len(columns[0]['row'])} images", title_justify="left"
    )
    for heading in ("metric", "second - first", "unit", "protocol"):
        table.add_column(heading, justify="right" if heading == "second - first" else "left", overflow="fold")
    for name, number in first.numbers.items():
        other = second.numbers.get(name)
        column = "log_prob" if name.startswith("test/log_prob") else name.removeprefix("test/")
        if other is None or other.protocol != number.protocol or any(column not in part for part in columns):
            continue
        mean, error = mean_and_error(columns[1][column] - columns[0][column])
        protocol = number.protocol.removeprefix(f"{first.data['protocol']}; ")
        table.add_row(name, f"{mean:+.2f} ± {error:.2f}", number.unit, protocol)
    require(table.row_count > 0, f"no metric has one protocol in both {paths[0]} and {paths[1]}")
    console().print(table)


def reproduce(
    slugs: list[str],
    budget: Literal["cpu", "gpu", "paper"] = "cpu",
    seeds: int = 1,
    hours: float | None = None,
    print_only: bool = False,
    out: str | None = None,
) -> None:
    """Train recipes, score them, and collect their checkpoints with cards; what is there already is kept.

    Args:
        slugs: Recipes, such as `vae-mnist`.
        budget: `cpu` and `gpu` train the recipe there, `paper` its paper-sized variant wherever it can.
        seeds: Runs with seeds 0, 1, ...; the first one's weights are published, the others give the spread.
        hours: No training begins after so many hours; the same command goes on.
        print_only: Print the commands, run nothing.
        out: Folder of checkpoints; by default the checkout's, whose registry and `MODEL_CARDS.md` follow.
    """
    from zoo.publishing.reproduce import reproduce

    reproduce(slugs, budget, seeds, hours, print_only, out)


def publish(
    folders: Sequence[str] = (),
    org: str | None = None,
    all: bool = False,
    private: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
) -> None:
    """Publish checkpoints on the Hugging Face Hub, one commit each, and list them in a collection.

    Args:
        folders: Slugs or folders of checkpoints.
        org: Organisation or user that holds them; by default that of the variable `ZOO_HUB_ORG`.
        all: Every checkpoint of the checkout.
        private: Make new repositories private.
        create_pr: Open pull requests instead of committing to main.
        dry_run: Print what would be published, and touch no network.
    """
    org = org or os.environ.get("ZOO_HUB_ORG")
    require(bool(org), "publish needs --org NAME, or the variable ZOO_HUB_ORG")
    require(
        bool(folders) != all, f"publish needs slugs or folders, or --all, got {' '.join(folders) or 'none'}"
    )
    from zoo.hub import shelf
    from zoo.publishing.upload import publish

    chosen = sorted(str(path.parent) for path in shelf().glob("*/config.json")) if all else folders
    publish(chosen, str(org), private, create_pr, dry_run)


def leaderboard(
    action: Sequence[str] = (),
    data: str = "*",
    metric: str | None = None,
    family: str = "*",
    root: str | None = None,
    html: str | None = None,
    project: str = "zoo",
    entity: str | None = None,
) -> None:
    """Rank the checkpoints, one metric under one protocol at a time; push them to W&B, or rank what is there.

    Args:
        action: Nothing ranks the checkpoints here, `push` sends them to W&B, `pull` ranks the runs there.
        data: Data set, such as `mnist`; a shell pattern.
        metric: Such as `fid`; by default every one that ranks at least two checkpoints.
        family: Family of the methods, such as `energy`; a shell pattern.
        root: Folder of the checkpoints; by default the checkout's.
        html: A folder for the leaderboard with all pictures as one page, `index.html`.
        project: Project on W&B.
        entity: User or team on W&B; by default the one logged in.
    """
    from pathlib import Path

    from zoo.hub import shelf
    from zoo.leaderboard.table import READING, boards, entrant, table
    from zoo.publishing.checkpoints import checkpoints
    from zoo.scores.evaluation import console

    words = " ".join(action)
    require(words in ("", "push", "pull"), f"leaderboard takes push, pull or nothing, got {words!r}")
    found = [] if words == "pull" else list(checkpoints(Path(root) if root else None).values())
    require(bool(found) or words == "pull", f"root must hold checkpoints, found none in {root or shelf()}")
    if words == "push":
        from zoo.leaderboard.wandb_board import push

        push(found, project, entity)
        return
    if html is not None:
        from zoo.leaderboard.page import write_page

        sys.stdout.write(f"leaderboard: {write_page(found, Path(html))}\n")
        return
    if words == "pull":
        from zoo.leaderboard.wandb_board import pull

        entrants = pull(project, entity)
    else:
        entrants = [entrant(one) for one in found]
    shown = boards(entrants, data, metric, family, 1 if metric else 2)
    require(bool(shown), f"nothing has such numbers: data {data}, metric {metric or '*'}, family {family}")
    for board in shown:
        console().print(table(board))
    console().print(READING)


def demo(models: Sequence[str] = (), host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve a page to sample, walk, repair what one draws over, and compare two methods side by side.

    Args:
        models: Slugs or folders of checkpoints; by default all.
        host: Address to listen on; 0.0.0.0 opens the page to the network.
        port: Port to listen on.
    """
    require(1 <= port <= MOST_PORT, f"port must be between 1 and {MOST_PORT}, got {port}")
    try:
        from zoo.cli.demo import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UsageError('the demo needs gradio: pip install "generative-zoo[demo]"') from error
    serve(models, host, port)


VERBS = {
    "sample": sample,
    "repair": repair,
    "interpolate": interpolate,
    "traverse": traverse,
    "nearest": nearest,
    "score": score,
    "compare": compare,
    "leaderboard": leaderboard,
    "demo": demo,
    "reproduce": reproduce,
    "publish": publish,
    "list": list_,
    "data": data,
}


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
    parameters = inspect.signature(function).parameters
    own: set[str | int] = {
        name
        for name, p in parameters.items()
        if p.annotation in (bool, list[str], list[str] | None, Sequence[str])
    }
    for name in [name for name in parameters if name in own]:
        text, needed = _described(function, name), parameters[name].default is inspect.Parameter.empty
        if parameters[name].annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif parameters[name].annotation == Sequence[str]:
            parser.add_argument(name, nargs="*", help=text)
        else:
            parser.add_argument(name if needed else f"--{name}", nargs="+", help=text)
    parser.add_function_arguments(function, as_positional=True, skip=own)
    function(**vars(parser.parse_args([_underscored(word) for word in argv[1:]])))


def _underscored(word: str) -> str:
    """`--print-only` is `--print_only`."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


def _described(function: Callable, name: str) -> str:
    """An argument's line in the docstring."""
    lines = [line.strip() for line in (function.__doc__ or "").splitlines()]
    return next(line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: "))
