"""The ladder from published weights to a new task, each rung starting from the one below.

    probe     all but the last layer frozen; a linear classifier solved on stored features
    head      the same cut; the last layer trained on features of K random views
    stages    the last stages trained, from K stored views of what comes before them
    full      everything trained from pixels, the lower stages at a tenth of the rate

Which rungs fit the time, and how long each trains, is measured before the first step and stands in
`plan.json`. The climb ends early where it cannot pay: when mending a third of the probe's mistakes (counted
in cross-validation) could not be told from chance, or the last gain in validation lies inside its interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from svertka import progress
from svertka.data.batches import Stream
from svertka.engine.choose import fastest
from svertka.engine.kinds import later
from svertka.evaluation.compare import paired_gain
from svertka.evaluation.predict import answer
from svertka.files import write_json
from svertka.models.freezing import Depth, cut
from svertka.models.network import Network, last_layer
from svertka.recipe import Recipe
from svertka.runs import checkpoint
from svertka.runs.run import WEIGHTS, Run
from svertka.training.budget import measure
from svertka.training.result import Trained
from svertka.training.session import Session
from svertka.training.trainer import Job, train
from svertka.transfer.features import FeatureBatches, Source, View, open_view
from svertka.transfer.probe import choose, solve

NAMES = ("probe", "head", "stages", "full")
TRAINED_STAGES = 0.3  # share of the stages that the rung `stages` trains
SHARES = {"head": 0.15, "stages": 0.35, "full": 0.4}  # of the time that is left
MOST_VIEWS = {"head": 8, "stages": 16}
MOST_EPOCHS = {"head": 40, "stages": 40, "full": 30}
MENDED = 1 / 3  # of the mistakes, at best, by climbing on


@dataclass(frozen=True)
class Rung:
    """One rung as planned: where the network is cut, on how many views and for how long it trains."""

    name: str
    depth: Depth
    views: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Footing:
    """What a rung trains: a tail, streams of the three parts, modules that train at the lower rate."""

    tail: Network
    train: Stream
    validation: Stream
    test: Stream | None
    lower: tuple[torch.nn.Module, ...] = ()


def plan(made: Session, seconds_left: float) -> dict[str, Any]:
    """Measure this machine, choose the probe, and decide the rungs.

    Returns:
        `engine probe{kind penalty mistakes} rungs epochs trunk_images_per_second features_seconds`.
    """
    began = time.monotonic()
    trunk, _ = cut(made.network, "all")
    chosen = fastest(trunk, _shape(made), batch_size=32)
    still = open_view(_source(made, "all", chosen.name), _all_items(made), 0)
    seconds = time.monotonic() - began
    speed = chosen.images_per_second.get(chosen.name) or len(_all_items(made)) / seconds
    progress.say(f"trunk: {chosen.name}, {speed:,.0f} images/s")
    choice = _choose_probe(made, still)
    rungs = [Rung("probe", "all")]
    if not (made.recipe.transfer.rung == "auto" and _cannot_pay(made, choice["mistakes"])):
        left = seconds_left - (time.monotonic() - began)
        for name in NAMES[1 : 1 + NAMES.index(_last(made.recipe))]:
            rungs.append(_fit(made, name, SHARES[name] * left, speed))
        rungs = [rung for rung in rungs if rung.name == "probe" or rung.epochs]
        named = ", ".join(f"{rung.name} ({rung.epochs} epochs)" for rung in rungs if rung.epochs)
        progress.say(f"rungs above the probe that fit the time: {named or 'none'}")
    cut(made.network, 0)
    return {
        "engine": chosen.name,
        "probe": choice,
        "rungs": [asdict(rung) for rung in rungs],
        "epochs": sum(rung.epochs for rung in rungs),
        "trunk_images_per_second": round(speed, 1),
        "features_seconds": round(seconds, 3),
    }


def _choose_probe(made: Session, still: View) -> dict[str, Any]:
    """The best linear classifier on the features of the training part: `kind penalty mistakes`."""
    part, dataset = made.splits.train, made.dataset
    labels = dataset.labels[part]
    features = still.of(part).reshape(len(part), -1)
    choice = choose(features, labels, dataset.groups[part], num_classes=len(dataset.classes))
    progress.say(
        f"probe: {choice.kind}, cross-validated accuracy {choice.accuracy(labels):.3f} "
        f"on {len(part)} training images"
    )
    mistakes = int((choice.predictions != labels).sum())
    return {"kind": choice.kind, "penalty": float(choice.penalty), "mistakes": mistakes}


def _cannot_pay(made: Session, mistakes: int) -> bool:
    """Whether mending a third of the probe's mistakes could not be told from chance in validation."""
    training, validation = len(made.splits.train), len(made.splits.validation)
    mended = MENDED * mistakes * validation / training
    if mended > 1.96 * math.sqrt(mended):
        return False
    progress.say(
        f"the probe makes {mistakes} mistakes on {training} images: were a third of them mended, that could "
        f"not be told from chance on {validation} validation images, so the climb ends here "
        "(--set transfer.rung=stages goes on)"
    )
    return True


