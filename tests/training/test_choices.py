"""What `auto` means: transfer or scratch by size and count, and a run of one's own as the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import svertka
from svertka.data.items import from_arrays
from svertka.data.survey import Survey, survey
from svertka.errors import OptionError, RunError
from svertka.models.published import LITE, WeightSet
from svertka.recipe import Recipe
from svertka.runs.checkpoint import load_tensors
from svertka.training import choices

PHOTOS = Survey(median_side=300, grey=False, for_training=(1000, True))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[WeightSet]:
    """The weight sets that this machine is said to hold."""
    found = list(LITE[:1])
    monkeypatch.setattr(choices.weights, "on_this_machine", lambda: found)
    return found


def decided(facts: Survey, *settings: str) -> tuple[Recipe, list[str]]:
    return choices.decide(Recipe().set(settings), facts)


@pytest.mark.parametrize(
    ("side", "images", "transfers"),
    [(64, 5000, False), (65, 5000, True), (64, 4999, True), (28, 60_000, False), (300, 245, True)],
)
def test_small_and_many_are_learnt_from_scratch(
    here: list[WeightSet], side: int, images: int, transfers: bool
) -> None:
    recipe, reasons = decided(Survey(side, False, (images, True)))
    assert (recipe.model.weights != "none") == transfers
    assert f"{images:,} training images of about {side} px" in reasons[0]
    assert reasons[0].startswith("transfer from efficientnet_lite0" if transfers else "from scratch")
    if transfers:
        assert (recipe.model.name, recipe.data.size, recipe.data.normalization) == (
            "efficientnet_lite0", 224, "weights",
        )  # fmt: skip


def test_without_declared_parts_the_shares_for_the_others_do_not_count(here: list[WeightSet]) -> None:
    """7,000 images leave 4,900 for training: too few for scratch."""
    assert decided(Survey(32, False, (7000, False)))[0].model.weights == "imagenet"
    assert decided(Survey(32, False, (7200, False)))[0].model.weights == "none"


def test_the_most_accurate_weights_whose_pass_fits_the_time(here: list[WeightSet]) -> None:
    large = next(chosen for chosen in LITE if chosen.model == "efficientnet_lite2")
    here.insert(0, large)
    assert decided(PHOTOS)[0].model.name == "efficientnet_lite2"
    assert decided(PHOTOS, "budget.minutes=1")[0].model.name == "efficientnet_lite0"


def test_no_weights_here(here: list[WeightSet]) -> None:
    here.clear()
    recipe, reasons = decided(PHOTOS)
    assert (recipe.model.name, recipe.model.weights) == ("resnet18", "none")
    assert reasons[0] == "from scratch: no fitting weights are on this machine"


def test_a_model_named_without_weights_here_is_trained_from_scratch(here: list[WeightSet]) -> None:
    recipe, reasons = decided(PHOTOS, "model.name=resnet50")
    assert (recipe.model.name, recipe.model.weights) == ("resnet50", "none")
    assert reasons[0] == "from scratch: no fitting weights of resnet50 are on this machine"
    assert decided(PHOTOS, "model.name=efficientnet_lite0")[0].model.weights == "imagenet"


@pytest.mark.parametrize("setting", ["activation=elu", "norm=group", "init=orthogonal"])
def test_a_network_of_another_make_is_trained_from_scratch(here: list[WeightSet], setting: str) -> None:
    recipe, reasons = decided(PHOTOS, f"model.{setting}", "model.name=efficientnet_lite0")
    assert recipe.model.weights == "none"
    assert f"model.{setting.partition('=')[0]} is not that of any published weights" in reasons[0]


def test_the_survey_counts_what_is_for_training() -> None:
    images = np.zeros((10, 8, 8), dtype=np.uint8)
    assert survey(from_arrays(images, ["a", "b"] * 5)).for_training == (10, False)


@pytest.fixture(scope="module")
def squares() -> svertka.Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (90, 32, 32), dtype=np.uint8)
    for number, image in enumerate(images):
        image[:, 10 * (number % 3) : 10 * (number % 3) + 10] += 60
    return from_arrays(images, [["a", "b", "c"][number % 3] for number in range(90)], name="squares")


@pytest.fixture(scope="module")
def pretrained(squares: svertka.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "large"
    svertka.train(
        squares, model="resnet20", epochs=1, settings=["model.norm=group", "model.activation=elu"],
        out=out, device="cpu",
    )  # fmt: skip
    return out


def test_a_run_is_the_start_of_another(squares: svertka.Dataset, pretrained: Path, tmp_path: Path) -> None:
    """Its architecture, preprocessing and trunk come along; only the last layer is new."""
    few = from_arrays(squares.images[:60:2], ["x", "y", "z"] * 10, name="few")
    settings = ["transfer.rung=probe"]
    result = svertka.train(
        few, weights=str(pretrained), settings=settings, out=tmp_path / "run", device="cpu"
    )
    assert result["model"] == "resnet20"
    assert result["classes"] == ["x", "y", "z"]
    run, large = svertka.Run.open(tmp_path / "run"), svertka.Run.open(pretrained)
    assert run.preprocess == large.preprocess
    assert run.recipe.model.norm == "group"
    first, _ = load_tensors(run.file("weights.safetensors"))
    second, _ = load_tensors(large.file("weights.safetensors"))
    different = {name for name in first if not np.array_equal(first[name], second[name])}
    assert different == {"head.2.weight", "head.2.bias"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.name=resnet18"], "own network only: model.name is resnet20 there, not resnet18"),
        (["model.norm=batch"], "own network only: model.norm is group there, not batch"),
        (["data.channels=3"], "own network only: data.channels is 1 there, not 3"),
    ],
)
def test_another_network_than_the_runs_is_refused(
    squares: svertka.Dataset, pretrained: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        svertka.train(squares, weights=str(pretrained), settings=settings, out=tmp_path / "run")


def test_a_run_that_is_not_finished_is_refused(
    squares: svertka.Dataset, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copytree(pretrained, tmp_path / "half")
    (tmp_path / "half" / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"half is not finished; .*--resume"):
        svertka.train(squares, weights=str(tmp_path / "half"), out=tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is not a run"):
        svertka.train(squares, weights=str(tmp_path / "empty"), out=tmp_path / "run")


def test_unknown_weights_are_refused(squares: svertka.Dataset, tmp_path: Path) -> None:
    with pytest.raises(svertka.SvertkaError, match="nowhere"):
        svertka.train(squares, model="resnet18", weights="nowhere", out=tmp_path / "run")
