"""What the schema tells an editor beyond yes and no: what each word of a list means, what is written next, and what is
said of a mistake in words of the author's.

Nothing here decides what is valid. Editors that know the YAML language server show it; others pass over it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import Field

TITLES = {
    "AppliesTo": "applies_to",
    "Rule": "A rule",
    "RulePatch": "A rule under override",
    "Seen": "A condition: a finding",
    "AnyOf": "A condition: any of several",
    "AllOf": "A condition: all of several",
    "ClassifierSpec": "A classifier",
    "AfterSpec": "after",
    "Override": "override",
    "CasePatch": "A case under override",
    "HoldBack": "stream",
    "Canary": "mode, as a mapping",
    "Strike": "strike",
    "Flag": "flag",
    "Range": "A range",
    "Case": "A case",
    "CaseMessage": "A message of a case",
    "CaseRequest": "request, of a case",
    "CaseAccount": "account, of a case",
    "CaseTurn": "A turn before a case",
    "CaseCall": "A call of a case",
    "CaseScore": "A score of a case",
    "Expectation": "expect",
}
"""What the parts of a policy file are called."""
_PLAIN = re.compile(r"[a-z0-9_]+")
MEANINGS: dict[str, dict[str, str]] = {
    "Action": {
        "pass": "Nothing is done; the rule is counted.",
        "log": "Nothing is done; what was found stands in the audit.",
        "advise": "The model is asked with a note added (advice).",
        "rewrite": "The caller gets other words in place of the model's (rewrite_with).",
        "mask": "What was found is replaced, on its way to the model or to the caller (mask_with).",
        "route": "Another model is asked (route_to).",
        "review": "A person is asked; after a time (hold) the rule decides (otherwise).",
        "block": "The request is refused, or the answer is held back.",
    },
    "Stage": {"input": "What the model is asked.", "output": "What the model answers, its calls of tools too."},
    "OnError": {
        "block": "Refuse what could not be judged.",
        "log": "Let it pass, and say so in the audit.",
        "pass": "Let it pass.",
    },
    "OnBlock": {
        "error": "HTTP 400, in the words of the API.",
        "message": "HTTP 200, a normal answer that says it.",
    },
    "Otherwise": {"block": "It is refused.", "pass": "It goes on."},
    "Role": {
        "system": "Instructions of the application.",
        "user": "What people write.",
        "assistant": "What the model says.",
        "tool_definition": "Names and descriptions of tools on offer.",
        "tool_call": "What the model hands to tools.",
        "tool_result": "What tools give back: web pages, files, mails.",
        "reasoning": "What the model thinks aloud.",
        "refusal": "Why the model will not.",
        "error": "Errors of the provider.",
        "setting": "Any other text that can reach the model or the caller.",
    },
    "Api": {
        "chat": "OpenAI Chat Completions.",
        "responses": "OpenAI Responses.",
        "messages": "Anthropic Messages.",
        "count_tokens": "Anthropic's count of tokens.",
        "completions": "Legacy completions.",
        "embeddings": "Embeddings.",
        "moderations": "Moderations.",
    },
    "mode": {
        "off": "Not evaluated at all.",
        "shadow": "Evaluated and recorded; it never acts.",
        "enforce": "It acts.",
    },
    "kind": {
        "embedded": "The shipped learned model: injections, jailbreaks, harmful requests.",
        "judge": "A written policy that a model on another server reads.",
        "patterns": "Expressions and words of your own.",
        "pii": "Numbers of cards, accounts and persons, addresses, telephones.",
        "remote": "A classifier on another server (Open Inference Protocol).",
        "secrets": "Keys, tokens and passwords.",
        "taught": "A head of your own (penstock teach).",
        "transformer": "A sequence classifier in the form of Hugging Face.",
    },
}
"""What each word of a closed list means."""
SNIPPETS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "Rule": {
        "when": [
            {
                "label": "a finding",
                "description": "A score of one classifier.",
                "body": {"finding": "${1:guard.injection}", "at_least": "^${2:0.95}"},
            },
            {
                "label": "any of several",
                "description": "One of these findings is enough.",
                "body": {"any": [{"finding": "${1:guard.injection}", "at_least": "^${2:0.95}"}]},
            },
            {
                "label": "all of several",
                "description": "Each of these findings is needed.",
                "body": {"all": [{"finding": "${1:guard.injection}", "at_least": "^${2:0.95}"}]},
            },
            {
                "label": "an expression",
                "description": "In CEL, over scores, the account, the request, tools and what came before.",
                "bodyText": 'score("${1:guard.injection}") >= ${2:0.95} && ${3:account.tier != "trusted"}',
            },
        ],
        "mode": [
            {"label": "canary 5%", "description": "It acts on a share of the conversations.", "body": "canary ${1:5}%"},
            {"label": "shadow", "description": MEANINGS["mode"]["shadow"], "body": "shadow"},
        ],
        "stream": [
            {
                "label": "hold_back",
                "description": "So many characters of a streamed answer wait; `50 tokens` works as well.",
                "body": {"hold_back": "^${1:64}"},
            },
            {"label": "whole", "description": "The whole answer waits.", "body": "whole"},
        ],
    },
    "Policy": {"classifiers": [{"label": "guard", "body": {"${1:guard}": {"kind": "${2:embedded}"}}}]},
}
"""What an editor writes where an author asks for a value, by model and key."""


def shape(pattern: str, said: str) -> Any:
    """A text of some shape; `said` is what an editor says of one that has another."""
    return Field(pattern=pattern, json_schema_extra={"patternErrorMessage": f"Write {said}."})


def furnish(made: dict[str, Any]) -> None:
    """Adds all of it to the schema of a policy."""
    models = {"Policy": made, **made["$defs"]}
    for name, model in models.items():
        model["title"] = TITLES.get(name, model.get("title", name))
        if name in MEANINGS:
            _explain(model, MEANINGS[name])
        for key, value in model.get("properties", {}).items():
            value["title"] = key
            # Whole rules and cases are written with the defaults of all their keys, which nobody wants to see there.
            default = value.pop("default", None)
            snippets = SNIPPETS.get(name.replace("Patch", ""), {}).get(key, [])
            # Truth values and the words of a list are offered anyway.
            if default in (None, "") or isinstance(default, list | dict | bool) or "$ref" in value:
                pass
            elif not snippets:
                snippets = [{"label": str(default), "description": "When it is left out.", "body": _written(default)}]
            if snippets:
                value["defaultSnippets"] = snippets
    for name in ("Rule", "RulePatch"):
        words = made["$defs"][name]["properties"]["mode"]["anyOf"][0]
        _explain(words, MEANINGS["mode"])
        words["errorMessage"] = "Write off, shadow, enforce, or canary with a share, like canary 5%."
    _explain(made["$defs"]["ClassifierSpec"]["properties"]["kind"], MEANINGS["kind"])


def _written(value: Any) -> str:
    """A value as a snippet of YAML, of which the author overwrites what is no quoted text."""
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    return f"${{1:{value}}}" if isinstance(value, str) else f"^${{1:{value}}}"


def _explain(words: dict[str, Any], meanings: dict[str, str]) -> None:
    words["enumDescriptions"] = [meanings[word] for word in words["enum"]]
