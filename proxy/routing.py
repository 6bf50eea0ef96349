"""Where a request goes: the operator's table of named upstreams, read by the model's name and by nothing else.

A route holds patterns of model names and the upstream that serves them; the first that matches stands, and
`default_upstream` takes what matches none. An upstream that does not serve the caller's family of dialects is passed
over for a later route that names the model too, and never for the default. No header and no other field of a request
leads anywhere.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies.ready import PolicySet

from .config import Settings
from .dialects.base import NotFound
from .upstream import Headers, Response, Upstream, UpstreamError
from .upstream_settings import UpstreamSettings

LONGEST = 256
"""Letters of a model's name beyond which no pattern matches it."""
SECRET = 12
"""Letters from which on a key is one. What is shorter stands in for a key that a server does not want ("EMPTY", "none")
and is a word like any other."""
REMEMBERED = 1024
"""Names of models whose way is remembered."""
ANTHROPIC = frozenset({"messages", "count_tokens"})
"""Dialects of Anthropic's family; all others are of OpenAI's."""


def family_of(dialect: str) -> str:
    """The family of dialects that an upstream must serve."""
    return "anthropic" if dialect in ANTHROPIC else "openai"


class Patterns:
    """Names with `*` for any run of letters; no other letter means anything but itself."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
        self._wild = [re.compile(_regex(pattern)) for pattern in patterns if "*" in pattern]

    def __contains__(self, name: str) -> bool:
        if name in self.exact:
            return True
        return len(name) <= LONGEST and any(pattern.match(name) for pattern in self._wild)


def _regex(pattern: str) -> str:
    return fnmatch.translate(pattern.replace("[", "[[]").replace("?", "[?]"))


UNAUTHORIZED = 401
REFUSED = "credentials"
"""The state of an upstream that does not take our key."""


class Backend:
    """One upstream under the operator's name for it. `pass_through`: where it has no key, it gets the caller's; else it
    gets none. `state` says what became of the last request, `problem` what stood in the way of the last that failed."""

    def __init__(self, name: str, upstream: Upstream, settings: UpstreamSettings, *, pass_through: bool) -> None:
        self.name, self.upstream = name, upstream
        self.serves = frozenset[str](settings.serves)
        self.state, self.problem = "not asked yet", ""
        secret = settings.secret
        self._keyed = secret is not None
        self._hidden = secret.encode() if secret and len(secret) >= SECRET else b""
        self._credentials: dict[str, Headers | None] = {}
        for family in ("openai", "anthropic"):
            if secret is None:
                self._credentials[family] = None if pass_through else []
                continue
            kind = settings.key_header
            if kind == "auto":
                kind = "x-api-key" if family == "anthropic" else "bearer"
            value = secret.encode()
            pair = (b"authorization", b"Bearer " + value) if kind == "bearer" else (kind.encode(), value)
            self._credentials[family] = [pair]

    def credentials(self, family: str) -> Headers | None:
        """What this upstream gets for the caller's credentials; None passes the caller's own through."""
        return self._credentials[family]

    async def send(self, head: bytes, body: bytes | None) -> Response:
        """As `Upstream.send`."""
        try:
            response = await self.upstream.send(head, body)
        except UpstreamError as error:
            self.state, self.problem = error.fault, str(error)
            raise
        if response.status == UNAUTHORIZED and self._keyed:
            self.state, self.problem = REFUSED, f"it answers {UNAUTHORIZED} to our key"
        else:
            self.state = "answers"
        if self._hidden:
            response.hide(self._hidden)
        return response


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes. `model` is the name that this upstream knows the model by, where it is another."""

    backend: Backend
    model: str | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    models: Patterns
    way: Way


