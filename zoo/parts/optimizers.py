"""Optimizers, fused into one kernel where the device has it, and what torch.optim lacks."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

FUSED_ON = ("cpu", "cuda", "mps", "xpu")
"""Devices on which torch 2.13 fuses Adam and gradient descent."""

Made = TypeVar("Made", bound=torch.optim.Optimizer)
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
"""Parameters, or groups of them with settings of their own, as torch.optim has them."""


def fused(choice: type[Made], params: Parameters, **settings: Any) -> Made:
    """An optimizer that updates all parameters in one kernel if they are real numbers on a device with it.

    Scaled gradients (`precision: 16-mixed`) are unscaled before the step and not in it, so that they can be
    clipped.

    Args:
        choice: Adam, SGD, or what inherits from them.
        params: The parameters.
        settings: Passed on.
    """
    given: list[Any] = list(params)
    listed = [group | {"params": list(group["params"])} for group in given if isinstance(group, dict)]
    groups = listed or [{"params": given}]
    tensors = [p for group in groups for p in group["params"]]
    able = all(p.device.type in FUSED_ON and p.is_floating_point() for p in tensors)
    optimizer = choice(groups, fused=able, **settings)  # pyright: ignore[reportCallIssue]
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def adam(
    params: Parameters, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.Adam:
    """Adam (Kingma, Ba 2015)."""
    return fused(torch.optim.Adam, params, lr=lr, betas=betas, eps=eps)


def sgd(params: Parameters, lr: float, momentum: float = 0.0) -> torch.optim.SGD:
    """Gradient descent with momentum; not for sparse gradients.

    Every parameter has its momentum from the start, at zero: torch's kernel wants those of all parameters or
    of none, and a method that learns in phases would come to it with some.
    """
    optimizer = fused(torch.optim.SGD, params, lr=lr, momentum=momentum)
    _at_rest(optimizer)
    optimizer.register_load_state_dict_post_hook(_at_rest)
    return optimizer


def _at_rest(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def lazy_adam(params: Parameters, lr: float) -> "LazyAdam":
    """Adam that leaves the rows without a gradient alone."""
    return fused(LazyAdam, params, lr=lr)


class LazyAdam(torch.optim.Adam):
    """Adam that, of a parameter with a sparse gradient, moves only the rows that have one.

    Each such row keeps its own count of steps: it moves as if the steps without it had never been. Dense
    gradients are descended as by Adam (Kingma, Ba 2015).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, is called once, before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse:
                    self._move_rows(p, group["lr"], group["betas"], group["eps"])
                    p.grad = None
        super().step()
        return loss

    def _move_rows(self, p: Tensor, lr: float, betas: tuple[float, float], eps: float) -> None:
        assert p.grad is not None
        grad = p.grad.coalesce()
        rows, g = grad.indices()[0], grad.values()
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(len(p), 1, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        t = state["step"][rows] + 1
        m = torch.lerp(g, state["exp_avg"][rows], betas[0])
        v = torch.lerp(g.square(), state["exp_avg_sq"][rows], betas[1])
        state["step"][rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = t, m, v
        p[rows] -= lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
