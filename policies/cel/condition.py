"""An expression to a Condition, or to every mistake in it, each with its place and mend."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from classifiers.base import Finding, Message, Role
from classifiers.readings import DISGUISED, READINGS

from .. import slips
from ..facts import Facts
from ..model import Stage
from .known import Known
from .parts import (
    Atom,
    Both,
    Choice,
    Constant,
    Count,
    Either,
    Fact,
    Follows,
    Not,
    Part,
    Score,
    Truth,
    shown,
)
from .plain import SIGNS, TURNED, counted, key, plain, searched, sought
from .variables import CLOSED, FUNCTIONS, VARIABLES, environment, names
from .wire import Kind, Node, Tree

__all__ = ["Condition", "Flaw", "NoCondition", "compiled"]

_JOINTS: dict[str, Callable[..., Part]] = {"_&&_": Both, "_||_": Either, "!_": Not, "_?_:_": Choice}
_OWN = frozenset(each.name for each in FUNCTIONS)


@dataclass(frozen=True, slots=True, order=True)
class Flaw:
    """A mistake. `at` is its place in the text, in code points."""

    at: int
    what: str
    mend: str = ""


class NoCondition(ValueError):
    """The text is no condition of this stage. `flaws` is never empty."""

    def __init__(self, flaws: Iterable[Flaw]) -> None:
        self.flaws = tuple(sorted(set(flaws)))
        super().__init__("; ".join(flaw.what for flaw in self.flaws))


class Spoken(NamedTuple):
    """A `classifier.label` that is named at `at`, and the reading in which it must be seen, or nothing."""

    at: int
    finding: str
    reading: str = ""


class Reads(NamedTuple):
    """The variables that a condition reads, and the names that it looks up in `account.history`."""

    variables: frozenset[str]
    history: frozenset[str]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a rule at one stage.

    `atoms` are numbered by their place; `spoken` are the findings that are named.
    `shown` are the atoms whose findings speak for it. `needed` says that it is false wherever none of its atoms is met.
    """

    root: Part
    atoms: tuple[Atom, ...]
    spoken: tuple[Spoken, ...]
    shown: frozenset[int]
    needed: bool
    reads: Reads

    def weigh(
        self,
        bits: int,
        unsure: int,
        stage: Stage,
        messages: Sequence[Message],
        findings: Sequence[Finding],
        facts: Facts | None,
    ) -> tuple[bool, bool]:
        """Whether it is true by what is known, and whether it would be if what is not known were so. `bits` are the
        atoms that are met, `unsure` those of which a classifier that failed might have met more."""
        known = Known(self.atoms, bits, 0, stage, messages, findings, facts)
        truth = self.root.truth(known)
        if not unsure:
            return truth is True, truth is None
        may = self.root.truth(Known(self.atoms, bits, unsure, stage, messages, findings, facts))
        return truth is True, may is not False

    def every(self) -> bool:
        """Whether each of the findings that speak for it is needed."""
        return all(self.root.truth(_Open(frozenset({bit}))) is False for bit in self.shown)

    def told(self) -> bool:
        """Whether it is false wherever none of the findings that speak for it is there, whatever else is so."""
        return self.root.truth(_Open(self.shown)) is False


@lru_cache(maxsize=4096)
def compiled(text: str, stage: Stage, roles: frozenset[Role]) -> Condition:
    """The condition in `text`, for a rule that looks at texts of these roles. Raises NoCondition."""
    try:
        checked = environment(stage).compile(text)
    except RuntimeError as error:
        raise NoCondition(_told(str(error), stage, text)) from None
    reader = _Reader(text, stage, roles, Tree(checked.serialize()))
    root = reader.part(reader.tree.root)
    if not reader.flaws and checked.return_type().name() not in {"BOOL", "DYN"}:
        kind = checked.return_type().name().lower()
        reader.flaw(reader.tree.root.at, f"a condition is true or false, this is of type {kind}", "compare it")
    if reader.flaws:
        raise NoCondition(reader.flaws)
    none_met = root.truth(_Open(frozenset(range(len(reader.atoms)))))
    reads = Reads(
        frozenset(each.name for each in reader.tree.root.walk() if each.kind is Kind.NAME),
        _counts(reader.tree.root) | _sought(reader.tree.root),
    )
    return Condition(root, tuple(reader.atoms), tuple(reader.spoken), shown(root), none_met is False, reads)


