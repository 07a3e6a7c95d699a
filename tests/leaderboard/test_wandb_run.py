"""One run of the zoo is one run on W&B."""

import pytest
from stand_in_wandb import stand_in_wandb
from support import FIT

from zoo.training.runs import WANDB_ID

SCORE = ["--score.num_samples=2", "--score.metrics=[log_prob]"]


@pytest.mark.hub
def test_the_run_on_wandb_goes_on(zoo_cli, tmp_path):
    with stand_in_wandb() as (store, env):
        words = [*FIT, *SCORE, "--wandb=demo"]
        zoo_cli(*words, cwd=tmp_path, env=env, check=True)
        zoo_cli(*words, "--ckpt_path=last", "--trainer.max_epochs=2", cwd=tmp_path, env=env, check=True)
    (name,) = store.runs
    assert name == (tmp_path / "runs/vae-digits/version_0" / WANDB_ID).read_text().strip()
    assert store.runs[name]["display"] == "vae-digits-version_0"
    assert store.runs[name]["summary"]["epoch"] == 1  # of 0 and 1
