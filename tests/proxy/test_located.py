"""A finding in a joined text is left out only where a part of it has the very same one: else it could not be masked."""

from __future__ import annotations

import pytest

from classifiers.base import Finding, Message, Report, Role
from proxy.guard import _located

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
    "form", ["/messages/0/content/{}/text", "/messages/0/content/{}", "/messages/0/content/{}/thinking"]
)
def test_what_a_part_has_too(
    texts: list[str], parts: list[tuple[int, int, int]], joined: list[tuple[int, int]], left: int, form: str
) -> None:
    messages = [Message(Role.USER, text, form.format(index)) for index, text in enumerate(texts)]
    name = "#thoughts" if form.endswith("thinking") else "#joined"
    messages.append(Message(Role.USER, "".join(texts), "/messages/0/content" + name))
    found = [Finding("c", "secret", 1.0, part, (start, end)) for part, start, end in parts]
    found += [Finding("c", "secret", 1.0, len(texts), span) for span in joined]
    kept = _located(messages, report(found)).findings
    assert [finding for finding in kept if finding.message < len(texts)] == found[: len(parts)]
    assert [finding.span for finding in kept if finding.message == len(texts)] == [None] * left


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
    kept = _located(messages, report([other, Finding("c", "secret", 1.0, 2, (2, 8))])).findings
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
    assert [finding.span for finding in _located(messages, report(found)).findings] == [(0, 6), None, None]
