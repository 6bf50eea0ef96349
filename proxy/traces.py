"""OpenTelemetry, where the operator wants it: a span for each exchange, a child for each stage of it, and one for the
call to the upstream, whose context the upstream is sent (W3C `traceparent`).

Spans say what the record says: ids, rules, actions, times. What was said is in them only with `trace_content`. Needs
`pip install 'penstock[otel]'`; where spans go is told by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT).

Decision: the exchange's notes call a trace where there is one. Why: they know every time already, and off costs a
comparison with None. Cost: the span of a stage is made when the stage is over.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from classifiers.base import Message

from . import trace_names as names

MOST = 64
"""Children of one span: a long stream has many stages that are alike."""
PATIENCE = 3.0
"""Seconds for a collector, retries included: stopping waits for the last batch."""
LONGEST = 4000
"""Characters of one text, where texts are told at all."""
WELL = frozenset({"released", "blocked", "rewritten", "moderated", "relayed", "refused", "client_gone"})
"""Outcomes that are no fault."""
_CARRIED = (b"traceparent", b"tracestate")
_W3C = TraceContextTextMapPropagator()


class Traces:
    """Makes a trace for each exchange. `close` sends what was not sent yet; it may take seconds."""

    def __init__(self, provider: TracerProvider, *, content: bool = False, genai: bool = True) -> None:
        self._provider, self._tracer = provider, provider.get_tracer("penstock")
        self.content, self.genai = content, genai

    def begin(self, decision: str, headers: Iterable[tuple[bytes, bytes]]) -> Trace:
        """The trace of one exchange; it continues the caller's where there is one."""
        carried: dict[str, str] = {}
        for name, value in headers:
            if name in _CARRIED:
                carried[name.decode()] = value.decode("latin-1")
        context = _W3C.extract(carried, Context())
        span = self._tracer.start_span("exchange", context, SpanKind.SERVER)
        return Trace(self, self._tracer, span, decision)

    def close(self) -> None:
        self._provider.shutdown()


class Trace:
    """The spans of one exchange. Each method is called when what it tells of is over."""

    def __init__(self, traces: Traces, tracer: trace.Tracer, span: Span, decision: str) -> None:
        self._traces, self._tracer, self._span, self._decision = traces, tracer, span, decision
        self._context = trace.set_span_in_context(span, Context())
        self._children = 0
        self._upstream: Span | None = None

    def stage(self, name: str, seconds: float) -> None:
        """A stage that took `seconds` until now."""
        self._children += 1
        if self._children > MOST:
            return
        now = time.time_ns()
        child = self._tracer.start_span(name, self._context, start_time=now - int(seconds * 1e9))
        child.end(now)

    def said(self, stage: str, messages: Sequence[Message]) -> None:
        """What was judged: kept only where the operator wants it."""
        if self._traces.content and self._span.is_recording():
            texts = [{"role": str(message.role), "content": message.text[:LONGEST]} for message in messages]
            self._span.set_attribute(names.CONTENT[stage], json.dumps(texts, ensure_ascii=False))

    def carried(self, head: bytes, upstream: str) -> bytes:
        """`head`, the start of a request to the upstream of that name, with our context instead of the caller's."""
        if self._upstream is not None:
            self._upstream.end()
        self._upstream = self._tracer.start_span(
            "upstream", self._context, SpanKind.CLIENT, {"penstock.upstream": upstream}
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._upstream, Context()))
        kept = [line for line in head.split(b"\r\n") if line.partition(b":")[0].lower() not in _CARRIED]
        ours = [f"{name}: {value}".encode() for name, value in carrier.items()]
        return b"\r\n".join([*kept[:-1], *ours, b""])

    def head(self, status: int) -> None:
        """The upstream's answer has begun."""
        if self._upstream is not None:
            self._upstream.set_attribute("http.response.status_code", status)
            self._upstream.add_event("head")

    def ended(self, facts: Mapping[str, Any]) -> None:
        """The exchange is over; `facts` is its record."""
        span, outcome = self._span, str(facts["status"])
        fault = Status(StatusCode.ERROR, str(facts.get("detail") or outcome))
        if self._upstream is not None:
            if outcome == "upstream_fault":
                self._upstream.set_status(fault)
            self._upstream.end()
        span.update_name(names.span_name(facts))
        span.set_attributes(dict(names.ours(facts, self._decision)))
        if self._traces.genai:
            span.set_attributes(dict(names.genai(facts)))
        if outcome not in WELL:
            span.set_attribute("error.type", str(facts.get("detail") or outcome))
            span.set_status(fault)
        if self._children > MOST:
            span.set_attribute("penstock.stages_left_out", self._children - MOST)
        span.end()


class _Told(OTLPSpanExporter):
    """Sends batches, and says of each whether the collector took it. `tell` is called in a thread of the exporter's."""

    def __init__(self, timeout: float, tell: Callable[[bool], None]) -> None:
        super().__init__(timeout=timeout)
        self._tell = tell

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._tell(result is SpanExportResult.SUCCESS)
        return result


def exporting(content: bool, genai: bool, tell: Callable[[bool], None] = lambda well: None) -> Traces:
    """Traces that go where OpenTelemetry's variables say. `tell` hears, in another thread, whether they arrive."""
    provider = TracerProvider(resource=Resource.create({"service.name": "penstock"}), shutdown_on_exit=False)
    timeout = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", PATIENCE))
    provider.add_span_processor(BatchSpanProcessor(_Told(timeout, tell)))
    # What becomes of each batch is told once, as a state.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return Traces(provider, content=content, genai=genai)
