"""`penstock console`: pages for people, on an address of their own. Exit codes: 0 done, 2 wrong usage or settings."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import SecretStr

from . import admin_client
from .audit_cli import clean, parse_since
from .config import ConfigError, Settings, load
from .content_cli import content_of
from .keys_cli import ConfigFile, user

if TYPE_CHECKING:
    from .console.site import Ask


def console(
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8702,
    content: Annotated[
        bool, typer.Option("--content", help="Show what was kept of texts; needs the master key.")
    ] = False,
    admin: Annotated[
        str | None, typer.Option("--admin", help="HOST:PORT of the admin listener; else as the settings say.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Decisions, why they fell, and what waits for a person, as pages for a browser."""
    from .console.guard import LOCAL

    try:
        settings = load(config)
    except ConfigError as error:
        _end(str(error))
    if host not in LOCAL and settings.admin_token is None:
        _end("set admin_token before the console leaves this machine: it is the password")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        _end(f"cannot listen on {host}:{port}: {error.strerror or error}")
    _serve(listening, host, settings, admin, content)


def _serve(listening: socket.socket, host: str, settings: Settings, admin: str | None, content: bool) -> None:
    import uvicorn

    from .console.guard import LOCAL, Doorman
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
    app = site(sources, Doorman(LOCAL | {host}, None if token is None or host in LOCAL else token.get_secret_value()))
    where = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{where}:{listening.getsockname()[1]}/", err=True)
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
    typer.echo(f"penstock: {problem}", err=True)
    raise typer.Exit(2)
