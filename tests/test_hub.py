"""Saved models: what is refused, and the real Hub client against a server on this machine."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file

import zoo
from zoo.errors import UsageError
from zoo.hub import CONFIG, WEIGHTS, save_pretrained, weights_sha256


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
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_pretrained(tiny("VAE", latent_dim=5), saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
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


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere", "a/b/c"])
def test_no_such_model(name):
    with pytest.raises(UsageError, match="no folder"):
        zoo.from_pretrained(name)


def test_a_revision_goes_with_a_repository_only(saved):
    with pytest.raises(UsageError, match="revision belongs to a Hub repository"):
        zoo.from_pretrained(saved, revision="main")


class Hub(BaseHTTPRequestHandler):
    """The reading half of a Hub: one repository, one commit."""

    files: dict[str, bytes] = {}
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "someone", "vae"]:
            siblings = [{"rfilename": name} for name in self.files]
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": self.etag(b)}
                for n, b in self.files.items()
            ]
            self.answer(
                json.dumps(
                    tree
                    if "tree" in parts
                    else {
                        "id": "someone/vae",
                        "sha": self.commit,
                        "siblings": siblings,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                    }
                ).encode()
            )
        elif parts[:3] == ["someone", "vae", "resolve"] and parts[4] in self.files:
            self.answer(self.files[parts[4]])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_HEAD(self):
        self.do_GET()

    def etag(self, body: bytes) -> str:
        return hashlib.sha256(body).hexdigest()

    def answer(self, body: bytes):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{self.etag(body)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.hub
def test_the_real_client_loads_from_a_server_and_says_when_there_is_no_such_repository(saved, tmp_path):
    Hub.files = {path.name: path.read_bytes() for path in saved.iterdir()} | {"notes.txt": b"not asked for"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import sys, torch, zoo\n"
        "from zoo.errors import UsageError\n"
        "from zoo.hub import weights_sha256\n"
        "print(weights_sha256(zoo.from_pretrained('someone/vae', revision='main')))\n"
        "try: zoo.from_pretrained('someone/nothing')\n"
        "except UsageError as error: print(error)\n"
    )
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    try:
        result = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
        server.server_close()
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == weights_sha256(zoo.from_pretrained(saved))
    assert second.startswith("no folder 'someone/nothing', and the Hub gave no repository of that name")
    assert not list((tmp_path / "hf").rglob("notes.txt"))
