"""Receptive fields are the support of the input's gradient, MACs and parameters those counted elsewhere."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from svertka.errors import ModelError
from svertka.models.anatomy import anatomy
from svertka.models.catalog import ROWS, build, skeleton
from svertka.models.rows import options


def positive(network: nn.Module, seed: int = 0) -> nn.Module:
    """All weights positive and their sums a half: nothing cancels, dies or saturates."""
    generator = torch.Generator().manual_seed(seed)
    network = network.to_empty(device="cpu").double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith(("running_mean", "bias")):
                tensor.fill_(0.01)
            elif tensor.ndim < 2:
                tensor.fill_(1.0)
            else:
                values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
                tensor.copy_(0.5 * values / values.flatten(1).sum(1).view(-1, *[1] * (tensor.ndim - 1)))
    return network


def forward(network: nn.Module, images: Tensor) -> Tensor:
    """The network with means in place of maxima, which pass their gradient to one pixel only."""

    def pool(x, kernel, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        assert dilation == 1
        return torch.nn.functional.avg_pool2d(x, kernel, stride, padding, ceil_mode)

    with patch.object(torch.nn.functional, "max_pool2d", pool):
        return network(images)


def support(maps: Tensor, images: Tensor) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels with a gradient of the middle unit."""
    middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2] if maps.ndim == 4 else maps
    gradient = torch.autograd.grad(middle.sum(), images, retain_graph=True)[0].abs().sum((0, 1))
    rows, columns = gradient.sum(1).nonzero(), gradient.sum(0).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def check(network: nn.Module, height: int, width: int, channels: int = 3) -> None:
    """The field of the last layer is the gradient's support."""
    found = anatomy(network, size=(height, width), channels=channels)
    images = torch.rand(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    assert found.layers[-1].seen == support(forward(positive(network), images), images)


FAMILIES = {
    "lenet5": 32, "alexnet": 100, "vgg11": 70, "googlenet": 97, "inception_v3": 107, "resnet20": 33,
    "resnet18": 75, "plain20": 40, "densenet121": 64, "squeezenet1_1": 99, "mobilenet_v2": 75,
    "shufflenet_v2_x0_5": 97, "mnasnet0_5": 64, "efficientnet_b0": 70, "efficientnet_lite0": 67,
}  # fmt: skip
"""One model a family, at a size that its strides do not divide."""

LONG = ("inception_v3", "densenet121", "mnasnet0_5", "efficientnet_lite0")
"""Those that take seconds."""


def sizes():
    for name, row in ROWS.items():
        if row.family.name in ("Linear", "MLP"):
            continue
        size = FAMILIES.get(name, row.input if row.family.fixed else max(row.smallest, 97))
        yield pytest.param(
            name, size, marks=[] if name in FAMILIES and name not in LONG else [pytest.mark.slow]
        )


@pytest.mark.parametrize(("name", "size"), list(sizes()))
def test_the_field_of_each_stage_is_the_support_of_the_gradient(name, size):
    row = ROWS[name]
    network = skeleton(row, options(row, size=size))
    found = anatomy(network, size=size, channels=row.channels)
    network.stem, network.stages = positive(network.stem), positive(network.stages)
    images = torch.rand(1, row.channels, size, size, dtype=torch.float64, requires_grad=True)
    maps = forward(network.stem, images)
    for index, stage in enumerate(network.stages):
        maps = forward(stage, maps)
        layer = [layer for layer in found.layers if layer.part == f"stages.{index}"][-1]
        assert layer.output == tuple(maps.shape[1:])
        assert layer.seen == support(maps, images), (name, index)


@pytest.mark.parametrize(
    ("name", "field"),
    [("alexnet", 195), ("vgg16", 212), pytest.param("inception_v3", 1311, marks=pytest.mark.slow)],
)
def test_published_fields(name, field):
    """Araujo, Norris, Sim 2019, Distill, table 1."""
    found = anatomy(skeleton(ROWS[name]), size=ROWS[name].input)
    assert found.receptive_field == (field, field)
    assert found.layers[-1].receptive_field == (ROWS[name].input, ROWS[name].input)


@pytest.mark.parametrize(("count", "field"), [(2, 5), (3, 7)])
def test_two_and_three_convolutions_of_three_see_as_one_of_five_and_seven(count, field):
    network = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(count)])
    found = anatomy(network, size=21, channels=1)
    assert found.receptive_field == (field, field)
    assert found.layers[-1].stride == (1, 1)
    assert found.layers[-1].offset == (0, 0)
    check(network, 21, 21, 1)


