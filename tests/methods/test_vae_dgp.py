"""Facts of the deep Gaussian process whose codes a chain of networks infers."""

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from support import images, same, state, suited_digits, trainer
from torch.distributions import Normal
from variational_models import batch_of

from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.variational.vae_dgp import VAEDGP
from zoo.parts.distributions.gaussian_process import KERNEL_JITTER, SparseGP
from zoo.pictures.walks import mask

TINY = {
    "latent_dims": (3, 2),
    "hidden_dims": (9,),
    "num_inducing": 4,
    "frozen_noise_epochs": 1,
    "repair_steps": 3,
}
ONE = TINY | {"latent_dims": (3,)}
SHAPE, DRAWS = (1, 2, 2), 50_000


def small(shape=SHAPE, **settings) -> VAEDGP:
    """Every parameter away from its start, in eval mode."""
    torch.manual_seed(0)
    method = VAEDGP(shape, **TINY | settings).eval()
    for layer in method.layers:
        kernel = layer.kernel
        for p in (kernel.log_variance, kernel.log_bias, kernel.log_lengths, layer.raw_root):
            torch.nn.init.normal_(p, std=0.4)
        torch.nn.init.constant_(layer.log_noise, -1.0)
        torch.nn.init.normal_(layer.whitened_mean)
    method.num_train.fill_(20)
    return method


