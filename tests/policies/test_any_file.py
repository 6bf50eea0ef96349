"""Whatever is in a file, an author gets problems with places, and nobody a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policies.document import Document, read
from policies.mends import parse

from .test_cases import POLICY

LINES = POLICY.splitlines()
SCRAPS = [
    "on",
    "~",
    "[",
    "{",
    "}",
    "]",
    "-",
    ": ",
    "&a",
    "*a",
    "!!str",
    "|",
    ">",
    "'",
    '"',
    "#",
    "\t",
    "\u2028",
    "é",
    "0x1",
    ".",
    '"\\UFFFFFFFF"',
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good file with a few lines moved, cut, doubled, indented or scribbled over."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
            case 2:
                lines[at] = " " * draw(st.integers(1, 3)) + lines[at]
            case 3:
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case _:
                cut = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + draw(st.sampled_from(SCRAPS)) + lines[at][cut:]
    return "\n".join(lines)


def judged(raw: bytes) -> Document:
    document = read(raw, "p.yaml")
    policy = parse(document)
    assert (policy is None) == bool(document.problems)
    return document


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(damaged())
def test_a_damaged_file(text: str) -> None:
    lines = text.encode().count(b"\n") + 2
    for problem in judged(text.encode()).problems:
        assert str(problem).startswith("p.yaml")
        assert "\n" not in str(problem)
        assert 1 <= problem.line <= lines
        assert problem.column >= 1


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
@example(b"\xff\xfe\x00a")
@example(b"? ? ? a")
@example(b"- - - - a: &a [*a]")
@example(b'a: "\\UD8000000"')
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\na: 1")
def test_any_bytes(raw: bytes) -> None:
    assert judged(raw).problems


FIELDS: list[Any] = [
    None, True, 0, -1, 1.5, "", "text", [], [[]], [{}], {}, {"a": None}, {"a": {"b": 1}}, 10**30, "\u0000",
]  # fmt: skip


@pytest.mark.parametrize("value", FIELDS, ids=repr)
def test_any_value_at_any_key(value: Any) -> None:
    """Every key of a good policy, replaced by something else, leads to problems at that key or to a policy."""
    import json

    good = read(POLICY.encode(), "p.yaml").value

    def keys(node: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        return [found for key, item in items for found in [(*path, key), *keys(item, (*path, key))]]

    for path in keys(good, ()):
        copy = json.loads(json.dumps(good))
        node = copy
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        judged(json.dumps(copy).encode())
