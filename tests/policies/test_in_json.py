"""Whatever is masked in JSON, JSON is left, with nothing of what was masked; and a value in it is the one outside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from classifiers.base import Message, Role
from policies.decision import Mask
from policies.in_json import Growing, Json, Texts, placed, spelled
from policies.tokens import Restoring, Tokens

ROLES = st.sampled_from([Role.ASSISTANT, Role.USER, Role.TOOL_CALL])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["a\nb", 'q"\\', "é😀/"])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
).filter(lambda tree: isinstance(tree, list | dict))
WRITTEN = st.builds(
    lambda tree, ascii, indent: json.dumps(tree, ensure_ascii=ascii, indent=indent),
    TREES, st.booleans(), st.sampled_from([None, 1]),
)  # fmt: skip
REPLACEMENTS = st.sampled_from(["[X]", '<"{n}">', "\\", "C:\\new", "\n"])


class Token(NamedTuple):
    """The inner part of a string, or a number or word."""

    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Of JSON, letter by letter."""
    found, at = list[Token](), 0
    while at < len(text):
        start = at
        at += 1
        if text[start] == '"':
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
            found.append(Token(start + 1, min(at, len(text))))
            at += 1
        elif text[start] not in "{}[]:, \n":
            while at < len(text) and text[at] not in "{}[]:, \n":
                at += 1
            found.append(Token(start, at))
    return found


def fitted(text: str, masks: Sequence[Mask], role: Role = Role.ASSISTANT) -> str:
    texts = Texts([Message(role, text, "/x")])
    for mask in reversed(spelled(texts, placed(texts, masks))):
        text = text[: mask.start] + mask.replacement + text[mask.end :]
    return text


@st.composite
def masked(draw: st.DrawFn) -> tuple[str, list[Mask]]:
    text = draw(WRITTEN)
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = zip(places[::2], places[1::2], strict=False)
    return text, [Mask(0, start, end, draw(REPLACEMENTS)) for start, end in spans]


def shape(tree: Any) -> Any:
    """What is left of JSON when its values are forgotten."""
    if isinstance(tree, list):
        return [shape(inner) for inner in tree]
    return {str(at): shape(inner) for at, (_, inner) in enumerate(tree.pairs)} if isinstance(tree, Object) else ""


