"""Every row through the panel, once. Where classifiers take milliseconds, a few rows are under way at a time; the
outcomes keep the order of the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from classifiers.panel import Panel

from .dataset import Row
from .subject import Outcome, Subject, with_text

Tell = Callable[[int], None]
"""Called with the number of rows that are done."""
_BREATH = 64
"""Rows between two moments in which Ctrl-C is heard: inline classifiers never let go by themselves."""


def run(
    subject: Subject,
    rows: Iterable[Row],
    workers: int | None = None,
    keep_texts: bool = False,
    tell: Tell | None = None,
) -> list[Outcome]:
    """Judges all rows. What a classifier cannot answer is in the outcome's `failures`."""
    return asyncio.run(_run(subject, rows, Panel(workers), keep_texts, tell or (lambda _: None)))


async def _run(subject: Subject, rows: Iterable[Row], panel: Panel, keep_texts: bool, tell: Tell) -> list[Outcome]:
    numbered = enumerate(rows)
    done: list[tuple[int, Outcome]] = []

    async def work() -> None:
        for number, row in numbered:  # shared: each takes the next
            report = await panel.report(row.messages, subject.asked(row.stage))
            outcome = subject.judged(row, report)
            done.append((number, with_text(outcome, row) if keep_texts else outcome))
            tell(len(done))
            if len(done) % _BREATH == 0:
                await asyncio.sleep(0)

    try:
        await asyncio.gather(*(work() for _ in range(panel.workers)))
    finally:
        panel.close()
    return [outcome for _, outcome in sorted(done, key=lambda pair: pair[0])]
