"""The verb `predict`: calibrated class probabilities for image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from svertka.errors import DataError, ImageError
from svertka.evaluation.classifier import Classifier
from svertka.images.decode import SUFFIXES
from svertka.runs.environment import pick_device, prepare_cpu
from svertka.runs.run import Run

MOST_CLASSES = 5


def predict(
    run: str | Path, images: str | Path | Iterable[str | Path], *, device: str = "auto"
) -> dict[str, Any]:
    """Classify image files, and all image files in folders; `images` is one path or several.

    Returns:
        `predictions[{path classes[{name probability}] error}]`: up to five classes, most probable first;
        `error` is None, or why this image could not be decoded (then `classes` is empty).

    Raises:
        RunError: the run is not finished or damaged.
        DataError: a path that is not there, or a folder without images.
    """
    prepare_cpu()
    classifier = Classifier.load(Run.open(run), pick_device(device))
    paths = list(_files([images] if isinstance(images, str | Path) else images))
    found = zip(paths, classifier.answers(paths), strict=True)
    return {"predictions": [_prediction(path, answer, classifier.classes) for path, answer in found]}


def _prediction(path: Path, answer: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        return {"path": str(path), "classes": [], "error": str(answer)}
    first = answer.argsort(kind="stable")[::-1][:MOST_CLASSES]
    named = [{"name": classes[index], "probability": float(answer[index])} for index in first]
    return {"path": str(path), "classes": named, "error": None}


def _files(images: Iterable[str | Path]) -> Iterator[Path]:
    missing = []
    for path in map(Path, images):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                missing.append(f"{path} (a folder without image files)")
            yield from inside
        elif path.exists():
            yield path
        else:
            missing.append(str(path))
    if missing:
        raise DataError(f"no image at {', '.join(missing)}; name image files or folders of them.")
