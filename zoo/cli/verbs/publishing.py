"""The verbs that reproduce, publish, rank and list."""

import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

from zoo.errors import UsageError, require

MOST_PORT = 65535


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
        seeds: Runs with seeds 0, 1, ...; the weights nearest the median are published, with the spread.
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
    folders: Sequence[str] = (),
    data: str = "*",
    metric: str | None = None,
    family: str = "*",
    root: str | None = None,
    html: str | None = None,
    project: str = "zoo",
    entity: str | None = None,
    code: list[str] | None = None,
) -> None:
    """Rank checkpoints and runs, one metric under one protocol at a time; push them to W&B, or rank its runs.

    Args:
        folders: Checkpoints and runs, or folders with such; by default all of root. After `push` they are
            sent to W&B instead, `pull` ranks the runs there.
        data: Data set, such as `mnist`; a shell pattern.
        metric: Such as `fid`; by default every one that ranks at least two.
        family: Family of the methods, such as `energy`, `own` for those outside the zoo; a shell pattern.
        root: A folder of checkpoints and runs that are compared too; by default the checkout's checkpoints
            where no folders are given.
        html: A folder for the leaderboard with all pictures as one page, `index.html`.
        project: Project on W&B.
        entity: User or team on W&B; by default the one logged in.
        code: Classes of methods of your own, such as `mypackage.mymethod.MyMethod`, whose papers and
            abilities the page shall name; they are imported.
    """
    from pathlib import Path

    from zoo.leaderboard.table import READING, boards, entrant, table
    from zoo.methods import own_class
    from zoo.scores.evaluation import console

    own = [own_class(path) for path in code or ()]
    action = next((word for word in folders[:1] if word in ("push", "pull")), None)
    if action == "pull":
        from zoo.leaderboard.wandb_board import pull

        require(len(folders) == 1, f"pull takes no folders, got {' '.join(folders[1:])}")
        entrants = pull(project, entity)
    else:
        found = _entries(folders[1:] if action else folders, root)
        if action == "push":
            from zoo.leaderboard.wandb_board import push

            push(found, project, entity)
            return
        if html is not None:
            from zoo.leaderboard.page import write_page

            sys.stdout.write(f"leaderboard: {write_page(found, Path(html), own)}\n")
            return
        entrants = [entrant(one) for one in found]
    shown = boards(entrants, data, metric, family, 1 if metric else min(2, len(entrants)))
    require(bool(shown), f"nothing has such numbers: data {data}, metric {metric or '*'}, family {family}")
    for board in shown:
        console().print(table(board))
    console().print(READING)


def _entries(folders: Sequence[str], root: str | None) -> list[Any]:
    """The checkpoints and runs that are compared."""
    from pathlib import Path

    from zoo.hub import model_folder, shelf
    from zoo.publishing.checkpoints import Checkpoint, scored

    found, others = [], []
    for name in folders:
        if Path(name).is_dir():
            found.append(("folders", Path(name)))
        else:
            others.append(Checkpoint(name.rsplit("/", 1)[-1], model_folder(name)))
    if root is not None or not folders:
        found.append(("root", Path(root) if root else shelf()))
    for what, place in found:
        require(
            bool(scored([place])), f"{what} must hold checkpoints, found none in {place}, nor scored runs"
        )
    return scored([place for _, place in found]) + others


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
