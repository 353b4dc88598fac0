"""The catalogue: THE table of all architectures, name to row.

`build(name, …)` makes a network from its row; `find` and `rows` look rows up. Figures are those published
with the architecture; where torchvision has it, parameters, multiply–accumulates and accuracies are of its
first weights (https://docs.pytorch.org/vision/stable/models.html). A new architecture is a plan and a line
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch

from svertka.errors import ModelError, nearest
from svertka.models.initialization import initialize
from svertka.models.layers import Options
from svertka.models.lenet import LeNetPlan, lenet
from svertka.models.linear import PerceptronPlan, perceptron
from svertka.models.network import Network
from svertka.models.resnet import ResNetPlan, Shortcut, resnet
from svertka.models.rows import Family, Row, options
from svertka.randomness import torch_generator

_NO_MAXOUT_AFTER_SUM = (
    "maxout halves the channels, and after the sum of a residual block they must stay those of the shortcut."
)
_NO_HIDDEN = "a linear classifier has no hidden layer."
_NO_INSTANCE = "instance norm averages over the positions of maps, and this net has vectors only."
_HE = "He, Zhang, Ren, Sun 2015, arXiv:1512.03385"

LINEAR = Family(
    "Linear", 1958, perceptron, "Rosenblatt 1958, Psychological Review 65(6)", classes=10, fixed=True,
    activation="identity", norm="none",
    refuses={"activation": _NO_HIDDEN, "norm": _NO_HIDDEN, "dropout": _NO_HIDDEN},
)  # fmt: skip
MLP = Family(
    "MLP", 1986, perceptron, "Rumelhart, Hinton, Williams 1986, Nature 323", classes=10, fixed=True,
    norm="none", init="kaiming", refuses={"norm=instance": _NO_INSTANCE},
)  # fmt: skip
LENET = Family(
    "LeNet", 1998, lenet, "LeCun, Bottou, Bengio, Haffner 1998, Proc. IEEE 86(11)", channels=1, classes=10,
    fixed=True, norm="none",
)  # fmt: skip
RESNET = Family(
    "ResNet",
    2015,
    resnet,
    _HE,
    init="resnet",
    fixup=True,
    refuses={"activation=maxout": _NO_MAXOUT_AFTER_SUM},
)
RESNEXT = Family(
    "ResNeXt", 2016, resnet, "Xie, Girshick, Dollár, Tu, He 2016, arXiv:1611.05431", init="resnet",
    fixup=True, refuses=RESNET.refuses,
)  # fmt: skip
WIDE = Family(
    "Wide ResNet", 2016, resnet, "Zagoruyko, Komodakis 2016, arXiv:1605.07146", init="resnet",
    fixup=True, refuses=RESNET.refuses,
)  # fmt: skip
SMALL = Family("ResNet", 2015, resnet, _HE, classes=10, init="kaiming", fixup=True, refuses=RESNET.refuses)
PLAIN = Family("Plain", 2015, resnet, _HE, init="kaiming")
SMALL_PLAIN = Family("Plain", 2015, resnet, _HE, classes=10, init="kaiming")


def _small(n: int, shortcut: Shortcut = "zeros") -> ResNetPlan:
    """Section 4.2 of the paper: 6n + 2 layers for 32 px images."""
    return ResNetPlan("basic", (n, n, n), width=16, stem="small", shortcut=shortcut)


_TABLE = (
    # name, family, plan, input, smallest, parameters, macs, depth, top-1, top-5
    Row("linear", LINEAR, PerceptronPlan(), 32, 1, 30_730, 30_720, 1),
    Row("mlp", MLP, PerceptronPlan((512, 512)), 32, 1, 1_841_162, 1_840_128, 3),
    Row("lenet5", LENET, LeNetPlan(), 32, 12, 61_706, 416_520, 5),
    Row("resnet18", RESNET, ResNetPlan("basic", (2, 2, 2, 2)),
        224, 1, 11_689_512, 1.814e9, 18, 69.758, 89.078),
    Row("resnet34", RESNET, ResNetPlan("basic", (3, 4, 6, 3)),
        224, 1, 21_797_672, 3.664e9, 34, 73.314, 91.420),
    Row("resnet50", RESNET, ResNetPlan("bottleneck", (3, 4, 6, 3)),
        224, 1, 25_557_032, 4.089e9, 50, 76.130, 92.862),
    Row("resnet101", RESNET, ResNetPlan("bottleneck", (3, 4, 23, 3)),
        224, 1, 44_549_160, 7.801e9, 101, 77.374, 93.546),
    Row("resnet152", RESNET, ResNetPlan("bottleneck", (3, 8, 36, 3)),
        224, 1, 60_192_808, 11.514e9, 152, 78.312, 94.046),
    Row("resnext50_32x4d", RESNEXT, ResNetPlan("bottleneck", (3, 4, 6, 3), groups=32, width_per_group=4),
        224, 1, 25_028_904, 4.230e9, 50, 77.618, 93.698),
    Row("resnext101_32x8d", RESNEXT, ResNetPlan("bottleneck", (3, 4, 23, 3), groups=32, width_per_group=8),
        224, 1, 88_791_336, 16.414e9, 101, 79.312, 94.526),
    Row("resnext101_64x4d", RESNEXT, ResNetPlan("bottleneck", (3, 4, 23, 3), groups=64, width_per_group=4),
        224, 1, 83_455_272, 15.460e9, 101, 83.246, 96.454),
    Row("wide_resnet50_2", WIDE, ResNetPlan("bottleneck", (3, 4, 6, 3), width_per_group=128),
        224, 1, 68_883_240, 11.398e9, 50, 78.468, 94.086),
    Row("wide_resnet101_2", WIDE, ResNetPlan("bottleneck", (3, 4, 23, 3), width_per_group=128),
        224, 1, 126_886_696, 22.753e9, 101, 78.848, 94.284),
    Row("plain18", PLAIN, ResNetPlan("basic", (2, 2, 2, 2), shortcut="none"),
        224, 1, 11_515_688, 1.795e9, 18),
    Row("plain34", PLAIN, ResNetPlan("basic", (3, 4, 6, 3), shortcut="none"),
        224, 1, 21_623_848, 3.644e9, 34),
    Row("resnet20", SMALL, _small(3), 32, 1, 269_722, 40.55e6, 20),
    Row("resnet32", SMALL, _small(5), 32, 1, 464_154, 68.86e6, 32),
    Row("resnet44", SMALL, _small(7), 32, 1, 658_586, 97.17e6, 44),
    Row("resnet56", SMALL, _small(9), 32, 1, 853_018, 125.49e6, 56),
    Row("resnet110", SMALL, _small(18), 32, 1, 1_727_962, 252.89e6, 110),
    Row("plain20", SMALL_PLAIN, _small(3, "none"), 32, 1, 269_722, 40.55e6, 20),
    Row("plain56", SMALL_PLAIN, _small(9, "none"), 32, 1, 853_018, 125.49e6, 56),
)  # fmt: skip


def table(listed: Iterable[Row]) -> dict[str, Row]:
    """Rows by name; a name that comes twice is a ValueError."""
    found: dict[str, Row] = {}
    for row in listed:
        if row.name in found:
            raise ValueError(f"the catalogue has two rows named {row.name!r}.")
        found[row.name] = row
    return found


ROWS: dict[str, Row] = table(_TABLE)


def find(name: str) -> Row:
    """The row of this name.

    Raises:
        ModelError: no such model; names the nearest.
    """
    if name not in ROWS:
        raise ModelError(
            f"there is no model {name!r}: {nearest(name, ROWS)} `svertka models` lists them all."
        )
    return ROWS[name]


def rows(pattern: str = "*") -> list[Row]:
    """The rows whose name or family fits a shell pattern (`resnet*`), in the order of the table."""
    wanted = pattern.casefold()
    return [
        row
        for row in ROWS.values()
        if fnmatchcase(row.name, wanted) or fnmatchcase(row.family.name.casefold(), wanted)
    ]


def build(
    name: str,
    *,
    classes: int | None = None,
    in_channels: int | None = None,
    size: int | None = None,
    activation: str | None = None,
    norm: str | None = None,
    init: str | None = None,
    dropout: float | None = None,
    seed: int = 0,
    weights: str | None = None,
) -> Network:
    """The network `name` on the CPU, in training mode; None takes the row's own value.

    `size` is the side of the input in pixels. The same arguments give the same bits; the global random
    state is not touched. After `init` "lsuv" or "krahenbuhl" call `initialization.initialize_with_data`.

    Raises:
        ModelError: an unknown name, unknown weights, or an input too small.
        OptionError: an option that this architecture refuses, with the reason.
    """
    row = find(name)
    chosen = options(
        row,
        classes=classes,
        in_channels=in_channels,
        size=size,
        activation=activation,
        norm=norm,
        init=init,
        dropout=dropout,
    )
    if weights not in (None, "none"):
        raise ModelError(
            f"there are no weights {weights!r} for {name}; give weights='none' to start from scratch."
        )
    network = skeleton(row, chosen).to_empty(device="cpu")
    initialize(network, chosen.init, torch_generator(seed, "init"), chosen.activation)
    return network


def skeleton(row: Row, chosen: Options | None = None) -> Network:
    """The network on torch's `meta` device: all shapes, no values; in no time and no memory.

    Raises:
        ModelError: instance norm would see a map of a single pixel.
    """
    chosen = chosen or options(row)
    with torch.device("meta"):
        network = row.family.builder(row.plan, chosen)
        network.init = chosen.init
        network.sides = (chosen.size, chosen.size) if row.family.fixed else (row.smallest, None)
        if chosen.norm == "instance":
            _check_instance_norm(network, row, chosen)
    return network


def _check_instance_norm(network: Network, row: Row, chosen: Options) -> None:
    try:
        network(torch.empty(2, chosen.in_channels, chosen.size, chosen.size))
    except ValueError as error:
        raise ModelError(
            f"instance norm averages over a map, and at {chosen.size} px {row.name} has maps of one pixel, "
            "which would always be zero after it. Take larger images or another norm."
        ) from error