def carry_out(
    run: Run,
    made: Session,
    planned: Mapping[str, Any],
    log: Callable[[dict[str, Any]], None],
    stopped: Callable[[], bool],
) -> Trained:
    """Climb as planned, as far as it pays, from where an earlier process stopped; writes the best weights."""
    rungs = [Rung(**values) for values in planned["rungs"]]
    labels = made.dataset.labels[made.splits.validation]
    best: tuple[Rung, NDArray[np.float32]] | None = None
    history: list[dict[str, Any]] = []
    for rung in rungs:
        place = Run(run.file(f"resume/{rung.name}"))
        if best is not None:
            _load(run, made, best[0])
        footing = _footing(made, rung, planned["engine"])
        _climb(place, made, rung, footing, planned["probe"], log, stopped)
        history += [{"rung": rung.name, **row} for row in place.history]
        answers = answer(footing.tail, footing.validation)
        if best is None:
            best = rung, answers
            continue
        gain, low, high = paired_gain(best[1], answers, labels)
        progress.say(
            f"{rung.name}: validation accuracy {_accuracy(answers, labels):.3f}, {100 * gain:+.1f} points "
            f"over {best[0].name} (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
        )
        if gain > 0 or (gain == 0 and _loss(answers, labels) < _loss(best[1], labels)):
            best = rung, answers
        if low <= 0 and rung.name != "head" and made.recipe.transfer.rung == "auto":
            break  # the head is cheap and near the probe; what lies above it is judged by itself
    assert best is not None
    return _finish(run, made, best[0], planned["engine"], history)


def lengths(made: Session, planned: Mapping[str, Any]) -> list[tuple[str, Recipe, int]]:
    """What trains by steps, if the climb goes to the top: name, recipe and steps of each rung."""
    rungs = [Rung(**values) for values in planned["rungs"]]
    return [
        (rung.name, _with_rung(made.recipe, rung), rung.epochs * len(made.train))
        for rung in rungs
        if rung.epochs
    ]


def _climb(
    place: Run,
    made: Session,
    rung: Rung,
    footing: Footing,
    choice: Mapping[str, Any],
    log: Callable[[dict[str, Any]], None],
    stopped: Callable[[], bool],
) -> None:
    """Train one rung (unless it is done), and load its weights into the network."""
    if not place.file("rung.json").exists():
        if rung.name == "probe":
            facts = _probe(place, made, footing, choice)
        else:
            recipe = _with_rung(made.recipe, rung)
            lower = footing.lower
            steps = rung.epochs * len(footing.train)
            job = Job(recipe, made.seed, steps, footing.train, footing.validation, log, stopped, lower)
            train(footing.tail, job, place)
            tensors, facts = checkpoint.load_tensors(place.file(WEIGHTS))
            checkpoint.fill(footing.tail, tensors, place.file(WEIGHTS))
            checkpoint.save_tensors(place.file("network.safetensors"), made.network.state_dict(), facts)
        write_json(place.file("rung.json"), {**asdict(rung), **facts})
    tensors, _ = checkpoint.load_tensors(place.file("network.safetensors"))
    checkpoint.fill(made.network, tensors, place.file("network.safetensors"))


