"""ImageClassifier keeps scikit-learn's contract, on images instead of tables."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

import svertka
from svertka import ImageClassifier
from svertka.errors import DataError, ImageError, OptionError, RunError

CALLED = (
    "check_classifiers_one_label",
    "check_classifiers_one_label_sample_weights",
    "check_classifiers_regression_target",
    "check_complex_data",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimator_sparse_tag",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_requires_y_none",
    "check_set_params",
    "check_supervised_y_no_nan",
    "check_valid_tag_types",
)
"""scikit-learn's checks that need no 2-D table, or whose table must be refused."""

TABLE = "fits a 2-D table of floats, which is refused; its idea is tested here with images: "
EXCLUDED = {
    "check_array_api_input": "for estimators that compute with the arrays they are given, in their library",
    "check_classifier_data_not_an_array": TABLE + "test_what_images_may_be",
    "check_classifiers_classes": TABLE + "test_labels_come_back_as_they_were",
    "check_classifiers_train": TABLE + "test_it_learns, test_refusals_are_clear",
    "check_decision_proba_consistency": "there is no decision_function",
    "check_dict_unchanged": TABLE + "test_answering_changes_nothing",
    "check_dont_overwrite_parameters": TABLE + "test_fitting_adds_only_results",
    "check_dtype_object": "fits a table of objects; images are uint8",
    "check_estimators_dtypes": "fits tables of float and integer types; images are uint8",
    "check_estimators_empty_data_messages": "wants the words `0 feature(s)`; see test_refusals_are_clear",
    "check_estimators_fit_returns_self": TABLE + "test_fitting_adds_only_results",
    "check_estimators_nan_inf": "uint8 images hold neither NaN nor infinity; tables of floats are refused",
    "check_estimators_overwrite_params": TABLE + "test_fitting_adds_only_results",
    "check_estimators_partial_fit_n_features": "there is no partial_fit",
    "check_estimators_pickle": TABLE + "test_pickled_it_answers_the_same",
    "check_f_contiguous_array_estimator": TABLE + "test_what_images_may_be",
    "check_fit2d_1feature": "a table of one feature is refused as every table is",
    "check_fit2d_predict1d": TABLE + "test_refusals_are_clear",
    "check_fit_check_is_fitted": TABLE + "test_fitting_adds_only_results",
    "check_fit_idempotent": TABLE + "test_fitting_again_gives_the_same",
    "check_fit_score_takes_y": TABLE + "test_it_learns",
    "check_methods_sample_order_invariance": TABLE + "test_each_image_is_answered_by_itself",
    "check_methods_subset_invariance": TABLE + "test_each_image_is_answered_by_itself",
    "check_n_features_in": "images have no columns to count",
    "check_n_features_in_after_fitting": "images have no columns to count",
    "check_non_transformer_estimators_n_iter": "there is no max_iter",
    "check_pipeline_consistency": TABLE + "test_in_a_pipeline_and_a_grid_search",
    "check_positive_only_tag_during_fit": "fits iris with negative values; uint8 knows none",
    "check_readonly_memmap_input": TABLE + "test_what_images_may_be",
    "check_supervised_y_2d": TABLE + "test_a_column_of_labels_warns",
}  # fmt: skip
"""All other checks of the installed scikit-learn, each with the reason why it cannot speak of images."""


