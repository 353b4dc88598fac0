"""The graphs against torch: every network of the catalogue, every operator, and what is refused."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from svertka.engine.fold import fold
from svertka.engine.onnx import OPSET, export
from svertka.engine.operators import TABLE
from svertka.engine.trace import trace
from svertka.errors import ModelError
from svertka.models.activations import ACTIVATIONS
from svertka.models.catalog import ROWS, build


def takes_long(row):
    return row.parameters > 20_000_000 or row.depth > 130


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lived_in(module):
    """In eval mode, with statistics and scales as after training, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -0.1, 0.1),
                (part.running_var, 0.5, 1.5),
                (part.weight, 0.5, 1.5),
                (part.bias, -0.1, 0.1),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return module.eval()


def run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def assert_equal_to_eager(module, images, relative=1e-4):
    model = export(module, tuple(images.shape[1:]))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    with torch.no_grad():
        for batch in (images, torch.cat([images, images.flip(0)])[:5]):  # the batch dimension is open
            expected, outputs = module(batch), run(model, batch)
            assert outputs.shape == expected.shape
            assert (outputs - expected).abs().max() <= relative * expected.abs().max()
    return onnx.load_from_string(model)


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if takes_long(row) else []) for name, row in ROWS.items()],
)
def test_every_network(name):
    row = ROWS[name]
    size = max(row.smallest, 33)  # odd, so that rounding of sizes matters
    network = lived_in(build(name, classes=7, size=size))
    model = assert_equal_to_eager(network, noise(2, row.channels, size, size))
    assert model.opset_import[0].version == OPSET
    weighted = {parameter for parameter in dict(network.named_parameters()) if "stages.0" in parameter}
    names = {initializer.name for initializer in model.graph.initializer}
    assert not weighted or weighted & names  # initializers keep their names


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation(activation):
    network = lived_in(build("lenet5", activation=activation))
    for parameter in network.parameters():
        parameter.data.add_(noise(*parameter.shape, seed=1), alpha=0.05)  # slopes and biases of their own
    assert_equal_to_eager(network, 3 * noise(2, 1, 32, 32))


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group", "none"])
@pytest.mark.parametrize("name", ["resnet20", "lenet5"])
def test_every_norm(name, norm):
    network = lived_in(build(name, norm=norm)) if (name, norm) != ("lenet5", "instance") else None
    if network is None:
        pytest.skip("instance norm of vectors is refused by the network")
    for key, parameter in network.named_parameters():
        if parameter.dim() == 1:
            parameter.data.add_(noise(*parameter.shape, seed=len(key)), alpha=0.1)
    assert_equal_to_eager(network, noise(2, ROWS[name].channels, 32, 32))


def test_fixup():
    network = build("resnet20", norm="none", init="fixup").eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    assert_equal_to_eager(network, noise(2, 3, 32, 32))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def drop_the_result(x):
    y, z = x * 2, x + 1
    functional.relu(y, inplace=True)
    z.sigmoid_()
    z += y
    return z


