"""Saved models: what is refused, and what comes back."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import MeanByDescent, files_up_to, tiny

import zoo
from zoo.contract.saved import save_pretrained, weights_sha256
from zoo.errors import UsageError
from zoo.hub import CONFIG, WEIGHTS, seal


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_pretrained(tiny("VAE"), tmp_path / "model")


def edit(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def argued(folder: Path, **changes) -> None:
    edit(folder, init_args=json.loads((folder / CONFIG).read_text())["init_args"] | changes)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["posterior_head.linear.bias"]
    save_file(tensors, folder / WEIGHTS)


def add_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"extra": torch.zeros(2)}, folder / WEIGHTS)


def reshape_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"posterior_head.linear.bias": torch.zeros(3)}, folder / WEIGHTS)


HUGE = 10**12
WRONG = {
    "tensor missing": (drop_a_tensor, "lacks posterior_head.linear.bias of VAE"),
    "tensor unknown": (add_a_tensor, "has unknown extra of VAE"),
    "tensor of another shape": (reshape_a_tensor, r"must have shape \(8,\), got \(3,\)"),
    "class unknown": (lambda f: edit(f, **{"class": "Evil"}), "must be one of .*, got 'Evil'"),
    "class is a path": (
        lambda f: edit(f, **{"class": "os.system"}),
        "must be one of .*, got 'os.system'",
    ),
    "argument unknown": (lambda f: edit(f, init_args={"depth": 3}), "do not fit VAE: .*depth"),
    "argument out of range": (lambda f: edit(f, init_args={"lr": -1.0}), "lr must be positive, got -1.0"),
    "units beyond all memory": (
        lambda f: argued(f, hidden_dims=[HUGE]),
        rf"must have shape \({HUGE},.*\), got \(16,",
    ),
    "units beyond all numbers": (lambda f: argued(f, hidden_dims=[HUGE**3]), "do not fit VAE: "),
    "as many layers": (lambda f: argued(f, hidden_dims=[16, HUGE]), "lacks .* of VAE"),
    "a list for a name": (
        lambda f: argued(f, activation=["tanh"]),
        r"activation in .* must be of type Literal\[.*\], got \('tanh',\)",
    ),
    "a name for a list": (lambda f: argued(f, hidden_dims="16"), r"of type tuple\[int, \.\.\.\], got '16'"),
    "a number for a name": (lambda f: argued(f, activation=3), "activation in .*, got 3"),
    "a truth for a number": (lambda f: argued(f, latent_dim=True), "latent_dim in .* of type int, got True"),
    "weights cut": (lambda f: os.truncate(f / WEIGHTS, 100), "must be a safetensors file"),
    "weights a pickle": (lambda f: torch.save({}, f / WEIGHTS), "must be a safetensors file"),
}
"""Folders whose hashes agree."""


@pytest.mark.parametrize("damage", WRONG)
def test_a_folder_that_is_no_method_is_refused_with_one_line(damage, saved):
    spoil, message = WRONG[damage]
    spoil(saved)
    seal(saved)
    with pytest.raises(UsageError, match=message) as caught:
        zoo.from_pretrained(saved)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


DAMAGE = {
    "other format": (lambda f: edit(f, format=99), "must have format 2, got 99"),
    "no hashes": (lambda f: edit(f, sha256=None), "config.json must be what was saved"),
    "hashes of another kind": (lambda f: edit(f, sha256=["ab"]), "config.json must be what was saved"),
    "an argument changed": (lambda f: argued(f, lr=0.5), "config.json must be what was saved"),
    "the format before, an argument changed": (
        lambda f: edit(f, format=1, init_args={"lr": 0.5}),
        "config.json must be what was saved",
    ),
    "arguments no object": (lambda f: edit(f, init_args=[1]), r"must be an object, got \[1\]"),
    "class a list": (
        lambda f: edit(f, **{"class": ["VAE"] * 999}),
        r"class of .* must be a name, got \['VAE",
    ),
    "config no JSON": (lambda f: (f / CONFIG).write_text("{"), "must be JSON"),
    "config too deep": (lambda f: (f / CONFIG).write_text("[" * 100_000), "must be JSON"),
    "config a number too long": (lambda f: (f / CONFIG).write_text("1" * 10_000), "must be JSON"),
    "not a number": (lambda f: argued(f, lr=float("nan")), "numbers must be finite, got NaN"),
    "config no object": (
        lambda f: (f / CONFIG).write_text("3"),
        "must be JSON with format, class and init_args",
    ),
    "config missing": (lambda f: (f / CONFIG).unlink(), "must hold config.json, found none"),
    "weights missing": (lambda f: (f / WEIGHTS).unlink(), "must hold model.safetensors, found none"),
    "a weight changed": (
        lambda f: flip(f / WEIGHTS, -8),
        r"model.safetensors must be what was saved, its hash differs: accept it by python -c .*seal\('",
    ),
    "weights cut": (lambda f: os.truncate(f / WEIGHTS, 100), "model.safetensors must be what was saved"),
    "pickle beside": (lambda f: torch.save({}, f / "model.pt"), "safetensors and JSON only, found model.pt"),
}


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_one_line(damage, saved):
    spoil, message = DAMAGE[damage]
    spoil(saved)
    with pytest.raises(UsageError, match=message) as caught:
        zoo.from_pretrained(saved)
    assert len(str(caught.value)) < 600


def test_what_was_changed_on_purpose_is_accepted_by_the_command_of_the_refusal(saved):
    tensors = load_file(saved / WEIGHTS)
    tensors["posterior_head.linear.bias"] += 1
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(UsageError) as caught:
        zoo.from_pretrained(saved)
    exec(str(caught.value).split('python -c "')[1].rstrip('"'), {})
    assert torch.equal(
        zoo.from_pretrained(saved).state_dict()["posterior_head.linear.bias"],
        tensors["posterior_head.linear.bias"],
    )


def test_a_folder_of_the_format_before_has_no_hashes_and_is_read(saved):
    config = json.loads((saved / CONFIG).read_text())
    del config["sha256"]
    (saved / CONFIG).write_text(json.dumps(config | {"format": 1}))
    assert weights_sha256(zoo.from_pretrained(saved)) == weights_sha256(tiny("VAE"))
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config\.json must be what was saved"):
        zoo.from_pretrained(saved)


class Reads(MeanByDescent):
    """A constructor that looks at the values of a tensor."""

    def __init__(self, image_shape=(1, 8, 8), lr: float = 0.5, steps: int = 3) -> None:
        super().__init__(image_shape, lr)
        self.save_hyperparameters()
        self.half = float(torch.linspace(0, 1, steps)[1])


def test_a_constructor_that_reads_its_tensors_loads(tmp_path):
    save_pretrained(Reads(), tmp_path)
    assert zoo.from_pretrained(tmp_path, code=Reads).half == 0.5


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
