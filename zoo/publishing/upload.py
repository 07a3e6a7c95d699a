"""Publishing checkpoints on the Hugging Face Hub: one atomic commit per model, none where nothing changed."""

import sys
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from zoo.errors import UsageError, require
from zoo.files import sha256, write_json
from zoo.hub import CONFIG, METRICS, REGISTRY, WEIGHTS, http_error, model_folder, refusal, registry
from zoo.publishing.checkpoints import CARD, DRAWS, SEEDS, TRAINING

NEEDED = {CONFIG, WEIGHTS, METRICS, TRAINING, CARD}
KNOWN = NEEDED | {DRAWS, SEEDS}
PICTURES = (".png", ".gif")
OF_THE_HUB = ".gitattributes"
COLLECTION = "zoo: the classic deep generative models"
ABOUT = "Trained, scored under one protocol, and loadable in one line."


def publish(models: Sequence[str], org: str, private: bool, create_pr: bool, dry_run: bool) -> None:
    """Publish checkpoints and list them in the organisation's collection.

    Args:
        models: Slugs or folders of checkpoints.
        org: Organisation or user.
        private: Make new repositories private.
        create_pr: Open pull requests instead of committing to main; nothing is pinned or collected.
        dry_run: Print what would be published, and touch no network.

    Raises:
        UsageError: If a folder is no complete checkpoint or holds other files, or the Hub refuses.
    """
    folders = [model_folder(model).resolve() for model in models]
    files = {folder.name: _files(folder) for folder in folders}
    if dry_run:
        for slug, paths in files.items():
            sys.stdout.write(f"{org}/{slug}\n")
            for path in paths:
                sys.stdout.write(f"  {path.stat().st_size:>9} {path.name}\n")
        return
    api = HfApi()
    try:
        for slug, paths in files.items():
            say, commit = _publish(api, f"{org}/{slug}", paths, private, create_pr)
            if commit:
                _pin(slug, org, commit, paths)
            sys.stdout.write(f"{org}/{slug}: {say}\n")
            sys.stdout.flush()
        if not create_pr:
            collection = api.create_collection(
                COLLECTION, namespace=org, description=ABOUT, private=private, exists_ok=True
            )
            for slug in files:
                api.add_collection_item(collection.slug, f"{org}/{slug}", "model", exists_ok=True)
            sys.stdout.write(f"collection: {collection.url}\n")
    except LocalTokenNotFoundError:
        raise UsageError("publishing needs a token: hf auth login, or the variable HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise UsageError(refusal(error, org)) from error
    except (HFValidationError, http_error(), ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"the Hub cannot be reached or does not take {org}: {reason}") from error


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint, by name."""
    paths = sorted(folder.iterdir())
    names = {path.name for path in paths}
    lacking = ", ".join(sorted(NEEDED - names))
    require(not lacking, f"a checkpoint must hold {', '.join(sorted(NEEDED))}; {folder} lacks {lacking}")
    others = ", ".join(p.name for p in paths if p.name not in KNOWN and p.suffix not in PICTURES)
    require(not others, f"a checkpoint holds nothing but its own files and pictures; {folder} has {others}")
    return paths


def _publish(
    api: HfApi, repo: str, paths: Sequence[Path], private: bool, create_pr: bool
) -> tuple[str, str | None]:
    """Commit what differs; returns what to say, and the commit at which main holds the files."""
    try:
        there = {entry.path: entry for entry in api.list_repo_tree(repo) if isinstance(entry, RepoFile)}
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private, exist_ok=True)
        there = {entry.path: entry for entry in api.list_repo_tree(repo) if isinstance(entry, RepoFile)}
    changed = [path for path in paths if not _same(path, there.get(path.name))]
    gone = there.keys() - {path.name for path in paths} - {OF_THE_HUB}
    if not changed and not gone:
        return "unchanged", api.model_info(repo).sha
    operations = [CommitOperationAdd(path.name, str(path)) for path in changed]
    removals = [CommitOperationDelete(name) for name in sorted(gone)]
    message = f"Publish {repo.split('/')[1]}"
    commit = api.create_commit(repo, [*operations, *removals], commit_message=message, create_pr=create_pr)
    if create_pr:
        return f"pull request {commit.pr_url}", None
    return f"commit {commit.oid}", commit.oid


def _same(path: Path, entry: RepoFile | None) -> bool:
    """Whether a file on the Hub has these bytes: by SHA-256 of large files, by git's hash of the others."""
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == sha256(path)
    content = path.read_bytes()
    return entry.blob_id == sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _pin(slug: str, org: str, commit: str, paths: Sequence[Path]) -> None:
    """Note the commit in the registry, if what was published is what the registry has."""
    entries = registry()
    hashes = {path.name: sha256(path) for path in paths if path.name in (CONFIG, WEIGHTS)}
    if entries.get(slug, {}).get("sha256") == hashes:
        entries[slug]["revisions"][org] = commit
        write_json(REGISTRY, entries)
