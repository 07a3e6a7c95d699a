"""Facts of the nCRP-VAE: rates, gradients, the tree in the bound, the outer pass, bags, a hierarchy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from support import batch, images, same, state, suited_digits, tiny, trainer
from torch.distributions import Independent, Normal, kl_divergence

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.saved import save_pretrained
from zoo.data.facts import Facts
from zoo.data.modules import ImageData
from zoo.data.sets import Digits
from zoo.data.sources import Example, Source, made
from zoo.errors import UsageError
from zoo.methods.variational.ncrp_vae import NCRPVAE
from zoo.methods.variational.shared.tree import Coded
from zoo.methods.variational.vae import VAE
from zoo.scores.sections.trees import paths

TINY = {
    "latent_dim": 3,
    "hidden_dims": (6,),
    "branching": (2, 2),
    "node_std": 2.0,
    "concentration": 1.0,
    "pretrain_epochs": 1,
    "num_sweeps": 2,
}


def planted(num_bags: int = 1, **options) -> NCRPVAE:
    """A tiny method whose tree has seen forty codes."""
    method = tiny("NCRPVAE", by_bag=num_bags > 1, **options)
    mean = 2 * torch.randn(40, 3).double()
    codes = Coded(mean, torch.rand(40).double(), torch.arange(40) % num_bags)
    method.tree.regroup(num_bags)
    method.tree.plant(mean)
    for _ in range(3):
        method.tree.sweep(codes)
    return method


def test_before_the_tree_it_is_a_vae():
    """With the prior's scale for that of its codes: the same terms from the same draws."""
    method = tiny("NCRPVAE")
    vae = VAE((1, 8, 8), latent_dim=3, hidden_dims=(6,))
    vae.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("tree")})
    wide = Independent(Normal(torch.zeros(3), (1 + 2 * 2.0**2) ** 0.5), 1)
    data = batch()
    torch.manual_seed(2)
    found = method.loss(data)
    torch.manual_seed(2)
    plain = vae.loss(data)
    torch.testing.assert_close(found["distortion"], plain["distortion"])
    torch.testing.assert_close(found["rate"], kl_divergence(method.posterior(data.x), wide))
    torch.testing.assert_close(found["elbo"], -(found["rate"] + found["distortion"]))


def test_a_tree_of_one_leaf_at_the_root_is_the_bound_of_a_plain_vae():
    """Depth one, node_std near 0: neither assignment nor tree costs anything that is left out elsewhere."""
    method = planted(branching=(1,), node_std=1e-5)
    vae = VAE((1, 8, 8), latent_dim=3, hidden_dims=(6,))
    vae.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("tree")})
    data, found = batch(), []
    for one in (method, vae):
        torch.manual_seed(1)
        found.append(one.loss(data)["elbo"])
        torch.manual_seed(1)
        found.append(one.log_weights(data.x, 5))
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], found[3], atol=1e-4, rtol=0)


def test_the_rate_is_the_specified_sum_and_its_gradient_stops_at_the_assignments():
    method, x = planted(), images()
    q = method.posterior(x)
    mu, variance = q.mean.double(), q.variance.double()
    tree, leaf = method.tree, method.tree.leaf
    a, t, s2, d = tree.mean[leaf], tree.variance[leaf], 1.0, 3
    squares = (mu[:, None] - a).square().sum(-1) + variance.sum(-1, keepdim=True) + d * t
    log_pi = tree.log_weight[:, leaf]
    phi = (log_pi - squares / (2 * s2)).softmax(1).detach()
    parts = squares / (2 * s2) + d / 2 * np.log(s2) - log_pi + phi.log()
    expected = (phi * parts).sum(1) - 0.5 * (1 + variance.log()).sum(-1)
    terms = method.loss(Batch(x, torch.zeros(6).long(), torch.arange(6)))
    torch.testing.assert_close(terms["rate"].double(), expected, atol=1e-5, rtol=1e-5)
    weight = method.posterior_head.linear.weight
    (own,) = torch.autograd.grad(terms["rate"].sum(), weight, retain_graph=True)
    (specified,) = torch.autograd.grad(expected.sum(), weight)
    torch.testing.assert_close(own, specified, atol=1e-5, rtol=1e-4)


