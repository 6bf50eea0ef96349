"""What a policy set asks of whom, as plain data that outlives it: what its recorded scores can be taken to say.

A score that is not in a record means "nothing found" only where the classifier was asked at that stage about that
role, by the same weights and after the same gate. Where it was not, nobody knows. What an expression asks beside scores
is in no record; but whether it was true is, where the same expression was in force then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from classifiers.base import Role

from .forms import Mode
from .model import Rule, Stage
from .ready import PolicySet, Reading

Description = dict[str, Any]
"""`describe`'s answer, JSON-able."""
Gap = tuple[str, Role]
"""A classifier, and a role whose messages it did not read."""


def describe(policies: PolicySet) -> Description:
    """Which classifiers `policies` asks: by stage, the digest, the roles and the gate of each."""
    return {
        "revision": policies.revision,
        "digest": policies.digest,
        "stages": {
            str(stage): {reading.classifier: _asked(policies, reading) for reading in policies.tables[stage].readings}
            for stage in Stage
        },
        "rules": {str(stage): _expressions(policies, stage) for stage in Stage},
    }


def _expressions(policies: PolicySet, stage: Stage) -> dict[str, list[str]]:
    """The rules with an expression at a stage: what it is, and what each then does, and in silence. None in a set of
    which not all policies are for every request: there it depends on which are."""
    if policies.selective:
        return {}
    return {
        rule.id: [_digest(rule), str(rule.action), str(rule.silence)]
        for rule in policies.rules
        if isinstance(rule.when, str) and rule.mode is not Mode.OFF and stage in rule.stages
    }


def _digest(rule: Rule) -> str:
    return hashlib.sha256(json.dumps([rule.when, sorted(map(str, rule.roles))]).encode()).hexdigest()[:16]


def same_rules(policies: PolicySet, stage: Stage, heard: Mapping[str, Any] | None) -> dict[str, tuple[str, str]]:
    """The rules with an expression that the described set had as well: what each did then, and what in silence."""
    was: Mapping[str, list[str]] = {} if heard is None else heard.get("rules", {}).get(str(stage), {})
    now = _expressions(policies, stage)
    return {id: (said[1], said[2]) for id, said in was.items() if id in now and now[id][0] == said[0]}


def _asked(policies: PolicySet, reading: Reading) -> dict[str, Any]:
    after = reading.after
    gate = None if after is None else [after.classifier, sorted(after.labels), after.low, after.high, after.floor]
    digest = policies.classifiers[reading.classifier].digest
    return {"digest": digest, "roles": sorted(map(str, reading.roles)), "after": gate}


def gaps(policies: PolicySet, stage: Stage, heard: Mapping[str, Any] | None) -> frozenset[Gap]:
    """What `policies` asks at `stage` and the described set did not; all of it where there is no description."""
    asked: Mapping[str, Any] = heard["stages"].get(str(stage), {}) if heard is not None else {}
    now = {reading.classifier: _asked(policies, reading) for reading in policies.tables[stage].readings}
    found: set[Gap] = set()
    for name, wanted in now.items():
        known = _known_roles(name, now, asked)
        found |= {(name, Role(role)) for role in wanted["roles"] if role not in known}
    return frozenset(found)


def _known_roles(name: str, now: Mapping[str, Any], asked: Mapping[str, Any]) -> frozenset[str]:
    """The roles of which a record says what this classifier would find now."""
    was, is_ = asked.get(name), now.get(name)
    if was is None or is_ is None or was["digest"] != is_["digest"] or was["after"] != is_["after"]:
        return frozenset()
    known = frozenset(was["roles"])
    return known if is_["after"] is None else known & _known_roles(is_["after"][0], now, asked)
