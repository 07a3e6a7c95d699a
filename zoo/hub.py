"""Where models and recipes are found by name.

A model is named by its folder, by `owner/name` on the Hub, or by its slug: `vae-mnist` is
`checkpoints/vae-mnist` of the checkout, else the repository of that name of the organisation in
`ZOO_HUB_ORG`, at the commit and with the hashes of `registry.json`. A folder that holds a pickle is refused.
"""

import hashlib
import json
import math
import os
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypedDict, Unpack

from zoo.errors import UsageError, require
from zoo.files import sha256, write_json

CONFIG, WEIGHTS, RESULTS, METRICS = "config.json", "model.safetensors", "results.json", "metrics.json"
SHA256 = "sha256"
"""Where `config.json` has its own hash and that of the weights."""
RUN_CONFIG, RUN_LOG, RUN_LAST, RUN_MODEL = "config.yaml", "metrics.csv", "last.ckpt", "model"
"""What lies in the folder of a run."""
ORGANISATION = "ZOO_HUB_ORG"
REGISTRY = Path(__file__).parent / "registry.json"
FORMAT = 2
"""1 had no hashes; it is read as it is."""
UNAUTHORIZED, FORBIDDEN = 401, 403
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class Download(TypedDict, total=False):
    """How the Hub's client downloads; its options of the same names."""

    cache_dir: str | Path | None
    """Where downloads are kept."""
    token: str | bool | None
    """A token, True for the stored one, False for none."""
    local_files_only: bool
    """Take what is kept, and ask no network."""
    force_download: bool
    """Download what is kept once more."""


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
    if recipe is None:
        require(other is not None, f"{folder / CONFIG} does not name its data: give --data CLASS")
        recipe = {"init_args": {}}
    named = recipe | {"class": other or recipe.get("class")} if isinstance(recipe, dict) else {}
    fits = isinstance(named.get("class"), str) and isinstance(named.get("init_args"), dict)
    require(fits, f"data of {folder / CONFIG} must be a class with init_args, got {short(recipe)}")
    return named


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


