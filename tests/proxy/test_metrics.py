"""The page that a scraper reads: which series are there from the start, and how a series leads to a decision."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from proxy.audit import Reader
from proxy.metrics import Metrics
from proxy.tally import Histogram
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand

OPEN = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


async def scraped(s: Stand, headers: dict[str, str]) -> tuple[str, list[Any]]:
    """The content type, and the families."""
    answer = await s.client.get(s.admin_url + "/metrics", headers=headers)
    parse = text_string_to_metric_families if headers else plain_families
    return answer.headers["content-type"], list(parse(answer.text))


def exemplars(families: list[Any], name: str) -> list[Any]:
    return [sample for family in families for sample in family.samples if sample.name == name and sample.exemplar]


async def test_an_exemplar_leads_to_the_audit_row(stand: Make) -> None:
    async with stand() as s:
        refused = await s.chat("See the MARK.")
        kind, families = await scraped(s, OPEN)
        assert kind.startswith("application/openmetrics-text")
        (sample,) = exemplars(families, "penstock_decisions_total")
        assert sample.labels["action"] == "block"
        found = sample.exemplar.labels["decision_id"]
        assert found == refused.json()["error"]["penstock"]["decision_id"]
        with Reader(s.data / "audit.db") as log:
            row = log.exchange(found)
        assert row is not None
        assert row["rule"] == "no-mark"


async def test_a_late_first_token_leads_to_its_decision(stand: Make) -> None:
    async with stand() as s:
        async with s.client.stream("POST", "/v1/chat/completions", json={
            "model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello."}],
        }) as answer:  # fmt: skip
            await answer.aread()
        _, families = await scraped(s, OPEN)
        for name in ("penstock_time_to_first_token_seconds_bucket", "penstock_added_latency_seconds_bucket"):
            (sample,) = exemplars(families, name)
            assert float(sample.exemplar.value) <= float(sample.labels["le"])
            (row,) = await s.rows()
            assert sample.exemplar.labels["decision_id"] == row.id


@pytest.mark.parametrize(
    ("rule", "judged"),
    [
        ({}, 2),
        ({"mode": "shadow"}, 2),
        ({"stages": "[input]"}, 1),
        ({"stages": "[output]"}, 1),
        ({"mode": '"off"'}, 0),
    ],
)
async def test_what_no_classifier_was_asked_about_counts_as_judged_by_none(
    stand: Make, rule: dict[str, str], judged: int
) -> None:
    given = RULES.format(**{**DEFAULTS, **rule}).replace("    stream: {hold_back: 8}\n", "")
    alone = given[: given.index("  - id: veil-secret")].replace("  veil: ", "  # veil: ")
    async with stand(alone) as s:
        assert (await s.chat("Hello.")).status_code == 200
        _, families = await scraped(s, {})
        found = {
            (sample.name, sample.labels.get("part", sample.labels.get("outcome"))): sample.value
            for family in families
            for sample in family.samples
        }
        assert found["penstock_exchanges_total", "released"] == 1
        assert found["penstock_added_latency_seconds_count", "classify"] == judged


async def test_who_does_not_ask_for_openmetrics_gets_what_was_always_there(stand: Make) -> None:
    async with stand() as s:
        await s.chat("See the MARK.")
        kind, families = await scraped(s, {})
        assert kind.startswith("text/plain")
        assert {family.name for family in families} >= {"penstock_decisions", "penstock_exchanges"}


async def test_both_pages_say_the_same(stand: Make) -> None:
    async with stand() as s:
        await s.chat("Hello.")
        await s.chat("See the MARK.")

        def ours(families: list[Any]) -> dict[str, float]:
            return {
                f"{sample.name}{sorted(sample.labels.items())}": sample.value
                for family in families
                for sample in family.samples
                if sample.name.startswith("penstock") and not sample.name.endswith("_created")
            }

        assert ours((await scraped(s, OPEN))[1]) == ours((await scraped(s, {}))[1])


@pytest.mark.parametrize("stage", ["input", "output"])
def test_what_alerts_is_there_before_it_happens(stage: str) -> None:
    page = Metrics().page()[1].decode()
    assert f'penstock_fail_open_total{{stage="{stage}"}} 0.0' in page
    assert f'penstock_reviews_total{{stage="{stage}",verdict="expired"}} 0.0' in page
    assert 'penstock_policy_reloads_total{result="refused"} 0.0' in page
    assert "penstock_audit_lost_records_total 0.0" in page
    assert "penstock_log_lost_lines_total 0.0" in page
    assert 'penstock_added_latency_seconds_count{part="classify"} 0.0' in page


def test_no_name_is_there_twice() -> None:
    names = re.findall(r"^# TYPE (\S+)", Metrics().page()[1].decode(), re.MULTILINE)
    assert len(names) == len(set(names))


def test_an_example_belongs_to_its_bucket() -> None:
    histogram = Histogram("seconds", "Seconds.", (), (0.1, 1))
    for value, name in ((0.05, "fast"), (0.5, "slow"), (0.6, "slower"), (7, "slowest")):
        histogram.observe(value)
        histogram.example(value, (name, 1.0))
    (family,) = histogram.collect()
    found = {sample.labels["le"]: sample.exemplar.labels["decision_id"] for sample in family.samples if sample.exemplar}
    assert found == {"0.1": "fast", "1": "slower", "+Inf": "slowest"}
