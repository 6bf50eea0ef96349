"""A body has one reading or none: `strict.parse` against a slow, obvious second parser."""

from __future__ import annotations

import codecs
import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.strict import MAX_DEPTH, Malformed, parse

DEEP = 10_000
REFUSED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "duplicate key": b'{"a":1,"a":1}',
    "duplicate key, escaped": b'{"a":1,"\\u0061":2}',
    "duplicate key, escaped slash": b'{"/":1,"\\/":2}',
    "duplicate key, nested": b'{"x":[{"y":{"a":1,"b":[],"a":null}}]}',
    "duplicate key beside colons in strings": b'{"a":":::","b:":"\\":","a":":"}',
    "duplicate empty key": b'{"":1,"":2}',
    "duplicate key as surrogate pair": '{"\U0001f600":1,"\\ud83d\\ude00":2}'.encode(),
    "utf-16-le": '{"a":1}'.encode("utf-16-le"),
    "utf-16 with mark": '{"a":1}'.encode("utf-16"),
    "utf-32": '{"a":1}'.encode("utf-32-be"),
    "byte order mark": codecs.BOM_UTF8 + b'{"a":1}',
    "cesu-8": b'{"a":"\xed\xa0\xbd\xed\xb8\x80"}',
    "overlong": b'{"a":"\xc0\xaf"}',
    "invalid utf-8": b'{"a":"\xff"}',
    "cut utf-8": b'{"a":"\xe2\x82"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"\\udc00x"}',
    "surrogates swapped": b'{"a":"\\udc00\\ud800"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "-1e400": b'{"a":-1e400}',
    "5,000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "depth 10,000 list": b"[" * DEEP + b"]" * DEEP,
    "depth 10,000 objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "depth 10,000, never closed": b"[" * DEEP,
    "one level too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "trailing data": b'{"a":1}x',
    "two values": b'{"a":1}{"a":2}',
    "trailing NUL": b'{"a":1}\0',
    "comment": b'{"a":1/**/}',
    "trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "bare word": b"{a:1}",
    "control character": b'{"a":"\x01"}',
    "raw line feed": b'{"a":"\n"}',
    "leading zero": b'{"a":01}',
    "plus": b'{"a":+1}',
    "bare point": b'{"a":.5}',
    "bad escape": b'{"a":"\\x41"}',
    "form feed as blank": b'{"a":\x0c1}',
    "no-break space as blank": '{"a":\u00a01}'.encode(),
}
READ: dict[str, bytes] = {
    "colons in strings": b'{"a:":":\\":\\\\","b":[":",{"c":"::"}]}',
    "same key in two objects": b'[{"a":1},{"a":2},{"b":{"a":3}}]',
    "keys that differ by case": b'{"a":1,"A":2}',
    "keys that differ by form": '{"\u00e9":1,"e\u0301":2}'.encode(),
    "blanks": b' \t\r\n{ "a" : [ 1 , 2 ] } \n',
    "escaped NUL": b'{"a":"\\u0000"}',
    "surrogate pair": b'{"a":"\\ud83d\\ude00"}',
    "300 digits": b"1" + b"0" * 300,
    "largest of 64 bits, and one more": b"[18446744073709551615,18446744073709551616]",
    "least of 64 bits, and one less": b"[-9223372036854775808,-9223372036854775809]",
    "more digits than a double has": b"[9007199254740993,-9007199254740993]",
    "top-level string": b'"a:b"',
    "deep, but not too deep": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
}


def reference(body: bytes) -> Any:
    """The standard library, told to refuse what it would let pass. Raises ValueError."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    def constant(name: str) -> Any:
        raise ValueError(name)

    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError("overflow")
        return value

    def whole(text: str) -> float:
        """To the last digit where it fits 64 bits, and beyond as a double."""
        value = int(text)
        return value if -(2**63) <= value < 2**64 else number(text)

    if body.startswith(codecs.BOM_UTF8):
        raise ValueError("byte order mark")
    tree = json.loads(
        body.decode("utf-8"), object_pairs_hook=members, parse_constant=constant, parse_float=number, parse_int=whole
    )
    json.dumps(tree, ensure_ascii=False).encode("utf-8")  # lone surrogates
    return tree


def outcome(read: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return read(body)
    except ValueError:  # UnicodeDecodeError, JSONDecodeError and Malformed are
        return "refused"


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_refused(body: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(Malformed) as caught:
        parse(body)
    assert time.thread_time() - began < 0.05  # seconds of this thread's own work, however busy the machine is
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("body", READ.values(), ids=READ.keys())
def test_read(body: bytes) -> None:
    assert parse(body) == reference(body)


def test_the_message_never_quotes_the_body() -> None:
    for body in (b'{"SECRET":1,"SECRET":2}', b'{"a":SECRET}', b'SECRET{"a":1}', b'{"a":"SECRET\xff"}'):
        with pytest.raises(Malformed) as caught:
            parse(body)
        assert "SECRET" not in str(caught.value)


def test_text_with_half_a_surrogate_is_refused() -> None:
    with pytest.raises(Malformed):
        parse('"\ud800"')


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b":", b'":', b"\\", b'{"a":"'])
def test_linear_on_hostile_strings(unit: bytes) -> None:
    """A million bytes that would make a careless expression backtrack, in valid JSON with a duplicate."""
    text = json.dumps((unit * (1_000_000 // len(unit))).decode()).encode()
    began = time.thread_time()
    with pytest.raises(Malformed, match="twice"):
        parse(b'{"a":' + text + b',"a":' + text + b"}")
    assert time.thread_time() - began < 10  # backtracking would take days


leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.sampled_from('a:"\\{}[],\u2028\U0001f600 '), max_size=6)
trees = st.recursive(leaf | words, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=20)


@given(trees, st.booleans())
def test_every_valid_text_is_read(tree: Any, escape: bool) -> None:
    assert parse(json.dumps(tree, ensure_ascii=escape)) == tree


tokens = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        '"a"',
        '"\\u0061"',
        '"b:"',
        '":"',
        "1",
        "1e5",
        "null",
        "NaN",
        " ",
        '"',
        "\\",
        "\ud800",
    ]
)


@given(st.lists(tokens, max_size=14).map(lambda found: "".join(found).encode("utf-8", "surrogatepass")))
@example(b'{"a":{"a":1},"b:":[":"],"\\u0061":1}')
def test_agrees_with_the_reference(body: bytes) -> None:
    assert outcome(parse, body) == outcome(reference, body)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert outcome(parse, body) == outcome(reference, body)


@st.composite
def member_texts(draw: st.DrawFn) -> bytes:
    """Nested objects whose keys collide often, each spelled plainly or escaped."""

    def value(depth: int) -> str:
        if depth == 0 or draw(st.booleans()):
            return draw(st.sampled_from(["1", '":"', '"a:\\":"', "[]", "{}"]))
        names = draw(st.lists(st.sampled_from("abc:"), max_size=4))
        spelled = [name if draw(st.booleans()) else f"\\u{ord(name):04x}" for name in names]
        return "{" + ",".join(f'"{name}":{value(depth - 1)}' for name in spelled) + "}"

    return value(3).encode()


@given(member_texts())
def test_duplicates_are_found_wherever_they_hide(body: bytes) -> None:
    assert outcome(parse, body) == outcome(reference, body)
