"""What `auto` means: every open setting of a recipe decided from a look at the data, with reasons."""

from __future__ import annotations

from typing import Any

from svertka.data.survey import Survey
from svertka.models import catalog, weights
from svertka.models.published import WeightSet
from svertka.models.rows import Row
from svertka.recipe import Recipe
from svertka.training import own

SMALL_SIDE = 32  # px: up to here an image is a digit or a thumbnail, and LeNet-5 fits
ENLARGED_BELOW = 24  # px: smaller images are enlarged to SMALL_SIDE
STORE_MARGIN = 256 / 224  # stored short side to input size, for photos
SCRATCH_SIDE = 64  # px: up to here many images are learnt from scratch,
SCRATCH_IMAGES = 5_000  # if there are at least so many to train on
MACS_A_SECOND = 30e9  # of a trunk on a laptop of two cores
PASS_SHARE = 0.25  # of the time for one pass over the images
PHOTO_SIZE = 128  # px: photos from scratch; a third of the work of 224 px


def decide(recipe: Recipe, facts: Survey) -> tuple[Recipe, list[str]]:
    """The recipe with nothing left open but `schedule.epochs` (measured later), and a sentence a choice.

    Raises:
        ModelError: no model of that name.
    """
    reasons: list[str] = []
    values: dict[str, dict[str, Any]] = recipe.model_dump()
    data, model, augment = values["data"], values["model"], values["augment"]
    if model["weights"] == "auto":
        model["name"], model["weights"], reason = _start(recipe, facts)
        reasons.append(reason)
    run = own.run_of(model["weights"])
    published = own.adopt(run, values) if run else None
    if run and published:
        reasons.append(f"transfer from the run {run.path}: {published.model} on {run.data['name']}")
    if model["name"] == "auto":
        model["name"] = _model(model["weights"], facts)
        reasons.append(f"model {model['name']}: the median short side is {facts.median_side} px")
    row = catalog.find(model["name"])
    if model["weights"] != "none" and not published:
        published = weights.find(row.name, model["weights"])
    if published:
        model["weights"] = published.name
    if data["size"] == "auto":
        data["size"] = published.size if published else _size(row, facts)
        reasons.append(f"input {data['size']} px")
    if data["channels"] == "auto":
        data["channels"] = 1 if facts.grey and not published else 3
        if data["channels"] == 1:
            reasons.append("1 channel: all images looked at are grey")
    if data["interpolation"] == "auto":
        data["interpolation"] = published.interpolation if published else "bilinear"
    if data["normalization"] == "auto":
        data["normalization"] = "weights" if published else "channel_mean_std"
    if data["store_size"] == "auto":
        data["store_size"] = _store_size(data["size"], published)
    if published and not recipe.optimizer.model_fields_set:
        values["optimizer"].update(name="adamw", learning_rate=1e-3, weight_decay=0.05, batch_size=32)
    if not recipe.augment.model_fields_set:
        augment.update(_augmentation(data["size"], reasons))
    return Recipe.parse(values), reasons


def _start(recipe: Recipe, facts: Survey) -> tuple[str, str, str]:
    """Model, weights and the reason: from scratch for many small images, else the best weights here."""
    name, built = recipe.model.name, recipe.model.choices()
    varied = [option for option in ("activation", "norm", "init") if built[option] is not None]
    count = _num_training(recipe, facts)
    many = f"{count:,} training images of about {facts.median_side} px"
    if varied:
        return name, "none", f"from scratch: model.{varied[0]} is not that of any published weights"
    if name == "auto" and facts.median_side <= SCRATCH_SIDE and count >= SCRATCH_IMAGES:
        return name, "none", f"from scratch: {many} are enough to learn from"
    here = [
        chosen
        for chosen in weights.on_this_machine()
        if name in ("auto", chosen.model)
        and (name != "auto" or _pass_seconds(chosen.model, count) < PASS_SHARE * recipe.budget.seconds)
    ]
    if not here:
        return (
            name,
            "none",
            f"from scratch: no fitting weights{'' if name == 'auto' else ' of ' + name} are on this machine",
        )
    best = here[0]
    return best.model, best.name, f"transfer from {best.model} with its weights {best.name}: {many}"


def _model(wanted: str, facts: Survey) -> str:
    """The model when only the weights are named, or none."""
    if wanted == "none":
        return "lenet5" if facts.median_side <= SMALL_SIDE else "resnet18"
    here = (chosen.model for chosen in weights.on_this_machine() if chosen.name == wanted)
    return next(here, "resnet18")


def _num_training(recipe: Recipe, facts: Survey) -> int:
    count, declared = facts.for_training
    return count if declared else round(count * (1 - recipe.data.validation - recipe.data.test))


def _pass_seconds(model: str, count: int) -> float:
    """A guess, before anything is measured, at how long a trunk takes for all images."""
    return catalog.find(model).macs * count / MACS_A_SECOND


def _size(row: Row, facts: Survey) -> int:
    if facts.median_side <= SMALL_SIDE:
        return max(facts.median_side if facts.median_side >= ENLARGED_BELOW else SMALL_SIDE, row.smallest)
    if facts.median_side <= 64:
        return max(64, row.smallest)
    return max(PHOTO_SIZE, row.smallest)


def _store_size(size: int, published: WeightSet | None) -> int:
    """Short side to store: that of the weights, in proportion to the input; small images have no margin."""
    if published:
        return max(size, round(size * published.store_size / published.size))
    return size if size <= 64 else round(size * STORE_MARGIN)


def _augmentation(size: int, reasons: list[str]) -> dict[str, Any]:
    if size <= SMALL_SIDE:
        reasons.append("augmentation: shifts of up to 2 px (no mirror: digits and letters have a direction)")
        return {"pad_crop": 2}
    if size <= 64:
        reasons.append(f"augmentation: shifts of up to {size // 8} px and mirror")
        return {"pad_crop": size // 8, "flip": True}
    reasons.append("augmentation: random area of 35 to 100 % and mirror")
    return {"resized_crop": 0.35, "flip": True}