def model_folder(
    model: str | Path, revision: str | None = None, org: str | None = None, **download: Unpack[Download]
) -> Path:
    """The folder itself, that of a slug in the checkout, or a download of a Hub repository.

    Args:
        model: Folder of a model or of a run that holds one, slug, or `owner/name`.
        revision: Branch, tag or commit on the Hub; of a slug by default the commit in the registry.
        org: Organisation on the Hub that holds slugs; by default that of the variable `ZOO_HUB_ORG`.
        download: Options of the Hub's client.

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
        inside = path / RUN_MODEL
        return inside if (inside / CONFIG).is_file() and not (path / CONFIG).is_file() else path
    if not named:
        if slug.count("/") != 1 or slug.startswith((".", "/", "~")):
            raise UsageError(f"no folder {slug!r}; a Hub repository would read owner/name")
        return _download(slug, revision, download)
    org = org or os.environ.get(ORGANISATION)
    require(
        org is not None or revision is None,
        f"revision belongs to a Hub repository: name it owner/{slug}, or set {ORGANISATION}",
    )
    if org is None:
        close = get_close_matches(slug, {*known, *(path.parent.name for path in shelf().glob(f"*/{CONFIG}"))})
        hint = f"did you mean {' or '.join(close)}?" if close else f"set {ORGANISATION} to look on the Hub"
        raise UsageError(f"no folder and no checkpoint {slug!r}: {hint}")
    entry = known.get(slug, {})
    folder = _download(f"{org}/{slug}", revision or entry.get("revisions", {}).get(org), download)
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


def _download(repo: str, revision: str | None, download: Download) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=[CONFIG, WEIGHTS, RESULTS, METRICS], **download
        )
    except (http_error(), errors.HFValidationError, errors.LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"no folder {repo!r}, and the Hub gave no repository of that name: {reason}"
        ) from error
    return Path(snapshot)


def upload(folder: Path, repo_id: str, token: str | None, private: bool | None, message: str) -> str:
    """Commit the files of a folder to a Hub repository, which is made if needed; the commit's address.

    Raises:
        UsageError: If there is no token, or the Hub refuses or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url)
    except errors.LocalTokenNotFoundError:
        raise UsageError("publishing needs a token: hf auth login, or the variable HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        raise UsageError(refusal(error, repo_id)) from error
    except (errors.HFValidationError, http_error(), ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"the Hub cannot be reached or does not take {repo_id}: {reason}") from error


def refusal(error: Any, name: str) -> str:
    """What the Hub's refusal to write to a name means, in a line."""
    status = error.response.status_code
    if status == UNAUTHORIZED:
        return "the Hub does not know the token: hf auth login, or the variable HF_TOKEN"
    if status == FORBIDDEN:
        return f"the token must be allowed to write to {name}, the Hub refuses it"
    return f"the Hub answers {status}: {str(error).splitlines()[0]}"


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a saved method: `class`, `init_args`, `data`, and the hashes of both files.

    Raises:
        UsageError: If there is none of this format, it is not what was saved, or the folder holds a pickle.
    """
    config = _parsed(folder)
    found, path = config["format"], folder / CONFIG
    require(found in (1, FORMAT), f"{path} must have format {FORMAT}, got {short(found)}")
    if found == FORMAT or SHA256 in config:
        saved, now = config.get(SHA256), _config_sha256(config)
        changed = not isinstance(saved, dict) or saved.get(CONFIG) != now
        require(not changed, f"{path} must be what was saved, its hash differs: {_accept(folder)}")
    return config


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Hold the bytes of the weights against the hash that was saved with them.

    Raises:
        UsageError: If they differ or are not there; says how to accept them.
    """
    path = folder / WEIGHTS
    require(path.is_file(), f"{folder} must hold {WEIGHTS}, found none")
    if SHA256 in config:
        same = config[SHA256].get(WEIGHTS) == sha256(path)
        require(same, f"{path} must be what was saved, its hash differs: {_accept(folder)}")


def seal(folder: str | Path) -> None:
    """Write the hashes of a saved method's files into its `config.json`: what is there counts as saved.

    Raises:
        UsageError: If there is no such method.
    """
    folder = Path(folder)
    config = _parsed(folder)
    require((folder / WEIGHTS).is_file(), f"{folder} must hold {WEIGHTS}, found none")
    write_json(folder / CONFIG, sealed(config, sha256(folder / WEIGHTS)))


def sealed(config: dict[str, Any], weights: str) -> dict[str, Any]:
    """A config with the hashes of itself and of the weights."""
    config = config | {"format": FORMAT}
    return config | {SHA256: {CONFIG: _config_sha256(config), WEIGHTS: weights}}


def _config_sha256(config: dict[str, Any]) -> str:
    """SHA-256 of all that a config says but its hashes."""
    rest = {name: value for name, value in config.items() if name != SHA256}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _accept(folder: Path) -> str:
    """How to accept files that were changed on purpose."""
    return f"""accept it by python -c "from zoo.hub import seal; seal('{folder}')\""""


def _parsed(folder: Path) -> dict[str, Any]:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    require(not pickles, f"{folder} must hold safetensors and JSON only, found {', '.join(pickles)}")
    path = folder / CONFIG
    require(path.is_file(), f"{folder} must hold {CONFIG}, found none")
    try:
        config = json.loads(path.read_text(), parse_float=_finite, parse_constant=_finite)
        _, name, arguments = config["format"], config["class"], config["init_args"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} must be JSON with format, class and init_args: {reason}") from error
    require(isinstance(name, str), f"class of {path} must be a name, got {short(name)}")
    require(isinstance(arguments, dict), f"init_args of {path} must be an object, got {short(arguments)}")
    return config


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {text[:20]}")
    return value
