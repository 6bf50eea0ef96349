"""What people type who know other tools, other languages or other keyboards, and what they mean by it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_BLOCKS = ("deny", "denied", "reject", "refuse", "stop", "forbid", "prevent", "drop")
_MASKS = ("redact", "anonymize", "anonymise", "replace", "hide", "scrub", "sanitize")
_PASSES = ("allow", "accept", "permit", "ignore", "none")
_LOGS = ("warn", "alert", "notify", "report", "flag", "audit", "monitor", "record")
_ACTIONS = {
    **dict.fromkeys(_BLOCKS, "block"),
    **dict.fromkeys(_MASKS, "mask"),
    **dict.fromkeys(_PASSES, "pass"),
    **dict.fromkeys(_LOGS, "log"),
    **dict.fromkeys(("hold", "approve", "approval", "escalate", "ask"), "review"),
    **dict.fromkeys(("redirect", "reroute", "switch", "fallback", "downgrade"), "route"),
    **dict.fromkeys(("answer", "respond", "reply", "safe_complete"), "rewrite"),
    **dict.fromkeys(("note", "instruct", "hint"), "advise"),
}
_YES, _NO = ("on", "yes", "true", "enabled", "active", "live"), ("no", "false", "disabled", "inactive")
_WORDS: dict[str, dict[str, str]] = {
    "action": _ACTIONS,
    "mode": {
        **dict.fromkeys((*_YES, "enforced", "block"), "enforce"),
        **dict.fromkeys(_NO, "off"),
        **dict.fromkeys(("dry_run", "dry-run", "dryrun", "monitor", "observe", "log", "test", "audit"), "shadow"),
    },
    "on_error": {
        **dict.fromkeys(("fail", "closed", "fail_closed", *_BLOCKS), "block"),
        **dict.fromkeys(("open", "fail_open", *_PASSES), "pass"),
        **dict.fromkeys(_LOGS, "log"),
    },
    "stages": {
        **dict.fromkeys(("request", "prompt", "pre", "in", "question", "before"), "input"),
        **dict.fromkeys(("response", "answer", "completion", "post", "out", "after"), "output"),
    },
    "otherwise": {**dict.fromkeys(_BLOCKS, "block"), **dict.fromkeys((*_PASSES, "approve"), "pass")},
    "stream": {
        **dict.fromkeys(("all", "full", "true", "yes", "wait", "complete", "everything"), "whole"),
        **dict.fromkeys(("false", "no", "none", "off", "chunks"), "{hold_back: 64}: so many letters wait"),
    },
    "role": {
        **dict.fromkeys(("*", "all", "any", "everyone"), "nothing: without 'roles' a rule looks at all of them"),
        **dict.fromkeys(("human", "customer", "client"), "user"),
        **dict.fromkeys(("ai", "bot", "model", "agent"), "assistant"),
        **dict.fromkeys(("tool", "function"), "tool_result for what a tool said, tool_call for what it was asked"),
        **dict.fromkeys(("tools", "functions"), "tool_definition"),
        **dict.fromkeys(("developer", "instructions"), "system"),
        **dict.fromkeys(("thinking", "thought"), "reasoning"),
    },
    "kind": {
        **dict.fromkeys(("regex", "regexp", "word", "words", "keyword", "keywords", "list"), "patterns"),
        **dict.fromkeys(("llm", "prompt", "gpt"), "judge"),
        **dict.fromkeys(("http", "api", "service"), "remote"),
        **dict.fromkeys(("ml", "model", "neural", "onnx", "minilm", "minilm-heads", "guard"), "embedded"),
        **dict.fromkeys(("personal", "personal_data", "pii_detector"), "pii"),
        **dict.fromkeys(("secret", "keys", "credentials"), "secrets"),
    },
}
_WORDS["roles"] = _WORDS["role"]
_WORDS["stage"] = _WORDS["stages"]


def word(holder: str, said: str) -> str | None:
    """What somebody means who writes `said` as the value of the key `holder`; None where nobody knows."""
    return _WORDS.get(holder, {}).get(said.lower())


def number(said: str) -> float | None:
    """The number that is meant by "50%", "50 %" or "0,5"."""
    found = re.fullmatch(r"([0-9]{1,3}(?:[.,][0-9]{1,6})?) ?(%?)", said.strip())
    if found is None or not (found[2] or "," in found[1]):
        return None
    value = float(found[1].replace(",", "."))
    return value / 100 if found[2] else value


_TIME = re.compile(r"([0-9]{1,6}) *(s|m|h|d|w)[a-z]*")


def time(said: object) -> str:
    """How a time that is meant by 60, "1 hour" or "never" is written; nothing where nobody knows."""
    if isinstance(said, int) and not isinstance(said, bool):
        return f"write {said}s for seconds, {said}m for minutes, {said}h for hours"
    if not isinstance(said, str):
        return ""
    if said.lower() in {"forever", "never", "permanent", "always"}:
        return "leave it out: then there is no end"
    found = _TIME.fullmatch(said.lower().strip())
    if found is None or "month" in said.lower() or said == found[1] + found[2]:
        return ""
    return f"write {found[1]}{found[2]}"


def letters(said: object) -> str:
    """How a number of characters is written that is meant by "64 characters"; nothing where nobody knows."""
    found = re.fullmatch(r"([0-9]{1,6}) *(?:c|char|chars|characters?|letters?|bytes?)", str(said).strip().lower())
    return f"write {found[1]}" if found is not None else ""


def span(said: str) -> str:
    """The range of whole numbers that is meant by ">2", "<= 5" or "2-5", as YAML; nothing where nobody knows."""
    if found := re.fullmatch(r"([0-9]{1,9}) *(?:-|\.\.|to) *([0-9]{1,9})", said.strip()):
        return f"{{at_least: {found[1]}, at_most: {found[2]}}}"
    found = re.fullmatch(r"(>=?|<=?|=)? *([0-9]{1,9})\+?", said.strip())
    if found is None:
        return ""
    sign, number = found[1] or ">=", int(found[2])
    if sign == "=":
        return f"{{at_least: {number}, at_most: {number}}}"
    return f"{{at_least: {number + (sign == '>')}}}" if sign[0] == ">" else f"{{at_most: {number - (sign == '<')}}}"


def truth(said: str) -> str | None:
    """true or false, where a word for it is written."""
    low = said.lower()
    return "true" if low in (*_YES, "1", "y") else "false" if low in (*_NO, "off", "0", "n") else None


def name(said: str, pattern: str) -> str:
    """`said` as a name that meets `pattern`, or nothing."""
    for joint in "-_":
        made = re.sub(r"[\s/:]+", joint, said.strip().lower())
        if re.match(pattern, made):
            return made
    return ""


# Letters that look like others ----------------------------------------------------------------------------------------


def disguised(said: str, known: Sequence[str]) -> str:
    """A mend for a word that only looks like one of `known`, or nothing."""
    if said.isascii():
        return ""
    from classifiers.confusables import latin  # the tables of look-alikes are needed for this alone

    plain = latin(_shown(said)).strip()
    for one in known:
        if one == plain or one == _shown(said).strip():
            strange = next(letter for letter in said if not letter.isascii())
            return f"it looks like '{one}', but holds {named(strange)}: type it anew"
    return ""


def named(letter: str) -> str:
    """A letter for somebody who cannot tell it from another."""
    return f"U+{ord(letter):04X} ({unicodedata.name(letter, 'no name').lower()})"


def visible(said: str) -> str:
    """A text with letters that are not seen written out."""
    return "".join(f"\\u{ord(letter):04x}" if _unseen(letter) else letter for letter in said)


def _unseen(letter: str) -> bool:
    return letter != " " and unicodedata.category(letter) in {"Cf", "Zs", "Zl", "Zp", "Cc"}


def _shown(said: str) -> str:
    return "".join(letter for letter in said if unicodedata.category(letter) not in {"Cf", "Zs"})


_BLANKS = "[\u00a0\u1680\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]"
_STRANGE = re.compile(
    rf"^[ ]*(?P<blank>{_BLANKS})|^[ ]*(?P<dash>[\u2010-\u2015\u2022\u2212])[ ]"
    rf"|[\w\"'](?P<colon>[\uff1a\ufe55\ua789\u2236])|:(?P<after>{_BLANKS})"
    r"|:[ ](?P<quote>[\u201c-\u201f\u2018-\u201b\u00ab])"
)
_MEANT = {"blank": "a blank", "after": "a blank", "dash": "'-'", "colon": "':'", "quote": "a straight quote"}


def strange(line: str) -> tuple[int, str, str] | None:
    """(column from 0, what it is, mend) of a letter that looks like a part of YAML in a line and is none."""
    found = _STRANGE.search(line)
    if found is None or found.lastgroup is None:
        return None
    at = found.start(found.lastgroup)
    meant = _MEANT[found.lastgroup]
    return at, f"{named(line[at])}, which only looks like {meant}", f"type {meant} anew"


# Conditions -----------------------------------------------------------------------------------------------------------

_SLIP = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<quote>[\u201c-\u201f\u2018-\u201b\u00ab\u00bb])"""
    r"|(?P<never>;|=~|!~|~)|(?P<sign>===|!==|=>|=<|<>|[\u2265\u2264\u2260]|(?<![<>=!&|])(?:=|&|\|)(?![=&|]))"
    r"|(?<![\w.])(?P<word>and|or|not|AND|OR|NOT|And|Or|Not)(?!\w)"
    r"|(?<![\w.])(?P<foreign>if|IF|then|THEN|else|ELSE|elif|is|IS|between|BETWEEN|within|WITHIN)(?!\w)"
    r"|(?<=[\w)\]]\s)(?P<infix>like|LIKE|contains|matches|startsWith|endsWith|startswith|endswith|CONTAINS)(?=\s)"
    r"|(?P<share>[0-9]+(?:[.,][0-9]+)?) ?%(?! *[\w(\"'])|(?<=[<>=] )(?P<comma>[0-9]+,[0-9]+)|(?P<letter>[^\x00-\x7f])"
)
_SIGNS = {"=>": ">=", "=<": "<=", "<>": "!=", "===": "==", "!==": "!=", "\u2265": ">=", "\u2264": "<=", "\u2260": "!="}
_METHODS = {"like": "matches", "contains": "contains", "matches": "matches"}
_METHODS |= {"startswith": "startsWith", "endswith": "endsWith"}
_FOREIGN = {
    **dict.fromkeys(("if", "then", "else", "elif"), "write condition ? one : other"),
    "is": "write ==",
    "between": "write two comparisons and join them with &&",
    "within": "the rule that strikes says for how long: strike: {name: ..., within: 1h}",
    ";": "remove it",
    **dict.fromkeys(("=~", "~"), 'write name.matches("...")'),
    "!~": 'write !name.matches("...")',
}
_SIGNS |= {"=": "==", "&": "&&", "|": "||", "and": "&&", "or": "||", "not": "!"}


