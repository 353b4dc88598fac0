"""Svertka trains, understands and ships convolutional image classifiers.

>>> import svertka
>>> trained = svertka.train("digits")
>>> svertka.evaluate(trained["run"], "digits")["accuracy"]
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("svertka")

_PLACES = {
    "Dataset": "svertka.data.dataset",
    "ImageClassifier": "svertka.api.classifier",
    "Preprocess": "svertka.images.preprocess",
    "Recipe": "svertka.recipe",
    "Run": "svertka.runs.run",
    "SvertkaError": "svertka.errors",
    "cache": "svertka.api.cache",
    "decode": "svertka.images.decode",
    "demo": "svertka.api.demo",
    "evaluate": "svertka.api.evaluate",
    "find_rate": "svertka.api.preview",
    "inspect": "svertka.api.inspect",
    "list_models": "svertka.api.models",
    "open_dataset": "svertka.data.sources",
    "plot_schedule": "svertka.api.preview",
    "predict": "svertka.api.predict",
    "train": "svertka.api.train",
}
"""Public name to the module that holds it, imported when the name is first asked for."""

__all__ = ["__version__", *_PLACES]

if TYPE_CHECKING:
    from svertka.api.cache import cache as cache
    from svertka.api.classifier import ImageClassifier as ImageClassifier
    from svertka.api.demo import demo as demo
    from svertka.api.evaluate import evaluate as evaluate
    from svertka.api.inspect import inspect as inspect
    from svertka.api.models import list_models as list_models
    from svertka.api.predict import predict as predict
    from svertka.api.preview import find_rate as find_rate
    from svertka.api.preview import plot_schedule as plot_schedule
    from svertka.api.train import train as train
    from svertka.data.dataset import Dataset as Dataset
    from svertka.data.sources import open_dataset as open_dataset
    from svertka.errors import SvertkaError as SvertkaError
    from svertka.images.decode import decode as decode
    from svertka.images.preprocess import Preprocess as Preprocess
    from svertka.recipe import Recipe as Recipe
    from svertka.runs.run import Run as Run


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in ("models", "data", "images", "runs", "errors"):
        return import_module(f"svertka.{name}")
    raise AttributeError(f"module 'svertka' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
