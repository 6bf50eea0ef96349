"""`python -m proxy` is `penstock`."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import NoReturn


def main() -> None:
    """The command's entry point."""
    if sys.argv[1:2] == ["serve"]:
        from .serve import main as serve

        _leave(serve(sys.argv[2:]))
    from .cli import app

    app()


def _leave(code: int) -> NoReturn:
    """End now. The interpreter would wait for a thread whose classifier hangs, for ever perhaps."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # whoever reads it has gone, perhaps
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