def condition(text: str) -> Iterator[tuple[int, str, str]]:
    """(place, what is wrong, mend) of what is written in another language's way in a condition that is not CEL."""
    for found in _SLIP.finditer(text):
        kind, said = found.lastgroup, found[0]
        match kind:
            case "quote":
                yield found.start(), f"{named(said)} is no quote here", 'write straight quotes: "'
            case "letter":
                like = _like(said)
                what = f"{named(said)} is no letter of a name" + (f", though it looks like '{like}'" if like else "")
                yield found.start(), what, f"type '{like}' anew" if like else "texts stand in quotes"
            case "sign" | "word":
                meant = _SIGNS[said.lower()]
                yield found.start(), f"there is no '{said}' here", f"write {meant}"
            case "foreign" | "never":
                yield found.start(), f"there is no '{said}' here", _FOREIGN[said.lower()]
            case "infix":
                method = _METHODS[said.lower()]
                what = f"there is no '{said}' between two texts here"
                yield found.start(), what, f'write {method}: name.{method}("...")'
            case "share" | "comma":
                value = number(said)
                yield found.start(), f"'{said}' is no number here", f"write {value:g}" if value is not None else ""


def _like(letter: str) -> str:
    """The ASCII letter that it looks like, or nothing."""
    from classifiers.confusables import latin

    like = latin(f"a{letter}")[1:]
    return like if like.isascii() else ""


