"""The command line: each verb is a few lines over the function of the same name in `svertka.api`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from svertka.cli import display, tables

app = typer.Typer(
    help="Train, understand and ship convolutional image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from svertka import __version__

        print(f"svertka {__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show errors only.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]
Data = Annotated[
    str, typer.Argument(help="A folder of class folders, a CSV or Parquet manifest, or a built-in name.")
]
RunPath = Annotated[Path, typer.Argument(help="A run directory.")]
Out = Annotated[Path | None, typer.Option(help="The run directory; default: runs/NAME-N.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run at --out.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]


@app.callback()
def _all(version: Version = False) -> None:
    pass


@app.command()
def demo(
    out: Out = None, resume: Resume = False,
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """Train on the digits that come with scikit-learn and measure the result (about a minute)."""
    with display.shown(json, quiet) as show:
        from svertka.api.demo import demo

        show(demo(out=out, resume=resume, device=device), tables.trained)


@app.command()
def train(
    data: Data,
    recipe: Annotated[Path | None, typer.Option(help="A recipe file (TOML).")] = None,
    model: Annotated[
        str | None, typer.Option(help="A name of `svertka models`; default: chosen by image size.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="none, imagenet, hf:OWNER/NAME, a file, a run, or auto: chosen by the data."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time for everything, all of it used; default: at most 10.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="GROUP.FIELD=VALUE, any of a recipe's.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard logs.")] = False,
    plot_schedule: Annotated[
        Path | None, typer.Option(help="Draw the learning rate of all steps here (PNG); train nothing.")
    ] = None,
    find_rate: Annotated[
        Path | None, typer.Option(help="Draw the loss over a rising rate here (PNG); train nothing.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    version: Version = False,
) -> None:
    """Train a classifier on labelled images and measure it on images it never saw."""
    with display.shown(json, quiet) as show:
        from svertka.api import preview
        from svertka.api.train import train

        options: dict[str, Any] = {
            "recipe": recipe, "model": model, "weights": weights, "epochs": epochs, "minutes": minutes,
            "settings": settings or [], "seed": seed, "device": device,
        }  # fmt: skip
        looks = {
            preview.plot_schedule: (plot_schedule, tables.planned),
            preview.find_rate: (find_rate, tables.rates),
        }
        wanted = [(look, file, table) for look, (file, table) in looks.items() if file]
        preview.refuse_beside(len(wanted), out=out, resume=resume, tensorboard=tensorboard)
        for look, file, table in wanted:
            show(look(data, file, **options), table)
        if not wanted:
            result = train(data, out=out, resume=resume, tensorboard=tensorboard, **options)
            show(result, tables.trained)


@app.command()
def evaluate(
    runs: Annotated[list[str], typer.Argument(help="RUN… DATA: one or more run directories, then the data.")],
    views: Annotated[int, typer.Option(help="Views of each image, random ones as in training.")] = 1,
    snapshots: Annotated[bool, typer.Option("--snapshots", help="The ends of cycles answer too.")] = False,
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """Measure a run, or several together, on images that it never saw."""
    with display.shown(json, quiet) as show:
        from svertka.api.evaluate import evaluate
        from svertka.errors import OptionError

        if len(runs) < 2:
            raise OptionError(
                f"expected RUN… DATA, got only {runs[0]}; name the data to measure on at the end."
            )
        result = evaluate(runs[:-1], runs[-1], views=views, snapshots=snapshots, device=device)
        show(result, tables.evaluated)


@app.command()
def predict(
    run: RunPath,
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of them.")],
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """Classify images; probabilities are calibrated. Ends with 1 if an image could not be decoded."""
    with display.shown(json, quiet) as show:
        from svertka.api.predict import predict

        result = predict(run, images, device=device)
        show(result, tables.predicted)
        if any(item["error"] for item in result["predictions"]):
            raise typer.Exit(1)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Such as `resnet*`, or a part of a name.")] = "*",
    sort: Annotated[str, typer.Option(help="A column; with a minus before it downwards.")] = "name",
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """List the architectures, their sizes and published accuracies."""
    with display.shown(json, quiet) as show:
        from svertka.api.models import list_models

        show(list_models(pattern, sort=sort), tables.models)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A name of `svertka models`.")],
    size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the input.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the network here (PNG).")] = None,
    field: Annotated[Path | None, typer.Option(help="Draw the effective receptive field here (PNG).")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights that --field is measured with.")] = None,
    seed: Seed = 0,
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """Take an architecture apart: shapes, parameters, MACs and receptive field of every layer."""
    with display.shown(json, quiet) as show:
        from svertka.api.inspect import inspect

        result = inspect(
            model, size=size, classes=classes, channels=channels, figure=figure, field=field,
            weights=weights, seed=seed,
        )  # fmt: skip
        show(result, tables.inspected)


@app.command()
def cache(
    action: Annotated[str | None, typer.Argument(help="`clear` empties the cache.")] = None,
    json: Json = False, quiet: Quiet = False, device: Device = "auto", version: Version = False,
) -> None:  # fmt: skip
    """Say where decoded images are kept and how large they are, or clear them."""
    with display.shown(json, quiet) as show:
        from svertka.api.cache import cache
        from svertka.errors import OptionError, nearest

        if action not in (None, "clear"):
            raise OptionError(f"no action {action!r} for the cache; {nearest(action, ['clear'])}")
        show(cache(clear=action == "clear"), tables.cached)


def main() -> None:
    """Entry point of the command `svertka`.

    Idle threads sleep instead of spinning (unless the environment says otherwise): beside any other work on
    the machine spinning made training of ResNet-20 five times slower, on a quiet one it gains a tenth.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
    display.run(app)


if __name__ == "__main__":
    main()
