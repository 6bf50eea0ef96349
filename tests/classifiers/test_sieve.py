"""The short ways past texts that hold nothing: each says what the long way says."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from classifiers import markup
from classifiers.edits import applied
from classifiers.loose import loosened
from classifiers.matcher import ExpressionError, Matcher, compile_once, encode
from classifiers.patterns import Patterns
from classifiers.sieve import Sieve
from classifiers.views import views

PIECES = st.sampled_from([
    "ab", "a", "b", "B", "cd", "project", "Falcon", "falcon", "4", "12", "é", "日", "a\u0301", "ﬁ", "Ａ", "е", "\u200b",
    " ", "  ", "\n", "\n\n", "-", "--", "_", "__", "*", "**", "`", "```", "~~", "|", " | ", "^", "\\", ".", "- ",
    "\n* ", "<b>", "</b>", "<br/>", "<!--x-->", "<!-->", "<a href='x_y'>", "<", ">", "[", "](u)", "![", "0", "@", "!",
    "\x01",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join)
CODED = TEXTS.map(lambda text: base64.b64encode(text.encode()).decode())
PATTERNS = Patterns.from_options(
    "p",
    {
        "patterns": {
            "words": {"words": ["project falcon", "ab", "cd-ab", "日 ab", "falcon", "a b"]},
            "inside": {"words": ["bcd", "ab cd"], "word_boundary": False},
            "regex": [r"\d{2}-\d{2}-a", r"project[ _]\w+b", r"(?i:ab){2,3}", r"b[^a]{2}cd", r"a\pL\*?b", "(?:a|-b)cd"],
        }
    },
)
EXPRESSIONS = [pattern.expression for pattern in PATTERNS._patterns]


def slowly(sieve: Sieve, text: str) -> bool:
    """Every reading is made, and searched by itself."""
    return not any(sieve._matcher.hits(encode(each)) for each in (text, *(view.text for view in views(text))))


@settings(max_examples=400)
@given(TEXTS | CODED | st.tuples(TEXTS, CODED).map(" ".join))
@example("pro**ject** falcon")
@example("see projectFalcon")
@example("<i>project</i>_falcon")
@example("<project_falcon>")
@example("[pro](u)ject falcon")
def test_the_sieve_finds_what_the_readings_hold(text: str) -> None:
    sieve = Sieve(EXPRESSIONS, Matcher(EXPRESSIONS), True)
    assert sieve._loose is not None
    for each in (text, f"{text}. {'Nothing else is in here. ' * 9}"):  # short ones go another way
        assert sieve.is_clear([each]) == slowly(sieve, each)
        assert sieve.is_clear([each]) == slowly(sieve, each)  # and now it is known


@pytest.mark.parametrize(
    "text",
    [
        "a well-known, **bold** and `plain_text_reader` of the getItemById, <b>more</b> [or](less) ",
        "résumé: well-known, **bold**, `plain_text_reader`, getItemById ",
        "l33t: 2d0or **bold** plain_text_reader",
    ],
)
def test_honest_texts_with_signs_are_not_read_twice(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(_: str) -> str:
        raise AssertionError("the dear reading was made")

    patterns = Patterns.from_options("p", {"patterns": {"x": {"words": ["project falcon", "amber-otter"]}}})
    monkeypatch.setattr(markup, "without_marks", made)
    for each in (text, text * 9):
        assert patterns._sieve.is_clear([each])
        with pytest.raises(AssertionError):
            patterns._sieve.is_clear([f"{each} project-falcons **project** _falcon_ "])


@given(TEXTS)
def test_bare_is_what_unmarked_and_words_come_to(text: str) -> None:
    def signless(text: str) -> str:
        return re.sub(f"[{re.escape(markup.SIGNS)} ]", "", text)

    bare = [each.decode().replace(" ", "") for each in markup.bare(text.encode())]
    assert bare[0] == signless(text)
    assert bare[-1] == signless(applied(text, markup.tags(text)))
    for view in views(text):
        if view.name in {"words", "unmarked", "words.unmarked"}:
            assert signless(view.text) in bare


MATCHING = {
    "a": "a", " ": " ", "-": "-", "_": "_", r"\-": "-", r"\_": "_", r"\ ": " ", "[ab]": "b", "[^a]": "`", "[-_]": "_",
    r"[\s-]": " ", r"[^\]a]": "*", r"\d": "1", r"\w": "_", r"\W": "~", ".": "|", r"\x2d": "-", r"\x{5f}": "_",
    r"\055": "-", r"\pL": "é", r"\pP": "-", r"\PL": "^", r"\p{Lu}": "B", "[[:punct:]]": "*", "[]a-]": "-", r"\*": "*",
    r"\\": "\\", r"\|": "|", "é": "é", "日": "日", r"\b": "", r"\B": "", r"\^": "^", "`": "`", "~": "~", "(?:a|-)": "-",
    "(?P<n>_)": "_", "(?i:A-)": "a-", "(?:_ |b)": "_ ", r"a\b-\bb": "a-b",
    "": "",
}  # fmt: skip
"""Parts of expressions, and what each matches."""
COUNTED = {"": 1, "+": 2, "{2}": 2, "{1,3}": 3, "*?": 1, "?": 0}


@settings(max_examples=600)
@given(
    st.lists(st.tuples(st.sampled_from([*MATCHING]), st.sampled_from([*COUNTED])), min_size=1, max_size=6),
    st.booleans(),
    st.data(),
)
def test_what_is_loosened_still_matches_without_signs(
    parts: list[tuple[str, str]], ignore_case: bool, data: Any
) -> None:
    source = "".join(part + count * bool(part) for part, count in parts)
    text = "".join(MATCHING[part] * COUNTED[count] for part, count in parts)
    try:
        found = compile_once(source, ignore_case).search(text.encode())
    except ExpressionError:  # the same name twice
        return
    loose = loosened(source, markup.SIGNS)
    if found is None or loose is None:
        return
    kept = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    bare = [sign for sign, keep in zip(text, kept, strict=True) if sign not in markup.SIGNS and (keep or sign != " ")]
    assert compile_once(loose, ignore_case).search("".join(bare).encode())


@pytest.mark.parametrize(
    ("source", "loose"),
    [
        (r"\bab-cd\b", "(?:)ab(?:)cd(?:)"),
        ("a b", "a(?: |)b"),
        (r"(?i)a\w{2,3}|b\d", r"(?i)a(?:\w|){2,3}|b\d"),
        (r"\x41\101\pN", r"\x41\101\pN"),
        ("[-_]+", None),
        (r"a\Q-\Eb", None),
    ],
)
def test_only_what_may_be_a_sign_is_loosened(source: str, loose: str | None) -> None:
    assert loosened(source, markup.SIGNS) == loose


def test_what_cannot_be_loosened_is_found_all_the_same() -> None:
    patterns = Patterns.from_options("p", {"patterns": {"x": ["[_-]{3}", "project falcon"]}})
    assert patterns._sieve._loose is None
    assert not patterns._sieve.is_clear(["pro**ject** falcon"])
    assert patterns._sieve.is_clear(["pro**ject** and falcon"])
