"""Facts of the Hopfield net."""

import runpy
from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image
from support import ROOT, all_states, tiny, trainer

from zoo.contract.batch import Batch
from zoo.data.sets import Digits
from zoo.errors import UsageError
from zoo.methods.energy.hopfield import Hopfield, states_of

TINY = {"num_patterns": 4, "rule": "projection", "thresholds": True}
RULES = [{"rule": rule, "thresholds": on} for rule in ("hebb", "projection") for on in (False, True)]


def random_states(n: int, dim: int) -> torch.Tensor:
    return 2.0 * torch.randint(2, (n, dim)).double() - 1


def net_of(weight, theta=None) -> Hopfield:
    """A net of given couplings, [D, D] and [D]."""
    net = Hopfield((1, 1, len(weight)), num_patterns=1)
    with torch.no_grad():
        net.weight.copy_(weight)
        net.theta.copy_(torch.zeros(len(weight)) if theta is None else theta)
    return net


def glass(dim: int) -> Hopfield:
    """Random couplings and thresholds: a rugged energy."""
    weight = torch.randn(dim, dim)
    return net_of((weight + weight.T).fill_diagonal_(0), torch.randn(dim))


def held(patterns: torch.Tensor, **options) -> Hopfield:
    """A net that holds patterns [P, D]."""
    net = Hopfield((1, 1, patterns.shape[1]), num_patterns=len(patterns), **options)
    net.store(patterns)
    return net


def recalled(net: Hopfield, s: torch.Tensor, **options) -> torch.Tensor:
    return deque(net.recall(s, **options), maxlen=1).pop().states


def energies(net: Hopfield, s: torch.Tensor) -> torch.Tensor:
    """E(s) by its definition, in float64."""
    weight, theta = net.weight.detach().double(), net.theta.detach().double()
    return -0.5 * torch.einsum("bi,ij,bj->b", s, weight, s) - s @ theta


def by_class(data: Digits, **options) -> Hopfield:
    """A net that has learnt from digits."""
    torch.manual_seed(0)
    net = Hopfield((1, 8, 8), **options)
    trainer().fit(net, datamodule=data)
    return net


# Storage.


def test_hebb_adds_up_outer_products_over_the_number_of_units():
    torch.manual_seed(0)
    xi = random_states(5, 12)
    expected = sum(np.outer(pattern, pattern) for pattern in xi.numpy()) / 12
    np.fill_diagonal(expected, 0)
    net = held(xi)
    np.testing.assert_allclose(net.weight.detach(), expected, atol=1e-7)
    assert not net.theta.any()
    s = random_states(7, 12)
    overlap = s @ xi.T / 12
    torch.testing.assert_close(net.energy_of(s), -6 * overlap.square().sum(1) + 2.5, atol=1e-6, rtol=0)


