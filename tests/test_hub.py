"""Saved models: what is refused, and the real Hub client against a server on this machine."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny
from safetensors.torch import load_file, save_file
from stand_in_hub import stand_in_hub

import zoo
from zoo import verbs
from zoo.errors import UsageError
from zoo.hub import CONFIG, WEIGHTS, save_pretrained, weights_sha256
from zoo.publishing import publish


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_pretrained(tiny("VAE"), tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["posterior_head.linear.bias"]
    save_file(tensors, folder / WEIGHTS)


def add_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"extra": torch.zeros(2)}, folder / WEIGHTS)


def reshape_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"posterior_head.linear.bias": torch.zeros(3)}, folder / WEIGHTS)


DAMAGE = {
    "tensor missing": (drop_a_tensor, "lacks posterior_head.linear.bias of VAE"),
    "tensor unknown": (add_a_tensor, "has unknown extra of VAE"),
    "tensor of another shape": (reshape_a_tensor, r"must have shape \(8,\), got \(3,\)"),
    "class unknown": (lambda f: edit(f, **{"class": "Evil"}), "must be one of .*, got 'Evil'"),
    "class is a path": (
        lambda f: edit(f, **{"class": "os.system"}),
        "must be one of .*, got 'os.system'",
    ),
    "other format": (lambda f: edit(f, format=99), "must have format 1, got 99"),
    "argument unknown": (lambda f: edit(f, init_args={"depth": 3}), "do not fit VAE: .*depth"),
    "argument out of range": (lambda f: edit(f, init_args={"lr": -1.0}), "lr must be positive, got -1.0"),
    "arguments no object": (lambda f: edit(f, init_args=[1]), r"must be an object, got \[1\]"),
    "config no JSON": (lambda f: (f / CONFIG).write_text("{"), "must be JSON"),
    "config no object": (
        lambda f: (f / CONFIG).write_text("3"),
        "must be JSON with format, class and init_args",
    ),
    "config missing": (lambda f: (f / CONFIG).unlink(), "must hold config.json, found none"),
    "weights missing": (lambda f: (f / WEIGHTS).unlink(), "must hold model.safetensors, found none"),
    "weights cut": (lambda f: os.truncate(f / WEIGHTS, 100), "must be a safetensors file"),
    "weights a pickle": (lambda f: torch.save({}, f / WEIGHTS), "must be a safetensors file"),
    "pickle beside": (lambda f: torch.save({}, f / "model.pt"), "safetensors and JSON only, found model.pt"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_one_line(damage, saved):
    spoil, message = DAMAGE[damage]
    spoil(saved)
    with pytest.raises(UsageError, match=message) as caught:
        zoo.from_pretrained(saved)
    assert len(str(caught.value)) < 400


def test_saving_leaves_nothing_but_the_model_and_can_be_repeated(saved):
    first = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert sorted(first) == [CONFIG, WEIGHTS]
    save_pretrained(zoo.from_pretrained(saved), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == first


def test_a_full_disk_leaves_the_old_model_whole(saved):
    """The kernel refuses to write more than 4 kB per file."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_pretrained(tiny("VAE", latent_dim=5), saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.filename == str(saved / WEIGHTS)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_loading_takes_nothing_from_the_global_stream(saved):
    before = torch.get_rng_state()
    zoo.from_pretrained(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_the_hash_of_the_weights_tells_weights_apart():
    one, two = tiny("VAE"), tiny("VAE")
    assert weights_sha256(one) == weights_sha256(two)
    with torch.no_grad():
        two.pixels.mean_logits.linear.bias[0] += 1e-6
    assert weights_sha256(one) != weights_sha256(two)


def test_tuples_survive_json(saved):
    assert zoo.from_pretrained(saved).hparams_initial["hidden_dims"] == (16,)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere", "a/b/c"])
def test_no_such_model(name):
    with pytest.raises(UsageError, match="no folder"):
        zoo.from_pretrained(name)


def test_a_revision_goes_with_a_repository_only(saved):
    with pytest.raises(UsageError, match="revision belongs to a Hub repository"):
        zoo.from_pretrained(saved, revision="main")


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    """A few small checkpoints of the repository, to be published and lost."""
    root = tmp_path_factory.mktemp("shelf")
    for slug in ("pca-digits", "vae-digits", "rbm-digits", "glo-digits", "gan-digits"):
        shutil.copytree(ROOT / "checkpoints" / slug, root / slug)
    return root


@pytest.fixture
def site(tmp_path) -> Path:
    """The package on its own, as pip installs it: no checkout around it, its registry is free to change."""
    shutil.copytree(ROOT / "zoo", tmp_path / "site/zoo", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


@pytest.mark.hub
def test_what_is_published_comes_back_by_name_and_by_revision_bit_by_bit(five, site, zoo_cli, tmp_path):
    shelf = shutil.copytree(five, tmp_path / "shelf")
    hashes = {path.name: weights_sha256(zoo.from_pretrained(path)) for path in shelf.iterdir()}
    folders = [str(path) for path in sorted(shelf.iterdir())]
    with stand_in_hub() as (store, settings):
        env = settings | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(site)}
        first = zoo_cli("publish", *folders, "--org", "ours", cwd=tmp_path, env=env, check=True)
        assert first.stdout.count(": commit ") == len(folders)
        assert "collection: " in first.stdout
        assert {name.split("/")[1] for name in store.repositories} == set(hashes)
        assert [*store.collections.values()] == [[f"ours/{path.name}" for path in sorted(shelf.iterdir())]]
        again = zoo_cli("publish", *folders, "--org", "ours", cwd=tmp_path, env=env, check=True)
        assert again.stdout.count(": unchanged") == len(folders)
        assert all(len(repository.commits) == 2 for repository in store.repositories.values())

        pinned = {
            slug: entry["revisions"]["ours"]
            for slug, entry in json.loads((site / "zoo/registry.json").read_text()).items()
            if slug in hashes
        }
        assert pinned == {slug: store.repositories[f"ours/{slug}"].main for slug in hashes}
        card = shelf / "vae-digits/README.md"
        card.write_text(card.read_text() + "\nOne line more.\n")
        zoo_cli("publish", str(card.parent), "--org", "ours", cwd=tmp_path, env=env, check=True)
        assert len(store.repositories["ours/vae-digits"].commits) == 3

        shutil.rmtree(shelf)
        script = (
            "import json, sys, zoo\n"
            "from zoo.hub import weights_sha256\n"
            "revisions = json.loads(sys.argv[1])\n"
            "by_name = {s: weights_sha256(zoo.from_pretrained(s, org='ours')) for s in revisions}\n"
            "by_revision = {\n"
            "  s: weights_sha256(zoo.from_pretrained(f'ours/{s}', r)) for s, r in revisions.items()}\n"
            "print(json.dumps([by_name, by_revision]))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, json.dumps(pinned)],
            env=os.environ | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == [hashes, hashes]
        assert not list((tmp_path / "hf").rglob("README.md"))


@pytest.mark.hub
def test_weights_that_were_changed_on_the_hub_are_refused(five, site, zoo_cli, tmp_path):
    with stand_in_hub() as (store, settings):
        env = settings | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(site), "ZOO_HUB_ORG": "ours"}
        zoo_cli("publish", str(five / "pca-digits"), cwd=tmp_path, env=env, check=True)
        files = store.repositories["ours/pca-digits"].commits[store.repositories["ours/pca-digits"].main]
        weights = files[WEIGHTS]
        files[WEIGHTS] = weights[:-1] + bytes([weights[-1] ^ 1])
        result = zoo_cli("sample", "pca-digits", cwd=tmp_path, env=env)
        assert result.returncode == 2
        assert "must have the registry's SHA-256" in result.stderr
        assert not (tmp_path / "samples.png").exists()


@pytest.mark.hub
def test_a_pull_request_leaves_main_and_the_registry_alone(five, site, zoo_cli, tmp_path):
    before = (site / "zoo/registry.json").read_bytes()
    with stand_in_hub() as (store, settings):
        env = settings | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(site)}
        arguments = ("publish", str(five / "pca-digits"), "--org", "ours")
        result = zoo_cli(*arguments, "--create-pr", "--private", cwd=tmp_path, env=env, check=True)
        assert "pull request http://127.0.0.1" in result.stdout
        (repository,) = store.repositories.values()
        assert (repository.requests, len(repository.commits), repository.private) == (1, 1, True)
        assert not store.collections
        refused = zoo_cli(*arguments, cwd=tmp_path, env=env | {"HF_TOKEN": "hf_wrong"})
        assert refused.returncode == 2
        assert "does not know the token" in refused.stderr
        theirs = zoo_cli(*arguments[:2], "--org", "theirs", cwd=tmp_path, env=env)
        assert theirs.returncode == 2
        assert "allowed to write to theirs" in theirs.stderr
    assert (site / "zoo/registry.json").read_bytes() == before


