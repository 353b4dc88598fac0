"""The catalogue: THE table of all architectures, name to row.

`build(name, …)` makes a network from its row; `find` and `rows` look rows up. Figures are those published
with the architecture; where torchvision has it, parameters, multiply–accumulates and accuracies are of its
first weights (https://docs.pytorch.org/vision/stable/models.html). A new architecture is a plan and a line
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import torch

from svertka.errors import ModelError, OptionError, nearest
from svertka.models import external
from svertka.models.alexnet import AlexNetPlan, alexnet
from svertka.models.densenet import DenseNetPlan, densenet
from svertka.models.efficientnet import EfficientNetPlan, efficientnet
from svertka.models.inception import GoogLeNetPlan, InceptionPlan, googlenet, inception
from svertka.models.initialization import INITS, initialize
from svertka.models.layers import Options
from svertka.models.lenet import LeNetPlan, lenet
from svertka.models.linear import PerceptronPlan, perceptron
from svertka.models.mnasnet import MNASNetPlan, mnasnet
from svertka.models.mobilenet import MobileNetPlan, mobilenet
from svertka.models.network import Network
from svertka.models.resnet import ResNetPlan, Shortcut, resnet
from svertka.models.rows import Family, Row, options
from svertka.models.shufflenet import ShuffleNetPlan, shufflenet
from svertka.models.squeezenet import SqueezeNetPlan, squeezenet
from svertka.models.vgg import VGGPlan, vgg
from svertka.progress import say
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
    "ResNet", 2015, resnet, _HE, init="resnet",
    fixup=True, refuses={"activation=maxout": _NO_MAXOUT_AFTER_SUM},
)  # fmt: skip
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
ALEXNET = Family(
    "AlexNet", 2012, alexnet, "Krizhevsky, Sutskever, Hinton 2012, NIPS 25; Krizhevsky 2014, arXiv:1404.5997",
    norm="none", dropout=0.5,
)  # fmt: skip
VGG = Family(
    "VGG", 2014, vgg, "Simonyan, Zisserman 2014, arXiv:1409.1556", norm="none", init="vgg", dropout=0.5
)
VGG_BN = Family("VGG", 2014, vgg, VGG.paper, init="vgg", dropout=0.5)
GOOGLENET = Family(
    "Inception", 2014, googlenet, "Szegedy et al. 2014, arXiv:1409.4842", init="googlenet", dropout=0.2
)
INCEPTION = Family(
    "Inception", 2015, inception, "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, arXiv:1512.00567",
    init="inception", dropout=0.5,
    refuses={"norm=instance": "the auxiliary classifier has maps of one pixel, which would all become zero."},
)  # fmt: skip
DENSENET = Family(
    "DenseNet", 2016, densenet, "Huang, Liu, van der Maaten, Weinberger 2016, arXiv:1608.06993",
    init="densenet",
    refuses={"activation=maxout": "maxout halves the channels, and activations of a dense block follow the "
             "joined maps of all layers before."},
)  # fmt: skip
SQUEEZENET = Family(
    "SqueezeNet", 2016, squeezenet, "Iandola et al. 2016, arXiv:1602.07360",
    norm="none", init="squeezenet", dropout=0.5,
)  # fmt: skip
MOBILENET = Family(
    "MobileNet", 2018, mobilenet, "Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv:1801.04381",
    activation="relu6", init="vgg", dropout=0.2,
)  # fmt: skip
SHUFFLENET = Family("ShuffleNet", 2018, shufflenet, "Ma, Zhang, Zheng, Sun 2018, arXiv:1807.11164")
MNASNET = Family(
    "MNASNet", 2018, mnasnet, "Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le 2018, arXiv:1807.11626",
    init="mnasnet", dropout=0.2,
)  # fmt: skip
EFFICIENTNET = Family(
    "EfficientNet", 2019, efficientnet, "Tan, Le 2019, arXiv:1905.11946",
    activation="swish", init="efficientnet", dropout=0.2,
)  # fmt: skip
LITE = Family(
    "EfficientNet-Lite", 2020, efficientnet,
    "Liu 2020, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    activation="relu6", init="efficientnet", dropout=0.2,
)  # fmt: skip


def _small(n: int, shortcut: Shortcut = "zeros") -> ResNetPlan:
    """Section 4.2 of the paper: 6n + 2 layers for 32 px images."""
    return ResNetPlan("basic", (n, n, n), width=16, stem="small", shortcut=shortcut)


_TABLE = (
    # name, family, plan, input, smallest, parameters, macs, depth, top-1, top-5
    Row("linear", LINEAR, PerceptronPlan(), 32, 1, 30_730, 30_720, 1),
    Row("mlp", MLP, PerceptronPlan((512, 512)), 32, 1, 1_841_162, 1_840_128, 3),
    Row("lenet5", LENET, LeNetPlan(), 32, 12, 61_706, 416_520, 5),
    Row("alexnet", ALEXNET, AlexNetPlan(), 224, 63, 61_100_840, 0.714e9, 8, 56.522, 79.066),
    Row("vgg11", VGG, VGGPlan((1, 1, 2, 2, 2)), 224, 32, 132_863_336, 7.609e9, 11, 69.020, 88.628),
    Row("vgg13", VGG, VGGPlan((2, 2, 2, 2, 2)), 224, 32, 133_047_848, 11.308e9, 13, 69.928, 89.246),
    Row("vgg16", VGG, VGGPlan((2, 2, 3, 3, 3)), 224, 32, 138_357_544, 15.470e9, 16, 71.592, 90.382),
    Row("vgg19", VGG, VGGPlan((2, 2, 4, 4, 4)), 224, 32, 143_667_240, 19.632e9, 19, 72.376, 90.876),
    Row("vgg11_bn", VGG_BN, VGGPlan((1, 1, 2, 2, 2)), 224, 32, 132_868_840, 7.609e9, 11, 70.370, 89.810),
    Row("vgg13_bn", VGG_BN, VGGPlan((2, 2, 2, 2, 2)), 224, 32, 133_053_736, 11.308e9, 13, 71.586, 90.374),
    Row("vgg16_bn", VGG_BN, VGGPlan((2, 2, 3, 3, 3)), 224, 32, 138_365_992, 15.470e9, 16, 73.360, 91.516),
    Row("vgg19_bn", VGG_BN, VGGPlan((2, 2, 4, 4, 4)), 224, 32, 143_678_248, 19.632e9, 19, 74.218, 91.842),
    Row("googlenet", GOOGLENET, GoogLeNetPlan(), 224, 15, 6_624_904, 1.498e9, 22, 69.778, 89.530),
    Row("inception_v3", INCEPTION, InceptionPlan(), 299, 75, 23_834_568, 5.713e9, 48, 77.294, 93.450),
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
    Row("densenet121", DENSENET, DenseNetPlan(32, (6, 12, 24, 16)),
        224, 29, 7_978_856, 2.834e9, 121, 74.434, 91.972),
    Row("densenet161", DENSENET, DenseNetPlan(48, (6, 12, 36, 24)),
        224, 29, 28_681_000, 7.728e9, 161, 77.138, 93.560),
    Row("densenet169", DENSENET, DenseNetPlan(32, (6, 12, 32, 32)),
        224, 29, 14_149_480, 3.360e9, 169, 75.600, 92.806),
    Row("densenet201", DENSENET, DenseNetPlan(32, (6, 12, 48, 32)),
        224, 29, 20_013_928, 4.291e9, 201, 76.896, 93.370),
    Row("squeezenet1_0", SQUEEZENET, SqueezeNetPlan(96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,))),
        224, 21, 1_248_424, 0.819e9, 18, 58.092, 80.420),
    Row("squeezenet1_1", SQUEEZENET, SqueezeNetPlan(64, 3, ((16, 16), (32, 32), (48, 48, 64, 64))),
        224, 17, 1_235_496, 0.349e9, 18, 58.178, 80.624),
    Row("mobilenet_v2", MOBILENET, MobileNetPlan(), 224, 1, 3_504_872, 0.301e9, 53, 71.878, 90.286),
    Row("shufflenet_v2_x0_5", SHUFFLENET, ShuffleNetPlan((48, 96, 192)),
        224, 1, 1_366_792, 0.0405e9, 51, 60.552, 81.746),
    Row("shufflenet_v2_x1_0", SHUFFLENET, ShuffleNetPlan((116, 232, 464)),
        224, 1, 2_278_604, 0.145e9, 51, 69.362, 88.316),
    Row("shufflenet_v2_x1_5", SHUFFLENET, ShuffleNetPlan((176, 352, 704)),
        224, 1, 3_503_624, 0.296e9, 51, 72.996, 91.086),
    Row("shufflenet_v2_x2_0", SHUFFLENET, ShuffleNetPlan((244, 488, 976), last=2048),
        224, 1, 7_393_996, 0.583e9, 51, 76.230, 93.006),
    Row("mnasnet0_5", MNASNET, MNASNetPlan(0.5), 224, 1, 2_218_512, 0.1045e9, 53, 67.734, 87.490),
    Row("mnasnet0_75", MNASNET, MNASNetPlan(0.75), 224, 1, 3_170_208, 0.2155e9, 53, 71.180, 90.496),
    Row("mnasnet1_0", MNASNET, MNASNetPlan(1.0), 224, 1, 4_383_312, 0.314e9, 53, 73.456, 91.510),
    Row("mnasnet1_3", MNASNET, MNASNetPlan(1.3), 224, 1, 6_282_256, 0.526e9, 53, 76.506, 93.522),
    # EfficientNet: width, depth; torchvision evaluates B2 at 288 px, the paper at 260
    Row("efficientnet_b0", EFFICIENTNET, EfficientNetPlan(1.0, 1.0, eps=1e-5, momentum=0.1),
        224, 1, 5_288_548, 0.386e9, 50, 77.692, 93.532),
    Row("efficientnet_b1", EFFICIENTNET, EfficientNetPlan(1.0, 1.1, eps=1e-5, momentum=0.1),
        240, 1, 7_794_184, 0.687e9, 70, 78.642, 94.186),
    Row("efficientnet_b2", EFFICIENTNET, EfficientNetPlan(1.1, 1.2, eps=1e-5, momentum=0.1),
        288, 1, 9_109_994, 1.088e9, 70, 80.608, 95.310, dropout=0.3),
    Row("efficientnet_b3", EFFICIENTNET, EfficientNetPlan(1.2, 1.4, eps=1e-5, momentum=0.1),
        300, 1, 12_233_232, 1.827e9, 79, 82.008, 96.054, dropout=0.3),
    Row("efficientnet_b4", EFFICIENTNET, EfficientNetPlan(1.4, 1.8, eps=1e-5, momentum=0.1),
        380, 1, 19_341_616, 4.394e9, 97, 83.384, 96.594, dropout=0.4),
    Row("efficientnet_b5", EFFICIENTNET, EfficientNetPlan(1.6, 2.2),
        456, 1, 30_389_784, 10.266e9, 117, 83.444, 96.628, dropout=0.4),
    Row("efficientnet_b6", EFFICIENTNET, EfficientNetPlan(1.8, 2.6),
        528, 1, 43_040_704, 19.068e9, 135, 84.008, 96.916, dropout=0.5),
    Row("efficientnet_b7", EFFICIENTNET, EfficientNetPlan(2.0, 3.1),
        600, 1, 66_347_960, 37.746e9, 164, 84.122, 96.908, dropout=0.5),
    # Lite: its README counts 5 % more multiply–accumulates, those of norms and sums, and has no top-5
    Row("efficientnet_lite0", LITE, EfficientNetPlan(1.0, 1.0, lite=True),
        224, 1, 4_652_008, 0.385e9, 50, 75.1),
    Row("efficientnet_lite1", LITE, EfficientNetPlan(1.0, 1.1, lite=True),
        240, 1, 5_416_680, 0.600e9, 65, 76.7),
    Row("efficientnet_lite2", LITE, EfficientNetPlan(1.1, 1.2, lite=True),
        260, 1, 6_092_072, 0.860e9, 65, 77.6, dropout=0.3),
    Row("efficientnet_lite3", LITE, EfficientNetPlan(1.2, 1.4, lite=True),
        280, 1, 8_197_096, 1.383e9, 74, 79.8, dropout=0.3),
    Row("efficientnet_lite4", LITE, EfficientNetPlan(1.4, 1.8, lite=True),
        300, 1, 13_006_568, 2.553e9, 92, 81.5, dropout=0.3),
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
    """The row of this name; `timm:NAME` is one of the package timm (`external.py`).

    Raises:
        ModelError: no such model; names the nearest.
    """
    if name.startswith(external.PREFIX):
        return external.row(name)
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
    `weights` is a name, a hub address or a path (see `weights.py`); what they lack starts as without them.

    Raises:
        ModelError: an unknown name, unknown weights, or an input too small.
        OptionError: an option that this architecture refuses, with the reason.
        DownloadError, WeightsError: the weights cannot be had, or do not fit.
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
    weights = None if weights == "none" else weights
    if weights and init:
        raise OptionError(f"init {init!r} does nothing beside weights {weights!r}; give one of the two.")
    if isinstance(row.plan, external.TimmPlan):
        network = _settled(external.start(row, chosen, seed), row, chosen)
    else:
        network = _allocated(skeleton(row, chosen))
        initialize(network, chosen.init, torch_generator(seed, "init"), chosen.activation)
    if weights:
        from svertka.models.weights import load  # which itself looks up rows here

        say(load(network, name, weights))
    return network


def skeleton(row: Row, chosen: Options | None = None) -> Network:
    """The network on torch's `meta` device: all shapes, no values; in no time and no memory.

    Raises:
        ModelError: instance norm would see a map of a single pixel.
    """
    chosen = chosen or options(row)
    with torch.device("meta"):
        network = _settled(row.family.builder(row.plan, chosen), row, chosen)
        if chosen.norm == "instance":
            _check_instance_norm(network, row, chosen)
    return network


def _allocated(network: Network) -> Network:
    """As `network.to_empty(device="cpu")`, which would import a second's worth of torch."""
    allocate: Callable[..., Network] = network._apply
    return allocate(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


def _settled(network: Network, row: Row, chosen: Options) -> Network:
    network.init = chosen.init if chosen.init in INITS else "torch"
    network.sides = (chosen.size, chosen.size) if row.family.fixed else (row.smallest, None)
    return network


def _check_instance_norm(network: Network, row: Row, chosen: Options) -> None:
    try:
        network(torch.empty(2, chosen.in_channels, chosen.size, chosen.size))
    except ValueError as error:
        raise ModelError(
            f"instance norm averages over a map, and at {chosen.size} px {row.name} has maps of one pixel, "
            "which would always be zero after it. Take larger images or another norm."
        ) from error
