"""The bench of the classifiers runs, and its texts are honest: none of them may be found by the patterns."""

from __future__ import annotations

from classifiers.base import Message, Role
from tests.bench import classifiers


def test_every_text_has_a_figure_in_every_column() -> None:
    rows = classifiers.measure(rounds=1, seconds=0.0, warm=1)
    assert rows.keys() == classifiers.TEXTS.keys() | classifiers.GROUPS.keys() | classifiers.FRESH.keys()
    assert all(row.keys() == {"patterns", "no views", "secrets", "pii"} for row in rows.values())
    assert all(0 < figure < float("inf") for row in rows.values() for figure in row.values())


def test_nothing_is_found_in_the_texts() -> None:
    patterns = classifiers.classifiers()["patterns"]
    for text in classifiers.TEXTS.values():
        assert patterns.classify([Message(Role.USER, text, "/0")]) == []
