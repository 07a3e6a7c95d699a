"""Facts of maxout."""

import torch

from zoo.methods.adversarial.shared.maxout import Maxout


def test_maxout_is_the_largest_of_its_pieces():
    layer = Maxout(3, 2, 4)
    x = torch.randn(5, 3)
    pieces = layer.linear(x)
    expected = torch.stack((pieces[:, :4].max(1).values, pieces[:, 4:].max(1).values), 1)
    assert torch.equal(layer(x), expected)
