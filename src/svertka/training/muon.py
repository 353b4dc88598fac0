"""Muon for matrices and kernels, another optimizer for the rest, behind the face of one torch optimizer.

`torch.optim.Muon` wants matrices, so it gets views of the kernels as (out, in · k · k) on the same memory, in
the order in which they lie there: its orthogonalisation does not depend on the order of the columns. Source:
K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class MuonBeside(torch.optim.Optimizer):
    """Two optimizers as one: their groups and states stand one after the other.

    Args:
        inner: groups of parameters of two or more dimensions, for Muon.
        others: groups for the optimizer that `rest` makes.
    """

    def __init__(
        self,
        inner: list[dict[str, Any]],
        others: list[dict[str, Any]],
        *,
        momentum: float,
        nesterov: bool,
        rest: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    ) -> None:
        self.kernels = [parameter for group in inner for parameter in group["params"]]
        seen = [{**group, "params": [nn.Parameter(matrix(p)) for p in group["params"]]} for group in inner]
        self.views = [view for group in seen for view in group["params"]]
        self.parts = [
            *([torch.optim.Muon(seen, momentum=momentum, nesterov=nesterov)] if inner else []),
            *([rest(others)] if others else []),
        ]
        self.defaults = {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of both, not copies: whoever sets a rate in one sets it."""
        return list(chain.from_iterable(part.param_groups for part in self.parts))

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        return dict(chain.from_iterable(part.state.items() for part in self.parts))

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for kernel, view in zip(self.kernels, self.views, strict=True):
            view.grad = None if kernel.grad is None else matrix(kernel.grad, like=kernel)
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel in self.kernels:
            kernel.grad = None
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch's: parameters by number, counted through both."""
        whole: dict[str, Any] = {"state": {}, "param_groups": []}
        offset = 0
        for part in self.parts:
            one = part.state_dict()
            whole["state"] |= {offset + number: values for number, values in one["state"].items()}
            for group in one["param_groups"]:
                whole["param_groups"].append({**group, "params": [offset + n for n in group["params"]]})
            offset += sum(len(group["params"]) for group in one["param_groups"])
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups, offset = list(state_dict["param_groups"]), 0
        for part in self.parts:
            own, groups = groups[: len(part.param_groups)], groups[len(part.param_groups) :]
            count = sum(len(group["params"]) for group in own)
            state = {n - offset: v for n, v in state_dict["state"].items() if offset <= n < offset + count}
            shifted = [{**group, "params": [n - offset for n in group["params"]]} for group in own]
            part.load_state_dict({"state": state, "param_groups": shifted})
            offset += count


def matrix(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """A tensor (out, …) as (out, rest) without gradient: a view, its columns ordered as memory of `like`."""
    like = tensor if like is None else like
    tensor = tensor.detach()
    if like.ndim == 4 and not like.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)  # channels last
    return tensor.flatten(1)
