"""Trunk and tail: a network cut in two, the front frozen and the back an ordinary network to train.

Depth of a cut: 0 freezes nothing, 1 the stem, 1 + i the first i stages, `all` everything before the last
layer of the head (dropout just before that layer stays with it, since it acts in training only). The two
halves share their parameters with the network: training the tail trains the network, and in eval mode
`tail(trunk(x)) == network(x)` bit for bit.

Policy for BatchNorm: frozen blocks answer with their running statistics and never update them, whatever
mode the rest is in. A trunk is therefore a fixed function of an image, and its outputs can be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from torch import nn

from svertka.errors import ModelError
from svertka.models.network import AuxiliaryStage, Network, last_layer

Depth = int | Literal["all"]


@dataclass(frozen=True)
class Cut:
    """A depth at which a network can be cut, and what that freezes in words ("stage 2 of 4")."""

    depth: Depth
    name: str


class Trunk(Network):
    """The frozen front: no parameter takes a gradient, and it stays in eval mode whatever is asked of it."""

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, so that running statistics never change."""
        return super().train(False)


def depths(network: Network) -> list[Cut]:
    """All cuts of a network, from nothing frozen to everything before the last layer.

    Without stages (`linear`, `mlp`) depth 0 is the only one.
    """
    num_stages = len(network.stages)
    nothing = Cut(0, "nothing")
    if not num_stages:
        return [nothing]
    stages = [Cut(1 + i, f"stage {i} of {num_stages}") for i in range(1, num_stages + 1)]
    return [nothing, Cut(1, "stem"), *stages, Cut("all", "all but the last layer")]


def cut(network: Network, depth: Depth) -> tuple[Trunk, Network]:
    """Freeze a network up to `depth`: (trunk, tail), both made of the network's own modules.

    The trunk takes what the network takes; the tail takes what the trunk gives, and all its parameters take
    gradients. At depth 0 the tail is the network itself. A network may be cut again at another depth; that
    makes the earlier halves stale, and so does setting the mode of the whole network. Auxiliary classifiers
    of frozen stages train no more.

    Raises:
        ModelError: there is no such depth, or the network has no stages and the depth is not 0.
    """
    stages, head = list(network.stages), list(network.head)
    if isinstance(depth, bool) or depth not in [choice.depth for choice in depths(network)]:
        raise ModelError(_no_depth(depth, len(stages)))
    if depth == 0:
        front, num_frozen, tail = Trunk(nn.Identity(), [], nn.Sequential()), 0, network
    else:
        num_frozen = len(stages) if depth == "all" else int(depth) - 1
        before, after = _split_head(network) if depth == "all" else ([], head)
        # an auxiliary classifier is no part of the trunk, which only answers
        bodies = [stage.body if isinstance(stage, AuxiliaryStage) else stage for stage in stages]
        front = Trunk(network.stem, bodies[:num_frozen], nn.Sequential(*before))
        front.sides = network.sides
        tail = Network(nn.Identity(), stages[num_frozen:], nn.Sequential(*after))
        tail.init = network.init
    network.requires_grad_(True)
    for frozen in (front, *stages[:num_frozen]):
        frozen.requires_grad_(False)
    tail.train(network.training)
    return front.eval(), tail


def _no_depth(depth: object, num_stages: int) -> str:
    if not num_stages:
        return (
            f"there is no depth {depth!r}: this network has no stages, so there is nowhere to cut it. Train "
            "it whole (depth 0), or choose a convolutional network."
        )
    return (
        f"there is no depth {depth!r}: this network has {num_stages} stages, so the depth of a cut is 0 "
        f"(nothing frozen), 1 (the stem) to {1 + num_stages} (all {num_stages} stages), or 'all'."
    )


def _split_head(network: Network) -> tuple[list[nn.Module], list[nn.Module]]:
    """The steps of the head before its last layer, and from it on (with the dropout just before it)."""
    steps = list(_steps(network.head))
    last = last_layer(network)[2]
    position = next(index for index, step in enumerate(steps) if any(part is last for part in step.modules()))
    if steps[position] is not last:
        raise ModelError(
            "the last layer of this head stands inside a module that is no plain sequence, so the head "
            f"cannot be cut before it; choose a depth up to {1 + len(network.stages)}."
        )
    while position and isinstance(steps[position - 1], nn.Dropout):
        position -= 1
    return steps[:position], steps[position:]


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a nest of plain sequences applies one after another."""
    for child in module.children():
        if type(child) is nn.Sequential:
            yield from _steps(child)
        else:
            yield child
