"""Facts of the Boltzmann machine: gradients, mean field and chains against sums over all states."""

import math
from itertools import pairwise

import pytest
import torch
from support import all_states, same, state, suited_digits, tiny, trainer

from zoo import from_pretrained
from zoo.contract.batch import Batch
from zoo.contract.capabilities import Side
from zoo.contract.saved import save_pretrained
from zoo.errors import UsageError
from zoo.methods.energy.boltzmann_machine import SCORED_AFTER
from zoo.parts.annealing.binary_pair import base_rates
from zoo.scores.evaluation import Evaluator

TINY = {"num_hidden": 6, "num_chains": 5, "walk_steps": 10}

SHAPE, D, H = (1, 2, 3), 6, 4


def machine(num_hidden=H, scale=0.7, **options):
    """A float64 machine with every coupling and bias from N(0, scale^2)."""
    method = tiny("BoltzmannMachine", SHAPE, num_hidden=num_hidden, **options).double()
    with torch.no_grad():
        for p in method.parameters():
            p.copy_(scale * torch.randn_like(p))
        method.weight.tril_(-1)
    return method


def scores(method) -> torch.Tensor:
    """-E of all settings of (v, h), written pair by pair from the weights: [2^N]."""
    s = all_states(len(method.weight))
    pairs = sum(method.weight[i, j] * s[:, i] * s[:, j] for i in range(len(method.weight)) for j in range(i))
    return pairs + s @ torch.cat((method.pixels.bias, method.bias))


def log_marginal(method) -> torch.Tensor:
    """log p(v) of all images, [2^D]; the visible units are the lowest digits of a setting's number."""
    score = scores(method)
    return (score.view(-1, 2**D).logsumexp(0) - score.logsumexp(0)).detach()


def pictures() -> torch.Tensor:
    return all_states(D).unflatten(1, SHAPE)


def batch_of(x: torch.Tensor) -> Batch:
    return Batch(x, torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)))


def gradients(method, value: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, [method.weight, method.pixels.bias, method.bias]))


# Learning.


def test_the_gradient_of_the_surrogate_counts_each_pair_once():
    """<s_i s_j> where the chains are less <s_i s_j> of the data with the hidden means, by hand."""
    method = machine()
    x = (torch.rand(7, *SHAPE) < 0.5).double()
    found = gradients(method, method.loss(batch_of(x))["loss"].mean())
    v = x.flatten(1)
    s = torch.cat((v, method.mean_field(v, method.mean_field_steps)), 1)
    chains = method.chains
    pairs = (chains.T @ chains / len(chains) - s.T @ s / len(s)).tril(-1)
    units = chains.mean(0) - s.mean(0)
    for one, two in zip(found, (pairs, units[:D], units[D:]), strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)


def test_of_a_fully_visible_machine_it_is_the_gradient_of_the_likelihood():
    method = machine(0)
    v = (torch.rand(5, D) < 0.5).double()
    log_z = scores(method).logsumexp(0)
    exact = gradients(method, log_z + method.energy_of(v).mean())
    p = scores(method).softmax(0).detach()
    found = gradients(method, method.energy_of(v).mean() - p @ method.energy_of(all_states(D)))
    for one, two in zip(found, exact, strict=True):
        torch.testing.assert_close(one, two, atol=1e-8, rtol=0)


def test_exact_gradients_recover_the_pairwise_moments_of_a_teacher():
    teacher, method = machine(0), machine(0, scale=0.1)
    states = all_states(D)
    p = scores(teacher).softmax(0).detach()
    optimizer = torch.optim.SGD([method.weight, method.pixels.bias], 0.2, momentum=0.9)
    for _ in range(2000):
        energies = method.energy_of(states)
        optimizer.zero_grad()
        ((p - (-energies).detach().softmax(0)) @ energies).backward()
        optimizer.step()
    moments = [states.T @ (w[:, None] * states) for w in (p, scores(method).softmax(0).detach())]
    torch.testing.assert_close(*moments, atol=1e-3, rtol=0)
    torch.testing.assert_close(method.theta[0], teacher.theta[0], atol=0.02, rtol=0)


