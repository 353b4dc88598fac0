"""Recipe: every setting of a run, typed, with unit and range; loads from TOML and prints as TOML.

A field that is `auto` is decided from the data before training starts (`training/choices.py`), said to the
user, and stands with its value in the `recipe.toml` of the run. An unknown key, a value out of range and a
setting that could have no effect beside the others are errors that name the nearest valid one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, model_validator

from svertka.augmentation import Augment
from svertka.errors import OptionError, nearest
from svertka.optimization import Averaging, Optimizer, Regularization, Schedule
from svertka.settings import Auto, Settings

DEFAULT_MINUTES = 10.0
WHITENING = ("pca", "zca")
WHITENING_EPSILON = 0.01
Size = Annotated[int, Field(ge=8, le=2048)]


class Data(Settings):
    """How images become inputs, and how they are divided."""

    size: Size | Auto = Field("auto", description="input height and width in pixels, 8 to 2048")
    channels: Literal[1, 3] | Auto = Field("auto", description="1 grey, 3 RGB; auto: grey if all images are")
    fit: Literal["crop", "letterbox", "squash"] = Field(
        "crop", description="crop: short side, then centre; letterbox: whole image, padded; squash: stretched"
    )
    interpolation: Literal["bilinear", "bicubic"] | Auto = Field(
        "auto", description="antialiased resampling; auto: bilinear unless the weights want bicubic"
    )
    normalization: (
        Literal["none", "mean_image", "channel_mean", "channel_mean_std", "pca", "zca", "weights"] | Auto
    ) = Field(
        "auto",
        description="fitted on the training part; pca, zca: whitening; weights: theirs; "
        "auto: theirs, else channel_mean_std",
    )
    whitening_epsilon: float = Field(
        WHITENING_EPSILON,
        gt=0,
        le=1,
        description="of pca and zca: added to each eigenvalue (pixels from 0 to 1)",
    )
    store_size: Size | Auto = Field(
        "auto", description="short side of stored pixels; auto: 256/224 of size, or size itself up to 64"
    )
    validation: float = Field(
        0.15, gt=0, lt=0.9, description="share carved for validation, if none is declared"
    )
    test: float = Field(
        0.15, ge=0, lt=0.9, description="share carved for the test set, if none is declared; 0: no test"
    )


class Model(Settings):
    """Which network, from which weights."""

    name: str = Field("auto", description="a name of `svertka models`, or auto")
    weights: str = Field(
        "auto",
        description="none: from scratch; imagenet; hf:OWNER/NAME; a file; a run; auto: by the data",
    )
    activation: str | Auto = Field("auto", description="by name; auto: the model's own")
    norm: str | Auto = Field("auto", description="by name; auto: the model's own")
    init: str | Auto = Field("auto", description="by name; auto: the model's own")
    dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="probability in the head; auto: the model's own"
    )

    def choices(self) -> dict[str, Any]:
        """The builder's options by name; None where the model's own holds."""
        values = {name: getattr(self, name) for name in ("activation", "norm", "init", "dropout")}
        return {name: None if value == "auto" else value for name, value in values.items()}


class Transfer(Settings):
    """How far published weights are adapted; acts only with model.weights."""

    rung: Literal["auto", "probe", "head", "stages", "full"] = Field(
        "auto", description="the last rung to climb; auto: as far as it pays and the time allows"
    )
    depth: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="of the rung stages: 1 freezes the stem, 1 + i the first i stages too"
    )
    views: Annotated[int, Field(ge=1, le=1000)] | Auto = Field(
        "auto", description="random views of each training image on a frozen trunk; auto: what fits the time"
    )
    precision: Literal["float16", "float32"] = Field("float16", description="of stored features")
    lower_rate: float = Field(0.1, gt=0, le=1, description="learning rate below the last stages, as a share")


class Budget(Settings):
    """How much time there is."""

    minutes: Annotated[float, Field(gt=0)] | Auto = Field(
        "auto",
        description="wall-clock of the whole process, filled by the schedule; auto: ten or less",
    )

    @property
    def seconds(self) -> float:
        """The most that there is."""
        return 60 * (DEFAULT_MINUTES if self.minutes == "auto" else self.minutes)


class Recipe(Settings):
    """All settings of a run. `Recipe()` decides from the data whatever is `auto`."""

    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    regularization: Regularization = Regularization()
    averaging: Averaging = Averaging()
    transfer: Transfer = Transfer()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _together(self) -> Recipe:
        if self.schedule.epochs != "auto" and self.budget.minutes != "auto":
            raise ValueError(
                "schedule.epochs and budget.minutes both say how long to train; give one of them"
            )
        if (
            self.data.whitening_epsilon != Data().whitening_epsilon
            and self.data.normalization not in WHITENING
        ):
            raise ValueError(
                "data.whitening_epsilon belongs to 'pca' and 'zca' and does nothing beside "
                f"data.normalization {self.data.normalization!r}"
            )
        if self.augment.cutmix and self.model.weights not in ("none", "auto"):
            raise ValueError(
                "augment.cutmix pastes pixels, and a transfer trains on stored features; use augment.mixup, "
                "or model.weights = 'none'"
            )
        if self.data.normalization == "weights" and self.model.weights == "none":
            raise ValueError("data.normalization 'weights' needs model.weights, and there are none")
        if self.model.weights == "none" and self.transfer != Transfer():
            raise ValueError("the settings of transfer do nothing without model.weights")
        if self.model.init != "auto" and self.model.weights not in ("none", "auto"):
            raise ValueError("model.init does nothing beside model.weights; give one of the two")
        if self.averaging.snapshots and self.schedule.name not in ("cosine_restarts", "cyclic"):
            raise ValueError(
                "averaging.snapshots keeps the end of each cycle, and only the schedules 'cosine_restarts' "
                f"and 'cyclic' have cycles, not {self.schedule.name!r}"
            )
        if self.averaging.snapshots and self.averaging.name != "none":
            raise ValueError(
                f"averaging.snapshots are single ends of cycles, {self.averaging.name!r} averages over them; "
                "choose one of the two"
            )
        if self.model.weights not in ("none", "auto") and self.averaging.snapshots:
            raise ValueError("averaging.snapshots needs a training from scratch; set model.weights = 'none'")
        deep = self.regularization.stochastic_depth not in ("auto", 0)
        if deep and self.model.weights not in ("none", "auto") and self.transfer.rung in ("probe", "head"):
            raise ValueError(
                f"regularization.stochastic_depth does nothing when transfer.rung is {self.transfer.rung!r}: "
                "all residual blocks are frozen"
            )
        return self

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML file.

        Raises:
            OptionError: no such file, no TOML, an unknown key or a bad value; all problems in one message.
        """
        try:
            with open(path, "rb") as file:
                return cls.parse(tomllib.load(file), origin=str(path))
        except FileNotFoundError:
            raise OptionError(
                f"no recipe file {path}; `svertka train --help` shows how to name one."
            ) from None
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"{path} is not valid TOML: {error}.") from None

    @classmethod
    def parse(cls, values: dict[str, Any], origin: str = "the recipe") -> Recipe:
        """Build from nested dictionaries; see `load` for the errors."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [_problem(details) for details in error.errors()]
            raise OptionError(f"{origin} cannot be used: " + "; ".join(problems)) from None

    def set(self, assignments: Iterable[str]) -> Recipe:
        """A copy with `group.field=value` assignments (values written as in TOML; bare words are text).

        Raises:
            OptionError: an assignment without `=`, an unknown field (the nearest is named) or a bad value.
        """
        values = self.model_dump(exclude_unset=True)
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            group, dot, field = key.strip().partition(".")
            if not (equals and dot):
                raise OptionError(
                    f"expected GROUP.FIELD=VALUE, got {assignment!r}; such as optimizer.clip=1.0."
                )
            _known(group, field)
            values.setdefault(group, {})[field] = _value(text.strip())
        return self.parse(values, origin="--set " + " ".join(assignments) if assignments else "the recipe")

    def to_toml(self) -> str:
        """All settings as TOML that `load` reads back to an equal recipe."""
        return tomli_w.dumps(self.model_dump())


def _known(group: str, field: str) -> None:
    groups = {name: info.annotation for name, info in Recipe.model_fields.items()}
    if group not in groups:
        raise OptionError(f"no setting group {group!r} in a recipe; {nearest(group, groups)}")
    fields = groups[group].model_fields  # type: ignore[union-attr]
    if field not in fields:
        raise OptionError(f"no setting {group}.{field} in a recipe; {nearest(field, fields)}")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _problem(details: Any) -> str:
    place = [str(part) for part in details["loc"] if part not in ("constrained-int", "int", "float")]
    place = [part for part in place if not part.startswith(("literal[", "constrained"))]
    name = ".".join(place)
    if details["type"] == "extra_forbidden":
        known: Iterable[str] = Recipe.model_fields
        if len(place) == 2 and place[0] in Recipe.model_fields:
            known = Recipe.model_fields[place[0]].annotation.model_fields  # type: ignore[union-attr]
        return f"there is no setting {name}; {nearest(place[-1], known)}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name}: {message[0].lower()}{message[1:]}, got {details['input']!r}"
