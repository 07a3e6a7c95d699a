"""Facts of the Lagrangian VAE: the signs of its multipliers, and that they are kept."""

import pytest
import torch
from support import suited_digits, tiny, trainer
from variational_models import SHAPE, binary_images, scrambled, seeded_terms

from zoo.errors import UsageError
from zoo.methods.variational.lagvae import LEAST, MOST, UNITS_OF_MMD, LagVAE

TINY = {"latent_dim": 4, "hidden_dims": (16,), "lr": 1e-3, "lr_final": 1e-3, "multiplier_lr": 1e-2}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny_lagvae(**settings):
    return scrambled(LagVAE(**({"image_shape": SHAPE, "latent_dim": 3, "hidden_dims": (6, 6)} | settings)))


@pytest.mark.parametrize("information", [2.0, -2.0])
def test_the_loss_is_the_lagrangian_of_the_paper(information):
    method = tiny_lagvae(information=information, nelbo_limit=7.0, mmd_limit=3.0)
    method.multipliers.copy_(torch.tensor([0.6, 0.02]))
    t = seeded_terms(method, binary_images(30))
    nll, k, mmd = t["distortion"], t["rate"], UNITS_OF_MMD * t["distance"]
    if information > 0:
        wanted = (0.6 + 2) * nll + 0.6 * k + 0.02 * mmd - 0.6 * 7 - 0.02 * 3
    else:
        wanted = 0.6 * nll + (0.6 + 2) * k + 0.02 * mmd - 0.6 * 7 - 0.02 * 3
    torch.testing.assert_close(t["loss"], wanted)
    torch.testing.assert_close(t["elbo"], -(nll + k))


def test_a_limit_that_is_exceeded_gains_weight_and_one_that_is_kept_loses_it():
    method = tiny_lagvae(multiplier_lr=0.05)
    for _ in range(200):
        method.climb(torch.tensor([3.0, -2.0]))
    assert float(method.multipliers[0]) > 5
    assert float(method.multipliers[1]) == pytest.approx(LEAST)
    for _ in range(3000):
        method.climb(torch.tensor([3.0, 2.0]))
    assert float(method.multipliers[0]) == MOST


def test_they_climb_as_by_rmsprop():
    method, exact = tiny_lagvae(multiplier_lr=0.01), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.RMSprop([exact], lr=0.01, maximize=True)
    for _ in range(20):
        exact.grad = torch.randn(2)
        method.climb(exact.grad)
        optimizer.step()
    torch.testing.assert_close(method.multipliers, exact.detach())


@pytest.mark.parametrize(("limit", "sign"), [(-1e6, 1), (1e6, -1)])
def test_training_moves_them_up_the_slope_of_the_lagrangian(limit, sign):
    method = tiny("LagVAE", nelbo_limit=limit, mmd_limit=1e6)
    trainer(limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    assert sign * (float(method.multipliers[0]) - 1) > 0
    assert float(method.multipliers[1]) < 1


def test_the_slope_is_that_of_the_batch_which_was_descended():
    method = tiny("LagVAE")
    before = {}

    def note(slope):
        before["slope"] = slope

    method.climb = note
    losses = []
    descended = method.loss
    method.loss = lambda batch: losses.append(descended(batch)) or losses[-1]
    trainer(limit_train_batches=1, limit_val_batches=0).fit(method, datamodule=suited_digits(method))
    (terms,) = losses
    wanted = [-terms["elbo"].mean() - 86, 1e4 * terms["distance"] - 5]
    torch.testing.assert_close(before["slope"], torch.stack(wanted).detach())


def test_a_resumed_run_goes_on_with_its_multipliers(tmp_path):
    whole = tiny("LagVAE")
    trainer(max_epochs=2, limit_train_batches=3).fit(whole, datamodule=suited_digits(whole))
    half, rest = tiny("LagVAE"), tiny("LagVAE")
    first = trainer(max_epochs=1, limit_train_batches=3)
    first.fit(half, datamodule=suited_digits(half))
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = trainer(max_epochs=2, limit_train_batches=3)
    second.fit(rest, datamodule=suited_digits(rest), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(rest.multipliers, whole.multipliers)
    assert torch.equal(rest.squares, whole.squares)
    assert not torch.equal(half.multipliers, whole.multipliers)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"information": 0.0}, "information must be above or below 0, got 0.0"),
        ({"multiplier_lr": 0.0}, "multiplier_lr must be positive, got 0.0"),
        ({"mmd_limit": -1.0}, "mmd_limit must not be negative, got -1.0"),
    ],
)
def test_settings_without_meaning_are_refused(settings, line):
    with pytest.raises(UsageError, match=line):
        LagVAE(**settings)
