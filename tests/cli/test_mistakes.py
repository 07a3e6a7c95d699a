"""Every mistake at the terminal ends in one line."""

import os
import sys

import pytest
import torch
from support import FIT, RECIPE

import zoo
from zoo.cli.main import main

MISTAKES = {
    "unknown verb": (
        ["fti"],
        "unknown verb 'fti': choose from fit, validate, test, predict, sample, repair, interpolate, traverse",
    ),
    "no config": (["fit"], "the following arguments are required: fit.data, fit.model"),
    "config missing": (["fit", "--config", "nope.yaml"], "File does not exist"),
    "config not YAML": (["fit", "--config", "broken.yaml"], "Problems parsing config"),
    "unknown key": ([*FIT, "--model.latent_dimm=3"], "Option 'latent_dimm' is not accepted"),
    "abbreviated key": ([*FIT, "--trainer.max_epoch=3"], "unrecognized arguments: --trainer.max_epoch=3"),
    "wrong type": ([*FIT, "--model.latent_dim=many"], '"latent_dim": Expected a int. Got value: many'),
    "wrong choice": ([*FIT, "--model.likelihood=bernouli"], "Expected one of ['bernoulli', "),
    "misspelt method": (
        [*FIT, "--model=VAEE"],
        f"unknown class VAEE, choose from {', '.join(sorted(zoo.METHODS))}",
    ),
    "misspelt data": ([*FIT, "--data=Digitz"], "unknown class Digitz, choose from Digits, "),
    "binary-only method on grey data": (
        [*FIT, "--data.binarize=none"],
        "VAE needs binary or pseudo pixels, the data are real",
    ),
    "dither and binarise": ([*FIT, "--data.dequantize=true"], "dequantize needs binarize: none"),
    "impossible shape": (
        [*FIT, "--model.image_shape=[1,0,8]"],
        "image_shape must be that of the data, (1, 8, 8)",
    ),
    "K = 0": ([*FIT, "--score.num_samples=0"], "num_samples must be at least 1, got 0"),
    "negative lr": ([*FIT, "--model.lr=-1"], "lr must be positive, got -1.0"),
    "no latents": ([*FIT, "--model.latent_dim=0"], "latent_dim must be at least 1, got 0"),
    "negative pad": ([*FIT, "--data.pad=-2"], "pad must not be negative, got -2"),
    "empty batches": ([*FIT, "--data.batch_size=0"], "batch_size must be at least 1, got 0"),
    "folder missing": (
        [*FIT, "--data=ImageFolder", "--data.path=nowhere"],
        "path must be a folder of images, got",
    ),
    "folder not given": ([*FIT, "--data=ImageFolder"], "the following arguments are required: path"),
    "folder without images": ([*FIT, "--data=ImageFolder", "--data.path=empty"], "found none in 'empty'"),
    "not an image": (
        [*FIT, "--data=ImageFolder", "--data.path=letters"],
        "must be an image that Pillow can read",
    ),
    "data not there": ([*FIT, "--data=MNIST"], "ylecun/mnist is not under ZOO_DATA (not set)"),
    "no such accelerator": (
        [*FIT, "--trainer.accelerator=tpu"],
        "the trainer cannot be set up: ",
    ),
    "half precision of all": (
        [*FIT, "--trainer.precision=bf16-true"],
        "trainer.precision must be 32-true, 16-mixed or bf16-mixed, got bf16-true",
    ),
    "barebones": ([*FIT, "--trainer.barebones=true"], "the trainer cannot be set up: "),
    "no TensorBoard": (
        [*FIT, "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=t"],
        "Neither `tensorboard` nor `tensorboardX` is available",
    ),
    "wrong precision": ([*FIT, "--trainer.precision=17"], "Given value: 17"),
    "score without weights": (["test", "--config", RECIPE], "test needs --ckpt_path FILE, last or best"),
    "checkpoint missing": (
        ["test", "--config", RECIPE, "--ckpt_path=x.ckpt"],
        "must be a file, last or best, got",
    ),
    "no earlier run": (
        [*FIT, "--ckpt_path=last"],
        "ckpt_path: last needs an earlier run, found none in runs/vae-digits",
    ),
    "checkpoint is none": ([*FIT, f"--ckpt_path={RECIPE}"], "ckpt_path must be a checkpoint of a fit"),
    "checkpoint is a pickle": ([*FIT, "--ckpt_path=evil.ckpt"], "ckpt_path must be a checkpoint of a fit"),
    "endless cosine": (
        ["fit", "--config", RECIPE, "--trainer.max_epochs=-1"],
        "cosine needs a positive trainer.max_epochs",
    ),
    "model missing": (["sample", "nowhere"], "no folder and no checkpoint 'nowhere': set ZOO_HUB_ORG"),
    "model misspelt": (
        ["sample", "vae-digit"],
        "no folder and no checkpoint 'vae-digit': did you mean vae-digits",
    ),
    "no such action": (["leaderboard", "pul"], "no folder and no checkpoint 'pul'"),
    "no such recipe": (["reproduce", "vae"], "slug must be a recipe (zoo list), got 'vae'"),
    "no images": (["sample", "nowhere", "--n=0"], "n must be at least 1, got 0"),
    "score of nothing": (["score"], "the following arguments are required: models"),
    "score of no model": (["score", "nowhere"], "no folder and no checkpoint 'nowhere'"),
    "unknown metric": (["score", "nowhere", "--metrics", "fidd"], "got fidd"),
    "score on K = 0": (["score", "nowhere", "--num_samples=0"], "num_samples must be at least 1, got 0"),
    "compare one": (["compare", "a.json"], "compare needs at least two results files, got 1"),
    "compare nothing": (["compare", "a.json", "b.json"], "results file a.json cannot be read"),
    "unknown format": (
        ["sample", "nowhere", "--out=x.gif"],
        "out must end in .png or .safetensors, got 'x.gif'",
    ),
    "unknown film": (
        ["sample", "nowhere", "--film", "--out=x.mp4"],
        "out must end in .gif or .png, got 'x.mp4'",
    ),
    "no frames": (["sample", "nowhere", "--film", "--frames=0"], "frames must be at least 1, got 0"),
    "no model given": (["sample"], "the following arguments are required: model"),
    "unknown data set": (
        ["data", "prepare", "CIFAR"],
        "data class must be one of Digits, FashionMNIST, FreyFaces,",
    ),
    "folder is a file": ([*FIT, "--trainer.default_root_dir=broken.yaml"], "Not a directory"),
}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with a few bad files in it."""
    (tmp_path / "broken.yaml").write_text("model: [1,\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.png").write_text("dear reader")
    torch.save({"state": Exploding()}, tmp_path / "evil.ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    return tmp_path


class Exploding:
    """A pickle that would write a file if anything loaded it."""

    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("ignore")
def test_a_mistake_ends_with_one_line_and_status_2(mistake, desk, capsys, monkeypatch):
    arguments, message = MISTAKES[mistake]
    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    before = sorted(path.name for path in desk.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo: error: ")]
    assert stopped.value.code == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert len(lines[0]) < 400
    after = sorted(path.name for path in desk.rglob("*") if path.name not in ("runs", "vae-digits"))
    assert after == before, "a mistake left files behind"
