"""Does the server that makes the encoder's passes answer, and score as the weights here do?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from classifiers.embedded import Embedded
from classifiers.service import is_near

from .base import Finding, Place, State

NAME = "encoder"


def check_encoder(place: Place) -> Iterator[Finding]:
    settings = place.settings
    if settings.encoder == "embedded":
        yield Finding(NAME, State.WELL, "passes are made in this process")
        return
    from ..encoder_server import elsewhere_of

    try:
        elsewhere = elsewhere_of(settings)
    except OSError as error:
        yield Finding(NAME, State.WRONG, f"encoder_ca_file cannot be used: {error}", "name a PEM file of certificates")
        return
    assert elsewhere is not None  # it is not embedded
    if settings.encoder.startswith("http:") and not is_near(urlsplit(settings.encoder).hostname or ""):
        detail = f"{settings.encoder}: what is judged travels there in the clear, as token ids"
        yield Finding(NAME, State.WARNING, detail, "write https:// in encoder, or name it by a private address")
    began = time.perf_counter()
    elsewhere.prepare([Embedded.from_options(NAME, {})])
    took, standing = time.perf_counter() - began, elsewhere.standing
    if standing.ready:
        detail = f"{settings.encoder}: scores as the weights here do, after {took * 1000:.0f} ms ({standing.detail})"
        yield Finding(NAME, State.WELL, detail)
        return
    state = State.WARNING if settings.encoder_fallback == "embedded" else State.WRONG
    yield Finding(NAME, state, f"{settings.encoder}: {standing}", standing.mend)
