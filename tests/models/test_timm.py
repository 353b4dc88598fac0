"""`timm:NAME` against timm itself: the same outputs, gradients and weights under our contract."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from svertka.errors import ModelError, OptionError
from svertka.models import external
from svertka.models.catalog import build, find
from svertka.models.freezing import cut, depths
from svertka.models.network import last_layer
from svertka.models.weights import find as find_weights

timm = pytest.importorskip("timm", reason="the extra timm is not installed")

NAMES = [
    "resnet10t",
    "mobilenetv3_small_050",
    "convnext_atto",
    "efficientnet_lite0",
    "regnetx_002",
    "densenet121",
    "ghostnet_050",
    "mobilevitv2_050",
]


def both(name: str, classes: int = 3, channels: int = 3):
    """Our network and timm's with the same float64 weights, from a random start that leaves no layer at 0."""
    torch.manual_seed(0)
    theirs = timm.create_model(
        name, pretrained=False, num_classes=classes, in_chans=channels, drop_rate=0.0
    ).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.08)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    ours = build(f"timm:{name}", classes=classes, in_channels=channels).double()
    state = theirs.state_dict()
    names = external.parameter_names(f"timm:{name}")
    entries = [key for key in ours.state_dict() if not key.endswith("num_batches_tracked")]
    ours.load_state_dict({mine: state[one] for mine, one in zip(entries, names, strict=True)}, strict=False)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_timms(name, training):
    ours, theirs = both(name)
    side = max(64, find(f"timm:{name}").smallest)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    answers, gradients = [], []
    for network in (ours, theirs):
        network.train(training)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        inputs = images.clone().requires_grad_()
        logits = network(inputs)
        nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
        answers.append(logits.detach())
        gradients.append([inputs.grad, *(parameter.grad for parameter in network.parameters())])
    assert answers[0].abs().max() > 0
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-9, atol=1e-9 * float(answers[1].abs().max()))
    by_size = [sorted(each, key=lambda one: (one.numel(), float(one.abs().sum()))) for each in gradients]
    for one, other in zip(*by_size, strict=True):
        largest = float(other.abs().max())
        torch.testing.assert_close(one.reshape(-1), other.reshape(-1), rtol=1e-7, atol=1e-9 * largest + 1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_holds_at_every_cut(name):
    network = build(f"timm:{name}", classes=4, seed=1).eval()
    assert [child for child, _ in network.named_children()] == ["stem", "stages", "head"]
    side = max(64, find(f"timm:{name}").smallest)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (2, 4)
        assert torch.equal(logits, network.head(network.features(images)))
        for choice in depths(network):
            trunk, tail = cut(network, choice.depth)
            torch.testing.assert_close(tail.eval()(trunk(images)), logits)


def test_counts_are_timms():
    row = find("timm:resnet10t")
    theirs = timm.create_model("resnet10t", pretrained=False)
    assert row.parameters == sum(parameter.numel() for parameter in theirs.parameters())
    assert last_layer(build("timm:resnet10t", classes=7, in_channels=1))[2].out_features == 7


def test_weights_of_a_file_in_timms_names(tmp_path):
    theirs = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=1000).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = build(
        "timm:mobilenetv3_small_050", classes=1000, weights=str(tmp_path / "weights.safetensors")
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_the_table_of_weights_says_where_they_lie_and_what_they_want():
    published = find_weights("timm:resnet18", "imagenet")
    theirs = timm.get_pretrained_cfg("resnet18")
    assert theirs.hf_hub_id in published.source
    assert published.mean == tuple(theirs.mean)
    assert published.interpolation == theirs.interpolation


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first, second, other = (build("timm:resnet10t", classes=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224"])
def test_what_is_no_convnet_is_refused(name):
    with pytest.raises(ModelError, match=f"timm:{name}"):
        build(f"timm:{name}")


def test_a_wrong_name_gets_the_nearest():
    with pytest.raises(ModelError, match=r"timm has no model 'resnett18'.*resnet18"):
        build("timm:resnett18")


def test_options_that_timm_builds_in_are_refused():
    refused = "is refused for timm:resnet10t: timm builds it in"
    with pytest.raises(OptionError, match=f"activation .elu. {refused}"):
        build("timm:resnet10t", activation="elu")
    with pytest.raises(OptionError, match=f"norm .group. {refused}"):
        build("timm:resnet10t", norm="group")


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    external.row.cache_clear()
    with pytest.raises(ModelError, match=r"pip install 'svertka\[timm\]'"):
        find("timm:resnet14t")
