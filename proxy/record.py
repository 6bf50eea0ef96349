"""What is written down of one exchange: notes taken on its way, two audit records, and the metrics at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any

from classifiers.base import Finding, Message, Role
from classifiers.readings import RAW
from policies.engine import Decision, Fired
from policies.forms import Mode
from policies.model import Action, Stage

from .audit import Record, new_id
from .dialects.base import Request
from .kept_path import kept_name
from .metrics import Metrics

if TYPE_CHECKING:
    from .content.keeping import Kept
    from .traces import Trace


Leave = Callable[[str, Set[tuple[str, str]]], dict[str, Any]]
"""Keeps what rules leave on the account: from the exchange's id and (policy, rule) of each that fired and acts to what
the record says of it."""


class Notes:
    """Facts of one exchange, as they become known. Times are seconds since `began` (time.perf_counter)."""

    def __init__(
        self,
        metrics: Metrics,
        dialect: str,
        method: str,
        path: str,
        account: str,
        revision: str,
        key: str = "",
        claims: Callable[[Any], dict[str, str]] | None = None,
    ) -> None:
        """`key` is the id of the account's key, `claims` what a request says about its end user."""
        self.id = new_id()
        self.outcome_name = ""
        self.account = account
        self.upstream = ""
        self._metrics, self._dialect = metrics, dialect
        self._at, self._began = time.time(), time.perf_counter()
        self._facts: dict[str, Any] = {
            "account": account,
            "dialect": dialect,
            "method": method,
            "path": path,
            "policy": None,
            "revision": revision,
        }
        if key:
            self._facts["key"] = key
        self._claims = claims
        self._model = ""
        self._stages: dict[Stage, Seen] = {}
        self._times: dict[str, float] = {}
        self._sent = 0.0
        self._head = 0.0
        self._stream = False
        self.trace: Trace | None = None
        self.kept: Kept | None = None
        self.leave: Leave | None = None
        self._acted: Set[tuple[str, str]] = _NOBODY
        self.settled = False
        """Whether it is certain how it ended: what is counted then."""
        self._told: dict[str, Any] | None = None  # what the newest record of how it ended says

    def asked(self, request: Request) -> None:
        """The request was read."""
        self._model, self._stream = request.model, request.stream
        self._facts.update(model=kept_name(request.model), stream=request.stream)
        if self._claims is not None and (claims := self._claims(request.tree)):
            self._facts["claims"] = claims

    def decided(
        self, decision: Decision, messages: Sequence[Message], places: Sequence[tuple[Message, str]] = ()
    ) -> None:
        """A decision on `messages` and, after them, unscannable `places` fell. A stream has many on its output: they
        add up."""
        seen = self._stages.setdefault(decision.stage, _NOTHING)
        # A rule may fire on facts alone.
        if decision.findings or decision.failures or decision.fired or decision.shadow:
            if seen is _NOTHING:
                seen = self._stages[decision.stage] = Seen()
            seen.add(decision, [*messages, *[message for message, _ in places]] if places else messages)
            if self.leave is not None:
                acted = {(item.policy, item.rule) for item in decision.fired if not item.not_evaluated}
                self._acted = acted | self._acted
        if self.trace is not None:
            self.trace.said(decision.stage, messages)
        if self.kept is not None:
            self.kept.saw(decision, messages, places)

    def sent(self, upstream: str, head: bytes) -> bytes:
        """The request goes to the upstream of this name now; its head, which a trace may add itself to."""
        self.upstream = self._facts["upstream"] = upstream
        self._sent = time.perf_counter()
        self._times["input"] = self._sent - self._began
        if self.trace is None:
            return head
        if self._stages:
            self.trace.stage("judge input", self._times["input"])
        return self.trace.carried(head, upstream)

    def answered(self, status: int, request: bytes | None = None) -> None:
        """The head of the upstream's answer came; `request` is what it calls the request."""
        self._head = time.perf_counter()
        self._facts["upstream_status"] = status
        if request:
            self._facts["request"] = request[:80].decode("latin-1")
        self._times["upstream"] = self._head - self._sent
        if self.trace is not None:
            self.trace.head(status)
        self._metrics.upstream.observe(self._head - self._sent, self.upstream)

    def first_token(self) -> None:
        now = time.perf_counter()
        self._times["first_token"] = now - self._began
        self._times["gate"] = now - self._head
        example = self.id, self._at
        self._metrics.first.observe(now - self._began)
        self._metrics.first.example(now - self._began, example)
        self._metrics.added.observe(now - self._head, "gate")
        self._metrics.added.example(now - self._head, example, "gate")
        if self.trace is not None:
            self.trace.stage("hold back", now - self._head)

    def waited(self, seconds: float) -> None:
        """For the intent to be durable."""
        self._times["audit"] = seconds
        self._metrics.added.observe(seconds, "audit")
        if self.trace is not None:
            self.trace.stage("audit", seconds)

    def judged(self, seconds: float) -> None:
        """Time in which the output was judged and nothing else could happen."""
        self._times["output"] = self._times.get("output", 0.0) + seconds
        if self.trace is not None:
            self.trace.stage("judge output", seconds)

    def routed(self, asked: str, to: str, rule: str) -> None:
        """Another model is asked, because of a rule."""
        self._facts["routed"] = {"from": kept_name(asked), "to": to, "rule": rule}

    def reviewed(self, stage: str, told: dict[str, Any]) -> None:
        """A person, or nobody, said what is to become of it."""
        self._facts["review"] = {**self._facts.get("review", {}), str(stage): told}

    def shown(self) -> dict[str, Any]:
        """What a reviewer is shown of an exchange beside the decision: who asks what, and no text, but for what the
        operator has kept."""
        about: dict[str, Any] = {key: self._facts.get(key, "") for key in ("account", "dialect", "model")}
        return about if self.kept is None or not self.kept.wanted else {**about, "texts": self.kept.plain()}

    @property
    def tokens(self) -> dict[str, int]:
        """What the model's answer cost, as its usage says it."""
        usage: dict[str, int] = self._facts.get("usage", {})
        return usage

    def usage(self, tree: Any) -> None:
        usage = tree.get("usage") if isinstance(tree, dict) else None
        if isinstance(usage, dict):
            self._facts["usage"] = {key: value for key, value in usage.items() if type(value) is int}

    def ended(self, outcome: str, detail: str = "") -> None:
        """How it ended; the first word stands."""
        if not self.outcome_name:
            self.outcome_name = outcome
            if detail:
                self._facts["detail"] = str(detail)

    def undone(self, outcome: str, detail: str = "") -> None:
        """Nothing has left, and what was noted of its end did not come to pass: this did."""
        if self.settled:
            return
        before = " ".join(filter(None, (self.outcome_name, self._facts.pop("detail", ""))))
        if before:
            self._facts["instead_of"] = before
        self.outcome_name = ""
        self.ended(outcome, detail)

    def stumbled(self, append: Callable[[Record], object]) -> None:
        """A fault of ours ended it: write that down, where nothing is yet."""
        if not self.settled:
            self.ended("failed", "internal_error")
            append(self.outcome())

    def intent(self) -> Record:
        """The record that is durable before the first byte of the answer."""
        return Record(self.id, "intent", self._at, {**self._facts, **self._verdict(), **self._seen()})

    def outcome(self) -> Record:
        """The record of how it ended; counts it in the metrics. Call it once."""
        record = self.expected()
        self.settle()
        return record

    def settle(self) -> None:
        """It has ended as the newest record says: count that. Once."""
        self.settled = True
        self._count()
        if self.trace is not None and self._told is not None:
            if self._stages and not self._sent:
                self.trace.stage("judge input", self._times["total"])
            self.trace.ended(self._told)

    def expected(self) -> Record:
        """The record of how it will have ended once that is on the disk and the answer leaves: `settle` it then. Where
        it does not, say what was `undone`, and write the `outcome` as well: readers take the later one."""
        before = self._told
        if before is None:
            body = self._body()
        else:
            ending: dict[str, Any] = {name: self._facts.get(name) for name in ("detail", "instead_of")}
            body = {**before, **ending, "status": self.outcome_name or "failed"}
        body["milliseconds"] = self._milliseconds()
        self._told = body
        return Record(self.id, "outcome", time.time(), body)

    def _body(self) -> dict[str, Any]:
        """What has come to be known; what is left on the account, and kept, is so once."""
        body = {**self._facts, **self._verdict(), **self._seen(), "status": self.outcome_name or "failed"}
        if self.kept is not None and (kept := self.kept.ended(self._facts)):
            body["content"] = kept
        if self._acted and self.leave is not None:
            body.update(self.leave(self.id, self._acted))
        return body

    def _milliseconds(self) -> dict[str, float]:
        times = self._times
        times["total"] = time.perf_counter() - self._began
        # What was refused before the model was asked took our time alone.
        own = ("input", "output", "audit") if self._sent else ("total",)
        added = sum([times.get(name, 0.0) for name in own])
        told = {name: int(seconds * 1e6) / 1e3 for name, seconds in times.items()}
        told["added"] = int(added * 1e6) / 1e3
        return told

    def _verdict(self) -> dict[str, Any]:
        """The most severe of all that fired, on either side."""
        fired = [rule for seen in self._stages.values() for rule in seen.fired.values()]
        if not fired:
            # What was never judged has no action: it did not pass.
            return _PASSED if self._stages else _UNJUDGED
        first = max(fired, key=lambda item: item.action.severity)
        stage = next(stage for stage, seen in self._stages.items() if first in seen.fired.values())
        why = {f"{finding.classifier}.{finding.label}": round(finding.score, 4) for finding in first.findings}
        return {
            "action": str(first.action),
            "rule": first.rule,
            "policy": first.policy,
            "stage": str(stage),
            "why": why,
        }

    def _seen(self) -> dict[str, Any]:
        return {_STAGES[stage]: seen.facts() for stage, seen in self._stages.items()}

    def _count(self) -> None:
        metrics = self._metrics
        metrics.exchanges.inc(self._dialect, metrics.model(self._model), self.outcome_name or "failed")
        for stage, seen in self._stages.items():
            if not seen.fired and not seen.shadow:
                metrics.decisions.inc(self._dialect, stage, "pass", "", "", "enforce")
            for item in (*seen.fired.values(), *seen.shadow.values()):
                series = self._dialect, stage, item.action, item.policy, item.rule, item.mode
                metrics.decisions.inc(*series)
                metrics.decisions.example((self.id, self._at), *series)


