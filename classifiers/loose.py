"""Expressions for a text whose signs are taken out: where such a one finds nothing, the expression that it was made of
finds nothing in the text, nor in any that differs from it by signs alone.

What an expression matches it matches letter by letter. So leave the signs out of both: each part of the expression
that could be one becomes optional, and each that only looks around (`\\b`) asks for nothing. An expression that is not
surely understood is given up. Linear in its length.
"""

from __future__ import annotations

import functools
import re

from .matcher import LETTER, ExpressionError, compile_once

_PART = re.compile(
    r"(?P<around>\^|\$|\\[bBAz])|(?P<frame>\((?:\?(?:P?<\w+>|[imsU-]*[:)]))?|[)|*+?]|\{\d+(?:,\d*)?\})|" + LETTER,
    re.DOTALL,
)


def loosened(source: str, signs: str) -> str | None:
    """The RE2 expression `source` for texts from which all of `signs` and some blanks were taken. None where that would
    find everything, or where `source` cannot be taken apart."""
    if r"\Q" in source:
        return None
    parts: list[str] = []
    try:
        for part in _PART.finditer(source):
            text = part[0]
            if part["frame"]:
                parts.append(text)
            elif part["around"] or text.removeprefix("\\") in signs:
                parts.append("(?:)")
            else:
                parts.append(f"(?:{text}|)" if _may_be(text, f"{signs} ") else text)
        loose = "".join(parts)
        return None if compile_once(loose).search(b"") else loose
    except ExpressionError:
        return None


@functools.lru_cache(maxsize=1024)
def _may_be(part: str, signs: str) -> bool:
    """Whether a part of an expression, which stands for one letter, may stand for one of `signs`. Raises
    ExpressionError."""
    return compile_once(part).search(signs.encode()) is not None