class _Reader:
    """Reads what joins comparisons, and the comparisons of scores; gives everything else to the library."""

    def __init__(self, text: str, stage: Stage, roles: frozenset[Role], tree: Tree) -> None:
        self.text, self.stage, self.roles, self.tree = text, stage, roles, tree
        self.atoms: list[Atom] = []
        self.spoken: list[Spoken] = []
        self.flaws: list[Flaw] = []

    def flaw(self, at: int, what: str, mend: str = "") -> Part:
        self.flaws.append(Flaw(_start(self.text, at), what, mend))
        return Constant(at, None)

    def part(self, node: Node) -> Part:
        if node.kind is Kind.CALL and node.name in _JOINTS:
            return _JOINTS[node.name](node.at, *map(self.part, node.of))
        if node.kind is Kind.CALL and node.name in SIGNS:
            return self._comparison(node, SIGNS[node.name])
        if node.kind is Kind.CALL and node.name == "follows":
            return self._follows(node)
        if node.kind is Kind.CONSTANT and isinstance(node.value, bool):
            return Constant(node.at, node.value)
        return self._fact(node)

    def _comparison(self, node: Node, sign: str) -> Part:
        one, other = node.of
        if not _asks(one) and _asks(other):
            one, other, sign = other, one, TURNED[sign]
        number = other.value
        if one.kind is Kind.CALL and one.name in {"score", "count"} and not _asks(other):
            if other.kind is not Kind.CONSTANT or isinstance(number, bool) or not isinstance(number, int | float):
                return self.flaw(other.at, f"{one.name}(...) is compared with a number and nothing else", _EXAMPLE)
            return self._score(one, sign, number) if one.name == "score" else self._count(one, sign, number)
        return self._fact(node)

    def _score(self, call: Node, sign: str, number: float) -> Part:
        label, *more = call.of
        if _halved(label, more):
            what = "a classifier and its label are named in one text"
            return self.flaw(label.at, what, f'write score("{label.value}.{more[0].value}")')
        roles, reading = self._where(more)
        if not self._finding(label, reading):
            return Constant(call.at, None)
        if not 0 <= number <= 1:
            mend = f"for {number:g} % write {number / 100:g}" if 2 <= number <= 100 else _EXAMPLE
            return self.flaw(call.at, f"a score is never {number:g}: all lie from 0 to 1", mend)
        at_least = self._atom(label, roles, number, reading)
        # A separate bit for "more than": the next number that there is.
        over = math.nextafter(number, 2)
        above = self._atom(label, roles, over, reading) if sign in {">", "<=", "==", "!="} else at_least
        return Score(call.at, sign, at_least, above)

    def _count(self, call: Node, sign: str, number: float) -> Part:
        label, least = call.of
        if not self._finding(label):
            return Constant(call.at, None)
        if least.kind is not Kind.CONSTANT or not isinstance(least.value, float) or not 0 < least.value <= 1:
            return self.flaw(least.at, "the lowest score that counts is a number above 0 and up to 1", _COUNTED)
        return Count(call.at, sign, self._atom(label, self.roles, least.value), int(number))

    def _finding(self, node: Node, reading: str = "") -> bool:
        if node.kind is not Kind.CONSTANT or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}\.\S{1,128}", str(node.value)):
            self.flaw(node.at, "a finding is named in quotes: classifier.label, or classifier.*", _EXAMPLE)
            return False
        self.spoken.append(Spoken(node.at, str(node.value), reading))
        return True

    def _atom(self, label: Node, roles: frozenset[Role], at_least: float, reading: str = "") -> int:
        atom = Atom(str(label.value), roles, at_least, reading)
        if atom not in self.atoms:
            self.atoms.append(atom)
        return self.atoms.index(atom)

    def _where(self, named: Sequence[Node]) -> tuple[frozenset[Role], str]:
        """The roles of the texts, and the reading of them, that a score is asked of: a role, a reading, or both."""
        if not named:
            return self.roles, ""
        *first, last = named
        if last.kind is Kind.CONSTANT and last.value in _READINGS:
            return self._role(first[0], _ROLES) if first else self.roles, str(last.value)
        if first:
            self.flaw(last.at, "a reading is named in quotes", _near(str(last.value), _READINGS))
            return self.roles, ""
        return self._role(last, [*_ROLES, *_READINGS]), ""

    def _role(self, node: Node, known: Sequence[str]) -> frozenset[Role]:
        if node.kind is not Kind.CONSTANT or node.value not in list(Role):
            what = "a role is named in quotes" if known is _ROLES else "a role or a reading is named in quotes"
            self.flaw(node.at, what, _near(str(node.value), known))
        elif node.value not in self.roles:
            self.flaw(node.at, f"the rule does not look at texts of the role {node.value}", "add it to 'roles'")
        else:
            return frozenset({Role(node.value)})
        return self.roles

    def _follows(self, node: Node) -> Part:
        steps = []
        for step in node.of:
            role, _, name = str(step.value).partition(":")
            if step.kind is not Kind.CONSTANT or role not in list(Role):
                mend = "" if name or difflib.get_close_matches(role, _ROLES, 1, 0.5) else f"write tool_call:{role}"
                what = "a step is a role, or a role and a tool: 'tool_result:search'"
                self.flaw(step.at, what, mend or _near(role, _ROLES))
                return Constant(node.at, None)
            if name and role not in {Role.TOOL_CALL, Role.TOOL_RESULT}:
                self.flaw(step.at, f"no tool is named at a step of the {role}", "write tool_call or tool_result")
            steps.append((Role(role), name))
        return Follows(node.at, steps[0], steps[1])

    def _fact(self, node: Node) -> Part:
        for each in node.walk():
            if each.kind is Kind.CALL and each.name in {"score", "count", "follows"}:
                what = f"{each.name}(...) cannot stand here: only in a comparison that && || ! and ? : join"
                if each.name == "follows":
                    what = "follows(...) cannot stand here: only && || ! and ? : join it to others"
                return self.flaw(each.at, what, _EXAMPLE if each.name == "score" else "")
            if each.kind is Kind.LOOP and each.of[0].kind is Kind.NAME and each.of[0].name == "calls":
                self._fields(each)
            if each.kind is Kind.CALL and each.name == "matches" and each.of[-1].kind is Kind.CONSTANT:
                self._expression(each.of[-1])
            if each.kind is Kind.CALL and each.name in {"@in", "_==_", "_!=_"}:
                self._closed(each)
        counts = _counts(node)
        if counts and searched(node):
            # A count that nobody has is stated as 0 (`known`): then its name is there.
            what = "in one comparison, account.history is asked for a count and for the names in it"
            return self.flaw(node.at, what, f'for whether it is there, write account.history["{min(counts)}"] > 0')
        program = environment(self.stage).deserialize(self.tree.part(node))
        if not any(each.kind is Kind.NAME and not each.name.startswith("@") for each in node.walk()):
            found = program.eval(data={})
            if found.type().name() == "BOOL":
                return Constant(node.at, bool(found.value()))
        thing, sign, value = plain(node) or ("", "", None)
        return Fact(node.at, program, thing, sign, value, counts, key(node))

    def _fields(self, loop: Node) -> None:
        """What a call of a tool is asked for is one of its two parts."""
        if any(each is not loop and each.kind is Kind.LOOP and each.name == loop.name for each in loop.walk()):
            return  # it calls something else by the same name
        for each in loop.walk():
            own = each.kind is Kind.FIELD and each.of[0].kind is Kind.NAME and each.of[0].name == loop.name
            if own and each.name not in _CALL:
                near = difflib.get_close_matches(each.name, _CALL, 1, 0.4)
                meant = _MEANT.get(each.name) or (near[0] if near else f"arguments.{each.name}")
                mend = f"write {loop.name}.{meant}"
                self.flaw(each.at, f"a call has a name and arguments, and no '{each.name}'", mend)

    def _closed(self, node: Node) -> None:
        """A text that is compared with a word of a closed list is one of them."""
        for one, other in (node.of, node.of[::-1]):
            words = CLOSED.get(one.name if one.kind is Kind.NAME else "", ())
            for each in (other.of if other.kind is Kind.LIST else (other,)) if words else ():
                if isinstance(each.value, str) and each.value not in words:
                    self.flaw(each.at, f"'{one.name}' is never '{each.value}'", _near(each.value, words))

    def _expression(self, node: Node) -> None:
        import re2

        try:
            options = re2.Options()
            options.log_errors = False
            re2.compile(str(node.value), options)
        except re2.error as error:
            said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            self.flaw(node.at, f"not an expression of RE2: {said}", "look-around and \\1 do not exist there")


