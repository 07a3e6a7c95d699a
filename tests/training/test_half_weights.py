"""Weights rounded to float16: what is scored is what is stored, in half of the bytes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import tiny, trainer

import zoo
from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.errors import UsageError
from zoo.hub import WEIGHTS, recipe_files
from zoo.training.callbacks import HalfWeights


def test_what_is_scored_is_what_is_stored(zoo_here, tmp_path):
    config = str(recipe_files()["vae-digits"])
    options = ["--trainer.max_epochs=1", "--trainer.callbacks+=HalfWeights", "--score.metrics=[log_prob]"]
    result = zoo_here("fit", "--config", config, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs/vae-digits/version_0"
    stored = load_file(run / "model" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    method = zoo.from_pretrained(run / "model")
    assert {tensor.dtype for tensor in method.state_dict().values()} == {torch.float32}
    assert json.loads((run / "results.json").read_text())["weights_sha256"] == weights_sha256(method)


def test_weights_come_back_exactly_and_take_half_of_the_bytes(tmp_path):
    method = tiny("VAE")
    whole = save_pretrained(method, tmp_path / "whole") / WEIGHTS
    assert {tensor.dtype for tensor in load_file(whole).values()} == {torch.float32}
    HalfWeights().on_test_start(trainer(), method)
    half = save_pretrained(method, tmp_path / "half") / WEIGHTS
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert weights_sha256(zoo.from_pretrained(half.parent)) == weights_sha256(method)


@torch.no_grad()
def test_weights_beyond_float16_are_refused_in_one_line():
    method = tiny("VAE")
    next(method.parameters()).fill_(1e6)
    with pytest.raises(UsageError, match=r"must lie within ±65504 to be rounded to float16"):
        HalfWeights().on_test_start(trainer(), method)
