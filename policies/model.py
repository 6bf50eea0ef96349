"""What an author may write: the pydantic model of one policy file (`words` and `forms` hold what it is made of).

The model is strict: nothing is coerced, unknown keys are refused. JSON Schema for editors comes from it
(`schema`). A form that grows later (a condition as an expression, a mode with a share) is a new member of a
union here, so files of today stay valid.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from classifiers.base import Role

from .case_form import Case, CaseName, CasePatch
from .editor import shape
from .forms import AppliesTo, Canary, HoldBack, Mode, NoDoubles, Staging, Stream, Strict
from .marks import Flagged, Struck, Time
from .words import Action, ClassifierName, FindingName, Id, OnBlock, OnError, Otherwise, Score, Stage

if TYPE_CHECKING:
    from .cel.parts import Fact

__all__ = ["Action", "Case", "ClassifierSpec", "OnBlock", "OnError", "Policy", "Rule", "Stage"]

DEFAULT_MESSAGE = (
    "I'm sorry, but I can't help with that request: it was blocked by policy '{policy}'. Reference: {decision_id}."
)
DEFAULT_REASON = "content_policy_violation"
MESSAGE_FIELDS = frozenset({"policy", "decision_id", "reason"})
MASK_FIELDS = frozenset({"LABEL", "label", "n"})
NUMBER = "{n}"
"""In a replacement: the number of what it stands for."""
KEYS_OF = {
    "mask_with": Action.MASK,
    "restore": Action.MASK,
    "rewrite_with": Action.REWRITE,
    "advice": Action.ADVISE,
    "route_to": Action.ROUTE,
    "hold": Action.REVIEW,
    "otherwise": Action.REVIEW,
}
"""Keys that only rules with one action have."""
NEEDED = {Action.REWRITE: "rewrite_with", Action.ADVISE: "advice", Action.ROUTE: "route_to"}
"""Keys without which an action says nothing."""
INPUT_ONLY = frozenset({Action.ADVISE, Action.ROUTE})
"""Actions that change what the model is asked."""


def _only_fields(fields: frozenset[str]) -> AfterValidator:
    def check(text: str) -> str:
        for name in re.findall(r"\{(\w*)\}", text):
            if name not in fields:
                raise ValueError(
                    f"no field {{{name}}} here; fields are " + ", ".join(f"{{{field}}}" for field in sorted(fields))
                )
        return text

    return AfterValidator(check)


def _numbered_once(text: str) -> str:
    """Raises ValueError where a number could not be read back."""
    behind = text.partition(NUMBER)[2]
    if NUMBER in behind or behind[:1].isdigit():
        raise ValueError("write {n} once, and no digit behind it: its names could not be told apart")
    return text


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Label = Annotated[str, Field(pattern=r"^\S{1,128}$")]
Threshold = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Prose = Annotated[str, Field(min_length=1, max_length=4000)]
Message = Annotated[str, Field(min_length=1, max_length=2000), _only_fields(MESSAGE_FIELDS)]
Replacement = Annotated[str, Field(max_length=200), _only_fields(MASK_FIELDS), AfterValidator(_numbered_once)]


ModelName = Annotated[str, Field(pattern=r"^[^\s*]{1,200}$")]
LONGEST_HOLD = 600
"""Seconds that an exchange may wait for a person."""


class _Strict(Strict, BaseModel):
    """The same; named here so that ruff sees a model."""


def _band(values: list[float]) -> list[float]:
    if len(values) != 2 or values[0] > values[1]:
        raise ValueError("write two scores, the lower one first")
    return values


class AfterSpec(_Strict):
    """Read only messages for which another classifier's score for one of the labels lies in the band, and all of
    them where that classifier gave no answer.
    """

    classifier: Annotated[ClassifierName, Field(description="The one that is asked before.")]
    labels: Annotated[list[Label], Field(min_length=1, description="Its labels that can leave doubt."), NoDoubles()]
    band: Annotated[
        list[Score],
        Field(
            description="Scores of doubt, the lowest and the highest; a label that is not found has 0.",
            json_schema_extra={"minItems": 2, "maxItems": 2},
        ),
        AfterValidator(_band),
    ]


class ClassifierSpec(BaseModel):
    """One classifier that rules of any file in the set may name. Keys beside these are options of its kind."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    kind: Annotated[str, Field(min_length=1, description="Which classifier answers, for example patterns.")]
    deadline_ms: Annotated[
        int,
        Field(
            ge=1,
            le=60_000,
            description=(
                "How long an answer may take before it counts as a failure. Texts of more than 20,000 characters "
                "have as much more, up to ten times."
            ),
        ),
    ] = 2000
    after: Annotated[
        AfterSpec | None, Field(description="Ask only about what another classifier is in doubt about.")
    ] = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the kind, as written."""
        return dict(self.model_extra or {})


class Seen(_Strict):
    """True when a named finding has at least this score in a message whose role the rule looks at."""

    finding: Annotated[
        list[FindingName],
        Field(min_length=1, description="classifier.label or classifier.*; a list means any of them."),
        BeforeValidator(_one_or_many, json_schema_input_type=FindingName | list[FindingName]),
        NoDoubles(),
    ]
    at_least: Annotated[Threshold, Field(description="The lowest score that counts, above 0 and up to 1.")]


class AnyOf(_Strict):
    """True when at least one of these is."""

    any: Annotated[list[Seen], Field(min_length=1, description="One of these is enough.")]


class AllOf(_Strict):
    """True when each of these is; they may be seen in different messages."""

    all: Annotated[list[Seen], Field(min_length=1, description="Each of these is needed.")]


def _condition_form(value: Any) -> str:
    if isinstance(value, str):
        return "<cel>"
    keys = value if isinstance(value, dict) else {}
    if "any" in keys or isinstance(value, AnyOf):
        return "<any>"
    return "<all>" if "all" in keys or isinstance(value, AllOf) else "<seen>"


Expression = Annotated[
    str, Field(min_length=1, max_length=4000, description='In CEL, like score("guard.injection") >= 0.9.')
]
Condition = Annotated[
    Annotated[Seen, Tag("<seen>")]
    | Annotated[AnyOf, Tag("<any>")]
    | Annotated[AllOf, Tag("<all>")]
    | Annotated[Expression, Tag("<cel>")],
    Discriminator(_condition_form),
]


Stages = Annotated[list[Stage], Field(min_length=1, description="Where it looks: input, output or both."), NoDoubles()]
Roles = Annotated[
    list[Role],
    Field(min_length=1, description="Whose texts it looks at; all of them when left out."),
    NoDoubles(),
]
Reason = Annotated[
    str,
    shape(r"^[a-z][a-z0-9_]{0,63}$", "small letters, digits and '_', like prompt_injection"),
    Field(description="A code for programs."),
]
Tags = Annotated[list[Id], NoDoubles()]
Keep = Literal["content"]


class Rule(_Strict):
    """One rule: where it looks, when it fires, what it then asks for."""

    id: Annotated[Id, Field(description="Unique in the whole set; shown in metrics and in the audit.")]
    description: Annotated[Prose, Field(description="What it is for, in plain words.")]
    stages: Stages
    roles: Roles = list(Role)
    when: Annotated[Condition, Field(description="The condition.")]
    action: Annotated[Action, Field(description="What to do where it fires.")]
    mode: Annotated[
        Staging,
        Field(
            description="off, shadow (recorded, never acts), canary 5% (acts on a share of conversations) or enforce."
        ),
    ] = Mode.ENFORCE
    on_error: Annotated[
        OnError | None,
        Field(description="When a classifier gave no answer. Default: log for pass, log and advise, else block."),
    ] = None
    message: Annotated[Message | None, Field(description="What the caller reads; default: the policy's.")] = None
    reason: Reason = DEFAULT_REASON
    stream: Annotated[
        Stream, Field(description="For streamed output: whole (the default), or hold_back: N characters.")
    ] = "whole"
    mask_with: Annotated[
        Replacement,
        Field(description="What stands in place of masked text; {n} is the number of the value in its conversation."),
    ] = "[{LABEL}]"
    restore: Annotated[
        bool, Field(description="Whether the answer to the caller has what was masked in the request put back.")
    ] = False
    strike: Annotated[
        Struck | None,
        Field(description="Count it against the account, once an exchange: a name, or a name and `within` (24h)."),
    ] = None
    flag: Annotated[
        Flagged | None, Field(description="Mark the account: a name, or a name and how long it `lasts`.")
    ] = None
    rewrite_with: Annotated[
        Message | None, Field(description="The words that the caller gets in place of the model's.")
    ] = None
    advice: Annotated[Prose | None, Field(description="The note that is added to the request for the model.")] = None
    route_to: Annotated[
        ModelName | None, Field(description="The model that is asked in place of the one that was asked for.")
    ] = None
    hold: Annotated[
        Time, Field(le=LONGEST_HOLD, description="How long an exchange waits for a person, like 30s; 10m at most.")
    ] = 30
    otherwise: Annotated[
        Otherwise, Field(description="What becomes of it when nobody has said anything: block or pass.")
    ] = Otherwise.BLOCK
    tags: Annotated[Tags, Field(description="Words of your own, for those who search.")] = []
    keep: Annotated[
        Keep | None,
        Field(
            description="content: keep the texts of exchanges in which it fires, encrypted, if the operator allows it."
        ),
    ] = None

    @model_validator(mode="after")
    def _checked(self) -> Rule:
        self.check_keys()
        return self

    def check_keys(self) -> None:
        """Raises PydanticCustomError where a key is written that can never matter."""
        # A setting that can never matter is a mistake about what the rule does.
        if "stream" in self.model_fields_set and Stage.OUTPUT not in self.stages:
            raise PydanticCustomError("idle_key", "'stream' is for rules with the stage output", {"key": "stream"})
        for key, action in KEYS_OF.items():
            if key in self.model_fields_set and self.action is not action:
                raise PydanticCustomError("idle_key", f"'{key}' is for rules with the action {action}", {"key": key})
        needed = NEEDED.get(self.action)
        if needed is not None and getattr(self, needed) is None:
            what = f"a rule with the action {self.action} needs '{needed}': add it"
            raise PydanticCustomError("idle_key", what, {"key": "action"})
        if self.action in INPUT_ONLY and self.stages != [Stage.INPUT]:
            what = f"'{self.action}' changes what the model is asked: write stages: [input]"
            raise PydanticCustomError("idle_key", what, {"key": "stages"})
        if self.action is Action.REVIEW and isinstance(self.stream, HoldBack):
            what = "a person reads the whole answer: leave 'stream' out of a rule that asks for a review"
            raise PydanticCustomError("idle_key", what, {"key": "stream"})
        if NUMBER in self.mask_with and Stage.INPUT not in self.stages:
            what = "'{n}' numbers the values of a request: add the stage input, or leave it out"
            raise PydanticCustomError("idle_key", what, {"key": "mask_with"})
        if self.restore and NUMBER not in self.mask_with:
            what = "'restore' must tell one value from another: write mask_with: <{LABEL}_{n}>"
            raise PydanticCustomError("idle_key", what, {"key": "restore"})

    @property
    def acts(self) -> bool:
        """Whether it can stop or change anything: it is enforced, at least as a canary."""
        return self.mode is Mode.ENFORCE or isinstance(self.mode, Canary)

    @property
    def silence(self) -> OnError:
        """`on_error` with its default.

        A rule that protects (block, mask, rewrite ...) protects also when it cannot see: an attacker who can make a
        classifier fail must gain nothing. A rule that only watches must not stop traffic that it would never
        have stopped.
        """
        if self.on_error is not None:
            return self.on_error
        return OnError.BLOCK if self.action.protects else OnError.LOG

    @property
    def facts(self) -> list[Fact]:
        """The parts of an expression that ask for facts of the request, at its first stage."""
        if not isinstance(self.when, str):
            return []
        from .cel.condition import compiled
        from .cel.parts import Fact, leaves

        condition = compiled(self.when, self.stages[0], frozenset(self.roles))
        return [leaf for leaf in leaves(condition.root) if isinstance(leaf, Fact)]

    @property
    def conditions(self) -> tuple[list[Seen], bool]:
        """The parts of `when`, and whether each of them is needed (else one is enough). Of an expression they are the
        comparisons of scores that speak for it; what else it asks is not told."""
        match self.when:
            case Seen():
                return [self.when], False
            case AnyOf():
                return self.when.any, False
            case AllOf():
                return self.when.all, True
            case str():
                from .cel.condition import compiled

                condition = compiled(self.when, self.stages[0], frozenset(self.roles))
                atoms = [condition.atoms[bit] for bit in sorted(condition.shown)]
                # What is more than a number is told as that number.
                parts = [Seen(finding=[each.finding], at_least=min(each.at_least, 1.0)) for each in atoms]
                return parts, condition.every()


class RulePatch(_Strict):
    """What differs of a rule that is inherited."""

    description: Prose | None = None
    stages: Stages | None = None
    roles: Roles | None = None
    when: Condition | None = None
    action: Action | None = None
    mode: Staging | None = None
    on_error: OnError | None = None
    message: Message | None = None
    reason: Reason | None = None
    stream: Stream | None = None
    mask_with: Replacement | None = None
    restore: bool | None = None
    strike: Struck | None = None
    flag: Flagged | None = None
    rewrite_with: Message | None = None
    advice: Prose | None = None
    route_to: ModelName | None = None
    hold: Annotated[Time, Field(le=LONGEST_HOLD)] | None = None
    otherwise: Otherwise | None = None
    tags: Tags | None = None
    keep: Keep | None = None

    @model_validator(mode="after")
    def _some(self) -> RulePatch:
        if not self.model_fields_set:
            raise ValueError("write what differs, or remove it")
        return self


class Override(_Strict):
    """What differs from the policy that is extended."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    rules: Annotated[dict[Id, RulePatch], Field(min_length=1, description="By the ids of its rules.")] = {}
    cases: Annotated[
        dict[CaseName, CasePatch],
        Field(min_length=1, description="By the names of cases, which are inherited too."),
    ] = {}

    @model_validator(mode="after")
    def _some(self) -> Override:
        if not self.model_fields_set:
            raise ValueError("write what differs, or remove it")
        return self


