"""Editors and loading agree about the options of each kind of classifier: both read one declaration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from classifiers.catalog import KINDS, OptionError, class_of, create
from policies import schema

NOWHERE = "http://127.0.0.1:1/v1"
NEEDED: dict[str, dict[str, Any]] = {
    "embedded": {},
    "secrets": {},
    "pii": {},
    "patterns": {"patterns": {"a": "b"}},
    "judge": {"url": NOWHERE, "model": "m", "policy": "p", "labels": {"a": "b"}},
    "remote": {"url": NOWHERE, "model": "m", "labels": ["a"]},
}
"""Kinds that can be made without a file, and what each must be told."""
VALUES = [
    0, 1, 7, -1, 0.5, 1.5, 10**9, True, False, "", " ", "x", "a b", "sigmoid", [], ["x"], ["email"], ["US"], [3], [{}],
    {}, {"a": "b"}, {"a": 3}, {"a": "x y"}, {"a": {"words": "w"}}, {"a": [{"regex": "a", "words": "b"}]},
    [{"text": "t", "scores": {"a": 0.5}}], [{"text": "t"}],
]  # fmt: skip
WORLD = {("embedded", "model"), ("judge", "key_env"), ("remote", "key_env"), ("remote", "check"), ("remote", "parity")}
"""What else depends on folders, the environment and servers."""
VALIDATOR = Draft202012Validator(json.loads(schema.text()))


def _loads(kind: str, options: dict[str, Any]) -> bool:
    try:
        create(kind, "any", options)
    except OptionError:
        return False
    return True


def _valid(kind: str, options: dict[str, Any]) -> bool:
    policy = {"id": "p", "version": 1, "owner": "o", "description": "d"}
    return bool(VALIDATOR.is_valid({**policy, "classifiers": {"any": {"kind": kind, **options}}}))


@pytest.mark.parametrize("kind", NEEDED)
def test_editors_say_what_loading_says(kind: str) -> None:
    assert _loads(kind, NEEDED[kind])
    assert _valid(kind, NEEDED[kind])
    for name in class_of(kind).options():
        without = {key: value for key, value in NEEDED[kind].items() if key != name}
        assert _loads(kind, without) is _valid(kind, without), name
        for value in VALUES:
            options = {**NEEDED[kind], name: value}
            loads, valid = _loads(kind, options), _valid(kind, options)
            assert loads is valid or (valid and (kind, name) in WORLD), (name, value)


def test_every_option_says_what_it_is_for_and_its_default_is_valid() -> None:
    for kind in KINDS:
        for name, option in class_of(kind).options().items():
            assert option.form["description"].endswith("."), (kind, name)
            if option.default is not None:
                Draft202012Validator(option.form).validate(option.default)
