"""A finding in a joined text is left out only where a part of it has the very same one: else it could not be masked.
One in a call without its escapes is masked where it is written."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.base import Finding, Message, Report, Role
from proxy.dialects.escapes import Unescaped, decoded
from proxy.located import located

# (texts of the parts, what was found in which of them as (part, start, end), what in the joined text) -> what is left
CASES: dict[str, tuple[list[str], list[tuple[int, int, int]], list[tuple[int, int]], int]] = {
    "in one part": (["a SECRET", "b"], [(0, 2, 8)], [(2, 8)], 0),
    "in each part": (["a SECRET", "SECRET"], [(0, 2, 8), (1, 0, 6)], [(2, 8), (8, 14)], 0),
    "over two parts": (["a SEC", "RET"], [], [(2, 8)], 1),
    "in one and over two": (["SECRET SEC", "RET"], [(0, 0, 6)], [(0, 6), (7, 13)], 1),
    "in one where the other hides it": (["SEC", "RET SECRET", "S"], [(1, 4, 10)], [(0, 6)], 1),
    "longer than in the part": (["a SECRET", "S"], [(0, 2, 8)], [(2, 9)], 1),
    "behind an empty part": (["", "", "a SECRET"], [(2, 2, 8)], [(2, 8)], 0),
}


def report(found: list[Finding]) -> Report:
    return Report(findings=tuple(found))


@pytest.mark.parametrize(("texts", "parts", "joined", "left"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("/content/{}/text", "#joined"),
        ("/content/{}", "#joined"),
        ("/content/{}/thinking", "#thoughts"),
        ("/content/{}/content/0/text", "#said"),
    ],
)
@pytest.mark.parametrize("copies", [1, 2])
def test_what_a_part_has_too(
    texts: list[str],
    parts: list[tuple[int, int, int]],
    joined: list[tuple[int, int]],
    left: int,
    form: str,
    name: str,
    copies: int,
) -> None:
    """Also where all of it was read before in another role."""
    messages: list[Message] = []
    found: list[Finding] = []
    for role in (Role.TOOL_RESULT, Role.USER)[-copies:]:
        first = len(messages)
        messages += [Message(role, text, form.format(index)) for index, text in enumerate(texts)]
        messages.append(Message(role, "".join(texts), "/content" + name))
        found += [Finding("c", "secret", 1.0, first + part, (start, end)) for part, start, end in parts]
        found += [Finding("c", "secret", 1.0, first + len(texts), span) for span in joined]
    kept = located(messages, report(found)).findings
    assert [finding for finding in kept if "#" not in messages[finding.message].origin] == [
        finding for finding in found if "#" not in messages[finding.message].origin
    ]
    assert [finding.span for finding in kept if "#" in messages[finding.message].origin] == [None] * left * copies


OTHERS = {
    "another label": Finding("c", "other", 1.0, 0, (2, 8)),
    "another classifier": Finding("d", "secret", 1.0, 0, (2, 8)),
    "less sure": Finding("c", "secret", 0.5, 0, (2, 8)),
    "no place": Finding("c", "secret", 1.0, 0, None),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_another_finding_is_not_the_same(other: Finding) -> None:
    messages = [
        Message(Role.USER, "a SECRET", "/content/0"),
        Message(Role.USER, "b", "/content/1"),
        Message(Role.USER, "a SECRETb", "/content#joined"),
    ]
    kept = located(messages, report([other, Finding("c", "secret", 1.0, 2, (2, 8))])).findings
    assert kept == (other, Finding("c", "secret", 1.0, 2, None))


def test_keys_and_texts_of_other_lists_do_not_count() -> None:
    messages = [
        Message(Role.USER, "SECRET", "/content/0/title"),
        Message(Role.USER, "SECRET", "/content/0/x#key"),
        Message(Role.USER, "SEC", "/content/1/text"),
        Message(Role.USER, "RET", "/content/2/text"),
        Message(Role.USER, "SECRET", "/content#joined"),
    ]
    found = [Finding("c", "secret", 1.0, index, (0, 6)) for index in (0, 1, 4)]
    assert [finding.span for finding in located(messages, report(found)).findings] == [(0, 6), None, None]


def test_what_others_say_between_messages_is_no_part_of_what_the_model_said() -> None:
    messages = [
        Message(Role.ASSISTANT, "a SECRET", "/output/0/content/0/text"),
        Message(Role.REASONING, "well", "/output/1/content/0/text"),
        Message(Role.ASSISTANT, "b", "/output/2/content/0/text"),
        Message(Role.ASSISTANT, "a SECRETb", "/output#said"),
    ]
    found = [Finding("c", "secret", 1.0, index, (2, 8)) for index in (0, 3)]
    assert located(messages, report(found)).findings == (found[0],)


def left(text: str, *found: tuple[str, int, int]) -> list[tuple[int, tuple[int, int] | None]]:
    """What is left of findings in a call: those in `raw`, and those in what it says without escapes."""
    said = decoded(text)
    messages = [Message(Role.TOOL_CALL, text, "/f/arguments"), Message(Role.TOOL_CALL, said, "/f/arguments#decoded")]
    findings = [Finding("c", "secret", 1.0, int(where == "said"), (start, end)) for where, start, end in found]
    return [(each.message, each.span) for each in located(messages, report(findings)).findings]


def test_what_is_found_without_escapes_has_its_place_in_what_is_written() -> None:
    text = '{"text":"Dear\\nann@x is here","b":["\\u0061nn@x",1]}'
    said = decoded(text)
    assert said == "text\nDear\nann@x is here\nb\nann@x"
    one, two = said.index("ann"), said.rindex("ann")
    first, second = text.index("ann"), text.index("\\u0061")
    assert left(text, ("said", one, one + 5)) == [(0, (first, first + 5))]
    assert left(text, ("said", two, two + 5)) == [(0, (second, second + 10))]
    # A letter of the escape was taken for one of the address.
    assert left(text, ("raw", first - 1, first + 5), ("said", one, one + 5)) == [(0, (first, first + 5))]
    assert left(text, ("raw", first - 1, first + 5)) == [(0, (first - 2, first + 5))]
    assert left(text, ("raw", first - 1, first + 5), ("said", one + 1, one + 9)) == [
        (0, (first - 2, first + 5)),
        (0, (first + 1, first + 9)),
    ]
    # Found in both it is one; over two strings it has no place.
    assert left(text, ("raw", first, first + 5), ("said", one, one + 5)) == [(0, (first, first + 5))]
    assert left(text, ("said", one, two)) == [(1, None)]


def test_what_is_no_json_has_all_of_it_masked() -> None:
    """Its backslashes may be letters to who reads it."""
    text = "print(\\nann@x"
    assert left(text, ("raw", 7, 12), ("said", 7, 11)) == [(0, (6, 12)), (0, (8, 12))]


KEYS = st.text('ab\\"\n\u00e9\U0001f600/', max_size=6)
TREES = st.recursive(KEYS | st.integers(), lambda some: st.lists(some) | st.dictionaries(KEYS, some), max_leaves=6)


@given(TREES, st.booleans(), st.data())
def test_whatever_is_masked_in_it_leaves_json(tree: Any, ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only)
    reading, said = Unescaped(text), decoded(text)
    assert reading.strict
    assert sorted(said.split("\n")) == sorted("\n".join(_strings(tree)).split("\n"))
    if said:
        start = data.draw(st.integers(0, len(said) - 1))
        end = data.draw(st.integers(start + 1, len(said)))
        if (place := reading.written((start, end))) is not None:
            assert decoded(f'"{text[slice(*place)]}"') == said[start:end]
            json.loads(f"{text[: place[0]]}X{text[place[1] :]}")
        else:
            assert "\n" in said[start:end]
    strings = [found.span(1) for found in re.finditer(r'"((?:[^"\\]|\\.)*)"', text) if found[1]]
    if strings:
        first, last = data.draw(st.sampled_from(strings))
        start = data.draw(st.integers(first, last - 1))
        place = reading.widened((start, data.draw(st.integers(start + 1, last))))
        json.loads(f"{text[: place[0]]}X{text[place[1] :]}")


@given(st.text('ab\\u0123456789dD"n{', max_size=20), st.data())
def test_of_what_is_no_json_each_letter_has_its_place_too(text: str, data: st.DataObject) -> None:
    text = "x" + text
    reading, said = Unescaped(text), decoded(text)
    assert not reading.strict
    start = data.draw(st.integers(0, len(said) - 1))
    place = reading.written((start, start + 1))
    assert place is not None
    assert decoded("x" + text[slice(*place)]) == "x" + said[start]
    assert decoded(text[: place[0]]) == said[:start]


def test_many_findings_in_a_call_of_many_escapes_cost_as_many_times_more() -> None:
    """Four times as much of both: 16 times the time where each finding walked over all escapes."""

    def cost(count: int) -> float:
        text = '{"a":"' + "ann@x \\n" * count + "\\n" * 40 * count + '"}'
        messages = [
            Message(Role.TOOL_CALL, text, "/f/arguments"),
            Message(Role.TOOL_CALL, decoded(text), "/f/arguments#decoded"),
        ]
        found = report([Finding("c", "mail", 1.0, 1, (2 + 7 * at, 7 + 7 * at)) for at in range(count)])
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            places = [finding.span for finding in located(messages, found).findings]
            best = min(best, time.process_time() - began)
            assert places == [(6 + 8 * at, 11 + 8 * at) for at in range(count)]
        return best

    assert cost(800) < 9 * cost(200)


@pytest.mark.parametrize("unit", ["\\n", "\\ud83d\\ude00", "ab\\n"])
@pytest.mark.parametrize("end", ['"]', '" and'])
def test_to_read_a_call_takes_little_more_than_it_says(unit: str, end: str) -> None:
    """In bytes for each letter, where it had been hundreds for each escape."""

    def peak(count: int) -> int:
        text = '["' + unit * count + end
        tracemalloc.start()
        decoded(text)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    count = 40_000
    assert peak(4 * count) - peak(count) < 20 * 3 * count * len(unit)


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for inner in [*tree, *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _strings(inner)