def test_nothing_leaks_into_the_diagonal_in_a_hundred_updates():
    method = tiny("BoltzmannMachine", lr=0.1, weight_decay=0.1, momentum=0.5)
    data = suited_digits(method, batch_size=25)
    trainer(max_epochs=2, limit_train_batches=50, limit_val_batches=0).fit(method, datamodule=data)
    a = method.theta[0].detach()
    assert not a.diagonal().any()
    assert not method.weight.detach().triu().any()
    assert torch.equal(a, a.T)
    assert a.abs().sum() > 1


def test_chains_go_on_from_batch_to_batch_and_travel(tmp_path):
    method = tiny("BoltzmannMachine", num_chains=300)
    seen = []
    method.on_before_optimizer_step = lambda optimizer: seen.append(method.chains.clone())
    trainer(limit_train_batches=4, limit_val_batches=0).fit(method, datamodule=suited_digits(method))
    alike = [float((one == two).float().mean()) for one, two in pairwise(seen)]
    assert len(seen) == 4
    assert all(0.3 < share < 1 for share in alike)
    save_pretrained(method, tmp_path / "model")
    assert same(state(method), state(from_pretrained(tmp_path / "model")))


def test_it_starts_at_the_base_rates_and_only_once():
    method = tiny("BoltzmannMachine", num_chains=5000)
    data = suited_digits(method)
    data.setup()
    method.start_from(data)
    mean, n = data.mean_image().flatten(), len(data.originals("train"))
    torch.testing.assert_close(method.pixels.bias.detach(), ((n * mean + 1) / (n + 2)).logit())
    rates = torch.cat((base_rates(mean).sigmoid(), torch.full((6,), 0.5)))
    torch.testing.assert_close(method.chains.mean(0), rates, atol=0.04, rtol=0)
    before = state(method)
    method.start_from(data)
    assert same(before, state(method))


# Mean field and the bound.


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_bound_lies_below_the_truth_of_every_image(scale):
    method = machine(scale=scale)
    log_p = log_marginal(method)
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-9)
    bound = -method.energy(pictures()) - method.log_partition(2, 1).log_z
    assert (bound <= log_p + 1e-9).all()
    assert (bound < log_p - 1e-4).any(), "lateral connections make the posterior no product"
    assert method.energy_side is Side.UPPER


@pytest.mark.parametrize("num_hidden", [0, 1])
def test_the_bound_is_tight_where_the_posterior_is_a_product(num_hidden):
    method = machine(num_hidden)
    found = -method.energy(pictures()) - method.log_partition(2, 1).log_z
    atol = 1e-9 if num_hidden == 0 else 1e-5
    torch.testing.assert_close(found, log_marginal(method), atol=atol, rtol=0)
    assert method.energy_side is (Side.UPPER if num_hidden else Side.EXACT)


def test_hidden_means_solve_their_equations_lateral_terms_included_and_come_from_data_alone():
    method = machine(scale=0.5)
    v = all_states(D)
    means = method.mean_field(v, SCORED_AFTER)
    a, d = method.theta
    solved = (v @ a[:D, D:] + means @ a[D:, D:] + d[D:]).sigmoid()
    torch.testing.assert_close(means, solved.detach(), atol=1e-3, rtol=0)
    assert not torch.allclose(means, (v @ a[:D, D:] + d[D:]).sigmoid(), atol=0.05)
    method.chains.fill_(1)
    assert torch.equal(means, method.mean_field(v, SCORED_AFTER))


def test_damping_keeps_two_hidden_units_that_repel_each_other_from_oscillating():
    method = machine(2, scale=0.0)
    with torch.no_grad():
        method.weight[D + 1, D] = -12.0
        method.bias.fill_(6.0)
    means = method.mean_field(torch.zeros(1, D).double(), SCORED_AFTER, torch.tensor([[0.2, 0.3]]).double())
    again = method.mean_field(torch.zeros(1, D).double(), 1, means)
    torch.testing.assert_close(means, again, atol=1e-4, rtol=0)


