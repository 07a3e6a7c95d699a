"""The leaderboard on W&B: a run per checkpoint, a table and a report over all of them, and the way back.

A run's summary has `test/fid`, and beside it `side/fid`, `unit/fid`, `protocol/fid` and `error/fid`
(`Results.flat`); `zoo fit --wandb` logs the same, so that one's own runs stand in the same comparison.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import wandb
from wandb.errors import CommError
from wandb.errors import UsageError as WandbUsageError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from zoo.contract.capabilities import Side
from zoo.errors import UsageError
from zoo.leaderboard.table import Entrant, entrant
from zoo.publishing.checkpoints import Checkpoint
from zoo.scores.results import Number, Numbers, Protocol

BOARD = "leaderboard"
PICTURES = ("samples.png", "reconstructions.png", "interpolations.png")
FILM = "film.gif"
COLUMNS = ("checkpoint", "class", "number", "side", "value", "error", "unit", "protocol")
HASH_DIGITS = 12


def push(found: Sequence[Checkpoint], project: str, entity: str | None) -> None:
    """Make a run per checkpoint, named by slug and weights so that it can be updated, a table and a report.

    Args:
        found: Checkpoints.
        project: Project on W&B.
        entity: User or team.

    Raises:
        UsageError: If W&B cannot be reached or refuses.
    """
    try:
        rows, runs = [], {}
        for one in found:
            results, config = one.results, one.config
            about = {
                "slug": one.slug,
                "class": config["class"],
                "data": config["data"],
                **config["init_args"],
            }
            name = f"{one.slug}-{results.weights_sha256[:HASH_DIGITS]}"
            with _run(project, entity, name, one.slug, "checkpoint", about) as run:
                run.log(_pictures(one))
                run.summary.update(results.flat() | {"data_name": entrant(one).data})
            runs[one.slug] = run
            for key, number in results.numbers.items():
                cells = (
                    key,
                    number.side.value,
                    number.value,
                    number.error,
                    number.unit,
                    str(number.protocol),
                )
                rows.append([one.slug, config["class"], *cells])
        with _run(project, entity, BOARD, BOARD, BOARD, {}) as run:
            run.log({BOARD: wandb.Table(list(COLUMNS), rows)})
        sys.stdout.write(f"{_report(found, runs, run)}\n")
    except (CommError, WandbUsageError) as error:
        raise UsageError(f"W&B refuses: {str(error).splitlines()[0]}") from error


def pull(project: str, entity: str | None) -> list[Entrant]:
    """All runs of a project that were scored, as they are compared.

    Raises:
        UsageError: If there is no such project or W&B cannot be reached.
    """
    try:
        api = wandb.Api()
        runs = list(api.runs(f"{entity or api.default_entity}/{project}", lazy=False))
    except (CommError, WandbUsageError, WandbApiFailedError, ValueError) as error:
        raise UsageError(f"W&B gave no project {project!r}: {str(error).splitlines()[0]}") from error
    found = []
    for run in runs:
        summary = {key: run.summary.get(key) for key in run.summary.keys()}  # noqa: SIM118
        name, data = summary.get("method"), summary.get("data_name")
        if isinstance(name, str) and isinstance(data, str):
            found.append(Entrant(run.name, name, data, _numbers(summary), {}, {}))
    return found


def _report(found: Sequence[Checkpoint], runs: Mapping[str, Any], board: Any) -> str:
    """Save the report where that is possible; returns the line that says what became of it."""
    if board.offline or board.disabled:
        return "no report: W&B is offline"
    try:
        from zoo.leaderboard.wandb_report import save
    except ModuleNotFoundError as error:
        return f'no report: it needs the extra report (pip install "generative-zoo[report]"): {error}'
    urls = {slug: run.url for slug, run in runs.items()}
    return f"report: {save(found, urls, board.project, board.entity)}"


def _run(project: str, entity: str | None, name: str, title: str, kind: str, config: dict[str, Any]) -> Any:
    settings = wandb.Settings(console="off", silent=True)
    return wandb.init(
        project=project,
        entity=entity,
        id=name,
        name=title,
        job_type=kind,
        config=config,
        resume="allow",
        settings=settings,
    )


def _pictures(one: Checkpoint) -> dict[str, Any]:
    pictures: dict[str, Any] = {
        path.stem: wandb.Image(str(path)) for name in PICTURES if (path := one.home / name).is_file()
    }
    if (one.home / FILM).is_file():
        pictures["film"] = wandb.Video(str(one.home / FILM), format="gif")
    return pictures


def _numbers(summary: dict[str, Any]) -> Numbers:
    numbers = {}
    for key, value in summary.items():
        stage, _, name = key.partition("/")
        if stage == "test" and all(f"{part}/{name}" in summary for part in ("side", "unit", "protocol")):
            side, unit, protocol = (summary[f"{part}/{name}"] for part in ("side", "unit", "protocol"))
            numbers[key] = Number(
                value, unit, Side(side), Protocol("", protocol), summary.get(f"error/{name}")
            )
    return numbers
