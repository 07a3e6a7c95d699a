"""Facts of VaDE: its bound, where assignments come from, phases that start one another, lost clusters."""

import logging
import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from scipy.special import expit, log_expit, log_softmax
from scipy.stats import norm
from sklearn.mixture import GaussianMixture
from support import same, state, suited_digits, tiny, trainer
from torch.distributions import kl_divergence
from variational_models import batch_of, below, binary_images, scrambled

from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.variational.vade import START_LOG_VARIANCE, VaDE
from zoo.parts.distributions.gaussians import diagonal_gaussian, standard_gaussian
from zoo.parts.distributions.mixture import STARTS
from zoo.randomness import mix

TINY = {
    "num_components": 3,
    "latent_dim": 3,
    "hidden_dims": (24,),
    "pretrain_epochs": 1,
    "autoencoder_epochs": 1,
}

SHAPE = (1, 2, 3)
BOUND = 3
"""The first epoch of the bound with these settings."""


@pytest.fixture
def in_bound(monkeypatch):
    monkeypatch.setattr(LightningModule, "current_epoch", BOUND)


def small(**options) -> VaDE:
    torch.manual_seed(0)
    return scrambled(VaDE(SHAPE, **TINY | options), 0.7)


def fit(method: VaDE, epochs: int, *callbacks: Callback, **options) -> None:
    settings = {"limit_train_batches": 3, "max_epochs": epochs, "callbacks": list(callbacks)}
    trainer(**settings | options).fit(method, datamodule=suited_digits(method))


def bound_by_hand(method: VaDE, x: torch.Tensor, eps: np.ndarray, shift=0.0, log_g=None) -> np.ndarray:
    """Equation 12 of the paper in float64, its log 2 pi once per dimension, [B].

    Args:
        method: Its weights are read.
        x: Images [B, C, H, W].
        eps: The noise of z = m + s eps, [B, D].
        shift: Added to the biases of mean and log-variance, [2D].
        log_g: Assignments [B, C]; without them p(c|z) at z.
    """
    w = {name: p.detach().double().numpy() for name, p in method.named_parameters()}
    v = x.flatten(1).double().numpy()
    h = np.maximum(v @ w["encoder.0.weight"].T + w["encoder.0.bias"], 0)
    shift = np.broadcast_to(shift, 2 * method.latent_dim)
    m = h @ w["mean.weight"].T + w["mean.bias"] + shift[: method.latent_dim]
    log_s2 = h @ w["log_variance.weight"].T + w["log_variance.bias"] + shift[method.latent_dim :]
    z = m + np.exp(log_s2 / 2) * eps
    a = np.maximum(z @ w["decoder.0.weight"].T + w["decoder.0.bias"], 0)
    a = a @ w["pixels.mean_logits.linear.weight"].T + w["pixels.mean_logits.linear.bias"]
    log_likelihood = (v * log_expit(a) + (1 - v) * log_expit(-a)).sum(1)
    log_pi = log_softmax(w["mixture.logits"])
    mu, log_t2 = w["mixture.means"], w["mixture.log_variances"]
    if log_g is None:
        log_g = log_softmax(log_pi + norm.logpdf(z[:, None], mu, np.exp(log_t2 / 2)).sum(2), axis=1)
    g, tau = np.exp(log_g), math.log(2 * math.pi)
    each = tau + log_t2 + (np.exp(log_s2)[:, None] + (m[:, None] - mu) ** 2) / np.exp(log_t2)
    prior = -0.5 * (g * each.sum(2)).sum(1)
    entropy = 0.5 * (1 + tau + log_s2).sum(1)
    return log_likelihood + prior + (g * (log_pi - log_g)).sum(1) + entropy


