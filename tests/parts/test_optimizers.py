"""Optimizers: lazy rows move as if the steps without them had never been."""

import torch
from torch import nn

from zoo.parts.optimizers import LazyAdam


def test_a_row_moves_as_if_the_steps_without_it_had_never_been():
    torch.manual_seed(0)
    start = torch.randn(4, 3)
    table, alone = nn.Parameter(start.clone()), nn.Parameter(start[2:3].clone())
    lazy, adam = LazyAdam([table], lr=0.1), torch.optim.Adam([alone], lr=0.1)
    for step in range(12):
        rows = torch.tensor([0, 2] if step % 3 == 0 else [0, 1])
        (nn.functional.embedding(rows, table, sparse=True) - 1).pow(4).sum().backward()
        lazy.step()
        if step % 3 == 0:
            adam.zero_grad()
            (alone - 1).pow(4).sum().backward()
            adam.step()
    torch.testing.assert_close(table.detach()[2:3], alone.detach())


def test_a_row_that_is_looked_up_twice_adds_its_gradients_up():
    table, dense = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    rows = torch.tensor([1, 1, 2])
    weight = torch.tensor([[1.0], [2.0], [3.0]])
    for parameter, sparse in ((table, True), (dense, False)):
        (weight * nn.functional.embedding(rows, parameter, sparse=sparse)).sum().backward()
    optimizer = LazyAdam([table], lr=0.1, betas=(0.0, 0.0))
    torch.testing.assert_close(table.grad.to_dense(), dense.grad)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[table]["exp_avg"], dense.grad)


def test_what_has_a_dense_gradient_is_descended_by_adam():
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    for parameter, optimizer in ((one, LazyAdam([one], lr=0.1)), (two, torch.optim.Adam([two], lr=0.1))):
        for _ in range(3):
            optimizer.zero_grad()
            parameter.pow(3).sum().backward()
            optimizer.step()
    assert torch.equal(one, two)
