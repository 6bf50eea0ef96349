"""Bytes of a stream are left with the kernel until as many came as their reader can do something with.

Decision: the kernel is asked to tell of nothing (SO_RCVLOWAT), and a common beat looks at how much has come. Why: what
is held back cannot leave before more text came, and who is woken for each event finds cold caches: that costs more than
all that is done with it. On the beat many streams are read behind each other. Cost: what is ready waits for the next
beat, and the end of a stream is seen when nothing has come for a while: two events' time late.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Callable
from fcntl import ioctl
from sys import byteorder
from termios import FIONREAD

BEAT = 0.01
"""Seconds between two beats. Longer ones save more, and keep whoever asks meanwhile waiting for longer."""
EVENTS = 2
"""In the time of how many events one comes, unless the stream pauses."""
SLOWEST = 0.25
"""Seconds between two looks at most; a stream slower than that is read as it comes."""
REST = 0.06
"""Seconds after it was read last in which a stream is not read again, unless it pauses."""
PATIENCE = 2.0
"""Seconds for which bytes are left with the kernel at most."""
MUTED = 64 * 1024
"""Bytes of which the kernel tells in any case."""
_COUNT = bytes(4)
_QUIET = slice(52, 56)
"""Where `struct tcp_info` of Linux has the milliseconds since bytes came last."""


class _Borrowed(socket.socket):
    """A socket of the event loop's: it is not closed with this object. (Its own is made anew for each call.)"""

    __slots__ = ()

    def __del__(self) -> None:
        self.detach()


class Beat:
    """The looks that all connections of a pool have before them, by the beat on which they come."""

    def __init__(self) -> None:
        self._due: dict[int, list[Gathering]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def add(self, gathering: Gathering, delay: float) -> int:
        """`gathering` will be looked at on the beat that is answered, `delay` seconds from now or a little later."""
        loop = asyncio.get_running_loop()
        beat = math.ceil((loop.time() + delay) / BEAT)
        due = self._due.get(beat)
        if due is None:
            due = self._due[beat] = []
            if beat < self._next:
                self._await(beat, loop)
        due.append(gathering)
        return beat

    def close(self) -> None:
        """There are no more looks."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _await(self, beat: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = beat
        self._timer = loop.call_at(beat * BEAT, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        beat, now = self._next, loop.time()
        try:
            for gathering in self._due.pop(int(beat)):
                if gathering.at == beat:
                    gathering.look(now)
        finally:  # whatever became of one, the others are looked at
            self._timer, self._next = None, math.inf
            if self._due:
                self._await(min(self._due), loop)


class Gathering:
    """What one connection leaves with the kernel. `due` is called when what there is should be read at once, and told
    whether the kernel will tell of more in a moment. `at` is the beat of the next look, 0 for none."""

    __slots__ = ("_beat", "_delay", "_due", "_file", "_had", "_kept", "_muted", "_since", "_size", "_socket", "at")

    def __init__(self, sock: socket.socket, beat: Beat, due: Callable[[bool], None]) -> None:
        self._beat, self._due = beat, due
        self._file = sock.fileno()
        self._socket = _Borrowed(sock.family, sock.type, sock.proto, self._file)
        self._muted = False
        self._size = self._had = self._kept = self.at = 0
        self._delay = self._since = 0.0

    def wait(self, size: int, kept: int, gap: float, now: float) -> bool:
        """Leave bytes with the kernel until there are `size` of them, beside `kept` ones that were read already.
        `gap`: seconds between two events; `now`: loop time. False where the stream is too slow for that."""
        if not self.at:
            delay = max(EVENTS * gap, BEAT)
            if delay > SLOWEST:
                return False
            self._had, self._since, self._delay = 0, now, delay
            self.at = self._beat.add(self, delay)
        self._size, self._kept = size, kept
        self._mute(True)
        return True

    def cancel(self) -> None:
        """Look no more."""
        self.at = 0

    def stop(self) -> None:
        """What comes is read as it comes."""
        self.at = 0
        self._mute(False)

    def look(self, now: float) -> None:
        """Whether enough came, or no more comes. `now` is loop time."""
        self.at = 0
        try:
            came = int.from_bytes(ioctl(self._file, FIONREAD, _COUNT), byteorder)
        except OSError:
            came = 0
        there, waited = self._kept + came, now - self._since
        if there and waited < PATIENCE and (came < self._size or waited < REST) and (rest := self._rest(came)) > 0:
            self._had = came
            self.at = self._beat.add(self, rest)
            return
        self._mute(False)
        if there:
            self._due(came > 0)

    def _rest(self, came: int) -> float:
        """Seconds after which the stream will be taken to pause, where nothing comes until then; 0 where it does."""
        if not came:
            return 0.0
        with contextlib.suppress(AttributeError, OSError):
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUIET.stop)
            return self._delay - int.from_bytes(info[_QUIET], byteorder) / 1000
        return self._delay if came > self._had else 0.0  # the system does not say

    def _mute(self, muted: bool) -> None:
        if muted is not self._muted:
            self._muted = muted
            with contextlib.suppress(OSError):  # it was closed, or the system knows no such limit: all goes on without
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, MUTED if muted else 1)
