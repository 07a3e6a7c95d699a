"""A run that was killed and resumed is, to the bit, the run that was not."""

import csv
import inspect
import os
import signal
from pathlib import Path

import pytest
import torch
from killer import BreakError
from lightning.pytorch.callbacks import ModelCheckpoint
from support import ALL, suited_digits, tiny, trainer

import zoo
from zoo.contract.learning import ClosedForm
from zoo.hub import recipe_files


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {key: value for key, value in row.items() if value and not key.startswith("test/")} for row in rows
    ]


def assert_equal(one, two, where: str = "checkpoint") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for i, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert one == two, where


def assert_same_checkpoint(one: Path, two: Path) -> None:
    a, b = (torch.load(path, weights_only=True) for path in (one, two))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "stream_seed"):
        assert_equal(a[part], b[part], part)


INTERRUPTED = {
    "vae-digits": [],
    "gan-digits": [],
    "rbm-digits": ["--model.fast_lr=0.01", "--model.walk_steps=20"],
    "dae-digits": ["--model.pretrain_epochs=2", "--model.walk_steps=5", "--model.emit_steps=5"],
    "glo-digits": ["--model.encode_steps=2"],
    "dbn-digits": ["--model.pretrain_epochs=[2,1]", "--model.num_starts=5", "--model.walk_steps=20"],
    "diffusion-digits": ["--model.num_steps=5", "--model.schedule=learnt"],
}
"""A recipe of every way to keep state between epochs, made cheap to score."""
SCORE = "--score.metrics=[fid,kid,log_prob]"
"""Quick, and looked at while training."""
KILLED = {"vae-digits", "gan-digits", "dbn-digits"}
"""A descent, a game, and one that has changed its phase: these end by SIGKILL in a process of their own."""


def assert_same_run(one: Path, two: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        if (one / name).exists() or (two / name).exists():
            assert_same_checkpoint(one / name, two / name)
    assert read(one) == read(two)
    weights = "model/model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()


def assert_nothing_is_half_written(folder: Path) -> None:
    assert not (folder / "results.json").exists()
    assert not [name for name in os.listdir(folder) if name.startswith(".")], "a half-written file was left"


@pytest.mark.slow
@pytest.mark.parametrize("slug", INTERRUPTED)
def test_interrupted_in_mid_epoch_then_resumed_equals_the_straight_run(slug, zoo_here, zoo_cli, tmp_path):
    common = ["fit", "--config", str(recipe_files()[slug]), "--trainer.max_epochs=4", *INTERRUPTED[slug]]
    common += ["--trainer.check_val_every_n_epoch=1", "--score.every_n_epochs=1", SCORE]
    zoo_here(*common, cwd=tmp_path, check=True)
    straight = tmp_path / f"runs/{slug}/version_0"
    assert (straight / "best.ckpt").is_file()

    if slug in KILLED:
        kill = ["--trainer.callbacks+=killer.KillInEpoch", "--trainer.callbacks.epoch=2"]
        assert zoo_cli(*common, *kill, cwd=tmp_path).returncode == -signal.SIGKILL
    else:
        stop = ["--trainer.callbacks+=killer.BreakInEpoch", "--trainer.callbacks.epoch=2"]
        with pytest.raises(BreakError):
            zoo_here(*common, *stop, cwd=tmp_path)
    stopped = tmp_path / f"runs/{slug}/version_1"
    assert torch.load(stopped / "last.ckpt", weights_only=True)["epoch"] == 1
    assert_nothing_is_half_written(stopped)

    zoo_here(*common, "--ckpt_path=last", cwd=tmp_path, check=True)
    assert not (tmp_path / f"runs/{slug}/version_2").exists()
    assert_same_run(straight, stopped)


@pytest.mark.slow
def test_a_closed_form_killed_in_its_one_pass_starts_again_and_equals_the_straight_run(
    zoo_here, zoo_cli, tmp_path
):
    common = ["fit", "--config", str(recipe_files()["pca-digits"]), SCORE]
    common += ["--data.batch_size=100"]
    runs = "runs/pca-digits"
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    zoo_here(*common, cwd=tmp_path / "straight", check=True)
    kill = ["--trainer.callbacks+=killer.KillInEpoch", "--trainer.callbacks.epoch=0"]
    assert zoo_cli(*common, *kill, cwd=tmp_path / "killed").returncode == -signal.SIGKILL
    assert_nothing_is_half_written(tmp_path / "killed" / runs / "version_0")
    resumed = zoo_here(*common, "--ckpt_path=last", cwd=tmp_path / "killed")
    assert resumed.returncode == 2
    assert "ckpt_path: last needs an earlier run" in resumed.stderr
    zoo_here(*common, cwd=tmp_path / "killed", check=True)
    assert_same_run(tmp_path / "straight" / runs / "version_0", tmp_path / "killed" / runs / "version_1")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("name", ALL)
def test_every_method_resumes_exactly(name, tmp_path):
    cls = zoo.method_class(name)
    options = {"lr_schedule": "constant"} if "lr_schedule" in inspect.signature(cls).parameters else {}

    def fit(epochs: int, folder: str, ckpt_path=None) -> Path:
        keep = ModelCheckpoint(tmp_path / folder, filename="last", save_on_train_epoch_end=True)
        fitting = trainer(
            max_epochs=epochs, enable_checkpointing=True, callbacks=[keep], limit_train_batches=5
        )
        torch.manual_seed(0)
        method = tiny(name, **options)
        fitting.fit(method, datamodule=suited_digits(method), ckpt_path=ckpt_path)
        return tmp_path / folder / "last.ckpt"

    straight = fit(4, "straight")
    half = fit(2, "resumed")
    assert torch.load(half, weights_only=True)["epoch"] == (0 if issubclass(cls, ClosedForm) else 1)
    assert_same_checkpoint(straight, fit(4, "resumed", half))


def test_a_checkpoint_that_contradicts_the_config_is_refused(zoo_here, digits_run):
    result = zoo_here(
        "test", f"--ckpt_path={digits_run / 'best.ckpt'}", "--model.latent_dim=7", cwd=digits_run.parent
    )
    assert result.returncode == 2
    assert "model.latent_dim was 16, got 7" in result.stderr


def test_the_checkpoint_alone_is_enough_to_score_again(zoo_here, digits_run, tmp_path):
    out = tmp_path / "again.json"
    zoo_here(
        "test",
        f"--ckpt_path={digits_run / 'best.ckpt'}",
        "--score.num_samples=20",
        f"--score.out={out}",
        cwd=tmp_path,
        check=True,
    )
    from zoo.scores.results import Results

    first, again = Results.read(digits_run / "results.json"), Results.read(out)
    assert first.numbers == again.numbers
    assert first.weights_sha256 == again.weights_sha256
    assert first.data == again.data
