"""Every recipe parses, trains two batches, and agrees with its module in name."""

import re

import pytest
import yaml
from PIL import Image
from support import ROOT

import zoo
from zoo.cli.main import main
from zoo.data.sets import facts_of
from zoo.hub import recipe_files

RECIPES = recipe_files()


@pytest.mark.parametrize("slug", sorted(RECIPES))
def test_names_agree_and_the_first_comment_states_the_expected_number(slug):
    path = RECIPES[slug]
    recipe = yaml.safe_load(path.read_text())
    method = recipe["model"]["class_path"]
    assert method in zoo.METHODS
    family, module = zoo.METHODS[method].split(".")[2:]
    assert path.parent.name == family
    data = {"class": recipe["data"]["class_path"], "init_args": recipe["data"].get("init_args", {})}
    assert re.fullmatch(rf"{module}\d*(_\w+)?_{facts_of(data).name}", path.stem)
    first = path.read_text().split("\nseed_everything")[0]
    assert first.startswith("# ")
    assert "EXPECTED" not in first
    assert re.search(r"\d", first)
    assert re.search(r"\b(dynamic|fixed|threshold|real|deq|pseudo)\b", first), "how pixels are treated"
    assert re.search(r"\b(min|s|h)\b", first), "the time it takes"
    assert set(recipe) <= {"seed_everything", "model", "data", "trainer", "score"}
    assert isinstance(recipe["seed_everything"], int)


@pytest.mark.parametrize("slug", sorted(RECIPES))
@pytest.mark.filterwarnings("ignore")
def test_a_trial_run_of_two_batches(slug, tmp_path, monkeypatch, mnist_mirror):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_DATA", str(mnist_mirror))
    (tmp_path / "folder").mkdir()  # what a recipe of one's own pictures calls them
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / f"folder/{i}.png")
    arguments = [
        "fit",
        "--config",
        str(RECIPES[slug]),
        "--trainer.fast_dev_run=2",
        "--trainer.accelerator=cpu",
    ]
    if "labelled:" in RECIPES[slug].read_text():
        arguments.append("--data.labelled=10")  # of the 300 images here
    monkeypatch.setattr("sys.argv", ["zoo", *arguments])
    main(arguments)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_full_schedule_of_the_paper_is_there():
    recipe = yaml.safe_load((ROOT / "configs/variational/iwae50_2l_mnist.yaml").read_text())
    arguments = recipe["model"]["init_args"]
    assert arguments["num_samples"] == 50
    assert arguments["latent_dims"] == [100, 50]
    assert arguments["hidden_dims"] == [200, 100]
    assert arguments["lr_schedule"] == "tripling_stages"
    assert recipe["trainer"]["max_epochs"] == 3280
    assert recipe["data"]["init_args"]["batch_size"] == 20
