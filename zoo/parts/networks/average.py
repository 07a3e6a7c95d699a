"""A running average of a network's weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

AVERAGE_LAG = 10


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Run a block with a network in eval mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class Average(nn.Module):
    """A running average of a network's parameters beside its latest buffers; it always answers in eval mode.

    Args:
        network: What is averaged; it starts as a copy.
        decay: Weight of the average against the network, reached from below as (1 + t) / (10 + t) at update
            t; 0 follows the network exactly.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's parameters; copy its buffers, which are averages already."""
        decay = ((1 + self.updates) / (AVERAGE_LAG + self.updates)).clamp(max=self.decay)
        for average, parameter in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1

    def forward(self, *inputs: Any) -> Any:
        """What the averaged network makes of its inputs."""
        with evaluated(self.network):
            return self.network(*inputs)
