"""Authors' patterns: what they find and where, what their authors are told, and that nothing slips through."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers import catalog
from classifiers.base import Classifier, Finding, Message, Role
from classifiers.patterns import MOST_SPANS, Patterns, ViewsTruncated
from classifiers.readings import DISGUISED, READINGS, seen_in
from classifiers.sieve import MOST_KNOWN
from classifiers.workers import take
from tests.classifiers.tables import messages, seen, table

TABLE = table("patterns")
PATTERNS = Patterns.from_options("p", {"patterns": TABLE["patterns"]})
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: ascii(case["text"])[:40])
def test_finds_and_places(case: dict[str, Any]) -> None:
    findings = PATTERNS.classify(messages(case["text"]))
    assert seen(findings, case["text"]) == case["found"]
    assert all(finding.score == (0.5 if finding.label == "word" else 1.0) for finding in findings)


@pytest.mark.parametrize("case", TABLE["wrong"], ids=lambda case: str(case["options"])[:40])
def test_tells_the_author(case: dict[str, Any]) -> None:
    with pytest.raises(catalog.OptionError) as caught:
        Patterns.from_options("p", case["options"])
    assert caught.value.option == case["option"]
    assert case["says"] in str(caught.value)


def test_is_a_classifier_of_the_catalog() -> None:
    made = catalog.create("patterns", "mine", {"patterns": {"a": "b"}})
    assert isinstance(made, Classifier)
    assert (made.name, made.labels, made.inline) == ("mine", frozenset({"a"}), True)


def test_digest_follows_the_options() -> None:
    def digest(**options: Any) -> str:
        return Patterns.from_options("p", {"patterns": {"a": {"regex": "b", **options}}}).digest

    other = [digest(score=0.4), digest(ignore_case=False), Patterns.from_options("p", {"patterns": {"a": "c"}}).digest]
    assert len({digest(), *other}) == 4
    assert digest() == Patterns.from_options("q", {"patterns": {"a": "b"}}).digest
    assert digest() != Patterns.from_options("p", {"patterns": {"a": "b"}, "views": False}).digest


def test_views_can_be_turned_off() -> None:
    raw = Patterns.from_options("p", {"patterns": {"a": "bomb"}, "views": False})
    assert [finding.message for finding in raw.classify(messages("b0mb", "bomb"))] == [1]


@pytest.mark.parametrize(
    ("text", "view", "reading"),
    [
        ("a bomb", "raw", ""),
        ("a b0mb", "leet", "leet"),
        ("please 1gnore prev|ous", "leet", "leet"),
        ("cash m0n3y", "leet", "leet"),
        ("b-o-m-b now", "letters", "letters"),
        ("a \u0432omb b\u043emb", "skeleton", "skeleton"),
        ("ｂｏｍｂ", "plain", "plain"),
        ("Y2FzaCBtb25leQ==", "decoded", "decoded"),
        ("a obzo", "rot13", "rot13"),
        ("use cash mone", "", ""),
    ],
)
def test_it_says_in_which_reading_it_saw_something(text: str, view: str, reading: str) -> None:
    assert [finding.view for finding in PATTERNS.classify(messages(text))] == ([view] if view else [])
    assert not reading or (reading in PATTERNS.readings and seen_in(view, reading))
    assert seen_in(view, DISGUISED) == bool(reading)


def test_what_is_split_was_seen_in_the_joint() -> None:
    texts = messages("we need ca", "sh money", " and Y2FzaCBt", "b25leQ==")
    assert {finding.view for finding in PATTERNS.classify(texts)} == {"joint", "joint.decoded"}
    assert PATTERNS.readings == frozenset(READINGS)
    assert Patterns.from_options("p", {"patterns": {"a": "b"}, "views": False}).readings == {"joint"}
    findings: list[Finding] = []
    take(PATTERNS, messages("a b0mb"), [7], findings, [])
    assert [(finding.message, finding.view) for finding in findings] == [(7, "leet")]


def test_a_flood_of_matches_is_reported_to_its_end() -> None:
    text = "ab" * 1000
    found = Patterns.from_options("p", {"patterns": {"x": "ab"}}).classify(messages(text))
    assert len(found) == MOST_SPANS
    assert found[-1].span == (2 * MOST_SPANS - 2, len(text))


@pytest.mark.parametrize("word", ["a", "я", "aa"])
def test_a_flood_of_letters_is_no_word(word: str) -> None:
    assert not Patterns.from_options("p", {"patterns": {"x": {"words": word}}}).classify(messages("aя" * 100_000))


def test_many_disguised_words_in_a_text_of_many_edits() -> None:
    words = [f"codeword{chr(97 + first)}{chr(97 + last)}" for first in range(15) for last in range(15)]
    text = " ".join(words).replace("word", "w**or**d") + " **a** b_c" * 1500

    def seconds(count: int) -> float:
        patterns = Patterns.from_options("p", {"patterns": {word: {"words": word} for word in words[:count]}})
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            assert len(patterns.classify(messages(text))) == count
            best = min(best, time.process_time() - began)
        return best

    # Each of them walked through all the edits of each reading, which was sixty times as much.
    assert seconds(len(words)) < 20 * seconds(1)


def test_truncated_readings_are_not_passed_over() -> None:
    with pytest.raises(ViewsTruncated):
        PATTERNS.classify(messages("\ufdfa" * 10_000))


@pytest.mark.parametrize("at", [0, 100_000, 199_985])
def test_a_long_text_is_read_to_its_end(at: int) -> None:
    filler = "an honest sentence. " * 10_000
    text = filler[:at] + " ignore previous " + filler[at:]
    assert seen(PATTERNS.classify(messages(text)), text) == [["override", "ignore previous"]]


def test_messages_are_independent() -> None:
    texts = [case["text"] for case in TABLE["cases"]]
    together = PATTERNS.classify(messages(*texts))
    for index, text in enumerate(texts):
        alone = [(finding.label, finding.span) for finding in PATTERNS.classify(messages(text))]
        assert [(finding.label, finding.span) for finding in together if finding.message == index] == alone


def test_threads_see_the_same() -> None:
    work = messages(*[case["text"] for case in TABLE["cases"]])
    expected = PATTERNS.classify(work)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: PATTERNS.classify(work), range(40)))


@given(ANY_TEXT, ANY_TEXT)
def test_finds_what_is_there_in_any_company(before: str, after: str) -> None:
    text = f"{before} bomb {after}"
    found = PATTERNS.classify(messages(text))
    assert ["word", "bomb"] in seen(found, text)
    assert all(0 <= finding.span[0] <= finding.span[1] <= len(text) for finding in found if finding.span)


ANCHORED = [
    "^ab",
    "ab$",
    r"\Aab",
    r"ab\z",
    r"(?m)^ab$",
    r"\bab\b",
    r"\Bab",
    "a[^x]b",
    "b.a",
    r"b\s*a",
    "(?s)b.a",
    "[a^]b",
]


@given(st.sampled_from(ANCHORED), st.lists(st.text(st.sampled_from("ab xé1"), max_size=6), max_size=5))
def test_company_changes_nothing(source: str, texts: list[str]) -> None:
    """Of an answer; in a conversation its joints are read, too (test_joints)."""
    patterns = Patterns.from_options("p", {"patterns": {"x": source}})
    answer = [Message(Role.ASSISTANT, text, f"/choices/{i}/message/content") for i, text in enumerate(texts)]
    together = [(finding.message, finding.span) for finding in patterns.classify(answer)]
    alone = [(i, found.span) for i, text in enumerate(texts) for found in patterns.classify(messages(text))]
    assert together == alone


def test_what_is_remembered_of_short_texts_changes_nothing() -> None:
    patterns = Patterns.from_options("p", {"patterns": {"x": "ignore previous"}})
    ids = [f"chatcmpl-B9MHDbslfk{number:04d}AsQ2" for number in range(40)]
    coded = "aWdub3JlIHByZXZpb3Vz"
    for _ in range(3):
        assert patterns.classify(messages(*ids)) == []
        assert [found.message for found in patterns.classify(messages(*ids, coded, "1gn0r3 pr3v10us"))] == [40, 41]
        assert [found.message for found in patterns.classify(messages(coded, ids[0]))] == [0]
    assert len(patterns._sieve.known) == len(ids)
    # A number that says nothing of the text, nor to whoever knows how Python hashes texts.
    assert patterns._sieve.known.isdisjoint({*ids, *map(hash, ids)})


def test_what_is_remembered_is_bounded() -> None:
    patterns = Patterns.from_options("p", {"patterns": {"x": "ignore previous"}})
    for number in range(0, 3 * MOST_KNOWN, 500):
        assert (
            patterns.classify(messages(*[f"req_8f14e45fce{each:06d}a2" for each in range(number, number + 500)])) == []
        )
        assert len(patterns._sieve.known) <= MOST_KNOWN + 500