class Seen:
    """What was seen at one stage: the rules that fired, the highest score of each label for each role, the failures.

    It is enough to decide again by other rules (`policies.backtest`): `unplaced` has the highest scores of findings in
    derived texts, which a mask rule blocks instead, and `present` the roles that a failed classifier left unread.
    `views` has the highest scores of what was seen in other readings of a text, by reading (with a '#' behind it in a
    derived text); it is None where no finding tells.
    """

    __slots__ = ("failures", "fired", "present", "scores", "shadow", "unplaced", "views")

    def __init__(self) -> None:
        self.fired: dict[str, Fired] = {}
        self.shadow: dict[str, Fired] = {}
        self.scores: dict[Role, dict[str, float]] = {}
        self.unplaced: dict[Role, dict[str, float]] = {}
        self.failures: dict[str, str] = {}
        self.present: set[Role] = set()
        self.views: dict[Role, dict[str, dict[str, float]]] | None = None

    def add(self, decision: Decision, messages: Sequence[Message]) -> None:
        for item in decision.fired:
            known = self.fired.get(item.rule)
            if known is None or item.action.severity > known.action.severity:
                self.fired[item.rule] = item
        for item in decision.shadow:
            self.shadow.setdefault(item.rule, item)
        role, scores = None, dict[str, float]()
        for finding in decision.findings:
            message, exact = messages[finding.message], finding.score
            if message.role is not role:  # hardly ever: an enumeration's hash is dear
                role = message.role
                scores = self.scores.setdefault(role, {})
            name = f"{finding.classifier}.{finding.label}"
            # Six decimals, cut and not rounded: the score is at no threshold of six decimals that it was not at. What
            # is no number counts as the highest, as it does in `decide`.
            score = int(exact * 1e6 + 1e-6) / 1e6 if exact <= 1.0 else 1.0
            if score > scores.get(name, -1.0):
                scores[name] = score
            if finding.span is None and "#" in message.origin:
                unplaced = self.unplaced.setdefault(message.role, {})
                unplaced[name] = max(score, unplaced.get(name, 0.0))
            if finding.view:
                self._viewed(finding, message, name, score)
        if decision.failures:
            for failure in decision.failures:
                present = {message.role for message in messages}
                self.present |= present if failure.roles is None else present & failure.roles
                self.failures[failure.classifier] = str(failure.reason)

    def _viewed(self, finding: Finding, message: Message, name: str, score: float) -> None:
        if self.views is None:
            self.views = {}
        if finding.view != RAW:
            view = finding.view + "#" if finding.span is None and "#" in message.origin else finding.view
            seen = self.views.setdefault(message.role, {}).setdefault(view, {})
            seen[name] = max(score, seen.get(name, 0.0))

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.fired:
            facts["rules"] = {name: str(item.action) for name, item in self.fired.items()}
            canary = [name for name, item in self.fired.items() if item.mode is Mode.CANARY]
            if canary:
                facts["canary"] = canary
        if self.shadow:
            facts["shadow"] = {name: str(item.action) for name, item in self.shadow.items()}
        if len(self.scores) == 1:
            ((role, scores),) = self.scores.items()
            facts["scores"], facts["role"] = scores, str(role)
        elif self.scores:
            highest: dict[str, float] = {}
            for scores in self.scores.values():
                for name, score in scores.items():
                    highest[name] = max(score, highest.get(name, 0.0))
            facts.update(scores=highest, by_role={str(role): scores for role, scores in self.scores.items()})
        if self.unplaced:
            facts["unplaced"] = {str(role): scores for role, scores in self.unplaced.items()}
        if self.views is not None:
            facts["views"] = {str(role): views for role, views in self.views.items()}
        if self.failures:
            facts["failures"] = self.failures
            facts["present"] = sorted(map(str, self.present))
        return facts


_NOBODY: Set[tuple[str, str]] = frozenset()
_NOTHING = Seen()
"""What was seen at a stage where there was nothing to see; nobody adds to it."""
_STAGES = {stage: str(stage) for stage in Stage}
_PASSED: dict[str, Any] = {"action": str(Action.PASS), "rule": None}
_UNJUDGED: dict[str, Any] = {"action": None, "rule": None}
