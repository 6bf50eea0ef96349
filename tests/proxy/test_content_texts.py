"""What is gathered of an exchange: all that was judged, and nothing that the policy masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.base import Finding, Message, Role
from policies.engine import Decision, Fired, Mask
from policies.forms import Mode
from policies.model import Action, OnBlock, Stage
from proxy.content.texts import WITHHELD, Texts
from proxy.gate import Question

VEIL = frozenset({"veil"})


def fired(
    rule: str, action: Action, *findings: Finding, mode: Mode = Mode.ENFORCE, not_evaluated: bool = False
) -> Fired:
    return Fired("p", rule, action, mode, "r", "m", OnBlock.ERROR, (), findings, not_evaluated)


def found(message: int, *span: int) -> Finding:
    return Finding("veil", "secret", 1.0, message, (span[0], span[1]) if span else None)


def said(*texts: str | tuple[str, str]) -> list[Message]:
    """Messages with these texts, and where told these origins."""
    pairs = [(f"/{at}", text) if isinstance(text, str) else text for at, text in enumerate(texts)]
    return [Message(Role.USER, text, origin) for origin, text in pairs]


def kept(messages: Sequence[Message], decision: Decision) -> list[str]:
    texts = Texts(VEIL, 10_000)
    texts.saw(decision, messages, ())
    return [text for _, _, text in texts.plain()["input"]["texts"]]


MASKED = fired("veil", Action.MASK, found(0, 2, 5))
PART = [("/m/0/text", "a KEY"), ("/m/1/text", "b"), ("/m#joined", "a KEYb")]
CASES: list[tuple[str, Sequence[Any], Decision, list[str]]] = [
    ("nothing found", ["a KEY", "b"], Decision(Action.PASS), ["a KEY", "b"]),
    ("masked", ["a KEY b"], Decision(Action.MASK, (MASKED,), (Mask(0, 2, 5, "[X]"),)), ["a [X] b"]),
    ("a mask with a number", ["a KEY b"], Decision(Action.MASK, (MASKED,), (Mask(0, 2, 5, "[X_{n}]"),)), ["a [X_#] b"]),
    (
        "several masks in one text",
        ["a KEY b KEY"],
        Decision(Action.MASK, (MASKED,), (Mask(0, 2, 5, "[X]"), Mask(0, 8, 11, "[Y]"))),
        ["a [X] b [Y]"],
    ),
    (
        "masked, and blocked by another rule",
        ["a KEY b"],
        Decision(Action.BLOCK, (fired("stop", Action.BLOCK), MASKED)),
        ["a [SECRET] b"],
    ),
    (
        "masked twice over one place, and blocked",
        ["a KEY b"],
        Decision(
            Action.BLOCK, (fired("stop", Action.BLOCK), fired("veil", Action.MASK, found(0, 2, 4), found(0, 3, 5)))
        ),
        ["a [SECRET] b"],
    ),
    (
        "to be masked and without a place",
        ["a disguised", "b"],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, found(0)),)),
        [WITHHELD, "b"],
    ),
    (
        "without a place in what was derived",
        [("/m", "a64"), ("/m#decoded", "a KEY"), ("/n", "b")],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, found(1)),)),
        [WITHHELD, "b"],
    ),
    (
        "without a place in what was joined",
        [*PART, ("/mm", "c")],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, found(2)),)),
        [WITHHELD, WITHHELD, "c"],
    ),
    (
        "what is derived repeats what is masked",
        PART,
        Decision(Action.MASK, (MASKED,), (Mask(0, 2, 5, "[X]"),)),
        ["a [X]", "b"],
    ),
    ("what is derived is kept otherwise", PART, Decision(Action.PASS), ["a KEY", "b", "a KEYb"]),
    (
        "a rule that masks could not be evaluated",
        ["a KEY", "b"],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, not_evaluated=True),)),
        [WITHHELD, WITHHELD],
    ),
    (
        "it fired on facts alone, and there is no place",
        ["a KEY"],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK),)),
        [WITHHELD],
    ),
    (
        "copies of a text that was found somewhere",
        ["a KEY", "b", "a KEY"],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, Finding("veil", "secret", 1.0, 0, (2, 5), "", (2,))),)),
        ["a [SECRET]", "b", "a [SECRET]"],
    ),
    (
        "and where that has no place",
        ["a KEY", "b", "a KEY"],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, Finding("veil", "secret", 1.0, 0, None, "", (2,))),)),
        [WITHHELD, "b", WITHHELD],
    ),
    (
        "read from one place in two roles, and blocked",
        [("/a", "a KEY"), ("/a", "a KEY"), ("/b", "a KEY")],
        Decision(Action.BLOCK, (fired("veil", Action.BLOCK, found(0, 2, 5)),)),
        ["a [SECRET]", "a [SECRET]", "a KEY"],
    ),
    (
        "a shadow masks nothing",
        ["a KEY"],
        Decision(Action.PASS, shadow=(fired("veil", Action.MASK, found(0, 2, 5), mode=Mode.SHADOW),)),
        ["a KEY"],
    ),
    (
        "a rule that blocks leaves the text for its reviewer",
        ["a KEY"],
        Decision(Action.BLOCK, (fired("stop", Action.BLOCK, found(0, 2, 5)),)),
        ["a KEY"],
    ),
]


@pytest.mark.parametrize(("messages", "decision", "texts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_kept(messages: Sequence[Any], decision: Decision, texts: list[str]) -> None:
    assert kept(said(*messages), decision) == texts


def test_several_looks_and_places() -> None:
    texts = Texts(VEIL, 100)
    texts.saw(Decision(Action.PASS), said("a"), [(Message(Role.USER, "", "/1"), "image")])
    texts.saw(Decision(Action.PASS), said("b"), ())
    texts.saw(Decision(Action.PASS, stage=Stage.OUTPUT), said("c"), ())
    plain = texts.plain()
    assert plain["input"] == {
        "texts": [["user", "/0", "a"], ["user", "/0", "b"]], "places": [["user", "/1", "image"]], "masked": False,
    }  # fmt: skip
    assert [text for _, _, text in plain["output"]["texts"]] == ["c"]


def test_too_much_is_not_held() -> None:
    texts = Texts(VEIL, 10)
    texts.saw(Decision(Action.PASS), said("12345678"), ())
    assert not texts.over
    texts.saw(Decision(Action.PASS), said("901"), ())
    assert texts.over
    assert texts.plain() == {}
    texts.saw(Decision(Action.PASS), said("1"), ())
    assert texts.plain() == {}


def test_the_rules_that_fired() -> None:
    texts = Texts(VEIL, 10)
    shadow = fired("quiet", Action.BLOCK, mode=Mode.SHADOW)
    texts.saw(Decision(Action.LOG, (fired("note", Action.LOG),), shadow=(shadow,)), said("a"), ())
    assert texts.rules == {"note", "quiet"}


@settings(max_examples=20)
@given(st.text(max_size=30), st.data())
def test_a_stream_in_windows_is_one_text(text: str, data: st.DataObject) -> None:
    """Whatever the windows: each begins at or before the end of what was judged."""
    texts = Texts(VEIL, 1000)
    texts.streams = True
    end = 0
    while True:
        start = data.draw(st.integers(0, end))
        end = data.draw(st.integers(end, len(text)))
        window(texts, text[start:end], start)
        if end == len(text):
            break
    assert told(texts) == text


@settings(max_examples=20)
@given(st.data())
def test_masks_of_a_stream_stand_where_they_were_found(data: st.DataObject) -> None:
    """Each window masks what it sees of the secret, half of it too."""
    before, after = data.draw(st.text("ab ", max_size=12)), data.draw(st.text("ab ", max_size=12))
    text, at = f"{before}KEY{after}", len(before)
    texts = Texts(VEIL, 1000)
    texts.streams = True
    for end in range(1, len(text) + 1):
        start = data.draw(st.integers(0, min(end - 1, at)))
        seen = (max(start, at), min(end, at + 3))
        masks = [Mask(0, seen[0] - start, seen[1] - start, "[X]")] if seen[0] < seen[1] else []
        window(texts, text[start:end], start, masks)
    assert told(texts) == f"{before}[X]{after}"


def test_a_stream_with_a_gap_is_withheld() -> None:
    texts = Texts(VEIL, 1000)
    texts.streams = True
    window(texts, "abc", 0)
    window(texts, "xyz", 5)
    assert told(texts) == WITHHELD


@pytest.mark.parametrize("where", [0, 1])
def test_a_stream_that_is_blocked_for_want_of_a_place(where: int) -> None:
    """In the text itself, or in what a tool call's text reads without its escapes, which is judged beside it."""
    texts = Texts(VEIL, 1000)
    texts.streams = True
    window(texts, "abc", 0)
    question = Question(tuple(said("abcdef")), ("/0",), (0,), (6,))
    texts.window(question, Decision(Action.BLOCK, (fired("veil", Action.BLOCK, found(where)),), stage=Stage.OUTPUT))
    assert told(texts) == WITHHELD


def window(texts: Texts, text: str, start: int, masks: Sequence[Mask] = ()) -> None:
    question = Question(tuple(said(text)), ("/0",), (start,), (start + len(text),))
    if masks:
        decision = Decision(Action.MASK, (fired("veil", Action.MASK),), tuple(masks), stage=Stage.OUTPUT)
    else:
        decision = Decision(Action.PASS, stage=Stage.OUTPUT)
    texts.saw(decision, question.messages, ())  # as the exchange notes it
    texts.window(question, decision)


def told(texts: Texts) -> str:
    output = texts.plain().get("output", {"texts": [["", "", ""]]})
    ((_, _, text),) = output["texts"]
    return str(text)
