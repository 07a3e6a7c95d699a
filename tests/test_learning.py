"""Every method improves its own score on real digits."""

import pytest
import torch
from support import having, suited_digits, tiny, trainer

from zoo.contract.capabilities import Emits, Energies, Normalises, Samples, Scores
from zoo.data.sets import Digits
from zoo.scores.features import shipped
from zoo.scores.metrics import fid

SURER = {"hidden_dims": (64,), "drop_pixels": 0.0, "reconstruction_lr": 5e-3}
WIDER = {
    "AAE": SURER | {"latent_dim": 4},
    "ClusterAAE": SURER,
    "DLGMM": {"hidden_dims": (16,), "lr": 1e-2},
    "GLO": {"latent_dim": 8, "channels": 16, "lr": 5e-3},
    "GMVAE": {"lr": 5e-3},
    "InfoGAN": {"channels": 16, "fc_dim": 64, "discriminator_lr": 1e-3, "ema_decay": 0.9},
    "InfoVAE": {"hidden_dims": (32,), "lr": 5e-3},
    "LabelAAE": SURER,
    "LagVAE": {"nelbo_limit": 22.0, "mmd_limit": 1e3, "lr": 1e-2, "lr_final": 1e-2},
    "NCRPVAE": {"lr": 5e-3},
    "SBM2": {"lr": 5e-3},
    "SGAN": {
        "channels": 16,
        "hidden_dim": 64,
        "encoder_epochs": 9,
        "independent_epochs": 60,
        "lr": 5e-3,
        "ema_decay": 0.9,
    },
    "SBVAE": {"hidden_dims": (16,), "lr": 1e-2},
    "Walkback": {"hidden_dims": (64,), "variance": "state", "lr": 5e-3},
}
"""What a tiny method needs in the place of its own settings to learn in seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("name", having(Scores))
def test_the_score_of_unseen_digits_improves(name):
    method = tiny(name, **WIDER.get(name, {}))
    data = suited_digits(method)
    x = data.split("test").x
    torch.manual_seed(0)
    before = method.log_prob(x, 10).mean().item()
    trainer(max_epochs=60).fit(method, datamodule=data)
    torch.manual_seed(0)
    after = method.log_prob(x, 10).mean().item()
    if data.pixels == "binary":
        independent = torch.distributions.Bernoulli(probs=data.mean_image().clamp(1e-3, 0.999))
    else:
        seen = data.split("train").x
        independent = torch.distributions.Normal(seen.mean(0), seen.var(0).mean().sqrt())
    baseline = independent.log_prob(x).flatten(1).sum(1).mean().item()
    assert before < baseline + 3
    assert after > baseline + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", having(Normalises))
def test_the_likelihood_of_unseen_digits_improves(name):
    """Exact where the units are few enough to enumerate, else by annealing."""
    method = tiny(name)
    data = suited_digits(method)
    x = data.split("test").x

    @torch.no_grad()
    def score() -> float:
        return -method.energy(x).mean().item() - method.log_partition(20, 500).log_z

    before = score()
    trainer(max_epochs=60).fit(method, datamodule=data)
    assert score() > before + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted({*having(Samples)} - {*having(Scores), *having(Energies), *having(Emits)})
)
def test_samples_of_what_has_no_likelihood_come_closer_to_unseen_digits(name):
    """Closer than independent pixels, which have the right mean image and variances."""
    method = tiny(name, **WIDER.get(name, {}))
    data = Digits(binarize="none") if "real" in method.accepts else suited_digits(method)
    features = shipped("digits")
    x = data.split("test").x
    real = features.extract(x).activations

    def distance(images: torch.Tensor) -> float:
        return fid(real, features.extract(images).activations).value

    stream = torch.Generator().manual_seed(0)
    before = distance(method.sample(len(x), generator=stream))
    trainer(max_epochs=60).fit(method, datamodule=data)
    train = data.split("train").x
    picked = torch.randint(len(train), (len(x), train[0].numel()), generator=stream)
    independent = train.flatten(1).gather(0, picked).view_as(x)
    after = distance(method.sample(len(x), generator=stream))
    assert after < 0.7 * distance(independent) < before


@pytest.mark.slow
def test_more_samples_in_training_tighten_the_bound_on_unseen_digits():
    """The reason for the IWAE: its L_K beats that of the same network trained on the ELBO."""
    scores = {}
    for objective in ("iwae", "vae"):
        data = Digits()
        data.setup()
        method = tiny("IWAE", num_samples=10, objective=objective, latent_dims=(8,), hidden_dims=(32,))
        trainer(max_epochs=40).fit(method, datamodule=data)
        torch.manual_seed(0)
        scores[objective] = method.log_prob(data.split("test").x, 200)
    difference = scores["iwae"] - scores["vae"]
    error = difference.std() / len(difference) ** 0.5
    assert difference.mean() > 2 * error