def digits(number: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Zeros, ones and twos: uint8 (n, 8, 8), and their labels."""
    images, labels = load_digits(n_class=3, return_X_y=True)
    return (images[:number].reshape(-1, 8, 8) * 15.9).astype(np.uint8), labels[:number]


def blank(**more: Any) -> ImageClassifier:
    settings = ["data.size=8", "optimizer.batch_size=16", "augment.pad_crop=0", "schedule.warmup_epochs=0"]
    return ImageClassifier("linear", **{"epochs": 4, "device": "cpu", "settings": settings, **more})


X, Y = digits()


@pytest.fixture(scope="module")
def fitted() -> ImageClassifier:
    return blank().fit(X, Y)


class Table(ImageClassifier):
    """Says that it takes tables, so that scikit-learn names the checks it has for classifiers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.parametrize("check", CALLED)
def test_scikit_learn_check(check: str) -> None:
    getattr(estimator_checks, check)("ImageClassifier", ImageClassifier())


def test_every_check_is_called_or_excluded_for_a_reason() -> None:
    yielded = {check.func.__name__ for _, check in estimator_checks.estimator_checks_generator(Table())}
    assert not set(CALLED) & set(EXCLUDED)
    assert yielded - set(CALLED) == set(EXCLUDED)
    named = {word.strip(",") for reason in EXCLUDED.values() for word in reason.split() if "test_" in word}
    assert named
    assert named <= set(globals())


def test_the_tags_speak_of_images() -> None:
    tags = ImageClassifier().__sklearn_tags__()
    assert tags.estimator_type == "classifier"
    assert tags.target_tags.required
    assert tags.input_tags.three_d_array
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert not tags.input_tags.sparse


def test_it_learns(fitted: ImageClassifier) -> None:
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (len(X), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.score(X, Y) == np.mean(fitted.predict(X) == Y) > 0.9
    assert len(fitted.history_) == 4
    assert fitted.temperature_ > 0


@pytest.mark.parametrize(
    "labels",
    [np.array(["ten", "nine", "two"])[Y], np.array([10, 9, -2])[Y], [["b", "a", "C"][y] for y in Y]],
    ids=["strings", "integers", "list"],
)
def test_labels_come_back_as_they_were(fitted: ImageClassifier, labels: Any) -> None:
    """Classes are sorted as scikit-learn sorts them (9 before 10), and columns follow them."""
    other = blank().fit(X, labels)
    np.testing.assert_array_equal(other.classes_, np.unique(labels))
    assert other.predict(X).dtype == np.asarray(labels).dtype
    assert np.mean(other.predict(X) == np.asarray(labels)) > 0.9
    assert other.score(X, labels) > 0.9


def test_two_classes_in_colour() -> None:
    coloured = np.stack([X, 255 - X, X // 2], axis=3)
    wanted = Y > 0
    trained = blank().fit(coloured, wanted)
    assert trained.predict(coloured).dtype == bool
    assert trained.score(coloured, wanted) > 0.9


def test_paths_and_arrays_give_the_same(fitted: ImageClassifier, tmp_path: Path) -> None:
    """PNG keeps pixels, so a file is answered as its array is."""
    paths = []
    for index, image in enumerate(X[:60]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    np.testing.assert_array_equal(fitted.predict_proba(paths), fitted.predict_proba(X[:60]))
    trained = blank().fit([str(path) for path in paths], Y[:60])
    assert trained.score(np.array(paths, dtype=object), Y[:60]) > 0.8
    paths[3].write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"3\.png"):
        fitted.predict(paths)


def test_what_images_may_be(fitted: ImageClassifier) -> None:
    """Lists of arrays, a channel axis, Fortran order, read-only memory, an `__array__`: all alike."""

    class Wrapped:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return X

    locked = X.copy()
    locked.flags.writeable = False
    usual = fitted.predict_proba(X)
    for images in (list(X), X[..., None], np.asfortranarray(X), locked, Wrapped()):
        np.testing.assert_array_equal(fitted.predict_proba(images), usual)
        np.testing.assert_array_equal(blank().fit(images, Y).predict_proba(X), usual)
    assert fitted.predict_proba(X[:0]).shape == (0, 3)


def test_fitting_adds_only_results() -> None:
    estimator = blank()
    before = dict(vars(estimator))
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    assert estimator.fit(X, Y) is estimator
    check_is_fitted(estimator)
    assert {name: vars(estimator)[name] for name in before} == before
    added = set(vars(estimator)) - set(before)
    assert all(name.endswith("_") or name.startswith("_") for name in added)


def test_fitting_again_gives_the_same(fitted: ImageClassifier) -> None:
    again = clone(fitted)
    assert not hasattr(again, "classes_")
    assert again.get_params() == fitted.get_params()
    usual = fitted.predict_proba(X)
    np.testing.assert_array_equal(again.fit(X, Y).predict_proba(X), usual)
    np.testing.assert_array_equal(again.fit(X, Y).predict_proba(X), usual)
    other = clone(fitted).set_params(random_state=1).fit(X, Y)
    assert not np.array_equal(other.predict_proba(X), usual)


def test_answering_changes_nothing(fitted: ImageClassifier) -> None:
    before = dict(vars(fitted))
    fitted.predict(X)
    assert vars(fitted) == before


def test_each_image_is_answered_by_itself(fitted: ImageClassifier) -> None:
    usual = fitted.predict_proba(X)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(fitted.predict_proba(X[order]), usual[order], rtol=1e-5)
    alone = np.concatenate([fitted.predict_proba(X[index : index + 1]) for index in range(10)])
    np.testing.assert_allclose(alone, usual[:10], rtol=1e-5)


def test_a_column_of_labels_warns(fitted: ImageClassifier) -> None:
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        column = blank().fit(X, Y[:, None])
    np.testing.assert_array_equal(column.predict_proba(X), fitted.predict_proba(X))


def test_in_a_pipeline_and_a_grid_search(fitted: ImageClassifier) -> None:
    pipeline = Pipeline([("images", "passthrough"), ("classifier", blank())]).fit(X, Y)
    np.testing.assert_array_equal(pipeline.predict_proba(X), fitted.predict_proba(X))
    assert pipeline.score(X, Y) == fitted.score(X, Y)
    rates = [[*fitted.settings, "optimizer.learning_rate=1e-9"], fitted.settings]
    search = GridSearchCV(blank(epochs=2), {"settings": rates}, cv=2, error_score="raise").fit(X, Y)
    assert search.best_params_ == {"settings": rates[1]}
    assert search.score(X, Y) > 0.8


def test_pickled_it_answers_the_same(fitted: ImageClassifier) -> None:
    content = pickle.dumps(fitted)
    assert b"svertka.models" not in content  # bytes of safe files and plain values, no network
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(copy.classes_, fitted.classes_)
    assert not hasattr(pickle.loads(pickle.dumps(blank())), "classes_")


def test_saved_it_answers_as_svertka_predict(fitted: ImageClassifier, tmp_path: Path) -> None:
    names = np.array(["zero", "one", "two"])[Y]
    named = clone(fitted).fit(X, names)
    named.save(tmp_path / "run")
    assert not [file for file in (tmp_path / "run").rglob("*") if file.suffix in (".pkl", ".pt", ".joblib")]
    loaded = ImageClassifier.load(tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(loaded.classes_, named.classes_)
    np.testing.assert_array_equal(loaded.predict_proba(X), named.predict_proba(X))
    assert loaded.temperature_ == named.temperature_
    Image.fromarray(X[0]).save(tmp_path / "image.png")
    answered = svertka.predict(tmp_path / "run", [tmp_path / "image.png"], device="cpu")["predictions"][0]
    by_name = {item["name"]: item["probability"] for item in answered["classes"]}
    own = named.predict_proba([tmp_path / "image.png"])[0]
    assert by_name == dict(zip(named.classes_.tolist(), own.tolist(), strict=True))
    with pytest.raises(OptionError, match=r"run exists\. Name another"):
        named.save(tmp_path / "run")
    loaded.save(tmp_path / "copy")
    np.testing.assert_array_equal(
        ImageClassifier.load(tmp_path / "copy").predict_proba(X), named.predict_proba(X)
    )
    (tmp_path / "copy" / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match=r"copy.weights\.safetensors is damaged"):
        ImageClassifier.load(tmp_path / "copy")


def test_integer_labels_load_as_strings(fitted: ImageClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    assert ImageClassifier.load(tmp_path / "run").predict(X[:5]).tolist() == [
        str(label) for label in fitted.predict(X[:5])
    ]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (X.reshape(len(X), -1), Y, r"got uint8 of shape \(90, 64\).*flattened table"),
        (X / 255, Y, r"expected paths, or uint8 images .*got float64 of shape \(90, 8, 8\)"),
        (X, Y[:-1], r"a label for each image, got 89 for 90 images"),
        (X, np.zeros(len(X)), r"two or more classes, got only one class: \['0\.0'\]"),
        ("cat.png", ["cat"] * 7 + ["dog"], r"expected a sequence of image paths .*got one path: cat\.png"),
        (["cat.png", "dog.png"] * 4, ["cat", "dog"] * 4, r"cat\.png"),
        ([X[0], X[1, :4]], [0, 1], r"images of one size.*\(4, 8\), \(8, 8\)"),
        (X[:0], Y[:0], r"needs two or more classes"),
    ],
    ids=["flat", "floats", "lengths", "one class", "one path", "no such file", "sizes", "empty"],
)
def test_refusals_are_clear(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        blank().fit(images, labels)
    assert isinstance(caught.value, ValueError)


def test_unfitted_or_misused_it_says_so(fitted: ImageClassifier) -> None:
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(blank(), method)(X)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        blank().save("anywhere")
    with pytest.raises(DataError, match="flattened table"):
        fitted.predict(X.reshape(len(X), -1))
    with pytest.raises(OptionError, match="no setting group 'optimzer'"):
        blank(settings=["optimzer.clip=1"]).fit(X, Y)
