"""The real Hub client against a server on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_hub import stand_in_hub
from support import ROOT, tiny

import zoo
from zoo.cli.light import run
from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.errors import UsageError
from zoo.hub import WEIGHTS
from zoo.publishing.upload import publish


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_pretrained(tiny("VAE"), tmp_path / "model")


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


@pytest.fixture
def client(site, tmp_path):
    """Run Python in a child process against a stand-in's settings; returns what it prints, line by line."""

    def call(settings: dict[str, str], script: str, *arguments: str) -> list[str]:
        env = os.environ | settings | {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(site)}
        preamble = (
            "import json, os, shutil, sys, zoo\n"
            "from pathlib import Path\n"
            "from zoo.errors import UsageError\n"
            "from zoo.contract.saved import weights_sha256\n"
            "from zoo.cli.light import run\n"
            "def refused(words):\n"
            "    try: run(words)\n"
            "    except UsageError as error: print(error)\n"
        )
        command = [sys.executable, "-c", preamble + script, *arguments]
        result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return call


@pytest.mark.hub
def test_what_a_model_pushes_comes_back_to_its_class_and_is_kept(client, tmp_path):
    method = tiny("VAE")
    method.save_pretrained(tmp_path / "mine")
    with stand_in_hub() as (store, settings):
        lines = client(
            settings,
            "print(zoo.VAE.from_pretrained('mine').push_to_hub('ours/mine', private=True))\n"
            "print(weights_sha256(zoo.VAE.from_pretrained('ours/mine', cache_dir='kept')))\n"
            "load = zoo.VAE.from_pretrained\n"
            "print(weights_sha256(load('ours/mine', cache_dir='kept', local_files_only=True)))\n"
            "try: load('ours/other', cache_dir='kept', local_files_only=True)\n"
            "except UsageError as error: print(error)\n",
        )
        assert [*store.repositories] == ["ours/mine"]
    assert "ours/mine" in lines[0]
    assert lines[1] == lines[2] == weights_sha256(method)
    assert lines[3].startswith("no folder 'ours/other', and the Hub gave no repository of that name")


@pytest.mark.hub
def test_what_is_published_comes_back_by_name_and_by_revision_bit_by_bit(five, site, client, tmp_path):
    shelf = shutil.copytree(five, tmp_path / "shelf")
    hashes = {path.name: weights_sha256(zoo.from_pretrained(path)) for path in sorted(shelf.iterdir())}
    with stand_in_hub() as (store, settings):
        lines = client(
            settings,
            "folders = sorted(str(path) for path in Path('shelf').iterdir())\n"
            "run(['publish', *folders, '--org', 'ours'])\n"
            "run(['publish', *folders, '--org', 'ours'])\n"
            "with open('shelf/vae-digits/README.md', 'a') as card: card.write('One line more.')\n"
            "run(['publish', 'shelf/vae-digits', '--org', 'ours'])\n"
            "shutil.rmtree('shelf')\n"
            "names = [Path(folder).name for folder in folders]\n"
            "load = zoo.from_pretrained\n"
            "print(json.dumps({name: weights_sha256(load(name, org='ours')) for name in names}))\n"
            "entries = json.loads((Path(zoo.__file__).parent / 'registry.json').read_text())\n"
            "pins = {name: entries[name]['revisions']['ours'] for name in names}\n"
            "print(json.dumps({name: weights_sha256(load(f'ours/{name}', pins[name])) for name in names}))\n"
            "print(json.dumps(pins))\n",
        )
        repositories = {name.split("/")[1]: repository for name, repository in store.repositories.items()}
    commits, unchanged = lines[:5], lines[6:11]
    assert all(": commit " in line for line in commits)
    assert all(line.endswith(": unchanged") for line in unchanged)
    assert lines[5] == lines[11] == lines[13]
    assert lines[5].startswith("collection: http://127.0.0.1")
    assert set(repositories) == set(hashes)
    assert [*store.collections.values()] == [[f"ours/{name}" for name in hashes]]
    assert {n: len(r.commits) for n, r in repositories.items()} == {
        n: 2 + (n == "vae-digits") for n in hashes
    }
    by_name, by_revision, pins = map(json.loads, lines[14:])
    assert by_name == by_revision == hashes
    assert pins == {name: repository.main for name, repository in repositories.items()}
    assert not list((tmp_path / "hf").rglob("README.md"))


@pytest.mark.hub
def test_weights_that_were_changed_on_the_hub_are_refused(five, client, tmp_path):
    with stand_in_hub() as (store, settings):
        store.changed.add(WEIGHTS)
        script = "run(['publish', sys.argv[1], '--org', 'ours'])\nrefused(['sample', 'pca-digits'])\n"
        *_, line = client(settings | {"ZOO_HUB_ORG": "ours"}, script, str(five / "pca-digits"))
        assert store.repositories["ours/pca-digits"].commits
    assert "must have the registry's SHA-256" in line
    assert not (tmp_path / "samples.png").exists()


@pytest.mark.hub
def test_a_pull_request_leaves_main_and_the_registry_alone(five, site, client):
    before = (site / "zoo/registry.json").read_bytes()
    with stand_in_hub() as (store, settings):
        lines = client(
            settings,
            "folder = sys.argv[1]\n"
            "run(['publish', folder, '--org', 'ours', '--create-pr', '--private'])\n"
            "refused(['publish', folder, '--org', 'theirs'])\n"
            "refused(['sample', 'someone/nothing'])\n"
            "os.environ['HF_TOKEN'] = 'hf_wrong'\n"
            "refused(['publish', folder, '--org', 'ours'])\n",
            str(five / "pca-digits"),
        )
        (repository,) = store.repositories.values()
    assert lines[0].startswith("ours/pca-digits: pull request http://127.0.0.1")
    assert "allowed to write to theirs" in lines[1]
    assert "no folder 'someone/nothing', and the Hub gave no repository of that name" in lines[2]
    assert "does not know the token" in lines[3]
    assert (repository.requests, len(repository.commits), repository.private) == (1, 1, True)
    assert not store.collections
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
        run(["publish", "pca-digits"])
    for words in (["--org", "ours"], ["pca-digits", "--all", "--org", "ours"]):
        with pytest.raises(UsageError, match="publish needs slugs or folders, or --all"):
            run(["publish", *words])


def test_a_slug_is_found_in_the_checkout_and_a_wrong_one_names_its_neighbours(monkeypatch):
    monkeypatch.delenv("ZOO_HUB_ORG", raising=False)
    method = zoo.from_pretrained("vae-digits")
    assert not method.training
    assert method.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(UsageError, match=r"did you mean .*vae-digits"):
        zoo.from_pretrained("vea-digits")
    assert "vae-digits" in zoo.list_models("*digits", pretrained=True)
    assert "iwae50-2l-mnist" not in zoo.list_models(pretrained=True)
