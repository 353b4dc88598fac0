"""Dataset to Splits: which images train, which choose (validation), and which are only looked at last (test).

    the data declares           validation                    test
    train and one other part    carved from train             that part, whatever it is called
    all three parts             declared                      declared
    nothing, or only train      carved                        carved

Carving is stratified by class and keeps groups whole. Which images go where follows from the seed and their
*content*, not from their order or names: the same images in another order are divided the same way.
Every class keeps at least one image in train.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svertka import progress, randomness
from svertka.data.dataset import PARTS, UNDECLARED, Dataset, Part
from svertka.data.items import count, refuse, some
from svertka.errors import DataError, OptionError

TRAIN, VALIDATION, TEST = 0, 1, 2
BROKEN_SHARE = 0.05
BROKEN_FEW = 3

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Sorted item indices of the three parts; no item is in two.

    Attributes:
        train, validation, test: (…,) int64 indices into the Dataset.
        origins: for each part one sentence: declared by the data or carved, and from what.
        notes: what the user should know, such as test images that are also in train.
    """

    train: Indices
    validation: Indices
    test: Indices
    origins: dict[Part, str]
    notes: tuple[str, ...] = ()

    def account(self) -> str:
        """One readable line: how many images each part has and where they came from."""
        return "; ".join(f"{part} {len(getattr(self, part)):,} ({self.origins[part]})" for part in PARTS)


def split(
    dataset: Dataset, *, validation: float, test: float, seed: int, exclude: Collection[int] = ()
) -> Splits:
    """Divide a Dataset.

    Args:
        validation, test: shares to carve, of the images that are carved from; each is used only where the
            table above says "carved". A class gets that share of its images to within one image (groups of
            several images: as near as whole groups allow). With `test=0` no test set is carved.
        seed: the one seed of the run.
        exclude: indices that go nowhere (images that cannot be decoded).

    Raises:
        DataError: no training part, a part that would be empty, a class without training images.
        OptionError: shares out of range.
    """
    usable = np.ones(len(dataset), bool)
    usable[np.fromiter(exclude, np.int64, len(exclude))] = False
    declared = dataset.declared
    present = {code for code in range(len(PARTS)) if bool((declared == code).any())}
    _check(dataset, present, validation, test)
    part = np.where(declared == UNDECLARED, TRAIN, declared)
    if present in ({TRAIN, VALIDATION}, {TRAIN, TEST}):
        (other,) = present - {TRAIN}
        part[declared == other] = TEST
        carved = _carve(dataset, np.flatnonzero(usable & (part == TRAIN)), validation, 0.0, seed)
        origins = _origins(
            f"declared as {PARTS[other]}", f"carved: {validation:.0%} of train", "declared, the rest"
        )
    elif present == {TRAIN, VALIDATION, TEST}:
        carved = np.full(len(dataset), TRAIN, np.int8)
        origins = _origins("declared", "declared", "declared")
    else:
        carved = _carve(dataset, np.flatnonzero(usable), validation, test, seed)
        whole = "train" if present else "all images"
        tested = f"carved: {test:.0%} of {whole}" if test else "none wanted"
        origins = _origins(tested, f"carved: {validation:.0%} of {whole}", "the rest")
    part = np.where(part == TRAIN, carved, part)
    notes = _leaks(dataset, part, usable)
    found = [np.flatnonzero(usable & (part == code)).astype(np.int64) for code in range(len(PARTS))]
    _check_parts(dataset, found, may_be_empty={"test"} if test == 0 else set())
    return Splits(found[TRAIN], found[VALIDATION], found[TEST], origins, tuple(notes))


def refuse_too_many_broken(total: int, broken: dict[int, str]) -> None:
    """Say how many of `total` images are broken (index to reason); stop if it is too many to go on without.

    Raises:
        DataError: more than 5 % and more than 3 are broken.
    """
    if not broken:
        return
    many = f"{count(len(broken), 'image')} of {total:,} cannot be decoded"
    reasons = [broken[index] for index in sorted(broken)]
    if len(broken) > BROKEN_FEW and len(broken) > BROKEN_SHARE * total:
        raise DataError(
            f"{many}, expected at most {BROKEN_SHARE:.0%}; replace or remove them:\n  - "
            + "\n  - ".join([*reasons[:5], *([f"and {len(reasons) - 5:,} more"] if len(reasons) > 5 else [])])
        )
    progress.say(f"{many}, skipped: {some(reasons, 3)}")


def _origins(test: str, validation: str, train: str) -> dict[Part, str]:
    return {"train": train, "validation": validation, "test": test}


def _check(dataset: Dataset, present: set[int], validation: float, test: float) -> None:
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1 or (name == "validation" and share == 0):
            raise OptionError(
                f"data.{name} is the share of images to carve: expected 0 < share < 1, got {share}."
            )
    if not present - {TRAIN} and validation + test >= 1:
        raise OptionError(
            f"data.validation and data.test leave nothing to train on: expected a sum below 1, got "
            f"{validation} + {test}."
        )
    if present and TRAIN not in present:
        names = " and ".join(PARTS[code] for code in sorted(present))
        refuse(dataset.name, [f"it declares {names} but no train; add a training part, or declare no parts."])
    if present and (dataset.declared == UNDECLARED).any():
        number = int((dataset.declared == UNDECLARED).sum())
        refuse(dataset.name, [f"{count(number, 'image')} belong to no declared part; declare all or none."])


