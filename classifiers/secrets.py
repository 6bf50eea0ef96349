"""Credentials in a text: keys, tokens, private keys, passwords in connection strings and in assignments.

The shapes are data (data/secrets.yaml), found in one pass by RE2. What has the shape must then look like a secret:
checksums where a provider has one, randomness and no placeholder elsewhere. The span is that of the secret alone, so
that masking leaves the name beside it. Scores: 1.0 a checksum holds, 0.9 a shape of its own, lower as the name beside
the value says more than the value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML

from . import option_forms as form
from .base import Finding, Message
from .catalog import OptionError, UnknownWord
from .matcher import Expression, Matcher, code_points, compile_once, encode
from .options import Options

RULES = "secrets-1"
RULE_FILE = Path(__file__).parent / "data" / "secrets.yaml"
MOST_FINDINGS = 256
"""Findings of one shape in one text; the last one reaches to the end of the text, so that none is lost."""

Check = Callable[[str, float], float]
"""(value, score of the shape) -> score; 0 is no secret."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of credential."""

    label: str
    source: str
    check: str
    score: float
    groups: int


class Secrets:
    """The classifier `secrets`. Thread-safe. Raises Exhausted rather than miss anything."""

    inline = True

    def __init__(self, name: str, labels: frozenset[str] | None = None) -> None:
        shapes, matcher, rules = _shapes()
        self.name = name
        self.labels = frozenset(shape.label for shape in shapes) if labels is None else labels
        self._shapes, self._matcher = shapes, matcher
        self.digest = hashlib.sha256(json.dumps([RULES, rules, sorted(self.labels)]).encode()).hexdigest()

    @staticmethod
    @cache
    def options() -> form.Declared:
        """What an author may write."""
        return {"labels": form.listed("What to look for; all when left out.", _labels())}

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        """See `options`. Raises OptionError."""
        Options(options, cls.options())
        return cls(name, chosen_labels(options, _labels()))

    def classify(self, messages: Sequence[Message]) -> list[Finding]:
        """Findings in message order; spans in code points. Of two that overlap, the more specific one stays."""
        if len(messages) > 1 and not self._matcher.candidates(joined(messages)):
            return []
        findings: list[Finding] = []
        for index, message in enumerate(messages):
            data = encode(message.text)
            hits = self._matcher.candidates(data)
            if hits:
                findings.extend(self._judge(index, data, sorted(hits)))
        return findings

    def _judge(self, message: int, data: bytes, hits: Sequence[int]) -> Iterator[Finding]:
        kept: list[tuple[int, int, str, float]] = []
        taken = bytearray(len(data))
        for hit in hits:
            shape = self._shapes[hit]
            count = 0
            for match in self._matcher.matches(hit, data):
                start, end = next(
                    (match.span(i) for i in range(1, shape.groups + 1) if match.span(i)[0] >= 0), match.span()
                )
                if taken.find(1, start, end) >= 0:
                    continue
                score = CHECKS[shape.check](data[start:end].decode(), shape.score)
                if score <= 0:
                    continue
                count += 1
                if count == MOST_FINDINGS:
                    end = len(data)
                taken[start:end] = b"\1" * (end - start)
                kept.append((start, end, shape.label, score))
                if count == MOST_FINDINGS:
                    break
        points = code_points(data, (offset for start, end, _, _ in kept for offset in (start, end)))
        for start, end, label, score in sorted(kept):
            if label in self.labels:
                yield Finding(self.name, label, score, message, (points[start], points[end]))


def joined(messages: Sequence[Message]) -> bytes:
    """All texts in one, which mostly holds nothing. A shape must match in it where it matches in one of them: none may
    ask for the beginning or the end of a text without taking a line feed for it."""
    return encode("\n".join([message.text for message in messages]))


