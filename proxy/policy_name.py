"""What an author's command takes for a policy: what `policies.load` takes, and a revision that is kept here."""

from __future__ import annotations

import re
from pathlib import Path

POLICY = "A directory, a file, a shipped pack, or a kept revision (`penstock policy history`)."
_REVISION = re.compile(r"[0-9a-f]{4,64}")


def source_of(name: str) -> str:
    """What to load. A revision may be named by its beginning; a file or a directory of that name goes before it. Raises
    Refused where it cannot be told which revision is meant."""
    if _REVISION.fullmatch(name) is None or Path(name).exists():
        return name
    from .audit import AuditUnavailable
    from .audit_cli import settings_of
    from .policy_store import Store, StoreError
    from .teach_cli import Refused

    try:
        return Store(settings_of().data_dir / "policies").get(name).entry
    except (StoreError, AuditUnavailable) as error:
        raise Refused(str(error)) from None
