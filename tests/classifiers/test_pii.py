"""Personal data: found, placed and scored exactly; numbers that only look like it left alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn

from classifiers import catalog, national
from classifiers.base import Classifier
from classifiers.matcher import compile_expression
from classifiers.pii import LABELS, MOST_FINDINGS, PersonalData
from tests.classifiers.tables import messages, seen, table

TABLE = table("pii")
DATA = PersonalData.from_options("d", {})


@pytest.mark.parametrize("case", TABLE["found"], ids=lambda case: ascii(case["text"])[:40])
def test_finds_places_and_scores(case: dict[str, Any]) -> None:
    found = DATA.classify(messages(case["text"]))
    assert seen(found, case["text"]) == [row[:2] for row in case["found"]]
    assert [finding.score for finding in found] == [row[2] for row in case["found"]]


@pytest.mark.parametrize("text", TABLE["nothing"])
def test_leaves_other_numbers_alone(text: str) -> None:
    assert DATA.classify(messages(text)) == []


def test_every_label_has_a_case() -> None:
    assert {row[0] for case in TABLE["found"] for row in case["found"]} == LABELS


@pytest.mark.parametrize("kind", national.KINDS, ids=lambda kind: kind.check)
def test_every_national_number_can_be_checked(kind: national.Kind) -> None:
    compile_expression(kind.shape)
    assert national.holds(kind, "7") is False
    assert kind.score > 0 or kind.words
    assert all(word == word.lower() for word in kind.words)


def test_is_a_classifier_of_the_catalog() -> None:
    made = catalog.create("pii", "d", {"labels": ["email", "phone"], "regions": ["NO"]})
    assert isinstance(made, Classifier)
    assert made.labels == {"email", "phone"}
    assert made.inline
    assert made.digest != DATA.digest
    assert DATA.digest == PersonalData.from_options("other", {}).digest
    assert [found.label for found in made.classify(messages("a@b.no, 8.8.8.8, tlf. 22 22 55 55"))] == ["email"]
    assert [found.label for found in made.classify(messages("telefon 22 22 55 55"))] == ["phone"]


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        ({"label": ["email"]}, "label", "did you mean 'labels'"),
        ({"labels": ["e-mail"]}, "labels.0", "did you mean 'email'"),
        ({"regions": "US"}, "regions", "[US, GB]"),
        ({"regions": ["UK"]}, "regions.0", "e.g. GB"),
        ({"regions": [False]}, "regions.0", "quote 'NO'"),
    ],
)
def test_tells_the_author(options: dict[str, Any], option: str, says: str) -> None:
    with pytest.raises(catalog.OptionError) as caught:
        PersonalData.from_options("d", options)
    assert caught.value.option == option
    assert says in str(caught.value)


def test_a_flood_is_reported_to_its_end() -> None:
    text = "joe@acme.org " * (MOST_FINDINGS + 50)
    found = DATA.classify(messages(text))
    assert len(found) == MOST_FINDINGS
    assert found[-1].span is not None
    assert found[-1].span[1] == len(text)


def test_threads_see_the_same() -> None:
    work = messages(*[case["text"] for case in TABLE["found"]])
    expected = DATA.classify(work)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: DATA.classify(work), range(10)))


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["email", "card", "iban"]))
def test_any_company(before: str, label: str) -> None:
    datum = {"email": "joe@acme.org", "card": "5555 5555 5555 4444", "iban": "DE89370400440532013000"}[label]
    text = f"{before}\nhere: {datum}\n"
    assert [label, datum] in seen(DATA.classify(messages(text)), text)


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True))
def test_one_check_digit_of_ten_makes_a_card(stem: str) -> None:
    right = luhn.calc_check_digit(stem)
    for digit in "0123456789":
        text = f"card {stem}{digit}"
        found = any(finding.label == "card" for finding in DATA.classify(messages(text)))
        assert found == (digit == right and len(set(stem + digit)) > 1)


@given(st.text(st.sampled_from("0123456789 -./+():@aAbBxX\ud800é日\n")))
def test_never_raises_and_stays_inside(text: str) -> None:
    for finding in DATA.classify(messages(text)):
        assert finding.span is not None
        assert 0 <= finding.span[0] < finding.span[1] <= len(text)
        assert 0 < finding.score <= 1


@given(st.lists(st.sampled_from([case["text"] for case in TABLE["found"]] + TABLE["nothing"]), max_size=5))
def test_texts_in_company_are_judged_as_alone(texts: list[str]) -> None:
    together = [(found.message, found.label, found.span) for found in DATA.classify(messages(*texts))]
    alone = [(i, found.label, found.span) for i, text in enumerate(texts) for found in DATA.classify(messages(text))]
    assert together == alone
