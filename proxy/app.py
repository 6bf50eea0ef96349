"""The data plane: one application with a closed surface.

The table below is all there is. A method, an exact path and a content type lead to an exchange or to a plain relay;
everything else is refused in the caller's error shape, and never redirected (`surface` names what is refused).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from policies.facts import ANONYMOUS, Account

from .accounts.claims import claim
from .accounts.holder import Holder
from .accounts.identity import Denied, Identities, Identity
from .accounts.stored import first_id
from .answers import PREFIX, Answer, problem
from .audit import Audit, Key
from .config import Settings
from .dialects.base import Dialect, Speaker
from .dialects.chat import Chat
from .dialects.completions import Completions
from .dialects.embeddings import Embeddings
from .dialects.messages import CountTokens, Messages
from .dialects.moderations import Moderations
from .dialects.responses import Responses
from .exchange import Shared
from .flight import InFlight, ending
from .guard import Guard, Recall
from .heads import unfit, unserved
from .kept_path import kept
from .known import Known
from .later import Later
from .listener import Caller, Incoming
from .logs import get_logger
from .metrics import Metrics
from .moderate import Moderation
from .problems import FAILED, NO_ROOM
from .record import Leave, Notes
from .refusals import Refusals
from .relay import Relay, relays
from .reviews import Reviews
from .routing import Routing
from .routing import family_of as speaks
from .surface import METHODS, Opened, family_of, plain
from .telling import INTENT_AFTER
from .upstream import Headers

if TYPE_CHECKING:
    from .accounts.owned import Owned
    from .batches.routes import Batches, Found
    from .content.keeping import Keeping
    from .state.shared import State
    from .traces import Traces

log = get_logger("penstock.app")

DIALECTS: tuple[tuple[bytes, Dialect], ...] = (
    (b"/v1/chat/completions", Chat()),
    (b"/v1/responses", Responses()),
    (b"/v1/completions", Completions()),
    (b"/v1/embeddings", Embeddings()),
    (b"/v1/messages", Messages()),
    (b"/v1/messages/count_tokens", CountTokens()),
)
"""Every path whose requests and answers are judged."""

SERVED: tuple[tuple[bytes, Moderations], ...] = ((b"/v1/moderations", Moderations()),)
"""Every path that is answered here, without the upstream."""


class DataPlane:
    """The application that callers talk to. `guards` are by the names of their policies, the default's is empty. They
    may be replaced at any time: an exchange keeps its own."""

    def __init__(
        self,
        settings: Settings,
        guards: Mapping[str, Guard],
        routing: Routing,
        audit: Audit,
        key: Key,
        identities: Identities,
        metrics: Metrics,
        owned: Owned | None = None,
    ) -> None:
        self.guards, self.routing, self.draining = dict(guards), routing, False
        self.in_flight = InFlight(settings.exchange_timeout)
        self.traces: Traces | None = None
        self.keeping: Keeping | None = None
        self.state: State | None = None
        """What is remembered of accounts, where they are known."""
        self._settings, self._audit, self._key, self._identities = settings, audit, key, identities
        self._metrics = metrics
        self._end_user = settings.end_user_header.encode()
        self.reviews = Reviews(settings.max_reviews, metrics)
        most = settings.max_answer_bytes, settings.max_texts
        self.refusals = Refusals(audit, metrics, lambda: self.guard.policies.revision)
        self._shared = Shared(audit, metrics, Later(INTENT_AFTER), *most, self.reviews)
        self._relay = Relay(routing, audit, metrics, settings.max_answer_bytes)
        self._owned = owned
        self._judged: dict[bytes, Dialect | Moderations] = {**dict(DIALECTS), **dict(SERVED)}
        if settings.open_fields:
            self._judged[b"/v1/responses"] = Responses(settings.open_fields)
            self._judged[b"/v1/messages"] = Messages(settings.open_fields)
            self._judged[b"/v1/messages/count_tokens"] = CountTokens(settings.open_fields)
        self._opened = Opened(settings.open_routes)
        self._batches = _batches(settings)
        # How errors are said where no dialect is known: by default, and to callers who speak Anthropic's.
        self._shape, self._anthropic = DIALECTS[0][1], next(d for _, d in DIALECTS if d.name == "messages")

    def drain(self) -> None:
        """This process is to end: it takes no more, and nothing in it waits for a person any more."""
        self.draining = True
        self.reviews.close()

    @property
    def guard(self) -> Guard:
        """The guard of the default policy."""
        return self.guards[""]

    def opened(self, incoming: Incoming) -> Answer | None:
        """Whether this request is on the surface, and by somebody who may: an answer where it is not."""
        known = incoming.memo
        if type(known) is Known and self._identities.holds(known.identity):
            return None
        try:
            identity = self._identities.of(incoming.headers)
            if self._identities.known and PREFIX in unquote_to_bytes(incoming.target):
                text = "A Penstock key stands in the URL, where others can read it: send it as your client's API key."
                raise Denied(text, "key_in_url", 400)
        except Denied as error:
            extra = [(b"www-authenticate", b"Bearer")] if error.status == 401 else []
            return self._refusal(incoming, error.status, error.code, str(error), extra, ANONYMOUS)
        if self._batches is not None:
            found = self._batches.find(incoming, self._place(incoming.path) or b"", self._voice(incoming))
            if found is not None:
                return self._found(incoming, found, identity)
        dialect = self._judged.get(incoming.path)
        allowed = (b"POST",) if dialect is not None else (b"GET", b"HEAD") if relays(incoming.path) else ()
        unjudged = incoming.method not in allowed
        if unjudged:
            dialect, family = None, family_of(self._place(incoming.path) or b"")
            if family is None or family not in self._opened or incoming.method not in METHODS:
                nowhere = unserved(incoming, family, self._opened, allowed)
                return self._refusal(incoming, *nowhere, identity.account)
        scope = "open" if unjudged else "models" if dialect is None else dialect.name
        named = dialect is not None
        why = unfit(incoming, judged=named or self._owned is not None, json=named) or self._barred(identity, scope)
        if why is not None:
            return self._refusal(incoming, *why, identity.account)
        speaker = self._speaker(incoming)
        incoming.memo = Known(
            dialect,
            unjudged,
            speaker,
            self._written(incoming.path),
            identity,
            self.routing,
            (b"GET" if incoming.method == b"HEAD" else incoming.method, _target(incoming), incoming.raw),
            speaks(speaker.name),
            self._claimed(incoming, identity),
            self._key,
            holder=self._holder(incoming, identity),
            stores=self._settings.stores,
        )
        return None

    def _place(self, path: bytes) -> bytes | None:
        """`path` as servers read it; None for one that is spelled in an odd way. What is judged has one spelling. Where
        ids have owners, a slash has, too: who owns what is behind an escaped one would have two answers."""
        found = plain(path)
        if found is None or found == path:
            return found
        twice = self._owned is not None and found.count(b"/") != path.count(b"/")
        return None if twice or found in self._judged else found

    def _written(self, path: bytes) -> str:
        """A path that is served, for the records."""
        return path.decode("ascii") if path in self._judged else kept(path, served=True)

    def _found(self, incoming: Incoming, found: Found, identity: Identity) -> Answer | None:
        """As `opened`, for a request about batches."""
        why = unfit(incoming, judged=True, json=found.json)
        if why is None and not found.fit:
            why = 415, "unsupported_media_type", "Send the file as multipart/form-data with a plain boundary.", []
        why = why or self._barred(identity, "batches")
        if why is not None:
            return self._refusal(incoming, *why, identity.account)
        incoming.memo = Known(
            found.dialect,
            False,
            found.dialect,
            self._written(incoming.path),
            identity,
            self.routing,
            (incoming.method, _target(incoming), found.headers),
            speaks(self._voice(incoming).name),
            self._claimed(incoming, identity),
            self._key,
            found.exchange,
            self._holder(incoming, identity),
            self._settings.stores,
        )
        return None

    def _barred(self, identity: Identity, scope: str) -> tuple[int, str, str, Headers] | None:
        """Why this account may not use what it asks for, or None where it may."""
        if not identity.may("messages" if scope == "count_tokens" else scope):
            return 403, "permission_denied", "Your API key may not use this endpoint: ask the operator.", []
        if identity.policy not in self.guards:
            log.error("a key names a policy that is not configured", key=identity.key, policy=identity.policy)
            return 503, "policy_unavailable", "The policy for your API key is not there: tell the operator.", []
        return None

    def _claimed(self, incoming: Incoming, identity: Identity) -> str:
        """What the operator's header says about the end user, as it is recorded."""
        if self._end_user:
            for name, value in incoming.headers:
                if name == self._end_user and value:
                    return claim(identity.account.id, value.decode("latin-1"), self._key.keyed_hash)
        return ""

    def _holder(self, incoming: Incoming, identity: Identity) -> Holder | None:
        """What this account has at the provider, where accounts are known."""
        if self._owned is None:
            return None
        path = plain(incoming.path) or b""
        family = family_of(path)
        thing = first_id(path.decode("ascii"), family.path) if family is not None else None
        return Holder(self._owned, identity.account.id, thing)

    def refused(self, incoming: Incoming | None, status: int, code: str, message: str) -> Answer:
        """An answer to what broke a rule of HTTP or a limit."""
        extra = _DUE.get(status, [])
        return self._refusal(incoming, status, code, message, extra, self._account(incoming))

    async def serve(self, incoming: Incoming, body: bytes, caller: Caller) -> None:
        """Answer a request that `opened` let in."""
        known, task = incoming.memo, caller.task
        assert isinstance(known, Known)
        assert task is not None
        if len(self.in_flight) >= self._settings.max_in_flight or self.draining:
            caller.answer(self._problem(known.speaker, 503, "overloaded", NO_ROOM))
            caller.over()
            return
        self.in_flight.add(task, caller)
        identity = known.identity
        guard = self.guards[identity.policy]
        notes = Notes(
            self._metrics,
            known.dialect.name if known.dialect is not None else "open" if known.unjudged else "models",
            incoming.method.decode("ascii"),
            known.path,
            identity.account.id,
            guard.policies.revision,
            identity.key,
            known.claims,
        )
        if self.traces is not None or self.keeping is not None:
            self._observed(incoming, guard, identity.account, notes)
        notes.leave = self._leaving(known, guard)
        if guard.asks:
            recall = self._recalling(identity.account, guard)
            guard = guard.asked_by(identity.account, self._key.keyed_hash, recall)
        try:
            if known.unjudged:
                await self._relay.unjudged(known, incoming.method, body, caller, notes)
            elif known.dialect is None:
                await self._relay.models(known, incoming.path, identity.models, caller, notes)
            elif isinstance(known.dialect, Moderations):
                self._stamp(caller, notes)
                await Moderation(known.dialect, guard, self._audit, self._metrics, caller, notes).run(body)
            else:
                self._stamp(caller, notes)
                exchange = known.exchange(known.dialect, guard, self._shared, caller, notes)
                exchange.elsewhere = known.elsewhere
                bodiless = not body and incoming.method in _BODILESS
                running = exchange.run(known.lead, incoming.query, None if bodiless else body)
                del body  # it is not needed as long as this exchange lasts
                await running
        except asyncio.CancelledError:
            # The client hung up, it took too long, or this process is about to end.
            if not caller.gone and not caller.started:
                _, status, code, words = ending(caller)
                caller.answer(self._problem(known.speaker, status, code, f"{words}."))
        except Exception:
            # A fault of ours: the client learns no more than that, the operator's log has the rest.
            log.exception("internal fault", decision=notes.id)
            notes.stumbled(self._audit.append)
            if not caller.started:
                caller.answer(self._problem(known.speaker, 500, "internal_error", FAILED, notes.id))
        finally:
            self.in_flight.discard(task)
            caller.over()

    def _observed(self, incoming: Incoming, guard: Guard, account: Account, notes: Notes) -> None:
        """Have an exchange traced, and what is judged of it kept, where that is wanted."""
        if self.traces is not None:
            notes.trace = self.traces.begin(notes.id, incoming.headers)
        if self.keeping is not None:
            notes.kept = self.keeping.begin(notes.id, guard.policies, account)

    def _leaving(self, known: Known, guard: Guard) -> Leave | None:
        """What keeps what the policy's rules leave on the account. Who has texts moderated is asking about others'."""
        if self.state is None or not guard.memory.left or isinstance(known.dialect, Moderations):
            return None
        return functools.partial(self.state.leave, known.identity.account.id, guard.memory)

    def _recalling(self, account: Account, guard: Guard) -> Recall | None:
        """What tells what is remembered of the account, where the policy asks."""
        if self.state is None or not guard.memory.read:
            return None
        return functools.partial(self.state.recall, account, guard.memory)

    def _stamp(self, caller: Caller, notes: Notes) -> None:
        if self._settings.decision_headers:
            caller.stamp.append((b"x-penstock-decision", notes.id.encode()))

    def _refusal(
        self, incoming: Incoming | None, status: int, code: str, message: str, extra: Headers, account: Account
    ) -> Answer:
        known = self._identities.known and account is not ANONYMOUS
        id = self.refusals.take(incoming, status, code, account.id, known=known)
        return problem(self._speaker(incoming), status, code, message, id, extra)

    def _speaker(self, incoming: Incoming | None) -> Speaker:
        """Who says an error as this caller reads errors."""
        if incoming is None:
            return self._shape
        return self._judged.get(incoming.path) or self._voice(incoming)

    def _voice(self, incoming: Incoming) -> Dialect:
        """Whose words a caller reads where the path alone does not tell."""
        theirs = any(name == b"anthropic-version" for name, _ in incoming.headers)
        return self._anthropic if theirs or incoming.path.startswith(b"/v1/messages/") else self._shape

    def _account(self, incoming: Incoming | None) -> Account:
        """Who asks, where that can be said."""
        try:
            return self._identities.of(incoming.headers).account if incoming is not None else ANONYMOUS
        except Denied:
            return ANONYMOUS

    def _problem(self, speaker: Speaker, status: int, code: str, message: str, decision: str = "") -> Answer:
        self._metrics.refused.inc(code)
        return problem(speaker, status, code, message, decision)


_DUE: Mapping[int, Headers] = {405: [(b"allow", b"GET, HEAD, POST")], 426: [(b"upgrade", b"HTTP/1.1")]}
"""Headers that a status must have, whatever was asked for."""
_BODILESS = frozenset({b"GET", b"DELETE"})


def _target(incoming: Incoming) -> bytes:
    return incoming.target.partition(b"#")[0]


def _batches(settings: Settings) -> Batches | None:
    if not settings.judge_batches:
        return None
    from .batches.routes import Batches

    return Batches(DIALECTS, settings.max_batch_rows)
