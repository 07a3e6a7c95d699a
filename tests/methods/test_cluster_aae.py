"""Facts of the adversarial autoencoder that clusters."""

import pytest
import torch
from support import images, tiny

from zoo.errors import UsageError
from zoo.methods.adversarial.cluster_aae import ClusterAAE

TINY = {
    "num_clusters": 5,
    "latent_dim": 3,
    "hidden_dims": (16,),
    "optimizer": "adam",
    "reconstruction_lr": 1e-3,
    "adversarial_lr": 1e-3,
}


def test_a_cluster_is_a_category_of_its_own_in_the_order_in_which_it_is_drawn():
    method, x = tiny("ClusterAAE"), images(n=7)
    assert method.num_categories == 5
    torch.testing.assert_close(method.cluster(x).exp(), method.encode(x)[:, :5])
    y = torch.arange(5)
    assert torch.equal(method.draw(y)[:, :5], torch.eye(5))


def test_labels_are_not_looked_at():
    method, z = tiny("ClusterAAE"), torch.randn(6, 8)
    losses = []
    for y in (torch.arange(6), torch.full((6,), -1)):
        torch.manual_seed(1)
        losses.append(method.discriminator_loss(z, y)["loss"])
    assert torch.equal(*losses)


def test_both_discriminators_judge_their_own_part_of_a_code():
    method = tiny("ClusterAAE")
    code = method.encode(images(n=4))
    category, style = code.clone(), code.clone()
    category[:, :5] = torch.eye(5)[:4]
    style[:, 5:] += 1
    logits = dict(zip(method.discriminator, method.logits(code, torch.full((4,), -1)), strict=True))
    for name, other, changed in (("category", category, "category"), ("style", style, "code")):
        found = dict(zip(method.discriminator, method.logits(other, torch.full((4,), -1)), strict=True))
        assert [key for key in found if not torch.equal(found[key], logits[key])] == [changed], name


def test_one_cluster_is_refused():
    with pytest.raises(UsageError, match="num_clusters must be at least 2, got 1"):
        ClusterAAE(num_clusters=1)
