"""The verbs at hand: samples, films, scores, comparisons, lists."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import ROOT, tiny

import zoo
from zoo.contract.saved import save_pretrained
from zoo.pictures.grids import grid
from zoo.scores.results import Results


def test_sample_draws_the_same_images_for_the_same_seed(zoo_here, digits_run, tmp_path):
    model = str(digits_run / "model")
    for out in ("a.safetensors", "b.safetensors", "c.png"):
        zoo_here("sample", model, "--n=5", "--seed=7", f"--out={out}", cwd=tmp_path, check=True)
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
def test_a_film_shows_the_chain_from_its_first_state_to_the_sample(zoo_here, tmp_path, out):
    method = tiny("RBM")
    save_pretrained(method, tmp_path / "rbm")
    film = ["--film", "--frames=4", "--n=4", "--seed=3", *([] if out == "film.gif" else [f"--out={out}"])]
    zoo_here("sample", "rbm", *film, cwd=tmp_path, check=True)
    states = list(method.walk(4, generator=torch.Generator().manual_seed(3)))
    with Image.open(tmp_path / out) as picture:
        assert picture.n_frames == 4
        shown = []
        for i in range(4):
            picture.seek(i)
            shown.append(np.asarray(picture.convert("L")))
    for frame, i in zip(shown, (0, 3, 6, 9), strict=True):
        np.testing.assert_array_equal(frame, np.asarray(grid(states[i], 2)))


def test_what_has_no_chain_makes_no_film(zoo_here, digits_run, tmp_path):
    result = zoo_here("sample", str(digits_run / "model"), "--film", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("VAE has no chain to film")
    assert not list(tmp_path.iterdir())


def test_the_code_of_the_readme_runs(digits_run, monkeypatch, capsys):
    script = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(digits_run.parent.parent.parent)
    exec(script, {})
    assert capsys.readouterr().out.startswith("tensor(-2")


def test_compare_pairs_the_images(zoo_here, digits_run, tmp_path):
    again = tmp_path / "again.json"
    score = ["--score.num_samples=20", f"--score.out={again}"]
    zoo_here("test", f"--ckpt_path={digits_run / 'last.ckpt'}", *score, cwd=tmp_path, check=True)
    out = zoo_here("compare", str(digits_run / "results.json"), str(again), cwd=tmp_path, check=True).stdout
    one, two = load_file(digits_run / "results.safetensors"), load_file(again.with_suffix(".safetensors"))
    assert one["row"].tolist() == list(range(359))
    difference = two["elbo"] - one["elbo"]
    assert f"~ {difference.mean():+.2f} ± {difference.std() / 359**0.5:.2f}" in out
    raw = json.loads(again.read_text())
    again.write_text(json.dumps(raw | {"data": {"protocol": "other", "test_sha256": "0"}}))
    refused = zoo_here("compare", str(digits_run / "results.json"), str(again), cwd=tmp_path)
    assert refused.returncode == 2
    assert "both must score the same images" in refused.stderr


def test_compare_without_the_images_values_ends_with_one_line(zoo_here, digits_run, tmp_path):
    for name in ("a", "b"):
        shutil.copy(digits_run / "results.json", tmp_path / f"{name}.json")
    result = zoo_here("compare", "a.json", "b.json", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith(
        "a.json must have its images' values beside it, a.safetensors is missing"
    )


def test_compare_prints_any_number_side_by_side(zoo_here, digits_run, tmp_path):
    file = str(digits_run / "results.json")
    out = zoo_here("compare", file, file, file, cwd=tmp_path, check=True).stdout
    row = next(line for line in out.splitlines() if "log_prob_lower" in line)
    assert row.count(">= -") == 3
    assert "independent" in out


def test_score_needs_no_recipe_and_derives_every_number_again(zoo_here, digits_run, tmp_path):
    """As a published folder would be: the model and its numbers, and nothing else of the run."""
    shutil.copytree(digits_run / "model", tmp_path / "published")
    shutil.copy(digits_run / "results.json", tmp_path / "published/results.json")
    out = zoo_here("score", "published", "--num_samples=20", cwd=tmp_path, check=True).stdout
    count = len(Results.read(digits_run / "results.json").numbers)
    assert f"{count} numbers agree with published/results.json, 0 do not" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]
    other = zoo_here("score", "published", "--metrics", "fid", "--seed=1", cwd=tmp_path, check=True).stdout
    assert "0 numbers agree with published/results.json, 1 do not\n  test/fid: ~ " in other


def test_score_several_models_side_by_side_and_keep_the_files(zoo_here, digits_run, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(digits_run / "model", tmp_path / name)
    arguments = ["--metrics", "kid", "reconstruction", "--num_images=50", "--out=scores"]
    out = zoo_here("score", "one", "two", *arguments, cwd=tmp_path, check=True).stdout
    assert sorted(path.name for path in (tmp_path / "scores").glob("*.json")) == ["one.json", "two.json"]
    results = Results.read(tmp_path / "scores/one.json")
    assert set(results.numbers) == {"test/kid", "test/reconstruction_error"}
    last = out.split("side by side")[1]
    row = next(line for line in last.splitlines() if "kid (" in line)
    assert row.count(f"{results.numbers['test/kid']}") == 2
    assert "independent pixels" in last


def test_score_refuses_two_models_of_one_name_and_a_device_that_is_not_there(zoo_here, digits_run, tmp_path):
    model = str(digits_run / "model")
    result = zoo_here("score", model, model, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("models must have different names, got two of vae-digits-version_0")
    result = zoo_here("score", model, "--device=gpu", cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 2
    assert result.stderr.strip().startswith("zoo: error: device must be there, got gpu: ")


def test_score_asks_for_the_data_of_a_folder_that_does_not_name_it(zoo_here, digits_run, tmp_path):
    save_pretrained(zoo.from_pretrained(digits_run / "model"), tmp_path / "old")
    result = zoo_here("score", "old", "--metrics", "kid", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("old/config.json does not name its data: give --data CLASS")
    zoo_here("score", "old", "--metrics", "kid", "--data=Digits", cwd=tmp_path, check=True)
    result = zoo_here("score", "old", "--metrics", "kid", "--data=Evil", cwd=tmp_path)
    assert "data class must be one of Digits, " in result.stderr


def test_list_names_methods_and_recipes(zoo_here, tmp_path):
    out = zoo_here("list", cwd=tmp_path, check=True).stdout
    assert "Kingma, Welling. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114." in out
    assert "iwae50-2l-mnist" in out
    out = zoo_here("list", "--pattern=*mnist*", "--pretrained", cwd=tmp_path, check=True).stdout
    assert "vae-digits" not in out
    assert "iwae50-2l-mnist" not in out
    assert "vae-mnist" in out
    assert zoo.list_models("vae-f*") == ["vae-fashion-mnist", "vae-folder", "vae-frey"]


def test_data_show(zoo_here, tmp_path):
    out = zoo_here("data", "show", "Digits", cwd=tmp_path, check=True).stdout
    assert "digits 1x8x8 1295/143/359, dynamic (test drawn once, seed 0)" in out
    assert (tmp_path / "digits.png").is_file()
