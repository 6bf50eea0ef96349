"""Three dashboards: traffic and decisions, guard quality and cost, health. `python deploy/grafana/dashboards.py` writes
them to dashboards/*.json, which Grafana is provisioned with; a test holds the two in step.

Each panel is one line of the tables below: its title, how it is drawn, its unit, its queries, and why it may be empty
where all is well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode, VariableRefresh

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HERE = 'job=~"$job", instance=~"$instance"'
"""What every series is narrowed by; recorded ones have only a job."""
RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are (PromQL, legend). `empty` says when it rightly shows nothing; without it a panel that
    shows nothing is a fault. With `exemplars` its points lead to decisions. A number is red (from, below) those two."""

    title: str
    kind: Literal["lines", "number", "bars"]
    unit: str
    queries: Sequence[tuple[str, str]]
    about: str = ""
    empty: str = ""
    exemplars: bool = False
    red: tuple[float, float] = (inf, -inf)

    def colour(self, value: float) -> str:
        """Of a number."""
        return "red" if value >= self.red[0] or value < self.red[1] else "green"


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: its file's name, title, and panels from left to right, three in a row."""

    name: str
    title: str
    about: str
    panels: Sequence[Panel]


def rate(metric: str, by: str, more: str = "") -> str:
    """Per second, added up over all that is not in `by`."""
    return f"sum by ({by}) (rate({metric}{{{HERE}{more}}}[{RATE}]))"


