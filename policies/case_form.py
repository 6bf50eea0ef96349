"""What an author may write of a case: a test beside the rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from classifiers.base import Role

from .facts import Account, Api, Call, Facts, Settings, Turn
from .forms import NoDoubles, Strict
from .words import Action, ClassifierName, FindingName, Id, Score, Stage


class _Strict(Strict, BaseModel):
    """The same; named here so that ruff sees a model."""


CaseName = Annotated[str, Field(min_length=1, max_length=200)]


class CaseMessage(_Strict):
    """One message of a case."""

    role: Annotated[Role, Field(description="Who says it.")]
    text: Annotated[str, Field(description="What is said.")]
    name: Annotated[str, Field(description="Of the tool that is called or that answers.")] = ""


class CaseTurn(_Strict):
    """A step of the conversation before the case."""

    role: Annotated[Role, Field(description="Who spoke.")]
    name: Annotated[str, Field(description="Of the tool that is called or that answers.")] = ""


class CaseCall(_Strict):
    """A call of a tool that the answer makes."""

    name: Annotated[str, Field(description="Of the tool.")]
    arguments: Annotated[Any, Field(description="As they are once their JSON is read.")] = None


class CaseAccount(_Strict):
    """Who asks, in a case."""

    id: Annotated[str, Field(description="As the records name it.")] = "anonymous"
    tier: Annotated[str, Field(description="The operator's word for the account.")] = ""
    grants: Annotated[list[str], Field(description="What it may do beyond others.")] = []
    flags: Annotated[list[str], Field(description="Marks that it bears.")] = []
    history: Annotated[dict[str, int], Field(description="Its strikes by name.")] = {}


class CaseRequest(_Strict):
    """The request of a case, but for its messages."""

    dialect: Annotated[Api, Field(description="The API that is spoken.")] = Api.CHAT
    model: Annotated[str, Field(description="The model, as the caller names it.")] = ""
    effort: Annotated[str, Field(description="The reasoning effort that is asked for.")] = ""
    n: Annotated[int, Field(ge=1, description="How many answers are asked for.")] = 1
    stream: Annotated[bool, Field(description="Whether the answer is streamed.")] = False
    max_tokens: Annotated[int, Field(ge=0, description="The bound of the answer, 0 for none.")] = 0
    temperature: Annotated[float, Field(description="The temperature.")] = 1.0
    tools: Annotated[list[str], Field(description="Names of the tools on offer.")] = []
    account: Annotated[CaseAccount, Field(description="Who asks.")] = CaseAccount()
    before: Annotated[list[CaseTurn], Field(description="The conversation before the messages of the case.")] = []


Reading = Literal["plain", "skeleton", "letters", "leet", "words", "unmarked", "rot13", "decoded", "joint"]


class CaseScore(_Strict):
    """A score of a case, found in another reading of its texts than the one in plain sight."""

    score: Annotated[Score, Field(description="The score.")]
    reading: Annotated[Reading, Field(description="The reading in which it was found, as conditions name it.")]


Mocked = Annotated[
    Annotated[Score, Tag("<score>")] | Annotated[CaseScore, Tag("<read>")],
    Discriminator(lambda value: "<read>" if isinstance(value, dict | CaseScore) else "<score>"),
]
"""A score, or a score and where it was found: `{score: 0.9, reading: decoded}`."""


class Expectation(_Strict):
    """What a case must lead to."""

    action: Annotated[Action, Field(description="The most severe action that is done.")]
    rule: Annotated[Id | None, Field(description="A rule that must be among those that fired.")] = None


class CasePatch(_Strict):
    """What differs of a case that is inherited: what it must lead to here, or that it is not run here."""

    because: Annotated[str, Field(min_length=1, max_length=1000, description="Why, for whoever reads this later.")]
    expect: Annotated[Expectation | None, Field(description="What it must lead to here.")] = None
    drop: Annotated[bool, Field(description="true: the case is not run against this policy.")] = False

    @model_validator(mode="after")
    def _one_thing(self) -> CasePatch:
        if (self.expect is not None) == self.drop:
            raise ValueError("write either 'expect' or 'drop: true'")
        return self


class Case(_Strict):
    """A test beside the rules. A set is fit for traffic only when all its cases pass."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["messages"]}]})

    name: Annotated[CaseName, Field(description="Unique in the file; shown where it fails.")]
    stage: Annotated[Stage, Field(description="Where in an exchange: input or output.")] = Stage.INPUT
    text: Annotated[
        str | None,
        Field(description="Short for one message: of the user on input, of the assistant on output."),
    ] = None
    messages: Annotated[
        list[CaseMessage] | None, Field(min_length=1, description="In place of text: several, each with its role.")
    ] = None
    scores: Annotated[
        dict[FindingName, Mocked] | None,
        Field(
            description="What these classifiers are to have seen in each message; they are not asked. A score, or "
            "{score: 0.9, reading: decoded}."
        ),
    ] = None
    request: Annotated[
        CaseRequest | None,
        Field(description="What applies_to and conditions read. Without it, the policy of the case applies."),
    ] = None
    calls: Annotated[list[CaseCall], Field(description="The tools that the answer calls, at the output stage.")] = []
    failed: Annotated[
        list[ClassifierName],
        Field(description="Classifiers that are to have given no answer."),
        NoDoubles(),
    ] = []
    expect: Annotated[Expectation, Field(description="What it must lead to.")]

    @model_validator(mode="after")
    def _one_text(self) -> Case:
        if (self.text is None) == (self.messages is None):
            raise ValueError("a case has either 'text' or 'messages'")
        if self.calls and self.stage is not Stage.OUTPUT:
            raise PydanticCustomError("idle_key", "'calls' is for cases of the stage output", {"key": "calls"})
        return self

    @property
    def facts(self) -> Facts:
        """What the case says about its request and, at the output stage, about the calls of the answer."""
        asked = self.request or CaseRequest()
        account = asked.account
        said = [(each.role, each.name) for each in asked.before]
        said += [(each.role, each.name) for each in self.messages or () if each.role is not Role.SETTING]
        facts = Facts(
            asked.dialect,
            asked.model,
            Settings(asked.effort, asked.n, asked.stream, asked.max_tokens, asked.temperature),
            tuple(asked.tools),
            Account(account.id, "", account.tier, frozenset(account.grants), frozenset(account.flags), account.history),
            tuple(Turn(role, name) for role, name in said),
        )
        return facts.answered(tuple(Call(each.name, each.arguments) for each in self.calls)) if self.calls else facts
