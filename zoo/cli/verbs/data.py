"""The verbs about a data set, which take its own arguments as options."""

import sys
from typing import Any, Literal


def data(action: Literal["prepare", "show"], kind: str, out: str | None = None, **options: Any) -> None:
    """Prepare a data set's cache, or show what is in it.

    Args:
        action: `prepare` converts the images once, and afterwards compares every byte of the cache with what
            was written; `show` prints what is known and writes a grid.
        kind: Class of the data; its arguments are options (`zoo data show HubImages --repo_id owner/name`).
        out: With `show`: the PNG to write; by default NAME.png in lower case.
        options: Arguments of the class.
    """
    import time

    from zoo.data.kept import cache_file, prepared
    from zoo.data.sets import from_recipe
    from zoo.pictures.grids import save_grid
    from zoo.randomness import own_stream

    began = time.perf_counter()
    module = from_recipe({"class": kind, "init_args": options})
    prepared(module.source, in_full=action == "prepare")
    module.setup()
    sys.stdout.write(f"{module.protocol}\n")
    sys.stdout.write(f"cache: {cache_file(module.source)} ({time.perf_counter() - began:.2f} s)\n")
    if action == "show":
        facts = module.facts
        out = out or f"{kind.lower()}.png"
        sys.stdout.write(f"{facts.credit}\n")
        sys.stdout.write(f"cite: {facts.citation}\n")
        sys.stdout.write(f"classes: {', '.join(module.class_names) or 'not named'}\n")
        for split in ("train", "val", "test"):
            counts = ", ".join(f"{name} {count}" for name, count in module.present(split).items())
            sys.stdout.write(f"{split} images of each class: {counts or 'none has a label'}\n")
        sys.stdout.write(f"test sha256: {module.test_hash()}\n")
        sys.stdout.write(f"mean pixel: {float(module.mean_image().mean()):.4f}\n")
        with own_stream(module.draw_seed):
            images = module.split("train", 100).x
        save_grid(images, out, 10)
        sys.stdout.write(f"first 100 training images: {out}\n")


def features(kind: str, **options: Any) -> None:
    """Train the features that FID, KID, IS, precision, recall and coverage of a labelled data set need.

    Args:
        kind: Class of the data; its arguments are options (`zoo features HubImages --repo_id owner/name`).
        options: Arguments of the class.
    """
    import time

    from rich.console import Console
    from rich.progress import Progress

    from zoo.data.sets import from_recipe
    from zoo.scores.classifiers import own_features, ready

    module = from_recipe({"class": kind, "init_args": options})
    began = time.perf_counter()
    net = ready(module)
    if net is None:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task(f"a classifier of {module.protocol.images}")
            net = own_features(module, lambda epoch, of, _: progress.update(bar, completed=epoch, total=of))
        sys.stdout.write(f"trained in {time.perf_counter() - began:.0f} s: zoo score and zoo fit find it\n")
    sys.stdout.write(f"{module.protocol.images}: {net.name}\n")
