"""From the kind that a policy names to the classifier that answers: one table, heavy imports done late."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from .base import Classifier

# kind -> "module:class". Each class has a classmethod `from_options(name, options) -> Classifier`, which raises
# OptionError for what an author got wrong.
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


class OptionError(ValueError):
    """An option of a classifier is wrong. `option` names it (dots into nested ones); `mend` says what to write."""

    def __init__(self, option: str, problem: str, mend: str = "") -> None:
        super().__init__(f"{option}: {problem}" + (f" ({mend})" if mend else ""))
        self.option, self.problem, self.mend = option, problem, mend


def create(kind: str, name: str, options: Mapping[str, Any]) -> Classifier:
    """The classifier of `kind`, called `name`. Raises OptionError (unknown kind or bad option) and OSError."""
    try:
        path = KINDS[kind]
    except KeyError:
        raise OptionError("kind", f"no classifier kind {kind!r}", "one of " + ", ".join(sorted(KINDS))) from None
    module, _, attribute = path.partition(":")
    return cast(Classifier, getattr(importlib.import_module(module), attribute).from_options(name, options))
