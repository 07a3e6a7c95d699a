"""A run goes on as the run that it was, or one line says what differs."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import FIT, RECIPE

from zoo.scores.results import Results
from zoo.training.runs import MAY_CHANGE, RunLog, changed

SCORE = ["--score.num_samples=2", "--score.metrics=[log_prob]"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps(run: Path) -> int:
    return torch.load(run / "last.ckpt", weights_only=True)["global_step"]


@pytest.fixture
def run(digits_run, tmp_path) -> Path:
    """A copy of a finished run of three epochs."""
    return shutil.copytree(digits_run, tmp_path / "runs/vae-digits/version_0")


CONTRADICTIONS = {
    "data and seed": (
        ["--data.binarize=threshold", "--data.batch_size=500", "--seed_everything=7"],
        "seed_everything was 0, got 7; data.binarize was dynamic, got threshold; "
        "data.batch_size was 50, got 500",
    ),
    "labels": (["--data.labelled=20"], "data.labelled was None, got 20"),
    "other data": (["--data=ImageFolder", "--data.path=."], "data was zoo.data.Digits, got zoo.data."),
    "other method": (["--model=DAE"], "model was zoo.VAE, got zoo.DAE"),
    "model": (["--model.lr=0.5"], "model.lr was 0.001, got 0.5"),
    "precision": (["--trainer.precision=bf16-mixed"], "trainer.precision was None, got bf16-mixed"),
    "accumulation": (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches was 1, got 2"),
    "clipping": (["--trainer.gradient_clip_val=1.0"], "trainer.gradient_clip_val was None, got 1.0"),
    "strategy": (["--trainer.strategy=ddp"], "trainer.strategy was auto, got ddp"),
    "devices": (
        ["--trainer.devices=2", "--trainer.accelerator=cpu"],
        "a run must go on with as many processes as before, 1, got 2",
    ),
    "what is looked at": (["--score.every_n_epochs=1"], "score.every_n_epochs was 0, got 1"),
    "fewer epochs": (["--trainer.max_epochs=2"], "trainer.max_epochs must be at least 3, the epochs of "),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_other_settings_are_refused_in_one_line_and_nothing_is_written(what, run, zoo_here):
    options, message = CONTRADICTIONS[what]
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    more = ["--trainer.max_epochs=4", "--ckpt_path", str(run / "last.ckpt")]
    result = zoo_here("fit", *more, *options, cwd=run)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("zoo: error: ")]
    assert message in line
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_what_a_resumed_run_may_change_is_listed_in_one_place():
    old = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 3, "precision": None, "logger": None},
        "data": {"class_path": "A", "init_args": {"path": "x", "pad": 0, "before": 1}},
        "grids": {"side": 3},
    }
    new = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 9, "precision": None, "logger": {"class_path": "CSVLogger"}},
        "data": {"class_path": "A", "init_args": {"path": "y", "pad": 0, "since": 2}},
        "grids": {"side": 4},
    }
    assert not list(changed(old, new))
    new["data"]["init_args"]["pad"] = [1]
    assert list(changed(old, new)) == ["data.pad was 0, got [1]"]


def test_all_that_may_change_is_a_setting(run, zoo_here):
    printed = zoo_here(*FIT, "--print_config", cwd=run, check=True).stdout
    known = {name.strip().split(":")[0] for name in printed.splitlines()}
    assert {name.split(".")[-1] for name in MAY_CHANGE} - known == {"config", "path"}


def test_the_same_settings_go_on_and_all_else_may_change(run, zoo_here):
    more = ["--trainer.max_epochs=4", "--grids.side=3", "--trainer.enable_progress_bar=false", *SCORE]
    zoo_here("fit", "--ckpt_path", str(run / "last.ckpt"), *more, cwd=run, check=True)
    assert steps(run) == 4 * 26
    assert {row["epoch"] for row in rows(run) if row["train/loss"]} == {"0", "1", "2", "3"}
    best = max(float(row["val/elbo"]) for row in rows(run) if row["val/elbo"])
    callbacks = torch.load(run / "last.ckpt", weights_only=True)["callbacks"]
    (kept,) = [state for name, state in callbacks.items() if "val/elbo" in name]
    assert float(kept["best_model_score"]) == pytest.approx(best)
    assert kept["best_k_models"].keys() == {str(run / "best.ckpt")}


def test_a_finished_run_keeps_its_rows_and_says_that_nothing_is_left(run, zoo_here):
    before = rows(run)
    result = zoo_here(
        "fit", "--ckpt_path", str(run / "last.ckpt"), "--score.metrics=[kid]", cwd=run, check=True
    )
    assert "nothing left to train: 3 epochs are done of trainer.max_epochs: 3" in result.stdout
    training = [row for row in before if not row["test/kid"]]
    after = [row for row in rows(run) if not row["test/kid"]]
    assert [{key: row[key] for key in after[0]} for row in training] == after
    assert len(rows(run)) == len(before)
    assert steps(run) == 3 * 26


def test_a_log_is_whole_whenever_it_is_looked_at(tmp_path):
    """Nothing is deleted when it is opened, and a new column keeps the rows before it."""
    run = tmp_path / "runs/version_0"
    log = RunLog(run)
    log.log_metrics({"a": 1.0, "epoch": 0}, 0)
    again = RunLog(run)
    again.experiment  # noqa: B018
    assert [row["a"] for row in rows(run)] == ["1.0"]
    again.log_metrics({"b": 2.0, "epoch": 1}, 1)
    assert [(row["a"], row["b"]) for row in rows(run)] == [("1.0", ""), ("", "2.0")]
    again.keep_until(1)
    assert [row["a"] for row in rows(run)] == ["1.0"]
    again.keep_until(0)
    again.log_metrics({"c": 3.0, "epoch": 0}, 0)
    assert [dict(row) for row in rows(run)] == [{"c": "3.0", "epoch": "0", "step": "0"}]


def test_max_time_counts_from_the_start_of_each_fit(zoo_here, tmp_path):
    limit = ["--trainer.max_time", '{"milliseconds": 200}']
    words = ["fit", "--config", RECIPE, *SCORE, *limit]
    zoo_here(*words, cwd=tmp_path, check=True)
    run = tmp_path / "runs/vae-digits/version_0"
    first = steps(run)
    result = zoo_here(*words, "--ckpt_path=last", cwd=tmp_path, check=True)
    assert 0 < first < steps(run)
    assert "nothing left" not in result.stdout


def pictures(folder: Path) -> Path:
    folder.mkdir()
    stream = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(stream.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_a_run_on_pictures_goes_on_with_the_same_ones_wherever_they_lie(zoo_here, tmp_path):
    pictures(tmp_path / "here")
    (tmp_path / "own.yaml").write_text(
        "model: {class_path: VAE, init_args: {latent_dim: 4, hidden_dims: [16]}}\n"
        "data: {class_path: ImageFolder, init_args: {path: here, size: 8, grey: true, binarize: threshold}}\n"
    )
    words = ["fit", "--config", "own.yaml", *SCORE]
    zoo_here(*words, "--trainer.max_epochs=1", cwd=tmp_path, check=True)
    run, before = tmp_path / "runs/own/version_0", steps(tmp_path / "runs/own/version_0")
    (tmp_path / "here").rename(tmp_path / "there")
    more = [*words, "--data.path=there", "--ckpt_path=last", "--trainer.max_epochs=2"]
    zoo_here(*more, cwd=tmp_path, check=True)
    assert steps(run) == 2 * before
    for i in range(60):
        picture = Image.open(tmp_path / f"there/{i:02}.png")
        Image.eval(picture, lambda grey: 255 - grey).save(tmp_path / f"there/{i:02}.png")
    result = zoo_here(*more, cwd=tmp_path)
    assert result.returncode == 2
    assert "a run must go on with its own images, the training and test images of " in result.stderr
    assert steps(run) == 2 * before


def test_a_score_on_other_images_is_not_compared(run, zoo_here):
    record = run / "results.json"
    raw = json.loads(record.read_text())
    score = ["score", str(run / "model"), "--metrics", "reconstruction", "--num_samples=20"]
    assert "1 numbers agree with" in zoo_here(*score, cwd=run, check=True).stdout
    record.write_text(json.dumps(raw | {"data": raw["data"] | {"test_sha256": "ab" * 32}}))
    result = zoo_here(*score, cwd=run, check=True)
    assert f"not compared with {record}: it has other test images" in result.stdout
    assert "agree" not in result.stdout
    other = zoo_here(*score, "--metrics", "kid", "--num_images=9", cwd=run, check=True)
    assert "not compared with" in other.stdout


def test_a_record_is_not_written_over_by_a_score_on_other_images(run, zoo_here):
    before = (run / "results.json").read_bytes()
    words = ["test", "--ckpt_path", str(run / "last.ckpt"), "--data.draw_seed=1", *SCORE]
    result = zoo_here(*words, cwd=run)
    assert result.returncode == 2
    assert "results.json is the score on other test images: score.out must name another file" in result.stderr
    assert (run / "results.json").read_bytes() == before
    zoo_here(*words, "--score.out=other.json", cwd=run, check=True)
    both = zoo_here("compare", "results.json", "results.json", "other.json", cwd=run, check=True).stdout
    assert Results.read(run / "other.json").data != Results.read(run / "results.json").data
    assert "not the same test images: digits" not in both  # the seed of the draw is part of the protocol
