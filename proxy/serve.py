"""`penstock serve`, apart from the other commands: it imports nothing that only speaks to people at a terminal, since
what is imported stays in memory for as long as it serves."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .audit.target import shown
from .config import ConfigError, Settings, load
from .files import fitted
from .logs import configure_logs, get_logger, write_line
from .server import CannotServe, Running, run
from .upstream_settings import check_keys

OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("upstream", str, "The model's base URL, like https://api.openai.com/v1."),
    ("policy", str, "A directory, a file, or a pack such as baseline or observe."),
    ("host", str, "Address to listen on."),
    ("port", int, "Port to listen on."),
    ("admin-host", str, "Address of health and metrics."),
    ("admin-port", int, "Port of health and metrics."),
    ("workers", int, "Processes that serve; 0 means one a core."),
    ("data-dir", Path, "Where the audit log lies."),
    ("log-level", str, "debug, info, warning or error."),
)
"""Settings that have an option: `penstock config` lists all."""


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal ends it. Exit codes: 0 well, 1 something is wrong with what was given, 2 wrong usage."""
    given = vars(_parser().parse_args(arguments))
    try:
        settings = load(given.pop("config"), **given)
        check_keys(settings.upstreams)
    except ConfigError as error:
        return told(error)
    human = settings.log_format == "console" or (settings.log_format == "auto" and _is_terminal())
    configure_logs(settings.log_level, human=human)
    settings = fitted(settings)
    try:
        if settings.all_workers > 1:
            from .workers.supervisor import supervise

            return supervise(settings)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, lambda running: _announce(settings, running)))
    except CannotServe as error:
        return told(error)
    return 0


def told(error: Exception) -> int:
    """Say what is wrong, a line each. Returns 1."""
    for line in str(error).splitlines():
        write_line(f"penstock: {line}")
    return 1


def _is_terminal() -> bool:
    """Whether a person reads the lines."""
    return sys.stderr is not None and sys.stderr.isatty()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock serve",
        description="Stand between callers and a model, and enforce a policy on both ways.",
        allow_abbrev=False,
    )
    file = os.environ.get("PENSTOCK_CONFIG")
    parser.add_argument("--config", type=Path, default=file and Path(file), help="A YAML file of settings.")
    for name, kind, text in OPTIONS:
        parser.add_argument(f"--{name}", type=kind, help=text, metavar=kind.__name__.upper().replace("STR", "TEXT"))
    return parser


def _announce(settings: Settings, running: Running) -> None:
    get_logger("penstock").info(
        "serving",
        base_url=f"http://{address(running.address)}/v1",
        admin=f"http://{address(running.admin_address)}",
        upstream=", ".join(each.url for each in settings.all_upstreams.values()),
        policy=settings.policy,
        revision=running.plane.guard.policies.revision,
        audit=shown(settings.audit_where),
    )


def address(pair: tuple[str, int]) -> str:
    """(host, port) as a URL has it."""
    host, port = pair
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
