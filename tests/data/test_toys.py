"""Data sets of a formula."""

import math

import pytest
import torch
from chain_models import PHASES

from zoo.data.sets import from_recipe
from zoo.data.toys import ROLL_RADIUS, Heartbeat, Plane, SwissRoll
from zoo.errors import UsageError

# Toy data.


def test_heartbeats_are_the_five_phases():
    data = Heartbeat()
    for split in ("train", "val", "test"):
        given = data.split(split)
        assert given.x.shape[1:] == (1, 1, 20)
        assert torch.equal(given.x, PHASES[given.y])
        assert float(given.y.bincount(minlength=5).float().std()) < 0.2 * len(given.y) / 5


def test_the_swiss_roll_is_a_spiral():
    data = SwissRoll(binarize="none", dequantize=True)
    x = data.split("train").x.flatten(1)
    assert x.shape[1] == 2
    assert 0 < float(x.min()) < 0.2
    assert 0.85 < float(x.max()) < 1
    turns = (x - 0.5) * 2 * ROLL_RADIUS  # the radius of scikit-learn's spiral is its angle
    angle = torch.atan2(turns[:, 1], turns[:, 0]).remainder(2 * math.pi)
    off = (turns.norm(dim=1) - angle).remainder(2 * math.pi)
    off = torch.minimum(off, 2 * math.pi - off)
    assert 0.3 < float(off.square().mean().sqrt()) < 0.8, "noise of 0.5 about the spiral"


def test_points_in_the_plane_have_their_densities():
    found = {}
    for density in ("circle", "spiral", "grid"):
        data = Plane(density=density, dequantize=True)
        given = data.split("train")
        found[density] = given.x.flatten(1) - 0.5
        assert data.facts.name == data.source.name == f"plane_{density}"
        assert 0 < float(given.x.min()) < float(given.x.max()) < 1
        assert torch.equal(from_recipe(data.recipe()).split("train").y, given.y)
    radius = found["circle"].norm(dim=1)
    assert float(radius.mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(radius.std()) == pytest.approx(0.01, rel=0.05)
    turned = found["spiral"]
    angle = torch.atan2(turned[:, 1], turned[:, 0])
    off = (3 * math.pi * turned.norm(dim=1) / 0.4 - angle).remainder(2 * math.pi)
    off = torch.minimum(off, 2 * math.pi - off)
    away = turned.norm(dim=1) > 0.1
    assert float(off[away].median()) * 0.4 / (3 * math.pi) < 0.01
    y = Plane(density="grid").split("train").y
    assert y.unique().tolist() == list(range(25))
    for piece in (0, 7, 24):
        points = found["grid"][y == piece]
        centre = torch.tensor([piece % 5 / 4 - 0.5, piece // 5 / 4 - 0.5]) * 0.8
        torch.testing.assert_close(points.mean(0), centre, atol=3e-3, rtol=0)
        torch.testing.assert_close(points.std(0), torch.full((2,), 0.01), atol=2e-3, rtol=0)


def test_a_density_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"^density must be one of circle, spiral, grid, got 'ring'$"):
        Plane(density="ring")
