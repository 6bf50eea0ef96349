"""The address of what replicas share, as it stands in the settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""What may stand behind the address: the authority to trust, and a certificate of our own with its key."""
OF_SENTINELS = ("sentinel_username", "sentinel_password")
"""What else may stand behind the address of Sentinels: who we are to them."""
_ADDRESS = re.compile(r"rediss?://[^\s/]+(/\d*)?(\?\S*)?|unix://\S+")
_CLUSTER = re.compile(r"\S*cluster\S*://", re.IGNORECASE)
_LIST = re.compile(r"rediss?://[^/?]*,", re.IGNORECASE)
_SENTINELS = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://((?P<user>[^\s/@:]*):(?P<password>[^\s/@]*)@)?(?P<hosts>[^\s/@?]+)"
    r"/(?P<name>[\w.-]+)(/(?P<db>\d*))?(\?(?P<more>\S*))?"
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\],]+)(:(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Sentinels (host, port) that say where the primary called `name` is. User and password are those of Redis; `more`
    is what stands behind the address."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    db: int
    tls: bool
    user: str
    password: str
    more: dict[str, str]


def sentinels_of(url: str) -> Sentinels | None:
    """What an address of Sentinels says; None for any other."""
    found = _SENTINELS.fullmatch(url)
    hosts = [_HOST.fullmatch(each) for each in found["hosts"].split(",")] if found else []
    if found is None or not all(hosts):
        return None
    return Sentinels(
        tuple((each[1].strip("[]"), int(each[3] or 26379)) for each in hosts if each is not None),
        found["name"],
        int(found["db"] or 0),
        found["scheme"] == "rediss",
        unquote(found["user"] or ""),
        unquote(found["password"] or ""),
        dict(parse_qsl(found["more"] or "", keep_blank_values=True)),
    )


def problem_with(url: str) -> str:
    """What is wrong with it, or nothing. Says nothing that stands in it: a password may."""
    sentinels = sentinels_of(url)
    if (sentinels is None and not _ADDRESS.fullmatch(url)) or _LIST.match(url):
        return _no_address(url)
    known = {*FILES, "db"} if sentinels is None else {*FILES, *OF_SENTINELS}
    # Not by urlsplit: before Python 3.11.4 it refuses a list of hosts of which one is in brackets.
    for name, value in parse_qsl(url.partition("?")[2].partition("#")[0], keep_blank_values=True):
        if name not in known:
            return f"has a parameter that is not known: {', '.join(sorted(known))} are"
        if name in FILES and not url.startswith("rediss"):
            return f"names {name}, and no TLS: write rediss{'' if sentinels is None else '+sentinel'}://"
        if name in FILES and not os.path.isfile(value):
            return f"{name}: there is no such file"
    return ""


def _no_address(url: str) -> str:
    if _CLUSTER.match(url):
        return "names a Cluster, which is not spoken to: name one Redis, or the Sentinels of one"
    of_sentinels = "redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/NAME"
    if _LIST.match(url):
        return f"names several: if they are Sentinels, write {of_sentinels}"
    if "sentinel" in url.partition("//")[0]:
        return f"is no address of Sentinels: write {of_sentinels}, where NAME is what they call the primary"
    return "is no address of Redis: write redis://USER:PASSWORD@HOST:6379/0, rediss:// or unix:///PATH"