def test_a_dry_run_prints_files_and_touches_no_network(five, capsys):
    publish([str(five / "pca-digits")], "ours", False, False, True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ours/pca-digits"
    assert {line.split()[1] for line in lines[1:]} == {path.name for path in (five / "pca-digits").iterdir()}
    sizes = {line.split()[1]: int(line.split()[0]) for line in lines[1:]}
    assert sizes[WEIGHTS] == (five / "pca-digits" / WEIGHTS).stat().st_size


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / "README.md").unlink(), "lacks README.md"),
        (lambda folder: (folder / "notes.txt").write_text("mine"), "pictures; .* has notes.txt"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_not_published(change, line, five, tmp_path):
    folder = shutil.copytree(five / "pca-digits", tmp_path / "pca-digits")
    change(folder)
    with pytest.raises(UsageError, match=line):
        publish([str(folder)], "ours", False, False, True)


def test_publish_without_an_organisation_or_a_model_is_one_line(monkeypatch):
    monkeypatch.delenv("ZOO_HUB_ORG", raising=False)
    with pytest.raises(UsageError, match="publish needs --org NAME"):
        verbs.run(["publish", "pca-digits"])
    for words in (["--org", "ours"], ["pca-digits", "--all", "--org", "ours"]):
        with pytest.raises(UsageError, match="publish needs slugs or folders, or else --all"):
            verbs.run(["publish", *words])


def test_a_slug_is_found_in_the_checkout_and_a_wrong_one_names_its_neighbours(monkeypatch):
    monkeypatch.delenv("ZOO_HUB_ORG", raising=False)
    method = zoo.from_pretrained("vae-digits")
    assert not method.training
    assert method.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(UsageError, match=r"did you mean .*vae-digits"):
        zoo.from_pretrained("vea-digits")
    assert "vae-digits" in zoo.list_models("*digits", pretrained=True)
    assert "iwae50-2l-mnist" not in zoo.list_models(pretrained=True)


@pytest.mark.hub
def test_the_real_client_says_when_there_is_no_such_repository(tmp_path, zoo_cli):
    with stand_in_hub() as (_, settings):
        env = settings | {"HF_HOME": str(tmp_path / "hf")}
        result = zoo_cli("sample", "someone/nothing", cwd=tmp_path, env=env)
    assert result.returncode == 2
    assert "no folder 'someone/nothing', and the Hub gave no repository of that name" in result.stderr
