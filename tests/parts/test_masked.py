"""What masked networks see, by their derivatives; and that drawing step by step agrees with one pass."""

import pytest
import torch

from zoo.parts.networks.masked import MADE, MaskedConv, RasterNetwork


def network(shape=(1, 8, 8), layers=3, scale=0.3, **options) -> RasterNetwork:
    torch.manual_seed(0)
    made = RasterNetwork(
        shape, **{"context_channels": 2, "channels": 5, "num_pointwise": 1} | options, num_layers=layers
    )
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=scale)
    return made


def slopes(made: RasterNetwork, shape, double=True) -> tuple[torch.Tensor, torch.Tensor]:
    """d logit_i / d x_j and d logit_i / d h_j, [pixels, pixels], summed in size over colours and maps."""
    made = made.double()
    torch.manual_seed(1)
    x = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    h = torch.randn(1, 2, *shape[1:], dtype=torch.float64, requires_grad=True)
    logits = made(x, h).flatten(2).sum((0, 1))
    rows = [torch.autograd.grad(logit, (x, h), retain_graph=True) for logit in logits]
    by_x, by_h = (
        torch.stack([g.abs().sum((0, 1)).flatten() for g in column]) for column in zip(*rows, strict=True)
    )
    return by_x, by_h


@pytest.mark.parametrize("num_layers", [1, 2, 6])
def test_a_pixel_sees_only_pixels_before_it_and_no_further_than_the_layers_reach(num_layers):
    """All 784 pixels of the largest."""
    side = 28 if num_layers == 6 else 9
    by_x, _ = slopes(network((1, side, side), num_layers, 0.5), (1, side, side))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    row, column = rows.flatten(), columns.flatten()
    place = torch.arange(side * side)
    before = place[None] < place[:, None]
    up, across = row[:, None] - row[None], column[:, None] - column[None]
    near = (up <= num_layers) & (across.abs() <= num_layers)
    assert (by_x[~before] == 0).all()
    assert (by_x[~near] == 0).all()
    assert (by_x[(up == num_layers) & (across == 0)] > 0).all()
    assert (by_x[before & (up == 0) & (across == 1)] > 0).all()
    assert (by_x[before & (up == 1) & (across == -1)] > 0).all()


def test_the_context_is_not_masked():
    _, by_h = slopes(network((1, 6, 6), 2), (1, 6, 6))
    i = 14
    assert all(by_h[i, j] > 0 for j in (i, i + 1, i + 5, i + 6, i + 7))


def test_colours_of_one_pixel_do_not_see_each_other():
    made = network((3, 4, 4), 2).double()
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    h = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    (slope,) = torch.autograd.grad(made(x, h)[0, :, 2, 1].sum(), x)
    assert (slope[0, :, 2, 1] == 0).all()
    assert (slope[0, :, 2, 0] != 0).all()


@pytest.mark.parametrize("sees_itself", [False, True])
def test_a_masked_convolution_is_a_3_by_3_one_with_zeros(sees_itself):
    torch.manual_seed(0)
    layer, x = MaskedConv(2, 3, sees_itself), torch.randn(4, 2, 5, 6)
    kernel = torch.zeros(3, 2, 3, 3)
    kernel[:, :, :2] = layer.weight.detach()
    kernel[:, :, 1, 1 + sees_itself :] = 0
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, kernel, layer.bias, padding=1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 1, 4)])
@pytest.mark.parametrize("num_layers", [1, 4])
@torch.no_grad()
def test_pixels_drawn_one_by_one_have_the_logits_of_one_pass(shape, num_layers):
    made = network(shape, num_layers)
    context, uniform = torch.randn(6, 2, *shape[1:]), torch.rand(6, *shape)
    *_, x = made.unfold(context, uniform)
    logits = made(x, context)
    clear = (logits.sigmoid() - uniform).abs() > 1e-5
    assert torch.equal(x[clear], (uniform < logits.sigmoid()).float()[clear])
    assert clear.float().mean() > 0.99


@pytest.mark.parametrize(("dim", "hidden"), [(1, 4), (2, 3), (5, 16), (7, 5)])
@pytest.mark.parametrize("mean_only", [False, True])
def test_shifts_and_scales_depend_on_variables_before_alone(dim, hidden, mean_only):
    torch.manual_seed(0)
    made = MADE(dim, hidden, mean_only)
    z = torch.randn(dim)
    shift, log_scale = torch.autograd.functional.jacobian(made, z)
    assert (shift.triu() == 0).all()
    assert (log_scale.triu() == 0).all()
    assert mean_only == (not log_scale.any()) or dim == 1


def test_with_enough_units_every_variable_sees_all_before_it():
    torch.manual_seed(0)
    made = MADE(5, 64, False)
    shift, log_scale = torch.autograd.functional.jacobian(made, torch.randn(5))
    below = torch.ones(5, 5).tril(-1).bool()
    assert (shift[below] != 0).all()
    assert (log_scale[below] != 0).all()
