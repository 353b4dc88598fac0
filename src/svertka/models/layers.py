"""What all families are built from: the options a user may choose, and the blocks that obey them.

`Options` is what a builder is asked for. `Blocks` makes convolution–normalisation–activation units of one
kind, `Residual` adds a branch to its input, `Parallel` lays branches side by side, `pooled_head` classifies.
Modules register their parameters in the order of torchvision's models, so that state dicts of the two match
entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svertka.errors import OptionError
from svertka.models.activations import activation, widening
from svertka.models.normalization import normalization
from svertka.shapes import Float

Size = int | tuple[int, int]
"""One number for both directions, or (vertical, horizontal)."""


@dataclass(frozen=True)
class Options:
    """What every builder takes beside its plan; `catalog.build` fills in a row's own values."""

    classes: int = 1000
    in_channels: int = 3
    size: int = 224  # side of the input in pixels; only grids that are flattened depend on it
    activation: str = "relu"
    norm: str = "batch"
    init: str = "torch"  # builders look at it only where it changes the structure (fixup)
    dropout: float = 0.0  # probability, where the architecture has its place for it


@dataclass(frozen=True)
class Blocks:
    """Convolution, then normalisation, then activation, all of the same kind.

    `scalars` makes the units of Fixup (Zhang et al. 2019) instead: a scalar bias before each convolution and
    each activation, and no normalisation.
    """

    activation: str = "relu"
    norm: str = "batch"
    eps: float = 1e-5  # added to the variance
    momentum: float = 0.1  # share of the newest batch in batch norm's running statistics
    scalars: bool = False

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        *,
        stride: Size = 1,
        padding: Size | None = None,
        dilation: int = 1,
        groups: int = 1,
        act: bool = True,
        bias: bool | None = None,
    ) -> nn.Sequential:
        """Convolution, normalisation, activation (if `act`): (n, inputs, h, w) to (n, outputs, i, j).

        `padding` None keeps the size at stride 1 (odd kernels); `bias` None: where no normalisation follows.
        """
        wide = outputs * widening(self.activation) if act else outputs
        norm = self.normalize(wide)
        if padding is None:
            padding = same_padding(kernel, dilation)
        if bias is None:
            bias = norm is None and not self.scalars
        layers = [nn.Conv2d(inputs, wide, kernel, stride, padding, dilation, groups, bias), norm]
        if self.scalars:
            layers = [Shift(), layers[0], Shift() if act else None]
        if act:
            layers.append(self.act(outputs))
        return nn.Sequential(*[layer for layer in layers if layer is not None])

    def linear(self, inputs: int, outputs: int, *, norm: bool = False) -> nn.Sequential:
        """Linear layer, normalisation if asked for, activation: (n, inputs) to (n, outputs)."""
        wide = outputs * widening(self.activation)
        between = self.normalize(wide, vectors=True) if norm else None
        layers = [nn.Linear(inputs, wide, bias=between is None), between, self.act(outputs)]
        return nn.Sequential(*[layer for layer in layers if layer is not None])

    def act(self, channels: int) -> nn.Module:
        """The activation alone; maxout takes twice the channels named here."""
        return activation(self.activation, channels)

    def normalize(self, channels: int, *, vectors: bool = False) -> nn.Module | None:
        """The normalisation alone; None when there is none."""
        return normalization(self.norm, channels, vectors=vectors, eps=self.eps, momentum=self.momentum)


class Residual(nn.Module):
    """y = act(branch(x) + shortcut(x)) (He et al. 2015, eq. 1 and 2).

    `drop` is the probability that a whole branch is left out for an image in training (stochastic depth,
    Huang et al. 2016); `module.drop.p` may be changed later.
    """

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        act: nn.Module | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()
        self.drop = StochasticDepth(drop)
        self.act = act or nn.Identity()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return self.act(self.drop(self.branch(x)) + self.shortcut(x))  # type: ignore[no-any-return]


class StochasticDepth(nn.Module):
    """In training 0 for an image with probability p, else x / (1 - p), so that the mean stays.

    Huang et al. 2016. It draws as torchvision's does in mode "row"; torchvision takes a second to import.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p) if self.p < 1 else x * kept


def drop_blocks(network: nn.Module, probability: float) -> None:
    """Leave out the branch of residual block l of L in training with `probability` · l / L.

    Huang et al. 2016, equation 4.

    Raises:
        OptionError: the network has no residual blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, Residual)]
    if not blocks:
        raise OptionError(
            "regularization.stochastic_depth leaves out residual blocks, and this network has none; "
            "leave it at 0 or choose a residual network, such as resnet18."
        )
    for number, block in enumerate(blocks, 1):
        block.drop.p = probability * number / len(blocks)


class Parallel(nn.Module):
    """y = the outputs of all branches on the same x, one after the other along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Shift(nn.Module):
    """y = x + b with one learned number b, zero at the start (Fixup, Zhang et al. 2019, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """y = a · x with one learned number a, one at the start (Fixup, Zhang et al. 2019, section 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def same_padding(kernel: Size, dilation: int = 1) -> Size:
    """Zeros on each side that keep the size at stride 1, for odd kernels."""
    if isinstance(kernel, int):
        return dilation * (kernel - 1) // 2
    return dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2


def pooled_head(channels: int, options: Options) -> nn.Sequential:
    """Global average pool, flatten, dropout if any, linear: (n, channels, h, w) to logits (n, classes)."""
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropout(options.dropout)]
    return nn.Sequential(*layers, nn.Linear(channels, options.classes))


def dropout(probability: float) -> list[nn.Module]:
    """A dropout layer in a list, or no layer: to be unpacked into a Sequential."""
    return [nn.Dropout(probability)] if probability else []