FUNCTIONS = {
    "max_pool ceil": lambda x: functional.max_pool2d(x, 4, 2, ceil_mode=True),
    "max_pool ceil pad": lambda x: functional.max_pool2d(x, 4, 3, 1, ceil_mode=True),
    "max_pool ceil dropped": lambda x: functional.max_pool2d(x, 2, 3, 1, ceil_mode=True),
    "max_pool dilated": lambda x: functional.max_pool2d(x, 2, 1, dilation=2),
    "avg_pool pad": lambda x: functional.avg_pool2d(x, 3, 1, 1),
    "avg_pool exclude": lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool ceil": lambda x: functional.avg_pool2d(x, 2, 2, ceil_mode=True),
    "adaptive up": lambda x: functional.adaptive_avg_pool2d(x, (17, 20)),
    "adaptive down": lambda x: functional.adaptive_avg_pool2d(x, (4, 5)),
    "adaptive even": lambda x: functional.adaptive_avg_pool2d(x, (11, 1)),
    "adaptive one": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptive same": lambda x: functional.adaptive_avg_pool2d(x, (11, 13)),
    "adaptive max": lambda x: functional.adaptive_max_pool2d(x, (1, 1)),
    "lrn": lambda x: functional.local_response_norm(x, 5, 1e-1, 0.75, 2.0),
    "shuffle": lambda x: x.view(len(x), 2, 4, 11, 13).transpose(1, 2).contiguous().view(len(x), 8, 11, 13),
    "chunk": lambda x: torch.cat([part * i for i, part in enumerate(x.chunk(3, 1), 1)], 1),
    "split": lambda x: torch.cat(x.split([1, 5, 2], dim=1)[::-1], dim=1),
    "stack": lambda x: torch.stack([x, -x], dim=2).flatten(1, 2),
    "slices": lambda x: x[:, 1:7:2, ..., ::2],
    "index": lambda x: x[:, -1].unsqueeze(1) + x[:, 0, None],
    "pad": lambda x: functional.pad(x, (0, 1, 2, 0, 3, 3)),
    "pad value": lambda x: functional.pad(x, (1, 1), value=-2.0),
    "pad reflect": lambda x: functional.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad replicate": lambda x: functional.pad(x, (1, 2, 2, 1), mode="replicate"),
    "mean": lambda x: x.mean([2, 3]),
    "mean keep": lambda x: x.mean((-2, -1), keepdim=True),
    "sum": lambda x: x.sum(1),
    "amax": lambda x: torch.unflatten(x, 1, (-1, 2)).amax(2),
    "arithmetic": lambda x: (1 - x) * 2 / (x.abs() + 1) - torch.add(x, x, alpha=0.5) ** 2,
    "in place": lambda x: (x * 1).add_(x).mul_(3).relu_() + 1,
    "in place, result dropped": drop_the_result,
    "clamp": lambda x: torch.clamp(x, min=-0.5) + x.clamp(-1, 0.3),
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softmax": lambda x: functional.softmax(x, dim=1),
    "squeeze and excite": lambda x: x * torch.sigmoid(functional.adaptive_avg_pool2d(x, 1)),
    "permute": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "layer norm": lambda x: functional.layer_norm(x, (11, 13)),
    "linear of maps": lambda x: functional.linear(x, LINEAR.weight, LINEAR.bias),
    "hardsigmoid": functional.hardsigmoid,
    "mish": functional.mish,
    "identity": lambda x: x,
}  # fmt: skip
LINEAR = nn.Linear(13, 4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    module = Lambda(FUNCTIONS[name])
    if name == "linear of maps":
        module = nn.Sequential(nn.Linear(13, 4))
    assert_equal_to_eager(module.eval(), noise(2, 8, 11, 13), relative=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, (1, 7), padding=(0, 3)),
        nn.Conv2d(8, 8, 3, groups=8, stride=(2, 1), dilation=2, padding=2, bias=False),
        nn.Conv2d(8, 4, (3, 5), dilation=2, padding="same"),
        nn.Conv2d(8, 4, 3, padding="valid"),
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.PReLU(8),
        nn.GroupNorm(4, 8),
        nn.InstanceNorm2d(8, track_running_stats=True),
        nn.Sequential(nn.Flatten(), nn.Linear(8 * 11 * 13, 5, bias=False), nn.BatchNorm1d(5)),
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8 * 11 * 13), nn.Dropout(0.5)),
    ],
    ids=str,
)
def test_layers(layer):
    assert_equal_to_eager(lived_in(nn.Sequential(layer)), noise(2, 8, 11, 13), relative=1e-5)


def test_the_table_is_covered_by_what_is_tested_here():
    """No entry may rest untested: the functions above and the networks call them all."""
    called = set()
    modules = [Lambda(function) for function in FUNCTIONS.values()]
    modules += [
        nn.Sequential(nn.Conv2d(8, 1, 1), build("lenet5", size=32, activation=a)) for a in ACTIVATIONS
    ]
    for module in modules:
        shape = (8, 11, 13) if isinstance(module, Lambda) else (8, 32, 32)
        try:
            called |= {call.function for call in trace(module.eval(), shape).calls}
        except ModelError:
            continue
    layers = {"batch_norm", "instance_norm", "group_norm", "dropout", "linear", "prelu"}
    simple = {"reshape", "squeeze", "clone", "detach", "exp", "log", "sqrt", "relu6", "silu", "elu"}
    assert set(TABLE) - called - layers - simple == set()


