"""What comes out of the engine: one action, with the rules that asked for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from classifiers.base import Failure, Finding

from .forms import Mode
from .model import Action, OnBlock, Stage
from .words import Otherwise

ENDS = frozenset({Action.BLOCK, Action.REWRITE})
"""Actions that answer in the model's place."""
WAYS = ENDS | {Action.REVIEW, Action.ROUTE}
"""Actions that say who answers, of which the most severe is done. All others are milder, and done beside it."""


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that fired and what it asks for. `action` is the rule's own, or its `on_error` if
    `not_evaluated`.

    `mode` is how it took part: enforce, canary (it acts on this conversation) or shadow. `message` is the refusal's
    template. `note` says, for people, why the action is not the rule's own. `told` is what the action works with: the
    words of a rewrite, the note of an advice, the model of a route. A review waits `hold` seconds, then `otherwise`.
    """

    policy: str
    rule: str
    action: Action
    mode: Mode
    reason: str
    message: str
    on_block: OnBlock
    tags: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    not_evaluated: bool = False
    note: str = ""
    told: str = ""
    hold: int = 0
    otherwise: Otherwise = Otherwise.BLOCK

    @property
    def score(self) -> float:
        """The highest score among the findings that made it fire; 0 where there are none."""
        return max((finding.score for finding in self.findings), default=0.0)


@dataclass(frozen=True, slots=True)
class Mask:
    """[start, end) in code points of message number `message` is to be replaced by `replacement`, in which {n} is yet
    to be numbered (`tokens`). `restore`: in the answer, the caller gets back what stood there. `spelled`: the
    replacement is written as the text writes it, escapes and all (`in_json`)."""

    message: int
    start: int
    end: int
    replacement: str
    restore: bool = False
    spelled: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why.

    `fired` has the most severe first (equals in the order of the rules), and its action is the decision's. Who answers
    is said by `way`; masks and advice change what passes, beside whatever that is. `masks` are sorted and do not
    overlap; a block leaves nothing to mask. `findings` and `failures` are all that the report
    held. `revision` names the policy set that decided.
    """

    action: Action
    fired: tuple[Fired, ...] = ()
    masks: tuple[Mask, ...] = ()
    shadow: tuple[Fired, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[Failure, ...] = ()
    stage: Stage = Stage.INPUT
    revision: str = ""

    @property
    def way(self) -> Fired | None:
        """The rule that says who answers: nobody (block), a person says (review), another model (route), words of the
        policy (rewrite). None: the model that was asked."""
        return self.fired[0] if self.fired and self.fired[0].action in WAYS else None

    def stopped(self) -> Decision | None:
        """This decision where its first rule answers in the model's place; None where a model answers, or a person is
        to be asked first."""
        return self if self.fired and self.fired[0].action in ENDS else None

    def arrived(self, models: Collection[str]) -> Decision:
        """This decision about a request that went to these models already: where the first rule that routes asks for
        one of them, it is there, and no other route asks for anything."""
        routes = [item for item in self.fired if item.action is Action.ROUTE]
        if not routes or routes[0].told not in models:
            return self
        fired = tuple(item for item in self.fired if item.action is not Action.ROUTE)
        return replace(self, fired=fired, action=fired[0].action if fired else Action.PASS)

    def approved(self) -> Decision:
        """This decision once a person has said yes: as if the rules that ask for a review had not fired."""
        fired = tuple(item for item in self.fired if item.action is not Action.REVIEW)
        return replace(self, fired=fired, action=fired[0].action if fired else Action.PASS)

    def denied(self) -> Decision:
        """This decision once a person has said no, or nobody anything: a block by the rule that asked for a review."""
        first = replace(self.fired[0], action=Action.BLOCK)
        return replace(self, fired=(first, *self.fired[1:]), action=Action.BLOCK, masks=())

    @property
    def advice(self) -> tuple[str, ...]:
        """The notes that are added to the request, each once."""
        return tuple(dict.fromkeys(item.told for item in self.fired if item.action is Action.ADVISE))

    @property
    def rule(self) -> str | None:
        """The id of the rule that decided; None when none fired."""
        return self.fired[0].rule if self.fired else None

    @property
    def policy(self) -> str | None:
        """The id of the policy whose rule decided."""
        return self.fired[0].policy if self.fired else None

    @property
    def reason(self) -> str | None:
        """The reason code of the rule that decided."""
        return self.fired[0].reason if self.fired else None

    @property
    def message(self) -> str | None:
        """The refusal's template of the rule that decided; `refusal` fills it."""
        return self.fired[0].message if self.fired else None

    @property
    def on_block(self) -> OnBlock:
        """How the caller is to be told of a block."""
        return self.fired[0].on_block if self.fired else OnBlock.ERROR

    def refusal(self, decision_id: str) -> str:
        """The text that a caller reads."""
        if not self.fired:
            return ""
        first = self.fired[0]
        # The id goes in last: a policy's own words are never read as a field twice.
        text = first.told if first.action is Action.REWRITE else first.message
        text = text.replace("{policy}", first.policy).replace("{reason}", first.reason)
        return text.replace("{decision_id}", decision_id)