def chosen_labels(options: Mapping[str, Any], known: frozenset[str]) -> frozenset[str]:
    """The option `labels` as a set; all that are known where it is missing. Raises OptionError."""
    asked = options.get("labels")
    if asked is None:
        return known
    if not isinstance(asked, list | tuple) or not asked:
        raise OptionError("labels", "it is no list of labels", "leave it out to look for all")
    for at, label in enumerate(asked):
        if not isinstance(label, str) or label not in known:
            raise UnknownWord(f"labels.{at}", f"no label {label!r}", str(label), known)
    return frozenset(asked)


def _labels() -> frozenset[str]:
    return frozenset(shape.label for shape in _shapes()[0])


@cache
def _shapes() -> tuple[tuple[Shape, ...], Matcher, str]:
    """Shapes in order of precedence, the matcher over them, and a digest of the file that they come from."""
    raw = RULE_FILE.read_bytes()
    shapes = []
    for label, entries in YAML(typ="safe").load(raw.decode()).items():
        for entry in entries:
            facts: Mapping[str, Any] = {"regex": entry} if isinstance(entry, str) else entry
            groups = compile_once(facts["regex"]).groups
            shapes.append(Shape(label, facts["regex"], facts.get("check", "shape"), facts.get("score", 0.9), groups))
    matcher = Matcher([Expression(shape.source) for shape in shapes], heavy_program=0)
    return tuple(shapes), matcher, hashlib.sha256(raw).hexdigest()


# -- checks: (value, score) -> score, 0 for no secret -----------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"example|sample|placeholder|change_?me|your[_\-. ]|your(?:key|token|secret|api|pass)|(?:my|some|the)[_-]?(?:key|"
    r"token|secret|password|pass)\b|dummy|redacted|insert|todo|fixme|xxxx|\*{3}|\.{3}|…|^<|^\$|^%[a-z_]+%|\{\{|^\{|\$\{|\$\(|"
    r"^(?:none|null|nil|undefined|true|false|string|str|text|required|optional|empty|secret|password|token|key|hidden|"
    r"env|process|os|self|this|request|args|config|settings|params|options|input|field|value|type|default)$|"
    r"^(?:env|process|os|self|this|request|req|args|config|settings|params|options|ctx|secrets|data|var|local|module)"
    r"[.\[]|getenv|environ|\(\)$",
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_WORDY = re.compile(r"[A-Za-z]+(?:[_\-. /][A-Za-z]+)*[.!?:]?")


