"""Credentials: found and placed exactly, placeholders and prose left alone."""

from __future__ import annotations

import random
import string
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers import catalog
from classifiers.base import Classifier
from classifiers.secrets import CHECKS, MOST_FINDINGS, Secrets, _base62, _shapes, entropy, is_placeholder
from tests.classifiers.tables import messages, seen, table

TABLE = table("secrets")
SECRETS = Secrets.from_options("s", {})
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def plain(text: str) -> str:
    return text.replace("·", "")


@pytest.mark.parametrize("case", TABLE["found"], ids=lambda case: case["found"][0][0])
def test_finds_and_places(case: dict[str, Any]) -> None:
    text = plain(case["text"])
    found = SECRETS.classify(messages(text))
    assert seen(found, text) == [[label, plain(secret)] for label, secret in case["found"]]
    assert all(0.3 <= finding.score <= 1 for finding in found)


@pytest.mark.parametrize("text", TABLE["nothing"])
def test_leaves_honest_text_alone(text: str) -> None:
    assert SECRETS.classify(messages(text)) == []


@pytest.mark.parametrize("prefix", ["ghp_", "gho_", "ghs_", "npm_"])
def test_a_checksum_is_proof(prefix: str) -> None:
    body = "".join(random.Random(prefix).choices(BASE62, k=30))
    good = prefix + body + _base62(zlib.crc32(body.encode()))
    bad = good[:-1] + ("a" if good[-1] != "a" else "b")
    scores = [finding.score for finding in SECRETS.classify(messages(good, bad))]
    assert scores[0] == 1.0
    assert scores[1] < 1.0


def test_is_a_classifier_of_the_catalog() -> None:
    made = catalog.create("secrets", "s", {"labels": ["private_key", "jwt"]})
    assert isinstance(made, Classifier)
    assert made.labels == {"private_key", "jwt"}
    assert made.inline
    assert made.digest != SECRETS.digest
    assert SECRETS.digest == Secrets.from_options("other", {}).digest
    assert made.classify(messages(plain(TABLE["found"][0]["text"]))) == []


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        ({"label": ["jwt"]}, "label", "labels"),
        ({"labels": []}, "labels", "leave it out"),
        ({"labels": "jwt"}, "labels", "no list"),
        ({"labels": ["jwts"]}, "labels.0", "did you mean 'jwt'"),
    ],
)
def test_tells_the_author(options: dict[str, Any], option: str, says: str) -> None:
    with pytest.raises(catalog.OptionError) as caught:
        Secrets.from_options("s", options)
    assert caught.value.option == option
    assert says in str(caught.value)


def test_every_shape_names_a_check_and_no_text_but_its_own() -> None:
    shapes, matcher, _ = _shapes()
    assert {shape.check for shape in shapes} <= set(CHECKS)
    assert all(0 < shape.score <= 1 for shape in shapes)
    # Nearly all shapes need a rare literal: the few others would be asked about every text.
    assert len(matcher.candidates(b"An honest sentence about nothing in particular.")) <= 3


def test_a_flood_is_reported_to_its_end() -> None:
    text = "token=7a2f9a4289e530bef6dbf31f4cbf63d5 " * (MOST_FINDINGS + 50)
    found = SECRETS.classify(messages(text))
    assert len(found) == MOST_FINDINGS
    assert found[-1].span is not None
    assert found[-1].span[1] == len(text)


def test_threads_see_the_same() -> None:
    work = messages(*[plain(case["text"]) for case in TABLE["found"]])
    expected = SECRETS.classify(work)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: SECRETS.classify(work), range(20)))


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(TABLE["found"]))
def test_any_company(before: str, case: dict[str, Any]) -> None:
    text = f"{before}\n\n{plain(case['text'])}"
    found = seen(SECRETS.classify(messages(text)), text)
    assert all([label, plain(secret)] in found for label, secret in case["found"]) or any(
        sign in before for sign in "'\"`="
    )


@given(st.text())
def test_placeholders_and_entropy_are_total(value: str) -> None:
    assert 0 <= entropy(value) <= 21
    assert is_placeholder(value) in {True, False}
    assert all(0 <= check(value, 0.9) <= 1 for check in CHECKS.values())


@given(st.lists(st.sampled_from([plain(case["text"]) for case in TABLE["found"]] + TABLE["nothing"]), max_size=5))
def test_texts_in_company_are_judged_as_alone(texts: list[str]) -> None:
    together = [(found.message, found.label, found.span) for found in SECRETS.classify(messages(*texts))]
    alone = [(i, found.label, found.span) for i, text in enumerate(texts) for found in SECRETS.classify(messages(text))]
    assert together == alone


@pytest.mark.parametrize("case", TABLE["found"], ids=lambda case: case["found"][0][0])
def test_no_shape_needs_the_edge_of_a_text(case: dict[str, Any]) -> None:
    """What `joined` builds on."""
    _, matcher, _ = _shapes()
    data = plain(case["text"]).encode()
    assert set(matcher.candidates(data)) <= set(matcher.candidates(b"x\n" + data + b"\nx"))
