"""Facts of the Laplacian pyramid: levels that add up, a distance by hand."""

import pytest
import torch
from support import batch, begun, tiny
from torch import nn

from zoo.methods.autoencoders.shared.pyramid import LaplacianPyramid
from zoo.parts.estimators import psnr

SHAPE = (1, 8, 8)


def enlarged(pyramid: list[torch.Tensor]) -> torch.Tensor:
    x = pyramid[-1]
    for level in reversed(pyramid[:-1]):
        x = level + nn.functional.interpolate(x, scale_factor=2.0)
    return x


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 8, 24)])
def test_the_levels_of_the_pyramid_add_up_to_the_image(levels, shape):
    x = torch.rand(3, *shape)
    pyramid = LaplacianPyramid(levels)(x)
    assert [tuple(level.shape[2:]) for level in pyramid] == [
        (shape[1] // 2**j, shape[2] // 2**j) for j in range(levels)
    ]
    torch.testing.assert_close(enlarged(pyramid), x)


def test_a_constant_changes_the_low_pass_level_alone():
    x = torch.rand(3, 2, 16, 16)
    pyramid = LaplacianPyramid(3)
    for level, (one, two) in enumerate(zip(pyramid(x), pyramid(x + 0.25), strict=True)):
        torch.testing.assert_close(two, one + (0.25 if level == 2 else 0.0))


def test_the_sides_of_28_are_padded_to_32():
    pyramid = LaplacianPyramid(3)(torch.rand(1, 1, 28, 28))
    assert [level.shape[-1] for level in pyramid] == [32, 16, 8]


def test_no_kernel_is_published():
    assert not LaplacianPyramid(3).state_dict()


def test_the_distance_by_hand():
    method = tiny("GLO", levels=1, laplacian_weight=2.0, squared_weight=3.0)
    x, y = torch.rand(5, *SHAPE), torch.rand(5, *SHAPE)
    difference = (x - y).flatten(1)
    want = 2 * difference.abs().mean(1) + 3 * difference.square().mean(1)
    torch.testing.assert_close(method.distance(x, y), want)
    assert not method.distance(x, x).any()
    assert torch.equal(method.distance(x, y), method.distance(y, x))


def test_the_gradient_of_the_pyramid():
    pyramid = LaplacianPyramid(2)
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(pyramid(x)), x)


def test_the_loss_is_the_distance_of_image_and_decoded_code():
    method = begun("GLO").eval()
    given = batch()
    terms = method.loss(given)
    decoded = method.decode(method.codes.detach()[given.row])
    torch.testing.assert_close(terms["loss"], method.distance(decoded, given.x))
    torch.testing.assert_close(terms["psnr"], psnr(decoded, given.x))
