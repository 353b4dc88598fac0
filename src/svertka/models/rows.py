"""What a row of the catalogue holds, and which options it takes.

A `Family` is what several architectures share: builder, paper, input, usual options, and what it refuses,
with the reason. A `Row` is one architecture: its plan and its published figures. Both are plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svertka.errors import ModelError, OptionError, nearest
from svertka.models.activations import ACTIVATIONS
from svertka.models.initialization import INITS
from svertka.models.layers import Options
from svertka.models.network import Network
from svertka.models.normalization import NORMS


@dataclass(frozen=True)
class Family:
    """What the architectures of one paper share.

    `builder(plan, options)` gives the Network; `activation norm init dropout` are the paper's or the
    reference implementation's. `refuses` maps an option ("dropout": all but the usual value) or one value
    of it ("activation=maxout") to the reason, worded as the end of "… is refused for NAME: ".
    """

    name: str
    year: int | None  # None: not known
    builder: Callable[[Any, Options], Network]
    paper: str  # authors, year, arXiv number or place
    channels: int = 3
    classes: int = 1000
    activation: str = "relu"
    norm: str = "batch"
    init: str = "torch"
    dropout: float = 0.0
    fixed: bool = False  # takes images of one size only, that it was built for
    fixup: bool = False  # has residual branches built for Fixup
    refuses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One architecture: figures are those published, for the published input and classes.

    `smallest` is the smallest input side that works; `parameters` counts without auxiliary classifiers;
    `macs` are multiply–accumulates for one image; `depth` counts weighted layers on the main path; `top1`
    and `top5` are ImageNet validation accuracies in percent, single centre crop (None: not an ImageNet
    net).
    """

    name: str
    family: Family
    plan: Any
    input: int  # side in pixels
    smallest: int
    parameters: int
    macs: float
    depth: int | None  # None: not counted
    top1: float | None = None
    top5: float | None = None
    dropout: float | None = None  # where it differs from the family's

    @property
    def year(self) -> int | None:
        return self.family.year

    @property
    def paper(self) -> str:
        return self.family.paper

    @property
    def channels(self) -> int:
        return self.family.channels


def options(
    row: Row,
    *,
    classes: int | None = None,
    in_channels: int | None = None,
    size: int | None = None,
    activation: str | None = None,
    norm: str | None = None,
    init: str | None = None,
    dropout: float | None = None,
) -> Options:
    """The options to build with: those given, the row's own for None; all problems in one error.

    Raises:
        ModelError: the input is too small for this architecture, or a count is not positive.
        OptionError: an unknown activation, norm or init, or one refused here, with the reason.
    """
    family = row.family
    usual = Options(
        classes=family.classes,
        in_channels=family.channels,
        size=row.input,
        activation=family.activation,
        norm=family.norm,
        init=family.init,
        dropout=family.dropout if row.dropout is None else row.dropout,
    )
    chosen = Options(
        classes=usual.classes if classes is None else classes,
        in_channels=usual.in_channels if in_channels is None else in_channels,
        size=usual.size if size is None else size,
        activation=activation or usual.activation,
        norm=norm or usual.norm,
        init=init or usual.init,
        dropout=usual.dropout if dropout is None else dropout,
    )
    _check_counts(row, chosen)
    problems = [problem for option in _NAMES for problem in _refusals(row, option, usual, chosen)]
    if not 0 <= chosen.dropout < 1:
        problems.append(f"dropout is a probability, at least 0 and less than 1; got {chosen.dropout}.")
    if problems:
        raise OptionError(" ".join(problems))
    return chosen


_NAMES: dict[str, tuple[str, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "norm": NORMS,
    "init": tuple(INITS),
    "dropout": (),
}


def _check_counts(row: Row, chosen: Options) -> None:
    if chosen.classes < 1 or chosen.in_channels < 1:
        raise ModelError(
            f"{row.name} needs at least one class and one input channel; got classes={chosen.classes}, "
            f"in_channels={chosen.in_channels}."
        )
    if chosen.size < row.smallest:
        raise ModelError(
            f"{row.name} cannot take images of {chosen.size} × {chosen.size} px: the smallest input that "
            f"works is {row.smallest} × {row.smallest}. Enlarge the images or choose another model."
        )


def _refusals(row: Row, option: str, usual: Options, chosen: Options) -> list[str]:
    value, known = getattr(chosen, option), _NAMES[option]
    if value == getattr(usual, option):
        return []
    if known and value not in known:
        return [f"there is no {option} {value!r}: {nearest(value, known)}"]
    reasons = [row.family.refuses[key] for key in (option, f"{option}={value}") if key in row.family.refuses]
    if value == "fixup":
        if not row.family.fixup:
            reasons.append(
                "Fixup rescales the branches of residual blocks, and is built for the ResNets only."
            )
        elif chosen.norm != "none":
            reasons.append(f"Fixup takes the place of normalisation; give norm='none', not {chosen.norm!r}.")
    return [f"{option} {value!r} is refused for {row.name}: {reason}" for reason in reasons]