CALLED = {
    "len": "write size(...)",
    "length": "write size(...)",
    "True": "write true",
    "False": "write false",
    "TRUE": "write true",
    "FALSE": "write false",
    "None": 'write "": a text that is not there is empty',
    "undefined": 'write "": a text that is not there is empty',
    "startswith": "write startsWith",
    "endswith": "write endsWith",
    "includes": 'write "..." in a list, or contains for a text',
    "spans": 'for what was found write score("classifier.label"), or count("classifier.label", 0.8)',
    "views": 'for what was found in a reading write score("classifier.label", "decoded")',
    **dict.fromkeys(
        ("messages", "message", "text", "content", "prompt", "input", "output", "answer", "response"),
        'texts are read by classifiers: write score("classifier.label") >= 0.8',
    ),
    **dict.fromkeys(("exists", "all", "filter", "map", "exists_one"), 'write list.exists(x, x == "...")'),
    **dict.fromkeys(("max", "min", "avg", "sum"), 'score("classifier.label") is the highest score already'),
    "role": 'write score("classifier.label", "user"), or roles: [user] in the rule',
    "user": "write account.id",
    "has": 'write "..." in the list',
    **dict.fromkeys(("account.strikes", "strikes", "history"), 'write account.history["name"]'),
    "request.messages": 'texts are read by classifiers: write score("classifier.label") >= 0.8',
    "stage": "the rule's 'stages' say where it looks",
    **dict.fromkeys(("now", "time", "date", "hour", "timestamp"), "a condition knows no time"),
    **dict.fromkeys(("finding", "findings", "scores", "label"), 'write score("classifier.label") >= 0.8'),
    **dict.fromkeys(("tool", "arguments", "args", "tool_name"), 'write calls.exists(c, c.name == "pay")'),
    "any": "write exists(x, ...)",
    "some": "write exists(x, ...)",
    **dict.fromkeys(
        ("lower", "upper", "lowerAscii", "upperAscii", "toLowerCase", "toUpperCase"),
        'to compare in any case write matches("(?i)^...$")',
    ),
    **dict.fromkeys(("regex", "re", "match", "search", "test"), 'write matches("...")'),
}
"""Names of other languages, and how it is said in CEL."""
