"""Splits hold what they promise for any labels, groups and declared parts."""

import hashlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from svertka import progress
from svertka.data.dataset import PARTS, Dataset
from svertka.data.split import Splits, refuse_too_many_broken, split
from svertka.errors import DataError, OptionError


def make(labels, groups=None, declared=None, contents=None) -> Dataset:
    """A Dataset of items whose contents are their numbers, or those given."""
    n = len(labels)
    contents = range(n) if contents is None else contents
    digests = b"".join(hashlib.blake2b(str(each).encode(), digest_size=16).digest() for each in contents)
    return Dataset(
        name="things",
        classes=tuple(f"class {number}" for number in range(max(labels) + 1)),
        labels=np.array(labels, np.int64),
        images=[f"{number}.png" for number in range(n)],
        root=None,
        digests=np.frombuffer(digests, "V16"),
        groups=np.arange(n) if groups is None else np.array(groups, np.int64),
        declared=np.full(n, -1, np.int8) if declared is None else np.array(declared, np.int8),
    )


def parts(splits: Splits):
    return splits.train, splits.validation, splits.test


def carve(dataset, validation=0.2, test=0.2, seed=0, exclude=()):
    """The splits; a hypothesis example too small for three parts is passed over."""
    try:
        return split(dataset, validation=validation, test=test, seed=seed, exclude=exclude)
    except DataError as error:
        if "would be empty" not in str(error):
            raise
        return assume(False)


@st.composite
def tables(draw, grouped):
    num_classes = draw(st.integers(2, 6))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=num_classes, max_size=150))
    labels[:num_classes] = range(num_classes)
    groups = (
        draw(st.lists(st.integers(0, 40), min_size=len(labels), max_size=len(labels))) if grouped else None
    )
    return make(labels, groups)


shares = st.floats(0.02, 0.48)


@settings(max_examples=80, deadline=None)
@given(tables(grouped=False), shares, shares, st.integers(0, 9))
def test_stratified_within_one_item_disjoint_and_complete(dataset, validation, test, seed):
    splits = carve(dataset, validation, test, seed)
    assert sorted(np.concatenate(parts(splits)).tolist()) == list(range(len(dataset)))
    for indices in parts(splits):
        assert (np.diff(indices) > 0).all()
    sizes = np.bincount(dataset.labels)
    for indices, share in ((splits.validation, validation), (splits.test, test)):
        numbers = np.bincount(dataset.labels[indices], minlength=len(sizes))
        assert (np.abs(numbers - sizes * share) < 1 + 1e-9).all()
    assert (np.bincount(dataset.labels[splits.train], minlength=len(sizes)) >= 1).all()


