"""The store that machines share, in Redis. What is kept where:

    penstock:{ACCOUNT}:strikes:NAME    sorted set: the decisions that struck, by their time
    penstock:{ACCOUNT}:names           set of the NAMEs above
    penstock:flags                     hash: "ACCOUNT\nFLAG" -> {"until", "at", "by"}
    penstock:resets                    hash: ACCOUNT -> when it was reset
    penstock:version                   counts changes of the two hashes
    penstock:born                      a name that this memory has for as long as it lasts

A decision is in a sorted set once, however often it is told. The hashes have no end of their own: Redis must not be let
to evict what it likes (`penstock doctor` looks).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from math import inf

import orjson

from ..audit.steady import Steady
from .base import KEPT, MOST, RULE, Fault, Flag, StateUnavailable, Strike
from .line import Command, Line

FLAGS, RESETS, VERSION, BORN = "penstock:flags", "penstock:resets", "penstock:version", "penstock:born"

TOGETHER = 1000
"""Marks that Redis takes at once: it answers nobody meanwhile."""
_FLAGGING = f"""
local function told(raw)
  local fine, flag = pcall(cjson.decode, raw)
  if not fine or type(flag) ~= 'table' or type(flag.at) ~= 'number' or type(flag.by) ~= 'string' then return nil end
  if flag['until'] == cjson.null then flag['until'] = math.huge end
  if type(flag['until']) ~= 'number' then return nil end
  flag.person = string.sub(flag.by, 1, {len(RULE)}) ~= '{RULE}'
  return flag
end
local function over(one, other)
  if not other or (one.person and one.at >= other.at) then return true end
  if other.person and other.at > one.at then return false end
  return one['until'] > other['until']
end
for at = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  if not known or over(told(ARGV[at + 1]), told(known)) then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
"""
"""`Flag.over`, there: between a look and a write another machine may have marked the account for longer."""


class RedisStore:
    """A `Store` at the other end of `line`. `behind`: nobody waits for its answers."""

    def __init__(self, line: Line, *, behind: bool = False) -> None:
        self.line, self._clock = line, Steady()
        self._ask = line.ask_behind if behind else line.ask

    async def strike(self, strikes: Sequence[Strike]) -> None:
        if strikes:
            await self._ask(*_striking(strikes))

    async def counts(self, account: str, since: Mapping[str, float], first: Sequence[Strike] = ()) -> dict[str, int]:
        asked: list[Command] = [("ZCOUNT", _key(account, name), f"({at!r}", "+inf") for name, at in since.items()]
        answers = await self._ask(*_striking(first), *asked)
        with _read():
            found = zip(since, answers[len(answers) - len(asked) :], strict=True)
            return {name: min(int(count), MOST) for name, count in found if count}

    async def kept(self, account: str) -> dict[str, int]:
        (names,) = await self._ask(("SMEMBERS", _names(account)))
        with _read():
            known = sorted(name.decode() for name in names)
        counts = await self._ask(*[("ZCARD", _key(account, name)) for name in known]) if known else []
        return {name: int(count) for name, count in zip(known, counts, strict=True) if count}

    async def flag(self, flags: Sequence[Flag]) -> None:
        if flags:
            told: list[Command] = []
            for begin in range(0, len(flags), TOGETHER):
                some = flags[begin : begin + TOGETHER]
                pairs = [part for flag in some for part in (_field(flag.account, flag.name), _value(flag))]
                told.append(("EVAL", _FLAGGING, 1, FLAGS, *pairs))
            # Also where nothing changed: who told it is to hear what stands in its place.
            await self._ask(*told, ("INCR", VERSION))

    async def unflag(self, account: str, name: str) -> bool:
        gone, _ = await self._ask(("HDEL", FLAGS, _field(account, name)), ("INCR", VERSION))
        return bool(gone)

    async def flags(self) -> list[Flag]:
        return (await self.all())[0]

    async def all(self) -> tuple[list[Flag], dict[str, float]]:
        """Every mark that has not ended, and when accounts were reset."""
        fields, resets = await self._ask(("HGETALL", FLAGS), ("HGETALL", RESETS))
        now = self._clock.now()
        with _read():
            flags = [_flag(field, value) for field, value in fields.items()]
            forgotten = {account.decode(): float(at) for account, at in resets.items()}
        over = [_field(flag.account, flag.name) for flag in flags if flag.until <= now]
        old = [account for account, at in forgotten.items() if at < now - KEPT]
        for key, gone in ((FLAGS, over), (RESETS, old)):
            if gone:
                await self._ask(("HDEL", key, *gone))
        return [flag for flag in flags if flag.until > now], forgotten

    async def version(self) -> object:
        return [*await self._ask(("GET", BORN), ("GET", VERSION)), self.line.primary]

    async def born(self) -> str:
        """The name of this memory. A Redis that lost what it knew has another one, and so has another primary: a
        replica that was made it may lack what had been told last."""
        _, name = await self._ask(("SET", BORN, secrets.token_hex(16), "NX"), ("GET", BORN))
        with _read():
            told: str = name.decode()
        return f"{told} {self.line.primary}".strip()

    async def reset(self, account: str, at: float) -> None:
        (told,) = await self._ask(("SMEMBERS", _names(account)))
        with _read():
            names = [name.decode() for name in told]
        own = [
            _field(flag.account, flag.name) for flag in await self.flags() if flag.account == account and flag.at <= at
        ]
        await self._ask(
            *[("ZREMRANGEBYSCORE", _key(account, name), "-inf", repr(at)) for name in names],
            *([("HDEL", FLAGS, *own)] if own else []),
            ("HSET", RESETS, account, repr(at)),
            ("INCR", VERSION),
        )


@contextlib.contextmanager
def _read() -> Iterator[None]:
    """What is read in the block was written by us, or it cannot be used."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        mend = "is `state` ours alone? Delete what others wrote under penstock:"
        problem = f"what Redis holds for us was not written by us ({type(error).__name__})"
        raise StateUnavailable(Fault.STRANGE, problem, mend) from None


def _striking(strikes: Sequence[Strike]) -> Iterator[Command]:
    """Six commands for each name of an account, however many strikes there are."""
    together: dict[tuple[str, str], list[Strike]] = {}
    for each in strikes:
        together.setdefault((each.account, each.name), []).append(each)
    for (account, name), some in together.items():
        key, names = _key(account, name), _names(account)
        yield "ZADD", key, "NX", *(part for each in some for part in (repr(each.at), each.decision))
        yield "ZREMRANGEBYSCORE", key, "-inf", repr(max(each.at for each in some) - KEPT)
        yield "ZREMRANGEBYRANK", key, 0, -MOST - 1
        yield "EXPIRE", key, KEPT
        yield "SADD", names, name
        yield "EXPIRE", names, KEPT


def _key(account: str, name: str) -> str:
    return f"penstock:{{{account}}}:strikes:{name}"


def _names(account: str) -> str:
    return f"penstock:{{{account}}}:names"


def _field(account: str, name: str) -> str:
    return f"{account}\n{name}"


def _value(flag: Flag) -> bytes:
    return orjson.dumps({"until": None if flag.until == inf else flag.until, "at": flag.at, "by": flag.by})


def _flag(field: bytes, value: bytes) -> Flag:
    account, _, name = field.decode().partition("\n")
    told = orjson.loads(value)
    return Flag(account, name, inf if told["until"] is None else told["until"], told["at"], told["by"])
