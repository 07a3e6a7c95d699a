"""Corruption: what is flipped, masked and blurred, as often as it says."""

import pytest
import torch
from torch import nn

from zoo.errors import UsageError
from zoo.parts.corruption import GaussianNoise, Mask, SaltAndPepper, process


def test_salt_and_pepper_flips_half_of_the_pixels_it_hits():
    zeros, grey = torch.zeros(400_000), torch.full((400_000,), 0.3)
    noisy = SaltAndPepper(0.4)
    assert noisy(zeros).mean().item() == pytest.approx(0.2, abs=0.005)
    assert noisy(1 - zeros).mean().item() == pytest.approx(0.8, abs=0.005)
    values, counts = noisy(grey).unique(return_counts=True)
    assert torch.equal(values, torch.tensor([0.0, 0.3, 1.0]))
    assert torch.allclose(counts / 400_000, torch.tensor([0.2, 0.6, 0.2]), atol=0.005)


def test_masking_and_gaussian_corruption_and_their_chain():
    ones = torch.ones(400_000)
    masked = Mask(0.4)(ones)
    assert set(masked.tolist()) == {0.0, 1.0}
    assert masked.mean().item() == pytest.approx(0.6, abs=0.005)
    noise = GaussianNoise(0.5)(ones) - 1
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.std().item() == pytest.approx(0.5, abs=0.005)
    both = nn.Sequential(Mask(0.4), GaussianNoise(0.5))(ones)
    assert both.var().item() == pytest.approx(0.24 + 0.25, abs=0.01)
    for kind in ("mask", "salt_pepper", "gaussian"):
        assert torch.equal(process(kind, 0.0)(ones), ones)
        with pytest.raises(UsageError, match=r"corruption must .*, got -0\.1"):
            process(kind, -0.1)
    for kind in ("mask", "salt_pepper"):
        with pytest.raises(UsageError, match=r"a probability, 0 to 1, got 1\.1"):
            process(kind, 1.1)
