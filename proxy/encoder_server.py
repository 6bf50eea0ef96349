"""The server that makes the encoder's passes, where one is set: asked before anything else is, watched, and told of.

It counts once texts of our own score there as they do here (`classifiers.elsewhere`). Where it does not, the weights
here answer or nobody does, as `encoder_fallback` says; and it is asked again until it does, without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from classifiers.catalog import OptionError
from classifiers.elsewhere import Elsewhere, Standing
from classifiers.panel import Panel
from classifiers.service import Service, check_key, checked_url

from .config import Settings
from .logs import get_logger
from .parts import Parts

log = get_logger("penstock.encoder")

PART = "encoder"
CONNECTIONS = 32
"""As many as threads may wait for it."""
LOOK = 60.0
"""Seconds between two looks at a server that is well: so late at most is noticed that its model is another one, where
it does not name another version."""
SOON, LATE = 1.0, 10.0
"""Seconds until a server that is not well is asked again: the first time, and at most."""


def problem_with(settings: Settings) -> str:
    """What is wrong with the settings of the server, or nothing."""
    key = settings.encoder_key.get_secret_value() if settings.encoder_key is not None else None
    try:
        url = checked_url(settings.encoder)
        if key is not None:
            check_key(key, url, "it")
    except OptionError as error:
        mend = "http://encoder:8000, or embedded" if error.option == "url" else error.mend
        return f"{'encoder' if error.option == 'url' else 'encoder_key'}: {error.problem} ({mend})"
    if settings.encoder_ca_file is not None and not os.path.isfile(settings.encoder_ca_file):
        return "encoder_ca_file: there is no such file: name the PEM file of the authority to trust"
    return ""


def elsewhere_of(settings: Settings) -> Elsewhere | None:
    """The server that the settings name. Raises OSError and ssl.SSLError for a CA file that cannot be used."""
    if settings.encoder == "embedded":
        return None
    key = settings.encoder_key.get_secret_value() if settings.encoder_key is not None else ""
    ca_file = str(settings.encoder_ca_file) if settings.encoder_ca_file is not None else None
    url = checked_url(settings.encoder).removesuffix("/v2")
    service = Service(url, settings.encoder_timeout, key, ca_file, CONNECTIONS)
    return Elsewhere(service, settings.encoder_tolerance, settings.encoder_fallback == "embedded")


def watched(elsewhere: Elsewhere, parts: Parts, panel: Panel, fallback: bool) -> asyncio.Task[None]:
    """Tell how it stands with the server, now and after each look, until this is cancelled. Once it is well again, so
    are the classifiers of `panel` that work there."""
    loop, wake = asyncio.get_running_loop(), asyncio.Event()

    def suspected() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
            loop.call_soon_threadsafe(wake.set)

    async def watch() -> None:
        pause = SOON
        while True:
            await asyncio.sleep(SOON)
            if was := elsewhere.standing.ready:
                pause = SOON
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), LOOK)
            else:
                await asyncio.sleep(pause - SOON)
                pause = min(2 * pause, LATE)
            wake.clear()
            try:
                standing = await asyncio.to_thread(elsewhere.verify)
                if standing.ready and not was:
                    panel.breakers.forget(elsewhere.names)
                _tell(standing, parts, fallback)
            except Exception:  # a fault of ours must not end the watch
                log.exception("encoder not looked at")

    elsewhere.suspected = suspected
    _tell(elsewhere.standing, parts, fallback)
    return asyncio.create_task(watch())


def _tell(standing: Standing, parts: Parts, fallback: bool) -> None:
    if standing.ready:
        parts.well(PART, standing.detail)
        return
    meanwhile = "the weights in this process answer" if fallback else "rules do what their on_error says"
    parts.ill(PART, standing.state, standing.detail, mend=standing.mend, meanwhile=meanwhile, needed=not fallback)
