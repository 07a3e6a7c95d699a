"""Recipes trained and scored again, in a queue that can be interrupted."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from zoo.errors import UsageError
from zoo.hub import recipe_files
from zoo.publishing.checkpoints import CARD
from zoo.publishing.reproduce import Training, recipe_of, reproduce


def test_print_only_prints_the_command_that_trains(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    reproduce(["vae-digits"], seeds=2, budget="gpu", print_only=True)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"python -m zoo fit --config=\S+vae_digits.yaml --seed_everything=0 "
        r"--trainer.default_root_dir=runs/reproduce/seed_0 --trainer.accelerator=gpu",
        first,
    )
    assert "--seed_everything=1" in second
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("slug", "budget", "line"),
    [
        ("vae", "cpu", "slug must be a recipe .*, got 'vae'"),
        ("vae-digits", "paper", "vae-digits has no paper-sized recipe, such as vae-paper-digits"),
    ],
)
def test_a_recipe_that_is_not_there_is_one_line(slug, budget, line):
    with pytest.raises(UsageError, match=line):
        recipe_of(slug, budget)
    assert recipe_of("glo-mnist", "paper")[0] == "glo-paper-mnist"
    assert recipe_of("label-dbn-mnist", "paper")[0] == "label-dbn-paper-mnist"


def test_reproduce_goes_on_with_an_interrupted_run_and_keeps_a_finished_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/reproduce/seed_0/pca-digits/version_0")
    reproduce(["pca-digits"], out="shelf")
    assert "zoo fit" in capsys.readouterr().out
    card = Path("shelf/pca-digits", CARD).read_text()
    reproduce(["pca-digits"], out="shelf")
    assert "zoo fit" not in capsys.readouterr().out
    assert Path("shelf/pca-digits", CARD).read_text() == card
    shutil.rmtree(run / "model")
    reproduce(["pca-digits"], print_only=True)
    assert f"--ckpt_path={run}/last.ckpt" in capsys.readouterr().out


def test_a_run_of_another_recipe_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_files()["vae-digits"]
    settings = yaml.safe_load(recipe.read_text())
    settings["model"]["class_path"] = "zoo.VAE"
    run = tmp_path / "runs/reproduce/seed_0/vae-digits/version_0"
    run.mkdir(parents=True)
    training = Training("vae-digits", recipe, 0, "cpu")
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"wandb": False}))
    assert training.versions() == [run.relative_to(tmp_path)]
    settings["trainer"]["max_epochs"] += 1
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert training.versions() == []


def test_callbacks_of_a_run_are_read_by_their_last_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = recipe_files()["vlae-mnist"]
    settings = yaml.safe_load(recipe.read_text())
    run = tmp_path / "runs/reproduce/seed_0/vlae-mnist/version_0"
    run.mkdir(parents=True)
    training = Training("vlae-mnist", recipe, 0, "cpu")
    half, other = "zoo.training.callbacks.HalfWeights", "zoo.training.callbacks.Predictions"
    for callbacks, counts in (([half], True), ([other], False), ([half, other], False), (None, False)):
        settings["trainer"]["callbacks"] = callbacks and [{"class_path": name} for name in callbacks]
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        assert bool(training.versions()) == counts


def test_a_failed_training_ends_the_queue_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("in the way")
    with pytest.raises(UsageError, match="the training of pca-digits with seed 0 ended with status 2"):
        reproduce(["pca-digits"], out="shelf")
    assert not Path("shelf").exists()
