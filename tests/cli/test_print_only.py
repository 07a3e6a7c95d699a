"""`zoo reproduce --print-only` knows how to train every recipe."""

import shlex
from pathlib import Path

import yaml

import zoo
from zoo.cli.light import run
from zoo.hub import recipe_files


def test_the_commands_of_all_recipes_are_printed_and_nothing_is_run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    slugs = zoo.list_models()
    run(["reproduce", *slugs, "--print-only"])
    lines = capsys.readouterr().out.splitlines()
    assert len(slugs) == len(lines) == len(recipe_files()) >= 40
    for slug, line in zip(slugs, lines, strict=True):
        python, dash_m, package, verb, *options = shlex.split(line)
        assert (python, dash_m, package, verb) == ("python", "-m", "zoo", "fit")
        given = dict(option.removeprefix("--").split("=", 1) for option in options)
        assert set(given) == {"config", "seed_everything", "trainer.default_root_dir", "trainer.accelerator"}
        assert Path(given["config"]).resolve() == recipe_files()[slug].resolve()
        assert yaml.safe_load(Path(given["config"]).read_text())["model"]["class_path"] in zoo.METHODS
        assert (given["seed_everything"], given["trainer.accelerator"]) == ("0", "cpu")
    assert not list(tmp_path.iterdir())
