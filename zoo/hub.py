"""Where models and recipes are found by name.

A model is named by its folder, by `owner/name` on the Hub, or by its slug: `vae-mnist` is
`checkpoints/vae-mnist` of the checkout, else the repository of that name of the organisation in
`ZOO_HUB_ORG`, at the commit and with the hashes of `registry.json`. A folder that holds a pickle is refused.
"""

import json
import os
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, require
from zoo.files import sha256

CONFIG, WEIGHTS, RESULTS, METRICS = "config.json", "model.safetensors", "results.json", "metrics.json"
RUN_CONFIG, RUN_LOG, RUN_LAST, RUN_MODEL = "config.yaml", "metrics.csv", "last.ckpt", "model"
"""What lies in the folder of a run."""
ORGANISATION = "ZOO_HUB_ORG"
REGISTRY = Path(__file__).parent / "registry.json"
FORMAT = 1
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def shelf() -> Path:
    """The folder of all checkpoints in a checkout of the project."""
    return Path(__file__).parent.parent / "checkpoints"


def recipe_files() -> dict[str, Path]:
    """Slug (`vae-mnist`) to file (`configs/variational/vae_mnist.yaml`) of every recipe."""
    for root in (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs"):
        if root.is_dir():
            return {path.stem.replace("_", "-"): path for path in sorted(root.glob("*/*.yaml"))}
    return {}


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Slugs of all recipes that match a shell pattern.

    Args:
        pattern: Such as `*mnist*`.
        pretrained: Only those whose trained checkpoint is in the checkout or the registry.
    """
    slugs = set(recipe_files())
    if pretrained:
        slugs = {*registry(), *(path.parent.name for path in shelf().glob(f"*/{CONFIG}"))}
    return sorted(slug for slug in slugs if fnmatch(slug, pattern))


def registry() -> dict[str, dict[str, Any]]:
    """Slug to `sha256` {file: hash} and `revisions` {organisation: commit} of what is published."""
    return json.loads(REGISTRY.read_text()) if REGISTRY.is_file() else {}


def data_recipe(folder: Path, other: str | None = None) -> dict[str, Any]:
    """The recipe of the data that a saved method was trained on.

    Args:
        folder: Where it was saved.
        other: Name of another class, for the same treatment of other images.

    Raises:
        UsageError: If there is no such model or it does not name its data.
    """
    recipe = read_config(folder).get("data")
    if other is not None:
        return {"class": other, "init_args": recipe["init_args"] if isinstance(recipe, dict) else {}}
    if recipe is None:
        raise UsageError(f"{folder / CONFIG} does not name its data: give --data CLASS")
    return recipe


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run, or of a saved model with the pictures that came with it."""
    run = (folder / RUN_CONFIG).is_file() and any(
        (folder / n).exists() for n in (RUN_LOG, RUN_LAST, RUN_MODEL)
    )
    return run or all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def score_file(folder: Path) -> Path | None:
    """The recorded score of a saved method: beside its weights, or, of a run's `model/`, beside that."""
    places = (folder / METRICS, folder / RESULTS, folder.parent / RESULTS)
    return next((path for path in places if path.is_file()), None)


def model_folder(model: str | Path, revision: str | None = None, org: str | None = None) -> Path:
    """The folder itself, that of a slug in the checkout, or a download of a Hub repository.

    Args:
        model: Folder, slug, or `owner/name`.
        revision: Branch, tag or commit on the Hub; of a slug by default the commit in the registry.
        org: Organisation on the Hub that holds slugs; by default that of the variable `ZOO_HUB_ORG`.

    Raises:
        UsageError: If there is no such model, or it is not the one whose hashes the registry has.
    """
    path, slug, known = Path(model), str(model), registry()
    checkout = shelf() / slug
    named = "/" not in slug and slug not in ("", ".", "..")
    if path.is_dir() or (named and org is None and revision is None and checkout.is_dir()):
        require(
            revision is None, f"revision belongs to a Hub repository, got {revision!r} with the folder {path}"
        )
        if not path.is_dir():
            path = checkout
            _check_hashes(path, known.get(slug, {}))
        return path
    if not named:
        if slug.count("/") != 1 or slug.startswith((".", "/", "~")):
            raise UsageError(f"no folder {slug!r}; a Hub repository would read owner/name")
        return _download(slug, revision)
    org = org or os.environ.get(ORGANISATION)
    if org is None:
        close = get_close_matches(slug, {*known, *(path.parent.name for path in shelf().glob(f"*/{CONFIG}"))})
        hint = f"did you mean {' or '.join(close)}?" if close else f"set {ORGANISATION} to look on the Hub"
        raise UsageError(f"no folder and no checkpoint {slug!r}: {hint}")
    entry = known.get(slug, {})
    folder = _download(f"{org}/{slug}", revision or entry.get("revisions", {}).get(org))
    if revision is None:
        _check_hashes(folder, entry)
    return folder


def _check_hashes(folder: Path, entry: dict[str, Any]) -> None:
    for name, wanted in entry.get("sha256", {}).items():
        require((folder / name).is_file(), f"{folder} must hold {name}, found none")
        found = sha256(folder / name)
        require(found == wanted, f"{folder / name} must have the registry's SHA-256 {wanted}, got {found}")


def http_error() -> type[Exception]:
    """What the Hub's client raises where the network fails; the library below it differs between versions."""
    from huggingface_hub import errors

    return errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]


def _download(repo: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=[CONFIG, WEIGHTS, RESULTS, METRICS]
        )
    except (http_error(), errors.HFValidationError, errors.LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"no folder {repo!r}, and the Hub gave no repository of that name: {reason}"
        ) from error
    return Path(snapshot)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a saved method: `class`, `init_args`, `data`.

    Raises:
        UsageError: If there is none of this format, or the folder holds a pickle.
    """
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    require(not pickles, f"{folder} must hold safetensors and JSON only, found {', '.join(pickles)}")
    path = folder / CONFIG
    require(path.is_file(), f"{folder} must hold {CONFIG}, found none")
    try:
        config = json.loads(path.read_text())
        found, name, arguments = config["format"], config["class"], config["init_args"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} must be JSON with format, class and init_args: {error!r}") from error
    require(found == FORMAT, f"{path} must have format {FORMAT}, got {found!r}")
    require(isinstance(name, str), f"class of {path} must be a name, got {name!r}")
    require(isinstance(arguments, dict), f"init_args of {path} must be an object, got {arguments!r}")
    return config
