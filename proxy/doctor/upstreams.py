"""Do the upstreams answer? Each is asked for its models, once, by the very client that serves callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import orjson

from ..routing import Backend, routing_of
from ..upstream import Fault, Headers, Response, UpstreamError
from .base import Finding, Place, State

NAME = "upstream"
PATIENCE = 10.0
LARGEST = 4 << 20
MENDS = {
    Fault.CONNECT: "does it run there, is the name right, and for https: is its certificate for that name?",
    Fault.TIMEOUT: "a firewall drops packets, or the upstream is too busy",
    Fault.PROTOCOL: "it does not speak HTTP/1.1: is it https, or another service's port?",
}


def check_upstreams(place: Place) -> Iterator[Finding]:
    settings = place.settings
    if not settings.all_upstreams:
        yield Finding(NAME, State.WRONG, "no upstream is set", "add --upstream https://... or PENSTOCK_UPSTREAM")
        return
    try:
        routing = routing_of(settings)
    except OSError as error:
        yield Finding(NAME, State.WRONG, f"a ca_file cannot be used: {error}", "name a PEM file of certificates")
        return
    for backend in routing.backends:
        own = settings.all_upstreams[backend.name]
        yield asyncio.run(_asked(place, own.url, backend, own.keyed))


async def _asked(place: Place, url: str, backend: Backend, keyed: bool) -> Finding:
    family = "openai" if "openai" in backend.serves else "anthropic"
    headers: Headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    headers += backend.credentials(family) or []
    if family == "anthropic":
        headers.append((b"anthropic-version", b"2023-06-01"))
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            response = await backend.send(backend.upstream.head(b"GET", b"/v1/models", headers), None)
            took = time.perf_counter() - began
            skew = _skew(response)
            if skew is not None:
                place.skews.append((url, skew))
            return await _read(url, response, took, keyed)
    except TimeoutError:
        return Finding(NAME, State.WRONG, f"{url}: no answer within {PATIENCE:.0f} s", MENDS[Fault.TIMEOUT])
    except UpstreamError as error:
        mend = MENDS.get(error.fault, "look at the upstream's own log")
        return Finding(NAME, State.WRONG, f"{url}: {error}", mend)
    finally:
        await backend.upstream.close()


async def _read(url: str, response: Response, took: float, keyed: bool) -> Finding:
    status = response.status
    found = f"answers {status} to /v1/models"
    state, mend = State.WRONG, "look at the upstream's own log"
    if status == 200:
        models = _models(await response.read(LARGEST))
        found, mend = "/v1/models is no list of models", "is this the base URL of an API, and not a web page's?"
        if models is not None:
            found = f"answers after {took * 1000:.0f} ms and names {models} model{'s' * (models != 1)}"
            state, mend = State.WELL, ""
    elif status in {401, 403} and keyed:
        found, mend = f"it refuses our key ({status})", "put in a key that is valid: PENSTOCK_UPSTREAM_KEY"
    elif status in {401, 403}:
        found = f"answers after {took * 1000:.0f} ms and asks for a key: callers bring their own"
        state, mend = State.WELL, ""
    elif 300 <= status < 400:
        found = f"it redirects ({status})"
        mend = "name the URL that it redirects to: redirects are not followed"
    elif status < 500:
        state = State.WARNING
        mend = "well where it has no list of models; else the base URL is wrong: it ends in /v1 or just before it"
    return Finding(NAME, state, f"{url}: {found}", mend)


def _models(raw: bytes) -> int | None:
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    listed = tree.get("data") if isinstance(tree, dict) else None
    return len(listed) if isinstance(listed, list) else None


def _skew(response: Response) -> float | None:
    """Seconds that our clock is ahead of the upstream's, to about a second."""
    stamp = response.header(b"date")
    try:
        return time.time() - parsedate_to_datetime((stamp or b"").decode("ascii")).timestamp()
    except (ValueError, UnicodeDecodeError):
        return None
