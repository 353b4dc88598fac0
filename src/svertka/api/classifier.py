"""ImageClassifier: the whole of `train` and `predict` as a scikit-learn estimator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d

from svertka import files
from svertka.api.train import train
from svertka.data.dataset import Dataset
from svertka.data.items import from_arrays, from_paths
from svertka.errors import DataError, ImageError
from svertka.evaluation.classifier import Classifier
from svertka.recipe import Recipe
from svertka.runs.environment import pick_device
from svertka.runs.run import WEIGHTS, Run

FILES = ("recipe.toml", "plan.json", "data.json", "preprocess.json", "environment.json", "history.jsonl",
         "metrics.json", WEIGHTS)  # fmt: skip
"""What of a run directory a fitted estimator keeps."""


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A convolutional image classifier with scikit-learn's interface.

    `X` is a sequence of image paths, or a uint8 array (n, h, w) or (n, h, w, 3); `y` are labels of any type.
    A share of the images (`data.validation` of the recipe, 15 %) chooses the best epoch and the temperature.

    Args:
        model: a name of `svertka models`; None: chosen by image size.
        epochs, minutes: how long to train; neither: what fits ten minutes.
        recipe: a `Recipe` to start from.
        settings: further settings as `"group.field=value"`.
        random_state: the seed.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Attributes (after `fit`):
        classes_: the labels, sorted.
        temperature_: fitted on the validation share; probabilities are calibrated with it.
        history_: a dictionary for each epoch.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        epochs: int | None = None,
        minutes: float | None = None,
        recipe: Recipe | None = None,
        settings: Sequence[str] = (),
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.minutes = minutes
        self.recipe = recipe
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train from the start.

        Raises:
            DataError: not as many labels as images, one class only, or images of another kind.
            OptionError: a setting that is unknown or cannot act.
        """
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        self.classes_ = unique_labels(labels)
        dataset = self._dataset(X, labels)
        with tempfile.TemporaryDirectory(prefix="svertka-") as folder:
            trained = train(
                dataset,
                recipe=self.recipe,
                model=self.model,
                epochs=self.epochs,
                minutes=self.minutes,
                settings=["data.test=0", *self.settings],
                seed=self.random_state,
                out=Path(folder) / "run",
                device=self.device,
            )
            self._keep(Run.open(trained["run"]))
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities (n, k), columns in the order of `classes_`.

        Raises:
            ImageError: an image cannot be decoded.
            DataError: images of another kind.
        """
        check_is_fitted(self)
        images = _images(X)
        answers = []
        for answer in self._answering.answers(images):
            if isinstance(answer, ImageError):
                raise answer
            answers.append(answer)
        return np.stack(answers) if answers else np.zeros((0, len(self.classes_)))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each image; errors as `predict_proba`."""
        check_is_fitted(self)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier as a run directory, which `svertka predict` can use too.

        Raises:
            OptionError: the place exists and is not empty.
        """
        check_is_fitted(self)
        run = Run.create(path)
        for name, content in self.files_.items():
            files.write_bytes(run.file(name), content)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """The classifier in a run directory (of `save` or of `svertka train`); no pickled code is read.

        Labels that were no strings come back as strings.
        """
        loaded = cls(device=device)
        run = Run.open(path)
        loaded.classes_ = np.array(run.classes)
        loaded._keep(run)
        return loaded

    def _keep(self, run: Run) -> None:
        self.temperature_ = run.metrics["temperature"]
        self.history_ = run.history
        self.files_ = {name: run.file(name).read_bytes() for name in FILES}
        self._answering = Classifier.load(run, pick_device(self.device))

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_answering", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "files_" in state:
            with tempfile.TemporaryDirectory(prefix="svertka-") as folder:
                for name, content in self.files_.items():
                    Path(folder, name).write_bytes(content)
                self._keep(Run.open(folder))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def _dataset(self, X: Any, labels: NDArray[Any]) -> Dataset:
        names = [str(label) for label in self.classes_]
        codes = np.searchsorted(self.classes_, labels)
        if len(names) < 2:
            raise DataError(f"ImageClassifier needs two or more classes, got only one class: {names}.")
        images = _images(X)
        if len(images) != len(labels):
            raise DataError(f"expected a label for each image, got {len(labels)} for {len(images)} images.")
        if isinstance(images, list):
            return from_paths(images, codes, classes=names, name="X")
        return from_arrays(images, codes, classes=names, name="X")


def _images(X: Any) -> list[Path] | NDArray[np.uint8]:
    """X as a list of paths, or as an array of pixels.

    Raises:
        DataError: neither the one nor the other.
    """
    if isinstance(X, str | Path):
        raise DataError(f"expected a sequence of image paths or an array of images, got one path: {X}.")
    if issparse(X):
        raise DataError("expected image paths or uint8 images, got a sparse table.")
    values = np.asarray(X) if hasattr(X, "__array__") else list(X)
    if len(values) and all(isinstance(value, str | Path) for value in values):
        return [Path(value) for value in values]
    try:
        pixels = np.asarray(values)
    except ValueError:
        shapes = sorted({np.shape(value) for value in values})
        raise DataError(
            f"expected images of one size in an array, got the shapes {shapes[:3]} …; "
            "give the paths of image files if they differ in size."
        ) from None
    if pixels.ndim == 4 and pixels.shape[3] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise DataError(
            f"expected paths, or uint8 images (n, h, w) or (n, h, w, 3), got {pixels.dtype} of shape "
            f"{pixels.shape}. Keep images as images: a flattened table has lost their shape."
        )
    return pixels
