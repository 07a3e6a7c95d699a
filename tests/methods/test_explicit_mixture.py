"""Facts of the explicit mixture and of its control arm M2: the sum over labels, the bound, the collapse."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from variational_models import SHAPE, batch_of, binary_images, scrambled, seeded_terms

from zoo.errors import UsageError
from zoo.methods.variational.explicit_mixture import ExplicitMixture
from zoo.parts.estimators import importance_bound

TINY = {"num_clusters": 3, "latent_dim": 2, "hidden_dims": (16,)}
LABELS = ["prior", "decoder"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny_mixture(std=0.5, image_shape=SHAPE, **settings):
    return scrambled(ExplicitMixture(image_shape, **TINY | settings), std)


def posterior_of(method, x, label):
    """q(z|x,y) by the whole network of the image with its label beside it."""
    told = torch.zeros(len(x), method.num_clusters)
    told[:, label] = 1
    head = method.posterior_head.linear(method.encoder(torch.cat((x.flatten(1), told), 1)))
    mean, log_variance = head.chunk(2, 1)
    return Normal(mean, (0.5 * log_variance).exp())


def decoded(method, z, label):
    """Log-odds of the pixels, [..., pixels]; M2 is told the label by a column of ones."""
    if method.components is None:
        told = torch.zeros(*z.shape[:-1], method.num_clusters)
        told[..., label] = 1
        z = torch.cat((z, told), -1)
    return method.pixels.mean_logits(method.decoder(z)).flatten(-3)


def prior_of(method, label):
    if method.components is None:
        return Normal(torch.zeros(method.latent_dim), 1.0)
    mean, log_variance = method.components[label].chunk(2)
    return Normal(mean, (0.5 * log_variance).exp())


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("label", LABELS)
def test_the_objective_sums_over_every_label(label, num_samples):
    method = tiny_mixture(label=label, num_samples=num_samples)
    x = binary_images(5)
    terms = seeded_terms(method, x, seed=3)
    torch.manual_seed(3)
    noise = torch.randn(num_samples, 3, 5, 2)
    log_q_y = method.label_head(method.labeller(x.flatten(1))).log_softmax(1)
    elbo = torch.zeros(5)
    for y in range(3):
        q = posterior_of(method, x, y)
        logits = decoded(method, q.mean + q.stddev * noise[:, y], y)
        log_likelihood = (x.flatten(1) * logits - nn.functional.softplus(logits)).sum(-1).mean(0)
        kl = kl_divergence(q, prior_of(method, y)).sum(1)
        elbo += log_q_y[:, y].exp() * (log_likelihood - kl - math.log(3) - log_q_y[:, y])
    torch.testing.assert_close(terms["elbo"], elbo)
    torch.testing.assert_close(terms["loss"], -elbo)
    torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))


@pytest.mark.parametrize("label", LABELS)
def test_importance_weights_reach_the_likelihood_by_quadrature_and_the_bound_stays_below(label):
    method = tiny_mixture(0.3, (1, 2, 2), latent_dim=1, label=label, num_samples=3000)
    nn.init.constant_(method.posterior_head.linear.bias[1:], 1.5)  # wide: weights have no heavy tails
    x = binary_images(3, (1, 2, 2))
    z = torch.linspace(-12, 12, 4801)[:, None]
    with torch.no_grad():
        log_p = []
        for y in range(3):
            logits = decoded(method, z, y)[:, None]
            log_likelihood = (x.flatten(1) * logits - nn.functional.softplus(logits)).sum(-1)
            log_p.append(log_likelihood + prior_of(method, y).log_prob(z) - math.log(3))
        truth = torch.cat(log_p).double().exp().sum(0).mul(0.005).log()
        near = importance_bound(method.weigh, x, 200_000)
        elbo = method.loss(batch_of(x))["elbo"]
    torch.testing.assert_close(near.log_prob, truth, rtol=0, atol=0.01)
    assert (elbo < truth).all()
    torch.testing.assert_close(near.elbo.float(), elbo, rtol=0, atol=0.03)


def test_one_label_with_the_standard_component_is_a_vae():
    method = tiny_mixture(num_clusters=1)
    nn.init.zeros_(method.components)
    x = binary_images(4)
    terms = seeded_terms(method, x)
    q = posterior_of(method, x, 0)
    rate = 0.5 * (q.mean.square() + q.variance - q.variance.log() - 1).sum(1)
    torch.testing.assert_close(terms["rate"], rate)
    assert not terms["rate_y"].any()


# ---------------------------------------------------------------- where the label enters


def test_the_label_enters_the_prior_or_the_decoder_and_never_both():
    z, y = torch.randn(3, 2), torch.arange(3)
    mixture, m2 = tiny_mixture(), tiny_mixture(label="decoder")
    assert mixture.prior(y).batch_shape == (3,)
    assert m2.prior(y).batch_shape == ()
    assert torch.equal(mixture.likelihood(z, y).mean, mixture.likelihood(z, y.flip(0)).mean)
    assert not torch.equal(m2.likelihood(z, y).mean, m2.likelihood(z, y.flip(0)).mean)


@pytest.mark.parametrize("label", LABELS)
def test_samples_of_a_label_are_its_own(label):
    method = tiny_mixture(label=label)
    if label == "prior":
        nn.init.constant_(method.components, -20.0)
        with torch.no_grad():
            method.components[:, :2] = torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, -3.0]])
    y = torch.arange(3).repeat_interleave(400)
    means = method.sample_given(y).flatten(1).unflatten(0, (3, 400)).mean(1)
    alone = torch.stack([method.sample_given(torch.full((400,), c)).flatten(1).mean(0) for c in range(3)])
    assert torch.equal(torch.cdist(means, alone).argmin(1), torch.arange(3))
    whole = method.sample(6000).flatten(1).mean(0)
    torch.testing.assert_close(whole, alone.mean(0), rtol=0, atol=0.05)


def blocks(n):
    """Four kinds of 4 x 4 images, a quarter of each lit, every pixel flipped with chance .05."""
    kind = torch.arange(n) % 4
    x = torch.zeros(n, 1, 4, 4)
    for quarter in range(4):
        row, column = 2 * (quarter // 2), 2 * (quarter % 2)
        x[kind == quarter, :, row : row + 2, column : column + 2] = 1
    return (x - (torch.rand_like(x) < 0.05).float()).abs(), kind


def information(label):
    """KL(q(y|x) || 1/4) in nats after 300 steps: log 4 where the four kinds are told apart, 0 in collapse."""
    x, _ = blocks(1000)
    method = ExplicitMixture((1, 4, 4), num_clusters=4, label=label, latent_dim=16, hidden_dims=(32,))
    optimizer = torch.optim.Adam(method.parameters(), 5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        method.loss(batch_of(x[torch.randint(len(x), (100,))]))["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float(method.loss(batch_of(x))["rate_y"].mean())


def test_a_mixture_tells_kinds_apart_and_m2_does_without():
    assert information("prior") > 0.8 * math.log(4)
    assert information("decoder") < 0.2 * math.log(4)


# ---------------------------------------------------------------- codes


@pytest.mark.parametrize("label", LABELS)
def test_means_and_variances_are_those_of_draws(label):
    method = tiny_mixture(label=label)
    x = binary_images(2)
    (mean,) = method.posterior_means(x)
    y = method.cluster(x).exp().multinomial(100_000, replacement=True).T
    q = method.posterior(x)
    drawn = (q.mean + q.stddev * torch.randn(100_000, *q.mean.shape[1:])[:, None])[
        torch.arange(100_000)[:, None], y, torch.arange(2)
    ].mean(0)
    torch.testing.assert_close(mean, drawn.detach(), rtol=0.05, atol=0.03)
    z = method.prior(torch.randint(3, (200_000,))).expand((200_000,)).sample()
    torch.testing.assert_close(method.prior_variance(0), z.var(0), rtol=0.05, atol=0)


@pytest.mark.parametrize("label", LABELS)
def test_a_reconstruction_is_that_of_the_likeliest_label(label):
    method = tiny_mixture(label=label)
    x = binary_images(5)
    for image, found in zip(x, method.reconstruct(x), strict=True):
        y = int(method.cluster(image[None]).argmax())
        z = method.posterior(image[None]).mean[y]
        torch.testing.assert_close(found.flatten(), decoded(method, z, y)[0].sigmoid())


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 0}, "num_clusters must be at least 1, got 0"),
        ({"hidden_dims": (0,)}, r"hidden_dims must be positive, got \(0,\)"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        ExplicitMixture(**settings)