def _counts(node: Node) -> frozenset[str]:
    """The names whose counts are looked up in `account.history`."""
    return frozenset(name for each in node.walk() if (name := counted(each)))


def _sought(node: Node) -> frozenset[str]:
    """The names that are looked for in it."""
    return frozenset(name for each in node.walk() if (name := sought(each)))


_ROLES = [str(role) for role in Role]
_CALL = ("name", "arguments")
_MEANT = dict.fromkeys(("tool", "function", "tool_name"), "name") | dict.fromkeys(("input", "parameters"), "arguments")
_READINGS = [*READINGS, DISGUISED]
_DECLARED = re.compile(r"[(,]\s*([A-Za-z_]\w*)\s*(?=,)")
"""Names that stand where a loop declares its own."""
_CODES = frozenset({"base64", "base32", "hex", "hexadecimal", "percent", "url", "encoded"})
_EXAMPLE = 'write score("classifier.label") >= 0.8'
_COUNTED = 'write count("classifier.label", 0.8) >= 2'


def _start(text: str, at: int) -> int:
    """The place of a call is its bracket; people look for the name."""
    before = re.search(r"[A-Za-z_]+\Z", text[:at]) if text[at : at + 1] == "(" else None
    return before.start() if before else at


def _halved(label: Node, more: Sequence[Node]) -> bool:
    """Whether it is score("classifier", "label")."""
    known = {*_ROLES, *_READINGS}
    texts = [str(each.value) for each in (label, *more[:1]) if each.kind is Kind.CONSTANT]
    return len(texts) == 2 and "." not in texts[0] and texts[1] not in known


