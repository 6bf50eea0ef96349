"""From whatever the client of Redis raises to a named fault, and what an operator can do about it."""

from __future__ import annotations

import ssl

from redis import exceptions as said
from redis.asyncio.sentinel import MasterNotFoundError

from .base import Fault, StateUnavailable

LEAST = (6, 2)
"""The oldest version that is spoken to."""
MENDS = {
    Fault.AWAY: "is it running, is the address in `state` right (rediss:// where it speaks TLS), and does a firewall "
    "let it through?",
    Fault.SLOW: "is it busy, swapping, far away, or without the TLS of rediss://? `state_timeout` is how long it is "
    "waited for",
    Fault.CERTIFICATE: "renew what has ended; it must be for the host in `state`, and of an authority that this "
    "machine or ssl_ca_certs trusts: rediss://HOST:6379/0?ssl_ca_certs=/path/ca.pem",
    Fault.CLUSTER: "name one Redis, the primary if it has replicas, an address that always leads to it, or its "
    "Sentinels: redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/NAME",
    Fault.CREDENTIALS: "name a user that may: redis://USER:PASSWORD@HOST, with all commands on penstock:*",
    Fault.VERSION: f"use Redis {LEAST[0]}.{LEAST[1]} or later, or Valkey",
    Fault.FULL: "give it room: maxmemory, or its disk; and set maxmemory-policy noeviction",
    Fault.READ_ONLY: "name the primary in `state`, not a replica",
    Fault.UNNAMED: "do they run, do they call it so, and is their certificate trusted, where they have one "
    "(ssl_ca_certs)? While they choose another one, wait",
    Fault.STRANGE: "is the port in `state` that of Redis? rediss:// is for TLS, redis:// for none",
}
KINDS = {
    "cluster": "this is a node of a Redis Cluster, which is not spoken to",
    "sentinel": "this is a Sentinel, no Redis",
}
"""The modes of a Redis that are of no use."""
_TOLD: tuple[tuple[tuple[type[BaseException], ...], tuple[str, ...], Fault, str], ...] = (
    (
        (said.AuthenticationError, said.NoPermissionError),
        ("NOAUTH", "WRONGPASS", "NOPERM"),
        Fault.CREDENTIALS,
        "Redis refuses our user or password, or what it may do",
    ),
    ((said.OutOfMemoryError,), ("OOM", "MISCONF"), Fault.FULL, "Redis cannot keep more"),
    ((said.ReadOnlyError,), ("READONLY",), Fault.READ_ONLY, "this Redis is a replica, and takes no writes"),
    ((said.BusyLoadingError,), ("LOADING",), Fault.AWAY, "Redis is still loading its data"),
    ((TimeoutError, said.TimeoutError), (), Fault.SLOW, "Redis does not answer in time"),
    (
        (said.MovedError, said.AskError, said.ClusterDownError),
        ("MOVED", "CROSSSLOT", "CLUSTERDOWN"),
        Fault.CLUSTER,
        KINDS["cluster"],
    ),
    ((said.InvalidResponse,), ("Protocol Error",), Fault.STRANGE, "what answers there does not speak Redis"),
)
"""Kinds of errors, how others begin, and what they mean: the first that fits."""


def unavailable(fault: Fault, problem: str) -> StateUnavailable:
    return StateUnavailable(fault, problem, MENDS[fault])


def fault_of(error: BaseException) -> StateUnavailable:
    """What went wrong, in one line. Says nothing that was sent."""
    text = str(error)
    if isinstance(error, MasterNotFoundError):
        return _of_sentinels(text)
    for kinds, beginnings, fault, problem in _TOLD:
        if isinstance(error, kinds) or text.startswith(beginnings):
            return unavailable(fault, problem)
    if isinstance(error, said.ResponseError):
        return unavailable(Fault.STRANGE, f"Redis refuses a command: {text[:80]}")
    if not isinstance(error, said.RedisError | OSError):
        return unavailable(Fault.STRANGE, "what answers there does not speak Redis")
    cause = error.__cause__ or error.__context__
    for each in (error, cause):
        if isinstance(each, ssl.SSLError):
            reason = getattr(each, "verify_message", "") or str(each.reason).replace("_", " ").lower()
            return unavailable(Fault.CERTIFICATE, f"no TLS that can be trusted: {reason}")
    reason = next((each.strerror for each in (error, cause) if isinstance(each, OSError) and each.strerror), "")
    return unavailable(Fault.AWAY, f"Redis cannot be reached: {reason or 'the connection ended'}")


def _of_sentinels(text: str) -> StateUnavailable:
    """What kept them from naming a primary: `text` holds what each of them was wrong with."""
    if "AuthenticationError" in text or "NoPermissionError" in text:
        mend = "write ?sentinel_password= (and sentinel_username=) behind the address in `state`"
        return StateUnavailable(Fault.CREDENTIALS, "the Sentinels refuse our user or password", mend)
    return unavailable(Fault.UNNAMED, "no Sentinel names a primary of this name that is well")
