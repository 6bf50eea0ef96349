"""`python -m proxy.health`: ask a Penstock on this machine whether it is ready; 0 where it is, else 1 and why.

For health checks in places without a shell or curl, and for service managers that wait until it serves (`--wait`). It
reads the same settings as `penstock serve`, and imports next to nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from pathlib import Path

from .config import ConfigError, load

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
PATIENCE = 5.0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m proxy.health", description="Is Penstock ready?")
    parser.add_argument(
        "--config", type=Path, default=os.environ.get("PENSTOCK_CONFIG"), help="A YAML file of settings."
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="Keep asking so long.")
    given = parser.parse_args()
    try:
        settings = load(given.config and Path(given.config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    host, until = ANYWHERE.get(settings.admin_host, settings.admin_host), time.monotonic() + given.wait
    while trouble := _trouble(host, settings.admin_port):
        if time.monotonic() >= until:
            print(f"penstock: not ready: {trouble}", file=sys.stderr)
            return 1
        time.sleep(0.2)
    return 0


def _trouble(host: str, port: int) -> str:
    """Why it is not ready, or nothing."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(65_536)
        if answer.status == 200:
            return ""
        checks = json.loads(body)["checks"]
        return "; ".join(f"{name}: {why}" for name, why in checks.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{host}:{port} is not Penstock's admin port"
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
