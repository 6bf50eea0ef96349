"""Counters, gauges and histograms for the hot path: a dict and a bisection, turned into Prometheus' families when
scraped.

Decision: our own accumulators under prometheus_client's registry and exposition, which are imported with the first
scrape. Why: its children take a lock and a linear search for each observation, 15 microseconds an exchange in all, and
its servers 4 MiB. Cost: they belong to one thread, the event loop's.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.samples import Exemplar


Example = tuple[str, float]
"""What leads from a series to one thing that it counted: the id of a decision, and when it was (unix seconds)."""
Dump = tuple[dict[Any, Any], ...]
"""What one of them holds, as plain values: it travels between the processes of one Penstock."""


class Counter:
    """A counter. `inc` takes the labels' values in order."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._name, self._help, self._labels = name, help_text, tuple(labels)
        self._counts: dict[tuple[str, ...], float] = {}
        self._examples: dict[tuple[str, ...], Example] = {}

    def inc(self, *values: str, by: float = 1) -> None:
        self._counts[values] = self._counts.get(values, 0) + by

    def counts(self) -> dict[tuple[str, ...], float]:
        """What was counted so far, by the labels' values."""
        return dict(self._counts)

    def example(self, example: Example, *values: str) -> None:
        """The newest of what this series counted."""
        self._examples[values] = example

    def reach(self, count: float, *values: str) -> None:
        """What was counted elsewhere, since the start."""
        self._counts[values] = count

    def dump(self) -> Dump:
        return _plain(self._counts), _plain(self._examples)

    def add(self, dump: Dump) -> None:
        """Count what another process counted, too."""
        counts, examples = dump
        for values, count in counts.items():
            self.inc(*values, by=count)
        _newest(self._examples, examples, lambda example: example[1])

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in list(self._counts.items()):
            exemplar = _exemplar(self._examples.get(values), 1.0)
            family.add_metric([str(value) for value in values], count, exemplar=exemplar)
        if not self._labels and not self._counts:
            family.add_metric([], 0)
        yield family


class Gauge:
    """A value that goes up and down. `set` takes it, then the labels' values. `across` makes one of the values that two
    processes have for it."""

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        across: Callable[[float, float], float] = operator.add,
    ) -> None:
        self._name, self._help, self._labels, self._across = name, help_text, tuple(labels), across
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def set(self, value: float, *labels: str) -> None:
        self._values[labels] = value

    def clear(self) -> None:
        self._values.clear()

    def remove(self, *labels: str) -> None:
        """Show this series no more."""
        self._values.pop(labels, None)

    def dump(self) -> Dump:
        return (_plain(self._values),)

    def add(self, dump: Dump) -> None:
        """Take what another process has into account."""
        for labels, value in dump[0].items():
            known = self._values.get(labels)
            self._values[labels] = value if known is None else self._across(known, value)

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(self._name, self._help, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric([str(label) for label in labels], value)
        yield family


class Histogram:
    """A histogram with fixed upper bounds (seconds). `observe` takes the value, then the labels' values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name, self._help, self._labels, self._bounds = name, help_text, tuple(labels), tuple(bounds)
        self._rows: dict[tuple[str, ...], list[float]] = {}  # a count for each bound and what is beyond, then the sum
        self._examples: dict[tuple[tuple[str, ...], int], tuple[float, Example]] = {}

    def declare(self, *labels: str) -> list[float]:
        """Show this series from now on, also while nothing was observed."""
        return self._rows.setdefault(labels, [0.0] * (len(self._bounds) + 2))

    def observe(self, value: float, *labels: str) -> None:
        row = self._rows.get(labels) or self.declare(*labels)
        row[bisect_left(self._bounds, value)] += 1
        row[-1] += value

    def example(self, value: float, example: Example, *labels: str) -> None:
        """The newest of what was observed in the bucket of `value`."""
        self._examples[labels, bisect_left(self._bounds, value)] = value, example

    def dump(self) -> Dump:
        examples = {(_words(labels), place): example for (labels, place), example in self._examples.items()}
        return _plain(self._rows), examples

    def add(self, dump: Dump) -> None:
        """Count what another process counted, too."""
        rows, examples = dump
        for labels, row in rows.items():
            mine = self.declare(*labels)
            mine[:] = map(operator.add, mine, row)
        _newest(self._examples, examples, lambda example: example[1][1])

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, (*counts, total) in list(self._rows.items()):
            below = 0.0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, (bound, count) in enumerate(zip((*map(str, self._bounds), "+Inf"), counts, strict=True)):
                below += count
                value, example = self._examples.get((labels, place), (0.0, None))
                exemplar = _exemplar(example, value)
                buckets.append((bound, below, exemplar) if exemplar else (bound, below))
            family.add_metric([str(value) for value in labels], buckets, total)
        yield family


def _words(values: Iterable[str]) -> tuple[str, ...]:
    """Labels that are members of enumerations, as the words that they are."""
    return tuple(map(str, values))


def _plain(series: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    return {_words(values): value for values, value in series.items()}


def _newest(mine: dict[Any, Any], theirs: dict[Any, Any], when: Callable[[Any], float]) -> None:
    for key, example in theirs.items():
        if key not in mine or when(mine[key]) < when(example):
            mine[key] = example


def _exemplar(example: Example | None, value: float) -> Exemplar | None:
    """In the words of OpenMetrics, whose exposition shows it; the older one leaves it out."""
    if example is None:
        return None
    from prometheus_client.samples import Exemplar

    return Exemplar({"decision_id": example[0]}, value, round(example[1], 3))
