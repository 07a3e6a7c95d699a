"""Facts of the Gaussian mixture VAE: bound, floor, Bayes' rule, styles, clusters."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence
from variational_models import SHAPE, batch_of, binary_images, scrambled, seeded_gradients, seeded_terms

from zoo.errors import UsageError
from zoo.methods.variational.gmvae import GMVAE
from zoo.parts.estimators import free_bits, importance_bound

TINY = {"num_clusters": 3, "latent_dim": 2, "style_dim": 2, "hidden_dims": (16,), "prior_hidden_dim": 8}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny_gmvae(std=0.5, image_shape=SHAPE, **settings):
    return scrambled(GMVAE(image_shape, **TINY | settings), std)


def parts_by_hand(method, x, seed):
    """Log p(x|z), KL(q(z|x) || p(z|w,y)), log p(y|z,w) and KL(q(w|x) || N(0, I)), draw by draw."""
    latent_dim = method.sizes[0]
    torch.manual_seed(seed)
    mean, log_variance = method.posterior_head.linear(method.encoder(x.flatten(1))).chunk(2, 1)
    std = (0.5 * log_variance).exp()
    noise = torch.randn(method.num_samples, *mean.shape)
    q_w, standard = Normal(mean[:, latent_dim:], std[:, latent_dim:]), Normal(0.0, 1.0)
    found = []
    for draw in mean + std * noise:
        z, w = draw[:, :latent_dim], draw[:, latent_dim:]
        logits = method.pixels.mean_logits(method.decoder(z))
        log_likelihood = (x * logits - nn.functional.softplus(logits)).flatten(1).sum(1)
        heads = method.component_head(torch.tanh(method.style_network[0](w)))
        kl, log_density = [], []
        for head in heads.split(2 * latent_dim, 1):
            p = Normal(head[:, :latent_dim], (0.5 * head[:, latent_dim:].clamp(-6, 4)).exp())
            kl.append(kl_divergence(Normal(mean[:, :latent_dim], std[:, :latent_dim]), p).sum(1))
            log_density.append(p.log_prob(z).sum(1))
        found.append((log_likelihood, torch.stack(kl, 1), torch.stack(log_density, 1).log_softmax(1)))
    log_likelihood, kl, log_r = (torch.stack(column) for column in zip(*found, strict=True))
    return log_likelihood, kl, log_r, kl_divergence(q_w, standard).sum(1)


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("variant", ["v2", "cv"])
def test_the_objective_is_that_of_the_paper_draw_by_draw(variant, num_samples):
    method = tiny_gmvae(
        variant=variant, num_samples=num_samples, floor=0.0, label_weight=0.7, consistency_weight=0.3
    )
    x = binary_images(5)
    terms = seeded_terms(method, x, seed=3)
    log_likelihood, kl, log_r, rate_w = parts_by_hand(method, x, seed=3)
    r = log_r.exp()
    if variant == "v2":
        share, label = r, (r * (log_r + math.log(3))).sum(2).mean(0)
        penalty = label.mean()
    else:
        log_q = method.label_head(method.encoder(x.flatten(1))).log_softmax(1)
        share, label = log_q.exp(), (log_q.exp() * (log_q + math.log(3))).sum(1)
        penalty = 0.7 * label - 0.3 * (r * log_r).sum(2).mean(0)
    rest = (share * kl).sum(2).mean(0) + rate_w - log_likelihood.mean(0)
    torch.testing.assert_close(terms["elbo"], -(rest + label))
    torch.testing.assert_close(terms["loss"], rest + penalty)
    torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]))
    torch.testing.assert_close(terms["rate_w"], rate_w)


def test_one_cluster_is_a_vae_of_two_levels():
    method = tiny_gmvae(num_clusters=1)
    x = binary_images(4)
    terms = seeded_terms(method, x, seed=2)
    log_likelihood, kl, _, rate_w = parts_by_hand(method, x, seed=2)
    torch.testing.assert_close(terms["elbo"], log_likelihood[0] - kl[0, :, 0] - rate_w)
    assert not terms["rate_y"].any()


def test_importance_weights_reach_the_likelihood_by_quadrature_and_the_bound_stays_below():
    method = tiny_gmvae(0.4, (1, 2, 2), latent_dim=1, style_dim=1, num_samples=4000)
    nn.init.constant_(method.posterior_head.linear.bias[2:], 1.5)  # wide: weights have no heavy tails
    x = binary_images(3, (1, 2, 2))
    grid = torch.linspace(-7, 7, 281)
    w, z = torch.meshgrid(grid, torch.linspace(-12, 12, 481), indexing="ij")
    w, z = w.reshape(-1, 1, 1), z.reshape(-1, 1, 1)
    with torch.no_grad():
        p = method.components(w)
        log_p = p.log_prob(z.unsqueeze(-2)).exp().mean(-1).log() + Normal(0.0, 1.0).log_prob(w).sum(-1)
        truth = (log_p + method.likelihood(z).log_prob(x)).double().exp().sum(0).mul(0.05**2).log()
        near = importance_bound(method.weigh, x, 200_000).log_prob
        elbo = method.loss(batch_of(x))["elbo"]
        exact_labels = method.log_weights(x, 4000).mean(0)
    torch.testing.assert_close(near, truth, rtol=0, atol=0.02)
    assert (exact_labels < truth).all()
    assert (elbo < exact_labels + 0.02).all(), "r of one draw against the KL of all draws costs something"


# ---------------------------------------------------------------- the floor


def test_the_floor_is_under_the_mean_over_the_batch_and_stops_the_gradient_of_the_label_alone():
    method, x = tiny_gmvae(std=0.4), binary_images(20)
    method.floor = 0.0
    rate_y = seeded_terms(method, x)["rate_y"].detach()
    free = seeded_gradients(method, x)
    low, mean, high = (float(v) for v in (rate_y.min(), rate_y.mean(), rate_y.max()))
    assert low < 0.9 * mean < 1.1 * mean < high, "a floor under every image would be told from this one"

    def label_free():
        terms = seeded_terms(method, x)
        loss = (terms["loss"] - terms["rate_y"].mean()).mean()
        return torch.autograd.grad(loss, list(method.parameters()))

    without = dict(zip(free, label_free(), strict=True))
    for floor, wanted in ((0.9 * mean, free), (1.1 * mean, without)):
        method.floor = floor
        found = seeded_gradients(method, x)
        for name in free:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(free["component_head.weight"], without["component_head.weight"], atol=1e-5)


@pytest.mark.parametrize(("kl", "moves"), [(0.2, False), (0.8, True)])
def test_a_label_kl_below_half_a_nat_has_no_gradient(kl, moves):
    rate_y = torch.tensor([[0.0], [2 * kl]], requires_grad=True)
    (gradient,) = torch.autograd.grad(free_bits(rate_y, 0.5), rate_y)
    assert bool(gradient.any()) == moves


@pytest.mark.parametrize("variant", ["v2", "cv"])
def test_what_is_reported_has_neither_floor_nor_penalties(variant):
    x, reported = binary_images(6), []
    for floor, weight in ((0.0, 1.0), (5.0, 3.0)):
        torch.manual_seed(0)
        method = tiny_gmvae(variant=variant, floor=floor, label_weight=weight, consistency_weight=weight - 1)
        terms = seeded_terms(method, x)
        reported.append(terms["elbo"])
        assert torch.allclose(terms["loss"].mean(), -terms["elbo"].mean(), atol=1e-4) == (floor == 0)
    assert torch.equal(*reported)


# ---------------------------------------------------------------- the label's posterior


def test_bayes_rule_in_one_dimension_and_far_from_every_component():
    method = tiny_gmvae(latent_dim=1, num_clusters=2)
    w = torch.zeros(1, 2)
    p = method.components(w)
    (m1, m2), (s1, s2) = p.mean.flatten().tolist(), p.stddev.flatten().tolist()
    density = [math.exp(-0.5 * ((0.3 - m) / s) ** 2) / s for m, s in ((m1, s1), (m2, s2))]
    found = method.label_given(torch.tensor([[0.3]]), w)[0].exp()
    torch.testing.assert_close(found, torch.tensor(density) / sum(density))
    far = torch.tensor([[1000.0]])
    assert (p.log_prob(far) < -1e4).all()
    log_r = method.label_given(far, w)
    assert log_r.isfinite().all()
    torch.testing.assert_close(log_r.exp().sum(1), torch.ones(1))


def test_clusters_are_bayes_rule_at_the_means_or_the_network_of_the_first_version():
    x = binary_images(5)
    method = tiny_gmvae()
    z, w = method.posterior_means(x)
    assert torch.equal(method.cluster(x), method.label_given(z, w))
    assert torch.equal(method.encode(x), z)
    first = tiny_gmvae(variant="cv")
    wanted = Categorical(logits=first.label_head(first.encoder(x.flatten(1)))).probs
    torch.testing.assert_close(first.cluster(x).exp(), wanted)


def test_clusters_have_samples_of_their_own():
    method = tiny_gmvae(latent_dim=1)
    with torch.no_grad():
        method.component_head.weight.zero_()
        method.component_head.bias.copy_(torch.tensor([-4.0, -6, 0, -6, 4, -6]))
    y = torch.arange(3).repeat_interleave(50)
    images = method.sample_given(y).flatten(1)
    middle = method.decode(torch.tensor([[-4.0], [0.0], [4.0]])).flatten(1)
    assert torch.equal(torch.cdist(images, middle).argmin(1), y)
    shares = torch.cdist(method.sample(3000).flatten(1), middle).argmin(1).bincount() / 3000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.04)


def test_the_variance_of_codes_under_the_prior_is_that_of_its_draws():
    method = tiny_gmvae(std=1.0)
    z = method.prior().sample((200_000,))[:, :2]
    torch.testing.assert_close(method.prior_variance(0), z.var(0), rtol=0.1, atol=0)
    assert method.prior_variance(1) == 1


# ---------------------------------------------------------------- styles are used


def spiral(n):
    """Five arcs in a plane, seen by sixteen units that each like one place of it; and whose arc."""
    arm, along = torch.arange(n) % 5, torch.rand(n)
    angle, radius = 2 * math.pi * arm / 5 + 1.8 * along, 0.1 + 0.35 * along + 0.01 * torch.randn(n)
    points = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
    places = torch.rand(16, 2, generator=torch.Generator().manual_seed(1)) - 0.5
    return (-(torch.cdist(points, places) / 0.2).square()).exp().view(n, 1, 4, 4), arm


def test_styles_bend_eight_clusters_along_the_five_arcs_of_a_spiral():
    x, arm = spiral(2000)
    method = GMVAE(
        (1, 4, 4),
        num_clusters=8,
        latent_dim=8,
        style_dim=2,
        hidden_dims=(64, 64),
        prior_hidden_dim=64,
        likelihood="gaussian_fixed",
        sigma=0.05,
    )
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        method.loss(batch_of(x[torch.randint(len(x), (200,))]))["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        terms = method.loss(batch_of(x))
    counts = torch.zeros(8, 5)
    counts.index_put_((method.cluster(x).argmax(1), arm), torch.ones(len(x)), accumulate=True)
    assert float(terms["rate_w"].mean()) > 0.3
    assert float(terms["rate_y"].mean()) > 1
    assert float(counts.amax(1).sum() / len(x)) > 0.7


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 0}, "num_clusters must be at least 1, got 0"),
        ({"style_dim": 0}, "style_dim must be at least 1, got 0"),
        ({"prior_hidden_dim": 0}, "prior_hidden_dim must be at least 1, got 0"),
        ({"floor": -1.0}, "floor must not be negative, got -1.0"),
        ({"consistency_weight": -1.0}, "consistency_weight must not be negative, got -1.0"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        GMVAE(**settings)
