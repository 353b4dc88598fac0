"""The catalogue against the networks it builds, and against torchvision's own published figures."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from svertka.errors import ModelError, OptionError
from svertka.models.catalog import ROWS, build, find, rows, skeleton, table
from svertka.models.layers import Options
from svertka.models.network import AuxiliaryStage
from svertka.models.rows import options

SHARED = [name for name in torchvision.models.list_models(torchvision.models) if name in ROWS]


class Units(fx.Tracer):
    """Records calls of single layers; squeeze-and-excitation counts as none."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or "Excitation" in type(module).__name__


def longest_path(network: nn.Module) -> int:
    """Most convolutions and linear layers between the image and the logits."""
    chain = nn.Sequential(network.stem, *network.stages, network.head)
    depth: dict[fx.Node, int] = {}
    for node in Units().trace(chain).nodes:
        weighted = node.op == "call_module" and isinstance(
            chain.get_submodule(node.target), nn.Conv2d | nn.Linear
        )
        depth[node] = max((depth[before] for before in node.all_input_nodes), default=0) + weighted
    return max(depth.values())


def auxiliary_parameters(network: nn.Module) -> int:
    stages = [stage.classifier for stage in network.stages if isinstance(stage, AuxiliaryStage)]
    return sum(p.numel() for classifier in stages for p in classifier.parameters())


@pytest.mark.parametrize("name", ROWS)
def test_figures_are_those_of_the_network(name):
    row = ROWS[name]
    network = skeleton(row)
    total = sum(p.numel() for p in network.parameters())
    assert total - auxiliary_parameters(network) == row.parameters
    assert longest_path(network) == row.depth
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, row.channels, row.input, row.input, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(row.macs, rel=2e-3)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", ROWS)
def test_the_smallest_input_works_and_a_smaller_one_does_not(name):
    row = ROWS[name]
    network = skeleton(row, options(row, size=row.smallest)).eval()
    image = torch.empty(1, row.channels, row.smallest, row.smallest, device="meta")
    assert network(image).shape == (1, row.family.classes)
    with pytest.raises(ModelError, match=r"exactly|at least"):
        network(image[:, :, 1:])
    with pytest.raises(ModelError, match=f"smallest input that works is {row.smallest} × {row.smallest}"):
        options(row, size=row.smallest - 1)
    if row.smallest > 1:  # without the check it would fail, in words that do not help
        small = replace(options(row), size=row.smallest - 1)
        with torch.device("meta"), pytest.raises(RuntimeError):
            row.family.builder(row.plan, small).eval()(image[:, :, 1:, 1:])


@pytest.mark.parametrize("name", SHARED)
def test_published_figures_are_torchvisions(name):
    row = ROWS[name]
    weights = torchvision.models.get_model_weights(name)
    meta = weights["IMAGENET1K_V1"].meta if "IMAGENET1K_V1" in weights.__members__ else None
    if meta is None:
        pytest.skip("torchvision has no first ImageNet weights for it")
    metrics = meta["_metrics"]["ImageNet-1K"]
    assert (row.top1, row.top5) == (metrics["acc@1"], metrics["acc@5"])
    assert meta["num_params"] - row.parameters in (0, auxiliary_parameters(skeleton(row)))
    assert row.macs / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)


def test_figures_of_the_papers():
    published = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}
    for name, millions in published.items():  # He et al. 2015, table 6
        assert round(ROWS[name].parameters / 1e6, 1 if name == "resnet110" else 2) == millions
    assert ROWS["lenet5"].parameters == 61_706


def test_unknown_names_are_refused():
    with pytest.raises(ModelError, match="no model 'resnet19': did you mean 'resnet1"):
        find("resnet19")
    with pytest.raises(ModelError, match="no weights 'imagnet'"):
        build("lenet5", weights="imagnet")
    with pytest.raises(OptionError, match=r"no norm 'bach': did you mean 'batch'\?"):
        build("resnet18", norm="bach")
    with pytest.raises(OptionError, match=r"activation 'relux'.* init 'kaimin'.*'kaiming'"):
        build("resnet18", activation="relux", init="kaimin")
    with pytest.raises(OptionError, match=r"dropout is a probability.*got 1"):
        build("resnet18", dropout=1.0)
    with pytest.raises(ModelError, match=r"at least one class.*classes=0"):
        build("resnet18", classes=0)


def test_duplicates_are_refused():
    with pytest.raises(ValueError, match="two rows named 'resnet18'"):
        table([ROWS["resnet18"], ROWS["resnet18"]])


def test_patterns():
    assert [row.name for row in rows("resnet5*")] == ["resnet50", "resnet56"]
    assert {row.name for row in rows("plain")} == {"plain18", "plain34", "plain20", "plain56"}
    assert rows("nothing*") == []
    assert len(rows()) == len(ROWS)


def test_other_sizes_are_refused_by_the_network():
    with pytest.raises(ModelError, match=r"exactly 32 pixels a side; got 28 × 28"):
        build("lenet5")(torch.zeros(1, 1, 28, 28))


def test_instance_norm_needs_maps():
    with pytest.raises(ModelError, match="maps of one pixel"):
        build("resnet18", norm="instance", size=32)
    assert build("resnet18", norm="instance", size=33, classes=2)(torch.randn(2, 3, 33, 33)).shape == (2, 2)


def test_options_have_the_usual_values():
    assert options(ROWS["lenet5"]) == Options(10, 1, 32, "relu", "none", "torch", 0.0)