def test_the_pseudo_likelihood_of_a_fully_visible_machine_is_that_of_its_conditionals():
    method = machine(0)
    log_p = log_marginal(method)
    v = all_states(D)
    number = torch.arange(2**D)
    exact = sum(log_p - torch.logaddexp(log_p, log_p[number ^ (1 << i)]) for i in range(D))
    torch.manual_seed(0)
    found = torch.stack([method.log_conditional(v, v[:, :0]) for _ in range(1000)]).mean(0)
    torch.testing.assert_close(found, exact, atol=0.5, rtol=0)


# Walks.


def test_long_runs_visit_images_as_often_as_the_model_says():
    method = machine(walk_steps=40)
    found = method.sample(20_000).flatten(1).double()
    assert set(found.unique().tolist()) == {0.0, 1.0}
    p = log_marginal(method).exp()
    moments = all_states(D).T @ (p[:, None] * all_states(D))
    torch.testing.assert_close(found.T @ found / len(found), moments, atol=0.015, rtol=0)
    assert len(list(method.walk(2))) == 20
    with pytest.raises(UsageError, match="n must be at least 1, got 0"):
        method.sample(0)


def test_repairs_are_drawn_from_the_models_conditional():
    method = machine(walk_steps=30)
    known = torch.arange(D) < 3
    x = (torch.rand(1, D) < 0.5).double()
    states, log_p = all_states(D), log_marginal(method)
    agree = (states[:, known] == x[:, known]).all(1)
    truth = (log_p.masked_fill(~agree, -math.inf).softmax(0) @ states)[~known]
    many, mask = (value.expand(20_000, -1).unflatten(1, SHAPE) for value in (x, known.double()))
    found = method.repair(many, mask, generator=torch.Generator().manual_seed(0)).flatten(1)
    torch.testing.assert_close(found[:, ~known].mean(0), truth, atol=0.015, rtol=0)


# Everything together.


@pytest.mark.parametrize("num_hidden", [0, 12])
def test_the_likelihood_of_unseen_digits_improves(num_hidden):
    options = {"lr": 0.05, "gibbs_steps": 2, "num_chains": 50}
    method = tiny("BoltzmannMachine", num_hidden=num_hidden, **options)
    data = suited_digits(method, batch_size=50)
    trainer(max_epochs=6, limit_val_batches=0).fit(method, datamodule=data)
    x = data.split("test").x
    torch.manual_seed(0)
    log_p = -method.energy(x).mean() - method.log_partition(50, 300).log_z
    p = base_rates(data.mean_image())
    alone = method.pixels.emission(p).log_prob(x).mean()
    assert float(log_p - alone) > 1


def test_samples_are_draws_and_a_parzen_row_says_so(tmp_path):
    method = tiny("BoltzmannMachine", walk_steps=2)
    evaluator = Evaluator(metrics=["parzen"], num_images=50, out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    how = evaluator.results.numbers["test/parzen"].protocol.how
    assert how.startswith("50 samples (draws), 359 test images")


@pytest.mark.parametrize(("num_hidden", "row"), [(0, "optimistic"), (6, "estimate")])
def test_a_score_says_whether_the_energy_is_a_bound(num_hidden, row, monkeypatch, tmp_path):
    method = tiny("BoltzmannMachine", num_hidden=num_hidden)
    monkeypatch.setattr(type(method), "partition_steps", 8)
    evaluator = Evaluator(metrics=["partition"], out=str(tmp_path / "results.json"))
    trainer(callbacks=[evaluator]).test(method, datamodule=suited_digits(method), verbose=False)
    how = evaluator.results.numbers[f"test/log_prob_{row}"].protocol.how
    assert how.endswith(
        "AIS, 100 chains, 8 distributions" + (", a bound on the energy" if num_hidden else "")
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_hidden": -1}, "num_hidden must be at least 0, got -1"),
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"gibbs_steps": 0}, "gibbs_steps must be at least 1, got 0"),
        ({"mean_field_steps": 0}, "mean_field_steps must be at least 1, got 0"),
        ({"walk_steps": 0}, "walk_steps must be at least 1, got 0"),
        ({"lr": 0.0}, r"lr must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(option, message):
    with pytest.raises(UsageError, match=message):
        tiny("BoltzmannMachine", **option)