def quantile(q: float, metric: str, by: str = "", more: str = "") -> str:
    """A quantile of a histogram, in its unit."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{HERE}{more}}}[{RATE}])))"


def halves(metric: str, by: str = "", more: str = "") -> list[tuple[str, str]]:
    """The median and the 95th percentile."""
    shown = f"{{{{{by}}}}} " if by else ""
    return [(quantile(0.5, metric, by, more), shown + "p50"), (quantile(0.95, metric, by, more), shown + "p95")]


_ALL = f"sum(rate(penstock_classifier_messages_total{{{HERE}}}[{RATE}]))"


def _fate(name: str) -> str:
    return f'sum(rate(penstock_classifier_messages_total{{{HERE}, fate="{name}"}}[{RATE}])) / ({_ALL} > 0)'


TRAFFIC = Board(
    "traffic", "Penstock: traffic and decisions", "What came, what was decided, and what callers saw.",
    [
        Panel("Exchanges", "number", "reqps", [('sum(penstock:exchanges:rate5m{job=~"$job"})', "")],
              "Ended a second, over five minutes."),
        Panel("Blocked", "number", "percentunit", [('max(penstock:blocked:ratio_rate5m{job=~"$job"})', "")],
              "The share of exchanges that ended in a refusal, over five minutes."),
        Panel("In flight", "number", "short", [(f"sum(penstock_exchanges_in_flight{{{HERE}}})", "")]),
        Panel("How exchanges ended", "lines", "reqps", [(rate("penstock_exchanges_total", "outcome"), "{{outcome}}")]),
        Panel("APIs", "lines", "reqps", [(rate("penstock_exchanges_total", "dialect"), "{{dialect}}")]),
        Panel("Models", "lines", "reqps", [(rate("penstock_exchanges_total", "model"), "{{model}}")],
              "Models that metrics_models lists; all others are `other`."),
        Panel("Decisions", "lines", "short",
              [(rate("penstock_decisions_total", "action", ', mode="enforce"'), "{{action}}")],
              "Rules that fired, by action. A point's decision_id: `penstock audit show ID`.", exemplars=True),
        Panel("Rules that fired, in this time", "bars", "short",
              [(f'topk(15, sum by (rule, action) (increase(penstock_decisions_total{{{HERE}, rule!="", '
                f'mode="enforce"}}[$__range])) > 0)', "{{rule}} ({{action}})")]),
        Panel("What shadow rules would have done", "bars", "short",
              [(f'topk(15, sum by (rule, action) (increase(penstock_decisions_total{{{HERE}, mode="shadow"}}'
                f'[$__range])) > 0)', "{{rule}} ({{action}})")],
              empty="the policy has no rule in shadow mode, or none fired"),
        Panel("Refused before they were judged", "lines", "reqps",
              [(rate("penstock_requests_refused_total", "code"), "{{code}}")],
              empty="no request was malformed or over a limit"),
        Panel("Parts that nobody read", "lines", "short",
              [(rate("penstock_unscanned_parts_total", "kind"), "{{kind}}")],
              "Images, files, and routes that were opened unjudged.", empty="every part was a text that was read"),
        Panel("Time to first token", "lines", "s", halves("penstock_time_to_first_token_seconds"),
              "From the request's last byte to the first released text of a stream.", exemplars=True),
        Panel("Exchanges that wait for a person", "lines", "short",
              [(f"sum by (instance) (penstock_reviews_held{{{HERE}}})", "{{instance}}")],
              "Rules with `action: review`; `penstock review list` shows them."),
        Panel("Reviews, by what became of them", "lines", "short",
              [(rate("penstock_reviews_total", "verdict"), "{{verdict}}")],
              "expired: nobody answered; full: too many waited; both end as the rule's `otherwise` says."),
        Panel("Strikes that rules left on accounts", "lines", "short",
              [(rate("penstock_account_strikes_total", "name"), "{{name}}")], empty="no rule struck an account"),
    ],
)  # fmt: skip

GUARD = Board(
    "guard", "Penstock: guard quality and cost", "Does the guard see what it must, and what does that take?",
    [
        Panel("Heartbeat", "number", "bool_on_off", [(f"min(penstock_guard_heartbeat{{{HERE}}})", "")],
              "Off where any probe of the policy's own cases is not decided as the case says.", red=(inf, 1)),
        Panel("Oldest success of a probe", "number", "s",
              [(f"time() - min(penstock_guard_heartbeat_success_timestamp_seconds{{{HERE}}})", "")], red=(300, -inf)),
        Panel("Verdicts that failed open", "number", "short",
              [(f"sum(increase(penstock_fail_open_total{{{HERE}}}[$__range]))", "")],
              "Text that passed although a classifier gave no answer, in this time.", red=(0.5, -inf)),
        Panel("Heartbeat by classifier", "lines", "bool_on_off",
              [(f'min by (classifier, stage) (penstock_guard_heartbeat{{{HERE}, probe="bad"}})',
                "{{classifier}} {{stage}}")]),
        Panel("Heartbeat by API", "lines", "bool_on_off",
              [(f"min by (dialect, probe) (penstock_guard_heartbeat{{{HERE}}})", "{{dialect}} {{probe}}")]),
        Panel("Questions without an answer", "lines", "short",
              [(rate("penstock_classifier_failures_total", "classifier, reason"), "{{classifier}} {{reason}}")],
              empty="every classifier answered in time"),
        Panel("Added to an exchange, by part", "lines", "s",
              halves("penstock_added_latency_seconds", "part", ', part=~"queue|classify|audit"'),
              "queue: waiting for a thread; classify; audit: waiting for the disk.", exemplars=True),
        Panel("Held back in streams", "lines", "s", halves("penstock_added_latency_seconds", more=', part="gate"'),
              "From the upstream's head to the first text that left.", exemplars=True),
        Panel("Processor time for one exchange", "lines", "s",
              [(f"sum by (instance) (rate(process_cpu_seconds_total{{{HERE}}}[{RATE}])) "
                f"/ (sum by (instance) (rate(penstock_exchanges_total{{{HERE}}}[{RATE}])) > 0)", "{{instance}}")]),
        Panel("Messages for slow classifiers", "lines", "short",
              [(rate("penstock_classifier_messages_total", "fate"), "{{fate}}")],
              "read; known: judged before; spared: the classifier before was sure; refused: a breaker was open."),
        Panel("Not asked again, and spared", "lines", "percentunit",
              [(_fate("known"), "known"), (_fate("spared"), "spared")],
              "Shares of the messages for slow classifiers."),
        Panel("Breakers that opened", "lines", "short",
              [(f"sum by (instance) (increase(penstock_breakers_opened_total{{{HERE}}}[{RATE}]))", "{{instance}}")]),
        Panel("Passes that the encoder's server did not make", "lines", "short",
              [(rate("penstock_encoder_fallbacks_total", "instance"), "{{instance}}")],
              "The weights in the process made them (`encoder_fallback: embedded`)."),
        Panel("Texts that Redis was asked for", "lines", "short",
              [(rate("penstock_state_findings_total", "fate"), "{{fate}}")],
              "found: another machine, or this one before, has read the text.",
              empty="no `state` is set, or no slow classifier was asked"),
        Panel("Counts from one machine alone", "lines", "short",
              [(rate("penstock_state_counts_alone_total", "instance"), "{{instance}}")],
              "Strikes of an account that were counted without Redis."),
    ],
)  # fmt: skip

HEALTH = Board(
    "health", "Penstock: health", "Is everybody there, of one mind, and writing everything down?",
    [
        Panel("Instances that answer", "number", "short", [('sum(up{job=~"$job"})', "")]),
        Panel("Revisions not enforced by all", "number", "short",
              [('max(penstock:policy_revisions:partial{job=~"$job"})', "")],
              "More than none for long: replicas decide differently.", red=(1, -inf)),
        Panel("Alerts that fire", "number", "short",
              [('count(count by (alertname) (ALERTS{alertname=~"Penstock.*", alertstate="firing"})) or vector(0)',
                "")], red=(1, -inf)),
        Panel("Revision by instance", "bars", "short",
              [(f"penstock_policy_revision{{{HERE}}}", "{{instance}} {{revision}}")]),
        Panel("Policies loaded again", "lines", "short",
              [(f"sum by (result) (increase(penstock_policy_reloads_total{{{HERE}}}[{RATE}]))", "{{result}}")]),
        Panel("Audit takes records", "lines", "bool_on_off",
              [(f"min by (instance) (penstock_audit_healthy{{{HERE}}})", "{{instance}}")]),
        Panel("Audit records that wait, and were lost", "lines", "short",
              [(f"sum by (instance) (penstock_audit_queue_records{{{HERE}}})", "{{instance}} waiting"),
               (f"sum by (instance) (increase(penstock_audit_lost_records_total{{{HERE}}}[$__range]))",
                "{{instance}} lost")]),
        Panel("Waiting for the audit's disk", "lines", "s",
              halves("penstock_added_latency_seconds", more=', part="audit"')),
        Panel("The upstream's head, after", "lines", "s", halves("penstock_upstream_seconds", "upstream")),
        Panel("Upstreams that failed", "lines", "short",
              [(rate("penstock_upstream_faults_total", "upstream, fault"), "{{upstream}} {{fault}}")],
              empty="no upstream failed"),
        Panel("Memory", "lines", "bytes", [(f"process_resident_memory_bytes{{{HERE}}}", "{{instance}}")],
              "Of the serving process; the audit's writer has some 12 MiB more."),
        Panel("Open files, of those allowed", "lines", "percentunit",
              [(f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}", "{{instance}}")]),
        Panel("Parts that are well", "lines", "bool_on_off",
              [(f"min by (part) (penstock_part_up{{{HERE}}})", "{{part}}")],
              "Audit, upstreams, policies, Redis, the encoder's server, judges: /readyz has the state of each."),
        Panel("Strikes and flags that Redis was not told", "lines", "short",
              [(f"max by (instance) (penstock_state_waiting{{{HERE}}})", "{{instance}}")]),
        Panel("Content: kept, lost, and room taken", "lines", "short",
              [(rate("penstock_content_kept_total", "instance"), "{{instance}} kept"),
               (rate("penstock_content_lost_total", "reason"), "lost: {{reason}}"),
               (f"max by (instance) (penstock_content_queue_used_ratio{{{HERE}}})", "{{instance}} taken")],
              "Of what `keep_content` keeps: exchanges a second, and the share of the queue's room.",
              empty="no content is kept"),
    ],
)  # fmt: skip

BOARDS = (TRAFFIC, GUARD, HEALTH)


def built(board: Board) -> dashboard.Dashboard:
    """The dashboard, for Grafana."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"penstock-{board.name}")
        .description(board.about)
        .tags(["penstock"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("job", "label_values(penstock_exchanges_in_flight, job)"))
        .with_variable(_variable("instance", 'label_values(penstock_exchanges_in_flight{job=~"$job"}, instance)'))
    )
    for panel in board.panels:
        made.with_panel(_panel(panel))
    return made


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).query(query).datasource(SOURCE).multi(True).include_all(True)
    return made.all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


