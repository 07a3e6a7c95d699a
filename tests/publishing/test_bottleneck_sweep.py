"""The sweep over weights of the rate: its recipes, what it measures, what it trains and what it keeps."""

import importlib.util
import math

import pytest
import torch
import yaml
from support import ROOT, tiny

from zoo.contract.saved import save_pretrained
from zoo.data.sets import Digits
from zoo.hub import recipe_files

spec = importlib.util.spec_from_file_location("bottleneck", ROOT / "scripts/bottleneck.py")
bottleneck = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bottleneck)


def test_seven_weights_of_the_rate():
    assert len(bottleneck.BETAS) == 7
    assert list(bottleneck.BETAS) == sorted(bottleneck.BETAS)
    assert 1e-3 in bottleneck.BETAS


def test_a_recipe_at_another_beta_is_the_same_but_for_it_and_the_score(tmp_path):
    path = bottleneck.at_beta("vib-digits", 1e-5, tmp_path)
    found, before = yaml.safe_load(path.read_text()), yaml.safe_load(recipe_files()["vib-digits"].read_text())
    assert path.name == "vib_digits_beta_1e-05.yaml"
    assert found["model"]["init_args"].pop("beta") == 1e-5
    assert found.pop("score") == {"metrics": ["accuracy", "bottleneck"]}
    assert found == before


@torch.no_grad()
def test_a_point_is_the_error_and_the_bounds_in_bits():
    data = Digits(binarize="none")
    method, batch = tiny("VIB").eval(), data.split("test")
    before = torch.get_rng_state()
    point = bottleneck.measured(method, data, "test")
    assert torch.equal(before, torch.get_rng_state())
    assert point == bottleneck.measured(method, data, "test")
    q = method.believe(batch.x).posterior
    rate = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(1).double().mean()
    assert point.code == pytest.approx(float(rate) / math.log(2), rel=1e-5)
    log_q = method.classify_codes(q.mean)
    own = log_q.gather(1, batch.y[:, None]).double().mean()
    shares = batch.y.bincount() / len(batch.y)
    entropy = -float((shares * shares.log()).sum())
    assert point.label == pytest.approx((entropy + float(own)) / math.log(2), abs=0.01)
    wrong = 100 * float((log_q.argmax(1) != batch.y).double().mean())
    assert point.error == pytest.approx(wrong, abs=3)
    assert point.error_one == pytest.approx(wrong, abs=3)


def test_the_whole_is_trained_once_per_beta_and_seed_printed_and_drawn(tmp_path, monkeypatch, capsys):
    runs = []

    def run_one(training):
        runs.append((training.slug, training.seed))
        folder = training.root / training.slug
        method = tiny("VIB", beta=float(training.slug.rpartition("beta-")[2]))
        save_pretrained(method, folder / "model", Digits(binarize="none").recipe())
        return folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bottleneck, "run_one", run_one)
    words = ["bottleneck.py", "vib-digits", "--seeds", "2", "--betas", "0.1", "0.001", "--out", "drawn"]
    monkeypatch.setattr("sys.argv", words)
    bottleneck.main()
    slugs = ["vib-digits-beta-0.001", "vib-digits-beta-0.1"]
    assert runs == [(slug, seed) for slug in slugs for seed in (0, 1)]
    assert {path.name for path in (tmp_path / "drawn").glob("*.png")} == {
        "information_plane.png",
        "error.png",
        "information.png",
    }
    said = capsys.readouterr().out
    assert said.count("train") == said.count("test") == 2
    assert bottleneck._cell((1.0, 3.0)) == "2 ± 1.4"
    assert bottleneck._cell((2.0,)) == "2"


def test_what_is_finished_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(bottleneck.Training, "finished", property(lambda training: tmp_path / training.slug))
    monkeypatch.setattr(bottleneck, "run_one", lambda training: pytest.fail("trained again"))
    assert bottleneck.trained("vib-digits", 0.01, 3, tmp_path) == tmp_path / "vib-digits-beta-0.01"
