"""The person at the terminal: the first five minutes, and every mistake in one line."""

import json
import os
import pty
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny
from PIL import Image
from safetensors.torch import load_file

import zoo
from zoo.cli.main import main
from zoo.contract.saved import save_pretrained
from zoo.pictures.grids import grid
from zoo.scores.results import SCHEMA, Results

RECIPE = str(ROOT / "configs/variational/vae_digits.yaml")
FIT = ["fit", "--config", RECIPE, "--trainer.max_epochs=1", "--score.num_samples=3"]

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
        "VAE needs binary pixels, the data are real",
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
        ["data", "prepare", "--name=CIFAR"],
        "Expected one of ['Digits', 'MNIST', 'FashionMNIST']",
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


def test_a_mistake_in_a_real_process_has_no_traceback(zoo_cli, tmp_path):
    result = zoo_cli(*FIT, "--model.lr=-1", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip() == "zoo: error: lr must be positive, got -1.0"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_with_one_line_and_no_half_written_file(tmp_path):
    """The kernel refuses files above 100 kB; a checkpoint has 290 kB."""
    result = subprocess.run(
        [sys.executable, "-m", "zoo", *FIT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("zoo: error: File too large: ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_run_that_is_no_longer_finite_ends_with_status_1_and_keeps_its_checkpoint(zoo_cli, tmp_path):
    zoo_cli(*FIT, cwd=tmp_path, check=True)
    last = tmp_path / "runs/vae-digits/version_0/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["posterior_head.linear.bias"].fill_(float("nan"))
    poisoned = tmp_path / "poisoned/last.ckpt"
    poisoned.parent.mkdir()
    torch.save(checkpoint, poisoned)
    result = zoo_cli(*FIT, "--trainer.max_epochs=2", f"--ckpt_path={poisoned}", cwd=tmp_path)
    assert result.returncode == 1
    assert "zoo: error: training stopped: loss = nan" in result.stderr
    assert "Traceback" not in result.stderr


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
        assert number.protocol.startswith("digits 1x8x8")
        if name.removeprefix("test/") in likelihood:
            treated = "digits 1x8x8 1295/143/359, dynamic (test drawn once, seed 0); 359 images"
            assert number.protocol.startswith(treated)
    for name in samples - {"parzen"}:
        assert "digits-cnn-128@" in results.numbers[f"test/{name}"].protocol
    for floor in ("train", "independent_pixels"):
        assert {f"test/{name}" for name in samples} <= set(results.floors[floor])
    assert "test/probe_accuracy" in results.floors["raw_pixels"]
    assert "VAE has not that capability" in results.skipped["csl"]
    assert results.seconds.keys() >= {"per_image", "fid", "parzen"}
    assert results.peak_memory_mb > 50
    assert "K=20 samples" in results.numbers["test/log_prob_lower"].protocol
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


def test_a_second_run_gets_a_folder_of_its_own(zoo_cli, digits_run):
    cwd = digits_run.parent.parent.parent
    before = {path.name: path.stat().st_mtime_ns for path in digits_run.iterdir()}
    zoo_cli(*FIT, cwd=cwd, check=True)
    assert (digits_run.parent / "version_1/results.json").is_file()
    assert {path.name: path.stat().st_mtime_ns for path in digits_run.iterdir()} == before


def test_sample_draws_the_same_images_for_the_same_seed(zoo_cli, digits_run, tmp_path):
    model = str(digits_run / "model")
    for out in ("a.safetensors", "b.safetensors", "c.png"):
        zoo_cli("sample", model, "--n=5", "--seed=7", f"--out={out}", cwd=tmp_path, check=True)
    one, two = (
        load_file(tmp_path / "a.safetensors")["images"],
        load_file(tmp_path / "b.safetensors")["images"],
    )
    assert torch.equal(one, two)
    assert one.shape == (5, 1, 8, 8)
    here = zoo.from_pretrained(model).sample(5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(one, here)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.mode == "L"


@pytest.mark.parametrize("out", ["film.gif", "film.png"])
def test_a_film_shows_the_chain_from_its_first_state_to_the_sample(zoo_cli, tmp_path, out):
    method = tiny("RBM")
    save_pretrained(method, tmp_path / "rbm")
    film = ["--film", "--frames=4", "--n=4", "--seed=3", *([] if out == "film.gif" else [f"--out={out}"])]
    zoo_cli("sample", "rbm", *film, cwd=tmp_path, check=True)
    states = list(method.walk(4, generator=torch.Generator().manual_seed(3)))
    with Image.open(tmp_path / out) as picture:
        assert picture.n_frames == 4
        shown = []
        for i in range(4):
            picture.seek(i)
            shown.append(np.asarray(picture.convert("L")))
    for frame, i in zip(shown, (0, 3, 6, 9), strict=True):
        np.testing.assert_array_equal(frame, np.asarray(grid(states[i], 2)))


def test_what_has_no_chain_makes_no_film(zoo_cli, digits_run, tmp_path):
    result = zoo_cli("sample", str(digits_run / "model"), "--film", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("VAE has no chain to film")
    assert not list(tmp_path.iterdir())


def test_predict_writes_codes_and_reconstructions(zoo_cli, digits_run):
    zoo_cli("predict", f"--ckpt_path={digits_run / 'best.ckpt'}", cwd=digits_run, check=True)
    written = load_file(digits_run / "predictions.safetensors")
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        "row": (359,),
        "y": (359,),
        "code": (359, 16),
        "reconstruction": (359, 1, 8, 8),
    }
    assert written["row"].tolist() == list(range(359))


def test_validate_prints_the_validation_terms(zoo_cli, digits_run):
    result = zoo_cli("validate", f"--ckpt_path={digits_run / 'best.ckpt'}", cwd=digits_run, check=True)
    assert "val/elbo" in result.stdout


def test_at_a_terminal_a_bar_shows_the_elbo(tmp_path):
    """The child's standard streams are a pseudo-terminal."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "zoo", *FIT, "--trainer.max_epochs=5"]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    child = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"COLUMNS": "160"}, **streams)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the last writer has closed the terminal
            break
        if not part:
            break
        shown += part
    os.close(screen)
    assert child.wait(60) == 0, shown.decode(errors="replace")
    assert b"Epoch 4/4" in shown
    assert b"train/elbo: -" in shown
    assert b"it/s" in shown


def test_the_code_of_the_readme_runs(digits_run):
    script = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    cwd = digits_run.parent.parent.parent
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("tensor(-2")


def test_compare_pairs_the_images(zoo_cli, digits_run, tmp_path):
    again = tmp_path / "again.json"
    score = ["--score.num_samples=20", f"--score.out={again}"]
    zoo_cli("test", f"--ckpt_path={digits_run / 'last.ckpt'}", *score, cwd=tmp_path, check=True)
    out = zoo_cli("compare", str(digits_run / "results.json"), str(again), cwd=tmp_path, check=True).stdout
    one, two = load_file(digits_run / "results.safetensors"), load_file(again.with_suffix(".safetensors"))
    assert one["row"].tolist() == list(range(359))
    difference = two["elbo"] - one["elbo"]
    assert f"{difference.mean():+.2f} ± {difference.std() / 359**0.5:.2f}" in out
    raw = json.loads(again.read_text())
    again.write_text(json.dumps(raw | {"data": {"protocol": "other", "test_sha256": "0"}}))
    refused = zoo_cli("compare", str(digits_run / "results.json"), str(again), cwd=tmp_path)
    assert refused.returncode == 2
    assert "both must score the same images" in refused.stderr


def test_compare_without_the_images_values_ends_with_one_line(zoo_cli, digits_run, tmp_path):
    for name in ("a", "b"):
        shutil.copy(digits_run / "results.json", tmp_path / f"{name}.json")
    result = zoo_cli("compare", "a.json", "b.json", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith(
        "a.json must have its images' values beside it, a.safetensors is missing"
    )


def test_compare_prints_any_number_side_by_side(zoo_cli, digits_run, tmp_path):
    file = str(digits_run / "results.json")
    out = zoo_cli("compare", file, file, file, cwd=tmp_path, check=True).stdout
    row = next(line for line in out.splitlines() if "log_prob_lower" in line)
    assert row.count(">= -") == 3
    assert "independent" in out


def test_score_needs_no_recipe_and_derives_every_number_again(zoo_cli, digits_run, tmp_path):
    """As a published folder would be: the model and its numbers, and nothing else of the run."""
    shutil.copytree(digits_run / "model", tmp_path / "published")
    shutil.copy(digits_run / "results.json", tmp_path / "published/results.json")
    out = zoo_cli("score", "published", "--num_samples=20", cwd=tmp_path, check=True).stdout
    count = len(Results.read(digits_run / "results.json").numbers)
    assert f"{count} numbers agree with published/results.json, 0 do not" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]
    other = zoo_cli("score", "published", "--metrics", "fid", "--seed=1", cwd=tmp_path, check=True).stdout
    assert "0 numbers agree with published/results.json, 1 do not\n  test/fid: ~ " in other


def test_score_several_models_side_by_side_and_keep_the_files(zoo_cli, digits_run, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(digits_run / "model", tmp_path / name)
    arguments = ["--metrics", "kid", "reconstruction", "--num_images=50", "--out=scores"]
    out = zoo_cli("score", "one", "two", *arguments, cwd=tmp_path, check=True).stdout
    assert sorted(path.name for path in (tmp_path / "scores").glob("*.json")) == ["one.json", "two.json"]
    results = Results.read(tmp_path / "scores/one.json")
    assert set(results.numbers) == {"test/kid", "test/reconstruction_error"}
    last = out.split("side by side")[1]
    row = next(line for line in last.splitlines() if "kid (" in line)
    assert row.count(f"{results.numbers['test/kid']}") == 2
    assert "independent pixels" in last


def test_score_refuses_two_models_of_one_name_and_a_device_that_is_not_there(zoo_cli, digits_run, tmp_path):
    model = str(digits_run / "model")
    result = zoo_cli("score", model, model, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("models must have different names, got two of vae-digits-version_0")
    result = zoo_cli("score", model, "--device=gpu", cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 2
    assert result.stderr.strip().startswith("zoo: error: device must be there, got gpu: ")


def test_score_asks_for_the_data_of_a_folder_that_does_not_name_it(zoo_cli, digits_run, tmp_path):
    shutil.copytree(digits_run / "model", tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    del config["data"]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    result = zoo_cli("score", "old", "--metrics", "kid", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("old/config.json does not name its data: give --data CLASS")
    zoo_cli("score", "old", "--metrics", "kid", "--data=Digits", cwd=tmp_path, check=True)
    result = zoo_cli("score", "old", "--metrics", "kid", "--data=Evil", cwd=tmp_path)
    assert "data class must be one of Digits, " in result.stderr


def test_list_names_methods_and_recipes(zoo_cli, tmp_path):
    out = zoo_cli("list", cwd=tmp_path, check=True).stdout
    assert "Kingma, Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114." in out
    assert "iwae50-2l-mnist" in out
    out = zoo_cli("list", "--pattern=*mnist*", "--pretrained", cwd=tmp_path, check=True).stdout
    assert "vae-digits" not in out
    assert "iwae50-2l-mnist" not in out
    assert "vae-mnist" in out
    assert zoo.list_models("vae-*") == ["vae-digits", "vae-fashion-mnist", "vae-mnist"]


def test_data_show(zoo_cli, tmp_path):
    out = zoo_cli("data", "show", "--name=Digits", cwd=tmp_path, check=True).stdout
    assert "digits 1x8x8 1295/143/359, dynamic (test drawn once, seed 0)" in out
    assert (tmp_path / "digits.png").is_file()


def test_print_config_is_a_config(zoo_cli, tmp_path):
    printed = zoo_cli(*FIT, "--print_config", cwd=tmp_path, check=True).stdout
    (tmp_path / "again.yaml").write_text(printed)
    again = zoo_cli("fit", "--config", "again.yaml", "--print_config", cwd=tmp_path, check=True).stdout
    assert printed == again
    assert "limit_train_batches" in printed


def test_one_batch_means_one_batch(zoo_cli, tmp_path):
    zoo_cli(*FIT, "--trainer.limit_train_batches=1", cwd=tmp_path, check=True)
    assert torch.load(tmp_path / "runs/vae-digits/version_0/last.ckpt", weights_only=True)["global_step"] == 1


def test_light_verbs_answer_at_once_and_import_nothing_heavy():
    loaded = "print([m for m in sys.modules if m in ('torch', 'lightning', 'numpy')])"
    script = f"import sys; from zoo.cli.main import main; main(['--help'])\n{loaded}"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.endswith(
        "[]\n"
    )
    for arguments in (["--help"], ["sample", "--help"], ["list", "--help"], ["data", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "zoo", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    script = f"import sys, zoo; {loaded}"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_a_folder_of_pictures_trains_with_only_a_yaml(zoo_cli, tmp_path):
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
        "  init_args: {path: photos, size: 16, binarize: none, dequantize: true}\n"
        "trainer: {max_epochs: 2}\nscore: {num_samples: 5}\n"
    )
    zoo_cli("fit", "--config", "photos.yaml", cwd=tmp_path, check=True)
    folder = tmp_path / "runs/photos/version_0"
    results = Results.read(folder / "results.json")
    assert "photos 3x16x16 " in results.data["protocol"]
    assert results.numbers["test/bits_per_dim"].value > 0
    assert zoo.from_pretrained(folder / "model").sample(2).shape == (2, 3, 16, 16)


def test_two_processes_train_and_score_as_one(zoo_cli, tmp_path):
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    zoo_cli(*FIT, *two, "--data.batch_size=25", cwd=tmp_path, check=True)
    folder = tmp_path / "runs/vae-digits/version_0"
    assert not (folder.parent / "version_1").exists()
    both = Results.read(folder / "results.json")
    assert both.hardware.startswith("2 processes on ")
    out = str(tmp_path / "one.json")
    again = [
        "--score.num_samples=3",
        "--trainer.devices=1",
        "--trainer.strategy=auto",
    ]
    zoo_cli(
        "test", f"--ckpt_path={folder / 'best.ckpt'}", *again, f"--score.out={out}", cwd=tmp_path, check=True
    )
    one = Results.read(out)
    assert one.weights_sha256 == both.weights_sha256
    assert one.numbers.keys() == both.numbers.keys()
    for name, number in one.numbers.items():
        assert number.value == pytest.approx(both.numbers[name].value, rel=1e-9), name
    assert one.floors == both.floors


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_by_one_flag(zoo_cli, tmp_path):
    zoo_cli(*FIT, "--wandb=zoo-tests", cwd=tmp_path, check=True, env={"WANDB_MODE": "offline"})
    folder = tmp_path / "runs/vae-digits/version_0"
    assert (folder / "metrics.csv").is_file()
    (file,) = folder.rglob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    flat = Results.read(folder / "results.json").flat()
    assert {key: found["summary"][key] for key in flat} == flat


def test_wandb_is_not_imported_unless_asked(tmp_path):
    script = f"import sys; from zoo.cli.main import main\nmain({FIT!r})\nprint('wandb' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.splitlines()[-1] == "False", result.stderr
