"""What a policy may change of a floor that it extends: only what makes it tighter.

One rule is *no looser* than another, in this partial order, where all of these hold:

- it looks at no fewer stages and roles;
- it fires wherever the other one does: its condition is word for word the same, or true whenever the other one's is
  (lower thresholds, more findings, more parts under `any`, fewer under `all`); an expression in CEL must stay as it is,
  and so must its roles: it may ask for a low score, which one text more raises;
- its action is the same, or a block, or any that is more severe in place of a pass or a log: a mask in place of other
  words would let pass what they stood for, and a route comes in the way of another one; and what it does in silence is
  no milder (pass < log < block);
  where its condition is another one, its action is also no milder than the other one's `on_error`, for a part that it
  no longer asks for cannot be silent any more;
- of an action that is the same, no less is done: it masks all that the other one masks and puts none of it back, says
  the same words, asks for the same model, and waits as long for a person before it lets pass what nobody has seen;
- it acts on no smaller share of conversations (off < shadow < canary, by its share < enforce);
- no less of a stream waits for it (hold_back, by its number < whole);
- it leaves the same strike and flag, where the other one leaves any.

No rule of a policy that extends a floor leaves a mark by which an expression of the floor's would no longer be true
(`lifted`): `!("trusted" in account.flags)` would be for the tenant to say. None strikes over less time than the floor
counts the name over (`shorter`): one name is counted over one time, for every account, and the floor says over which.

Rules of its own cannot undo a floor's: of all that fire the most severe is done and what others change is done beside
it, words in place of an answer outrank another model, and of equals the floor's decides (`Policy.ranked`).

INVARIANT: whatever is judged, and whatever fails, a policy whose rules are no looser than a floor's decides nothing
milder than the floor would, whatever rules of its own it has. Property tests hold this against the reference evaluator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .case_form import Case, CasePatch
from .forms import Canary, HoldBack, Mode
from .lint import implies, sees_all
from .marks import over, spoken
from .model import NEEDED, Action, OnError, Rule
from .words import Otherwise

_Loose = tuple[str, str, str]
"""A key of the rule, what is looser about it, and the mend."""
_SILENCES = (OnError.PASS, OnError.LOG, OnError.BLOCK)


def looser(floor: Rule, mine: Rule) -> Iterator[_Loose]:
    """Everything by which `mine` is looser than the rule of a floor that it stands for."""
    for key, before, after in (("stages", floor.stages, mine.stages), ("roles", floor.roles, mine.roles)):
        missing = [str(each) for each in before if each not in after]
        if missing:
            yield key, f"the floor looks at {', '.join(missing)} too", f"add {', '.join(missing)}"
    same = mine.when == floor.when
    if same and isinstance(floor.when, str) and set(mine.roles) > set(floor.roles):
        what = "its expression is another one where it is asked of other texts, too"
        yield "roles", what, "leave them as they are, and write a rule of your own for more"
    wider = not same and implies(floor, mine)
    if not same and not wider:
        yield "when", "it does not fire wherever the floor does", _condition(floor)
    least = max(floor.action, Action(floor.silence.value) if wider else Action.PASS, key=lambda action: action.severity)
    if not _no_milder(mine.action, least):
        yield "action", f"'{mine.action}' is milder than the floor's '{least}'", f"write {least}, or leave it out"
    if mine.action is floor.action:
        yield from _less(floor, mine)
        if mine.action is Action.MASK and wider and not sees_all(floor, mine):
            yield "when", "it does not mask all that the floor does", "keep its parts, under any in place of all"
    if _SILENCES.index(mine.silence) < _SILENCES.index(floor.silence):
        what = f"'{mine.silence}' is milder than the floor's '{floor.silence}'"
        yield "on_error", what, f"write on_error: {floor.silence}"
    if share(mine) < share(floor):
        yield "mode", f"'{mine.mode}' acts on less than the floor's '{floor.mode}'", f"write {floor.mode}"
    if _waits(mine) < _waits(floor):
        yield "stream", "less of a stream waits than the floor asks for", f"write {_written(floor)} or more"
    for key, left, mine_too in (("strike", floor.strike, mine.strike), ("flag", floor.flag, mine.flag)):
        if left is not None and mine_too != left:
            yield key, f"the floor's is '{left}'", "leave it as it is"


def lifted(floor: Iterable[Rule], mine: Rule) -> Iterator[_Loose]:
    """By which marks `mine`, which is no rule of the floor's, keeps one of its rules from firing for an account. A
    shadow leaves none."""
    for key, mark in (("flag", mine.flag), ("strike", mine.strike)):
        for rule in floor if mark is not None and share(mine) > 0 else ():
            if isinstance(rule.when, str) and rule.mode is not Mode.OFF:
                from .cel.lifted import ANY, lifting

                marks = lifting(rule.when, rule.stages, rule.roles)
                assert mark is not None  # or nothing is looked at
                if not marks.isdisjoint({(key, mark.name), (key, ANY)}):
                    what = f"for an account with '{mark.name}' its rule '{rule.id}' may fire no more"
                    yield key, what, "leave another mark, or none"
                    break


def shorter(floor: Iterable[Rule], mine: Rule) -> Iterator[_Loose]:
    """Whether `mine` strikes what rules of the floor's read, over less time than they count it over."""
    if mine.strike is not None and share(mine) > 0:
        least = over(floor).get(mine.strike.name, 0)
        if mine.strike.within < least:
            what = f"it counts '{mine.strike.name}' over {spoken(least)}, for all accounts"
            yield "strike", what, f"write within: {spoken(least)}, or strike under another name"


