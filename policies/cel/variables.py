"""What a condition may read: variables and functions, the stages that have them, and their values for a request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from classifiers.base import Role

from ..facts import Api, Facts
from ..model import Stage

if TYPE_CHECKING:
    from cel_expr_python import cel

BOTH = frozenset(Stage)


@dataclass(frozen=True, slots=True)
class Variable:
    """`kind` is its type in CEL's own words. `least` is the lowest value of a number."""

    name: str
    kind: str
    meaning: str
    stages: frozenset[Stage] = BOTH
    least: float | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """`takes` are the types of its arguments, for each of its forms; `written` is each form as an author writes it."""

    name: str
    takes: tuple[tuple[str, ...], ...]
    written: tuple[str, ...]
    gives: str
    meaning: str


VARIABLES: tuple[Variable, ...] = (
    Variable("request.model", "string", "the model, as the caller names it"),
    Variable("request.dialect", "string", "the API that is spoken: chat, responses, messages ..."),
    Variable("request.settings.effort", "string", "the reasoning effort that is asked for, or nothing"),
    Variable("request.settings.n", "int", "how many answers are asked for", least=1),
    Variable("request.settings.stream", "bool", "whether the answer is streamed"),
    Variable("request.settings.max_tokens", "int", "the bound of the answer, 0 for none", least=0),
    Variable("request.settings.temperature", "double", "the temperature, 1.0 where none is asked for", least=0),
    Variable("account.id", "string", "who asks, as the records name it"),
    Variable("account.tier", "string", "the operator's word for the account, or nothing"),
    Variable("account.grants", "list(string)", "what the account may do beyond others; none that has expired"),
    Variable("account.flags", "list(string)", "marks of the account: a rule's `flag`, or `penstock account flag`"),
    Variable("account.history", "map(string, int)", "how often each `strike` fell before; 0 where it did not"),
    Variable("tools", "list(string)", "names of the tools on offer; `mcp` among them where an MCP server is"),
    Variable("roles", "list(string)", "who spoke in the conversation, in its order"),
    Variable("called", "list(string)", "names of the tools that were called so far"),
    Variable(
        "calls",
        "list(map(string, dyn))",
        "the tools that this answer calls: `name`, and `arguments` once their JSON is read",
        frozenset({Stage.OUTPUT}),
    ),
)

FUNCTIONS: tuple[Function, ...] = (
    Function(
        "score",
        (("string",), ("string", "string"), ("string", "string", "string")),
        ('score("finding")', 'score("finding", "role or reading")', 'score("finding", "role", "reading")'),
        "dyn",
        "the highest score of a finding, classifier.label or classifier.*, in the texts that the rule looks at, in "
        "those of one role, in one reading of them, or both; 0 where nothing was found; compared with a number",
    ),
    Function(
        "count",
        (("string", "double"),),
        ('count("finding", 0.8)',),
        "int",
        "how many findings have at least this score; compared with a whole number",
    ),
    Function(
        "follows",
        (("string", "string"),),
        ('follows("later step", "earlier step")',),
        "bool",
        "whether a step of the conversation comes after another one: each a role, or a role and the name of the tool, "
        'like follows("tool_call:send_mail", "tool_result:read_page")',
    ),
)

CLOSED: dict[str, list[str]] = {
    "roles": [str(role) for role in Role],
    "request.dialect": [str(each) for each in Api],
}
"""Variables that hold words of a closed list."""


def names(stage: Stage) -> list[str]:
    """The variables that a stage has."""
    return [each.name for each in VARIABLES if stage in each.stages]


@lru_cache(maxsize=len(Stage))
def environment(stage: Stage) -> cel.Env:
    """The library's environment, in which conditions of a stage are checked and evaluated."""
    from cel_expr_python import cel

    types = _types()
    variables = {each.name: types[each.kind] for each in VARIABLES if stage in each.stages}
    functions = [
        cel.FunctionDecl(
            each.name,
            [
                cel.Overload(f"{each.name}_{len(takes)}", types[each.gives], [types[kind] for kind in takes])
                for takes in each.takes
            ],
        )
        for each in FUNCTIONS
    ]
    return cel.NewEnv(variables=variables, functions=functions)


def _types() -> dict[str, cel.Type]:
    from cel_expr_python.cel import Type

    return {
        "string": Type.STRING,
        "int": Type.INT,
        "bool": Type.BOOL,
        "double": Type.DOUBLE,
        "dyn": Type.DYN,
        "list(string)": Type.List(Type.STRING),
        "map(string, int)": Type.Map(Type.STRING, Type.INT),
        "list(map(string, dyn))": Type.List(Type.Map(Type.STRING, Type.DYN)),
    }


def activation(stage: Stage, facts: Facts) -> cel.Activation:
    """The values of a stage's variables for a request; made once for each."""
    known = facts.memo.get(stage)
    if known is None:
        known = facts.memo[stage] = environment(stage).Activation(values(stage, facts))
    return known


def values(stage: Stage, facts: Facts) -> dict[str, Any]:
    """The value of each variable of a stage for a request."""
    settings, account = facts.settings, facts.account
    known: dict[str, Any] = {
        "request.model": facts.model,
        "request.dialect": facts.dialect,
        "request.settings.effort": settings.effort,
        "request.settings.n": settings.n,
        "request.settings.stream": settings.stream,
        "request.settings.max_tokens": settings.max_tokens,
        "request.settings.temperature": float(settings.temperature),
        "account.id": account.id,
        "account.tier": account.tier,
        "account.grants": sorted(account.grants),
        "account.flags": sorted(account.flags),
        "account.history": dict(account.history),
        "tools": list(facts.tools),
        "roles": [str(turn.role) for turn in facts.turns],
        "called": [turn.name for turn in facts.turns if turn.role == "tool_call"],
    }
    if stage is Stage.OUTPUT:
        known["calls"] = [{"name": call.name, "arguments": call.arguments} for call in facts.calls]
    return known