@pytest.mark.parametrize("name", ["squeeze", "clone", "detach", "exp", "sqrt", "relu6"])
def test_simple_functions(name):
    module = Lambda(lambda x: getattr(functional, name, getattr(torch, name, None))(x))
    assert_equal_to_eager(module.eval(), noise(2, 8, 11, 13).abs(), relative=1e-5)


def test_normalisations_are_folded():
    model = assert_equal_to_eager(lived_in(build("resnet20")), noise(2, 3, 32, 32))
    assert "BatchNormalization" not in operators(model)
    # in a DenseNet normalisations come before convolutions: those after a concatenation stay
    network = lived_in(build("densenet121", size=33))
    model = assert_equal_to_eager(network, noise(2, 3, 33, 33))
    before = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert 0 < operators(model).count("BatchNormalization") < before


class Shared(nn.Module):
    """Layers that must not be folded: used twice, or read by somebody else too."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        if self.kind == "two norms":
            return self.norm(self.conv(x)) + self.other(self.conv(x))
        if self.kind == "one norm":
            return self.norm(self.conv(x)) + self.norm(x)
        if self.kind == "two readers":
            y = self.conv(x)
            return self.norm(y) + y
        y = self.conv(x)  # "two outputs of one"
        return torch.cat([self.norm(y), y], 1)


@pytest.mark.parametrize("kind", ["two norms", "one norm", "two readers", "cat"])
def test_shared_layers_are_not_folded(kind):
    module = lived_in(Shared(kind))
    model = assert_equal_to_eager(module, noise(2, 3, 5, 5), relative=1e-5)
    assert "BatchNormalization" in operators(model)
    assert any(isinstance(part, nn.BatchNorm2d) for part in fold(module, (3, 5, 5)).modules())


def test_fold_gives_an_equal_copy_and_leaves_the_original():
    network = lived_in(build("resnet20"))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = noise(2, 3, 32, 32)
    folded = fold(network, (3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    for parameter in network.parameters():
        parameter.data.zero_()
    assert folded(images).abs().max() > 0  # it shares nothing


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.fft.rfft2(x).abs(), "layer 1 calls torch's 'fft_rfft2', which has no entry"),
        (lambda x: functional.local_response_norm(x, 4), "'local_response_norm' .* even number of channels"),
        (lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True), "'avg_pool2d' .* divided differently"),
        (lambda x: functional.adaptive_max_pool2d(x, 3), "windows of maps .* differ in size"),
        (lambda x: x.mean(0), "mixes the images of a batch"),
        (lambda x: x.reshape(-1, 13), "moves the images of a batch"),
        (lambda x: x[:1], "picks images out of the batch"),
        (lambda x: functional.dropout(x, 0.5, True), "draws random numbers"),
        (lambda x: functional.batch_norm(x, None, None, training=True), "statistics of the batch"),
        (lambda x: x + torch.ones(13), "neither computed from the input nor a parameter"),
        (lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"), "no padding mode 'circular'"),
        (lambda x: x[x > 0], "layer 1 cannot be traced.*getitem"),
        (lambda x: x if x.sum() > 0 else -x, r"layer 1 cannot be traced.*bool\(\)"),
        (lambda x: (x, x), "gives one tensor; this one gives tuple"),
    ],
)
def test_what_has_no_exact_equivalent_is_refused(function, why):
    module = nn.Sequential(nn.Identity(), Lambda(function)).eval()
    with pytest.raises(ModelError, match=why):
        export(module, (8, 12, 13))


def test_training_mode_other_types_and_wrong_shapes_are_refused():
    network = build("lenet5")
    with pytest.raises(ModelError, match=r"call \.eval\(\) on it first"):
        export(network, (1, 32, 32))
    with pytest.raises(ModelError, match=r"torch\.float64; call \.float\(\)"):
        export(network.eval().double(), (1, 32, 32))
    with pytest.raises(ModelError, match="exactly 32 pixels"):
        export(network.float(), (1, 20, 20))
    with pytest.raises(ModelError, match=r"layer stem\.0\.0 cannot be traced"):
        export(network, (3, 32, 32))