def terms(method: VAEDGP, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return method.loss(batch_of(x))


def drawn(layer: SparseGP, h: torch.Tensor) -> torch.Tensor:
    """Functions at inputs [S, Q], each with a draw of q(u) of its own, [S, P]."""
    z, out_dim = layer.inducing.double(), layer.whitened_mean.shape[1]
    gram = layer.kernel(z, z) + KERNEL_JITTER * layer.kernel.variance * torch.eye(len(z))
    noise = torch.randn(len(h), len(z) + 1, out_dim, dtype=torch.float64)
    v = layer.whitened_mean.double() + layer.root @ noise[:, :-1]
    first = layer.kernel(h, z) @ torch.linalg.cholesky(gram).inverse().T
    left = (layer.kernel.psi0() - first.square().sum(1)).clamp(min=0).sqrt()
    return torch.einsum("sm,smp->sp", first, v) + left[:, None] * noise[:, -1]


# ---------------------------------------------------------------- the bound


@torch.no_grad()
@pytest.mark.parametrize("var", ["shared", "amortised"])
def test_the_bound_of_two_layers_is_an_average_over_draws_of_codes_and_functions(var):
    """One image, three inducing inputs: the variance of the codes that a layer explains counts."""
    method, x = small(num_inducing=3, var=var), images(SHAPE, n=1)
    q1, q2 = (Normal(h.mean, h.variance.sqrt()) for h in method._codes(method._centred(x)))
    h1, h2 = (q.sample((DRAWS,)).flatten(0, 1) for q in (q1, q2))
    below, above = method.layers
    likelihood = Normal(drawn(below, h1), below.noise().sqrt()).log_prob(method._centred(x)).sum(1)
    inner = Normal(drawn(above, h2), above.noise().sqrt()).log_prob(h1).sum(1)
    top = Normal(0.0, 1.0).log_prob(h2).sum(1)
    rate = q1.log_prob(h1).sum(1) + q2.log_prob(h2).sum(1) - inner - top
    found = terms(method, x)
    for name, values in (("distortion", -likelihood), ("rate", rate)):
        error = float(values.std()) / math.sqrt(DRAWS)
        assert float(found[name]) == pytest.approx(float(values.mean()), abs=4 * error)
        assert error < 0.02 * abs(float(values.mean()))
    torch.testing.assert_close(found["elbo"], -found["distortion"] - found["rate"] - found["functions"])


@torch.no_grad()
def test_the_bound_is_below_the_likelihood_and_codes_fitted_to_an_image_raise_it():
    """The likelihood by quadrature over a code of one dimension."""
    method, x = small((1, 1, 2), latent_dims=(1,), repair_steps=100), images((1, 1, 2), n=4)
    y, grid = method._centred(x), torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    log_joint = method.layers[0].predict(grid[:, None].flatten(0, 1)).log_prob(y[:, None])
    log_joint = log_joint + Normal(0.0, 1.0).log_prob(grid).sum(1)
    truth = log_joint.logsumexp(1) + math.log(16 / 4000)
    found = terms(method, x)
    start = (found["elbo"] + found["functions"]).double()
    fitted = [method._fitted(y, torch.ones(2, dtype=torch.bool))]
    raised = method._terms(y, fitted)
    better = (raised["elbo"] + raised["functions"]).double()
    assert (start < better).all()
    assert (better < truth).all()


@torch.no_grad()
def test_an_image_is_charged_its_share_of_the_functions_and_none_of_the_other_images():
    method, x = small(), images(SHAPE)
    whole = terms(method, x)
    halves = [terms(method, half) for half in x.split(3)]
    for name in whole:
        parts = [half[name] for half in halves]
        expected = torch.cat(parts) if name != "functions" else parts[0]
        torch.testing.assert_close(whole[name], expected)
    kl = sum(layer.kl() for layer in method.layers)
    torch.testing.assert_close(whole["functions"].double(), kl / 20, rtol=1e-6, atol=0)
    method.num_train.fill_(40)
    torch.testing.assert_close(2 * terms(method, x)["functions"], whole["functions"])
    assert torch.equal(method.log_prob(x, 1), terms(method, x)["elbo"])
    assert torch.equal(method.log_prob(x, 7), method.log_prob(x, 1))


@torch.no_grad()
@pytest.mark.parametrize("latent_dims", [(3,), (3, 2)])
def test_the_two_bounds_agree_once_the_functions_are_the_best(latent_dims):
    """With a layer above, the collapsed one is tighter: every value of the codes below has a q(u)."""
    method, x = small(latent_dims=latent_dims, bound="collapsed"), images(SHAPE, n=20)
    collapsed = float(terms(method.train(), x)["elbo"].mean())
    assert float(terms(method.eval(), x)["elbo"].mean()) < collapsed - 0.1
    method.on_train_batch_end(None, batch_of(x), 0)
    settled = float(terms(method, x)["elbo"].mean())
    if len(latent_dims) == 1:
        assert settled == pytest.approx(collapsed, abs=1e-4)
    else:
        assert collapsed - 2 < settled < collapsed


@torch.no_grad()
def test_every_network_reads_the_mean_below_and_variances_are_shared_or_read():
    shared, own, x = small(), small(var="amortised"), images(SHAPE)
    for method, rows in ((shared, 1), (own, 6)):
        first, second = method._codes(method._centred(x))
        assert (first.variance.shape, second.variance.shape) == ((rows, 3), (rows, 2))
        again = method.recognition[1](first.mean.float())
        torch.testing.assert_close(again.mean, second.mean)
        means = method.posterior_means(x)
        torch.testing.assert_close(means[0].double(), first.mean, atol=1e-6, rtol=1e-5)
        assert torch.equal(method.encode(x), means[1])


# ---------------------------------------------------------------- learning


@torch.no_grad()
def test_it_starts_once_centred_and_at_the_variance_of_the_images():
    method = VAEDGP((1, 8, 8), **TINY)
    data = suited_digits(method)
    method.start_from(data)
    assert int(method.num_train) == 1295
    torch.testing.assert_close(method.mean_image, data.mean_image())
    y = method._centred(data.split("train").x)
    assert y.mean(0).abs().max() < 0.01
    assert float(method.layers[0].kernel.variance) == pytest.approx(float(y.var(0).mean()), rel=0.05)
    started = state(method)
    torch.nn.init.ones_(method.layers[0].whitened_mean)
    method.start_from(data)
    assert not same(started, state(method))
    assert method.layers[0].whitened_mean.eq(1).all()


@torch.no_grad()
def test_before_it_learns_the_functions_are_the_best_of_its_images():
    method = VAEDGP((1, 8, 8), **ONE)
    data = suited_digits(method, subset=200)
    method.start_from(data)
    x = data.split("train").x
    assert len(x) == int(method.num_train)
    begun = float(terms(method, x)["elbo"].mean())
    method.layers[0].whitened_mean.mul_(0.9)
    assert float(terms(method, x)["elbo"].mean()) < begun - 0.02


def test_noise_is_learnt_after_the_first_epochs(monkeypatch):
    class Watch(Callback):
        noises: list[list[float]] = []

        def on_train_epoch_end(self, trainer, pl_module):
            self.noises.append([float(layer.log_noise.detach()) for layer in pl_module.layers])

    method, watch = VAEDGP((1, 8, 8), **TINY | {"frozen_noise_epochs": 2}), Watch()
    data = suited_digits(method)
    trainer(max_epochs=3, limit_train_batches=3, callbacks=[watch]).fit(method, datamodule=data)
    first, second, third = watch.noises
    assert first == second
    assert all(a != b for a, b in zip(second, third, strict=True))
    monkeypatch.setattr(LightningModule, "current_epoch", 0)
    assert len(method.learning()) == len(list(method.parameters())) - 2


@pytest.mark.parametrize("bound", ["uncollapsed", "collapsed"])
def test_inducing_inputs_that_coincide_still_learn(bound):
    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            self.before = pl_module.log_prob(x, 1).mean()

    method, watch = VAEDGP((1, 8, 8), **TINY | {"bound": bound, "num_inducing": 6, "lr": 0.02}), Watch()
    data = suited_digits(method, batch_size=1295)
    x = data.split("val").x
    for layer in method.layers:
        layer.inducing.data[3:] = layer.inducing.data[:3]
    trainer(max_epochs=8, limit_val_batches=0, callbacks=[watch]).fit(method, datamodule=data)
    assert method.log_prob(x, 1).mean() > watch.before + 2
    assert all(value.isfinite().all() for value in state(method).values())


def test_the_collapsed_bound_wants_all_images_in_one_batch():
    method = VAEDGP((1, 8, 8), **TINY | {"bound": "collapsed"})
    rule = (
        "bound: collapsed needs all 1295 training images in one batch of one process, got batches of 50 on 1"
    )
    with pytest.raises(UsageError, match=rule):
        trainer().fit(method, datamodule=suited_digits(method, batch_size=50))


# ---------------------------------------------------------------- pictures


@torch.no_grad()
def test_samples_are_means_of_the_lowest_layer_at_draws_of_the_codes_above_it(monkeypatch):
    method, seen = small(), []
    monkeypatch.setattr(method, "_picture", lambda h: seen.append(h) or torch.zeros(len(h), *SHAPE))
    method.sample(DRAWS)
    above = method.layers[1]
    h2 = torch.randn(DRAWS, 2, dtype=torch.float64)
    h1 = drawn(above, h2) + above.noise().sqrt() * torch.randn(DRAWS, 3)
    torch.testing.assert_close(seen[0].mean(0), h1.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(seen[0].std(0), h1.std(0), atol=0.05, rtol=0)


@torch.no_grad()
def test_codes_are_decoded_to_the_mean_image_and_what_the_layers_say_of_it():
    method, x = small(), images(SHAPE)
    h = method.layers[1].predict(method.encode(x)).mean
    f = method.layers[0].predict(h).mean.float().view(6, *SHAPE)
    torch.testing.assert_close(method.reconstruct(x), (method.mean_image + f).clamp(0, 1))


def test_without_a_known_pixel_the_codes_are_those_of_the_prior():
    method = small(latent_dims=(2,), repair_steps=200)
    fitted = method._fitted(method._centred(images(SHAPE)), torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(fitted.mean, torch.zeros(6, 2).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(fitted.variance, torch.ones(6, 2).double(), atol=0.02, rtol=0)


def test_images_are_repaired_from_their_own_pixels_alone(monkeypatch):
    method, x, known = small(repair_steps=8), images(SHAPE), images(SHAPE).round()
    known[3:] = known[:3]
    monkeypatch.setattr(torch, "randn", torch.zeros)
    together = method.repair(x, known)
    alone = [method.repair(x[i : i + 1], known[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert not torch.equal(together[:3], together[3:])


def test_it_learns_digits_and_fills_in_their_hidden_half():
    torch.manual_seed(0)
    data = Digits(binarize="none", dequantize=True, batch_size=100)
    method = VAEDGP((1, 8, 8), latent_dims=(8,), hidden_dims=(60,), num_inducing=30, lr=0.02, repair_steps=40)
    trainer(max_epochs=15, limit_val_batches=0).fit(method, datamodule=data)
    x, known = data.split("test", 40).x, mask((1, 8, 8), "bottom").expand(40, 1, 8, 8)
    variance = (x - method.mean_image).square().mean()
    gaussian = Normal(method.mean_image, variance.sqrt()).log_prob(x).flatten(1).sum(1)
    assert method.eval().log_prob(x, 1).mean() > gaussian.mean() + 10
    hidden = known == 0
    repaired = method.repair(x, known)
    assert (repaired - x)[hidden].square().mean() < 0.85 * (method.mean_image - x)[hidden].square().mean()
    assert (method.reconstruct(x) - x).square().mean() < 0.6 * variance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dims": ()}, "latent_dims must be at least 1, got 0"),
        ({"latent_dims": (3, 0)}, "latent_dims must be at least 1, got 0"),
        ({"num_inducing": 0}, "num_inducing must be at least 1, got 0"),
        ({"repair_steps": 0}, "repair_steps must be at least 1, got 0"),
        ({"frozen_noise_epochs": -1}, "frozen_noise_epochs must not be negative, got -1"),
        ({"repair_lr": 0.0}, "repair_lr must be positive, got 0.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        VAEDGP(SHAPE, **options)
