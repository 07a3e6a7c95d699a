"""What torch.optim lacks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
