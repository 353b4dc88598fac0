"""Checkpoints: tensors and facts in one safe file, whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from svertka.errors import RunError, StoreError
from svertka.runs import checkpoint


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    """Bit for bit, whatever their kind or layout; facts as JSON has them."""
    tensors = {
        "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.float16),
        "count": torch.tensor(3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "empty": torch.zeros(0, 2),
        "learned": nn.Parameter(torch.ones(2)),
    }
    checkpoint.save_tensors(
        tmp_path / "new" / "file", tensors, {"epoch": 3, "loss": 0.1, "rows": [{"a": None}]}
    )
    found, facts = checkpoint.load_tensors(tmp_path / "new" / "file")
    assert facts == {"epoch": 3, "loss": 0.1, "rows": [{"a": None}]}
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file"]


def test_no_nan_among_the_facts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save_tensors(tmp_path / "file", {}, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_cut_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(RunError, match=r"state\.safetensors is missing"):
        checkpoint.load_tensors(path)
    checkpoint.save_tensors(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"state\.safetensors is damaged"):
        checkpoint.load_tensors(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors hides the number of the system's error in its own message."""
    path = tmp_path / "file"
    checkpoint.save_tensors(path, {"a": torch.ones(3)}, {})

    def full(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StoreError, match=r"the disk is full: .*file could not be written"):
        checkpoint.save_tensors(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(checkpoint.load_tensors(path)[0]["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_real_refusal_of_the_system(tmp_path: Path) -> None:
    """No file may grow beyond 64 kB for a moment, as with `ulimit -f`."""
    resource = pytest.importorskip("resource", reason="this system has no such limits")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, usual[1]))
    try:
        with pytest.raises(StoreError, match=r"file cannot be written \(File too large\)"):
            checkpoint.save_tensors(tmp_path / "file", {"a": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not (tmp_path / "file").exists()


def test_weights_of_another_make_are_refused(tmp_path: Path) -> None:
    layer = nn.Linear(2, 3)
    with pytest.raises(RunError, match=r"(?s)here does not fit the model of the run: .*Missing key"):
        checkpoint.fill(layer, {"weight": torch.zeros(3, 2)}, Path("here"))
    with pytest.raises(RunError, match="size mismatch"):
        checkpoint.fill(layer, {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, Path("here"))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    def steps(layer: nn.Linear, optimizer: torch.optim.Optimizer, number: int) -> None:
        for _ in range(number):
            optimizer.zero_grad()
            layer(torch.ones(1, 2)).square().sum().backward()
            optimizer.step()

    def make() -> tuple[nn.Linear, torch.optim.Optimizer]:
        layer = nn.Linear(2, 3)
        layer.load_state_dict({"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)})
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
        more = {} if name == "adamw" else {"momentum": 0.9}
        return layer, kind(groups, lr=0.01, **more)

    whole, optimizer = make()
    steps(whole, optimizer, 6)
    first, before = make()
    steps(first, before, 3)
    tensors, groups = checkpoint.optimizer_tensors(before)
    checkpoint.save_tensors(tmp_path / "file", tensors, {"groups": groups})
    tensors, facts = checkpoint.load_tensors(tmp_path / "file")
    second, after = make()
    second.load_state_dict(first.state_dict())
    checkpoint.fill_optimizer(after, tensors, facts["groups"])
    steps(second, after, 3)
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)
