"""The moving average of weights."""

import pytest
import torch
from torch import nn

from zoo.parts.networks.average import Average


def test_the_average_warms_up_towards_its_decay_and_copies_buffers():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = Average(net, 0.9)
    start = net[0].weight.item()
    with torch.no_grad():
        net[0].weight.fill_(start + 1)
    net[1].running_mean.fill_(5.0)
    gap = 1.0
    for t in range(200):
        average.update(net)
        gap *= min(0.9, (1 + t) / (10 + t))
        assert start + 1 - average.network[0].weight.item() == pytest.approx(gap, abs=1e-5)
    assert int(average.updates) == 200
    assert average.network[1].running_mean.item() == 5.0
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in net.parameters())
