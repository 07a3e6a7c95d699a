"""Facts of the stick-breaking autoencoder with few labels."""

import pytest
import torch
from support import batch, images, suited_digits, tiny, trainer
from variational_models import scrambled

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.variational.sbm2 import SBM2
from zoo.parts.estimators import importance_bound

TINY = {"num_classes": 10, "num_shares": 4, "hidden_dims": (8,)}


def small(**options):
    torch.manual_seed(0)
    method = SBM2((1, 2, 2), **TINY | {"num_classes": 3, "num_shares": 3} | options)
    start = method.head.linear.bias.clone()
    scrambled(method, 0.4).head.linear.bias.data.copy_(start)  # near the prior, where weights vary little
    return method


@torch.no_grad()
@pytest.mark.parametrize("posterior", ["kumaraswamy", "gaussian"])
def test_the_bound_converges_to_the_likelihood_by_quadrature_over_codes_and_labels(posterior):
    method, x = small(posterior=posterior), images((1, 2, 2), 3)
    grid = (torch.arange(60) + 0.5) / 60
    v = torch.cartesian_prod(grid, grid) if posterior == "kumaraswamy" else None
    if v is None:
        line = torch.linspace(-4, 4, 41)
        v = torch.cartesian_prod(line, line, line)
    log_p = method.sticks().log_prob(v)
    log_p = log_p - log_p.logsumexp(0)
    every = []
    for y in range(3):
        likelihood = method.likelihood(method.code(v), torch.full((len(v),), y))
        every.append(log_p[:, None] + torch.stack([likelihood.log_prob(image) for image in x], 1))
    truth = torch.cat(every).logsumexp(0) - torch.tensor(3.0).log()
    near = importance_bound(method.weigh, x, 30_000)
    torch.testing.assert_close(near.log_prob.float(), truth, rtol=0, atol=0.03)


@torch.no_grad()
def test_the_bound_without_a_label_is_the_mean_log_weight_of_drawn_labels():
    method, x = small(), images((1, 2, 2), 2)
    repeated = x.repeat_interleave(20_000, 0)
    withheld = Batch(repeated, torch.full((40_000,), -1), torch.arange(40_000))
    found = method.loss(withheld)["bound"].view(2, -1).mean(1)
    torch.testing.assert_close(found, method.weigh(x, 20_000).log_w.mean(0), rtol=0, atol=0.03)


def test_a_label_counts_in_its_own_bound_and_in_the_classifier():
    method, x = small(supervised_weight=0.5), images((1, 2, 2), 4)
    method.labelled_share.fill_(0.25)
    y = torch.tensor([2, -1, 0, -1])
    torch.manual_seed(1)
    terms = method.loss(Batch(x, y, torch.arange(4)))
    log_q = method.classify(x)
    surprise = -torch.stack([log_q[0, 2], log_q[2, 0]])
    torch.testing.assert_close(terms["surprise"], surprise.mean())
    torch.testing.assert_close(terms["loss"][[0, 2]] + terms["bound"][[0, 2]], 2 * surprise)
    assert torch.equal(terms["bound"][[1, 3]], terms["elbo"][[1, 3]])
    assert torch.equal(terms["loss"][[1, 3]], -terms["elbo"][[1, 3]])


def test_a_withheld_label_is_never_read():
    method, x = small(), images((1, 2, 2), 4)
    weight = method.class_head.weight
    torch.manual_seed(1)
    loss = method.loss(Batch(x, torch.full((4,), -1), torch.arange(4)))["loss"].mean()
    assert torch.autograd.grad(loss, weight)[0].abs().sum() > 0, "the bound moves the classifier"


def test_labels_are_needed_and_counted():
    method = tiny("SBM2")
    data = Digits(labelled=100)
    data.setup()
    method.start_from(data)
    assert float(method.labelled_share) == pytest.approx(100 / 1295)
    with pytest.raises(UsageError, match="labels must be below num_classes: 2, got 9"):
        tiny("SBM2", num_classes=2).start_from(data)
    data.split = lambda _: Batch(batch().x, torch.full((6,), -1), torch.arange(6))
    with pytest.raises(UsageError, match="at least one image must have one, got 0"):
        method.start_from(data)


def test_codes_are_points_of_the_simplex_and_those_of_m2_are_not():
    code = tiny("SBM2").encode(images())
    torch.testing.assert_close(code.sum(1), torch.ones(6))
    assert tiny("SBM2", posterior="gaussian").encode(images()).shape == (6, 4)


def test_it_learns_to_classify_from_few_labels():
    method = tiny("SBM2", hidden_dims=(64,), lr=3e-3)
    data = suited_digits(method, labelled=100, batch_size=50)
    trainer(max_epochs=4).fit(method, datamodule=data)
    test = data.split("test")
    with torch.no_grad():
        right = (method.classify(test.x).argmax(1) == test.y).float().mean()
    assert right > 0.5
