"""The shared blocks: order and shapes of units, residual sums, stochastic depth, the replaced head."""

import pytest
import torch
import torchvision
from torch import nn

from svertka.errors import ModelError
from svertka.models.catalog import build
from svertka.models.head import replace_head
from svertka.models.layers import Blocks, Options, Residual, StochasticDepth, pooled_head, same_padding
from svertka.models.network import Network
from svertka.models.resnet import ZeroShortcut


def kinds(module: nn.Module) -> list[str]:
    return [type(child).__name__ for child in module]


def test_units_are_convolution_normalisation_activation():
    assert kinds(Blocks().conv(3, 8, 3)) == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds(Blocks().conv(3, 8, 3, act=False)) == ["Conv2d", "BatchNorm2d"]
    assert kinds(Blocks("gelu", "none").conv(3, 8, 3)) == ["Conv2d", "GELU"]
    assert kinds(Blocks("relu", "none", scalars=True).conv(3, 8, 3)) == ["Shift", "Conv2d", "Shift", "ReLU"]
    assert kinds(Blocks().linear(3, 8, norm=True)) == ["Linear", "BatchNorm1d", "ReLU"]
    assert Blocks().conv(3, 8, 3)[0].bias is None
    assert Blocks(norm="none").conv(3, 8, 3)[0].bias is not None
    assert Blocks().conv(3, 8, 3, bias=True)[0].bias is not None


def test_maxout_widens_the_layer_before_it():
    unit = Blocks("maxout", "batch").conv(4, 8, 3, groups=4)
    assert unit[0].out_channels == unit[1].num_features == 16
    assert unit(torch.zeros(2, 4, 5, 5)).shape == (2, 8, 5, 5)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 3), ((1, 7), 1)])
def test_same_padding_keeps_the_size(kernel, dilation):
    unit = Blocks().conv(1, 1, kernel, dilation=dilation)
    assert unit(torch.zeros(2, 1, 9, 11)).shape == (2, 1, 9, 11)
    assert unit[0].padding == ((same_padding(kernel, dilation),) * 2 if isinstance(kernel, int) else (0, 3))


def test_eps_and_momentum_reach_the_norm():
    norm = Blocks(eps=1e-3, momentum=0.01).conv(1, 1, 1)[1]
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_residual_adds_and_lets_gradients_through():
    branch = nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64)
    block = Residual(branch, act=nn.Tanh())
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(block(x), torch.tanh(branch(x) + x))
    assert torch.autograd.gradcheck(block, x)
    nn.init.zeros_(branch.weight)
    (gradient,) = torch.autograd.grad(Residual(branch)(x).sum(), x)
    torch.testing.assert_close(gradient, torch.ones_like(x))  # ∂y/∂x = ∂F/∂x + 1


def test_stochastic_depth_leaves_out_whole_branches():
    torch.manual_seed(0)
    block = Residual(nn.Identity(), drop=0.25)
    x = torch.ones(4000, 1, 1, 1)
    y = block(x).flatten()
    assert sorted(set(y.tolist())) == pytest.approx([1, 1 + 1 / 0.75])
    assert float(y.mean()) == pytest.approx(2, abs=0.05)
    assert torch.equal(block.eval()(x), 2 * x)


def test_stochastic_depth_is_torchvisions():
    x = torch.randn(64, 3, 2, 2)
    for p in (0.0, 0.3, 1.0):
        answers = []
        for drop in (StochasticDepth(p), torchvision.ops.StochasticDepth(p, "row")):
            torch.manual_seed(2)
            answers.append(drop(x))
        assert torch.equal(*answers)


def test_option_a_shortcut():
    x = torch.arange(2 * 3 * 5 * 5.0).view(2, 3, 5, 5)
    y = ZeroShortcut(3, 2)(x)
    assert y.shape == (2, 6, 3, 3)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, 0].any()
    assert not y[:, 4:].any()


def test_heads():
    assert kinds(pooled_head(8, Options(classes=4))) == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    head = pooled_head(8, Options(classes=4, dropout=0.3))
    assert kinds(head) == ["AdaptiveAvgPool2d", "Flatten", "Dropout", "Linear"]
    assert head[2].p == 0.3
    assert head(torch.zeros(2, 8, 3, 5)).shape == (2, 4)


def test_replace_head_keeps_place_and_says_what_is_wrong():
    network = build("resnet20").double().eval()
    assert replace_head(network, 4) is network
    layer = network.head[-1]
    assert (layer.out_features, layer.weight.dtype, layer.training) == (4, torch.float64, False)
    assert torch.equal(layer.bias, torch.zeros(4, dtype=torch.float64))  # as the scheme of resnet20 says
    with pytest.raises(ModelError, match="at least one class; got 0"):
        replace_head(network, 0)
    with pytest.raises(ModelError, match="no Linear or Conv2d layer"):
        replace_head(Network(nn.Identity(), [], nn.Sequential(nn.Flatten())), 4)
