"""The address of what replicas share, as it stands in the settings."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlsplit

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What may stand behind the address: the authority to trust, and a certificate of our own with its key."""
_ADDRESS = re.compile(r"rediss?://[^\s/]+(/\d*)?(\?\S*)?|unix://\S+")
_SEVERAL = re.compile(r"\S*(sentinel|cluster)\S*://|rediss?://[^/?]*,", re.IGNORECASE)


def problem_with(url: str) -> str:
    """What is wrong with it, or nothing. Says nothing that stands in it: a password may."""
    if _SEVERAL.match(url):
        return (
            "names several: Sentinels and Clusters are not spoken to. Name one Redis, the primary if it has replicas, "
            "or an address that always leads to it"
        )
    if not _ADDRESS.fullmatch(url):
        return "is no address of Redis: write redis://USER:PASSWORD@HOST:6379/0, rediss:// or unix:///PATH"
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in {*FILES, "db"}:
            return f"has a parameter that is not known: {', '.join(FILES)} and db are"
        if name in FILES and not url.startswith("rediss:"):
            return f"names {name}, and no TLS: write rediss://"
        if name in FILES and not os.path.isfile(value):
            return f"{name}: there is no such file"
    return ""