def test_the_projection_is_that_of_the_normal_equations_and_holds_patterns_that_are_alike():
    torch.manual_seed(0)
    xi = random_states(6, 40)
    xi[1:] = torch.where(torch.rand(5, 40) < 0.1, -xi[0], xi[0])
    expected = xi.T @ torch.linalg.inv(xi @ xi.T) @ xi
    net = held(xi, rule="projection")
    torch.testing.assert_close(net.weight.double(), expected.fill_diagonal_(0), atol=1e-6, rtol=0)
    assert torch.equal(recalled(net, xi), xi)
    assert not torch.equal(recalled(held(xi), xi), xi), "Hebb's rule mixes them up"
    twice = torch.cat((xi, xi[:2]))
    torch.testing.assert_close(held(twice, rule="projection").weight, net.weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", RULES)
def test_weights_are_symmetric_and_have_no_diagonal(options):
    torch.manual_seed(0)
    net = held(random_states(9, 30), **options)
    assert not net.weight.diagonal().any()
    assert torch.equal(net.weight, net.weight.T)
    assert bool(net.theta.any()) == options["thresholds"]


@pytest.mark.parametrize("rule", ["hebb", "projection"])
def test_thresholds_are_the_weights_of_a_unit_that_is_always_on(rule):
    """The energies are those of the net with one unit more, where that is on; negatives are held no more."""
    torch.manual_seed(0)
    xi = random_states(3, 8)
    net = held(xi, rule=rule, thresholds=True)
    wider = held(torch.cat((xi, torch.ones(3, 1)), 1), rule=rule)
    s = all_states(8) * 2 - 1
    scale = 9 / 8 if rule == "hebb" else 1.0
    expected = scale * energies(wider, torch.cat((s, torch.ones(256, 1)), 1))
    torch.testing.assert_close(net.energy_of(s), expected, atol=1e-5, rtol=0)
    assert (net.energy_of(xi) < net.energy_of(-xi)).any()
    without = held(xi, rule=rule)
    torch.testing.assert_close(without.energy_of(s), without.energy_of(-s))


def test_other_values_are_refused():
    net = Hopfield((1, 1, 4), num_patterns=2)
    with pytest.raises(UsageError, match="patterns must be -1 or 1, got 0"):
        net.store(torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    with pytest.raises(UsageError, match="probes must be -1 or 1, got 0"):
        next(net.recall(torch.zeros(1, 4).double()))
    with pytest.raises(UsageError, match=r"pixels must be 0 or 1, got 0\.5"):
        net.energy(torch.full((1, 1, 1, 4), 0.5))
    with pytest.raises(UsageError, match="pixels must be 0 or 1, got nan"):
        net.repair(torch.full((1, 1, 1, 4), torch.nan), torch.ones(1, 1, 1, 4))
    with pytest.raises(UsageError, match=r"Hopfield needs binary pixels, the data are real: .*binarize"):
        Hopfield((1, 8, 8)).refuse_unsuitable(Digits(binarize="none"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_patterns": 0}, "num_patterns must be at least 1, got 0"),
        (
            {"num_patterns": 64, "rule": "projection"},
            "num_patterns must be below the 64 pixels for rule: projection, got 64",
        ),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Hopfield((1, 8, 8), **options)


# Recall.


@pytest.mark.parametrize("make", [lambda: glass(40), lambda: tiny("Hopfield", (1, 5, 8))])
def test_energy_falls_with_every_flip_and_is_that_of_the_definition(make):
    torch.manual_seed(0)
    net = make()
    s = random_states(20, 40)
    before, last, steps = energies(net, s), s, 0
    for visits, states, now in net.recall(s):
        assert (now <= before + 1e-10).all()
        torch.testing.assert_close(now, energies(net, states), atol=1e-10, rtol=0)
        changed = states != last
        assert (changed.sum(0) > 0).sum() == (1 if visits else 0), "one unit at a time"
        assert torch.equal(changed.any(1), now < before - 1e-6)
        assert set(states.unique().tolist()) == {-1.0, 1.0}
        before, last, steps = now.clone(), states.clone(), steps + 1
    assert steps > 10


def test_recall_ends_in_the_local_minima_of_the_energy_by_enumeration():
    torch.manual_seed(0)
    net = glass(10)
    s = 2 * all_states(10) - 1
    energy = energies(net, s).numpy()
    neighbours = np.arange(1024)[:, None] ^ (1 << np.arange(10))
    minima = energy < energy[neighbours].min(1)
    end = recalled(net, s)
    place = ((end > 0).long() * 2 ** torch.arange(10)).sum(1).numpy()
    assert set(place) == set(np.flatnonzero(minima))
    assert 1 < minima.sum() < 100
    assert torch.equal(end[torch.from_numpy(minima)], s[torch.from_numpy(minima)])


def test_recall_is_that_of_a_loop_over_units_written_by_hand():
    torch.manual_seed(0)
    net, probe = glass(25), random_states(1, 25)
    weight, theta = net.weight.detach().double().numpy(), net.theta.detach().double().numpy()
    torch.manual_seed(7)
    end = recalled(net, probe)
    torch.manual_seed(7)
    s, flips = probe[0].numpy().copy(), True
    while flips:
        flips = False
        for i in torch.randperm(25).tolist():
            wanted = np.sign(weight[i] @ s + theta[i])
            if wanted not in (0, s[i]):
                s[i], flips = wanted, True
    np.testing.assert_array_equal(end[0], s)


def test_every_sweep_visits_all_units_in_a_fresh_order(monkeypatch):
    torch.manual_seed(0)
    net, orders = glass(30), []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n: orders.append(draw(n)) or orders[-1])
    visits = deque(net.recall(random_states(10, 30)), maxlen=1).pop().visits
    assert len(orders) == -(-visits // 30) + 1, "the last sweep flips nothing"
    assert all(torch.equal(order.sort().values, torch.arange(30)) for order in orders)
    assert not torch.equal(orders[0], orders[1])


def test_two_units_that_repel_each_other_come_to_rest():
    """Updated at once they would swing between both on and both off."""
    net = net_of(torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    end = recalled(net, torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]).double())
    assert (end.sum(1) == 0).all()
    assert end[2].tolist() == [1, -1]


def test_on_a_tie_a_unit_stays_as_it_is():
    s = random_states(6, 9)
    assert torch.equal(recalled(net_of(torch.zeros(9, 9)), s), s)
    weight = torch.zeros(4, 4)
    weight[0, 1:] = weight[1:, 0] = torch.tensor([0.1, 0.2, -0.3])
    rounded = net_of(weight)  # the field of the first unit is 0 but for the rounding of its weights
    s = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]]).double()
    assert 0 < abs(float(rounded.field(s)[0, 0])) < 1e-7
    others = torch.tensor([False, True, True, True]).expand(2, 4)
    assert torch.equal(recalled(rounded, s, held=others), s)


