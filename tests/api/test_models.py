"""The verb `models`: patterns, sorting, refusals."""

from __future__ import annotations

import json

import pytest

from svertka.api.models import COLUMNS, list_models
from svertka.errors import ModelError, OptionError
from svertka.models.catalog import ROWS


def names(*args, **options):
    return [entry["name"] for entry in list_models(*args, **options)]


def test_all_rows_with_all_columns():
    found = list_models()
    assert {entry["name"] for entry in found} == set(ROWS)
    assert all(tuple(entry) == COLUMNS for entry in found)
    assert json.loads(json.dumps(found)) == found
    resnet = next(entry for entry in found if entry["name"] == "resnet18")
    assert (resnet["parameters"], resnet["input"], resnet["year"]) == (11_689_512, 224, 2015)
    assert resnet["weights"] == ["imagenet"]
    assert resnet["top1"] == 69.758
    assert next(entry for entry in found if entry["name"] == "linear")["weights"] == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resnet1?", ["resnet18"]),
        ("RESNET18", ["resnet18"]),
        ("et50_2", ["wide_resnet50_2"]),
        ("vgg1[13]", ["vgg11", "vgg13"]),
        ("googlenet", ["googlenet"]),
    ],
)
def test_patterns_and_parts_of_names(pattern, expected):
    assert names(pattern) == expected


def test_a_family_is_found_by_its_name():
    assert names("Wide ResNet") == ["wide_resnet50_2", "wide_resnet101_2"]


def test_names_are_sorted_as_people_count():
    found = names("resnet*")
    assert found.index("resnet18") < found.index("resnet34") < found.index("resnet101")


@pytest.mark.parametrize("column", COLUMNS)
def test_any_column_sorts_both_ways(column):
    upwards, downwards = list_models(sort=column), list_models(sort=f"-{column}")
    assert len(upwards) == len(downwards) == len(ROWS)
    if column != "name" and isinstance(upwards[0][column], int | float):
        values = [entry[column] for entry in upwards if entry[column] is not None]
        assert values == sorted(values)
        assert [entry[column] for entry in downwards if entry[column] is not None] == sorted(
            values, reverse=True
        )
        assert all(entry[column] is not None for entry in upwards[: len(values)])  # unknown ones come last


def test_refusals():
    with pytest.raises(ModelError, match="no model fits 'resnet81': did you mean 'resnet18'"):
        list_models("resnet81")
    with pytest.raises(OptionError, match="got 'parameter': did you mean 'parameters'"):
        list_models(sort="parameter")
    with pytest.raises(OptionError, match="got '-topone'"):
        list_models(sort="-topone")
