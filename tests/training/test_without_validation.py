"""A fit without validation images watches nothing and keeps the last epoch."""

import pytest
import torch
from support import MeanByDescent, suited_digits, trainer

from zoo.errors import UsageError
from zoo.hub import recipe_files
from zoo.training.runs import Unvalidated

SCORE = ["--score.num_samples=2", "--score.metrics=[log_prob,fid]"]
NOTHING = {
    "no images": ["--data.num_validation=0"],
    "all images": ["--data.whole=true"],
    "no batches": ["--trainer.limit_val_batches=0"],
}


def fit(slug, zoo_here, cwd, *options):
    config = str(recipe_files()[slug])
    return zoo_here("fit", "--config", config, "--trainer.max_epochs=2", *SCORE, *options, cwd=cwd)


@pytest.mark.parametrize("how", NOTHING)
def test_a_method_with_a_monitor_keeps_its_last_epoch(how, zoo_here, tmp_path):
    result = fit("vae-digits", zoo_here, tmp_path, *NOTHING[how])
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs/vae-digits/version_0"
    assert not (run / "best.ckpt").exists()
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 1
    assert (run / "model/model.safetensors").is_file()
    if how == "no images":
        assert "digits 1x8x8 1438/0/359" in result.stdout


EARLY = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/elbo"]
OWN = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]


@pytest.mark.parametrize(
    ("slug", "options", "message"),
    [
        ("vae-digits", EARLY, "EarlyStopping needs validation images to watch val/elbo"),
        ("vae-digits", OWN, "ModelCheckpoint needs validation images to watch val/loss"),
        ("gan-digits", [], "score.every_n_epochs must be 0 where nothing is validated, got 10"),
    ],
)
def test_what_waits_for_validation_is_refused_in_one_line(slug, options, message, zoo_here, tmp_path):
    result = fit(slug, zoo_here, tmp_path, "--data.num_validation=0", *options)
    assert result.returncode == 2
    assert f"zoo: error: {message}" in result.stderr
    assert not list(tmp_path.glob("runs/*/*"))


class OnPlateaus(MeanByDescent):
    """Lowers its step size when a metric stands still."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


def test_a_step_size_that_waits_for_validation_is_refused():
    method = OnPlateaus()
    with pytest.raises(UsageError, match="ReduceLROnPlateau needs validation images to watch val/loss"):
        trainer(callbacks=[Unvalidated()]).fit(method, datamodule=suited_digits(method, num_validation=0))