def _probe(place: Run, made: Session, footing: Footing, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Solve the probe chosen, put it into the last layer, save the network; returns what is worth keeping."""
    part, labels = made.splits.train, made.dataset.labels[made.splits.train]
    features = cast(FeatureBatches, footing.train).views[0].of(part).reshape(len(part), -1)
    classes = len(made.dataset.classes)
    solved = solve(features, labels, choice["kind"], choice["penalty"], num_classes=classes)
    _install(made.network, *solved)
    facts = {**choice, "epoch": 0}
    checkpoint.save_tensors(place.file("network.safetensors"), made.network.state_dict(), facts)
    return facts


def _install(network: Network, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Put a probe, weight (k, d) and bias (k,), into the last layer of a network."""
    layer = last_layer(network)[2]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def _finish(run: Run, made: Session, rung: Rung, engine_name: str, history: list[dict[str, Any]]) -> Trained:
    """Load and write the weights of the rung that answers."""
    facts = _load(run, made, rung)  # first: stored features are those of the trunk as it is now
    footing = _footing(made, rung, engine_name)
    checkpoint.save_tensors(run.file(WEIGHTS), made.network.state_dict(), {"epoch": facts["epoch"]})
    run.write_history(history)
    progress.say(f"the weights of the rung {rung.name} answer")
    return Trained(footing.tail, facts["epoch"], footing.validation, footing.test, made.dataset.classes)


def _load(run: Run, made: Session, rung: Rung) -> dict[str, Any]:
    """Put what a rung has reached into the network; returns its facts."""
    path = run.file(f"resume/{rung.name}/network.safetensors")
    tensors, facts = checkpoint.load_tensors(path)
    checkpoint.fill(made.network, tensors, path)
    return facts


def _footing(made: Session, rung: Rung, engine_name: str) -> Footing:
    """Cut the network for a rung and make its streams: stored features, or pixels for the rung `full`."""
    _, tail = cut(made.network, rung.depth)
    if rung.depth == 0:
        frozen = len(made.network.stages) - _num_trained(made.network)
        lower = (made.network.stem, *list(made.network.stages)[:frozen])
        return Footing(tail, made.train, made.validation, made.test, lower)
    source = _source(made, rung.depth, engine_name)
    still = open_view(source, _all_items(made), 0)
    part = made.splits.train
    random = [open_view(source, part, number) for number in range(1, rung.views + 1)]

    def stream(views: list[View], items: NDArray[np.int64], training: bool) -> FeatureBatches:
        return FeatureBatches(
            views,
            made.dataset.labels,
            items,
            batch_size=made.recipe.optimizer.batch_size,
            seed=made.seed,
            shuffle=training,
            device=made.device,
        )

    test = stream([still], made.splits.test, False) if len(made.splits.test) else None
    validation = stream([still], made.splits.validation, False)
    return Footing(tail, stream(random or [still], part, True), validation, test)


def _source(made: Session, depth: Depth, engine_name: str) -> Source:
    trunk, _ = cut(made.network, depth)
    made_engine = later(trunk, engine_name, _shape(made))  # features that are stored need none
    precision = made.recipe.transfer.precision
    settings = made.recipe.augment.of_one_image()
    return Source(
        made.dataset, made.pixels, made.preprocess, trunk, made_engine, settings, made.seed, precision
    )


def _fit(made: Session, name: str, seconds: float, speed: float) -> Rung:
    """How many views and epochs of a rung fit the seconds; no epochs: it does not fit."""
    recipe, network = made.recipe, made.network
    if name == "full":
        cut(network, 0)
        pace = measure(network, recipe, made.train, made.validation, seconds)
        epoch = pace.epoch(made.train, made.validation)
        return Rung(name, 0, 0, min(MOST_EPOCHS[name], int(seconds / epoch)))
    depth: Depth = "all" if name == "head" else _depth(made)
    view_seconds = len(made.splits.train) / speed
    fitting = max(2, min(MOST_VIEWS[name], int(seconds / 2 / view_seconds)))
    views = fitting if recipe.transfer.views == "auto" else recipe.transfer.views
    left = seconds - views * view_seconds
    trunk, tail = cut(network, depth)
    epochs = int(left / _tail_pace(made, trunk, tail))
    return Rung(name, depth, views, max(0, min(MOST_EPOCHS[name], epochs)))


def _tail_pace(made: Session, trunk: Network, tail: Network) -> float:
    """Seconds of an epoch of training a tail, measured on the features of one image, repeated."""
    images = torch.zeros(2, *_shape(made))
    with torch.no_grad():
        one = trunk(images)[:1]
    batch_size = min(made.recipe.optimizer.batch_size, len(made.splits.train))
    features = one.repeat(batch_size, *[1] * (one.ndim - 1)) + 0.01 * torch.randn(
        batch_size, *one.shape[1:], generator=torch.Generator().manual_seed(0)
    )
    labels = torch.zeros(batch_size, dtype=torch.int64)
    was = {name: tensor.clone() for name, tensor in tail.state_dict().items()}
    tail.train()
    times = []
    with torch.random.fork_rng():
        for _ in range(4):
            began = time.monotonic()
            output = tail(features)
            logits = output if isinstance(output, torch.Tensor) else output.logits
            torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
            times.append(time.monotonic() - began)
    tail.zero_grad(set_to_none=True)
    tail.load_state_dict(was)
    return min(times[1:]) * 1.2 * len(made.splits.train) / batch_size


def _last(recipe: Recipe) -> str:
    return "full" if recipe.transfer.rung == "auto" else recipe.transfer.rung


def _depth(made: Session) -> int:
    """The cut of the rung `stages`: what the recipe says, or below the last three tenths of the stages."""
    given = made.recipe.transfer.depth
    if given != "auto":
        return given
    return 1 + len(made.network.stages) - _num_trained(made.network)


def _num_trained(network: Network) -> int:
    return max(1, round(TRAINED_STAGES * len(network.stages)))


def _with_rung(recipe: Recipe, rung: Rung) -> Recipe:
    """The recipe for one rung: the rung above the head start gently, at a third of the rate."""
    factor = {"head": 1.0, "stages": 1.0, "full": 0.3}[rung.name]
    rate = recipe.optimizer.learning_rate * factor
    return recipe.model_copy(
        update={"optimizer": recipe.optimizer.model_copy(update={"learning_rate": rate})}
    )


def _all_items(made: Session) -> NDArray[np.int64]:
    return np.sort(np.concatenate([made.splits.train, made.splits.validation, made.splits.test]))


def _shape(made: Session) -> tuple[int, int, int]:
    return made.preprocess.channels, made.preprocess.size, made.preprocess.size


def _accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == labels).mean())


def _loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
