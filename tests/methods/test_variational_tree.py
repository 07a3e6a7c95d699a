"""Facts of the tree of Gaussians: weights, assignments, updates, divergences, growth; by brute force."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch.distributions import Beta, MultivariateNormal, Normal, kl_divergence

from zoo.methods.variational.shared.tree import FREE, NEVER, Coded, Tree, k_means

NODE, LEAF, GAMMA, DIM = 1.7, 0.6, 1.3, 2


def planted(branching=(2, 2), spare_nodes=0, num_groups=1, n=60, seed=0) -> tuple[Tree, Coded]:
    """A tree planted at codes that lie about centres, and the codes."""
    stream = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(4, DIM, generator=stream, dtype=torch.float64)
    mean = centres[torch.arange(n) % 4] + torch.randn(n, DIM, generator=stream, dtype=torch.float64)
    spread = 0.1 + torch.rand(n, generator=stream, dtype=torch.float64)
    codes = Coded(mean, spread, torch.arange(n) % num_groups)
    tree = Tree(branching, spare_nodes, DIM, node_std=NODE, leaf_std=LEAF, concentration=GAMMA)
    tree.regroup(num_groups)
    tree.plant(codes.mean)
    return tree, codes


def path(tree: Tree, p: int) -> list[int]:
    found = [p]
    while int(tree.parent[found[0]]) >= 0:
        found.insert(0, int(tree.parent[found[0]]))
    return found


def siblings(tree: Tree, e: int) -> list[int]:
    return [f for f, above in enumerate(tree.parent.tolist()) if above == int(tree.parent[e])]


def leaves(tree: Tree) -> list[int]:
    return tree.leaf.nonzero()[:, 0].tolist()


def stick(tree: Tree, group: int, e: int) -> tuple[float, float]:
    """Both parameters of q(v_e), from the specification of the updates."""

    def below(f):
        return sum(float(tree.mass[group, p]) for p in leaves(tree) if f in path(tree, p))

    return 1 + below(e), GAMMA + sum(below(f) for f in siblings(tree, e) if f > e)


def expected_log_weight(tree: Tree, group: int, p: int) -> float:
    total = 0.0
    for e in path(tree, p)[1:]:
        for f in siblings(tree, e):
            a, b = stick(tree, group, f)
            if f < e:
                total += digamma(b) - digamma(a + b)
            elif f == e and f != siblings(tree, e)[-1]:
                total += digamma(a) - digamma(a + b)
    return total


def test_two_siblings_share_a_stick_in_their_order():
    tree = Tree((2,), 0, DIM, node_std=1.0, leaf_std=1.0, concentration=1.0)
    tree.plant(torch.eye(2).double())
    tree.settle(torch.tensor([[0.0, 90.0, 10.0]]).double(), torch.zeros(3, 2).double())
    weights = tree.log_mean_weight(tree.mass)[0, 1:].exp()
    torch.testing.assert_close(weights, torch.tensor([91 / 102, 11 / 102]).double())
    a, b = 91, 11
    expected = torch.tensor([digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)])
    torch.testing.assert_close(tree.log_weight[0, 1:], expected)


@pytest.mark.parametrize("branching", [(2, 2), (3,), (2, 1, 2)])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_mean_weights_of_paths_sum_to_one_and_sticks_are_broken_in_turn(branching, num_groups):
    tree, codes = planted(branching, num_groups=num_groups)
    tree.sweep(codes)
    weights = tree.log_mean_weight(tree.mass)[:, tree.leaf].exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(num_groups).double())
    for group, p in itertools.product(range(num_groups), leaves(tree)):
        assert float(tree.log_weight[group, p]) == pytest.approx(expected_log_weight(tree, group, p))
    inner = [p for p in range(len(tree.parent)) if p not in leaves(tree)]
    assert (tree.log_weight[:, inner] == NEVER).all()


def test_assignments_are_the_softmax_of_the_full_expected_joint():
    """E over the tree and over q(z|x), by quadrature that is exact for squares; four leaves."""
    tree, codes = planted()
    for _ in range(3):
        tree.sweep(codes)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    weights = weights / weights.sum()
    n = 5
    joint = np.zeros((n, len(leaves(tree))))
    for i, (column, p) in itertools.product(range(n), enumerate(leaves(tree))):
        joint[i, column] = expected_log_weight(tree, 0, p)
        sd_z = float(codes.spread[i] / DIM) ** 0.5
        sd_a = float(tree.variance[p]) ** 0.5
        for d in range(DIM):
            z = float(codes.mean[i, d]) + sd_z * nodes[:, None]
            a = float(tree.mean[p, d]) + sd_a * nodes[None]
            log_p = -0.5 * ((z - a) / LEAF) ** 2 - np.log(LEAF) - 0.5 * np.log(2 * np.pi)
            joint[i, column] += (weights[:, None] * weights * log_p).sum()
    score = tree.scores(codes.mean[:n], codes.spread[:n], tree.log_weight)
    torch.testing.assert_close(score[:, tree.leaf], torch.from_numpy(joint))
    phi = score.softmax(1)
    assert (phi[:, ~tree.leaf] == 0).all()
    torch.testing.assert_close(phi[:, tree.leaf], torch.from_numpy(joint).softmax(1))


@pytest.mark.parametrize(("branching", "num_groups"), [((2, 2), 1), ((3, 2, 2), 1), ((4,), 5)])
def test_the_bound_never_falls_and_settles(branching, num_groups):
    tree, codes = planted(branching, num_groups=num_groups)
    tree.mean[1:] += 2 * torch.randn_like(tree.mean[1:])
    tree.weigh_paths()
    bounds = torch.tensor([tree.sweep(codes) for _ in range(200)], dtype=torch.float64)
    assert bounds.diff().min() > -1e-8
    assert (bounds.diff()[:2] > 1e-6).all()
    assert bounds[-1] - bounds[0] > 1
    assert abs(bounds[-1] - bounds[-2]) < 1e-6


def test_means_and_variances_are_those_at_which_the_bound_is_stationary():
    """Where sweeps end: of every node by the equations of the model, neighbours and codes held fixed."""
    tree, codes = planted()
    for _ in range(300):
        tree.sweep(codes)
    phi = tree.scores(codes.mean, codes.spread, tree.log_weight).softmax(1)
    for e in (e for e, above in enumerate(tree.parent.tolist()) if above >= 0):
        around = [tree.mean[int(tree.parent[e])] / NODE**2]
        precision = 1 / NODE**2
        for c in (c for c, above in enumerate(tree.parent.tolist()) if above == e):
            around.append(tree.mean[c] / NODE**2)
            precision += 1 / NODE**2
        if e in leaves(tree):
            around.append(phi[:, e] @ codes.mean / LEAF**2)
            precision += float(phi[:, e].sum()) / LEAF**2
        assert float(tree.variance[e]) == pytest.approx(1 / precision)
        torch.testing.assert_close(tree.mean[e], sum(around) / precision, atol=1e-6, rtol=0)


def test_the_divergence_is_that_of_the_joint_gaussian_and_of_every_stick():
    tree, codes = planted((2, 2), num_groups=3)
    tree.sweep(codes)
    nodes = [e for e, above in enumerate(tree.parent.tolist()) if above >= 0]
    shared = [[len({*path(tree, e)} & {*path(tree, f)}) - 1 for f in nodes] for e in nodes]
    prior = MultivariateNormal(torch.zeros(len(nodes)).double(), NODE**2 * torch.tensor(shared).double())
    total = 0.0
    for d in range(DIM):
        q = MultivariateNormal(tree.mean[nodes, d], tree.variance[nodes].diag())
        total += float(kl_divergence(q, prior))
    for group, e in itertools.product(range(3), nodes):
        if e != siblings(tree, e)[-1]:
            a, b = stick(tree, group, e)
            total += float(kl_divergence(Beta(a, b), Beta(1.0, GAMMA)))
    assert float(tree.kl) == pytest.approx(total, rel=1e-5)


def test_a_new_code_has_the_density_of_a_mixture_over_trees_of_the_posterior():
    tree, codes = planted(n=12)
    tree.sweep(codes)
    z = codes.mean[:3] + 0.3
    draws, density = 40_000, torch.zeros(3).double()
    torch.manual_seed(0)
    broken = {
        e: torch.ones(draws).double()
        if e == siblings(tree, e)[-1]
        else Beta(*(torch.tensor(s).double() for s in stick(tree, 0, e))).sample((draws,))
        for p in leaves(tree)
        for e in path(tree, p)[1:]
    }
    for p in leaves(tree):
        weight = torch.ones(draws).double()
        for e in path(tree, p)[1:]:
            weight = weight * broken[e]
            for f in siblings(tree, e):
                weight = weight * (1 - broken[f]) if f < e else weight
        mean = tree.mean[p] + tree.variance[p].sqrt() * torch.randn(draws, DIM).double()
        inside = Normal(mean[:, None], LEAF).log_prob(z).sum(-1).exp()
        density += (weight[:, None] * inside).mean(0)
    torch.testing.assert_close(
        tree.prior(tree.mass[0]).log_prob(z.float()), density.log().float(), atol=0.03, rtol=0
    )


def test_halves_on_two_processes_add_up_to_a_sweep_of_the_whole():
    tree, codes = planted(num_groups=2)
    whole, half = copy.deepcopy(tree), copy.deepcopy(tree)
    bound = whole.sweep(codes)
    parts: list[torch.Tensor] = []

    def record(part):
        parts.append(part.clone())
        return part

    half.sweep(Coded(*(column[1::2] for column in codes)), record)
    others = iter(parts)
    together = tree.sweep(Coded(*(column[::2] for column in codes)), lambda part: part + next(others))
    assert together == pytest.approx(bound, abs=1e-9)
    for name, buffer in tree.named_buffers():
        torch.testing.assert_close(buffer, whole.get_buffer(name), msg=name)


def test_the_root_alone_is_the_prior_of_all_trees_and_costs_nothing():
    tree = Tree((2, 3), 0, DIM, node_std=NODE, leaf_std=LEAF, concentration=GAMMA)
    assert not tree.planted
    assert float(tree.kl) == 0
    variance = LEAF**2 + 2 * NODE**2
    torch.testing.assert_close(tree.prior(tree.mass[0]).variance, torch.full((DIM,), variance))
    codes = Coded(torch.randn(4, DIM).double(), torch.rand(4).double(), torch.zeros(4).long())
    score = tree.scores(codes.mean, codes.spread, tree.log_weight)
    expected = -0.5 * ((codes.mean.square().sum(1) + codes.spread) / variance)
    expected -= 0.5 * DIM * np.log(2 * np.pi * variance)
    torch.testing.assert_close(score[:, 0], expected)
    assert (score.softmax(1)[:, 0] == 1).all()


def blobs(*centres: float) -> Coded:
    """A hundred codes about each centre on the first axis, with spread 0.01 about it."""
    stream = torch.Generator().manual_seed(1)
    mean = 0.1 * torch.randn(100 * len(centres), DIM, generator=stream, dtype=torch.float64)
    mean[:, 0] += torch.tensor(centres).double().repeat_interleave(100)
    return Coded(mean, torch.full((len(mean),), 0.01).double(), torch.zeros(len(mean)).long())


def lone(branching, spare_nodes, codes: Coded) -> Tree:
    tree = Tree(branching, spare_nodes, DIM, node_std=5.0, leaf_std=0.3, concentration=1.0)
    tree.plant(codes.mean)
    for _ in range(5):
        tree.sweep(codes)
    return tree


def test_a_leaf_of_two_blobs_is_split_into_siblings_and_no_other():
    codes = blobs(-3, 3, 10)
    tree = lone((2,), 2, codes)
    before = tree.sweep(codes)
    assert tree.grow(codes, above=4.0)
    assert tree.parent.tolist() == [-1, 0, 0, 0, FREE]
    for _ in range(5):
        after = tree.sweep(codes)
    assert after > before + 100
    torch.testing.assert_close(
        tree.mass[0, tree.leaf].sort().values, torch.full((3,), 100.0).double(), atol=0.1, rtol=0
    )
    assert not tree.grow(codes, above=4.0)
    assert float(tree.log_mean_weight(tree.mass)[0, tree.leaf].exp().sum()) == pytest.approx(1)


def test_a_leaf_above_the_last_level_gets_children():
    codes = blobs(-3, 3, 10)
    tree = lone((2,), 4, codes)
    tree.branching = (2, 2)
    assert tree.grow(codes, above=4.0)
    grown = int((tree.parent[1:3].tolist(), tree.leaf[1:3].tolist())[1].index(False)) + 1
    assert tree.parent.tolist() == [-1, 0, 0, grown, grown, FREE, FREE]
    for _ in range(5):
        tree.sweep(codes)
    torch.testing.assert_close(
        tree.mass[0, tree.leaf].sort().values, torch.full((3,), 100.0).double(), atol=0.1, rtol=0
    )
    assert float(tree.mass[0, grown]) == 0


def test_a_full_tree_does_not_grow():
    codes = blobs(-3, 3, 10)
    assert not lone((2,), 0, codes).grow(codes, above=4.0)


@pytest.mark.parametrize(
    ("mass", "parent"),
    [
        ([50, 0, 30, 20], [-1, FREE, 0, 0, FREE, 2, 2]),  # its twin takes the place of the parent
        ([50, 50, 30, 20], [-1, 0, 0, 1, 1, 2, 2]),
        ([0, 0, 30, 70], [-1, FREE, FREE, FREE, FREE, 0, 0]),  # a side is gone: one level is left
        ([0, 100, 0, 0], [-1, FREE, FREE, FREE, 0, FREE, FREE]),
    ],
)
def test_empty_leaves_go_and_inner_nodes_with_one_child(mass, parent):
    tree, _ = planted()
    full = torch.zeros(1, 7).double()
    full[0, 3:] = torch.tensor(mass).double()
    tree.settle(full, torch.zeros(7, DIM).double())
    assert tree.prune(0.01) == (0 in mass)
    assert tree.parent.tolist() == parent
    assert (tree.mass[0, tree.leaf] > 0).all()
    assert float(tree.mass.sum()) == 100 + 50 * (mass[1] == 50)
    weights = tree.log_mean_weight(tree.mass)[0, tree.leaf].exp()
    assert float(weights.sum()) == pytest.approx(1)
    assert tree.kl.isfinite()


def test_clusters_come_largest_first_and_no_more_than_there_are_different_codes():
    codes = torch.tensor([[0.0], [9.0], [9.1], [9.2], [0.1]]).double()
    assert k_means(codes, 2).tolist() == [1, 0, 0, 0, 1]
    assert k_means(torch.zeros(4, 2).double(), 3).tolist() == [0, 0, 0, 0]
    assert k_means(torch.zeros(0, 2).double(), 3).tolist() == []
