"""Values of a policy that have a form of their own: a mode with a share, what waits of a stream, which requests a
policy is for."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from .editor import shape
from .facts import Api, Facts


class Strict(BaseModel):
    """Nothing is coerced, unknown keys are refused, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def no_doubles(values: list[Any]) -> list[Any]:
    """The list, where nothing is in it twice. Raises ValueError."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"'{value}' is there twice")
    return values


class NoDoubles:
    """Beside a list: nothing is in it twice, for the loader and for the schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(no_doubles, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "uniqueItems": True}


# How far a rule is rolled out -------------------------------------------------------------------------------------


class Mode(StrEnum):
    """Whether a rule acts. A shadow rule is evaluated and recorded and never acts; a canary acts on a share of the
    conversations and is a shadow for the others."""

    OFF = "off"
    SHADOW = "shadow"
    CANARY = "canary"
    ENFORCE = "enforce"


_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%")
_SOME = r"(?!0{1,3}(\.0+)? ?%)(0*100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,4})?) ?%"
"""The same, above 0 and up to 100, in a regular expression for editors."""
_SHOWN = "Write a share above 0% and up to 100%, like 5%."
_CANARY = re.compile(r"canary:? +(.*)")
_Percent = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{_SOME}$", "patternErrorMessage": _SHOWN})]
_Spoken = Annotated[
    str, WithJsonSchema({"type": "string", "pattern": f"^canary {_SOME}$", "patternErrorMessage": _SHOWN})
]


def _share(value: Any) -> Any:
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise PydanticCustomError("share", "a canary needs a share of the conversations, above 0% and up to 100%")
    return share


class Canary(Strict):
    """The rule acts on this share of the conversations, always the same ones, and is a shadow for the others."""

    canary: Annotated[
        float,
        Field(gt=0, le=1, description="A share of the conversations, like 5%."),
        BeforeValidator(_share, json_schema_input_type=_Percent),
    ]

    def __str__(self) -> str:
        return f"canary {self.canary * 100:g}%"


def _staged(value: Any) -> Any:
    if value == "canary":
        return {"canary": ""}
    found = _CANARY.fullmatch(value) if isinstance(value, str) else None
    return {"canary": found[1]} if found else value


Staging = Annotated[
    Annotated[Literal[Mode.OFF, Mode.SHADOW, Mode.ENFORCE], Tag("<mode>")] | Annotated[Canary, Tag("<canary>")],
    Discriminator(lambda value: "<canary>" if isinstance(value, dict | Canary) else "<mode>"),
    BeforeValidator(_staged, json_schema_input_type=Literal["off", "shadow", "enforce"] | _Spoken | Canary),
]
"""`off`, `shadow`, `enforce`, or a canary: `canary 5%` or `{canary: 5%}`."""


# How much of a stream waits ---------------------------------------------------------------------------------------

CHARACTERS_A_TOKEN = 8
"""Characters that are held for one token: about twice what a token of English has, for what waits must not be less
than was asked for."""
_TOKENS = re.compile(r"([0-9]{1,6}) tokens?")
_TokenCount = Annotated[str, shape(r"^[0-9]{1,6} tokens?$", "a number of characters, or of tokens like `50 tokens`")]


def _characters(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _TOKENS.fullmatch(value)
    if found is None:
        raise PydanticCustomError("characters", "that is no number of characters or tokens")
    return int(found[1]) * CHARACTERS_A_TOKEN


class HoldBack(Strict):
    """The last `hold_back` characters of a streamed answer wait while what comes before them is released."""

    hold_back: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description=f"Characters that wait, or `50 tokens`: {CHARACTERS_A_TOKEN} characters for each.",
        ),
        BeforeValidator(_characters, json_schema_input_type=int | _TokenCount),
    ]


Stream = Annotated[
    Annotated[Literal["whole"], Tag("<whole>")] | Annotated[HoldBack, Tag("<hold>")],
    Discriminator(lambda value: "<hold>" if isinstance(value, dict | HoldBack) else "<whole>"),
]


# Which requests a policy is for -----------------------------------------------------------------------------------

Pattern = Annotated[str, Field(pattern=r"^\S{1,200}$", description="`*` stands for any run of letters.")]
Patterns = Annotated[list[Pattern], Field(min_length=1), NoDoubles()]


class Range(Strict):
    """Whole numbers from `at_least` to `at_most`, both included."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    at_least: Annotated[int | None, Field(ge=0, description="The lowest number that counts.")] = None
    at_most: Annotated[int | None, Field(ge=0, description="The highest number that counts.")] = None

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.at_least is None and self.at_most is None:
            raise ValueError("write at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most: no number is in between")
        return self

    def holds(self, number: int) -> bool:
        return (self.at_least is None or number >= self.at_least) and (self.at_most is None or number <= self.at_most)


class AppliesTo(Strict):
    """Which requests a policy is for: those that meet each key that is written. Names of models are compared without
    regard to capital letters."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    models: Annotated[Patterns | None, Field(description="Models as callers name them, like gpt-5*.")] = None
    dialects: Annotated[
        list[Api] | None, Field(min_length=1, description="The APIs that are spoken: chat, responses, messages ...")
    ] = None
    accounts: Annotated[Patterns | None, Field(description="Ids of accounts.")] = None
    tiers: Annotated[Patterns | None, Field(description="Tiers of accounts.")] = None
    effort: Annotated[Patterns | None, Field(description="Reasoning efforts that are asked for.")] = None
    n: Annotated[Range | None, Field(description="How many answers are asked for.")] = None
    max_tokens: Annotated[Range | None, Field(description="The bound of the answer; without one none is met.")] = None
    tools: Annotated[bool | None, Field(description="Whether tools are on offer.")] = None
    stream: Annotated[bool | None, Field(description="Whether the answer is streamed.")] = None

    @model_validator(mode="after")
    def _some(self) -> AppliesTo:
        if not self.model_fields_set:
            raise ValueError("write what it applies to, or remove 'applies_to': without it a policy is for everything")
        return self

    def covers(self, facts: Facts) -> bool:
        """Whether a policy with this key is for a request with these facts."""
        asked = facts.settings
        return (
            (self.models is None or _any(self.models, facts.model))
            and (self.dialects is None or facts.dialect in self.dialects)
            and (self.accounts is None or _any(self.accounts, facts.account.id))
            and (self.tiers is None or _any(self.tiers, facts.account.tier))
            and (self.effort is None or _any(self.effort, asked.effort))
            and (self.n is None or self.n.holds(asked.n))
            and (self.max_tokens is None or (asked.max_tokens > 0 and self.max_tokens.holds(asked.max_tokens)))
            and (self.tools is None or self.tools is bool(facts.tools))
            and (self.stream is None or self.stream is asked.stream)
        )


def _any(patterns: list[str], name: str) -> bool:
    folded = name.casefold()
    return any(_meets(pattern.casefold(), folded) for pattern in patterns)


def _meets(pattern: str, name: str) -> bool:
    """Whether `name` is `pattern`, whose stars stand for any run of letters. Linear in the name for each star."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
