"""Traces: one span for each exchange with its stages, the caller's context continued and ours sent upstream, no text
unless it is asked for, and nothing at all while they are off."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.config import load
from proxy.server import CannotServe, serving
from proxy.traces import MOST, Traces
from tests.bench.candidates import free_port
from tests.proxy.conftest import DEFAULTS, RULES, Make, Stand
from tests.upstream import End, Upstream, replies, shapes

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = int("0af7651916cd43dd8448eb211c80319c", 16)


@pytest.fixture
def told() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@contextlib.asynccontextmanager
async def traced(stand: Make, told: InMemorySpanExporter, **more: Any) -> AsyncIterator[Stand]:
    """A stand whose spans are kept here."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(told))
    async with stand() as s:
        s.running.plane.traces = Traces(provider, **more)
        yield s
        # The record of a stream's end, and its span, follow its last byte.
        for _ in range(200):
            if any(span.kind.name == "SERVER" for span in told.get_finished_spans()):
                break
            await s.running.audit.probe()


def root(told: InMemorySpanExporter) -> ReadableSpan:
    (span,) = (span for span in told.get_finished_spans() if span.kind.name == "SERVER")
    return span


def children(told: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    parent = root(told).context
    spans = [span for span in told.get_finished_spans() if span.parent is not None and parent is not None]
    return {span.name: span for span in spans if span.parent.span_id == parent.span_id}  # type: ignore[union-attr]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_an_exchange_is_a_span_with_its_stages(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told) as s:
        answer = await s.chat("Hello.")
        (row,) = await s.rows()
    span = root(told)
    facts = attributes(span)
    assert span.name == "chat m"
    assert facts["penstock.decision_id"] == row.id
    assert facts["penstock.outcome"] == "released"
    assert facts["penstock.action"] == "pass"
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.request.model"] == "m"
    assert facts["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert span.status.status_code.name == "UNSET"
    stages = children(told)
    assert set(stages) == {"judge input", "upstream", "judge output", "audit"}
    for stage in stages.values():
        assert stage.start_time is not None
        assert stage.end_time is not None
        assert stage.start_time <= stage.end_time


async def test_the_callers_trace_goes_on_upstream(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told) as s:
        s.client.headers.update({"traceparent": PARENT, "tracestate": "vendor=1"})
        await s.chat("Hello.")
        (asked,) = s.upstream.requests
    span, call = root(told), children(told)["upstream"]
    assert span.context is not None
    assert call.context is not None
    assert span.context.trace_id == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    sent = [value for name, value in asked.headers if name.lower() == b"traceparent"]
    assert sent == [f"00-{TRACE:032x}-{call.context.span_id:016x}-01".encode()], "and no other"
    assert asked.header("tracestate") == "vendor=1"
    assert asked.json()["model"] == "m"


@pytest.mark.parametrize("given", [None, "00-xyz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_without_a_good_context_a_trace_begins_here(
    stand: Make, told: InMemorySpanExporter, given: str | None
) -> None:
    async with traced(stand, told) as s:
        if given is not None:
            s.client.headers["traceparent"] = given
        await s.chat("Hello.")
        sent = s.upstream.requests[0].header("traceparent")
    span = root(told)
    assert span.parent is None
    assert span.context is not None
    assert sent is not None
    assert re.fullmatch(rf"00-{span.context.trace_id:032x}-[0-9a-f]{{16}}-0[13]", sent)


async def test_what_is_blocked_goes_nowhere(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told) as s:
        await s.chat("See the MARK.")
    assert set(children(told)) == {"judge input"}
    facts = attributes(root(told))
    assert (facts["penstock.action"], facts["penstock.rule"]) == ("block", "no-mark")
    assert root(told).status.status_code.name == "UNSET", "a block is no fault"


async def test_a_stream_tells_how_long_it_was_held_back(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told) as s:
        s.upstream.reply = replies.sse(shapes.stream("A long story of many words."))
        await s.chat("Hello.", stream=True)
    assert {"judge input", "upstream", "hold back"} <= set(children(told))


async def test_an_upstream_that_fails_is_an_error(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told) as s:
        s.upstream.reply = [End.RESET]
        await s.chat("Hello.")
    assert root(told).status.status_code.name == "ERROR"
    assert attributes(root(told))["error.type"] == "reset"
    assert children(told)["upstream"].status.status_code.name == "ERROR"


@pytest.mark.parametrize("content", [False, True])
async def test_no_text_unless_it_is_asked_for(stand: Make, told: InMemorySpanExporter, content: bool) -> None:
    async with traced(stand, told, content=content) as s:
        s.upstream.reply = replies.json(shapes.completion("The answer is an ocelot."))
        await s.chat("What about the marmoset?")
    everything = " ".join(span.to_json() for span in told.get_finished_spans())
    assert ("marmoset" in everything) is content
    assert ("ocelot" in everything) is content
    assert "authorization" not in everything.lower()


async def test_names_that_are_not_settled_can_be_left_out(stand: Make, told: InMemorySpanExporter) -> None:
    async with traced(stand, told, genai=False) as s:
        await s.chat("Hello.")
    assert not [name for span in told.get_finished_spans() for name in attributes(span) if name.startswith("gen_ai")]


def test_a_long_stream_has_so_many_children_and_no_more(told: InMemorySpanExporter) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(told))
    trace = Traces(provider).begin("pn_1", [])
    for _ in range(MOST + 5):
        trace.stage("judge output", 0.001)
    facts = {"dialect": "chat", "method": "POST", "path": "/", "status": "released", "milliseconds": {"added": 1.0}}
    trace.ended(facts)
    assert len(told.get_finished_spans()) == MOST + 1
    assert attributes(root(told))["penstock.stages_left_out"] == 5


# On and off


async def test_off_leaves_the_callers_context_as_it_came(stand: Make) -> None:
    async with stand() as s:
        assert s.running.plane.traces is None
        s.client.headers["traceparent"] = PARENT
        await s.chat("Hello.")
        assert s.upstream.requests[0].header("traceparent") == PARENT


def test_off_imports_nothing() -> None:
    code = "import proxy.serve, proxy.app, sys; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent.parent)


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS))
    monkeypatch.delitem(sys.modules, "proxy.traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    given = {"upstream": "http://127.0.0.1:9", "policy": str(tmp_path / "policy.yaml"), "port": 0, "admin_port": 0}
    with pytest.raises(CannotServe, match=r"penstock\[otel\]"):
        async with serving(load(None, **given, data_dir=tmp_path / "data", traces=True)):
            pass


async def test_a_collector_that_is_gone_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setitem(os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS))
    async with Upstream() as upstream:
        given = {"upstream": upstream.url, "policy": str(tmp_path / "policy.yaml"), "port": 0, "admin_port": 0}
        async with serving(load(None, **given, data_dir=tmp_path / "data", traces=True)) as running:
            base = "http://{}:{}".format(*running.address)
            async with httpx2.AsyncClient(base_url=base, timeout=20, trust_env=False) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
                assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            began = time.monotonic()
    assert time.monotonic() - began < 15


async def test_a_collector_is_told_in_its_own_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.yaml").write_text(RULES.format(**DEFAULTS))
    async with (
        Upstream() as upstream,
        Upstream(replies.content(b"", content_type="application/x-protobuf")) as collector,
    ):
        monkeypatch.setitem(os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        given = {"upstream": upstream.url, "policy": str(tmp_path / "policy.yaml"), "port": 0, "admin_port": 0}
        async with serving(load(None, **given, data_dir=tmp_path / "data", traces=True)) as running:
            base = "http://{}:{}".format(*running.address)
            async with httpx2.AsyncClient(base_url=base, timeout=20, trust_env=False) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
                await client.post("/v1/chat/completions", json=body)
        (sent,) = collector.requests
    assert sent.path == "/v1/traces"
    told = ExportTraceServiceRequest.FromString(
        gzip.decompress(sent.body) if sent.body[:2] == b"\x1f\x8b" else sent.body
    )
    (resource,) = told.resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "penstock"
    assert {span.name for scope in resource.scope_spans for span in scope.spans} >= {
        "chat m",
        "upstream",
        "judge input",
    }