def _asks(node: Node) -> bool:
    """Whether a score or a count is in it."""
    return any(each.kind is Kind.CALL and each.name in {"score", "count"} for each in node.walk())


class _Open:
    """A view in which some atoms are not met and nothing else is known."""

    def __init__(self, unmet: frozenset[int]) -> None:
        self._unmet = unmet

    def met(self, bit: int) -> Truth:
        return False if bit in self._unmet else None

    def counted(self, bit: int) -> tuple[int, float]:
        return (0, 0) if bit in self._unmet else (0, math.inf)

    def fact(self, part: Fact) -> Truth:
        return None

    def follows(self, part: Follows) -> Truth:
        return None


# What the library says, in the words of whoever wrote the condition ---------------------------------------------------

_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_DASHED = re.compile(r"(?<=account\.history)\.([A-Za-z_]\w*(?:-[A-Za-z_]\w*)+)")
_UNKNOWN = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '(.*)'")
_WORDS = {"_&&_": "&&", "_||_": "||", "!_": "!", "_?_:_": "? :", "@in": "in", "_[_]": "[ ]", "-_": "-"}


def _told(message: str, stage: Stage, text: str) -> list[Flaw]:
    """The mistakes that the library found."""
    if "Syntax error" in message and (slipped := [Flaw(*each) for each in slips.condition(text)]):
        return slipped
    if found := _DASHED.search(text):
        name = found[1]
        return [Flaw(found.start(), f"'-' takes one away from another: '{name}' is no name", f'write ["{name}"]')]
    lines = text.split("\n")
    flaws: list[Flaw] = []
    for line, column, what in _ERROR.findall(message):
        at = sum(len(each) + 1 for each in lines[: int(line) - 1]) + int(column) - 1
        if not flaws or "*error*" not in what:  # what follows from a mistake is none of its own
            flaws.append(_reworded(_start(text, at), what, stage, text))
    # Of a function that is not there the names that it would have declared are not there either.
    if any(re.search(r"'(?:any|some|every|exists|all)'", flaw.what) for flaw in flaws):
        declared = "|".join(_DECLARED.findall(text)) or " "
        flaws = [flaw for flaw in flaws if not re.search(rf"called '(?:{declared})['.]", flaw.what)]
    if not flaws and "recursion limit" in message:
        return [Flaw(0, "brackets within brackets, more than 32 deep", "write several rules")]
    return flaws or [Flaw(0, f"not CEL: {message.splitlines()[0]}")]


def _reworded(at: int, what: str, stage: Stage, text: str) -> Flaw:
    if unknown := _UNKNOWN.search(what):
        return _bare(at, unknown[1], text) or _unknown(at, unknown[1], stage)
    if overload := _OVERLOAD.search(what):
        name = overload[1]
        said = SIGNS.get(name) or _WORDS.get(name) or name.strip("_")
        kinds = overload[2].replace("*error*", "?")
        mend = _forms(name) if name in _OWN else _fitting(name, kinds := overload[2])
        return Flaw(at, f"'{said}' does not take {kinds}", mend)
    if "operand of a select operation" in what:
        sized = re.match(r"\.(?:length|count|size|len)\b", text[at:])
        mend = "write size(...)" if sized else "compare it, like account.history.jailbreak > 1"
        return Flaw(at, "a '.' behind a value that has no parts", mend)
    if "Syntax error" in what:
        said = what.partition("Syntax error: ")[2].partition(" expecting ")[0].replace("'<EOF>'", "the end")
        mend = "quote texts, close brackets, join comparisons with && and ||"
        if said == "mismatched input the end":
            said, mend = "it ends in the middle", "write what is still to come, or remove the last && or ||"
        return Flaw(at, f"not CEL: {said}", mend)
    return Flaw(at, what[:200])