def _carve(dataset: Dataset, pool: Indices, validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """Part codes (n,) int8 with validation and test taken from `pool`; all else is TRAIN.

    Each group belongs to the class that most of its images have. The groups of a class stand in a random
    order that hashes their content; from its start the test set is cut, then validation. Groups larger than
    what is to be cut stand at the end. A class that lost all its images gets a group back.
    """
    result = np.full(len(dataset), TRAIN, np.int8)
    if not len(pool):
        return result
    labels = dataset.labels[pool]
    _, group = np.unique(dataset.groups[pool], return_inverse=True)
    size = np.bincount(group)
    stratum = _majority(group, labels, len(size), len(dataset.classes))
    lot = np.full(len(size), np.iinfo(np.uint64).max)
    np.minimum.at(lot, group, _lots(dataset.digests[pool], seed))

    wanted_test, wanted_validation = _quotas(
        np.bincount(stratum, weights=size, minlength=len(dataset.classes)).astype(np.int64), test, validation
    )
    oversized = size > np.maximum(1, np.maximum(wanted_test, wanted_validation)[stratum])
    order = np.lexsort((lot, oversized, stratum))
    code = np.empty(len(size), np.int8)
    code[order] = _cut(stratum[order], size[order], wanted_test, wanted_validation)
    _keep_every_class(code, group, labels, lot)
    result[pool] = code[group]
    return result


def _majority(group: Indices, labels: Indices, num_groups: int, num_classes: int) -> Indices:
    """The most frequent class (the first of equals) of each group."""
    pairs, number = np.unique(group * num_classes + labels, return_counts=True)
    order = np.lexsort((pairs, -number, pairs // num_classes))
    first = np.unique(pairs[order] // num_classes, return_index=True)[1]
    result: Indices = pairs[order][first] % num_classes
    assert len(result) == num_groups
    return result


def _quotas(sizes: Indices, test: float, validation: float) -> tuple[Indices, Indices]:
    """Images of each class (k,) to put in test and in validation.

    Rounded so that each is within one of its exact share, the total is within one of the total share (a part
    of many small classes is not rounded away), and one image of each class is left.
    """
    exact = [sizes * share for share in (test, validation)]
    total = np.concatenate([[0], np.cumsum(sizes)])
    whole = [np.diff(np.floor(total * share + 0.5)) for share in (test, validation)]
    excess = [part - target for part, target in zip(whole, exact, strict=True)]
    over = whole[0] + whole[1] - np.maximum(sizes - 1, 0)
    from_test = (over >= 1) & (excess[0] > excess[1])
    from_validation = (over >= 1) & ~from_test
    whole[0] -= (from_test | (over >= 2)) & (whole[0] > 0)
    whole[1] -= (from_validation | (over >= 2)) & (whole[1] > 0)
    return whole[0].astype(np.int64), whole[1].astype(np.int64)


def _cut(stratum: Indices, size: Indices, test: Indices, validation: Indices) -> NDArray[np.int8]:
    """Part of each group, given in order of stratum; a group is cut off if more than half of it is wanted."""
    before = np.cumsum(size) - size
    first = np.searchsorted(stratum, stratum, side="left")
    middle = before - before[first] + size / 2
    in_test = middle <= test[stratum]
    taken = np.bincount(stratum, weights=size * in_test, minlength=len(test))[stratum]
    in_validation = ~in_test & (middle - taken <= validation[stratum])
    return np.where(in_test, TEST, np.where(in_validation, VALIDATION, TRAIN)).astype(np.int8)


def _keep_every_class(
    code: NDArray[np.int8], group: Indices, labels: Indices, lot: NDArray[np.uint64]
) -> None:
    """Return a group to train for each class that lost all its images (to large or mixed groups)."""
    for label in np.setdiff1d(labels, labels[code[group] == TRAIN]):
        groups = np.unique(group[labels == label])
        if not (code[groups] == TRAIN).any():
            code[groups[np.argmax(lot[groups])]] = TRAIN


def _lots(digests: NDArray[np.void], seed: int) -> NDArray[np.uint64]:
    """A random number (n,) uint64 for each content: the finaliser of SplitMix64 (Steele et al., 2014)."""
    halves = np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)
    lot = np.full(len(halves), randomness.key(seed, "split"), np.uint64)
    for column in (0, 1):
        lot ^= halves[:, column]
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            lot = (lot ^ (lot >> np.uint64(shift))) * np.uint64(factor)
        lot ^= lot >> np.uint64(31)
    return lot


def _leaks(dataset: Dataset, part: NDArray[np.int8], usable: NDArray[np.bool_]) -> list[str]:
    """A note for each declared part that shares groups (equal bytes, or the same group) with train."""
    notes = []
    trained = np.unique(dataset.groups[usable & (part == TRAIN)])
    for code in (VALIDATION, TEST):
        shared = int(np.isin(dataset.groups[usable & (part == code)], trained).sum())
        if shared:
            notes.append(
                f"{count(shared, 'image')} declared as {PARTS[code]} also stand in train (same bytes or same "
                "group); what is declared is respected, but figures on them are too good"
            )
    return notes


def _check_parts(dataset: Dataset, found: list[Indices], may_be_empty: set[str]) -> None:
    problems = []
    for part, indices in zip(PARTS, found, strict=True):
        if not len(indices) and part not in may_be_empty:
            more = "" if part == "train" else f", or raise data.{part}"
            problems.append(f"the {part} part would be empty; add images{more}.")
    lacking = np.setdiff1d(dataset.labels, dataset.labels[found[TRAIN]])
    if len(lacking):
        names = some([repr(dataset.classes[label]) for label in lacking])
        problems.append(
            f"no training images are left of {names}; add images of that kind that can be decoded."
        )
    refuse(dataset.name, problems)
