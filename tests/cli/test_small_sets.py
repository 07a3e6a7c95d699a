"""Few pictures: a fit ends with a model, pictures and a score, or refuses in one line at its start."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ALL, settings, tiny, trainer

import zoo
from zoo.contract.capabilities import Decodes, Encodes, Reconstructs, Samples
from zoo.data.sets import Digits, ImageFolder
from zoo.errors import UsageError
from zoo.scores.classifiers import own_features
from zoo.scores.evaluation import Evaluator
from zoo.scores.results import Results

SIDE = 8
SIZES = {3: True, 30: False, 150: True}
"""Pictures in a folder, and whether they are grey."""
ALONE = "no batch may hold a single image, got one of 1 training images by data.batch_size: 100"
REFUSED = {
    (3, "GAN"): ALONE,
    (3, "InfoGAN"): ALONE,
    (3, "SGAN"): ALONE,
    (3, "VaDE"): "num_components must be at most the 1 training images, got 3",
    (3, "Hopfield"): "num_patterns must be at most the 1 training images, got 4",
    (3, "Walkback"): "the training images must differ from one another",
    (3, "GLO"): "GLO needs 2 training images for its prior, got 1",
}
"""What one training image is too few for."""


def draw(folder: Path, n: int, grey: bool) -> None:
    """Noise of two classes, a bright and a dark one."""
    stream = np.random.default_rng(n)
    for i in range(n):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        array = stream.integers(0, 256, (SIDE, SIDE) if grey else (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(array // (1 + 2 * (i % 2))).save(folder / "ab"[i % 2] / f"{i}.png")


@pytest.fixture
def folder_of(once, monkeypatch, cache):
    """The number of pictures to a folder with so many; the features of 150 are there."""
    monkeypatch.setenv("ZOO_CACHE", str(cache))

    def call(n: int) -> Path:
        folder = once(f"pictures-{n}", lambda folder: draw(folder, n, SIZES[n]))
        if n == 150:
            own_features(ImageFolder(str(folder), size=SIDE, grey=SIZES[n]))
        return folder

    return call


def pictures_of(kind: type) -> set[str]:
    able = {
        "samples.png": issubclass(kind, Samples),
        "reconstructions.png": issubclass(kind, Reconstructs),
        "interpolations.png": issubclass(kind, Encodes) and issubclass(kind, Decodes),
    }
    return {name for name in able if able[name]}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", SIZES)
def test_a_fit_on_few_pictures_ends_well(n, name, folder_of, zoo_here, tmp_path):
    folder = folder_of(n)
    accepted = tiny(name).accepts
    kind = next(kind for kind in ("deq", "real", "binary") if kind in accepted)
    treatment = {
        "deq": ["--data.dequantize=true"],
        "real": [],
        "binary": ["--data.binarize=dynamic"],
    }[kind]
    given = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings(name).items()}
    result = zoo_here(
        "fit",
        f"--model={name}",
        *(f"--model.{key}={value}" for key, value in given.items()),
        "--data=ImageFolder",
        f"--data.path={folder}",
        f"--data.size={SIDE}",
        f"--data.grey={str(SIZES[n]).lower()}",
        *treatment,
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--score.num_samples=3",
        "--grids.every_n_epochs=1",
        cwd=tmp_path,
    )
    runs = list((tmp_path / "runs").glob("*/*"))
    if refusal := REFUSED.get((n, name)):
        assert result.returncode == 2
        assert result.stderr.strip().splitlines()[-1].endswith(refusal)
        assert not runs
        return
    assert result.returncode == 0, result.stderr
    assert zoo.from_pretrained(runs[0] / "model").image_shape == (1 if SIZES[n] else 3, SIDE, SIDE)
    results = Results.read(runs[0] / "results.json")
    assert results.numbers
    assert all(number.finite for number in results.numbers.values())
    assert all(math.isfinite(value) for values in results.details.values() for value in values)
    assert not any("\n" in reason for reason in results.skipped.values())
    assert {path.name for path in runs[0].glob("*.png")} == pictures_of(zoo.method_class(name))


FIT_VAE = ["fit", "--model=VAE", "--model.latent_dim=2", "--model.hidden_dims=[4]", "--data=ImageFolder"]
FIT_VAE += [f"--data.size={SIDE}", "--data.grey=true", "--data.binarize=dynamic", "--trainer.max_epochs=1"]
FIT_VAE += ["--score.num_samples=3"]
MODEL = "runs/vae-imagefolder/version_0/model"


def test_what_follows_a_fit_on_three_pictures(folder_of, zoo_here, tmp_path):
    """One test image: it is walked from to itself, and a difference of one image has no error."""
    zoo_here(*FIT_VAE, f"--data.path={folder_of(3)}", cwd=tmp_path, check=True)
    run = tmp_path / MODEL
    results = str(run.parent / "results.json")
    for words in (
        ["interpolate", MODEL],
        ["nearest", MODEL],
        ["score", MODEL, "--num_samples=3"],
        ["predict", f"--ckpt_path={run.parent / 'last.ckpt'}"],
    ):
        zoo_here(*words, cwd=tmp_path, check=True)
    compared = zoo_here("compare", results, results, cwd=tmp_path, check=True).stdout
    assert "+0.00" in compared
    assert "inf" not in compared
    line = "zoo: error: principal directions need at least 2 images, got 1\n"
    assert zoo_here("traverse", MODEL, cwd=tmp_path).stderr == line


@pytest.mark.parametrize("place", ["zoo.training.callbacks.save_grid", "zoo.scores.evaluation.run_sections"])
def test_the_model_is_saved_before_it_is_drawn_and_scored(place, folder_of, zoo_here, tmp_path, monkeypatch):
    def broken(*_):
        raise UsageError("the disk is full of pictures")

    monkeypatch.setattr(place, broken)
    result = zoo_here(*FIT_VAE, f"--data.path={folder_of(30)}", "--data.grey=false", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "zoo: error: the disk is full of pictures\n")
    assert zoo.from_pretrained(tmp_path / MODEL).image_shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_pictures_are_refused(n, zoo_here, tmp_path):
    draw(tmp_path / "few", n, grey=True)
    result = zoo_here(*FIT_VAE, "--data.path=few", cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_last_batch_of_one_is_refused_by_batch_normalisation_alone(zoo_here, tmp_path):
    words = ["fit", "--model=GAN", "--data=Digits", "--data.batch_size=1294", "--trainer.fast_dev_run=1"]
    dcgan = ["--model.backbone=dcgan", "--model.channels=4", "--model.fc_dim=8"]
    line = "no batch may hold a single image, got one of 1295 training images by data.batch_size: 1294\n"
    assert zoo_here(*words, *dcgan, cwd=tmp_path).stderr.endswith(line)
    zoo_here(*words, *dcgan[:2], cwd=tmp_path, check=True)


def test_a_method_that_normalises_by_the_batch_is_scored_on_any_number(tmp_path):
    evaluator = Evaluator(num_images=20, metrics=["training_distance"], out=str(tmp_path / "results.json"))
    run = trainer(callbacks=[evaluator])
    run.test(tiny("GAN"), datamodule=Digits(batch_size=1294), verbose=False)
    assert evaluator.results is not None


def test_more_processes_than_batches_are_refused_before_any_starts(zoo_here, folder_of, tmp_path):
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    result = zoo_here(*FIT_VAE, f"--data.path={folder_of(150)}", *two, cwd=tmp_path)
    line = "the val split must give every process a batch of 100 images, got 15 images for 2 processes\n"
    assert result.returncode == 2
    assert result.stderr.endswith(line)
    assert not list(tmp_path.glob("runs/*/*"))
