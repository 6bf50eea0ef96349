"""The facts of a kept exchange, beside its texts: what conditions and `applies_to` ask of a request.

What was remembered of the account (flags, counts) is not among them: it is another at each moment.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from classifiers.base import Role
from policies.facts import Account, Facts, Settings, Turn

from ..dialects.base import Request
from ..facts import facts_of


def told(request: Request, dialect: str, account: Account) -> dict[str, Any]:
    """The facts of a request, JSON-able."""
    facts = facts_of(request, dialect, account, _undrawn)
    return {
        "dialect": dialect,
        "model": facts.model,
        "settings": asdict(facts.settings),
        "tools": list(facts.tools),
        "turns": [[str(turn.role), turn.name] for turn in facts.turns],
        "account": {
            "id": account.id, "name": account.name, "tier": account.tier, "grants": sorted(account.grants),
        },
    }  # fmt: skip


def stated(told: dict[str, Any]) -> Facts:
    """The facts that were told so. Every canary acts on them."""
    account = told["account"]
    return Facts(
        told["dialect"],
        told["model"],
        Settings(**told["settings"]),
        tuple(told["tools"]),
        Account(account["id"], account["name"], account["tier"], frozenset(account["grants"])),
        tuple(Turn(Role(role), name) for role, name in told["turns"]),
    )


def _undrawn(value: str) -> str:
    """For no lot."""
    return ""
