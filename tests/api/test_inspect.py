"""The verb `inspect`: its keys, its refusals, and figures that are what they say."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image
from torch import nn

from svertka.api.inspect import inspect
from svertka.errors import ModelError, OptionError
from svertka.models.anatomy import anatomy
from svertka.models.catalog import build, skeleton
from svertka.models.catalog import find as find_row
from svertka.models.effective import effective_receptive_field
from svertka.models.figure import figure
from svertka.models.network import Network


def test_keys_and_values_are_json():
    found = inspect("lenet5")
    assert json.loads(json.dumps(found)) == found
    assert {"parameters", "macs", "receptive_field", "layers", "input", "depth", "model"} <= set(found)
    assert (found["parameters"], found["macs"], found["receptive_field"]) == (61_706, 416_520, 16)
    assert found["input"] == [1, 32, 32]
    first = found["layers"][0]
    assert {"name", "kind", "output", "parameters", "macs", "receptive_field", "stride", "offset"} <= set(
        first
    )
    assert (first["kind"], first["output"], first["receptive_field"], first["stride"]) == (
        "Conv2d",
        [6, 28, 28],
        5,
        1,
    )
    assert found["layers"][-1]["receptive_field"] == 32
    assert found["layers"][-1]["stride"] is None


def test_size_classes_and_channels_are_obeyed():
    found = inspect("resnet20", size=48, classes=7, channels=1)
    assert found["input"] == [1, 48, 48]
    assert found["layers"][-1]["output"] == [7]
    assert found["layers"][0]["output"] == [16, 48, 48]
    assert found["layers"][0]["parameters"] == 16 * 9
    assert sum(layer["parameters"] for layer in found["layers"]) == found["parameters"]


def test_auxiliary_classifiers_are_counted_apart():
    found = inspect("googlenet")
    assert found["parameters"] == 6_624_904
    assert (
        found["auxiliary_parameters"]
        == sum(p.numel() for p in skeleton(find_row("googlenet")).parameters()) - 6_624_904
    )
    assert found["auxiliary_parameters"] > 6_000_000


def test_refusals():
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        inspect("resnet81")
    with pytest.raises(ModelError, match="smallest input that works is 32"):
        inspect("vgg11", size=16)
    with pytest.raises(OptionError, match="give a path for it"):
        inspect("lenet5", weights="imagenet")


@pytest.mark.parametrize("name", ["linear", "lenet5", "resnet20", "efficientnet_b0"])
def test_figures_are_png_of_a_size_one_can_read(name, tmp_path):
    path = tmp_path / "net.png"
    assert inspect(name, figure=path)["files"] == [str(path)]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 1000 <= image.width <= 3000
        assert 900 <= image.height <= 1100
        pixels = np.asarray(image.convert("L"))
    ink = pixels < 250
    assert 0.03 < ink.mean() < 0.7
    assert not ink[:, :5].any()  # nothing is cut off at the sides
    assert not ink[:, -5:].any()


def test_a_figure_is_png_or_refused(tmp_path):
    with pytest.raises(OptionError, match=r"expected one ending in \.png"):
        inspect("lenet5", figure=tmp_path / "net.jpg")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'svertka\[figures\]'"):
        figure(anatomy(skeleton(find_row("linear")), size=32), tmp_path / "net.png")


def test_figures_leave_the_global_state_of_pyplot_alone(tmp_path):
    inspect("lenet5", figure=tmp_path / "net.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_the_effective_field_lies_inside_the_window_and_is_drawn(tmp_path):
    path = tmp_path / "field.png"
    assert inspect("lenet5", field=path)["files"] == [str(path)]
    with Image.open(path) as image:
        assert image.format == "PNG"
    field = effective_receptive_field(build("lenet5"), size=32, channels=1, images=4)
    layer = [layer for layer in anatomy(build("lenet5"), size=32, channels=1).layers if layer.window][-1]
    top, bottom, left, right = layer.seen
    assert field.shape == (32, 32)
    assert field.max() == 1
    inside = np.zeros_like(field, dtype=bool)
    inside[top : bottom + 1, left : right + 1] = True
    assert not field[~inside].any()
    assert field[inside].any()


def test_the_effective_field_of_equal_weights_is_a_binomial():
    """Luo et al. 2016, section 2.1: n convolutions of two ones give Pascal's triangle, row n."""
    stage = nn.Sequential(*[nn.Conv2d(1, 1, 2, bias=False) for _ in range(4)])
    network = Network(nn.Identity(), [stage], nn.Sequential(nn.Linear(1, 1)))
    for parameter in stage.parameters():
        nn.init.ones_(parameter)
    field = effective_receptive_field(network, size=9, channels=1, images=1)
    expected = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 36
    np.testing.assert_allclose(field[2:7, 2:7], expected, rtol=1e-6)
    assert field.sum() == pytest.approx(expected.sum())


def test_effective_fields_that_cannot_be():
    with pytest.raises(ModelError, match="no stages"):
        effective_receptive_field(build("linear"), size=32)
    with pytest.raises(ModelError, match=r"expected a stage from 0 to 2, .* got 3"):
        effective_receptive_field(build("resnet20"), 3, size=32)
    with pytest.raises(ModelError, match="images=0"):
        effective_receptive_field(build("resnet20"), size=32, images=0)
