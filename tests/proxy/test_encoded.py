"""What base64 and data URLs say is read where it is a text, and left alone where it is an image or a sound."""

from __future__ import annotations

import base64
import codecs
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.encoded import _unquoted, text_in


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
CASES: dict[str, tuple[str, str]] = {
    "nothing": ("", ""),
    "words": (b64(b"some words"), "some words"),
    "many words": (b64(b"some words\n" * 900), "some words\n" * 900),
    "letters of two bytes where the look ends": (b64(b"x" + "\u00e9".encode() * 300), "x" + "\u00e9" * 300),
    "no padding, other letters": ("w7_Dvz4-Pz8", "\u00ff\u00ff>>??"),
    "words with hyphens": ("some-words-in-one_line", "some-words-in-one_line"),
    "many words with hyphens": ("some-words" * 90, "some-words" * 90),
    "an image in other letters": (base64.urlsafe_b64encode(PNG * 50).decode(), ""),
    "lines": ("c29tZSB3\r\nb3Jkcw==\n", "some words"),
    "a data URL": ("data:text/csv;charset=utf-8;base64," + b64(b"a,b"), "a,b"),
    "a data URL in plain words": ("data:,some%20words", "some words"),
    "a data URL of nothing": ("data:text/plain", "data:text/plain"),
    "words that begin like a data URL": ("data: some words, plainly", "data: some words\n plainly"),
    "a data URL that says something": ("data:some/words;base64," + b64(PNG), "data:some/words;base64"),
    "a data URL with a name": (
        "data:application/pdf;name=some-words;base64," + b64(PNG),
        "data:application/pdf;name=some-words;base64",
    ),
    "a data URL of no base64": ("data:image/png;base64,some words", "some words"),
    "a data URL whose words begin oddly": ("data:,%00some words", "%00some words"),
    "an image among letters": ("data:image/svg+xml;charset=utf-8,%3Csvg%3E", "<svg>"),
    "UTF-16": (b64("gr\u00fcn".encode("utf-16")), "gr\u00fcn"),
    "a byte order mark": (b64(codecs.BOM_UTF8 + b"x"), "x"),
    "words that are not encoded": ("some words, plainly", "some words, plainly"),
    "an image": (b64(PNG), ""),
    "a large image": (b64(PNG * 500), ""),
    "an image in a data URL": ("data:image/png;base64," + b64(PNG), ""),
    "a text with a wrong letter": (b64(b"some words" * 100 + b"\xff"), "some words" * 100 + "\ufffd"),
    "a file that begins like a text": (
        b64(b"a plain head " * 20 + b"\xff\x00 1\n" * 200 + b"and some more words" + b"\xff" * 9),
        "a plain head " * 20 + "\n 1\nand some more words",
    ),
    "a PDF that begins like a text": (b64(b"%PDF-1.3\n3 0 obj\n" * 20 + b"some more words" + b"\xff" * 9), ""),
    "what calls itself a text": ("data:text/plain;base64," + b64(b"\x00some words"), "\x00some words"),
    "a sound": (b64(b"RIFF\x24\x00\x00\x00WAVEfmt "), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read(name: str) -> None:
    encoded, said = CASES[name]
    assert text_in(encoded) == said


@given(st.text(alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=600))
def test_any_text_is_read(text: str) -> None:
    assert text_in(b64(text.encode())) == text.removeprefix("\ufeff")


@given(st.text(max_size=300))
def test_any_text_does_no_harm(encoded: str) -> None:
    assert isinstance(text_in(encoded), str)


def test_a_media_type_beside_it_says_that_it_is_a_text() -> None:
    odd = b64(b"\x00" * 300 + b"some words\xff")
    assert text_in(odd) == text_in(odd, "image/png") == ""
    assert text_in(odd, "text/plain") == "\x00" * 300 + "some words\ufffd"


@given(st.text("%=3dA \r\n\t_x\u00e9", max_size=12) | st.text(max_size=40))
def test_percent_signs_are_undone_as_urllib_does(text: str) -> None:
    assert _unquoted(text) == unquote_to_bytes(text)
