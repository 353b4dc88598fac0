"""One battery for every row of the catalogue, on images as small as each takes."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from svertka.errors import OptionError
from svertka.models.activations import ACTIVATIONS
from svertka.models.catalog import ROWS, build, find, skeleton
from svertka.models.head import replace_head
from svertka.models.initialization import INITS, WITH_DATA, initialize_with_data
from svertka.models.network import AuxiliaryStage, Network, Outputs, last_layer, last_layer_of
from svertka.models.normalization import NORMS
from svertka.models.rows import Row, options


def marked(row: Row, limit: float = 20e6):
    """The row's name as a test parameter; in the slow suite if it has more parameters than `limit`."""
    return pytest.param(row.name, marks=[pytest.mark.slow] if row.parameters > limit else [])


def representatives() -> list[Row]:
    """The cheapest row of each builder with each set of refusals."""
    cheapest: dict[tuple, Row] = {}
    for row in sorted(ROWS.values(), key=lambda row: row.macs):
        cheapest.setdefault((row.family.builder, frozenset(row.family.refuses), row.family.fixup), row)
    return list(cheapest.values())


SOME = [marked(row, limit=10e6) for row in representatives()]
CHEAP = [row.name for row in representatives() if row.parameters < 3e6]


def side(row: Row) -> int:
    return max(row.smallest, 33)


def images_for(row: Row, n: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, row.channels, side(row), side(row), generator=generator)


def loss_of(output: Tensor | Outputs, classes: int = 3) -> Tensor:
    outputs = [output.logits, *output.auxiliary] if isinstance(output, Outputs) else [output]
    return sum(nn.functional.cross_entropy(logits, torch.arange(len(logits)) % classes) for logits in outputs)


def refused(row: Row, option: str, value: object) -> bool:
    try:
        options(row, **{option: value}, **({"norm": "none"} if value == "fixup" else {}))
    except OptionError:
        return True
    return False


@pytest.fixture(scope="module", params=[marked(row) for row in ROWS.values()])
def model(request) -> tuple[Row, Network]:
    row = ROWS[request.param]
    return row, build(row.name, classes=3, size=side(row), seed=5)


def test_contract(model):
    row, network = model
    network.eval()
    assert [name for name, _ in network.named_children()] == ["stem", "stages", "head"]
    assert isinstance(network.stages, nn.ModuleList)
    assert isinstance(network.head, nn.Sequential)
    images = images_for(row, n=1)
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(logits, network.head(network.features(images)))
    assert logits.shape == (1, 3)
    layer = last_layer(network)[2]
    assert 3 in layer.weight.shape[:1]
    children = [child for stage in network.stages for child in stage.modules()]
    assert layer not in children


def test_all_parameters_get_finite_gradients(model):
    row, network = model
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    torch.manual_seed(0)  # dropout
    loss_of(network(images_for(row))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        parameter.grad = None
    network.load_state_dict(state)


def test_images_of_a_batch_do_not_see_each_other(model):
    row, network = model
    network.eval()
    images = images_for(row, n=3)
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


def test_save_and_load_are_bitwise(model, tmp_path):
    row, network = model
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = skeleton(row, options(row, classes=3, size=side(row))).to_empty(device="cpu")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    images = images_for(row, n=1)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), other.eval()(images))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_a_new_head_changes_the_last_layer_only(model):
    row, network = model
    auxiliary = [stage.classifier for stage in network.stages if isinstance(stage, AuxiliaryStage)]
    layers = [last_layer_of(classifier)[2] for classifier in (network.head, *auxiliary)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    replace_head(network, 5, seed=1)
    first = [layer.weight.clone() for layer in layers]
    replace_head(network, 5, seed=1)
    assert all(torch.equal(weight, layer.weight) for weight, layer in zip(first, layers, strict=True))
    new = {id(p) for layer in layers for p in layer.parameters()}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in new) or torch.equal(parameter, before[name])
    with torch.no_grad():
        outputs = network.train()(images_for(row))
    assert loss_of(outputs, classes=5).isfinite()
    assert (outputs.logits if isinstance(outputs, Outputs) else outputs).shape[1] == 5
    replace_head(network, 3)
    network.load_state_dict(before)