class Routing:
    """The table. `default` takes what has no model's name."""

    def __init__(
        self, backends: Sequence[Backend], routes: Iterable[tuple[Sequence[str], Way]] = (), default: str = ""
    ) -> None:
        self.backends = tuple(backends)
        self._routes = [_Route(Patterns(models), way) for models, way in routes]
        named = {backend.name: backend for backend in backends}
        self.default = named[default] if default else backends[0] if len(backends) == 1 else None
        # Who writes a table and names no default wants what is in the table.
        self._rest = Way(self.default) if self.default is not None and (default or not self._routes) else None
        self.parted = any(route.way != Way(self.default) for route in self._routes) if self.default else False
        """Whether some models are not the default's."""
        self._known: dict[tuple[str, str], Way] = {}
        # With one upstream and no routes a model's name leads nowhere else, known or not.
        self.single = self._rest if len(backends) == 1 and not self._routes else None

    def way(self, family: str, model: str) -> Way:
        """Where `model` of a request in a dialect of `family` goes. Raises NotFound."""
        if self.single is not None and family in self.single.backend.serves:
            return self.single
        way = self._known.get((family, model))
        if way is None:
            way = self._look(family, model)
            if len(model) <= LONGEST:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[family, model] = way
        return way

    def _look(self, family: str, model: str) -> Way:
        # A name that is not there is none, whatever `*` says.
        named = False
        for route in self._routes:
            if model in route.models:
                if family in route.way.backend.serves:
                    return route.way
                named = bool(model)
        if named:
            raise _other_api(family)
        if self._rest is not None and family in self._rest.backend.serves:
            return self._rest
        raise no_model()

    def find(self, family: str, model: str) -> Way | None:
        """As `way`; None where the model is not served."""
        try:
            return self.way(family, model)
        except NotFound:
            return None

    def settle(self, family: str, model: str) -> None:
        """Raises NotFound for a model that a route names and that is not the default's by this name: a request that is
        not judged goes to the default as it is, or nowhere."""
        if model and any(model in route.models for route in self._routes):
            way = self.way(family, model)
            if way.backend is not self.default or way.model not in {None, model}:
                text = "This model is served by an upstream that this route does not lead to."
                raise NotFound(text, "model", "model_not_found")

    def names(self, family: str) -> dict[str, Way]:
        """Models that the table itself names, for `family`, with where they go."""
        exact = sorted({name for route in self._routes for name in route.models.exact})
        return {name: way for name in exact if (way := self.find(family, name)) is not None}

    def states(self) -> dict[str, str]:
        """Each upstream's name, and what became of the last request to it."""
        return {backend.name: str(backend.state) for backend in self.backends}

    async def close(self) -> None:
        """Close every connection."""
        for backend in self.backends:
            await backend.upstream.close()


def unserved(policies: PolicySet, routing: Routing) -> list[str]:
    """What is wrong with the rules that route, a line each: their models must be served in some API."""
    return [
        f"rule '{rule.id}' of '{policy.id}' routes to '{rule.route_to}', which no upstream serves: name it in routes"
        for policy in policies.policies
        for rule in policy.rules
        if rule.route_to is not None
        and all(routing.find(family, rule.route_to) is None for family in ("openai", "anthropic"))
    ]


def no_model() -> NotFound:
    """What is said of a model that is not served here, or not to this account: the two sound the same."""
    return NotFound("This model does not exist, or you do not have access to it.", "model", "model_not_found")


def _other_api(family: str) -> NotFound:
    """What is said of a model whose routes lead only to upstreams that serve the other family: no other provider gets a
    prompt in their place."""
    theirs = "Anthropic's (/v1/messages)" if family == "openai" else "OpenAI's (as /v1/chat/completions)"
    text = (
        f"This model is not served in this API: ask for it in {theirs}, or have it routed to an upstream of this one."
    )
    return NotFound(text, "model", "model_not_found")


def routing_of(settings: Settings) -> Routing:
    """The table that the settings describe. Raises OSError and ssl.SSLError for a CA file that cannot be used."""
    pass_through = settings.credentials == "pass_through"
    backends = {
        name: Backend(name, _upstream(settings, each), each, pass_through=pass_through)
        for name, each in settings.all_upstreams.items()
    }
    routes = [(route.models, Way(backends[route.upstream], route.rename)) for route in settings.routes]
    return Routing(list(backends.values()), routes, settings.default_upstream)


def _upstream(settings: Settings, own: UpstreamSettings) -> Upstream:
    return Upstream(
        own.url,
        max_connections=own.max_connections or settings.max_connections,
        connect=own.connect_timeout or settings.connect_timeout,
        first_byte=own.first_byte_timeout or settings.first_byte_timeout,
        gap=own.gap_timeout or settings.gap_timeout,
        ca_file=own.ca_file,
    )
