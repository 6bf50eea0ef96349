"""Joints: what is split over texts is found in the text where it ends, and what is not split is found as before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Message, Role
from classifiers.joints import REACH, chains
from classifiers.patterns import Patterns

WORD = "bluebird"
PATTERNS = Patterns.from_options("p", {"patterns": {"name": {"words": [WORD]}, "start": "^bird"}})
FILLER = "la " * REACH
SAID = [Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.TOOL_RESULT]


def conversation(*turns: tuple[Role, str]) -> list[Message]:
    return [Message(role, text, f"/messages/{index}/content") for index, (role, text) in enumerate(turns)]


@given(
    st.lists(st.integers(1, len(WORD) - 1), min_size=1, max_size=5, unique=True).map(sorted),
    st.lists(st.sampled_from(SAID), min_size=7, max_size=7),
    st.sampled_from(["", "Well, ", FILLER]),
    st.sampled_from(["", ", you know?", " " + FILLER]),
)
def test_a_word_in_any_pieces(cuts: list[int], roles: list[Role], before: str, after: str) -> None:
    pieces = [WORD[a:b] for a, b in zip([0, *cuts], [*cuts, len(WORD)], strict=True)]
    pieces[0], pieces[-1] = before + pieces[0], pieces[-1] + after
    turns = conversation((Role.USER, "Hello. "), *zip(roles[: len(pieces)], pieces, strict=True))
    (finding,) = {f for f in PATTERNS.classify(turns) if f.label == "name"}
    assert finding.message == len(pieces)
    assert finding.span == (0, len(WORD) - cuts[-1])


TEXTS = st.sampled_from(["", WORD, "blue", " bird", FILLER, "é"])


@given(st.lists(st.tuples(st.sampled_from(SAID), TEXTS), max_size=6))
def test_what_is_whole_is_found_where_it_stands(turns: list[tuple[Role, str]]) -> None:
    messages = conversation(*turns)
    alone = [(i, f.label, f.span) for i, m in enumerate(messages) for f in PATTERNS.classify([m])]
    found = [(f.message, f.label, f.span) for f in PATTERNS.classify(messages)]
    assert [each for each in found if each in alone] == alone
    assert found == sorted(found, key=lambda each: each[0])


PHRASES = Patterns.from_options("p", {"patterns": {"cash": {"words": "cash money"}, "ops": r"OPS-\d{4}"}})


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("I need ca", "sh money.", True),
        ("I need cash ", "money.", True),
        ("I need cash-mo", "ney.", True),
        ("I need cas", "hMoney.", True),
        ("It is OPS-", "1234.", True),
        ("I need cash.", "Money is all.", False),
        ("I need cash", "Money is all.", False),
        ("I need cash", "-Money is all.", False),
        ("I need cash_", "money is all.", False),
    ],
)
def test_what_two_texts_only_meet_in_is_no_phrase(first: str, second: str, found: bool) -> None:
    assert bool(PHRASES.classify(conversation((Role.USER, first), (Role.ASSISTANT, second)))) is found


def test_turns_of_one_role_meet_across_others() -> None:
    turns = conversation((Role.USER, "blue"), (Role.ASSISTANT, "And then?"), (Role.USER, "bird"))
    assert [(f.message, f.span) for f in PATTERNS.classify(turns) if f.label == "name"] == [(2, (0, 4))]


@pytest.mark.parametrize(
    "turns",
    [
        [(Role.ASSISTANT, "blue"), (Role.ASSISTANT, "bird")],  # two choices of an answer
        [(Role.USER, "blue"), (Role.SETTING, "bird")],
        [(Role.USER, "blue"), (Role.USER, "birdsong")],
        [(Role.USER, "deepblue"), (Role.USER, "bird")],
        [(Role.USER, "blue "), (Role.USER, "bird")],
    ],
)
def test_no_word_where_none_is(turns: list[tuple[Role, str]]) -> None:
    assert [f for f in PATTERNS.classify(conversation(*turns)) if f.label == "name"] == []


def test_a_joint_is_no_end_of_a_text() -> None:
    found = PATTERNS.classify(conversation((Role.USER, "x" * 2 * REACH + "bi"), (Role.USER, "rd")))
    assert found == []


def test_readings_of_parts_and_keys_are_no_turns() -> None:
    messages = [Message(Role.USER, "blue", "/a#key"), Message(Role.USER, "bird", "/b")]
    assert chains(messages) == []
    assert chains(conversation((Role.USER, ""), (Role.USER, "bird"))) == []
