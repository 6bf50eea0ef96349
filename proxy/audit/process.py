"""Starting the writer's process, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Self

from .entry import AuditUnavailable

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "TZ")
"""What the writer may see of the environment: the rest may hold keys."""
UNHEARD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
"""Signals that reach the whole group or service: the proxy heeds them, and its writer ends after it."""
PATIENCE = 5.0
"""Seconds for a process to end after its socket was closed."""


IDLE = 5
"""Seconds without a message after which the writer sees to its upkeep."""


class Process:
    """A writer's process and our end of the socket to it. Methods block."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.sock, self._process = sock, process
        self.pid = process.pid

    @classmethod
    def start(cls) -> Self:
        """For a log in a file. Raises AuditUnavailable."""
        return cls._start([], {})

    @classmethod
    def with_packages(cls) -> Self:
        """For a log in a database, whose driver is installed, and may be told of by PG* variables. Raises
        AuditUnavailable."""
        told = {name: value for name, value in os.environ.items() if name.startswith("PG") or name == "HOME"}
        return cls._start(sys.path, told)

    @classmethod
    def _start(cls, paths: list[str], told: dict[str, str]) -> Self:
        # Without `site`: it needs nothing else that is installed. Our folder comes last, to hide nothing of Python's.
        more = [str(ROOT), *filter(None, paths)]
        run = f"import sys; sys.path += {more!r}; from proxy.audit.writer import main; main()"
        command = [sys.executable, "-S", "-P", "-c", run]
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | told
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", IDLE, 0))
        # Blocked from the first moment on: the mask outlives `exec`, and belongs to this thread only.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
        try:
            with theirs:
                fd = theirs.fileno()
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [*command, str(fd)], pass_fds=[fd], env=environment, stdin=subprocess.DEVNULL, cwd="/"
                )
        except OSError as error:
            ours.close()
            mend = "see the limits of processes and memory"
            raise AuditUnavailable(f"its writer cannot be started: {error.strerror}", mend) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return cls(ours, process)

    def end(self, *, kill: bool) -> None:
        """Close the socket, at which the process ends, or end it at once; wait for it."""
        self.sock.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the disk: the system will bury it
                self._process.wait(PATIENCE)
