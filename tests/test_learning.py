"""Every method improves its own score on real digits."""

import pytest
import torch
from conftest import suited_digits, tiny
from test_contract import having, trainer

from zoo.capabilities import Scores
from zoo.data import Digits


@pytest.mark.slow
@pytest.mark.parametrize("name", having(Scores))
def test_the_score_of_unseen_digits_improves(name):
    method = tiny(name)
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
