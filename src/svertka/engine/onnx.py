"""From a frozen module to an ONNX model, built node by node from its trace; the batch dimension stays open.

Input `images` (n, c, h, w), output `outputs`, both float32. Batch normalisations are folded where they can
be; initializers keep the names of the module's parameters. Torch's own exporters give the same model after
2 to 14 seconds of analysis (EfficientNet-Lite0), which a list of function calls does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from svertka.engine.fold import Folded, folded_layers
from svertka.engine.operators import TABLE
from svertka.engine.trace import BATCH, Call, Trace, Value, trace
from svertka.engine.windows import Inexact
from svertka.errors import ModelError, nearest

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 18
"""ONNX operator set: the first in which Resize is antialiased and Split has sizes as an input."""
IR_VERSION = 8
"""File format that belongs to it."""


def export(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """A module in eval mode as a serialised ONNX model for batches of inputs of `shape`, such as (c, h, w).

    Raises:
        ModelError: the module cannot be traced, or calls a function that has no exact equivalent; names the
            function and the layer.
    """
    traced = trace(module, shape)
    layers = folded_layers(module, traced)
    model, names = build(module, traced, layers)
    values = weights(module, layers, names)
    for initializer in model.graph.initializer:
        if initializer.name in values:
            initializer.raw_data = values[initializer.name].tobytes()
            initializer.ClearField("data_location")
            del initializer.external_data[:]
    return bytes(model.SerializeToString())


def build(module: nn.Module, traced: Trace, layers: Folded) -> tuple[ModelProto, list[str]]:
    """The model without its weights, and their names.

    The model says that they lie outside of it; a session takes them by `add_external_initializers`. `layers`
    are the folded ones.

    Raises:
        ModelError: as `export`.
    """
    from onnx import TensorProto, helper

    graph = Graph(traced.input)
    for call in traced.calls:
        graph.add(_refolded(call, layers) if call.layer in layers else call)
    last = graph.name(traced.output)
    graph.nodes.append(helper.make_node("Identity", [last], ["outputs"], name="outputs"))
    proto = helper.make_graph(
        graph.nodes,
        type(module).__name__,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *traced.input.shape[1:]])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", *traced.output.shape[1:]])],
        [*graph.constants, *(_outside(value) for value in graph.weights.values())],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="svertka")
    model.ir_version = IR_VERSION
    return model, list(graph.weights)


def weights(module: nn.Module, layers: Folded, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """The arrays of these names; those of layers that are not folded share memory with the module."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for layer, (weight, bias) in layers.items():
        if weight is not None and bias is not None:
            state.update({f"{layer}.weight": weight, f"{layer}.bias": bias})
    return {name: state[name].detach().cpu().contiguous().numpy() for name in names}


class Graph:
    """An ONNX graph that grows call by call. `shape` is that of the result of the current call."""

    def __init__(self, images: Value) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.weights: dict[str, Value] = {}
        self.shape: tuple[int, ...] = ()
        self._results: tuple[Value, ...] = ()
        self._layer = ""
        self._names = {images.name: images.name}

    def add(self, call: Call) -> None:
        """The nodes of one call.

        Raises:
            ModelError: there is no exact equivalent.
        """
        layer = f"layer {call.layer}" if call.layer else "the module itself"
        if call.function not in TABLE:
            raise ModelError(
                f"{layer} calls torch's {call.function!r}, which has no entry in the table of ONNX operators "
                f"({nearest(call.function, TABLE)}) Use the engine 'eager' for this module."
            )
        self.shape, self._results, self._layer = call.results[0].shape, call.results, call.layer
        try:
            made = TABLE[call.function](self, *call.arguments, **call.options)
        except (Inexact, TypeError) as error:
            raise ModelError(
                f"{layer} calls torch's {call.function!r} in a way that ONNX cannot repeat exactly, because "
                f"{error}. Use the engine 'eager' for this module."
            ) from error
        names = [made] if isinstance(made, str) else made
        self._names.update({value.name: name for value, name in zip(call.results, names, strict=True)})

    def node(self, operator: str, *inputs: Value | str, **attributes: Any) -> str:
        """Add a node and return the name of its one output."""
        return self._node(operator, inputs, 1, attributes)[0]

    def split(self, value: Value, axis: int) -> list[str]:
        """Add a Split into the results of the current call and return their names."""
        sizes = self.integers([result.shape[axis] for result in self._results])
        return self._node("Split", (value, sizes), len(self._results), {"axis": axis})

    def reshape(self, name: str, value: Value) -> str:
        """Add a Reshape to the shape of the current result; `value` is what it is made of."""
        shape = list(self.shape)
        if value.batched:
            if shape[0] != BATCH or value.shape[0] != BATCH:
                raise Inexact("it moves the images of a batch into another dimension")
            shape[0] = 0  # as many as there are
        return self.node("Reshape", name, self.integers(shape))

    def name(self, value: Value) -> str:
        """The name of a value in the graph; a parameter that is asked for becomes an initializer."""
        if value.name not in self._names:
            self._names[value.name] = value.name
            self.weights[value.name] = value
        return self._names[value.name]

    def operand(self, value: Value | str | float) -> Value | str:
        """A value as it is; a number as a constant."""
        return self.floats(value) if isinstance(value, int | float) else value

    def floats(self, values: ArrayLike) -> str:
        """The name of a new float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """The name of a new int64 constant."""
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _node(
        self, operator: str, inputs: Sequence[Value | str], num_outputs: int, attributes: Any
    ) -> list[str]:
        from onnx import helper

        names = [item if isinstance(item, str) else self.name(item) for item in inputs]
        label = f"{self._layer or 'network'}/{operator} {len(self.nodes)}"
        outputs = [label if i == 0 else f"{label} output {i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(operator, names, outputs, name=label, **attributes))
        return outputs


def _refolded(call: Call, layers: Folded) -> Call:
    """The call of a folded layer with its new weights; that of its normalisation as a copy of its input."""
    weight, bias = layers[call.layer]
    if weight is None or bias is None:
        return replace(call, function="clone", arguments=call.arguments[:1], options={})
    new = [
        Value(f"{call.layer}.{name}", tuple(tensor.shape), False)
        for name, tensor in (("weight", weight), ("bias", bias))
    ]
    return replace(call, arguments=(call.arguments[0], *new, *call.arguments[3:]))


def _outside(weight: Value) -> TensorProto:
    """An initializer whose values lie elsewhere."""
    from onnx import TensorProto

    tensor = TensorProto(name=weight.name, dims=weight.shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor
