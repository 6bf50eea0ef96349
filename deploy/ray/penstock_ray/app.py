"""The Ray Serve application: `serve run deploy/ray/serve.yaml`, or `penstock_ray.app:application` in a config of yours.

Replicas come and go with the questions that wait (`autoscaling_config`); past `max_queued_requests` the answer is 503,
and Penstock does what its setting `encoder_fallback` says. A replica that does not make a pass is replaced.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from classifiers.encoder import DEFAULT_MODEL

from .engine import BUDGET, Engine
from .protocol import LARGEST, Protocol


class Arguments(BaseModel):
    """What a Serve config may say under `args`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(DEFAULT_MODEL, description="A directory under classifiers/models, or a path.")
    threads: int = Field(1, ge=1, description="Passes at once in a replica: as many as its num_cpus.")
    budget: int = Field(BUDGET, ge=1, description="Tokens of one pass.")


@serve.deployment(
    name="Encoder",
    ray_actor_options={"num_cpus": 1},
    max_ongoing_requests=32,
    max_queued_requests=256,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 8,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 5,
        "downscale_delay_s": 300,
    },
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=1,
    graceful_shutdown_timeout_s=10,
)
class EncoderServer:
    """One replica: one engine."""

    def __init__(self, arguments: Arguments) -> None:
        self._engine = Engine(arguments.model, arguments.threads, arguments.budget)
        self._protocol = Protocol(self._engine)

    async def __call__(self, request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > LARGEST:
            status, raw = 413, b'{"error":"too large"}'
        else:
            status, raw = await self._protocol.answer(request.method, request.url.path, await request.body())
        return Response(raw, status, media_type="application/json")

    async def check_health(self) -> None:
        """Raises where no pass can be made: Serve then replaces this replica."""
        card = self._engine.card
        await self._engine.run(np.array([[card.first, card.last]], np.int64), ["logits"])


def application(arguments: dict[str, Any]) -> serve.Application:
    """What Serve runs. Raises pydantic's ValidationError for other arguments than `Arguments` has."""
    return EncoderServer.bind(Arguments.model_validate(arguments))  # type: ignore[attr-defined]  # what the decorator adds
