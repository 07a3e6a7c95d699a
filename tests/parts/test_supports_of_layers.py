"""The support of a mixture that stands beside another layer."""

import torch
from torch.distributions import Beta, Categorical, Independent, MixtureSameFamily, Normal

from zoo.parts.distributions.layers import Layers
from zoo.parts.distributions.supports import unbounded


def test_a_mixture_beside_sticks_has_coordinates_without_bounds():
    sticks = Independent(Beta(torch.ones(2), 2.0), 1)
    gaussians = Independent(Normal(torch.zeros(3, 1), 1.0), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(3)), gaussians)
    values = unbounded(Layers(sticks, lambda _: mixture, (2, 1)))(torch.tensor([[-1.0, 3.0, -5.0]]))
    torch.testing.assert_close(values[0, 2], torch.tensor(-5.0))
    torch.testing.assert_close(values[0, :2], torch.tensor([-1.0, 3.0]).sigmoid())
