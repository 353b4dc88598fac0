"""A new task: a new last layer, the rest of the network as it was."""

from __future__ import annotations

import torch
from torch import nn

from svertka.errors import ModelError
from svertka.models.initialization import initialize_layer, scheme
from svertka.models.network import AuxiliaryStage, Network, last_layer_of
from svertka.randomness import torch_generator


def replace_head(network: Network, classes: int, *, seed: int = 0) -> Network:
    """Give the last layer of the head new weights for so many classes; returns the same network, changed.

    They start as the network's own initialisation (`network.init`) says; the last layers of auxiliary
    classifiers change too. Dtype, device and training mode stay.

    Raises:
        ModelError: `classes` is not positive, or the head has no layer to replace.
    """
    if classes < 1:
        raise ModelError(f"a network needs at least one class; got {classes}.")
    auxiliary = [stage.classifier for stage in network.stages if isinstance(stage, AuxiliaryStage)]
    generator = torch_generator(seed, "init", "head")
    for classifier in (network.head, *auxiliary):
        layer = last_layer_of(classifier)[2]
        place = layer.weight.device, layer.weight.dtype
        layer.weight = nn.Parameter(torch.empty(classes, *layer.weight.shape[1:]))
        if layer.bias is not None:
            layer.bias = nn.Parameter(torch.empty(classes))
        if isinstance(layer, nn.Linear):
            layer.out_features = classes
        else:
            layer.out_channels = classes
        initialize_layer(layer, scheme(network.init), generator, 1.0, last=True)
        layer.to(*place)
    return network
