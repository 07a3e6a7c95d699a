"""The verbs that score and compare."""

import math
import os
import sys
from typing import Literal

from zoo.errors import UsageError, require


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
    code: list[str] | None = None,
) -> None:
    """Score saved models from their weights alone, and print them side by side.

    Args:
        models: Slugs (`vae-mnist`), folders (`.../model`), or `owner/name` on the Hub.
        metrics: Which metrics, such as `fid kid`; by default all but `ais`.
        data: Class of the data (`MNIST`); by default what the model was trained on.
        num_samples: K, importance samples per image.
        num_images: Samples drawn from each model, which are held against all test images.
        seed: Seed of the evaluation's random streams.
        device: Where to run.
        revision: Branch, tag or commit on the Hub.
        out: A folder for one results file per model; by default none is written.
        code: Classes of methods of your own, such as `mypackage.mymethod.MyMethod`; they are imported.
    """
    import tempfile
    from pathlib import Path

    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from zoo.data.sets import from_recipe
    from zoo.hub import data_recipe, model_folder, read_config
    from zoo.methods import class_named, from_folder, own_class
    from zoo.scores.evaluation import Evaluator, console
    from zoo.scores.results import side_by_side
    from zoo.training.runs import quieten

    Evaluator(num_samples, num_images, metrics, seed=seed)  # refuses what it must before a model is loaded
    quieten()
    torch.use_deterministic_algorithms(True, warn_only=True)
    names = [_heading(model) for model in models]
    repeated = ", ".join(sorted({name for name in names if names.count(name) > 1}))
    require(not repeated, f"models must have different names, got two of {repeated}")
    own = [own_class(path) for path in code or ()]
    folders = [model_folder(model, revision) for model in models]
    kinds = [class_named(read_config(folder)["class"], own) for folder in folders]
    unused = ", ".join(kind.__name__ for kind in own if kind not in kinds)
    require(not unused, f"code must be the class of one of the models, got {unused}")
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder, kind, name in zip(folders, kinds, names, strict=True):
            method, module = from_folder(folder, kind), from_recipe(data_recipe(folder, data))
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
    from zoo.hub import score_file
    from zoo.scores.results import Results

    file = score_file(folder)
    if file is None:
        return
    try:
        recorded = Results.read(file)
    except UsageError as error:
        sys.stdout.write(f"not compared with the recorded score: {error}\n")
        return
    same, different = results.agreement(recorded)
    for differs, what in (
        (recorded.weights_sha256 != results.weights_sha256, "other weights"),
        (recorded.data.get("test_sha256") != results.data["test_sha256"], "other test images"),
        (not (same or different), "no number under the same protocol"),
    ):
        if differs:
            sys.stdout.write(f"not compared with {file}: it has {what}\n")
            return
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
    images = [{name: result.data[name] for name in ("protocol", "test_sha256")} for result in results]
    require(images[0] == images[1], f"both must score the same images, got {images[0]} and {images[1]}")
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
        log_prob = name.startswith(("test/log_prob", "test/bernoulli_score"))
        column = "log_prob" if log_prob else name.removeprefix("test/")
        if other is None or other.protocol != number.protocol or any(column not in part for part in columns):
            continue
        mean, error = mean_and_error(columns[1][column] - columns[0][column])
        spread = f" ± {error:.2f}" if math.isfinite(error) else ""
        side = other.side.minus(number.side).value
        table.add_row(name, f"{side} {mean:+.2f}{spread}", number.unit, number.protocol.how)
    require(table.row_count > 0, f"no metric has one protocol in both {paths[0]} and {paths[1]}")
    console().print(table)
