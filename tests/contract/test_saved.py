"""Saved models: what is refused, and what comes back."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import files_up_to, tiny

import zoo
from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.errors import UsageError
from zoo.hub import CONFIG, WEIGHTS


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_pretrained(tiny("VAE"), tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["posterior_head.linear.bias"]
    save_file(tensors, folder / WEIGHTS)


def add_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"extra": torch.zeros(2)}, folder / WEIGHTS)


def reshape_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"posterior_head.linear.bias": torch.zeros(3)}, folder / WEIGHTS)


DAMAGE = {
    "tensor missing": (drop_a_tensor, "lacks posterior_head.linear.bias of VAE"),
    "tensor unknown": (add_a_tensor, "has unknown extra of VAE"),
    "tensor of another shape": (reshape_a_tensor, r"must have shape \(8,\), got \(3,\)"),
    "class unknown": (lambda f: edit(f, **{"class": "Evil"}), "must be one of .*, got 'Evil'"),
    "class is a path": (
        lambda f: edit(f, **{"class": "os.system"}),
        "must be one of .*, got 'os.system'",
    ),
    "other format": (lambda f: edit(f, format=99), "must have format 1, got 99"),
    "argument unknown": (lambda f: edit(f, init_args={"depth": 3}), "do not fit VAE: .*depth"),
    "argument out of range": (lambda f: edit(f, init_args={"lr": -1.0}), "lr must be positive, got -1.0"),
    "arguments no object": (lambda f: edit(f, init_args=[1]), r"must be an object, got \[1\]"),
    "config no JSON": (lambda f: (f / CONFIG).write_text("{"), "must be JSON"),
    "config no object": (
        lambda f: (f / CONFIG).write_text("3"),
        "must be JSON with format, class and init_args",
    ),
    "config missing": (lambda f: (f / CONFIG).unlink(), "must hold config.json, found none"),
    "weights missing": (lambda f: (f / WEIGHTS).unlink(), "must hold model.safetensors, found none"),
    "weights cut": (lambda f: os.truncate(f / WEIGHTS, 100), "must be a safetensors file"),
    "weights a pickle": (lambda f: torch.save({}, f / WEIGHTS), "must be a safetensors file"),
    "pickle beside": (lambda f: torch.save({}, f / "model.pt"), "safetensors and JSON only, found model.pt"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_one_line(damage, saved):
    spoil, message = DAMAGE[damage]
    spoil(saved)
    with pytest.raises(UsageError, match=message) as caught:
        zoo.from_pretrained(saved)
    assert len(str(caught.value)) < 400


def test_saving_leaves_nothing_but_the_model_and_can_be_repeated(saved):
    first = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert sorted(first) == [CONFIG, WEIGHTS]
    save_pretrained(zoo.from_pretrained(saved), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == first


def test_a_full_disk_leaves_the_old_model_whole(saved):
    """The kernel refuses to write more than 4 kB per file."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match="File too large") as caught, files_up_to(4096):
        save_pretrained(tiny("VAE", latent_dim=5), saved)
    assert caught.value.filename == str(saved / WEIGHTS)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_loading_takes_nothing_from_the_global_stream(saved):
    before = torch.get_rng_state()
    zoo.from_pretrained(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_the_hash_of_the_weights_tells_weights_apart():
    one, two = tiny("VAE"), tiny("VAE")
    assert weights_sha256(one) == weights_sha256(two)
    with torch.no_grad():
        two.pixels.mean_logits.linear.bias[0] += 1e-6
    assert weights_sha256(one) != weights_sha256(two)


def test_tuples_survive_json(saved):
    assert zoo.from_pretrained(saved).hparams_initial["hidden_dims"] == (16,)
