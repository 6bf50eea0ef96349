"""What was judged is not judged again: the same answer, the same scope, and nothing that could give a text away."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.asked import Asked
from classifiers.base import Finding, Message, NoAnswer, Report, Role, Silence
from classifiers.cache import KEPT, LARGEST, Cache
from classifiers.panel import Panel

ALL = frozenset(Role)
HI = Message(Role.USER, "hi", "/a")


def found(*scores: float) -> list[Finding]:
    return [Finding("any", f"label{place}", score, 0, (0, 1)) for place, score in enumerate(scores)]


def test_what_was_put_is_got_until_it_is_old() -> None:
    cache = Cache()
    name = cache.name("a", "0", HI)
    assert cache.get(name, 0) is None
    cache.put(name, found(0.5, 0.7), 0)
    assert cache.get(name, KEPT) == (("label0", 0.5, (0, 1)), ("label1", 0.7, (0, 1)))
    assert cache.get(name, KEPT + 1) is None
    assert len(cache) == 0


DIFFERENT: dict[str, tuple[str, str, Message]] = {
    "scope": ("b", "0", HI),
    "classifier": ("a", "1", HI),
    "role": ("a", "0", replace(HI, role=Role.TOOL_RESULT)),
    "text": ("a", "0", replace(HI, text="hi ")),
    "context": ("a", "0", replace(HI, context="x")),
    "context for text": ("a", "0", replace(HI, text="", context="hi")),
    "scope for digest": ("a0", "", HI),
    "a lone surrogate": ("a", "0", replace(HI, text="\ud800")),
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT)
def test_all_that_matters_is_in_the_name(other: tuple[str, str, Message]) -> None:
    cache = Cache()
    assert cache.name(*other) != cache.name("a", "0", HI)


def test_where_a_text_stands_does_not_matter_and_the_key_is_its_own() -> None:
    cache = Cache()
    assert cache.name("a", "0", HI) == cache.name("a", "0", replace(HI, origin="/elsewhere"))
    assert Cache().name("a", "0", HI) != cache.name("a", "0", HI)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=60))
def test_it_is_bounded_and_forgets_what_was_asked_for_least(events: list[tuple[int, int]]) -> None:
    cache, order = Cache(room=20), list[int]()
    names = [cache.name("", "", replace(HI, text=str(number))) for number in range(10)]
    sizes: dict[int, int] = {}
    for number, count in events:
        cache.put(names[number], found(*[0.5] * count), 0)
        order = [each for each in order if each != number] + [number]
        sizes[number] = 2 + count
        while sum(sizes[each] for each in order) > 20:
            del order[0]
        assert cache._used == sum(sizes[each] for each in order) <= 20
        assert list(cache._known) == [names[each] for each in order]


def test_a_text_full_of_findings_is_not_kept() -> None:
    cache = Cache()
    cache.put(b"x", found(*[0.1] * (LARGEST + 1)), 0)
    assert len(cache) == 0


def test_no_text_is_kept() -> None:
    cache, secret = Cache(), "correct horse battery staple"
    cache.put(cache.name(secret, "0", replace(HI, text=secret, context=secret)), found(0.5), 0)
    gc.collect()
    assert secret not in repr(cache._known)
    assert secret.encode() not in b"".join(cache._known)


@dataclass
class Counting:
    """Finds the letters of a text; `digest` and failures as told."""

    name: str = "counting"
    inline: bool = False
    digest: str = "0"
    labels: frozenset[str] = frozenset("abc")
    fails: Any = None
    read: list[str] = field(default_factory=list)

    def classify(self, messages: Sequence[Message]) -> Sequence[Finding]:
        self.read += [message.text for message in messages]
        made = [
            Finding(self.name, letter, 0.5, index, (at, at + 1))
            for index, message in enumerate(messages)
            for at, letter in enumerate(message.text)
        ]
        if self.fails:
            raise NoAnswer(Silence.UNAVAILABLE, "", made)
        return made


async def ask(panel: Panel, fake: Counting, texts: str, scope: str | None = "me", roles: Any = ALL) -> Report:
    messages = [Message(Role.USER if text.islower() else Role.SYSTEM, text.lower(), "") for text in texts.split()]
    return await panel.report(messages, [Asked(fake, roles, 5.0)], scope)


def spread(report: Report) -> list[Finding]:
    """A finding for each message."""
    return sorted([one for each in report.findings for one in each.each()], key=lambda one: one.message)


async def test_copies_of_a_text_share_what_was_found() -> None:
    panel, fake = Panel(1), Counting()
    texts = [("b", "/0"), ("ab", "/1"), ("ab", "/2"), ("ab", "/3#joined"), ("b", "/4"), ("ab", "/5#joined")]
    messages = [Message(Role.USER, text, origin) for text, origin in texts]
    try:
        for _ in range(2):  # read, and remembered
            report = await panel.report(messages, [Asked(fake, ALL, 5.0)], "me")
            assert [(f.label, f.places) for f in report.findings] == [
                ("b", (0, 4)),
                ("a", (1, 2)),
                ("b", (1, 2)),
                ("a", (3, 5)),  # a derived text has no place that could be masked
                ("b", (3, 5)),
            ]
        assert fake.read == ["b", "ab"]
        assert (panel.counts.read, panel.counts.known) == (2, 10)
    finally:
        panel.close()


async def test_only_what_is_new_in_a_conversation_is_judged() -> None:
    panel, fake = Panel(1), Counting()
    try:
        await ask(panel, fake, "a b")
        report = await ask(panel, fake, "a b c a")
        assert fake.read == ["a", "b", "c"]
        assert [(f.message, f.label, f.span) for f in spread(report)] == [
            (0, "a", (0, 1)),
            (1, "b", (0, 1)),
            (2, "c", (0, 1)),
            (3, "a", (0, 1)),
        ]
        await ask(panel, fake, "c a b")
        assert len(fake.read) == 3
        assert (panel.counts.read, panel.counts.known) == (3, 6)
    finally:
        panel.close()


@pytest.mark.parametrize("scope", [None, "you"])
async def test_nobody_gains_by_what_another_scope_asked(scope: str | None) -> None:
    panel, fake = Panel(1), Counting()
    try:
        await ask(panel, fake, "a")
        await ask(panel, fake, "a", scope)
        assert fake.read == ["a", "a"]
    finally:
        panel.close()


async def test_failures_are_not_remembered_nor_what_came_with_them() -> None:
    panel, fake = Panel(1), Counting(fails=True)
    try:
        assert (await ask(panel, fake, "a b")).failures
        fake.fails = False
        assert not (await ask(panel, fake, "a b")).failures
        assert fake.read == ["a", "b", "a", "b"]
    finally:
        panel.close()


async def test_inline_classifiers_and_changed_ones_are_asked_each_time() -> None:
    panel, inline, changed = Panel(1), Counting(inline=True), Counting()
    try:
        for _ in range(2):
            await ask(panel, inline, "a")
            await ask(panel, changed, "a")
            changed.digest += "0"
        assert inline.read == changed.read == ["a", "a"]
        assert len(panel.cache) == 2
    finally:
        panel.close()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["a", "B", "ab", "cba", "CC"]), max_size=5), max_size=6), st.booleans())
async def test_a_panel_that_remembers_says_what_one_that_does_not_says(rounds: list[list[str]], some: bool) -> None:
    panel, roles = Panel(1), frozenset({Role.USER}) if some else ALL
    try:
        for words in rounds:
            told = await ask(panel, Counting(), " ".join(words), "me", roles)
            plain = await ask(panel, Counting(), " ".join(words), None, roles)
            assert (spread(told), told.unread) == (list(plain.findings), plain.unread)
    finally:
        panel.close()


async def test_a_long_text_is_not_remembered_for_an_inline_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifiers.asking.INLINE_LIMIT", 2)
    monkeypatch.setattr("classifiers.panel.INLINE_LIMIT", 2)
    panel, fake = Panel(1), Counting(inline=True)
    try:
        for _ in range(2):
            report = await ask(panel, fake, "abc a")
            assert len(report.findings) == 4
        assert fake.read == ["abc", "a"] * 2
        assert len(panel.cache) == 0
    finally:
        panel.close()


async def test_a_memory_that_is_given_is_used_instead() -> None:
    panel, fake, memory = Panel(1), Counting(), Cache()
    try:
        for texts in (["a", "a", "b"], ["b", "a"]):
            messages = [Message(Role.ASSISTANT, text, "") for text in texts]
            report = await panel.report(messages, [Asked(fake, ALL, 5.0)], memory=memory)
            assert [(f.message, f.label) for f in spread(report)] == list(enumerate(texts))
        assert fake.read == ["a", "b"]
        assert (len(memory), len(panel.cache)) == (2, 0)
    finally:
        panel.close()
