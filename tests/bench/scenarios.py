"""What is measured, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requests:
    """Chat completions without streaming, each connection sending its next request when it has its answer.

    `prompt` is the size of the body in bytes, about. `seconds` is how long one sample takes.
    """

    name: str
    connections: int
    prompt: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of 200 chunks, `gap` seconds between two chunks, always `connections` at once.

    They start within `ramp` seconds, each at another place of its text; what is counted lies in the `seconds` after.
    """

    name: str
    connections: int
    gap: float
    ramp: float
    seconds: float


Scenario = Requests | Streams

CHUNKS = 200

ONE = "requests, 1 connection"
SIXTEEN = "requests, 16 connections"
MANY = "requests, 64 connections"
LONG = "32 kB prompts, 16 connections"
FAST = "16 fast streams"
CROWD = "500 streams, 10 chunks/s"


def scenarios(scale: float) -> list[Scenario]:
    """All scenarios; `scale` stretches or shortens each sample."""
    return [
        Requests(ONE, 1, 1_000, 1.0 * scale),
        Requests(SIXTEEN, 16, 1_000, 1.0 * scale),
        Requests(MANY, 64, 1_000, 2.0 * scale),
        Requests(LONG, 16, 32_000, 1.5 * scale),
        Streams(FAST, 16, 0.002, 0.2, 1.5 * scale),
        Streams(CROWD, 500, 0.1, 2.0, 2.5 * scale),
    ]