class Object:
    """One that may have a key twice: two keys that are masked alike."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=Object)


@given(masked(), ROLES)
@example(('{"card": 4111111111111111}', [Mask(0, 9, 25, "[X]")]), Role.ASSISTANT)
@example(('{"password": "hunter2"}', [Mask(0, 2, 21, "[X]")]), Role.ASSISTANT)
@example(('["\\ud83d\\ude00"]', [Mask(0, 5, 9, "[X]")]), Role.USER)
def test_json_stays_json(case: tuple[str, list[Mask]], role: Role) -> None:
    """Of its own shape, and nothing that a mask covers of a value can be read any more."""
    text, masks = case
    touched = [mask for mask in masks if any(t.start < min(mask.end, t.end) > mask.start for t in tokens(text))]
    assert shape(parsed(fitted(text, touched, role))) == shape(parsed(text))
    for mask in touched:
        texts = Texts([Message(role, text, "/x")])
        taken = {at for part in placed(texts, [mask]) for at in range(part.start, part.end)}
        for token in tokens(text):
            missed = set(range(max(token.start, mask.start), min(token.end, mask.end))) - taken
            assert all(text[at] in "\\bfnrt" for at in missed)  # halves of an escaped blank


@given(masked())
def test_twice_is_once(case: tuple[str, list[Mask]]) -> None:
    text, masks = case
    texts = Texts([Message(Role.ASSISTANT, text, "/x")])
    once = placed(texts, masks)
    assert placed(texts, once) == once
    assert spelled(texts, spelled(texts, once)) == spelled(texts, once)


@pytest.mark.parametrize(
    ("text", "covered", "becomes"),
    [
        ('{"n": [1, 4111, true]}', "4111", '{"n": [1, "<\\"x\\">", true]}'),
        ('{"n": -4111.5e3}', "411", '{"n": "<\\"x\\">"}'),
        ('{"n": "to 4111"}', "4111", '{"n": "to <\\"x\\">"}'),
        ('{"m": "hi\\nbob@x.y"}', "nbob@x.y", '{"m": "hi\\n<\\"x\\">"}'),  # the n is no letter of the name
        ('{"m": "hi\\u0062ob@x.y"}', "u0062ob@x.y", '{"m": "hi<\\"x\\">"}'),  # the b is one
        ('{"m": "C:\\\\new"}', "\\new", '{"m": "C:<\\"x\\">"}'),
        ('{"pass": "word"}', 'ss": "wo', '{"pa<\\"x\\">": "<\\"x\\">rd"}'),
        ('{"a": {}}', "{}", '{"a": <"x">}'),  # nothing but brackets: it is done as it was asked for
        ("[1] see 4111", "4111", '[1] see <"x">'),  # no JSON: as it is
        ("pay 4111", "4111", 'pay <"x">'),
        ('"4111"', "4111", '"<"x">"'),  # words in quotes
        ('{"a": "4111', "4111", '{"a": "<"x">'),  # it ends before it is one
    ],
)
def test_what_stands_there_afterwards(text: str, covered: str, becomes: str) -> None:
    start = text.rindex(covered)
    assert fitted(text, [Mask(0, start, start + len(covered), '<"x">')]) == becomes


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('{"b": tru, "a": "4111"}', '{"b": tru, "a": "<\\"x\\">"}'),
        ('{"a": "4111", "b": tru', '{"a": "<\\"x\\">", "b": tru'),
        ('{"a": "4111', '{"a": "<\\"x\\">'),
        ('{"a": 4111', '{"a": "<\\"x\\">"'),
        ("[ -f 4111 ]", '[ -f <"x"> ]'),
        ("{ echo 4111; }", '{ echo <"x">; }'),
        ('{ echo "4111"; }', '{ echo "<"x">"; }'),
        # Frameworks mend what is nearly JSON: in its strings it is as in JSON, and elsewhere as it is.
        ('{"a": "4111", "n": True}', '{"a": "<\\"x\\">", "n": True}'),
        ('{"a": "4111"}</tool_call>', '{"a": "<\\"x\\">"}</tool_call>'),
        ('{"a": "4111",} // ends', '{"a": "<\\"x\\">",} // ends'),
        ('{a: "say \\"4111", b: 0x1F}', '{a: "say \\"<\\"x\\">", b: 0x1F}'),
        ("{'a': '4111'}", "{'a': '<\"x\">'}"),
        ('[undefined, "4111"]', '[undefined, "<\\"x\\">"]'),
        ('{"n": True, "a": 4111}', '{"n": True, "a": <"x">}'),
    ],
)
def test_a_call_that_was_cut_short_is_json_and_a_command_is_none(text: str, becomes: str) -> None:
    start = text.index("4111")
    assert fitted(text, [Mask(0, start, start + 4, '<"x">')], Role.TOOL_CALL) == becomes


LONG = st.lists(st.text('ab"\\\\\\n,{\U0001f600', max_size=60) | st.integers(), max_size=3).map(json.dumps)


@given(WRITTEN | LONG, st.lists(st.integers(0, 40), max_size=9), st.data())
def test_a_text_that_grows_is_read_as_the_whole(text: str, steps: list[int], data: st.DataObject) -> None:
    """Whatever is asked of a window of it, and however much of it is there."""
    growing, end, since = Growing(), 0, 0
    for step in [*steps, len(text)]:
        end = min(end + step, len(text))
        now = text[:end]
        since = min(since, end)
        if now.strip():
            part, whole = growing.json(now, since), Growing().json(now, 0)
            assert part is not None
            assert whole is not None
            for _ in range(3):
                low = data.draw(st.integers(since, end))
                high = data.draw(st.integers(low, end))
                places = [(start + since, stop + since) for start, stop in part.parts(low - since, high - since)]
                assert places == list(whole.parts(low, high))
        since = max(since, end - 7)


@pytest.mark.parametrize("text", ["[] and", '{"a": 1} {b}', "[\"a\" 'b']", "so", "[tru, 1]"])
def test_a_text_that_grows_and_is_no_json(text: str) -> None:
    assert Growing().json(text, 0) is None


@given(masked())
def test_masks_in_any_order_have_their_places(case: tuple[str, list[Mask]]) -> None:
    """What is remembered from one mask for the next changes nothing."""
    text, masks = case
    at_once = Json(text)
    for mask in [*masks, *reversed(masks)]:
        assert list(at_once.parts(mask.start, mask.end)) == list(Json(text).parts(mask.start, mask.end))


def growth(cost: Callable[[int], None], count: int) -> float:
    """How many times as long it takes with four times as many."""

    def best(count: int) -> float:
        times: list[float] = []
        for _ in range(3):
            began = time.process_time()
            cost(count)
            times.append(time.process_time() - began)
        return min(times)

    return best(4 * count) / best(count)


def test_masks_in_a_long_string_cost_as_many_times_more_as_there_are() -> None:
    """Also where the string is not the last one: each mask had looked for its end, and for its beginning."""

    def cost(count: int) -> None:
        text = json.dumps({"a": "bob@x.y and so on\n" * count, "b": 1})
        masks = [Mask(0, at, at + 7, "[X]") for at in range(7, 7 + 19 * count, 19)]
        texts = Texts([Message(Role.TOOL_CALL, text, "/x")])
        there = placed(texts, masks)
        assert [(mask.start, mask.end) for mask in there] == [(mask.start, mask.end) for mask in masks]
        assert len(spelled(texts, there)) == count
        assert {texts.value(mask) for mask in there} == {"bob@x.y"}

    assert growth(cost, 1000) < 9


@pytest.mark.parametrize("unit", ["and \\\\n so <X_1> on ", "1, ", '"a", '])
def test_a_text_that_grows_costs_as_many_times_more_as_it_is_long(unit: str) -> None:
    """Each window of it had read an open string from its beginning."""

    def cost(count: int) -> None:
        text, growing = ('["' if unit[0] == "a" else "[") + unit * count, Growing()
        for end in range(1000, len(text), 150):
            found = growing.json(text[:end], end - 500)
            assert found is not None
            assert list(found.parts(100, 103))

    assert growth(cost, 60_000 // len(unit)) < 9


NEARLY = [
    '{"p":"<P_1>"}</tool_call>',
    '{"p":"<P_1>","n":True}',
    '{"p":"a <P_1>","n":undefined}',
    '{"p":"<P_1>","n":0x1F}',
    '{"p":"<P_1>",} // as said',
    '```no\n{"p":"<P_1>"}',
    '[// first\n"<P_1>"]',
]


@pytest.mark.parametrize("text", NEARLY)
@pytest.mark.parametrize("value", ['C:\\temp"x', "C:\\temp", "two\nlines"])
def test_a_value_comes_back_escaped_into_what_is_nearly_json(text: str, value: str) -> None:
    """And what it says there is the same value again when the call comes with the next request."""
    asked = [Message(Role.USER, f"open {value} now", "/0")]
    names = Tokens(asked)
    names.numbered(asked, [Mask(0, 5, 5 + len(value), "<P_{n}>", True)])
    call = Message(Role.TOOL_CALL, text, "/x")
    [mask] = Restoring(names).also([call], ())
    inside = json.dumps(value)[1:-1] if text[0] in "{[" else value
    assert (mask.replacement, mask.spelled) == (inside, text[0] in "{[")
    again = Message(Role.TOOL_CALL, text.replace("<P_1>", mask.replacement), "/1")
    spot = Mask(1, mask.start, mask.start + len(mask.replacement), "<P_{n}>", True)
    both = [*asked, again]
    assert {
        named.replacement for named in Tokens(both).numbered(both, [Mask(0, 5, 5 + len(value), "<P_{n}>", True), spot])
    } == {"<P_1>"}


VALUES = st.text(st.sampled_from('ab"\\/n\n\té'), min_size=1, max_size=6)


@given(VALUES, st.booleans())
def test_one_value_has_one_name_and_comes_back_in_every_spelling(value: str, ascii: bool) -> None:
    """In words, in JSON of whatever role, and in what a tool is called with that is none."""
    spelling = json.dumps(value, ensure_ascii=ascii)[1:-1]
    said = [
        (Role.USER, "see ", value, ""), (Role.USER, '{"a": "', spelling, '"}'), (Role.TOOL_CALL, '["', spelling, '"]'),
        (Role.TOOL_CALL, "type ", value, ""), (Role.TOOL_RESULT, '{"b": ["x ', spelling, ' x"]}'),
    ]  # fmt: skip
    asked = [Message(role, before + shown + after, f"/{at}") for at, (role, before, shown, after) in enumerate(said)]
    masks = [
        Mask(at, len(before), len(before) + len(shown), "<X_{n}>", True)
        for at, (_, before, shown, _) in enumerate(said)
    ]
    names = Tokens(asked)
    assert {mask.replacement for mask in names.numbered(asked, masks)} == {"<X_1>"}
    assert names.values == {"<X_1>": value}
    for role in (Role.ASSISTANT, Role.TOOL_CALL, Role.REASONING):
        for text in ('{"a": "<X_1>"}', ' [1, {"<X_1>": ["b <X_1> b"]}]\n'):
            answer = [Message(role, text, "/x")]
            got = fitted(text, Restoring(names).also(answer, ()), role)
            assert json.loads(got) == json.loads(text.replace("<X_1>", json.dumps(value)[1:-1]))
        assert fitted("it is <X_1>", Restoring(names).also([Message(role, "it is <X_1>", "/x")], ()), role) == (
            f"it is {value}"
        )