def test_the_tree_is_in_the_reported_bound_shared_out_over_the_training_images():
    method, data = planted(), batch()
    share = float(method.tree.kl) / 40
    assert share > 0.01
    terms = method.loss(data)
    torch.testing.assert_close(terms["elbo"], -(terms["rate"] + terms["distortion"]) - share)
    torch.testing.assert_close(terms["loss"], terms["rate"] + terms["distortion"])
    torch.manual_seed(0)
    weights = method.weigh(data.x, 7)
    torch.manual_seed(0)
    q = method.posterior(data.x)
    z = q.rsample((7,))
    ratio = method.prior().log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(weights.log_ratio, ratio - share)


def test_the_bound_of_the_loss_is_below_that_of_the_weights():
    """The one takes the best assignment per image and means over the tree inside the logarithm, outside."""
    method, x = planted(), images(n=4)
    torch.manual_seed(0)
    by_weights = method.log_weights(x, 5000).mean(0)
    data = Batch(x, torch.zeros(4).long(), torch.arange(4))
    by_loss = method.loss(Batch(*(column.repeat_interleave(2000, 0) for column in data)))["elbo"]
    by_loss = by_loss.view(4, 2000).mean(1)
    assert (by_loss < by_weights + 0.1).all()


def test_clusters_are_the_assignments_of_the_leaves():
    method, x = planted(), images()
    log_q = method.cluster(x)
    assert log_q.shape == (6, 4)
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(6))
    q = method.posterior(x)
    weights = method.tree.log_mean_weight(method.tree.mass)
    score = method.tree.scores(q.mean.double(), q.variance.sum(1).double(), weights)
    torch.testing.assert_close(log_q.double(), score[:, method.tree.leaf].log_softmax(1), atol=1e-5, rtol=0)