def test_a_random_state_is_rarely_a_fixed_point():
    torch.manual_seed(0)
    net, s = Hopfield((1, 1, 100), num_patterns=5), random_states(200, 100)
    assert not (recalled(net, s) == s).all(1).any()


def test_a_probe_does_not_feel_the_others():
    torch.manual_seed(0)
    net, s = glass(30), random_states(8, 30)
    together = recalled(net, s, generator=torch.Generator().manual_seed(1))
    alone = recalled(net, s[3:4], generator=torch.Generator().manual_seed(1))
    assert torch.equal(together[3:4], alone)


@pytest.mark.parametrize("seed", range(3))
def test_capacity_lies_between_a_tenth_and_a_fifth(seed):
    """N = 1000: at 0.10 nearly all patterns are recalled, at 0.20 nearly none (Amit et al. 1985)."""
    shares = {}
    for num_patterns in (100, 200):
        torch.manual_seed(seed)
        net = Hopfield((1, 1, 1000), num_patterns=num_patterns)
        xi = net.patterns[:40].double()
        shares[num_patterns] = float(((recalled(net, xi) * xi).mean(1) > 0.95).double().mean())
    assert shares[100] >= 0.98
    assert shares[200] <= 0.10


def test_damaged_patterns_are_completed():
    torch.manual_seed(0)
    net = Hopfield((1, 10, 20), num_patterns=8)
    x = net.picture(net.patterns)
    noisy = torch.where(torch.rand(x.shape) < 0.15, 1 - x, x)
    assert (net.picture(recalled(net, states_of(noisy))) == x).float().mean() > 0.99
    mask = torch.ones_like(x)
    mask[:, :, 5:] = 0
    assert (net.repair(x, mask) == x).float().mean() > 0.99
    wrong = x.clone()
    wrong[:, :, :5] = 1 - wrong[:, :, :5]
    assert torch.equal(net.repair(wrong, mask)[:, :, :5], wrong[:, :, :5]), "what is known is not corrected"


def test_independent_pixels_are_as_often_on_as_in_the_patterns():
    torch.manual_seed(0)
    xi = torch.ones(8, 4)
    xi[:6, 1] = -1
    net = held(xi)
    net.patterns.copy_(xi)
    on = (net.random_states(20_000) > 0).double().mean(0)
    torch.testing.assert_close(on, torch.tensor([0.9, 0.3, 0.9, 0.9]).double(), atol=0.01, rtol=0)


# Learning.


