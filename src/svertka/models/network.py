"""The contract of every model: `stem`, then `stages`, then `head`.

In eval mode `forward(x) == head(features(x))`. `stages[-1]` is what Grad-CAM looks at; `stages` is what
freezing walks; `head` starts at the global pool or the flatten. A new task replaces only the last
parametrised layer of the head. Auxiliary classifiers live inside their stage and answer in training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svertka.errors import ModelError
from svertka.shapes import Float


class Outputs(NamedTuple):
    """What a network with auxiliary classifiers answers in training: logits (n, k), and more logits."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class AuxiliaryStage(nn.Module):
    """A stage with an auxiliary classifier on its output: `body` is the stage, `classifier` gives logits."""

    def __init__(self, body: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.classifier = classifier

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return self.body(x)  # type: ignore[no-any-return]


class Network(nn.Module):
    """An image classifier of exactly three children: `stem`, `stages` (a ModuleList) and `head`."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], head: nn.Sequential) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.init = "torch"  # the initialisation that a new last layer starts from
        self.sides: tuple[int, int | None] = (1, None)  # smallest and largest input side in pixels

    def features(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """All before the head: (n, c, h, w) images to (n, d, i, j) maps (for `linear`, `mlp`: the images).

        Raises:
            ModelError: the images are too small for this network, or not of the one size it was built for.
        """
        self._check_sides(x)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor | Outputs:
        """Logits (n, k); in training, `Outputs` if a stage has an auxiliary classifier.

        Raises:
            ModelError: as `features`.
        """
        self._check_sides(x)
        x = self.stem(x)
        auxiliary = []
        for stage in self.stages:
            x = stage(x)
            if self.training and isinstance(stage, AuxiliaryStage):
                auxiliary.append(stage.classifier(x))
        logits = self.head(x)
        return Outputs(logits, tuple(auxiliary)) if auxiliary else logits

    def _check_sides(self, x: Tensor) -> None:
        smallest, largest = self.sides
        if torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
            return  # sizes are symbols there
        height, width = x.shape[-2:]
        if min(height, width) < smallest or (largest is not None and max(height, width) > largest):
            wanted = f"at least {smallest}" if largest is None else f"exactly {largest}"
            raise ModelError(
                f"this network takes images of {wanted} pixels a side; got {height} × {width}. "
                "Resize the images, or build the network for their size."
            )


def last_layer(network: Network) -> tuple[nn.Module, str, nn.Linear | nn.Conv2d]:
    """The layer that a new task replaces: (the module that holds it, its name there, the layer).

    Raises:
        ModelError: the head has no linear or convolution layer.
    """
    return last_layer_of(network.head)


def last_layer_of(classifier: nn.Module) -> tuple[nn.Module, str, nn.Linear | nn.Conv2d]:
    """The same for any classifier, such as an auxiliary one."""
    found = [
        (name, module)
        for name, module in classifier.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not found:
        raise ModelError("the head has no Linear or Conv2d layer that a new task could replace.")
    name, layer = found[-1]
    parent, _, child = name.rpartition(".")
    return classifier.get_submodule(parent), child, layer
