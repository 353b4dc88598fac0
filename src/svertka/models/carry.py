"""Tensors of a file into a network: matched, adapted to other classes and channels, and copied.

Entries are matched by name: ours, or those of torchvision's (or timm's) network of the same name, in the
order of our layers. If the file keeps its own order (a PyTorch state dict does, safetensors does not),
names of another implementation match in order, when every shape and the last word of every name (`weight`,
`running_mean`, …) agree. The counters `num_batches_tracked` are left out: nothing depends on them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from svertka.errors import WeightsError
from svertka.models.network import AuxiliaryStage, Network, last_layer_of
from svertka.models.published import LITE

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""torchvision's DenseNet files still call `norm1` `norm.1`."""


@torch.no_grad()
def carry(
    network: Network, tensors: Mapping[str, Tensor], model: str, origin: str, *, ordered: bool
) -> list[str]:
    """Copy the tensors of a file into a network built for any classes and channels; says what was adapted.

    Another number of classes: the last layer keeps the values it has (those of its initialisation). Other
    input channels: see `other_channels`. `ordered` says that the order of the tensors is that of the file's
    layers.

    Raises:
        WeightsError: the entries do not fit this network, or are not finite.
    """
    places = _entries(network.state_dict(), ours=True)
    given = _entries({OLD_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}, ours=False)
    heads = [name for name, _ in _heads(network)]
    pairs, said = _match(places, given, model, origin, ordered, heads)
    first = next((f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")
    copies, problems = [], []
    for name, value in pairs.items():
        place = places[name]
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{origin}: the entry for {name} has values that are not finite numbers.")
        if name == first and value.ndim == 4 and _same(value, place, but=1):
            said.append(_channels_said(value.shape[1], place.shape[1]))
            value = other_channels(value, place.shape[1])
        if name.rpartition(".")[0] in heads and value.ndim == place.ndim and _same(value, place, but=0):
            said.append(f"a new last layer for {place.shape[0]} classes, the weights have {value.shape[0]}")
        elif value.shape == place.shape:
            copies.append((place, value))
        else:
            problems.append(f"{name} wants {tuple(place.shape)} and has {tuple(value.shape)}")
    if problems:
        raise WeightsError(
            f"{origin} does not fit {model}: {_few(problems)}. Give the weights to the "
            "architecture they were trained with, with its usual options."
        )
    for place, value in copies:
        place.copy_(value)
    return list(dict.fromkeys(said))


def other_channels(kernels: Tensor, channels: int) -> Tensor:
    """Kernels (outputs, inputs, h, w) of a first convolution for another number of input channels.

    For one channel they are summed: a grey image gives what it gave when copied into all channels.
    Otherwise they are repeated in turn and scaled by inputs / channels, which gives the same where all
    channels are equal and their number is a multiple of the old one, and keeps the scale else.
    """
    inputs = kernels.shape[1]
    if channels == 1:
        return kernels.sum(1, keepdim=True)
    return kernels[:, torch.arange(channels) % inputs] * (inputs / channels)


def _channels_said(inputs: int, channels: int) -> str:
    how = "summed" if channels == 1 else "repeated and rescaled"
    return f"the first kernels {how} from {inputs} input channels to {channels}"


def _match(
    places: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    model: str,
    origin: str,
    ordered: bool,
    heads: list[str],
) -> tuple[dict[str, Tensor], list[str]]:
    """Our names to the file's tensors, and what is to be said of it."""
    if places.keys() == given.keys():
        return {name: given[name] for name in places}, []
    theirs = reference_names(model)
    if theirs and set(theirs) >= given.keys() and len(theirs) == len(places):
        pairs = dict(zip(places, theirs, strict=True))
        missing = [name for name, their in pairs.items() if their not in given]
        auxiliary = [name for name in missing if _auxiliary(name, ours=True)]
        if all(name in auxiliary or name.rpartition(".")[0] in heads for name in missing):
            said = ["new auxiliary classifiers, the weights have none"] if auxiliary else []
            said += ["a new last layer, the weights have none"] if len(auxiliary) < len(missing) else []
            return {name: given[their] for name, their in pairs.items() if their in given}, said
    if ordered and [name.split(".")[-1] for name in places] == [name.split(".")[-1] for name in given]:
        return dict(zip(places, given.values(), strict=True)), []
    why = "they have other names" if len(places) == len(given) else f"it has {len(given)}"
    raise WeightsError(
        f"{origin} does not fit {model}: expected the {len(places)} tensors of this network under our names"
        f"{' or those of its reference' if theirs else ''}, but {why}, such as {_few(list(given)[:2])}. "
        "Give the weights to the architecture they were trained with, with its usual activation and norm."
    )


def reference_names(model: str) -> list[str]:
    """The entries of torchvision's (or timm's) network of this name in our order; none if there is none."""
    if model.startswith("timm:"):
        from svertka.models.external import parameter_names

        return parameter_names(model)
    if any(chosen.model == model for chosen in LITE):
        return []  # torchvision has none of these, and takes two seconds to say so
    from torchvision.models import get_model, list_models

    if model not in list_models():
        return []
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return list(_entries(get_model(model, weights=None, **options).state_dict(), ours=False))


def _entries(state: Mapping[str, Tensor], *, ours: bool) -> dict[str, Tensor]:
    """Without counters, those of auxiliary classifiers last."""
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return {name: kept[name] for name in sorted(kept, key=lambda name: _auxiliary(name, ours=ours))}


def _auxiliary(name: str, *, ours: bool) -> bool:
    return ".classifier." in name and name.startswith("stages") if ours else name.lower().startswith("aux")


def _heads(network: Network) -> Iterable[tuple[str, nn.Module]]:
    """The layers that a new task replaces, by name."""
    classifiers = [network.head, *(s.classifier for s in network.stages if isinstance(s, AuxiliaryStage))]
    last = [last_layer_of(classifier)[2] for classifier in classifiers]
    return [(name, module) for name, module in network.named_modules() if any(module is one for one in last)]


def _same(value: Tensor, place: Tensor, *, but: int) -> bool:
    """Shapes differ in this dimension and no other."""
    differ = [i for i, (a, b) in enumerate(zip(value.shape, place.shape, strict=True)) if a != b]
    return differ == [but]


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