def test_the_hierarchy_has_the_images_of_the_means():
    method = planted()
    parent, pictures = method.hierarchy()
    assert parent.tolist() == [-1, 0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(pictures, method.decode(method.tree.mean.float()))
    assert paths(method.hierarchy()).tolist() == [[1, 1, 2, 2], [3, 4, 5, 6]]
    lone = tiny("NCRPVAE").hierarchy()
    assert lone.parent.tolist() == [-1]
    assert lone.images.shape == (1, 1, 8, 8)


def fitted(data=None, epochs: int = 2, **options) -> NCRPVAE:
    method = tiny("NCRPVAE", **options)
    data = data or Digits(binarize="threshold", batch_size=100)
    trainer(max_epochs=epochs, limit_train_batches=4, limit_val_batches=0).fit(method, datamodule=data)
    return method


def mean_bound(method: NCRPVAE) -> float:
    """Of all training images but for the reconstruction, in nats per image."""
    data = method.trainer.datamodule.split("train")
    with torch.no_grad():
        q = method.posterior(data.x)
        score = method.scores(q, method.tree.log_weight)
        log_phi = score.log_softmax(1)
        rate = (log_phi.exp() * (log_phi - score)).sum(1) - q.entropy().double()
    return -float(rate.mean() + method.tree.kl / method.tree.num_codes)


def test_the_outer_pass_reads_the_codes_of_the_network_as_it_is():
    """After a pass that settled another changes nothing; after a step of the network it does."""
    method = fitted(Digits(binarize="threshold", subset=300), num_sweeps=300)
    assert float(method.tree.mass.sum()) == pytest.approx(300)
    before = mean_bound(method)
    method.tend()
    assert abs(mean_bound(method) - before) < 1e-6
    with torch.no_grad():
        method.posterior_head.linear.bias += 0.5
    worse = mean_bound(method)
    method.tend()
    assert mean_bound(method) > worse + 1e-3


def test_the_tree_is_planted_after_the_start_and_follows_every_epoch():
    seen = []

    class Watch(NCRPVAE):
        def tend(self):
            seen.append((self.current_epoch, self.trainer.is_last_batch))
            super().tend()

    torch.manual_seed(0)
    method = Watch((1, 8, 8), **TINY | {"pretrain_epochs": 2})
    trainer(max_epochs=4, limit_train_batches=3).fit(method, datamodule=suited_digits(method))
    assert seen == [(1, True), (2, True), (3, True)]
    assert method.tree.planted


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_goes_on_as_if_it_had_not_stopped(stop, tmp_path):
    options = {"pretrain_epochs": 2, "lr_schedule": "constant"}
    whole, part = fitted(Digits(), epochs=4, **options), tiny("NCRPVAE", **options)
    first = trainer(max_epochs=4, limit_train_batches=4, limit_val_batches=0)
    first.fit_loop.max_epochs = stop
    first.fit(part, datamodule=Digits())
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = tiny("NCRPVAE", **options)
    trainer(max_epochs=4, limit_train_batches=4, limit_val_batches=0).fit(
        again, datamodule=Digits(), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert same(state(whole), state(again))


@pytest.mark.parametrize("num_bags", [1, 3])
def test_a_saved_tree_gives_the_same_bound_and_the_same_clusters(num_bags, tmp_path):
    """Of the bags of training images nothing is published, for new images are in none of them."""
    method, data = planted(num_bags).eval(), batch()
    loaded = from_pretrained(save_pretrained(method, tmp_path / "model"))
    assert same(state(method), state(loaded)) == (num_bags == 1)
    values = []
    for one in (method, loaded):
        torch.manual_seed(0)
        values.append((one.loss(data)["elbo"], one.cluster(data.x), one.log_prob(data.x, 5)))
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_growth_and_pruning_happen_at_the_end_of_an_epoch():
    grown = fitted(epochs=4, branching=(2,), spare_nodes=3, grow_above=0.01)
    assert int(grown.tree.leaf.sum()) == 5
    assert grown.cluster(images()).shape == (6, 5)
    pruned = fitted(epochs=2, branching=(4, 4), prune_below=0.08)
    share = pruned.tree.mass.sum(0)[pruned.tree.leaf] / 1295
    assert 1 < len(share) < 16
    assert len(pruned.hierarchy().parent) < 21
    assert float(share.sum()) == pytest.approx(1)


def test_bags_have_sticks_of_their_own():
    data = Digits(binarize="threshold", batch_size=100, bag_size=15)
    method = fitted(data, by_bag=True)
    tree = method.tree
    assert torch.equal(tree.mass.sum(1).round().long(), data.bag_of(torch.arange(1295)).bincount())
    assert float(tree.log_weight.std(0)[tree.leaf].min()) > 0.01
    tree.settle(15 * torch.rand_like(tree.mass) * tree.leaf, torch.zeros_like(tree.mean))
    x = data.split("train", 6)
    twins = Batch(x.x[:1].expand(2, -1, -1, -1), x.y[:2], x.row[:2])
    assert not torch.equal(*method.bags[twins.row])
    method.loss(twins)
    rates = []
    for training in (True, False):
        torch.manual_seed(0)
        rates.append(method.train(training).loss(twins)["rate"].detach())
    assert float((rates[0][0] - rates[0][1]).abs()) > 1e-3
    torch.testing.assert_close(rates[1][0], rates[1][1])  # images that are new belong to no bag
    weights = tree.log_mean_weight(method.new_group()[None])[0, tree.leaf].exp()
    torch.testing.assert_close(weights, torch.full((4,), 0.25).double())  # E v = 1/2 under Beta(1, 1)


def test_bags_come_with_the_data_and_with_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="bags need bag_size, got none"):
        tiny("NCRPVAE", by_bag=True).start_from(Digits())
    data, options = Digits(bag_size=100, subset=250), {"by_bag": True, "lr_schedule": "constant"}
    whole = fitted(data, epochs=3, **options)
    assert whole.tree.mass.sum(1).round().tolist() == [100, 100, 50]
    part, fitting = tiny("NCRPVAE", **options), trainer(max_epochs=2, limit_val_batches=0)
    fitting.limit_train_batches = 4
    fitting.fit(part, datamodule=data)
    fitting.save_checkpoint(tmp_path / "part.ckpt")
    checkpoint = torch.load(tmp_path / "part.ckpt", weights_only=True)
    bare = tiny("NCRPVAE", **options)
    bare.on_load_checkpoint(checkpoint)
    bare.load_state_dict(checkpoint["state_dict"])
    assert same(state(bare), state(part))


@dataclass(frozen=True)
class FamilySource(Source):
    """Three parents of three children, Gaussians of six dimensions, through a frozen random network."""

    @property
    def name(self) -> str:
        return "families"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 8, 8)

    def fingerprint(self) -> str:
        return "900 of std 6, 2, 0.5"

    def examples(self) -> Iterator[Example]:
        stream = np.random.default_rng(0)
        parents = 6 * stream.standard_normal((3, 1, 6))
        children = (parents + 2 * stream.standard_normal((3, 3, 6))).reshape(9, 6)
        first = 0.15 * stream.standard_normal((6, 64)) / 6**0.5
        second = stream.standard_normal((64, 64)) / 8
        for split, n in {"train": 900, "test": 450}.items():
            y = np.arange(n) % 9
            z = children[y] + 0.5 * stream.standard_normal((n, 6))
            x = (np.tanh(np.tanh(z @ first) @ second) + 1) / 2
            yield from made(split, (255 * x).round().astype(np.uint8).reshape(-1, 1, 8, 8), y)


