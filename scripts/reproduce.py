"""Reproduce checkpoints in a queue, or hold the published ones against their weights.

    python scripts/reproduce.py train 'digits' --seeds 3     every method's recipe on these data
    python scripts/reproduce.py check '*-mnist'              score again, draw again, compare
    python scripts/reproduce.py draw '*'                     pictures, cards and index again

`check` scores every checkpoint from its weights with the full number of samples, and ends with status 1 if
one number lies outside the 95 % interval of the recorded one (without an interval: differs), or the stored
draws do not come out but for rounding. With `--add`, and where nothing differs, numbers that a record lacks
are added to it.
"""

import argparse
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.table import Table

import zoo
from zoo.cli.verbs.scoring import score
from zoo.hub import METRICS, recipe_files
from zoo.publishing.cards import write_card, write_index
from zoo.publishing.checkpoints import Checkpoint, checkpoints, draw, drawn_again
from zoo.publishing.opened import opened
from zoo.publishing.reproduce import reproduce
from zoo.scores.results import ABSOLUTE, Number, Results

SAMPLES, IMAGES = 5000, 10_000


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("verb", choices=["train", "check", "draw"])
    parser.add_argument("pattern", help="data set to train on (digits, mnist, fashion-mnist); else slugs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--metrics", nargs="+", help="only these metrics")
    parser.add_argument("--add", action="store_true", help="record the numbers that were not recorded")
    arguments = parser.parse_args()
    if arguments.verb == "train":
        modules = {path.rsplit(".", 1)[1] for path in zoo.METHODS.values()}
        slugs = [f"{module.replace('_', '-')}-{arguments.pattern}" for module in sorted(modules)]
        known = recipe_files()
        reproduce([slug for slug in slugs if slug in known], seeds=arguments.seeds, hours=arguments.hours)
        return
    found = {slug: one for slug, one in checkpoints().items() if fnmatch(slug, arguments.pattern)}
    if not found:
        parser.error(f"pattern must match checkpoints, got {arguments.pattern!r}")
    if arguments.verb == "draw":
        for one in found.values():
            draw(*opened(one.folder), one.folder)
            write_card(one)
        write_index()
        return
    failures = sum(check(one, arguments.metrics, arguments.add) for one in found.values())
    if arguments.add:
        write_index()
    Console().print(f"{len(found)} checkpoints, {failures} with differences")
    sys.exit(failures > 0)


def check(checkpoint: Checkpoint, metrics: list[str] | None, add: bool) -> bool:
    """Score and draw again; print the numbers side by side. Returns whether anything differs."""
    recorded = checkpoint.results
    with tempfile.TemporaryDirectory() as scratch:
        samples, images = _sizes(recorded)
        score([str(checkpoint.folder)], metrics, None, samples, images, recorded.seed, out=scratch)
        again = Results.read(Path(scratch) / f"{checkpoint.slug}.json")
    table = Table(title=f"{checkpoint.slug}: {METRICS} and now", title_justify="left")
    for heading in ("number", "recorded", "now", "agrees"):
        table.add_column(heading)
    differs = False
    for key, number in again.numbers.items():
        before = recorded.numbers.get(key)
        if before is None:
            continue
        agrees = before.protocol == number.protocol and _within(number, before)
        differs |= not agrees
        table.add_row(key, str(before), str(number), "yes" if agrees else "NO")
    for key in again.numbers.keys() - recorded.numbers.keys():
        table.add_row(key, "not recorded", str(again.numbers[key]), "")
    for key in recorded.numbers.keys() - again.numbers.keys() if metrics is None else ():
        differs = True
        table.add_row(key, str(recorded.numbers[key]), "not derived", "NO")
    drawn, difference = drawn_again(checkpoint)
    table.add_row(
        "first draws",
        "stored",
        f"differ by {difference:.2g}" if difference else "equal",
        "yes" if drawn else "NO",
    )
    Console().print(table)
    if add and not differs and drawn:
        recorded.with_more(again).write(checkpoint.folder / METRICS)
        write_card(Checkpoint(checkpoint.slug, checkpoint.folder))
    return differs or not drawn


def _sizes(recorded: Results) -> tuple[int, int]:
    """The importance samples and the images with which it was scored; the defaults if it says none."""
    protocols = [number.protocol for number in recorded.numbers.values()]
    samples = max((protocol.num_samples or 0 for protocol in protocols), default=0)
    images = max((protocol.num_images or 0 for protocol in protocols), default=0)
    return samples or SAMPLES, images or IMAGES


def _within(now: Number, before: Number) -> bool:
    if before.interval is None:
        return abs(now.value - before.value) <= max(ABSOLUTE, 1e-4 * abs(before.value))
    low, high = before.interval
    return low - ABSOLUTE <= now.value <= high + ABSOLUTE


if __name__ == "__main__":
    main()