class Inherited(NamedTuple):
    """A case of the policy `base`, at `place` (file:line:column), that is run against one that extends it."""

    base: str
    place: str
    case: Case


class Policy(_Strict):
    """One policy file."""

    id: Annotated[Id, Field(description="Unique in the set; shown to callers and in the audit.")]
    version: Annotated[int, Field(ge=1, description="A number that rises with each change.")]
    owner: Annotated[str, Field(min_length=1, max_length=200, description="Who answers for it.")]
    description: Annotated[Prose, Field(description="What it is for, in plain words.")]
    applies_to: Annotated[
        AppliesTo | None, Field(description="Which requests it is for; all of them when left out.")
    ] = None
    extends: Annotated[
        Id | None,
        Field(
            description="A policy of this set, or a pack, whose rules and classifiers it inherits; where it applies it "
            "stands in place of that policy."
        ),
    ] = None
    override: Annotated[Override | None, Field(description="What differs from the rules that are inherited.")] = None
    floor: Annotated[
        bool, Field(description="Policies that extend it may tighten its rules and never loosen them.")
    ] = False
    on_block: Annotated[OnBlock, Field(description="How a caller is told: error (400) or message (200).")] = (
        OnBlock.ERROR
    )
    message: Annotated[
        Message, Field(description="What a caller reads. Fields: {policy}, {decision_id}, {reason}.")
    ] = DEFAULT_MESSAGE
    classifiers: Annotated[
        dict[ClassifierName, ClassifierSpec], Field(description="What looks at the texts: name: {kind: ...}.")
    ] = {}
    rules: Annotated[list[Rule], Field(description="What to do about what was found.")] = []
    cases: Annotated[list[Case], Field(description="Tests: texts, and what must become of them.")] = []
    _inherited: frozenset[str] = PrivateAttr(default=frozenset())
    _ranked: tuple[str, ...] = PrivateAttr(default=())
    _cases: tuple[Inherited, ...] = PrivateAttr(default=())

    @property
    def inherited_cases(self) -> tuple[Inherited, ...]:
        """Cases of what it extends, as they are to hold here."""
        return self._cases

    @property
    def inherited(self) -> frozenset[str]:
        """The ids of rules that are inherited, changed or not."""
        return self._inherited

    @property
    def ranked(self) -> list[Rule]:
        """Its rules in the order in which equals decide: those of a floor that it extends first, then its own."""
        places = {name: place for place, name in enumerate(self._ranked)}
        return sorted(self.rules, key=lambda rule: places.get(rule.id, 0))

    @property
    def untouched(self) -> frozenset[str]:
        """The ids of rules that are inherited as they are: what there is to say of them is said of the base."""
        return self._inherited - (self.override.rules.keys() if self.override is not None else set())
