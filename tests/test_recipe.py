"""Recipe: TOML both ways, refusals with the nearest name, settings that could not act."""

import tomllib

import pytest

from svertka.errors import OptionError
from svertka.recipe import Recipe


def test_toml_both_ways(tmp_path) -> None:
    recipe = Recipe().set(["optimizer.learning_rate=0.3", "model.name=resnet18", "augment.flip=true"])
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.load(path) == recipe
    assert tomllib.loads(recipe.to_toml())["optimizer"]["learning_rate"] == 0.3


def test_every_field_says_what_it_is() -> None:
    for group in Recipe.model_fields.values():
        for name, field in group.annotation.model_fields.items():
            assert field.description, name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimzer.learning_rate=1", "no setting group 'optimzer'.*did you mean 'optimizer'"),
        ("optimizer.learning_rte=1", "no setting optimizer.learning_rte.*did you mean 'learning_rate'"),
        ("optimizer.learning_rate=-1", "learning_rate.*greater than 0.*got -1"),
        ("optimizer.name=adm", "optimizer.name.*'sgd'.*'muon'.*got 'adm'"),
        ("optimizer.clip", "expected GROUP.FIELD=VALUE, got 'optimizer.clip'"),
        ("clip=1", "expected GROUP.FIELD=VALUE"),
        ("data.size=large", "data.size.*got 'large'"),
        ("schedule.step_factor=0.5", "step_factor belongs to the schedule 'step'"),
        ("optimizer.learning_rate=nan", "learning_rate"),
    ],
)
def test_refusals_name_the_way_out(setting: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe().set([setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["augment.pad_crop=4", "augment.resized_crop=0.5"], "two ways to crop"),
        (
            ["optimizer.name=adamw", "optimizer.momentum=0.5"],
            "momentum belongs to the optimizer|nesterov belongs to",
        ),
        (["optimizer.momentum=0"], "nesterov needs momentum"),
        (["schedule.epochs=3", "budget.minutes=2"], "both say how long"),
    ],
)
def test_settings_that_cannot_act_together(settings: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe().set(settings)


def test_all_problems_stand_in_one_message(tmp_path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[optimizer]\nclipp = 1\nlearning_rate = -1\n[data]\nsize = 2\n")
    with pytest.raises(OptionError) as caught:
        Recipe.load(path)
    for part in ("bad.toml", "optimizer.clipp", "did you mean 'clip'", "learning_rate", "data.size"):
        assert part in str(caught.value)


def test_files_that_are_no_recipe(tmp_path) -> None:
    with pytest.raises(OptionError, match=r"no recipe file .*nowhere\.toml"):
        Recipe.load(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("[optimizer\n")
    with pytest.raises(OptionError, match=r"broken\.toml is not valid TOML"):
        Recipe.load(tmp_path / "broken.toml")