class Families(ImageData):
    """The hierarchy that is known."""

    facts = Facts(
        name="families",
        called="Families",
        title="a hierarchy of Gaussians",
        licence="MIT",
        citation="Made here.",
        classes=tuple("abcdefghi"),
        sizes=(900, 450),
    )

    @property
    def source(self) -> Source:
        return FamilySource(self.pad)


def test_both_levels_of_a_known_hierarchy_are_found():
    torch.manual_seed(0)
    method = NCRPVAE(
        (1, 8, 8),
        latent_dim=6,
        hidden_dims=(64,),
        branching=(3, 3),
        likelihood="gaussian_fixed",
        sigma=0.03,
        node_std=2.0,
        leaf_std=0.2,
        concentration=1.0,
        pretrain_epochs=12,
        lr=3e-3,
    )
    data = Families(binarize="none", batch_size=50, num_validation=0)
    trainer(max_epochs=20, limit_val_batches=0).fit(method, datamodule=data)
    test = data.split("test")
    leaf = method.eval().cluster(test.x).argmax(1)
    upper, lower = paths(method.hierarchy())
    assert adjusted_rand_score(test.y, lower[leaf]) >= 0.95
    assert adjusted_rand_score(test.y // 3, upper[leaf]) >= 0.95
    assert len(leaf.unique()) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"branching": (4, 0)}, "branching must be at least 1, got 0"),
        ({"branching": ()}, "branching must be at least 1, got 0"),
        ({"pretrain_epochs": 0}, "pretrain_epochs must be at least 1, got 0"),
        ({"num_sweeps": 0}, "num_sweeps must be at least 1, got 0"),
        ({"spare_nodes": -1}, "spare_nodes must be at least 0, got -1"),
        ({"node_std": 0.0}, "node_std must be positive, got 0.0"),
        ({"leaf_std": -1.0}, "leaf_std must be positive, got -1.0"),
        ({"concentration": 0.0}, "concentration must be positive, got 0.0"),
        ({"grow_above": 0.0}, "grow_above must be positive, got 0.0"),
        ({"prune_below": 1.0}, "prune_below must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        NCRPVAE(**options)
