"""Choosing: only engines that agree, once for each module, machine and shape, and never a stale one."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from svertka.data.cache import cache_entries, clear_cache, describe_cache
from svertka.engine import Engine, choose, engine, fastest, fingerprint, kinds
from svertka.engine.choose import disagreement
from svertka.engine.trace import trace
from svertka.errors import ModelError, OptionError
from svertka.models.freezing import cut
from svertka.models.layers import Options
from svertka.models.resnet import ResNetPlan, resnet

SHAPE = (3, 16, 16)


def small_network():
    """A stem and two residual stages of equal weights each time, in eval mode."""
    plan = ResNetPlan("basic", (1, 1), width=8, stem="small", shortcut="zeros")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return resnet(plan, Options(classes=10)).eval()


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path))
    monkeypatch.setattr(choose, "SECONDS", 0.02)
    monkeypatch.setattr(choose, "RUN_SECONDS", 0.002)


@pytest.fixture
def network():
    return small_network()


@pytest.fixture
def work(monkeypatch):
    """Counts the measurements, and the graphs that are built."""
    counts = {"measured": 0, "built": 0}

    def counting(name, function):
        def count(*arguments):
            counts[name] += 1
            return function(*arguments)

        return count

    monkeypatch.setattr(choose, "_race", counting("measured", choose._race))
    monkeypatch.setattr(choose, "build", counting("built", choose.build))
    return counts


@pytest.fixture
def prefer(monkeypatch):
    """Makes one engine win the race, whatever the machine is busy with."""

    def choose_it(name):
        monkeypatch.setattr(
            choose, "_race", lambda engines, images: {key: 1.0 + (key != name) for key in engines}
        )

    return choose_it


def images(count=4):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(5))


def entry(tmp_path):
    (folder,) = (tmp_path / "engines").iterdir()
    return folder


@pytest.mark.parametrize("name", kinds.NAMES)
def test_every_engine_answers_as_the_module(network, name):
    made = engine(network, name, SHAPE)
    with torch.no_grad():
        expected = network(images())
    outputs = made(images())
    assert made.name == name
    assert not outputs.requires_grad
    assert disagreement(outputs, expected) < 1e-5
    if name == "eager":
        assert torch.equal(outputs, expected)
    assert made(images(1)).shape == (1, 10)
    assert not outputs.is_inference()  # a tail may be trained on it


@pytest.mark.parametrize("name", kinds.NAMES)
def test_maps_come_out_in_the_usual_layout_and_a_trunk_is_a_module_too(network, name):
    trunk, _ = cut(network, 2)
    outputs = engine(trunk, name, SHAPE)(images())
    assert outputs.shape == (4, 8, 16, 16)
    assert outputs.is_contiguous()


@pytest.mark.parametrize("name", kinds.NAMES)
def test_any_memory_layout_of_the_input(network, name):
    made = engine(network, name, SHAPE)
    strange = images().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(strange), made(images()), rtol=1e-4, atol=1e-5)


def test_fastest_measures_all_and_takes_the_best(network):
    made = fastest(network, SHAPE, batch_size=8)
    assert isinstance(made, Engine)
    assert set(made.images_per_second) == set(kinds.NAMES)
    assert made.images_per_second[made.name] == max(made.images_per_second.values())
    assert made.refused == {}
    assert not made.remembered


@pytest.mark.parametrize("wrong", ["onnxruntime", "channels_last"])
def test_an_engine_that_disagrees_is_refused_however_fast(network, prefer, monkeypatch, wrong):
    original = getattr(kinds, wrong)

    def slightly_wrong(*arguments):
        made = original(*arguments)
        return Engine(wrong, made.shape, lambda batch: made.run(batch) * 1.001)

    monkeypatch.setattr(kinds, wrong, slightly_wrong)
    prefer(wrong)
    made = fastest(network, SHAPE, batch_size=4)
    assert made.name != wrong
    assert wrong not in made.images_per_second
    assert "1.0e-03 of the largest output; 1.0e-04 is allowed" in made.refused[wrong]
    assert fastest(network, SHAPE, batch_size=4, tolerance=1e-2).name == wrong


def test_disagreement_is_relative_to_the_largest_output():
    reference = torch.tensor([[0.0, -4.0], [1.0, 2.0]])
    assert disagreement(reference + 0.4, reference) == pytest.approx(0.1)
    assert disagreement(reference, reference) == 0
    assert disagreement(reference[:1], reference) == float("inf")
    assert disagreement(reference * float("nan"), reference) == float("inf")
    assert disagreement(torch.ones(2), torch.zeros(2)) == 1


@pytest.mark.parametrize("name", kinds.NAMES)
def test_a_choice_is_remembered(network, prefer, work, monkeypatch, name):
    prefer(name)
    first = fastest(network, SHAPE, batch_size=4)
    monkeypatch.setattr(choose, "_race", None)
    monkeypatch.setattr(choose, "_measure", None)  # either would fail now
    again = fastest(network, SHAPE, batch_size=4)
    assert (first.name, first.remembered) == (name, False)
    assert (again.name, again.remembered) == (name, True)
    assert again.images_per_second == first.images_per_second
    assert torch.equal(again(images()), first(images()))
    assert work["built"] == 1


def test_another_process_neither_measures_nor_imports_the_exporter(network, prefer, tmp_path):
    prefer("onnxruntime")
    expected = fastest(network, SHAPE, batch_size=4)(images())
    torch.save(network, tmp_path / "network.pt")
    script = (
        "import sys, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from svertka.engine import fastest\n"
        f"network = torch.load({str(tmp_path / 'network.pt')!r}, weights_only=False)\n"
        "made = fastest(network, (3, 16, 16), batch_size=4)\n"
        "assert made.remembered and made.name == 'onnxruntime' and 'onnx' not in sys.modules\n"
        "images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))\n"
        f"torch.save(made(images), {str(tmp_path / 'outputs.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "outputs.pt", weights_only=True), expected)


def test_every_change_that_matters_is_measured_anew(network, work):
    fastest(network, SHAPE, batch_size=4)
    fastest(copy.deepcopy(network), SHAPE, batch_size=4)
    assert work["measured"] == 1  # an equal module is the same module
    with torch.no_grad():
        next(iter(network.parameters())).view(-1)[0] += 1e-6
    fastest(network, SHAPE, batch_size=4)
    assert work["measured"] == 2  # a weight
    network.stages[1][0].branch[0][1].running_mean[0] += 1
    fastest(network, SHAPE, batch_size=4)
    assert work["measured"] == 3  # a statistic
    network.stages[0][0].act = nn.Tanh().eval()
    fastest(network, SHAPE, batch_size=4)
    assert work["measured"] == 4  # the structure
    fastest(network, (3, 20, 16), batch_size=4)
    fastest(network, SHAPE, batch_size=5)
    fastest(network, SHAPE, batch_size=4, tolerance=1e-3)
    assert work["measured"] == 7
    fastest(network, SHAPE, batch_size=4, remember=False)
    assert work["measured"] == 8


def test_remembering_can_be_left_out(network, tmp_path):
    fastest(network, SHAPE, batch_size=4, remember=False)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("file", ["choice.json", "graph.onnx"])
@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "empty"])
def test_a_damaged_entry_is_made_anew(network, prefer, tmp_path, file, damage):
    prefer("onnxruntime")
    expected = fastest(network, SHAPE, batch_size=4)(images())
    path = entry(tmp_path) / file
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage, len(content))])
    made = fastest(network, SHAPE, batch_size=4)
    assert not made.remembered
    assert torch.equal(made(images()), expected)
    assert fastest(network, SHAPE, batch_size=4).remembered


def test_a_choice_that_was_edited_is_not_believed(network, prefer, tmp_path):
    prefer("onnxruntime")
    fastest(network, SHAPE, batch_size=4)
    path = entry(tmp_path) / "choice.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "eager"}))
    assert not fastest(network, SHAPE, batch_size=4).remembered


def test_entries_are_part_of_the_cache(network):
    fastest(network, SHAPE, batch_size=4)
    assert [found.path.parent.name for found in cache_entries()] == ["engines"]
    assert describe_cache()["bytes"] > 0
    clear_cache()
    assert cache_entries() == []


def test_what_onnx_cannot_say_is_not_chosen_and_the_reason_stays(work):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.rfft2(x).abs()

    made = fastest(nn.Sequential(nn.Conv2d(3, 3, 1), Odd()).eval(), SHAPE, batch_size=2)
    assert made.name in ("eager", "channels_last")
    assert "layer 1 calls torch's 'fft_rfft2'" in made.refused["onnxruntime"]
    again = fastest(nn.Sequential(nn.Conv2d(3, 3, 1), Odd()).eval(), SHAPE, batch_size=2)
    assert again.refused.keys() == {"onnxruntime"}


def test_what_cannot_be_traced_runs_eagerly_and_the_reason_stays():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    made = fastest(Branching().eval(), SHAPE, batch_size=2)
    assert made.name == "eager"
    assert all("cannot be traced" in reason for reason in made.refused.values())


def test_nothing_to_do_is_nothing_to_measure(network, work):
    trunk, _ = cut(network, 0)
    made = fastest(trunk, SHAPE, batch_size=2)
    assert made.name == "eager"
    assert torch.equal(made(images()), images())
    assert work["measured"] == 0


def test_the_random_state_is_not_touched(network):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    fastest(network, SHAPE, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_fingerprints_cover_only_what_computes(network):
    def of(module):
        return fingerprint(module, trace(module, SHAPE))

    base = of(network)
    assert len(base) == 32
    network.stem[1].num_batches_tracked += 1
    assert of(network) == base
    network.stem[1].eps = 1e-3
    assert of(network) != base


def test_other_shapes_types_modes_and_names_are_refused(network):
    made = engine(network, "eager", SHAPE)
    with pytest.raises(ModelError, match=r"inputs of \(3, 16, 16\); got torch.float32 of \(3, 8, 8\)"):
        made(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ModelError, match=r"got torch.float64"):
        made(torch.zeros(1, *SHAPE, dtype=torch.float64))
    with pytest.raises(OptionError, match="did you mean 'onnxruntime'"):
        engine(network, "onnxruntim", SHAPE)
    network.stages[1].train()
    for make in (lambda: engine(network, "eager", SHAPE), lambda: fastest(network, SHAPE, batch_size=2)):
        with pytest.raises(ModelError, match=r"call \.eval\(\)"):
            make()


def test_away_from_the_cpu_only_eager_works():
    network = nn.Conv2d(3, 3, 1, device="meta").eval()
    assert fastest(network, SHAPE, batch_size=2).name == "eager"
    with pytest.raises(OptionError, match="works on the CPU; on meta use 'eager'"):
        engine(network, "onnxruntime", SHAPE)
