"""`penstock console`: pages for people, on an address of their own. Exit codes: 0 done, 2 wrong usage or settings."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import SecretStr

from . import admin_client
from .audit_cli import clean, parse_since
from .config import ConfigError, Settings, load
from .content_cli import content_of
from .keys_cli import ConfigFile, user
from .logs import write_line

if TYPE_CHECKING:
    from .console.guard import Doorman
    from .console.site import Ask

_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def console(
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8702,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="A name under which browsers ask for it, behind a proxy or a Service say; repeatable."
        ),
    ] = None,
    content: Annotated[
        bool, typer.Option("--content", help="Show what was kept of texts; needs the master key.")
    ] = False,
    admin: Annotated[
        str | None, typer.Option("--admin", help="HOST:PORT of the admin listener; else as the settings say.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Decisions, why they fell, and what waits for a person, as pages for a browser."""
    from .console.guard import LOCAL, is_address, spelled

    try:
        settings = load(config)
    except ConfigError as error:
        _end(str(error))
    host, served = host.strip("[]"), frozenset(map(spelled, names or ()))
    for name in sorted(served):
        if not _NAME.fullmatch(name) and not is_address(name):
            _end(f"--name {name}: write a name such as console.example.com, without scheme, port and path")
    away = not {spelled(host)} | served <= LOCAL
    if away and settings.admin_token is None:
        _end("set admin_token before the console leaves this machine: it is the password")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        _end(f"cannot listen on {host}:{port}: {error.strerror or error}")
    doorman = _doorman(listening, host, served, settings.admin_token if away else None)
    _serve(listening, doorman, settings, admin, content)


def _doorman(listening: socket.socket, host: str, served: frozenset[str], token: SecretStr | None) -> Doorman:
    """Who is let in; says where that is."""
    from .console.guard import LOCAL, Doorman, spelled

    address, port = listening.getsockname()[:2]
    everywhere = ipaddress.ip_address(address).is_unspecified
    write_line(f"http://{f'[{host}]' if ':' in host else host or address}:{port}/")
    if everywhere:
        also = f", and as {', '.join(sorted(served))}" if served else ""
        write_line(f"penstock: browsers reach it at any address of this machine{also}; other names need --name")
    hosts = LOCAL | served | {spelled(host)}
    return Doorman(hosts, None if token is None else token.get_secret_value(), addresses=everywhere)


def _serve(listening: socket.socket, doorman: Doorman, settings: Settings, admin: str | None, content: bool) -> None:
    import uvicorn

    from .console.site import Sources, site

    token = settings.admin_token
    sources = Sources(
        log=settings.audit_where,
        head=settings.audit_head,
        content=(lambda id: content_of(id, settings)) if content else None,
        ask=asking(admin or f"{settings.admin_host}:{settings.admin_port}", token),
        user=user(),
        since=parse_since,
    )
    app = site(sources, doorman)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, access_log=False))
    serving.run([listening])


def asking(where: str, token: SecretStr | None) -> Ask:
    """Speaks to the admin listener at HOST:PORT."""

    def ask(method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        from .console.site import Unanswered

        try:
            found: dict[str, Any] = admin_client.ask(where, token, method, path, body)
        except admin_client.Silent as error:
            raise Unanswered(f"The admin listener at {where} does not answer: {error}.") from None
        except admin_client.Refused as error:
            raise Unanswered(f"The admin listener at {where} said: {clean(error)}") from None
        return found

    return ask


def _end(problem: str) -> NoReturn:
    write_line(f"penstock: {problem}")
    raise typer.Exit(2)