def test_what_is_stored_are_training_images_of_every_class_in_turn():
    data = Digits(binarize="threshold")
    net = by_class(data, num_patterns=23)
    train = data.split("train")
    assert train.y[net.rows].tolist() == [*range(10), *range(10), 0, 1, 2]
    assert len(net.rows.unique()) == 23
    assert torch.equal(net.picture(net.patterns), train.x[net.rows])
    direct = held(states_of(train.x[net.rows]))
    assert torch.equal(direct.weight, net.weight)
    torch.manual_seed(1)
    other = Hopfield((1, 8, 8), num_patterns=23)
    other.start_from(data)
    assert not torch.equal(other.rows, net.rows)


def test_images_without_labels_are_chosen_too():
    data = Digits(binarize="threshold", labelled=20)
    torch.manual_seed(0)
    net = Hopfield((1, 8, 8), num_patterns=22)
    net.start_from(data)
    assert data.split("train").y[net.rows].tolist() == [*range(-1, 10), *range(-1, 10)]


def test_digits_are_fixed_points_of_the_projection_and_not_of_hebb():
    stable = {}
    for rule in ("hebb", "projection"):
        net, fitting = Hopfield((1, 8, 8), rule=rule, thresholds=True), trainer()
        fitting.fit(net, datamodule=Digits(binarize="threshold"))
        xi = net.patterns.double()
        stable[rule] = float(fitting.callback_metrics["train/stable"])
        assert stable[rule] == pytest.approx(float((recalled(net, xi) == xi).all(1).double().mean()))
    assert stable["projection"] == 1
    assert stable["hebb"] < 0.5


def test_two_processes_that_saw_the_same_image_store_it_once():
    net = tiny("Hopfield")
    net.rows.copy_(torch.arange(4))
    x = (torch.rand(3, 1, 8, 8) < 0.5).float()
    net.patterns.zero_()
    net.absorb(Batch(x, torch.zeros(3).long(), torch.tensor([0, 3, 77])))
    net.patterns += net.patterns.clone()
    net.settle()
    assert torch.equal(net.patterns[[0, 3]], states_of(x[:2]).float())
    assert not net.patterns[[1, 2]].any()
    assert torch.equal(net.weight, held(states_of(x[:2]), rule="projection", thresholds=True).weight)


def test_batches_that_are_left_out_are_not_stored():
    net = tiny("Hopfield")
    trainer(limit_train_batches=1).fit(net, datamodule=Digits(binarize="threshold", batch_size=1))
    assert not net.weight.any()
    x = (torch.rand(2, 1, 8, 8) < 0.5).float()
    assert [torch.equal(net.repair(x, torch.ones_like(x)), x), len(list(net.walk(2)))] == [True, 1]


def test_more_patterns_than_images_are_refused():
    net = Hopfield((1, 8, 8), num_patterns=60)
    with pytest.raises(UsageError, match="num_patterns must be at most the 50 training images, got 60"):
        net.start_from(Digits(binarize="threshold", subset=50))


# Energies and pictures.


def test_energies_of_images_are_those_of_their_states():
    torch.manual_seed(0)
    net = tiny("Hopfield")
    x = net.picture(random_states(9, 64))
    torch.testing.assert_close(net.energy(x).double(), energies(net, states_of(x)), atol=1e-5, rtol=0)
    assert net.energy(net.picture(net.patterns)).max() < net.energy(x).min()


def test_a_walk_is_a_recall_whose_energy_falls():
    net = tiny("Hopfield")
    states = list(net.walk(30, generator=torch.Generator().manual_seed(0)))
    assert 10 < len(states) < 100
    energy = torch.stack([net.energy(x) for x in states])
    assert (energy.diff(dim=0) <= 0).all()
    end = states_of(states[-1])
    assert torch.equal(recalled(net, end), end)
    assert ((end @ net.patterns.T.double() / 64).max(1).values == 1).double().mean() > 0.3


def test_the_capacity_script_prints_the_slope_and_draws_it(tmp_path, monkeypatch, capsys):
    out = tmp_path / "capacity.png"
    monkeypatch.setattr("sys.argv", ["capacity.py", "--units", "100", "--seeds", "2", "--out", str(out)])
    runpy.run_path(str(ROOT / "scripts/capacity.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    shares = {cells[1]: float(cells[3]) for cells in map(str.split, lines) if len(cells) > 9}
    assert len(shares) == 9
    assert shares["0.1"] > shares["0.2"] + 0.15
    with Image.open(out) as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 3