def looser_case(floor: Case, patch: CasePatch) -> Iterator[_Loose]:
    """By what a change of a floor's case lets the policy do less."""
    if patch.expect is None:
        yield "drop", "its cases are to hold wherever it is extended", "remove this, or expect a more severe action"
    elif not _no_milder(patch.expect.action, floor.expect.action):
        what = f"'{patch.expect.action}' is milder than the floor's '{floor.expect.action}'"
        yield "expect", what, f"expect {floor.expect.action}, or remove this"


def _less(floor: Rule, mine: Rule) -> Iterator[_Loose]:
    """What an action that is the same does less of."""
    told = NEEDED.get(mine.action)
    if told is not None and getattr(mine, told) != getattr(floor, told):
        yield told, "the floor's is another one", "leave it as it is"
    if mine.restore and not floor.restore:
        yield "restore", "the floor puts nothing back", "leave it out"
    if mine.action is not Action.REVIEW or mine.otherwise is Otherwise.BLOCK:
        return
    if floor.otherwise is Otherwise.BLOCK:
        yield "otherwise", "the floor blocks where nobody answers", "leave it out"
    elif mine.hold < floor.hold:
        yield "hold", f"the floor waits {spoken(floor.hold)} before it lets pass", "write no less"


def _no_milder(mine: Action, floor: Action) -> bool:
    if mine is floor or mine is Action.BLOCK:
        return True
    return mine.severity > floor.severity and floor in {Action.PASS, Action.LOG} and mine is not Action.ROUTE


def share(rule: Rule) -> float:
    """Of the conversations on which a rule acts; below 0 where it is not even evaluated."""
    if isinstance(rule.mode, Canary):
        return rule.mode.canary
    return {Mode.OFF: -1.0, Mode.SHADOW: 0.0}.get(rule.mode, 1.0)


def _condition(floor: Rule) -> str:
    if isinstance(floor.when, str):
        return "keep the expression as it is, and write a rule of your own for more"
    return "lower a threshold or name more findings; for less there is no way"


def _waits(rule: Rule) -> float:
    return rule.stream.hold_back if isinstance(rule.stream, HoldBack) else float("inf")


def _written(rule: Rule) -> str:
    return f"{{hold_back: {rule.stream.hold_back}}}" if isinstance(rule.stream, HoldBack) else "whole"