def seeded(method: VaDE, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The terms of the loss, and the noise of their draws."""
    torch.manual_seed(1)
    terms = method.loss(batch_of(x))
    torch.manual_seed(1)
    return terms, torch.randn(len(x), method.latent_dim).double().numpy()


def test_the_bound_is_equation_12(in_bound):
    method, x = small(), binary_images(6, SHAPE)
    terms, eps = seeded(method, x)
    np.testing.assert_allclose(terms["elbo"].detach(), bound_by_hand(method, x, eps), atol=1e-5)
    torch.testing.assert_close(terms["loss"], terms["rate"] + terms["distortion"])
    shares = torch.stack([terms[f"share_{c}"] for c in range(3)])
    torch.testing.assert_close(shares.sum(0), torch.ones(6))


@torch.no_grad()
def test_one_standard_component_makes_it_the_bound_of_the_vae(in_bound):
    """Without the released code's D^2 / 2 log 2 pi, 91.9 nats for ten latents."""
    method, x = small(num_components=1, latent_dim=10), binary_images(6, SHAPE)
    for p in (method.mixture.means, method.mixture.log_variances):
        torch.nn.init.zeros_(p)
    terms, _ = seeded(method, x)
    kl = kl_divergence(method.posterior(x), standard_gaussian(10, x.device))
    torch.testing.assert_close(terms["rate"], kl)
    torch.testing.assert_close(terms["elbo"], -(terms["distortion"] + kl))


def test_gradients_go_through_the_draw_into_the_assignments(in_bound):
    """Finite differences of equation 12 in float64; those with the assignments stopped differ from them."""
    method, x = small(), binary_images(6, SHAPE)
    terms, eps = seeded(method, x)
    biases = [method.mean.bias, method.log_variance.bias]
    found = torch.cat(torch.autograd.grad(terms["elbo"].sum(), biases)).numpy()

    def differences(log_g=None) -> np.ndarray:
        steps = 1e-5 * np.eye(2 * method.latent_dim)
        values = [[bound_by_hand(method, x, eps, s * d, log_g).sum() for d in steps] for s in (1, -1)]
        return (np.array(values[0]) - values[1]) / 2e-5

    np.testing.assert_allclose(found, differences(), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        q = method.posterior(x)
        log_g = method.mixture.assign(q.mean + q.stddev * torch.from_numpy(eps).float()).double().numpy()
    assert np.abs(found - differences(log_g)).max() > 0.1


@pytest.mark.parametrize(("log_variance", "at_rest"), [(-10.0, True), (0.0, False)])
def test_without_posterior_noise_assignments_by_bayes_are_where_the_bound_is_flat(log_variance, at_rest):
    """In steps that keep their sum: the gradient of their logits."""
    method, m = small(), torch.randn(6, 3)
    q = diagonal_gaussian(m, torch.full_like(m, log_variance))
    logits = method.mixture.assign(m).detach().requires_grad_()
    method.rate(q, logits.log_softmax(1)).sum().backward()
    assert (float(logits.grad.abs().max()) < 1e-3) == at_rest


def test_assignments_are_by_the_draw_in_training_and_by_the_mean_in_clustering(in_bound, monkeypatch):
    method, x, seen = small(), binary_images(6, SHAPE), []
    assign = method.mixture.assign
    monkeypatch.setattr(method.mixture, "assign", lambda z: seen.append(z.detach()) or assign(z))
    terms, eps = seeded(method, x)
    log_q = method.cluster(x)
    q = method.posterior(x)
    torch.testing.assert_close(seen[0], (q.mean + q.stddev * torch.from_numpy(eps).float()).detach())
    torch.testing.assert_close(seen[1], q.mean.detach())
    assert not torch.allclose(seen[0], seen[1], atol=0.1)
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(6))
    torch.testing.assert_close(log_q, assign(q.mean))
    torch.nn.init.zeros_(method.log_variance.weight)
    torch.nn.init.constant_(method.log_variance.bias, -10)
    shares = torch.stack([method.loss(batch_of(x))[f"share_{c}"] for c in range(3)], 1)
    torch.testing.assert_close(shares, method.cluster(x).exp(), atol=0.05, rtol=0)
    assert terms["elbo"].isfinite().all()


@torch.no_grad()
def test_summing_clusters_out_tightens_the_bound_and_neither_exceeds_the_likelihood(in_bound):
    """The likelihood by quadrature over a code of one dimension."""
    method, x = small(latent_dim=1, hidden_dims=(9,)), binary_images(4, SHAPE)
    torch.nn.init.zeros_(method.log_variance.weight)
    torch.nn.init.constant_(method.log_variance.bias, 2.5)  # wide enough for weights of little variance
    z = torch.linspace(-12, 12, 6001)[:, None, None]
    log_joint = method.prior().log_prob(z) + method.likelihood(z).log_prob(x)
    truth = log_joint.double().logsumexp(0) + math.log(24 / 6000)
    many = 20_000
    bounds = [method.loss(batch_of(row.expand(many, *SHAPE)))["elbo"] for row in x]
    summed = method.weigh(x, many).log_w.T
    for bound, tighter, log_p in zip(bounds, summed, truth, strict=True):
        assert below(bound, tighter)
        assert below(tighter, log_p.expand(many).float())
    torch.testing.assert_close(method.log_prob(x, many).double(), truth, atol=0.05, rtol=0)


def test_layers_learn_alone_to_give_back_what_is_below_them(monkeypatch):
    """With ReLUs but at the code; the first by the pixels' likelihood, the others by least squares."""
    method, x = small(hidden_dims=(9, 5), pretrain_dropout=0.0), binary_images(6, SHAPE)
    w = {name: p.detach() for name, p in method.named_parameters()}
    first, second = (w[f"encoder.{i}.weight"] for i in (0, 2))
    h1 = (x.flatten(1) @ first.T + w["encoder.0.bias"]).relu()
    h2 = (h1 @ second.T + w["encoder.2.bias"]).relu()
    code = h2 @ w["mean.weight"].T + w["mean.bias"]
    logits = h1 @ w["pixels.mean_logits.linear.weight"].T + w["pixels.mean_logits.linear.bias"]
    back1 = (h2 @ w["decoder.2.weight"].T + w["decoder.2.bias"]).relu()
    back2 = (code @ w["decoder.0.weight"].T + w["decoder.0.bias"]).relu()
    p = torch.from_numpy(expit(logits.numpy()))
    expected = [
        -(x.flatten(1) * p.log() + (1 - x.flatten(1)) * (1 - p).log()).sum(1),
        (back1 - h1).square().sum(1),
        (back2 - h2).square().sum(1),
    ]
    for epoch, loss in enumerate(expected):
        monkeypatch.setattr(LightningModule, "current_epoch", epoch)
        torch.testing.assert_close(method.loss(batch_of(x))["loss"], loss, atol=1e-4, rtol=1e-4)


def test_layers_do_not_see_all_of_their_inputs_while_they_learn_alone(monkeypatch):
    method, x = small(), binary_images(6, SHAPE)
    monkeypatch.setattr(LightningModule, "current_epoch", 0)
    losses = [method.loss(batch_of(x))["loss"] for _ in range(2)]
    assert not torch.equal(*losses)
    monkeypatch.setattr(LightningModule, "current_epoch", 2)
    assert torch.equal(*(method.loss(batch_of(x))["loss"] for _ in range(2)))


def test_the_bound_begins_with_the_clusters_of_em_on_the_codes_and_a_narrow_posterior():
    """As they are counted at the end of a run of the autoencoder alone, and at the start of a longer one."""

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == BOUND and batch_idx == 0:
                self.found = pl_module.cluster(x)
                self.log_variance = pl_module.posterior(x).base_dist.variance.log()

    alone, longer, watch = tiny("VaDE"), tiny("VaDE"), Watch()
    data = Digits(binarize="pseudo")
    x = data.split("train").x
    torch.manual_seed(3)
    trainer(max_epochs=BOUND).fit(alone, datamodule=data)
    torch.manual_seed(3)
    trainer(max_epochs=BOUND + 1, callbacks=[watch]).fit(longer, datamodule=data)
    assert torch.equal(alone.cluster(x), watch.found)
    em = GaussianMixture(3, covariance_type="diag", n_init=STARTS, random_state=mix(3) % 2**32)
    codes = alone.encode(x).double().numpy()
    assert watch.found.argmax(1).tolist() == em.fit_predict(codes).tolist()
    torch.testing.assert_close(watch.log_variance, torch.full_like(watch.log_variance, START_LOG_VARIANCE))


def test_a_run_goes_on_from_the_checkpoint_of_its_autoencoder_as_if_it_had_not_stopped(tmp_path):
    fit(whole := tiny("VaDE"), 5)
    first, begun = tiny("VaDE"), trainer(max_epochs=BOUND, limit_train_batches=3)
    begun.fit(first, datamodule=suited_digits(first))
    begun.save_checkpoint(tmp_path / "autoencoder.ckpt")
    again = tiny("VaDE")
    trainer(max_epochs=5, limit_train_batches=3).fit(
        again,
        datamodule=suited_digits(again),
        ckpt_path=tmp_path / "autoencoder.ckpt",
        weights_only=True,
    )
    assert same(state(whole), state(again))
    assert not same(state(first), state(again))


def test_step_sizes_and_moments_begin_anew_with_each_phase():
    class Watch(Callback):
        seen: list[tuple[float, float, int]] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                networks, mixture = trainer.optimizers[0].param_groups
                self.seen.append((networks["lr"], mixture["lr"], len(trainer.optimizers[0].state)))

    watch, method = Watch(), tiny("VaDE", pretrain_lr=0.03, lr=0.02, mixture_lr=0.01, lr_final=0.0165)
    fit(method, BOUND + 21, watch, limit_train_batches=1, limit_val_batches=0)
    networks, mixture, states = (list(column) for column in zip(*watch.seen, strict=True))
    assert networks[:BOUND] == pytest.approx([0.03] * BOUND)
    assert networks[BOUND : BOUND + 11] == [0.02] * 10 + [pytest.approx(0.018)]
    assert networks[-1] == 0.0165
    assert mixture[BOUND:] == pytest.approx([lr / 2 for lr in networks[BOUND:]])
    assert states[: BOUND + 1] == [0] * (BOUND + 1)
    assert states[BOUND + 1] == len(list(method.parameters()))
    own = {id(p) for p in method.configure_optimizers().param_groups[1]["params"]}
    assert own == {id(p) for p in method.mixture.parameters()}


@pytest.mark.parametrize("lost", [False, True])
def test_lost_clusters_are_counted_and_said(lost, caplog, monkeypatch):
    method = tiny("VaDE", pretrain_epochs=0, lr=1e-6, lr_final=1e-6, mixture_lr=1e-6)

    def three(codes, seed):
        centres = codes.sort(0).values[[len(codes) // 6, len(codes) // 2, 5 * len(codes) // 6]]
        method.mixture.means.data.copy_(centres)
        method.mixture.logits.data.copy_(torch.tensor([0.0, 0.0, -40.0 if lost else 0.0]))

    monkeypatch.setattr(method.mixture, "fit", three)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        fit(method, 2, limit_train_batches=1.0)
    shares = [float(method.trainer.callback_metrics[f"train/share_{c}"]) for c in range(3)]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert (shares[2] < 0.01) == lost
    said = [record.getMessage() for record in caplog.records if "VaDE" in record.getMessage()]
    assert (
        ["VaDE: 1 of 3 clusters hold less than 1 % of the training images: share_2 = 0.0000"] if lost else []
    ) == said


@torch.no_grad()
def test_samples_of_a_cluster_are_decoded_draws_of_its_gaussian(monkeypatch):
    method, seen = small(), []
    monkeypatch.setattr(method, "picture", lambda z: seen.append(z) or torch.zeros(len(z), *SHAPE))
    method.sample_given(torch.tensor([2, 0]).repeat(50_000))
    components = method.mixture.components()
    for i, c in enumerate((2, 0)):
        z = seen[0][i::2]
        torch.testing.assert_close(z.mean(0), components.mean[c], atol=0.03, rtol=0)
        torch.testing.assert_close(z.std(0), components.stddev[c], atol=0.03, rtol=0)


def test_digits_are_told_apart_and_the_bound_does_not_lose_what_the_autoencoder_had():
    from zoo.scores.representation import clustering

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 8:
                self.start = accuracy()

    def accuracy() -> float:
        return clustering(method.cluster(x), data.labels("train")).hungarian.value

    torch.manual_seed(0)
    data, watch = Digits(binarize="pseudo", batch_size=50), Watch()
    method = VaDE((1, 8, 8), hidden_dims=(64,), autoencoder_epochs=8, lr=1e-3, mixture_lr=1e-3)
    x = data.split("train").x
    trainer(max_epochs=16, callbacks=[watch], limit_val_batches=0).fit(method, datamodule=data)
    assert watch.start > 0.5
    assert accuracy() > watch.start - 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 0}, "num_components must be at least 1, got 0"),
        ({"hidden_dims": (3, 0)}, "hidden_dims must be at least 1, got 0"),
        ({"autoencoder_epochs": 0}, "autoencoder_epochs must be at least 1, got 0"),
        ({"pretrain_epochs": -1}, "pretrain_epochs must be at least 0, got -1"),
        ({"pretrain_dropout": 1.0}, "pretrain_dropout must be at least 0 and below 1, got 1.0"),
        ({"mixture_lr": 0.0}, "mixture_lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        VaDE(SHAPE, **options)


def test_more_clusters_than_images_are_refused_before_anything_learns():
    method = tiny("VaDE", num_components=2000)
    with pytest.raises(UsageError, match="num_components must be at most the 1295 training images, got 2000"):
        fit(method, 1)