def entropy(value: str) -> float:
    """Shannon entropy of the letters of `value`, in bits per letter."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values()) if value else 0.0


def is_placeholder(value: str) -> bool:
    """Whether it stands for a secret rather than being one: names, templates, one letter repeated, code."""
    return _PLACEHOLDER.search(value) is not None or len(set(value.lower())) <= min(3, len(value) // 3)


def _shape(value: str, score: float) -> float:
    repeated = len(set(value[-20:])) < 5
    return 0.0 if repeated or "EXAMPLE" in value or "xxxxx" in value.lower() or "..." in value else score


def _random(value: str, score: float) -> float:
    tail = value[4:]
    return score if _shape(value, score) and (entropy(tail) >= 2.8 or len(tail) > 60) else 0.0


def _key_block(value: str, score: float) -> float:
    body = re.sub(r"-----[^-]*-----|\\n|\\r|\s", "", value)
    return 0.5 if len(body) < 40 else _shape(body, 0.95)


def _aws_access_key(value: str, score: float) -> float:
    base32 = not set(value[4:]) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    return _shape(value, score if base32 else 0.6)


def _penstock(value: str, score: float) -> float:
    """Ours: the last six letters are the CRC-32 of all before, in base 62."""
    return 1.0 if value[-6:] == _base62(zlib.crc32(value[:-6].encode())) else 0.0


def _github(value: str, score: float) -> float:
    """GitHub and npm: the last six letters are the CRC-32 of those before, in base 62."""
    body = value.partition("_")[2]
    if len(body) == 36 and _base62(zlib.crc32(body[:30].encode())) == body[30:]:
        return 1.0
    return _random(value, 0.8)


def _base62(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    text = ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        text = digits[rest] + text
    return text


def _jwt(value: str, score: float) -> float:
    try:
        header = json.loads(_b64url(value.partition(".")[0]))
    except (ValueError, binascii.Error):
        return 0.0
    return 0.95 if isinstance(header, dict) and "alg" in header else 0.0


def _b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _basic(value: str, score: float) -> float:
    try:
        plain = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (ValueError, binascii.Error):
        return 0.0
    return 0.95 if b":" in plain and plain.isascii() else 0.0


def _url_password(value: str, score: float) -> float:
    if is_placeholder(value) or value.isdigit() or re.fullmatch(r"pass(?:word)?|pwd|secret|REPLACE_\w+", value):
        return 0.0
    return score if len(value) >= 4 else 0.5


def _password(value: str, score: float) -> float:
    """An unquoted password after its name: words of prose and code are none."""
    value = value.rstrip(".,:")
    if (
        len(value) < 4
        or is_placeholder(value)
        or "(" in value
        or value.startswith(("$", "%", "&", "@", "-", "/", "\\"))
    ):
        return 0.0
    if _ATTRIBUTE.fullmatch(value):
        return 0.0
    if _WORDY.fullmatch(value):
        return 0.0 if "." in value or value[0].isupper() or len(value) < 6 else score - 0.3
    return score if len(value) >= 6 else score - 0.2


def _mixed_password(value: str, score: float) -> float:
    """After a colon, where prose goes on: no words."""
    return 0.0 if _WORDY.fullmatch(value.rstrip(".,:")) or value.isdigit() else _password(value, score)


def _quoted_password(value: str, score: float) -> float:
    if is_placeholder(value) or value.count(" ") > 2 or value.endswith((":", "?")):
        return 0.0
    return score - 0.3 if _WORDY.fullmatch(value) else score


def _spoken_password(value: str, score: float) -> float:
    """In prose only what no word looks like: letters with digits or signs inside."""
    value = value.rstrip(".,:;!?)")
    mixed = any(map(str.isalpha, value)) and any(map(str.isdigit, value))
    signs = any(sign in "!@#$%^&*_+=~" for sign in value[1:])
    if len(value) < 5 or is_placeholder(value) or "://" in value or value.startswith(("/", "-", "$", ".")):
        return 0.0
    return score if mixed and (signs or len(value) >= 6) else 0.0


def _secret(value: str, score: float) -> float:
    """A value beside a name of secrecy: long enough and too mixed for a name, a path, a version or code."""
    value = value.strip(".,=&")
    if len(value) < 8 or is_placeholder(value) or "://" in value or (value.count("/") > 3 and "." in value):
        return 0.0
    if _WORDY.fullmatch(value) or value.replace(".", "").replace("-", "").isdigit():
        return 0.0
    digits = sum(map(str.isdigit, value))
    if " " in value and (digits < 3 or entropy(value) < 4.2):
        return 0.0
    if digits == 0 and (len(value) < 16 or value.islower() or entropy(value) < 3.8):
        return 0.0
    if len(value) < 16 and (digits < 2 or any(sign in ".[]()" for sign in value)):
        return 0.0
    return score if entropy(value) >= (3.0 if len(value) >= 16 else 2.5) else 0.0


def _strong_secret(value: str, score: float) -> float:
    digits = sum(map(str.isdigit, value))
    if digits < 3 or len(value) - digits < 3 or value.count("/") > 2 or value.count("-") > 6:
        return 0.0
    return score if not is_placeholder(value) and entropy(value) >= 3.2 else 0.0


CHECKS: dict[str, Check] = {
    "shape": _shape,
    "random": _random,
    "key_block": _key_block,
    "aws_access_key": _aws_access_key,
    "github": _github,
    "penstock": _penstock,
    "jwt": _jwt,
    "basic": _basic,
    "url_password": _url_password,
    "password": _password,
    "mixed_password": _mixed_password,
    "quoted_password": _quoted_password,
    "spoken_password": _spoken_password,
    "secret": _secret,
    "strong_secret": _strong_secret,
}
