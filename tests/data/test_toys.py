"""Data sets of a formula."""

import math

import torch
from chain_models import PHASES

from zoo.data.toys import ROLL_RADIUS, Heartbeat, SwissRoll

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
