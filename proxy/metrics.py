"""What operators watch: one object, made once a process, written to by the exchange and nobody else.

Names follow Prometheus' conventions (base units, `_total`). Label sets are bounded: rules and policies come from the
loaded policy, everything else from enumerations; no key, user, prompt or path is ever a label. A model's name is one
only where the operator listed it; all others are `other`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from policies.model import Stage

from .tally import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

GUARD_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FIRST_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    15,
    20,
    30,
    45,
    60,
)
VERDICTS = ("approved", "denied", "expired", "full", "shutdown")
"""What becomes of an exchange that waits for a person (`reviews`)."""
HEARTBEAT = ("policy", "dialect", "stage", "classifier", "probe")


class Metrics:
    """Every series of the data plane."""

    def __init__(self, models: Iterable[str] = (), worker: str = "0") -> None:
        self._registry: CollectorRegistry | None = None
        self._models = frozenset(models)
        self._worker = worker
        self.decisions = Counter(
            "penstock_decisions",
            "Rules that fired, one for each; rule and policy are empty where none did.",
            ("dialect", "stage", "action", "policy", "rule", "mode"),
        )
        self.exchanges = Counter("penstock_exchanges", "Exchanges that ended.", ("dialect", "model", "outcome"))
        self.added = Histogram(
            "penstock_added_latency_seconds",
            "What Penstock added, by part: queue (waiting for a classifier), classify, audit (waiting for the intent "
            "to be durable), gate (text held back).",
            ("part",),
            GUARD_BUCKETS,
        )
        self.upstream = Histogram(
            "penstock_upstream_seconds", "From the request sent to the answer's head.", ("upstream",), FIRST_BUCKETS
        )
        self.first = Histogram(
            "penstock_time_to_first_token_seconds",
            "From the request's last byte to the first released text of a stream.",
            (),
            FIRST_BUCKETS,
        )
        self.unscanned = Counter(
            "penstock_unscanned_parts",
            "Parts that no classifier could or did read.",
            ("dialect", "stage", "kind"),
        )
        self.failures = Counter(
            "penstock_classifier_failures", "Classifiers that gave no answer.", ("classifier", "reason")
        )
        self.fail_open = Counter(
            "penstock_fail_open", "Verdicts that let text pass although a classifier gave no answer.", ("stage",)
        )
        self.reviews = Counter(
            "penstock_reviews", "Exchanges that waited for a person, by what became of them.", ("stage", "verdict")
        )
        self.reviews_held = Gauge("penstock_reviews_held", "Exchanges that wait for a person.")
        self.faults = Counter("penstock_upstream_faults", "Upstreams that failed.", ("upstream", "fault"))
        self.refused = Counter(
            "penstock_requests_refused", "Requests that were refused before they were judged.", ("code",)
        )
        for part in ("queue", "classify", "audit", "gate"):
            self.added.declare(part)
        self.in_flight = Gauge("penstock_exchanges_in_flight", "Exchanges in flight.")
        enforces = "1 for the policy revision that this worker enforces."
        self.revision = Gauge("penstock_policy_revision", enforces, ("worker", "revision"))
        self.reloads = Counter("penstock_policy_reloads", "Policies loaded again while serving.", ("result",))
        self.reload_failed = Gauge(
            "penstock_policy_reload_failed_timestamp_seconds",
            "When a policy could last not be loaded; 0 where each could.",
            across=max,
        )
        self.reload_failed.set(0)
        self.judged = Counter(
            "penstock_classifier_messages",
            "Messages for classifiers that take milliseconds: read, known from before, spared by the classifier "
            "before, or refused by an open breaker.",
            ("fate",),
        )
        self.breakers = Counter("penstock_breakers_opened", "How often a classifier was left alone.")
        self.heartbeat = Gauge(
            "penstock_guard_heartbeat",
            "1 where the newest probe was decided as its case in the policy says: bad ones must be found by that "
            "classifier, good ones must pass.",
            HEARTBEAT,
            across=min,
        )
        self.heartbeat_success = Gauge(
            "penstock_guard_heartbeat_success_timestamp_seconds", "When such a probe last was.", HEARTBEAT, across=min
        )
        self._outside()
        self._begin()

    def _begin(self) -> None:
        """Show what alerts look at from the start: of a series that begins with 1, nobody sees the increase."""
        for stage in Stage:
            self.fail_open.reach(0, stage)
            for verdict in VERDICTS:
                self.reviews.reach(0, stage, verdict)
        for result in ("loaded", "refused"):
            self.reloads.reach(0, result)

    def _outside(self) -> None:
        """Of the audit, and of what lies outside of this process."""
        self.audit_lag = Gauge("penstock_audit_queue_records", "Records that wait to be written.")
        self.audit_lost = Counter("penstock_audit_lost_records", "Records that could not be kept.")
        self.audit_healthy = Gauge("penstock_audit_healthy", "1 where the audit takes records.", across=min)
        self.log_lost = Counter("penstock_log_lost_lines", "Lines of the log that could not be written.")
        self.content_kept = Counter("penstock_content_kept", "Exchanges whose content was kept, encrypted.")
        self.content_lost = Counter(
            "penstock_content_lost",
            "Exchanges whose content was to be kept and was not: the queue was full, it was too large, or it could not "
            "be written.",
            ("reason",),
        )
        does = "1 where a part outside of this process does what it is for; see /readyz."
        self.content_queue = Gauge(
            "penstock_content_queue_used_ratio",
            "How much of the room of what waits to be kept is taken: 1 where more is lost.",
            across=max,
        )
        self.part_up = Gauge("penstock_part_up", does, ("part",), across=min)
        self.encoder_fallbacks = Counter(
            "penstock_encoder_fallbacks", "Passes that the weights here made, since the encoder's server did not."
        )
        self.strikes = Counter("penstock_account_strikes", "Strikes that rules left on accounts.", ("name",))
        self.flagged = Gauge(
            "penstock_accounts_flagged", "Accounts with a flag, as this process knows them.", across=max
        )
        self.counts_alone = Counter(
            "penstock_state_counts_alone", "Counts of an account that were taken from this machine alone."
        )
        self.verdicts = Counter(
            "penstock_state_findings", "Texts whose findings Redis was asked for, and what it knew.", ("fate",)
        )
        self.state_waiting = Gauge(
            "penstock_state_waiting", "Strikes and flags that Redis was not told yet.", across=max
        )

    def model(self, name: str) -> str:
        """`name` as a label: itself where the operator listed it, else other."""
        return name if name in self._models else "other"

    def enforce(self, *revisions: str) -> None:
        """This worker enforces `revisions` from now on, one for each policy."""
        self.revision.clear()
        for revision in revisions:
            self.revision.set(1, self._worker, revision)

    def page(self, accept: bytes = b"") -> tuple[str, bytes]:
        """Content type and text for a scrape that takes the types of `accept`. OpenMetrics has exemplars: ids of
        decisions, which lead to the audit."""
        if self._registry is None:
            self._registry = self._register()
            self.watch(self._registry)
        if b"application/openmetrics-text" in accept:
            from prometheus_client.openmetrics import exposition

            page: bytes = exposition.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return exposition.CONTENT_TYPE_LATEST, page
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def watch(self, registry: CollectorRegistry) -> None:
        """Show what the process itself costs."""
        from prometheus_client.gc_collector import GCCollector
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.process_collector import ProcessCollector

        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def series(self) -> dict[str, Counter | Gauge | Histogram]:
        """Every series by the name that it has here."""
        return {name: each for name, each in vars(self).items() if isinstance(each, Counter | Gauge | Histogram)}

    def _register(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        for series in self.series().values():
            registry.register(series)
        return registry
