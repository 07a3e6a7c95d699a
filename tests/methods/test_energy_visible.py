"""Facts of visible units: densities, pseudo-likelihoods and constants of binary and Gaussian ones."""

import math

import pytest
import torch
from energy_models import SHAPE, D, H, batch_of, joint, rbm
from support import all_states
from torch.nn.functional import logsigmoid

from zoo.parts.annealing import enumeration
from zoo.parts.annealing.binary_pair import base_rates

# Free energies and constants.


def test_the_free_energy_sums_over_the_hidden_units():
    method = rbm()
    energy = method.energy(all_states(D).unflatten(1, SHAPE))
    torch.testing.assert_close(-energy, joint(method).logsumexp(1), atol=1e-9, rtol=0)
    both = joint(method).logsumexp((0, 1))
    torch.testing.assert_close((-energy).logsumexp(0), both, atol=1e-9, rtol=0)
    assert method.log_partition(2, 1).log_z == pytest.approx(both.item(), abs=1e-9)


@pytest.mark.parametrize(("shape", "num_hidden"), [(SHAPE, H), (SHAPE, 25), ((1, 5, 5), 6)])
def test_log_z_is_exact_where_either_layer_is_small(shape, num_hidden):
    method = rbm(shape=shape, num_hidden=num_hidden, scale=0.4)
    weight, b, c = (p.detach() for p in method.theta)
    if len(c) <= len(b):
        states = all_states(len(c))
        truth = (states @ c + torch.nn.functional.softplus(states @ weight + b).sum(1)).logsumexp(0)
    else:
        states = all_states(len(b))
        truth = (states @ b + torch.nn.functional.softplus(states @ weight.T + c).sum(1)).logsumexp(0)
    found = method.log_partition(2, 1)
    assert found.num_steps == 0
    assert found.log_z == pytest.approx(float(truth), abs=1e-9)


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_annealing_agrees_with_the_exact_constant(visible, monkeypatch):
    method = rbm(visible=visible, scale=0.5)
    with torch.no_grad():
        method.pixels.mean.uniform_(0.1, 0.9)
    truth = method.log_partition(2, 1).log_z
    monkeypatch.setattr(enumeration, "ENUMERABLE", 0)
    monkeypatch.setattr(enumeration, "ENUMERABLE", 0)
    found = method.log_partition(200, 1000)
    assert found.num_steps == 1000
    assert found.ess > 100
    assert found.log_z == pytest.approx(truth, abs=0.1)


def test_annealing_starts_at_the_training_images_base_rates(monkeypatch):
    """Without weights that start is the model: every chain is exact."""
    method = rbm()
    monkeypatch.setattr(enumeration, "ENUMERABLE", 0)
    with torch.no_grad():
        method.weight.zero_()
        method.pixels.mean.uniform_(0.1, 0.9)
        method.pixels.bias.copy_(base_rates(method.pixels.mean))
        method.bias.zero_()
    found = method.log_partition(10, 3)
    assert found.error < 1e-12
    truth = H * math.log(2) + float(torch.nn.functional.softplus(method.pixels.bias.detach()).sum())
    assert found.log_z == pytest.approx(truth, abs=1e-9)


def plane(low: float, high: float, n: int = 801):
    """A square grid of points [n^2, 2] and the log of the area of a cell."""
    line = torch.linspace(low, high, n, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    return points, 2 * math.log(float(line[1] - line[0]))


def test_a_gaussian_machine_is_a_density_of_images():
    method = rbm(visible="gaussian", shape=(1, 1, 2), num_hidden=3)
    weight, b, c = (p.detach() for p in method.theta)
    v, log_cell = plane(-12, 12)
    h = all_states(3)
    scores = v @ weight @ h.T + h @ b - 0.5 * (v - c).square().sum(1, keepdim=True)
    log_z = method.log_partition(2, 1)
    assert log_z.num_steps == 0
    assert log_z.log_z == pytest.approx(float((scores + log_cell).logsumexp((0, 1))), abs=1e-6)
    torch.testing.assert_close(-method.free_energy(v), scores.logsumexp(1))
    x, log_cell = plane(-5, 6)
    log_p = -method.energy(x.unflatten(1, (1, 1, 2))) - log_z.log_z
    assert (log_p + log_cell).logsumexp(0).item() == pytest.approx(0.0, abs=1e-6)


# The monitor.


def test_the_pseudo_likelihood_of_binary_units_is_that_of_the_enumerated_conditionals():
    method = rbm()
    states, log_p = all_states(D), joint(method).logsumexp(1).detach()
    v = states[123:124]
    exact = []
    for i in range(D):
        flipped = v.clone()
        flipped[0, i] = 1 - flipped[0, i]
        other = int((flipped[0] * 2 ** torch.arange(D)).sum())
        exact.append(float(logsigmoid(log_p[123] - log_p[other])))
    terms = method.loss(batch_of(v.repeat(20_000, 1)))
    values = terms["pseudo_log_prob"]
    assert not values.requires_grad
    assert float(values.mean()) == pytest.approx(sum(exact), abs=0.15)
    for value in values.unique():
        assert min(abs(float(value) / D - e) for e in exact) < 1e-9
    assert len(values.unique()) == D


def test_the_pseudo_likelihood_of_gaussian_units_is_that_of_a_fine_grid():
    method = rbm(visible="gaussian", shape=(1, 1, 4), num_hidden=6)
    v = torch.randn(1, 4, dtype=torch.float64)
    line = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    exact = []
    for i in range(4):
        along = v.repeat(len(line), 1)
        along[:, i] = line
        log_z = (-method.free_energy(along)).logsumexp(0) + math.log(float(line[1] - line[0]))
        exact.append((-method.free_energy(v) - log_z).item())
    x = (method.pixels.mean + method.pixels.std * v).repeat(2000, 1)
    values = method.loss(batch_of(x, (1, 1, 4)))["pseudo_log_prob"] + method.pixels.log_volume
    assert len(values.detach().mul(1e6).round().unique()) == 4
    for value in values.unique():
        assert min(abs(float(value) / 4 - e) for e in exact) < 1e-4


# Codes and repairs.


def test_codes_are_hidden_means_and_go_back_to_visible_ones():
    method = rbm()
    x = (torch.rand(3, *SHAPE) < 0.5).double()
    weight, b, c = (p.detach() for p in method.theta)
    code = (x.flatten(1) @ weight + b).sigmoid()
    torch.testing.assert_close(method.encode(x), code)
    image = (code @ weight.T + c).sigmoid().float()
    torch.testing.assert_close(method.decode(code).flatten(1), image)
    assert torch.equal(method.reconstruct(x), method.decode(method.encode(x)))