def test_strides_offsets_dilation_and_flat_kernels():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 5, stride=2),
        nn.Conv2d(2, 2, 3, dilation=3, padding=1),
        nn.Conv2d(2, 2, (1, 7), padding=(0, 3)),
        nn.Conv2d(2, 2, (3, 1), stride=(3, 1)),
    )
    fields = [(5, 5), (17, 17), (17, 29), (21, 29)]
    offsets = [(2, 2), (6, 6), (6, 6), (8, 6)]  # e.g. 2 + 2·(3 − 1) = 6
    found = anatomy(network, size=(61, 90), channels=1)
    assert [layer.receptive_field for layer in found.layers] == fields
    assert [layer.offset for layer in found.layers] == offsets
    assert [layer.stride for layer in found.layers] == [(2, 2), (2, 2), (2, 2), (6, 2)]
    check(network, 61, 90, 1)


@pytest.mark.parametrize("size", range(9, 17))
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools_that_do_not_divide_the_image(size, ceil_mode):
    check(nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode), nn.MaxPool2d(2, 2, ceil_mode=ceil_mode),
                        nn.Conv2d(1, 1, 3, padding=1)), size, size + 3, 1)  # fmt: skip


@pytest.mark.parametrize(("pooled", "size"), [(3, 11), (7, 4), (1, 9), ((2, 5), 13)])
def test_adaptive_pools(pooled, size):
    check(nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(pooled), nn.Conv2d(1, 1, 1)), size, size, 1)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv2d(1, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x))


def test_a_gate_sees_all_but_the_window_stays():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), Gate(2), nn.Conv2d(2, 2, 3))
    found = anatomy(network, size=17, channels=1)
    last = found.layers[-1]
    assert (last.receptive_field, last.window, last.gated) == ((17, 17), (5, 5), True)
    assert found.depth == 2  # the two layers in the gate lie beside the main path
    assert not found.layers[0].gated
    check(network, 17, 17, 1)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(1, 2), nn.InstanceNorm2d(2, affine=True)], ids=["group", "instance"]
)
def test_norms_of_one_image_see_all_of_it(norm):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Conv2d(2, 2, 3))
    last = anatomy(network, size=17, channels=1).layers[-1]
    assert (last.receptive_field, last.window, last.gated) == ((17, 17), (5, 5), True)


