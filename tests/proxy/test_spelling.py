"""What a change leaves alone stays byte for byte: numbers, escapes, blanks, the order of keys."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.base import written
from proxy.spelling import respelled
from proxy.strict import MAX_DEPTH

# before, what is done to it, after
CASES: dict[str, tuple[str, str, str]] = {
    "a leaf": (r'{"t":1.0, "u" : 1e5,"v":[-0,1E+2,{"x":"é"}]}', 't["v"][2]["x"] = "*"',
               r'{"t":1.0, "u" : 1e5,"v":[-0,1E+2,{"x":"*"}]}'),
    "large and small numbers": ('{"a":12345678901234567890123,"b":"x","c":1e-400}', 't["b"] = "y"',
                                '{"a":12345678901234567890123,"b":"y","c":1e-400}'),
    "escapes elsewhere": (r'{"\u0061":"\u00e9\/","b":"x"}', 't["b"] = "y"', r'{"\u0061":"\u00e9\/","b":"y"}'),
    "a new key": ('{ "a" : [ ] }', 't["b"] = {"c": 1}', '{ "a" : [ ] ,"b":{"c":1}}'),
    "a new key where there is none": ("[{ }]", 't[0]["b"] = 2', '[{ "b":2}]'),
    "a first item": ('{"m": [ 1.0 , 2 ] }', 't["m"].insert(0, "n")', '{"m": [ "n",1.0 , 2 ] }'),
    "an item between": ("[1.0, 2.0, 3.0]", "t[1:1] = [7, 8]", "[1.0, 7,8,2.0, 3.0]"),
    "a last item": ("[1.0 ]", "t.append(2)", "[1.0 ,2]"),
    "the first of none": ("[ ]", "t.append(2)", "[ 2]"),
    "an item like its neighbour": ("[1.0, 1.0]", "t.insert(0, 1.0)", "[1.0, 1.0,1.0]"),
    "a key that goes": ('{"a":1.0,"b":2}', 'del t["b"]', '{"a":1.0}'),
    "a whole list": ('{"a":[1.0, 2],"b":1.0}', 't["a"] = []', '{"a":[],"b":1.0}'),
    "of another kind": (' {"a":{"b":1.0}, "c":1.0}\n', 't["a"] = None', ' {"a":null, "c":1.0}\n'),
    "nothing": (' {"a" : 1.0}\n', "pass", ' {"a" : 1.0}\n'),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "change", "said"), CASES.values(), ids=CASES)
def test_what_changes(raw: str, change: str, said: str) -> None:
    t = json.loads(raw)
    exec(change, {"t": t})
    assert respelled(raw.encode(), t).decode() == said


BLANK = st.sampled_from(["", "", " ", "\n\t"])
LEAF = st.sampled_from(
    ["1.0", "1e5", "-0", "0.10", "1E+2", "98765432109876543210", "true", "null", r'"\u0061\/"', '"é"', '"x"', '"@@"']
)
KEYS = st.lists(st.sampled_from(["a", "b", r"\u0063", "d:", "é", ""]), unique=True, max_size=4)


@st.composite
def spelled(draw: st.DrawFn, depth: int = 3) -> str:
    """A JSON text as somebody may spell it."""
    blank = draw(BLANK)
    kind = draw(st.integers(0, 2 if depth else 0))
    if kind == 0:
        return blank + draw(LEAF) + draw(BLANK)
    if kind == 1:
        items = [draw(spelled(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
        return f"{blank}[{','.join(items) or draw(BLANK)}]{draw(BLANK)}"
    members = [f'{draw(BLANK)}"{key}"{draw(BLANK)}:{draw(spelled(depth - 1))}' for key in draw(KEYS)]
    return f"{blank}{{{','.join(members) or draw(BLANK)}}}{draw(BLANK)}"


def marked(tree: Any, new: Any) -> Any:
    if isinstance(tree, dict):
        return {key: marked(value, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [marked(value, new) for value in tree]
    return new if tree == "@@" else tree


@given(spelled(), st.sampled_from(["new", 'a "quote" \\', "", None, ["z"]]))
def test_only_the_leaves_that_change_are_written(raw: str, new: Any) -> None:
    said = respelled(raw.encode(), marked(json.loads(raw), new)).decode()
    assert said == raw.replace('"@@"', written(new))


@given(spelled(), spelled())
def test_whatever_it_is_changed_to_it_says(raw: str, other: str) -> None:
    before, after = json.loads(raw), json.loads(other)
    assert json.loads(respelled(raw.encode(), after)) == after
    if isinstance(before, dict):
        grown = copy.deepcopy(before) | {"new": after}
        assert json.loads(respelled(raw.encode(), grown)) == grown


def test_as_deep_as_a_body_may_be() -> None:
    raw = b"[" * MAX_DEPTH + b'"x", 1.0' + b"]" * MAX_DEPTH
    tree = json.loads(raw)
    leaf = tree
    for _ in range(MAX_DEPTH - 1):
        leaf = leaf[0]
    leaf[0] = "y"
    assert respelled(raw, tree) == raw.replace(b"x", b"y")
