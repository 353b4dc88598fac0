"""A new task: a new last layer, the rest of the network as it was."""

from __future__ import annotations

from torch import nn

from svertka.errors import ModelError
from svertka.models.initialization import initialize_layer, scheme
from svertka.models.network import AuxiliaryStage, Network, last_layer_of
from svertka.randomness import torch_generator


def replace_head(network: Network, classes: int, *, seed: int = 0) -> Network:
    """Put a new last layer for so many classes into the network, in place, and return the network.

    The layer starts as the network's own initialisation (`network.init`) says; the last layers of auxiliary
    classifiers are replaced too. Dtype, device and training mode stay.

    Raises:
        ModelError: `classes` is not positive, or the head has no layer to replace.
    """
    if classes < 1:
        raise ModelError(f"a network needs at least one class; got {classes}.")
    auxiliary = [stage.classifier for stage in network.stages if isinstance(stage, AuxiliaryStage)]
    generator = torch_generator(seed, "init", "head")
    for classifier in (network.head, *auxiliary):
        holder, name, old = last_layer_of(classifier)
        kept = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
        new: nn.Linear | nn.Conv2d
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, classes, device="meta", bias=old.bias is not None)
        else:
            new = nn.Conv2d(
                old.in_channels, classes, old.kernel_size, old.stride, old.padding, device="meta",
                bias=old.bias is not None,
            )  # fmt: skip
        new = new.to_empty(device="cpu")
        initialize_layer(new, scheme(network.init), generator, 1.0, last=True)
        setattr(holder, name, new.to(kept["device"], kept["dtype"]).train(old.training))
    return network
