"""What only a process of its own can show: its status, its terminal, its imports, its partner."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from support import FIT, child

from zoo.scores.results import Results

pytestmark = pytest.mark.slow


def test_a_mistake_in_a_real_process_has_no_traceback(zoo_cli, tmp_path):
    result = zoo_cli(*FIT, "--model.lr=-1", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip() == "zoo: error: lr must be positive, got -1.0"
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_no_longer_finite_ends_with_status_1_and_keeps_its_checkpoint(
    zoo_here, zoo_cli, tmp_path
):
    zoo_here(*FIT, cwd=tmp_path, check=True)
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


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_ends_with_the_status_of_its_signal_and_says_how_to_go_on(which, tmp_path):
    heard = ["env", "--default-signal=INT"]  # what runs in the background may be deaf to Ctrl-C
    command = [*heard, sys.executable, "-m", "zoo", *FIT, "--trainer.max_epochs=10000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    last = tmp_path / "runs/vae-digits/version_0/last.ckpt"
    until = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + which
    assert b"zoo: interrupted; go on with --ckpt_path runs/vae-digits/version_0/last.ckpt" in said


def test_at_a_terminal_a_bar_shows_the_elbo(tmp_path):
    """The child's standard streams are a pseudo-terminal."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "zoo", *FIT, "--trainer.max_epochs=5"]
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"COLUMNS": "160"}, **streams)
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
    assert process.wait(60) == 0, shown.decode(errors="replace")
    assert b"Epoch 4/4" in shown
    assert b"train/elbo: -" in shown
    assert b"it/s" in shown


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


def test_two_processes_train_and_score_as_one(zoo_here, zoo_cli, tmp_path):
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
    zoo_here(
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


@pytest.fixture(scope="module")
def loaded(once) -> set[str]:
    """Every module that a fit has imported in a process of its own, the parser of the light verbs too."""
    script = f"import sys, zoo.cli.light; from zoo.cli.main import main\nmain({FIT!r})\nprint(*sys.modules)"

    def work(folder):
        result = child("-c", script, cwd=folder)
        assert result.returncode == 0, result.stderr
        (folder / "modules.txt").write_text(result.stdout.splitlines()[-1])

    return set((once("loaded", work) / "modules.txt").read_text().split())


def test_wandb_is_not_imported_unless_asked(loaded):
    assert "zoo.cli.fit" in loaded
    assert "wandb" not in loaded


def test_torchvision_is_on_no_path(loaded):
    assert "zoo.cli.light" in loaded
    assert "torchvision" not in loaded
