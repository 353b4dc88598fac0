"""The verb `inspect`: one architecture, layer by layer, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svertka.errors import OptionError
from svertka.models.anatomy import Anatomy, Layer, anatomy
from svertka.models.catalog import build, find, skeleton
from svertka.models.rows import options


def inspect(
    model: str,
    *,
    size: int | None = None,
    classes: int | None = None,
    channels: int | None = None,
    figure: str | Path | None = None,
    field: str | Path | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Take a model apart: shapes, parameters, multiply–accumulates and receptive fields.

    Args:
        model: a name of `svertka models`.
        size, classes, channels: side of the input in pixels, logits, input channels; default: as published.
        figure: where to draw the network as blocks with its receptive field growing (PNG).
        field: where to draw the effective receptive field of the last stage (PNG), measured on noise.
        weights: the weights with which `field` is measured; default: fresh ones from `seed`.

    Returns:
        `model input parameters auxiliary_parameters macs activation_bytes depth receptive_field field layers
        files`; input is [channels, height, width], auxiliary parameters work in training only,
        `receptive_field` is that of the maps before the global pool. Each layer has `name kind part output
        parameters macs activation_bytes receptive_field field window stride strides offset seen gated`:
        `receptive_field` and `stride` are the larger of the two directions, `field`, `window`, `strides` and
        `offset` [vertical, horizontal], all in input pixels; see `svertka.models.anatomy.Layer`.

    Raises:
        ModelError: no such model or weights, an input too small, or (for `field`) a model without stages.
        OptionError: weights without `field`, or a figure that cannot be drawn.
    """
    if weights is not None and field is None:
        raise OptionError("weights change nothing but the effective field: give a path for it (field) too.")
    row = find(model)
    chosen = options(row, classes=classes, in_channels=channels, size=size)
    whole = anatomy(skeleton(row, chosen), size=chosen.size, channels=chosen.in_channels)
    files = []
    if figure is not None:
        from svertka.models.figure import figure as draw

        files.append(str(draw(whole, figure, title=model)))
    if field is not None:
        from svertka.models.effective import effective_receptive_field
        from svertka.models.figure import field_figure

        network = build(model, classes=classes, in_channels=channels, size=size, seed=seed, weights=weights)
        image = effective_receptive_field(network, size=chosen.size, channels=chosen.in_channels, seed=seed)
        last = [layer for layer in whole.layers if layer.part.startswith("stages")][-1]
        files.append(str(field_figure(image, last, field)))
    return {
        "model": model,
        **_totals(whole),
        "layers": [_entry(layer) for layer in whole.layers],
        "files": files,
    }


def _totals(whole: Anatomy) -> dict[str, Any]:
    return {
        "input": list(whole.input),
        "parameters": whole.parameters,
        "auxiliary_parameters": whole.idle_parameters,
        "macs": whole.macs,
        "activation_bytes": whole.activation_bytes,
        "depth": whole.depth,
        "receptive_field": max(whole.receptive_field),
        "field": list(whole.receptive_field),
    }


def _entry(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "part": layer.part,
        "output": list(layer.output),
        "parameters": layer.parameters,
        "macs": layer.macs,
        "activation_bytes": layer.activation_bytes,
        "receptive_field": max(layer.receptive_field),
        "field": list(layer.receptive_field),
        "window": layer.window and list(layer.window),
        "stride": layer.stride and _whole(max(layer.stride)),
        "strides": layer.stride and [_whole(stride) for stride in layer.stride],
        "offset": list(layer.offset),
        "seen": list(layer.seen),
        "gated": layer.gated,
    }


def _whole(stride: float) -> int | float:
    return int(stride) if stride == int(stride) else stride
