"""The contract of every model: `stem`, then `stages`, then `head`.

In eval mode `forward(x) == head(features(x))`. `stages[-1]` is what Grad-CAM looks at; `stages` is what
freezing walks; `head` starts at the global pool or the flatten. A new task replaces only the last
parametrised layer of the head. Auxiliary classifiers live inside their stage and answer in training only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

    def features(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """All before the head: (n, c, h, w) images to (n, d, i, j) maps (for `linear`, `mlp`: the images)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor | Outputs:
        """Logits (n, k); in training, `Outputs` if a stage has an auxiliary classifier."""
        x = self.stem(x)
        auxiliary = []
        for stage in self.stages:
            x = stage(x)
            if self.training and isinstance(stage, AuxiliaryStage):
                auxiliary.append(stage.classifier(x))
        logits = self.head(x)
        return Outputs(logits, tuple(auxiliary)) if auxiliary else logits


def last_layer(network: Network) -> tuple[nn.Module, str, nn.Module]:
    """The layer that a new task replaces: (the module that holds it, its name there, the layer).

    Raises:
        ModelError: the head has no linear or convolution layer.
    """
    found = [
        (name, module)
        for name, module in network.head.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not found:
        raise ModelError("the head has no Linear or Conv2d layer that a new task could replace.")
    name, layer = found[-1]
    parent, _, child = name.rpartition(".")
    return network.head.get_submodule(parent), child, layer