def _bare(at: int, name: str, text: str) -> Flaw | None:
    """A word without quotes that something is compared with."""
    if "." in name or name in slips.CALLED or not re.search(r"(?:[!=]=|\bin)\s*$", text[:at]):
        return None
    return Flaw(at, f"nothing here is called '{name}'", f'a text stands in quotes: "{name}"')


_TEXT = 'compare the text, like account.tier == "gold"; true and false stand without quotes'
_FITS = {
    "(int, double)": "write a whole number, without a point",
    "(double, int)": "write the number with a point, like 1.0",
    "(bool, string)": _TEXT,
    "(string, bool)": _TEXT,
    "(list(string))": "write size(...) == 0 where it must be empty",
    "(string)": 'compare it: == "" where it must be empty',
    "(int, string)": "write the number without quotes",
    "(list(string), string)": 'write "..." in the list',
    "(string, string)": "write == or contains: 'in' looks into a list",
}
"""How types are made to fit that do not, by the types."""


def _fitting(name: str, kinds: str) -> str:
    """How types are made to fit."""
    order = name in SIGNS and name not in ("_==_", "_!=_")
    if order and kinds.startswith("(bool, "):
        return "write two comparisons, and join them with &&"
    if "null" in kinds:
        return 'a text is never null: one that is not there is ""'
    if name == "contains" and kinds.startswith("(list"):
        return 'write "..." in the list'
    found = _FITS.get(kinds, "") if kinds != "(string, string)" or name == "@in" else ""
    return found or "both sides need types that fit: 1 is an int, 1.0 a double"


def _unknown(at: int, name: str, stage: Stage) -> Flaw:
    elsewhere = next((each for each in VARIABLES if each.name == name), None)
    if elsewhere is not None:
        where = " and ".join(sorted(elsewhere.stages))
        mend = f"write stages: [{', '.join(sorted(elsewhere.stages))}], or a rule of its own"
        return Flaw(at, f"'{name}' is there at the stage {where} only, not at {stage}", mend)
    if name in _OWN:
        return Flaw(at, f"'{name}' does not take these", _forms(name))
    known = names(stage)
    if name in slips.CALLED:
        return Flaw(at, f"nothing here is called '{name}'", slips.CALLED[name])
    alike = [each for each in known if each.rpartition(".")[2] == name.rpartition(".")[2]]
    if alike:
        at -= max(name.rfind("."), 0)
        return Flaw(at, f"no variable is called '{name}'", f"write {' or '.join(alike)}")
    if "." not in name:
        return Flaw(at, f"nothing here is called '{name}'", _nearly(name, known))
    at -= name.rfind(".")  # a part of a longer name is told at its last dot
    alike = [each for each in known if each.partition(".")[0] == name.partition(".")[0]]
    mend = _near(name, alike) if alike else f'for a finding write score("{name}") >= 0.8'
    return Flaw(at, f"no variable is called '{name}'", mend)


def _nearly(name: str, known: Sequence[str]) -> str:
    """A mend for a name without a dot: a function, or the last part of a variable, that it is nearly."""
    ends = {each.rpartition(".")[2]: each for each in known}
    found = difflib.get_close_matches(name, ends, 1, 0.7)
    found = found or [end for end in ends if end.replace("_", "") == name.replace("_", "").lower()]
    if found and ends[found[0]] != found[0]:
        return f"did you mean '{ends[found[0]]}'?"
    return _near(name, [*known, *sorted(_OWN | {"size", "has"})])


def _forms(name: str) -> str:
    """How a function of ours is called."""
    return "write " + " or ".join(form for each in FUNCTIONS if each.name == name for form in each.written)


def _near(word: str, known: Sequence[str]) -> str:
    if word.lower() in _CODES and "decoded" in known:
        return 'write "decoded": base64, hexadecimal and percent signs are one reading'
    if mend := slips.disguised(word, known):
        return mend
    near = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean '{near[0]}'?" if near else "one of " + ", ".join(known)
