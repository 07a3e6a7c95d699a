"""The leaderboard as a W&B report, through `wandb-workspaces` (extra `report`).

Per data set, every board as a table, and below them a live grid of all runs that were scored on the same
images, one's own among them, with the pictures of their samples. The tables rank; in the grid each value has
its error, side, unit and protocol beside it, and `zoo leaderboard pull` ranks what it shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import wandb
import wandb_workspaces.reports.v2.interface as wr  # pyright: ignore[reportMissingImports]
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from zoo.errors import UsageError
from zoo.leaderboard.table import READING, Board, boards, entrant
from zoo.publishing.checkpoints import Checkpoint

TITLE = "zoo leaderboard"
BESIDE = ("test", "error", "side", "unit", "protocol")
"""Parts of a number, as a run's summary names them, from left to right."""


def save(found: Sequence[Checkpoint], urls: Mapping[str, str], project: str, entity: str) -> str:
    """Save the report, in place of that of an earlier push; returns its URL.

    Args:
        found: Checkpoints.
        urls: Address of each checkpoint's run, by slug.
        project: Project on W&B.
        entity: User or team.

    Raises:
        UsageError: If W&B refuses.
    """
    shown = boards(map(entrant, found), num_least=2)
    treatments = sorted({(entrant(one).data, one.results.data["protocol"]) for one in found})
    blocks: list[Any] = [wr.P(READING), wr.TableOfContents()]
    for data in dict.fromkeys(board.data for board in shown):
        mine = [board for board in shown if board.data == data]
        blocks.append(wr.H1(data))
        for board in mine:
            better = "higher" if board.higher else "lower"
            blocks.append(wr.H2(f"{board.metric}, {board.unit}; {better} is better"))
            blocks += [wr.P(f"{board.text}; {board.protocol}"), wr.MarkdownBlock(_table(board, urls))]
        runset = wr.Runset(
            entity,
            project,
            name=f"runs on {data}",
            filters=_one_of("data", [text for name, text in treatments if name == data]),
            order=[wr.OrderBy("Name", ascending=True)],
            visible_columns=_columns(mine),
            lock_columns=True,
        )
        samples = wr.MediaBrowser(title="samples", media_keys=["samples"], layout=wr.Layout(w=24, h=12))
        blocks += [wr.H2(f"All runs on {data}"), wr.PanelGrid(runsets=[runset], panels=[samples])]
    report = wr.Report(project, entity, TITLE, blocks=blocks)
    try:
        earlier = [old.id for old in wandb.Api().reports(f"{entity}/{project}") if old.display_name == TITLE]
        report.id = next(iter(earlier), "")
        report.save()
    except (WandbApiFailedError, ValueError) as error:
        raise UsageError(f"W&B refuses the report: {str(error).splitlines()[0]}") from error
    return report.url


def _table(board: Board, urls: Mapping[str, str]) -> str:
    """A board as Markdown."""
    lines = ["| rank | checkpoint | value | over seeds |", "|---:|---|---:|---:|"]
    for rank, entry in zip(board.ranks(), board.entries, strict=True):
        lines.append(f"| {rank} | [{entry.slug}]({urls[entry.slug]}) | {entry.number} | {entry.seeds} |")
    lines += [f"| | *{name}* | *{number}* | |" for name, number in board.floors.items()]
    return "\n".join(lines)


def _columns(shown: Sequence[Board]) -> list[str]:
    metrics = dict.fromkeys(board.metric for board in shown)
    return ["summary:method", "summary:data"] + [
        f"summary:{part}/{metric}" for metric in metrics for part in BESIDE
    ]


def _one_of(key: str, texts: list[str]) -> str:
    """A filter of runs; the package takes `=`, `<` and `>` inside a text for operators, unless escaped."""
    literal = repr(texts).translate({ord(sign): f"\\x{ord(sign):02x}" for sign in "=<>"})
    return f"SummaryMetric({key!r}) in {literal}"
