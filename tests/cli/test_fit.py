"""The person at the terminal: a fit leaves what the house promises, and its checkpoints go on."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import FIT, files_up_to

import zoo
from zoo.scores.results import SCHEMA, Results


def test_a_full_disk_ends_with_one_line_and_no_half_written_file(zoo_here, tmp_path):
    """A checkpoint has 290 kB."""
    with files_up_to(100_000):
        result = zoo_here(*FIT, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("zoo: error: File too large: ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_fit_leaves_everything_the_house_promises(digits_run):
    names = {"config.yaml", "metrics.csv", "last.ckpt", "best.ckpt", "results.json", "samples.png", "model"}
    assert names <= {path.name for path in digits_run.iterdir()}
    results = Results.read(digits_run / "results.json")
    likelihood = {
        "log_prob_lower",
        "elbo",
        "rate",
        "distortion",
        "bits_per_dim",
        "ess_median",
        "ess_below_10",
    }
    samples = {"fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "parzen"}
    codes = {
        "probe_accuracy",
        "knn_accuracy_5",
        "cluster_accuracy_hungarian",
        "nmi",
        "ari",
        "mutual_information",
    }
    rest = {"active_units", "reconstruction_error", "class_distance", "marginal_kl"}
    assert {f"test/{name}" for name in likelihood | samples | codes | rest} <= set(results.numbers)
    for name, number in results.numbers.items():
        assert number.unit
        assert str(number.protocol).startswith("digits 1x8x8")
        if name.removeprefix("test/") in likelihood:
            treated = "digits 1x8x8 1295/143/359, dynamic (test drawn once, seed 0); 359 images"
            assert str(number.protocol).startswith(treated)
    for name in samples - {"parzen"}:
        assert "digits-cnn-128@" in results.numbers[f"test/{name}"].protocol.how
    for floor in ("train", "independent_pixels"):
        assert {f"test/{name}" for name in samples} <= set(results.floors[floor])
    assert "test/probe_accuracy" in results.floors["raw_pixels"]
    assert "VAE has not that capability" in results.skipped["csl"]
    assert results.seconds.keys() >= {"per_image", "fid", "parzen"}
    assert results.peak_memory_mb > 50
    assert "K=20 samples" in results.numbers["test/log_prob_lower"].protocol.how
    value = {name: number.value for name, number in results.numbers.items()}
    assert value["test/log_prob_lower"] >= value["test/elbo"]
    assert value["test/rate"] + value["test/distortion"] == pytest.approx(-value["test/elbo"])
    assert results.numbers["test/bits_per_dim"].side.value == "<="
    assert value["test/bits_per_dim"] == pytest.approx(-value["test/log_prob_lower"] / (64 * np.log(2)))
    assert results.train_seconds
    assert results.hardware
    raw = json.loads((digits_run / "results.json").read_text())
    assert raw["schema"] == SCHEMA
    assert raw["numbers"]["test/log_prob_lower"]["side"] == ">="
    with Image.open(digits_run / "samples.png") as picture:
        assert np.asarray(picture).std() > 10


def test_a_damaged_results_file_is_refused(digits_run, tmp_path):
    raw = json.loads((digits_run / "results.json").read_text())
    for change in ({"schema": 7}, {"surprise": 1}, {"numbers": {"test/x": {"value": 1}}}, {"numbers": 3}):
        (tmp_path / "r.json").write_text(json.dumps(raw | change))
        with pytest.raises(zoo.errors.UsageError, match=r"r\.json"):
            Results.read(tmp_path / "r.json")


def test_the_saved_model_is_the_one_that_was_scored(digits_run):
    from zoo.contract.saved import weights_sha256

    model = zoo.from_pretrained(digits_run / "model")
    assert weights_sha256(model) == Results.read(digits_run / "results.json").weights_sha256
    best = torch.load(digits_run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(best[name], value) for name, value in model.state_dict().items())


def test_a_second_run_gets_a_folder_of_its_own(zoo_here, digits_run):
    cwd = digits_run.parent.parent.parent
    before = {path.name: path.stat().st_mtime_ns for path in digits_run.iterdir()}
    zoo_here(*FIT, cwd=cwd, check=True)
    assert (digits_run.parent / "version_1/results.json").is_file()
    assert {path.name: path.stat().st_mtime_ns for path in digits_run.iterdir()} == before


def test_predict_writes_codes_and_reconstructions(zoo_here, digits_run):
    zoo_here("predict", f"--ckpt_path={digits_run / 'best.ckpt'}", cwd=digits_run, check=True)
    written = load_file(digits_run / "predictions.safetensors")
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        "row": (359,),
        "y": (359,),
        "code": (359, 16),
        "reconstruction": (359, 1, 8, 8),
    }
    assert written["row"].tolist() == list(range(359))


def test_validate_prints_the_validation_terms(zoo_here, digits_run):
    result = zoo_here("validate", f"--ckpt_path={digits_run / 'best.ckpt'}", cwd=digits_run, check=True)
    assert "val/elbo" in result.stdout


def test_print_config_is_a_config(zoo_here, tmp_path):
    printed = zoo_here(*FIT, "--print_config", cwd=tmp_path, check=True).stdout
    (tmp_path / "again.yaml").write_text(printed)
    again = zoo_here("fit", "--config", "again.yaml", "--print_config", cwd=tmp_path, check=True).stdout
    assert printed == again
    assert "limit_train_batches" in printed


def test_one_batch_means_one_batch(zoo_here, tmp_path):
    zoo_here(*FIT, "--trainer.limit_train_batches=1", cwd=tmp_path, check=True)
    assert torch.load(tmp_path / "runs/vae-digits/version_0/last.ckpt", weights_only=True)["global_step"] == 1


def test_a_folder_of_pictures_trains_with_only_a_yaml(zoo_here, tmp_path):
    stream = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(60):
        height, width = stream.integers(10, 60, 2)
        array = stream.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(array).convert("RGB" if i % 2 else "L").save(tmp_path / f"photos/{i}.png")
    (tmp_path / "photos.yaml").write_text(
        "model:\n  class_path: VAE\n"
        "  init_args: {likelihood: gaussian_learned, latent_dim: 4, hidden_dims: [16]}\n"
        "data:\n  class_path: ImageFolder\n"
        "  init_args: {path: photos, size: 16, dequantize: true}\n"
        "trainer: {max_epochs: 2}\nscore: {num_samples: 5}\n"
    )
    zoo_here("fit", "--config", "photos.yaml", cwd=tmp_path, check=True)
    folder = tmp_path / "runs/photos/version_0"
    results = Results.read(folder / "results.json")
    assert re.match(r"own:photos@[0-9a-f]{8} 3x16x16 49/9/2 ", results.data["protocol"])
    assert results.numbers["test/bits_per_dim"].value > 0
    assert zoo.from_pretrained(folder / "model").sample(2).shape == (2, 3, 16, 16)
