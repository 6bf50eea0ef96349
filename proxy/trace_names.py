"""The names of what a span says. Those of OpenTelemetry for generative AI are not settled: they are here and nowhere
else, and `trace_genai: false` leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Value = str | int | float | bool | tuple[str, ...]

OPERATIONS = {"completions": "text_completion", "embeddings": "embeddings", "moderations": "moderation"}
"""gen_ai.operation.name by dialect; all others are chats."""
ANTHROPIC = frozenset({"messages", "count_tokens"})
TOKENS = {
    "gen_ai.usage.input_tokens": ("input_tokens", "prompt_tokens"),
    "gen_ai.usage.output_tokens": ("output_tokens", "completion_tokens"),
}
CONTENT = {"input": "gen_ai.input.messages", "output": "gen_ai.output.messages"}
"""What was said, where the operator asked for it."""


def span_name(facts: Mapping[str, Any]) -> str:
    """Of an exchange: what it does, with which model."""
    operation = OPERATIONS.get(str(facts["dialect"]), "chat")
    return f"{operation} {facts['model']}" if facts.get("model") else str(facts["dialect"])


def genai(facts: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """By the conventions for generative AI."""
    dialect = str(facts["dialect"])
    yield "gen_ai.operation.name", OPERATIONS.get(dialect, "chat")
    yield "gen_ai.provider.name", "anthropic" if dialect in ANTHROPIC else "openai"
    if facts.get("model"):
        yield "gen_ai.request.model", facts["model"]
    usage = facts.get("usage") or {}
    for name, fields in TOKENS.items():
        found = [usage[field] for field in fields if field in usage]
        if found:
            yield name, found[0]


def ours(facts: Mapping[str, Any], decision: str) -> Iterator[tuple[str, Value]]:
    """What Penstock decided. `decision` is the id that the audit and the client have."""
    yield "penstock.decision_id", decision
    for name in ("dialect", "account", "revision", "policy", "rule", "action", "stage", "upstream"):
        if facts.get(name):
            yield f"penstock.{name}", str(facts[name])
    yield "penstock.outcome", str(facts["status"])
    yield "penstock.added_ms", facts["milliseconds"]["added"]
    silent = {name for stage in ("input", "output") for name in (facts.get(stage) or {}).get("failures", ())}
    if silent:
        yield "penstock.silent_classifiers", tuple(sorted(silent))
    yield "http.request.method", str(facts["method"])
    yield "url.path", str(facts["path"])
