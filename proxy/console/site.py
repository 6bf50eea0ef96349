"""The pages, and where each gets what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..audit import AuditUnavailable, Reader
from ..audit.search import Search
from ..audit_show import clean, ended, moment, sections
from .guard import Doorman

MOST = 200
"""Decisions on one page."""
SPANS = ("1h", "24h", "7d", "30d", "all")
ASKED = ("action", "rule", "status", "account", "model", "policy", "error")
"""What decisions are looked for by; in each but the last `*` stands for any run of letters."""

Ask = Callable[[str, str, dict[str, str] | None], dict[str, Any]]
"""(method, path, body) -> what the admin listener answers. Raises Unanswered."""


class Unanswered(Exception):
    """The admin listener did not do it; the message says why."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the pages read: `log` and `head` name the audit, `content` reads what was kept of an exchange (None: it is
    not shown), `ask` speaks to the admin listener as `user`, whoever runs this."""

    log: str | Path
    head: str | Path
    content: Callable[[str], dict[str, Any] | str] | None
    ask: Ask
    user: str
    since: Callable[[str], float]


def site(sources: Sources, doorman: Doorman) -> FastAPI:
    """The application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.middleware("http")(doorman)
    page = _pages()

    @app.get("/")
    def decisions(request: Request, since: str = "24h") -> Response:
        asked = {name: value for name in ASKED if (value := request.query_params.get(name, "").strip())}
        span = since if since in SPANS else "24h"
        search = Search(since=None if span == "all" else sources.since(span), **asked)  # type: ignore[arg-type]
        with Reader(sources.log, sources.head) as log:
            found = log.latest(MOST, search)
        return page("decisions.html", found=found[::-1], asked=asked, span=span, spans=SPANS, fields=ASKED, most=MOST)

    @app.get("/decisions/{id}")
    def decision(id: str) -> Response:
        with Reader(sources.log, sources.head) as log:
            exchange = log.exchange(id)
        if exchange is None:
            return page("wrong.html", 404, problem="There is no such decision.", mend="It may have been pruned.")
        kept = None if sources.content is None else sources.content(id)
        return page("decision.html", sections=list(sections(exchange)), kept=kept, exchange=exchange)

    @app.get("/reviews")
    def reviews() -> Response:
        return page("reviews.html", held=sources.ask("GET", "/reviews", None)["reviews"])

    @app.post("/reviews/{id}/{word}")
    def answered(id: str, word: Literal["approve", "deny"], request: Request) -> Response:
        by = doorman.user(request) or sources.user
        sources.ask("POST", f"/reviews/{word}", {"id": id, "by": by})
        return RedirectResponse("/reviews", 303)

    @app.get("/style.css")
    def style() -> Response:
        return Response(files(__package__).joinpath("style.css").read_bytes(), media_type="text/css")

    @app.exception_handler(AuditUnavailable)
    def no_audit(_: Request, error: AuditUnavailable) -> Response:
        return page("wrong.html", 503, problem=f"The audit cannot be read: {error.problem}.", mend=error.mend)

    @app.exception_handler(Unanswered)
    def no_answer(_: Request, error: Unanswered) -> Response:
        return page("wrong.html", 502, problem=str(error), mend="See `penstock doctor`.")

    return app


def _pages() -> Callable[..., Response]:
    """Makes a page of a template. Everything in it is escaped."""
    pages = Environment(
        loader=PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(clean=clean, ended=ended, moment=moment)

    def page(name: str, status: int = 200, **told: Any) -> Response:
        return Response(pages.get_template(name).render(**told), status, media_type="text/html")

    return page
