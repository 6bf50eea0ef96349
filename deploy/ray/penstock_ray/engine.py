"""One model directory, its passes made in a few threads, those that wait together in one.

The weights are the shipped ones, run by the session that Penstock itself runs them with: scores are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifiers.encoder import DEFAULT_MODEL, MODELS, Encoder
from classifiers.runtime import Floats, Ids

from .batches import Backlog, Job

BUDGET = 512
"""Tokens of one pass: shorter passes pay for reading the weights, longer ones keep others waiting."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    ids: Ids
    made: asyncio.Future[list[Floats]]


class Engine:
    """The encoder of a model directory. For one event loop. Raises OptionError where a file is not the one that the
    card names."""

    def __init__(self, model: str = DEFAULT_MODEL, threads: int = 1, budget: int = BUDGET) -> None:
        shipped = MODELS / model
        encoder = Encoder.open(shipped if shipped.is_dir() else Path(model))
        if not encoder.exact:
            raise ValueError(f"model {model} scores rows otherwise in company: it cannot be served in batches")
        self.card = encoder.card
        self.version = encoder.card.encoder[:12]
        self.outputs = ("logits", *encoder.layers)
        self.words = encoder.words
        self._runs = encoder.engine
        self._budget, self._free = budget, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pass")
        self._backlog: Backlog[_Waiting] = Backlog(budget)
        self._passes: set[asyncio.Task[None]] = set()

    async def run(self, ids: Ids, outputs: Sequence[str]) -> list[Floats]:
        """The `outputs` named, (n, width) each, of rows (n, t). Raises what the session raises."""
        most = max(1, self._budget // ids.shape[1])
        parts = [ids[at : at + most] for at in range(0, len(ids), most)]
        futures = []
        for part in parts:
            future: asyncio.Future[list[Floats]] = asyncio.get_running_loop().create_future()
            self._backlog.add(Job(len(part), part.shape[1], tuple(outputs), _Waiting(part, future)))
            futures.append(future)
        self._begin()
        try:
            made = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()  # nobody waits for them any more
        return [np.concatenate(each) for each in zip(*made, strict=True)]

    def _begin(self) -> None:
        """Start as many passes as there are free threads."""
        while self._free and (batch := self._backlog.take()):
            batch = [job for job in batch if not job.work.made.done()]
            if batch:
                self._free -= 1
                task = asyncio.ensure_future(self._pass(batch))
                self._passes.add(task)
                task.add_done_callback(self._passes.discard)

    async def _pass(self, batch: Sequence[Job[_Waiting]]) -> None:
        rows = np.concatenate([job.work.ids for job in batch])
        loop = asyncio.get_running_loop()
        try:
            [made] = await loop.run_in_executor(self._pool, self._runs.run_many, [rows], batch[0].outputs)
        except Exception as error:
            for job in batch:
                if not job.work.made.done():
                    job.work.made.set_exception(error)
        else:
            start = 0
            for job in batch:
                if not job.work.made.done():
                    job.work.made.set_result([each[start : start + job.rows] for each in made])
                start += job.rows
        finally:
            self._free += 1
            self._begin()
