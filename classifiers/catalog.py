"""From the kind that a policy names to the classifier that answers: one table, heavy imports done late."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from .base import Classifier

# kind -> "module:class". Each class has `options() -> Declared` (option_forms.py), what an author may write, and a
# classmethod `from_options(name, options) -> Classifier`, which raises OptionError for what an author got wrong.
KINDS: dict[str, str] = {
    "patterns": "classifiers.patterns:Patterns",
    "secrets": "classifiers.secrets:Secrets",
    "pii": "classifiers.pii:PersonalData",
    "embedded": "classifiers.embedded:Embedded",
    "taught": "classifiers.taught:Taught",
    "transformer": "classifiers.transformer:Transformer",
    "judge": "classifiers.judge:Judge",
    "remote": "classifiers.remote:Remote",
}

# Kinds that hold weights, and share them where two of them are made from the same files.
HEAVY = frozenset({"embedded", "taught", "transformer"})

# Options that name files: in a policy file they start from its own directory.
PATHS: dict[str, tuple[str, ...]] = {
    "taught": ("path",),
    "transformer": ("path",),
    "judge": ("policy_file", "ca_file"),
    "remote": ("ca_file",),
}


LISTED, LONG, FEW = 40, 1000, 5
"""Words that are told one by one, the letters that they may have together, and how many of those that begin like the
one that is wrong."""


class OptionError(ValueError):
    """An option of a classifier is wrong. `option` names it (dots into nested ones); `mend` says what to write."""

    def __init__(self, option: str, problem: str, mend: str = "") -> None:
        super().__init__(f"{option}: {problem}" + (f" ({mend})" if mend else ""))
        self.option, self.problem, self.mend = option, problem, mend


class UnknownWord(OptionError):
    """A word that is not among those that are `known` there: the name of an option, a label, a word of a list."""

    def __init__(self, option: str, problem: str, said: str, known: Iterable[str]) -> None:
        self.said, self.known = said, sorted(known)
        super().__init__(option, problem, near(said, self.known))


class UnknownOption(UnknownWord):
    """An option that its classifier, or what it is nested in, does not have."""

    def __init__(self, option: str, known: Iterable[str]) -> None:
        super().__init__(option, "no such option", option.rpartition(".")[2], known)


def nearly(said: str, known: Sequence[str]) -> list[str]:
    """The one of `known` that a word is nearly; nothing where there is none."""
    found = difflib.get_close_matches(said, known, 1, 0.6)
    return found or [each for each in known if _plain(each) == _plain(said)][:1]


def near(said: str, known: Sequence[str]) -> str:
    """A mend for a word that is not among `known`: the one that it is nearly, or all of them."""
    found = nearly(said, known)
    longer = [each for each in known if said and each.startswith(said)]
    if not found and 0 < len(longer) <= FEW:
        return "did you mean " + " or ".join(f"'{each}'" for each in longer) + "?"
    listed = ", ".join(known[:LISTED])
    if len(listed) > LONG:  # names of cases are whole sentences
        listed = listed[: listed.rindex(", ", 0, LONG)] + ", ..."
    elif len(known) > LISTED:
        listed += ", ..."
    if len(known) == 1 and not found:
        return f"the only one is '{known[0]}'"
    return f"did you mean '{found[0]}'?" if found else f"one of {listed}"


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def create(kind: str, name: str, options: Mapping[str, Any]) -> Classifier:
    """The classifier of `kind`, called `name`. Raises OptionError (unknown kind or bad option) and OSError."""
    return cast(Classifier, class_of(kind).from_options(name, options))


def class_of(kind: str) -> Any:
    """The class of a kind: `options()` are what it declares, `from_options` makes one. Raises OptionError."""
    try:
        path = KINDS[kind]
    except KeyError:
        raise UnknownWord("kind", f"no classifier kind {kind!r}", kind, KINDS) from None
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