def combinations(row: Row) -> list[tuple[str, str]]:
    """Each allowed activation and each allowed norm at least once."""
    norms = [norm for norm in NORMS if not refused(row, "norm", norm)]
    activations = [activation for activation in ACTIVATIONS if not refused(row, "activation", activation)]
    count = max(len(norms), len(activations))
    return [(activations[i % len(activations)], norms[i % len(norms)]) for i in range(count)]


@pytest.mark.parametrize("name", [marked(row, limit=10e6) for row in ROWS.values()])
def test_every_allowed_activation_and_norm_gives_logits(name):
    row = find(name)
    size = row.input if row.family.fixed else 2 * side(row)
    images = torch.empty(2, row.channels, size, size, device="meta")
    for activation, norm in combinations(row):
        chosen = options(row, classes=3, size=size, activation=activation, norm=norm)
        output = skeleton(row, chosen)(images)
        logits = output.logits if isinstance(output, Outputs) else output
        assert logits.shape == (2, 3), f"{activation} {norm}"


@pytest.mark.parametrize(
    "name", [marked(row, limit=10e6 if row in representatives() else 0) for row in ROWS.values()]
)
def test_every_allowed_activation_and_norm_makes_a_step(name):
    row = find(name)
    for activation, norm in combinations(row):
        size = row.input if row.family.fixed else 2 * side(row)
        network = build(name, classes=3, size=size, activation=activation, norm=norm)
        step_is_finite(network, row, f"{activation} {norm}")


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("init", INITS)
def test_every_init_makes_a_step(name, init):
    row = find(name)
    if refused(row, "init", init):
        with pytest.raises(OptionError, match="Fixup"):
            build(name, init=init, norm="none")
        return
    norm = "none" if init == "fixup" else None
    network = build(name, classes=3, size=side(row), init=init, norm=norm, seed=4)
    if init in WITH_DATA:
        initialize_with_data(network, images_for(row), init)
    same = build(name, classes=3, size=side(row), init=init, norm=norm, seed=4)
    if init not in WITH_DATA:
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))
    step_is_finite(network, row, init)


def step_is_finite(network: Network, row: Row, what: str) -> None:
    size = network.sides[1] or 2 * side(row)
    images = torch.randn(2, row.channels, size, size, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    torch.manual_seed(0)
    loss = loss_of(network(images))
    assert loss.isfinite(), what
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients), what
    optimizer.step()
    assert all(p.isfinite().all() for p in network.parameters()), what


@pytest.mark.parametrize("name", ROWS)
def test_refusals_give_their_reason(name):
    row = find(name)
    for key, reason in row.family.refuses.items():
        option, _, value = key.partition("=")
        other = {"activation": "sigmoid", "norm": "group", "init": "orthogonal", "dropout": 0.25}[option]
        with pytest.raises(OptionError, match=f"{option} .* is refused for {name}: ") as error:
            options(row, **{option: value or other})
        assert reason in str(error.value)
    if not row.family.fixup:
        with pytest.raises(OptionError, match=f"'fixup' is refused for {name}: .*ResNets only"):
            options(row, init="fixup", norm=None)
    else:
        with pytest.raises(OptionError, match=r"takes the place of normalisation; give norm='none'"):
            options(row, init="fixup", norm="batch")


@pytest.mark.parametrize("name", SOME)
def test_seeds_channels_and_the_global_random_state(name):
    row = find(name)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first, second, other = (
        build(name, classes=2, in_channels=2, size=side(row), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    with torch.no_grad():
        assert first.eval()(torch.zeros(1, 2, side(row), side(row))).shape == (1, 2)