@settings(max_examples=80, deadline=None)
@given(tables(grouped=True), shares, shares, st.integers(0, 9), st.sets(st.integers(0, 149), max_size=5))
def test_groups_stay_together_and_excluded_items_go_nowhere(dataset, validation, test, seed, exclude):
    exclude = {index for index in exclude if index < len(dataset)}
    kept = np.setdiff1d(np.arange(len(dataset)), list(exclude))
    assume(set(dataset.labels[kept]) == set(dataset.labels))
    splits = carve(dataset, validation, test, seed, exclude)
    assert sorted(np.concatenate(parts(splits)).tolist()) == kept.tolist()
    groups = [set(dataset.groups[indices]) for indices in parts(splits)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert set(dataset.labels[splits.train]) == set(dataset.labels)


@settings(max_examples=50, deadline=None)
@given(tables(grouped=True), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(dataset, seed, random):
    splits = carve(dataset, seed=seed)
    order = list(range(len(dataset)))
    random.shuffle(order)
    shuffled = make(dataset.labels[order], dataset.groups[order], contents=order)
    again = carve(shuffled, seed=seed)
    for one, two in zip(parts(splits), parts(again), strict=True):
        assert sorted(np.array(order)[two].tolist()) == one.tolist()


def test_seed_decides_and_the_division_is_even():
    dataset = make([0, 1] * 2000)
    one, same, other = (carve(dataset, 0.15, 0.15, seed) for seed in (1, 1, 2))
    assert (one.test == same.test).all()
    assert len(np.intersect1d(one.test, other.test)) < 0.25 * len(one.test)  # 15 % by chance
    places = np.concatenate([carve(dataset, 0.15, 0.15, seed).test for seed in range(20)])
    hits = np.bincount(places, minlength=4000)
    # each image is in the test set of a seed with probability 0.15: binomial variance
    assert abs(hits.var() / (20 * 0.15 * 0.85) - 1) < 0.15


def test_many_small_classes_still_give_a_test_set():
    dataset = make([label for label in range(100) for _ in range(3)])
    splits = carve(dataset, 0.15, 0.15)
    assert abs(len(splits.test) - 45) <= 1
    assert abs(len(splits.validation) - 45) <= 1


def test_one_huge_group_goes_to_train():
    dataset = make(
        [0] * 100 + [1] * 100, groups=[0] * 60 + list(range(1, 41)) + [100] * 60 + list(range(101, 141))
    )
    for seed in range(10):
        splits = carve(dataset, 0.15, 0.15, seed)
        assert len(splits.test) == 30
        assert np.isin(np.r_[0:60, 100:160], splits.train).all()


def test_a_class_that_lives_in_groups_of_others_stays_in_train():
    # class 1 is a minority in each of the groups that hold it
    dataset = make([0] * 40 + [0, 0, 1] * 2, groups=[*range(40), 50, 50, 50, 51, 51, 51])
    for seed in range(30):
        assert 1 in dataset.labels[carve(dataset, 0.4, 0.4, seed).train]


# ---------------------------------------------------------------- declared parts

TRAIN, VALIDATION, TEST = 0, 1, 2


def declared(*numbers):
    return make(
        [index % 2 for number in numbers for index in range(number)],
        declared=[code for code, number in enumerate(numbers) for _ in range(number)],
    )


@pytest.mark.parametrize(("numbers", "name"), [((40, 10, 0), "validation"), ((40, 0, 10), "test")])
def test_one_other_part_is_the_test_set(numbers, name):
    splits = split(declared(*numbers), validation=0.15, test=0.3, seed=0)
    assert splits.test.tolist() == list(range(40, 50))
    assert len(splits.validation) == 6
    assert len(splits.train) == 34
    assert splits.origins["test"] == f"declared as {name}"
    assert splits.origins["validation"] == "carved: 15% of train"
    assert "test 10 (declared" in splits.account()


def test_three_declared_parts_are_respected():
    splits = split(declared(10, 6, 4), validation=0.15, test=0.15, seed=0)
    assert [len(part) for part in parts(splits)] == [10, 6, 4]
    assert set(splits.origins.values()) == {"declared"}


def test_only_train_is_carved_twice():
    splits = split(declared(40, 0, 0), validation=0.1, test=0.2, seed=0)
    assert [len(part) for part in parts(splits)] == [28, 4, 8]
    assert splits.origins["test"] == "carved: 20% of train"


def test_no_test_set_if_none_is_wanted():
    splits = split(make([0, 1] * 20), validation=0.1, test=0, seed=0)
    assert [len(part) for part in parts(splits)] == [36, 4, 0]
    assert splits.origins["test"] == "none wanted"


def test_nothing_declared_says_so():
    splits = split(make([0, 1] * 20), validation=0.1, test=0.2, seed=0)
    assert splits.origins == {
        "train": "the rest",
        "validation": "carved: 10% of all images",
        "test": "carved: 20% of all images",
    }
    assert tuple(splits.origins) == PARTS


@pytest.mark.parametrize("numbers", [(0, 10, 0), (0, 0, 10), (0, 5, 5)])
def test_no_training_part(numbers):
    with pytest.raises(DataError, match=r"things cannot be used: it declares .* but no train"):
        split(declared(*numbers), validation=0.15, test=0.15, seed=0)


def test_some_items_undeclared():
    with pytest.raises(DataError, match="2 images belong to no declared part"):
        split(make([0, 1] * 3, declared=[0, 0, 2, 2, -1, -1]), validation=0.15, test=0.15, seed=0)


def test_leaks_between_declared_parts_are_counted_and_left():
    dataset = make([0, 1] * 6, groups=[0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 8, 9], declared=[0] * 8 + [2] * 4)
    splits = split(dataset, validation=0.25, test=0.5, seed=3)
    assert splits.test.tolist() == [8, 9, 10, 11]
    leaked = len(np.intersect1d([0, 1], splits.train))
    assert leaked
    assert f"{leaked} image" in splits.notes[0]
    assert "declared as test also stand in train" in splits.notes[0]
    assert not split(declared(10, 6, 4), validation=0.1, test=0.1, seed=0).notes


def test_parts_that_would_be_empty():
    with pytest.raises(
        DataError, match=r"the validation part would be empty.*\n.*the test part would be empty"
    ):
        split(make([0, 1, 2]), validation=0.15, test=0.15, seed=0)
    with pytest.raises(DataError, match="the test part would be empty"):
        split(declared(10, 0, 2), validation=0.2, test=0.15, seed=0, exclude=[10, 11])


def test_a_class_that_is_broken_altogether():
    with pytest.raises(DataError, match="no training images are left of 'class 1'"):
        split(make([0, 1] * 10), validation=0.15, test=0.15, seed=0, exclude=range(1, 20, 2))


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.1, 1), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_out_of_range(validation, test):
    with pytest.raises(OptionError, match=r"data\."):
        split(make([0, 1] * 10), validation=validation, test=test, seed=0)


# ---------------------------------------------------------------- broken images


class Listener(progress.Silent):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.mark.parametrize(
    ("total", "number", "stops"), [(1000, 50, False), (1000, 51, True), (10, 3, False), (10, 4, True)]
)
def test_too_many_broken_images_stop(total, number, stops):
    broken = {index: f"photo {index}.jpg is truncated" for index in reversed(range(number))}
    listener = Listener()
    with progress.using(listener):
        if stops:
            with pytest.raises(DataError, match=rf"{number} images of {total:,} cannot be decoded") as caught:
                refuse_too_many_broken(total, broken)
            assert "photo 3.jpg" in str(caught.value)
            assert not listener.said
        else:
            refuse_too_many_broken(total, broken)
            assert f"{number} images of {total:,} cannot be decoded, skipped: photo 0.jpg" in listener.said[0]


def test_no_broken_image_says_nothing():
    listener = Listener()
    with progress.using(listener):
        refuse_too_many_broken(10, {})
    assert not listener.said
