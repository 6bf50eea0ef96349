"""Many expressions in one pass: the pass never misses what an expression alone would find, or it says so."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.matcher import (
    Exhausted,
    Expression,
    Matcher,
    beginning,
    code_points,
    compile_expression,
    encode,
    find_all,
    is_anchored,
)

PIECES = st.sampled_from(
    [
        "ab",
        "a",
        "é",
        "ß",
        "k",
        "я",
        "日",
        r"\d",
        r"\s+",
        ".",
        "[^a]",
        "(?:a|bc)",
        r"\b",
        "a*",
        "b{2,3}",
        ".{0,40}",
        "z?",
    ]
)
SOURCES = st.lists(PIECES, min_size=1, max_size=5).map("".join)
EXPRESSIONS = st.lists(st.builds(Expression, SOURCES, st.booleans()), min_size=1, max_size=12)
TEXTS = st.text(st.sampled_from("abcABCkKéÉßяЯ日 \n1.\u212a\u017f\U0001f600"), max_size=60)


def matching(expressions: list[Expression], data: bytes) -> set[int]:
    return {i for i, e in enumerate(expressions) if compile_expression(e.source, e.ignore_case).search(data)}


@settings(deadline=None)
@given(EXPRESSIONS, TEXTS, st.sampled_from([0, 40, 256, 1 << 20]))
def test_candidates_miss_nothing(expressions: list[Expression], text: str, heavy: int) -> None:
    # An expression that matches the empty text is refused by `patterns`, since a set reports it nowhere.
    expressions = [e for e in expressions if not compile_expression(e.source, e.ignore_case).search(b"")]
    data = encode(text)
    assert matching(expressions, data) <= set(Matcher(expressions, heavy_program=heavy).candidates(data))


def test_thousands_of_patterns_and_little_memory_against_a_hostile_text() -> None:
    chance = random.Random(7)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(3, 7))) for _ in range(1500)]
    sources = [rf"\b{w}\s+{chance.choice(words)}" for w in words] + [rf"{w}[^.]{{0,9}}{w[::-1]}" for w in words]
    expressions = [Expression(source, True) for source in sources]
    small = Matcher(expressions, set_memory=2 << 20, heavy_program=1 << 20)
    assert len(small._sets) > 1  # it had to be split
    for _ in range(4):
        # Beginnings of patterns, cut anywhere: every one keeps another set of them alive.
        pieces = [
            word[: chance.randint(1, 9)] + chance.choice(["", " ", "  "]) for word in chance.choices(words, k=300)
        ]
        planted = chance.choice(words)
        data = encode("".join(pieces) + planted + " x " + planted[::-1])
        assert matching(expressions, data) == set(small.candidates(data))


class Mute:
    """A set whose automaton ran out of memory answers like this."""

    def Match(self, *_: Any, **__: Any) -> None:  # noqa: N802
        return None


@pytest.mark.parametrize("heavy", [0, 1 << 20])
def test_an_exhausted_automaton_raises(heavy: int) -> None:
    matcher = Matcher([Expression("needle")], heavy_program=heavy)
    parts = matcher._filters if heavy == 0 else matcher._sets
    assert len(parts) == 1
    parts[0] = (Mute(), *parts[0][1:])
    with pytest.raises(Exhausted):
        matcher.candidates(b"a haystack")


@given(st.text(), st.lists(st.integers(0, 40)))
def test_offsets_in_code_points(text: str, places: list[int]) -> None:
    data = text.encode()
    at = {len(text[:place].encode()): min(place, len(text)) for place in places}
    assert code_points(data, at) == at


@given(st.text(st.characters(exclude_categories=())))
def test_encoding_keeps_the_length(text: str) -> None:
    assert len(encode(text).decode()) == len(text)


@given(st.text(st.sampled_from("ab é日\U0001f600")))
def test_find_all_in_code_points(text: str) -> None:
    assert all(text[start:end] == "é" for start, end in find_all(compile_expression("é"), text))
    assert len(find_all(compile_expression("é"), text)) == text.count("é")


COUNTED = st.lists(
    st.sampled_from(["ab", "a", "[ab]", "(?:a|b)", "(a|bc)", "(?:ab{9})", r"\d", ".", "a{9}", "[ab]{3,20}", "b{0,12}",
                     "a|b", "x", r"\Qa{9}\E", "é", r"\141{0,9}", r"\x62{0,9}"]),
    min_size=1,
    max_size=5,
).map("".join)  # fmt: skip


@given(COUNTED, st.text(st.sampled_from("abc1é\n"), max_size=40))
def test_a_beginning_matches_wherever_the_whole_does(source: str, text: str) -> None:
    short = beginning(source)
    if short is not None and compile_expression(source).search(text.encode()):
        assert compile_expression(short).search(text.encode())


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("key-[a-z]{40}", "key-[a-z]{8}"),
        ("(?i)key[0-9]{20,}", "(?i)key[0-9]{8}"),
        ("bomb.{0,60}[0-9]", "bomb"),
        ("bomb.{0,60}recipe", None),  # its literals say more
        ("key|a{40}", None),
        ("(?:key|a{40})", None),
        ("a{3}", None),
        (r"a\{20}", None),
        ("[a{20}]b", None),
        (r"c\101{0,300}b", "c"),
        (r"c\x41{0,300}b", "c"),
        (r"c\pN{0,300}b", "c"),
    ],
)
def test_beginnings(source: str, short: str | None) -> None:
    assert beginning(source) == short


def test_a_large_expression_with_a_small_beginning_needs_no_filter() -> None:
    expressions = [Expression("key-[a-z0-9]{40,250}", True), Expression("bomb.{0,250}recipe", True)]
    matcher = Matcher(expressions)
    assert [members for _, members, _ in matcher._filters] == [(1,)]
    data = b"KEY-" + b"a1" * 20 + b" key-a1a1a1a1 bomb a recipe"
    assert sorted(matcher.hits(data)) == [0, 1]
    assert sorted(matcher.candidates(data[45:])) == [0, 1]
    assert matcher.hits(data[45:]) == [1]


@pytest.mark.parametrize("source", ["^a", "a$", r"\Aa", r"a\z", "(?m)^a$", r"\Qa$\E", "(?:^|b)a"])
def test_anchored(source: str) -> None:
    assert is_anchored(source)


@pytest.mark.parametrize("source", [r"\$5", "[$^]a", "[^a]b", r"\ba\b", r"\^", r"\pLz", r"\x{24}"])
def test_not_anchored(source: str) -> None:
    assert not is_anchored(source)
