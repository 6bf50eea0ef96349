"""Other numbers in a policy file, and not a byte changed beside them: a file that people wrote keeps its comments."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .document import Document, Path, read


class EditError(ValueError):
    """A number cannot be replaced where it stands; the message says why, and what to do."""


_NUMBER = re.compile(r"[-+]?[0-9.][0-9a-fA-FxoeE.+-]*")
_BREAK = re.compile(r"\r\n|[\n\r]")


def edited(raw: bytes, changes: Mapping[Path, float]) -> bytes:
    """The policy file with other numbers at these paths and not a byte changed beside them. Raises EditError
    where that cannot be done safely."""
    document = read(raw, "policy")
    text = raw.decode("utf-8-sig") if not document.problems else ""
    starts = [0, *(found.end() for found in _BREAK.finditer(text))]
    spots = []
    for path, value in changes.items():
        line, column = document.places.get(path, (0, 0))
        here = starts[line - 1] + column - 1 if 0 < line <= len(starts) else len(text)
        found = _NUMBER.match(text, here)
        if found is None:
            raise EditError("the threshold is not where it was: write it by hand")
        spots.append((found.start(), found.end(), spelled(value)))
    made = text
    for start, end, number in sorted(spots, reverse=True):
        made = made[:start] + number + made[end:]
    out = made.encode()
    if raw.startswith(b"\xef\xbb\xbf"):
        out = b"\xef\xbb\xbf" + out
    _same_but(document, read(out, "policy"), changes)
    return out


def _same_but(before: Document, after: Document, changes: Mapping[Path, float]) -> None:
    """That nothing else was touched is not believed but looked at."""
    if after.problems or before.places.keys() != after.places.keys():
        raise EditError("the file cannot be edited in place: write the thresholds by hand")
    for path in before.places:
        old, new = at(before.value, path), at(after.value, path)
        if isinstance(old, dict | list) or (new == old and path not in changes):
            continue
        if path not in changes or new != float(spelled(changes[path])):
            raise EditError("the file cannot be edited in place: write the thresholds by hand")


def at(value: object, path: Path) -> object:
    """What stands there; None where nothing does."""
    for part in path:
        try:
            value = value[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def spelled(value: float) -> str:
    """A threshold as it is written: six decimals at most, never in powers of ten."""
    said = f"{value:.6f}".rstrip("0")
    return said + "0" if said.endswith(".") else said
