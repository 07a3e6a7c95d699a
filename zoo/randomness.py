"""The only room that seeds: training rolls the global stream, everything else rolls its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*entropy: int) -> int:
    """A 63-bit seed that is a pure function of the given non-negative integers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def own_stream(*entropy: int) -> Iterator[None]:
    """Run a block in a stream of its own, seeded by `entropy`; the global streams are put back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(mix(*entropy))
        yield


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Let a block that rolls the global stream draw from `generator` instead; None changes nothing."""
    if generator is None:
        yield
        return
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with own_stream(int(seed)):
        yield
