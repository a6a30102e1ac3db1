"""What the command line reads from the sources is what the imported classes say."""

from __future__ import annotations

import dataclasses

import pytest

from tastemaker.cli.catalogue import compare_options, declared_methods, train_options
from tastemaker.config import CompareSettings, TrainSettings
from tastemaker.config.check import coerce, field_types
from tastemaker.config.settings import DATA_FIELDS, MODEL_FIELDS
from tastemaker.methods import METHODS


def test_the_methods_are_those_of_the_registry():
    assert list(declared_methods()) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_as_read_is_the_method_as_imported(name: str):
    declared, cls = declared_methods()[name], METHODS[name]
    assert {o.name: o.kind for o in declared.options} == dict(field_types(cls))
    assert declared.defaults == cls.defaults
    assert declared.needs_reward == ("reward" in cls.roles and "reward" not in cls.trains)
    assert declared.summary == (cls.__doc__ or "").splitlines()[0]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore
    for option in declared.options:
        assert option.text, f"{name}.{option.name} has no line below it"
        value, problem = coerce(option.name, option.default, option.kind)
        assert problem is None
        assert value == fields[option.name].default


@pytest.mark.parametrize(
    "cls, options", [(TrainSettings, train_options()), (CompareSettings, compare_options())]
)
def test_settings_as_read_are_those_imported(cls: type, options: tuple):
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "stages"}
    assert [o.name for o in options] == list(fields)
    for option in options:
        assert coerce(option.name, option.default, option.kind) == (fields[option.name].default, None)
        assert option.text


def test_groups_name_fields_that_exist():
    assert field_types(TrainSettings).keys() >= MODEL_FIELDS | DATA_FIELDS
    assert not MODEL_FIELDS & DATA_FIELDS
