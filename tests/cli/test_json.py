"""Every verb: one JSON value with the stated keys, silence with --quiet, a version, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import svertka
from svertka.cli.main import app

VERBS = tuple(sorted(command.callback.__name__ for command in app.registered_commands))
SMALL = ["--model", "linear", "--set", "data.size=8", "--seed", "3", "--device", "cpu"]
TRAIN_KEYS = {"run", "model", "classes", "images", "test", "seconds"}
TRAIN = {"images": {"train", "validation", "test"}, "seconds": {"data", "features", "train", "total"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright noise, 24 images each."""
    folder = tmp_path_factory.mktemp("data") / "noise"
    generator = np.random.default_rng(0)
    for name, most in (("bright", 255), ("dark", 170)):
        (folder / name).mkdir(parents=True)
        for index in range(24):
            pixels = generator.integers(0, most, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    svertka.train(data, model="linear", epochs=1, settings=["data.size=8"], seed=3, out=out, device="cpu")
    return out


@pytest.fixture
def calls(data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """A cheap call of each verb; `demo` is cut to one epoch, the cache is not emptied."""
    monkeypatch.chdir(tmp_path)
    short = svertka.Recipe().set(["schedule.epochs=1", "model.name=linear", "data.size=8"])
    monkeypatch.setattr(
        "svertka.api.demo.train", lambda data, recipe, **more: svertka.train(data, recipe=short, **more)
    )
    return {
        "cache": ["cache"],
        "demo": ["demo", "--out", tmp_path / "demo", "--device", "cpu"],
        "evaluate": ["evaluate", run, data],
        "inspect": ["inspect", "lenet5"],
        "models": ["models", "resnet*"],
        "predict": ["predict", run, data / "dark"],
        "train": ["train", data, "--epochs", "1", "--out", tmp_path / "run", *SMALL],
    }


def only_value(out: str) -> Any:
    """The one JSON value on stdout, on one line."""
    assert out.count("\n") == 1
    return json.loads(out)


def has_interval(accuracy: dict[str, Any]) -> bool:
    ordered = 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    return set(accuracy) == {"value", "low", "high", "n"} and ordered and accuracy["n"] > 0


def test_there_is_a_call_for_every_verb(calls: dict[str, list[Any]]) -> None:
    assert tuple(sorted(calls)) == VERBS


@pytest.mark.parametrize("verb", ["demo", "train"])
def test_train_and_demo(svertka_command: Any, calls: dict[str, list[Any]], verb: str) -> None:
    answer = svertka_command(*calls[verb], "--json")
    assert answer.code == 0, answer.err
    result = only_value(answer.out)
    assert set(result) >= TRAIN_KEYS
    for name, keys in TRAIN.items():
        assert set(result[name]) == keys
    assert has_interval(result["test"]["accuracy"])
    assert result["test"]["accuracy"]["n"] == result["images"]["test"]
    assert result["model"] == "linear"
    assert 0 < result["seconds"]["train"] < result["seconds"]["total"]
    assert Path(result["run"]).is_dir()
    again = svertka_command(*calls[verb], "--json", "--resume")
    assert only_value(again.out) == result


def test_evaluate(svertka_command: Any, calls: dict[str, list[Any]]) -> None:
    result = only_value(svertka_command(*calls["evaluate"], "--json").out)
    assert set(result) >= {"accuracy", "top5", "per_class", "confusion", "ece", "left_out"}
    assert has_interval(result["accuracy"])
    assert result["top5"] is None  # two classes
    assert [row["name"] for row in result["per_class"]] == ["bright", "dark"]
    assert np.sum(result["confusion"]) == result["images"] == result["accuracy"]["n"]


def test_predict(svertka_command: Any, calls: dict[str, list[Any]]) -> None:
    result = only_value(svertka_command(*calls["predict"], "--json").out)
    assert len(result["predictions"]) == 24
    for item in result["predictions"]:
        assert set(item) == {"path", "classes", "error"}
        assert {key for answer in item["classes"] for key in answer} == {"name", "probability"}


def test_models(svertka_command: Any, calls: dict[str, list[Any]]) -> None:
    result = only_value(svertka_command(*calls["models"], "--json").out)
    assert {"resnet18", "resnet50"} <= {item["name"] for item in result}
    assert all(set(item) >= {"name", "parameters", "macs", "input", "weights"} for item in result)


def test_inspect(svertka_command: Any, calls: dict[str, list[Any]]) -> None:
    result = only_value(svertka_command(*calls["inspect"], "--json").out)
    assert set(result) >= {"parameters", "macs", "receptive_field", "layers"}
    keys = {"name", "kind", "output", "parameters", "macs", "receptive_field", "stride"}
    assert result["layers"]
    assert all(set(layer) >= keys for layer in result["layers"])


def test_cache(
    svertka_command: Any, calls: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = only_value(svertka_command(*calls["cache"], "--json").out)
    assert set(result) >= {"path", "bytes", "limit_bytes"}
    assert result["path"] == os.environ["SVERTKA_CACHE"]
    monkeypatch.setenv("SVERTKA_CACHE", str(tmp_path / "cache"))
    svertka_command(*calls["train"])
    assert only_value(svertka_command("cache", "--json").out)["bytes"] > 0
    assert only_value(svertka_command("cache", "clear", "--json").out)["bytes"] == 0


@pytest.mark.parametrize("verb", VERBS)
def test_quiet_shows_nothing(svertka_command: Any, calls: dict[str, list[Any]], verb: str) -> None:
    answer = svertka_command(*calls[verb], "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_quiet_still_shows_errors(svertka_command: Any, verb: str) -> None:
    arguments = ["nowhere"] if verb == "train" else ["nowhere", "nowhere"]
    answer = svertka_command(verb, *arguments, "--quiet")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("svertka: ")


@pytest.mark.parametrize("verb", VERBS)
def test_a_person_gets_a_table(svertka_command: Any, calls: dict[str, list[Any]], verb: str) -> None:
    answer = svertka_command(*calls[verb])
    assert answer.code == 0, answer.err
    assert len(answer.out.strip()) > 20
    assert not answer.out.lstrip().startswith(("{", "["))


def test_a_run_without_a_test_part_is_shown(
    svertka_command: Any, calls: dict[str, list[Any]], data: Path, tmp_path: Path
) -> None:
    answer = svertka_command(*calls["train"], "--set", "data.test=0")
    assert answer.code == 0, answer.err
    assert "not measured: no images were kept for it" in answer.out
    answer = svertka_command("evaluate", tmp_path / "run", data)
    assert answer.code == 2
    assert "kept no images of" in answer.err


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_and_version(svertka_command: Any, verb: str | None) -> None:
    verbs = [verb] if verb else []
    answer = svertka_command(*verbs, "--version")
    assert (answer.code, answer.out) == (0, f"svertka {svertka.__version__}\n")
    answer = svertka_command(*verbs, "--help")
    assert answer.code == 0
    wanted = ("--json", "--quiet", "--device", "--version") if verb else VERBS
    assert all(word in answer.out for word in wanted)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb: str) -> None:
    parameters = get_command(app).commands[verb].params
    assert "json" in {parameter.name for parameter in parameters}
    for parameter in parameters:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "nowhere"], 2, "nowhere"),
        (["train", "digits", "--epoch", "3"], 2, "--epochs"),
        (["train", "digits", "--epochs", "three"], 2, "Invalid value for '--epochs'"),
        (["train"], 2, "Missing argument"),
        (["trian"], 2, "Did you mean 'train'"),
        (["predict", "nowhere", "x.png"], 2, "no run at nowhere"),
        (["cache", "clean"], 2, "did you mean 'clear'"),
        (["models", "--sort", "nam"], 2, "did you mean 'name'"),
    ],
)
def test_an_error_is_a_json_value_too(
    svertka_command: Any, arguments: list[str], code: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = svertka_command(*arguments, "--json")
    assert answer.code == code
    value = only_value(answer.out)
    assert set(value) == {"error"}
    assert message in value["error"]
    assert value["error"] in answer.err
    assert "Traceback" not in answer.err


def test_help_and_public_names_import_no_torch() -> None:
    """In a process of its own: `--help`, `--version` and `import svertka` load none of the heavy ones."""
    script = """
import sys
import svertka
dir(svertka)
from svertka.cli.main import main
for option in ("--help", "--version"):
    sys.argv = ["svertka", option]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
heavy = {"torch", "torchvision", "sklearn", "scipy", "onnxruntime", "onnx", "PIL", "rich.progress", "numpy"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"