class Cut(nn.Module):
    """Channels dealt out, one half cropped and shifted by a pixel, a part of them thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(2, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        right = nn.functional.pad(right[:, :, 1:, :-1], (1, 0, 0, 1))
        return torch.cat([self.wide(left), right], 1)[:, 2:]


def test_parts_of_channels_keep_their_own_fields():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Cut())
    found = anatomy(network, size=15, channels=1)
    assert found.layers[-1].receptive_field == (7, 7)  # of the concatenation
    only = nn.Sequential(network, nn.Conv2d(2, 1, 1))
    assert anatomy(only, size=15, channels=1).receptive_field == (3, 3)  # the 5 × 5 was thrown away
    check(only, 15, 15, 1)


class Graph(nn.Module):
    """Layers at random: chains, sums, concatenations, shuffles."""

    def __init__(self, plan: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.plan = plan
        layers = []
        for kind, a, b in plan:
            kernel = (2 * a + 1, 2 * b + 1)
            match kind:
                case "conv":
                    layers.append(nn.Conv2d(4, 4, kernel, padding=(a, b), groups=1 + a % 2))
                case "step":
                    layers.append(nn.Conv2d(4, 4, kernel, stride=(1 + b, 2), padding=(b, 1)))
                case "pool":
                    layers.append(nn.AvgPool2d((2, 1 + a), (2, 1 + b), ceil_mode=bool(b)))
                case "sum" | "half":
                    width = 4 if kind == "sum" else 2
                    layers.append(nn.Conv2d(width, width, 3, padding=1 + a, dilation=1 + a, groups=width))
                case "cat":
                    layers.append(nn.Conv2d(8, 4, 1, groups=4))
                case _:
                    layers.append(nn.Identity())
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for (kind, a, b), layer in zip(self.plan, self.layers, strict=True):
            match kind:
                case "conv" | "step" | "pool":
                    x = layer(x)
                case "sum":
                    x = x + layer(x)
                case "half":
                    kept, changed = x.chunk(2, 1)
                    x = torch.cat([layer(changed), kept], 1)
                case "cat":
                    x = layer(torch.cat([x, nn.functional.pad(x, (a, -a, b, -b))], 1))
                case "shuffle":
                    x = x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
        return x


PLANS = st.lists(
    st.tuples(st.sampled_from(["conv", "step", "pool", "sum", "half", "cat", "shuffle"]), st.integers(0, 1),
              st.integers(0, 1)), min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True)
@given(plan=PLANS, height=st.integers(9, 40), width=st.integers(9, 40))
def test_random_graphs(plan, height, width):
    network = nn.Sequential(nn.Conv2d(1, 4, 1), Graph(plan), nn.Conv2d(4, 4, 1))
    try:
        found = anatomy(network, size=(height, width), channels=1)
    except ModelError:
        with pytest.raises(RuntimeError):  # the image shrank to nothing, for the network as for us
            network(torch.rand(1, 1, height, width))
        return
    images = torch.rand(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    assert found.layers[-1].seen == support(forward(positive(network), images), images)


QUICK = ("lenet5", "alexnet", "googlenet", "resnet18", "shufflenet_v2_x0_5", "efficientnet_b0")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ROWS]
)
def test_rows_of_the_catalogue(name):
    """Counts are the published ones and the flop counter's; windows clear of the borders are what is seen."""
    row = ROWS[name]
    network = skeleton(row).eval()
    found = anatomy(network, size=row.input, channels=row.channels)
    assert found.parameters == row.parameters
    assert found.parameters + found.idle_parameters == sum(p.numel() for p in network.parameters())
    assert found.depth == row.depth
    assert found.macs == pytest.approx(row.macs, rel=2e-3)  # published to three or four digits
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, row.channels, row.input, row.input, device="meta"))
    assert 2 * found.macs == counter.get_total_flops()
    for layer in found.layers:
        top, bottom, left, right = layer.seen
        clear = min(top, left) > 0 and max(bottom, right) < row.input - 1
        if layer.window is None or (clear and not layer.gated):
            assert (layer.window or layer.receptive_field) == (bottom - top + 1, right - left + 1)


def test_rows_of_a_small_network():
    found = anatomy(build("lenet5"), size=32, channels=1)
    assert [(layer.kind, layer.output) for layer in found.layers if layer.parameters] == [
        ("Conv2d", (6, 28, 28)), ("Conv2d", (16, 10, 10)), ("Linear", (120,)), ("Linear", (84,)),
        ("Linear", (10,)),
    ]  # fmt: skip
    first = found.layers[0]
    assert (first.parameters, first.macs, first.activation_bytes) == (156, 117_600, 4 * 6 * 28 * 28)
    assert found.activation_bytes == sum(layer.activation_bytes for layer in found.layers)
    assert found.layers[-1].window is None
    assert found.layers[-1].stride is None


def test_the_network_is_left_as_it_was():
    network = build("resnet20")
    network.stages[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    anatomy(network, size=32)
    assert network.training
    assert not network.stages[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_timm_networks_with_maps_last():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        network = timm.create_model("convnext_atto")
    found = anatomy(network, size=224)
    assert found.parameters == 3_695_520
    linear = next(layer for layer in found.layers if layer.name == "stages.0.blocks.0.mlp.fc1")
    assert (linear.window, linear.stride) == ((28, 28), (4, 4))  # 4 + (7 − 1)·4


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return tokens @ tokens.transpose(1, 2)


def test_what_is_not_known_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), Attention())
    with pytest.raises(
        ModelError, match=r"got the operation 'bmm'.* in 1, whose receptive field is not known"
    ):
        anatomy(network, size=8, channels=1)
    with pytest.raises(ModelError, match=r"'convolution' \(transposed\) in 0"):
        anatomy(nn.Sequential(nn.ConvTranspose2d(1, 1, 3)), size=8, channels=1)
    with pytest.raises(ModelError, match="over the images of a batch"):
        anatomy(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), size=8, channels=1)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="at least one pixel and one channel; got 0 × 8 × 8"):
        anatomy(nn.Conv2d(1, 1, 3), size=8, channels=0)
    with pytest.raises(ModelError, match="does not take 1 × 2 × 2 images"):
        anatomy(nn.Sequential(nn.Conv2d(1, 1, 3)), size=2, channels=1)
