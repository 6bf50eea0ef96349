"""Names for what is masked: one value has one name within a conversation.

INVARIANT: the number of a value follows from the conversation alone, and from no more of it than what stands before
the value's first place. A request carries its whole conversation, so the next one gives it the same number, and
nothing need be kept between them.

A name that already stands in the conversation (an earlier answer left with it) is given to no other value. What only
an answer held, and a mask took out before the caller saw it, is not in the next request: there it gets another number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from classifiers.base import Message

from .decision import Mask
from .in_json import Texts
from .model import NUMBER

_DIGITS = r"[0-9]{1,9}"


class Tokens:
    """The names of one conversation. `asked` are the messages of its request."""

    def __init__(self, asked: Sequence[Message] = ()) -> None:
        self._asked = asked
        self._series: dict[str, _Series] = {}
        self.values: dict[str, str] = {}
        """What each name stands for that is to be put back into the answer: values of the request, and no others."""

    @property
    def forms(self) -> tuple[str, ...]:
        """Of the names that were given, with {n} in place of the number."""
        return tuple(self._series)

    def numbered(
        self, messages: Sequence[Message], masks: Sequence[Mask], texts: Texts | None = None
    ) -> tuple[Mask, ...]:
        """`masks` (sorted, not overlapping, and `placed` in JSON) of `messages`, with the names in place. `texts` are
        the messages where JSON; else it is looked whether they are."""
        forms = {mask.replacement for mask in masks if NUMBER in mask.replacement}
        if not forms:
            return tuple(masks)
        for form in forms - self._series.keys():
            series = self._series[form] = _Series(form)
            if messages is not self._asked:
                for message in self._asked:
                    series.reserve(message.text)
        texts = texts or Texts(messages)
        own: dict[int, list[Mask]] = {}
        for mask in masks:
            own.setdefault(mask.message, []).append(mask)
        made: list[Mask] = []
        for index, message in enumerate(messages):
            position = 0
            for mask in own.get(index, ()):
                self._reserve(forms, message.text[position : mask.start])
                position = mask.end
                made.append(self._named(mask, texts, kept=messages is self._asked))
            if "#" not in message.origin:  # a derived text says nothing new
                self._reserve(forms, message.text[position:])
        return tuple(made)

    def _reserve(self, forms: set[str], text: str) -> None:
        if text:
            for form in forms:
                self._series[form].reserve(text)

    def _named(self, mask: Mask, texts: Texts, *, kept: bool) -> Mask:
        series = self._series.get(mask.replacement)
        if series is None:
            return mask
        value = texts.value(mask)
        name = mask.replacement.replace(NUMBER, str(series.of(value)))
        if mask.restore and kept:
            self.values[name] = value
        return replace(mask, replacement=name)


class _Series:
    """The numbers of one form of names."""

    def __init__(self, form: str) -> None:
        self._pattern = re.compile(_pattern(form, re.escape))
        self._numbers: dict[str, int] = {}
        self._used: set[int] = set()
        self._next = 1

    def reserve(self, text: str) -> None:
        """The names in `text` are given to no value that comes after it."""
        self._used.update(int(found[1]) for found in self._pattern.finditer(text))

    def of(self, value: str) -> int:
        number = self._numbers.get(value)
        if number is None:
            while self._next in self._used:
                self._next += 1
            number = self._numbers[value] = self._next
            self._used.add(number)
        return number


class Restoring:
    """Finds the names in an answer, and puts back what they stand for. `longest` is the length of the longest name."""

    def __init__(self, tokens: Tokens) -> None:
        self._values = tokens.values
        self._forms = tokens.forms
        self.longest = max(map(len, self._values))
        self._plain = re.compile("|".join(_pattern(form, re.escape) for form in self._forms))
        self._spelled: re.Pattern[str] | None = None

    def also(self, messages: Sequence[Message], masks: Sequence[Mask], texts: Texts | None = None) -> tuple[Mask, ...]:
        """`masks` of `messages`, sorted, and those that put values back where none of them is: into JSON as JSON spells
        them. `texts` as for `numbered`."""
        taken: dict[int, list[Mask]] = {}
        for mask in masks:
            taken.setdefault(mask.message, []).append(mask)
        more = [
            mask
            for mask in self._found(texts or Texts(messages))
            if all(mask.end <= other.start or other.end <= mask.start for other in taken.get(mask.message, ()))
        ]
        return tuple(sorted([*masks, *more], key=lambda mask: (mask.message, mask.start))) if more else tuple(masks)

    def _found(self, texts: Texts) -> Iterator[Mask]:
        for index, message in enumerate(texts.messages):
            if "#" in message.origin:
                continue
            read = texts.json(index)
            for found in self._pattern(read is not None).finditer(message.text):
                assert found.lastindex is not None
                name = self._forms[found.lastindex - 1].replace(NUMBER, found[found.lastindex])
                value = self._values.get(name)
                if value is None:
                    continue
                start, end = found.span()
                written = value if read is None else read.written(start, end, value)
                yield Mask(index, start, end, written, spelled=read is not None)

    def _pattern(self, in_json: bool) -> re.Pattern[str]:
        if not in_json:
            return self._plain
        if self._spelled is None:
            self._spelled = re.compile("|".join(_pattern(form, _spellings) for form in self._forms))
        return self._spelled


def _pattern(form: str, spelled: Callable[[str], str]) -> str:
    """An expression for the names of a form, with one group: the number."""
    first, last = form.split(NUMBER)
    return f"{spelled(first)}({_DIGITS}){spelled(last)}"


def _spellings(text: str) -> str:
    """An expression for `text` in a JSON string, where each letter may be spelled as an escape."""
    out = ""
    for letter in text:
        units = letter.encode("utf-16-be")
        escape = "".join(f"\\\\u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
        out += f"(?:{re.escape(json.dumps(letter, ensure_ascii=False)[1:-1])}|{escape})"
    return out
