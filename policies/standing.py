"""Where the condition of a rule stands: a rule that is inherited has the words, and so the thresholds, of the policy
that wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .document import Path
from .model import Policy


class Standing(NamedTuple):
    """The policy whose file has a condition, and the keys that lead to it there; none where that is a shipped pack,
    whose file is not one of the set."""

    policy: str
    path: Path


def standing(policies: Mapping[str, Policy], policy: Policy, rule: str) -> Standing:
    """Where the condition of this rule of `policy` stands. `policies` are those of the set by id, each whole."""
    while rule in policy.inherited:
        patch = None if policy.override is None else policy.override.rules.get(rule)
        if patch is not None and "when" in patch.model_fields_set:
            return Standing(policy.id, ("override", "rules", rule, "when"))
        assert policy.extends is not None  # it has inherited something
        if policy.extends not in policies:
            return Standing(policy.extends, ())
        policy = policies[policy.extends]
    # Its own rules come first, so that their places are those of the list in the file.
    return Standing(policy.id, ("rules", [each.id for each in policy.rules].index(rule), "when"))
