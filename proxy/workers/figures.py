"""One page of the metrics of all workers. What dead ones counted stays counted."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..metrics import Metrics
from ..tally import Counter, Dump, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

Figures = dict[str, Dump]
"""What one worker counted and measured, by the names of `Metrics.series`."""


class Past:
    """What workers that are gone have counted."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self.ends = Counter("penstock_worker_ends", "Workers that ended without being told to.", ("how",))
        for how in ("signal", "exit", "hung", "diverged"):
            self.ends.reach(0, how)

    def add(self, figures: Figures) -> None:
        _add(self._metrics, figures, gauges=False)

    def figures(self) -> Figures:
        return {name: series.dump() for name, series in self._metrics.series().items() if not _is_gauge(series)}


class Page(Metrics):
    """The metrics of all: `now` of those that serve, of the processes `pids`, and of the past."""

    def __init__(self, past: Past, now: Iterable[Figures], pids: Iterable[int], wanted: int) -> None:
        super().__init__()
        self._pids = list(pids)
        for series in self.series().values():
            if isinstance(series, Gauge):
                series.clear()
        for figures in (past.figures(), *now):
            _add(self, figures, gauges=True)
        self.ends = past.ends
        self.workers = Gauge("penstock_workers", "Processes that shall serve, and that do.", ("state",))
        self.workers.set(wanted, "wanted")
        self.workers.set(len(self._pids) - 1, "serving")

    def watch(self, registry: CollectorRegistry) -> None:
        registry.register(_Processes(self._pids))


class _Processes:
    """What prometheus_client tells of a process, added up over several: memory that they share counts in each."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        found: dict[str, Any] = {}
        for pid in self._pids:
            for family in ProcessCollector(pid=functools.partial(int, pid), registry=CollectorRegistry()).collect():
                known = found.setdefault(family.name, family)
                if known is not family:
                    merge = min if "start_time" in family.name else sum
                    value = merge([known.samples[0].value, family.samples[0].value])
                    known.samples[0] = known.samples[0]._replace(value=value)
        return found.values()


def _add(metrics: Metrics, figures: Figures, *, gauges: bool) -> None:
    for name, series in metrics.series().items():
        dump = figures.get(name)
        if dump is not None and (gauges or not _is_gauge(series)):
            series.add(dump)


def _is_gauge(series: object) -> bool:
    return isinstance(series, Gauge)