def _panel(panel: Panel) -> Any:
    kinds: dict[str, Any] = {"lines": timeseries.Panel, "number": stat.Panel, "bars": bargauge.Panel}
    made = kinds[panel.kind]().title(panel.title).unit(panel.unit).datasource(SOURCE).min(0)
    made.span(8).height(4 if panel.kind == "number" else 8)
    about = panel.about + (f" Empty where {panel.empty}." if panel.empty else "")
    if about:
        made.description(about.strip())
    if panel.kind == "lines":
        legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        made.fill_opacity(8).legend(legend.placement(LegendPlacement.BOTTOM))
    else:
        made.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_thresholds(panel))
    for place, (expression, legend_text) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + place)).datasource(SOURCE)
        query = query.range() if panel.kind == "lines" else query.instant()
        made.with_target(query.legend_format(legend_text or "__auto").exemplar(panel.exemplars))
    return made


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    high, low = panel.red
    steps = [Threshold(None, panel.colour(-inf))]
    steps += [Threshold(value, panel.colour(value)) for value in (low, high) if abs(value) != inf]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def written(board: Board) -> str:
    """The JSON of a dashboard."""
    return JSONEncoder(sort_keys=True, indent=2).encode(built(board).build()) + "\n"


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(written(board), "utf-8")
        print(f"{board.name}.json: {len(board.panels)} panels", file=sys.stderr)


if __name__ == "__main__":
    main()
