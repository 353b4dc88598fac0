"""Engine: a frozen module as a function from batches to outputs, by one of three ways to compute it.

    eager           the module itself, bit for bit
    channels_last   a copy with folded normalisations, its maps stored pixel by pixel
    onnxruntime     ONNX Runtime on the CPU, from a graph built by `svertka.engine.onnx`

The module must not change while an engine of it is in use: only `eager` would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from svertka.engine.fold import Folded, fold, folded_layers
from svertka.engine.onnx import build, weights
from svertka.engine.trace import trace
from svertka.errors import ModelError, OptionError, nearest
from svertka.shapes import Float

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = ("eager", "channels_last", "onnxruntime")


@dataclass(frozen=True)
class Engine:
    """A way to run one frozen module for one shape of input, and what was measured when it was chosen.

    Attributes:
        name: one of `NAMES`.
        shape: of one input, (c, h, w).
        images_per_second: of every engine that was measured and agreed; empty if the choice was forced.
        refused: engine -> why it was not considered.
        remembered: whether the choice was known from before.
    """

    name: str
    shape: tuple[int, ...]
    run: Callable[[Tensor], Tensor] = field(repr=False)
    images_per_second: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    remembered: bool = False

    def __call__(self, batch: Float[Tensor, "n c h w"]) -> Tensor:
        """The module's outputs for a batch; no gradients.

        Raises:
            ModelError: the batch has another shape, or is not float32.
        """
        if tuple(batch.shape[1:]) != self.shape or batch.dtype != torch.float32:
            raise ModelError(
                f"this engine was made for float32 batches of inputs of {self.shape}; got {batch.dtype} of "
                f"{tuple(batch.shape[1:])}. Make another engine for that shape."
            )
        with torch.no_grad():
            return self.run(batch)


def engine(module: nn.Module, name: str, shape: tuple[int, ...]) -> Engine:
    """The engine `name` of a module in eval mode, for inputs of `shape` (c, h, w), whether it is fast or not.

    Raises:
        OptionError: no such engine, or it does not work on the device of the module.
        ModelError: the module is in training mode, or this engine cannot run it; names function and layer.
    """
    if name not in NAMES:
        raise OptionError(f"there is no engine {name!r}: {nearest(name, NAMES)}")
    refuse_training(module)
    if name == "eager":
        return Engine("eager", shape, module)
    if device_of(module).type != "cpu":
        raise OptionError(f"the engine {name!r} works on the CPU; on {device_of(module)} use 'eager'.")
    if name == "channels_last":
        return channels_last(module, shape)
    traced = trace(module, shape)
    layers = folded_layers(module, traced)
    model, names = build(module, traced, layers)
    return onnxruntime(module, shape, layers, model.SerializeToString(), names)


def later(module: nn.Module, name: str, shape: tuple[int, ...]) -> Engine:
    """As `engine`, made when it is first asked; a name that cannot be is an error then."""
    made: list[Engine] = []

    def run(batch: Tensor) -> Tensor:
        if not made:
            made.append(engine(module, name, shape))
        return made[0](batch)

    return Engine(name, shape, run)


def channels_last(module: nn.Module, shape: tuple[int, ...]) -> Engine:
    """A folded copy that keeps the channels of a pixel together (NHWC), as the convolutions like it."""
    copy = fold(module, shape).to(memory_format=torch.channels_last)

    def run(batch: Tensor) -> Tensor:
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        outputs: Tensor = copy(batch)
        return outputs.contiguous()

    return Engine("channels_last", shape, run)


def onnxruntime(
    module: nn.Module, shape: tuple[int, ...], layers: Folded, graph: bytes, names: Iterable[str]
) -> Engine:
    """A session over a graph that takes its weights from the module; as many threads as torch has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # idle threads sleep: between two batches the cores belong to decoding and augmentation
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    arrays = weights(module, layers, names)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise ModelError(f"ONNX Runtime cannot run this module: {error}") from error

    def run(batch: Tensor, weights_live_here: object = (arrays, values)) -> Tensor:
        return torch.from_numpy(session.run(["outputs"], {"images": batch.contiguous().numpy()})[0])

    return Engine("onnxruntime", shape, run)


def refuse_training(module: nn.Module) -> None:
    """Raise ModelError unless all of a module is in eval mode."""
    if any(part.training for part in module.modules()):
        raise ModelError("engines run frozen modules: call .eval() on this one first.")


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters are; the CPU for a module without any."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
