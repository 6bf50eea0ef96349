"""One value has one name in a conversation, whatever is said later; and a name leads back to its value only."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Message, Role
from policies.decision import Mask
from policies.tokens import Restoring, Tokens

FORM = "<X_{n}>"
VALUE = re.compile(r"[abc]+@")


def said(text: str, role: Role = Role.USER, origin: str = "/messages/0/content") -> Message:
    return Message(role, text, origin)


def masks(messages: list[Message], form: str = FORM, restore: bool = True) -> list[Mask]:
    return [
        Mask(index, found.start(), found.end(), form, restore)
        for index, message in enumerate(messages)
        for found in VALUE.finditer(message.text)
    ]


def sent(messages: list[Message], tokens: Tokens | None = None) -> list[str]:
    """What the model gets."""
    tokens = tokens or Tokens(messages)
    texts = [message.text for message in messages]
    for mask in reversed(tokens.numbered(messages, masks(messages))):
        text = texts[mask.message]
        texts[mask.message] = text[: mask.start] + mask.replacement + text[mask.end :]
    return texts


def restored(text: str, tokens: Tokens, role: Role = Role.ASSISTANT) -> str:
    message = said(text, role)
    for mask in reversed(Restoring(tokens).also([message], ())):
        text = text[: mask.start] + mask.replacement + text[mask.end :]
    return text


words = st.lists(st.sampled_from(["a@", "b@", "c@", "abc@", "<X_1>", "<X_2>", "<X_7>", " and ", "."]), max_size=8)
turns = st.lists(words.map(" ".join), max_size=5).map(lambda texts: [said(text) for text in texts])


@given(turns, turns)
def test_what_is_said_later_changes_no_name(before: list[Message], after: list[Message]) -> None:
    assert sent([*before, *after])[: len(before)] == sent(before)


@given(turns)
def test_one_name_for_one_value_and_none_that_stood_there_before(messages: list[Message]) -> None:
    named: dict[str, str] = {}
    spoken = ""
    for message, text in zip(messages, sent(messages), strict=True):
        literal = VALUE.sub("", message.text)
        for value, name in zip(VALUE.findall(message.text), _names(message.text, text), strict=True):
            if value not in named:
                before = spoken + message.text[: message.text.find(value)]
                assert name not in VALUE.sub("", before)
            assert named.setdefault(value, name) == name
        spoken += literal
    assert len(set(named.values())) == len(named)


def _names(was: str, now: str) -> list[str]:
    """What stands in `now` where values stood in `was`."""
    around = [re.escape(part) for part in VALUE.split(was)]
    found = re.fullmatch(r"(<X_[0-9]+>)".join(around), now)
    assert found is not None
    return list(found.groups())


@given(turns)
def test_what_was_masked_comes_back(messages: list[Message]) -> None:
    tokens = Tokens(messages)
    texts = sent(messages, tokens)
    if tokens.values:
        for message, text in zip(messages, texts, strict=True):
            literal = set(re.findall(r"<X_[0-9]+>", message.text))
            if not literal & tokens.values.keys():
                assert restored(text, tokens) == message.text


def test_a_value_is_escaped_where_json_wants_it() -> None:
    tokens = Tokens(messages := [said('say "a"\\ b@ and x')])
    ((_, _, _, name, _),) = [
        (m.message, m.start, m.end, m.replacement, m.restore)
        for m in tokens.numbered(messages, [Mask(0, 4, 11, FORM, True)])
    ]
    assert (name, tokens.values) == ("<X_1>", {"<X_1>": '"a"\\ b@'})
    for written in ('{"to": "<X_1>"}', '{"to": "\\u003cX_1\\u003e"}', '{"to": "\\u003CX_\\u0031>"}'):
        got = restored(written, tokens, Role.TOOL_CALL)
        if "0031" in written:  # nobody spells a digit so
            assert got == written
        else:
            assert json.loads(got) == {"to": '"a"\\ b@'}
    assert restored("<X_1>", tokens, Role.TOOL_CALL) == '"a"\\ b@'  # the input of a tool that takes no JSON


def test_a_value_in_json_is_the_one_outside() -> None:
    messages = [said("a/b"), said('{"x": "a\\/b"}', Role.TOOL_CALL)]
    found = [Mask(0, 0, 3, FORM, True), Mask(1, 7, 11, FORM, True)]
    assert [mask.replacement for mask in Tokens(messages).numbered(messages, found)] == ["<X_1>", "<X_1>"]


def test_an_answer_goes_on_counting_and_is_not_put_back() -> None:
    asked = [said("a@ <X_2>")]
    tokens = Tokens(asked)
    sent(asked, tokens)
    answer = [said("a@ b@", Role.ASSISTANT)]
    assert [mask.replacement for mask in tokens.numbered(answer, masks(answer))] == ["<X_1>", "<X_3>"]
    assert tokens.values == {"<X_1>": "a@"}
    # A form that only the answer has spares what stands in the request.
    fresh = Tokens([said("<X_1>")])
    assert [mask.replacement for mask in fresh.numbered(answer, masks(answer))] == ["<X_2>", "<X_3>"]
    assert not fresh.values


def test_what_is_masked_in_the_answer_is_not_put_back() -> None:
    tokens = Tokens(asked := [said("a@")])
    sent(asked, tokens)
    answer = [said("<X_1> <X_1>", Role.ASSISTANT)]
    veil = Mask(0, 2, 8, "[HIDDEN]")
    assert Restoring(tokens).also(answer, [veil]) == (veil,)


def test_other_masks_stay_as_they_are() -> None:
    tokens = Tokens(messages := [said("a@ b@")])
    plain, numbered = Mask(0, 0, 2, "[X]"), Mask(0, 3, 5, FORM)
    assert [mask.replacement for mask in tokens.numbered(messages, [plain, numbered])] == ["[X]", "<X_1>"]
    assert not tokens.values
