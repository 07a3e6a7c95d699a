"""The suite's own tools: a command in this process leaves no trace, and every method has its test file."""

import logging
import os
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ALL, FIT, TESTS, files_up_to, settings


def traces() -> dict[str, object]:
    """What a command line sets for its whole process."""
    return {
        "argv": list(sys.argv),
        "folder": Path.cwd(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "levels": [logging.getLogger(f"lightning.{part}").level for part in ("pytorch", "fabric")],
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
        ),
        "streams": (
            random.getstate(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
            torch.get_rng_state().tolist(),
        ),
        "gradients": torch.is_grad_enabled(),
        "streams of the process": (sys.stdout, sys.stderr),
    }


@pytest.mark.parametrize("words", [FIT, [*FIT, "--model.lr=-1"], ["list"]], ids=["fit", "mistake", "list"])
def test_a_command_in_this_process_leaves_no_trace(words, zoo_here, tmp_path):
    before = traces()
    result = zoo_here(*words, cwd=tmp_path, env={"WANDB_MODE": "disabled"})
    assert result.returncode == (2 if "--model.lr=-1" in words else 0)
    assert traces() == before


def test_a_command_in_this_process_says_what_a_process_says(zoo_here, zoo_cli, tmp_path):
    for words in (["list", "--pattern=vae-*"], ["sample", "nowhere"], ["--version"]):
        one, two = zoo_here(*words, cwd=tmp_path), zoo_cli(*words, cwd=tmp_path)
        assert one == (two.returncode, two.stdout, two.stderr)


def test_a_full_disk_is_one_for_as_long_as_it_is_asked_for(tmp_path):
    with files_up_to(10), pytest.raises(OSError, match="File too large"):
        (tmp_path / "a").write_bytes(bytes(11))
    (tmp_path / "a").write_bytes(bytes(11))


def test_every_method_brings_its_test_file_and_nothing_else_has_small_settings():
    from zoo.methods import METHODS

    modules = {METHODS[name].rsplit(".", 1)[1] for name in ALL}
    with_settings = {
        path.stem.removeprefix("test_")
        for path in (TESTS / "methods").glob("test_*.py")
        if "\nTINY" in path.read_text()
    }
    assert with_settings == modules
    assert all(isinstance(settings(name), dict) for name in ALL)
