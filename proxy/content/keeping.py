"""The proxy's face of kept content: which exchanges are kept, a bounded queue, and the thread that writes.

INVARIANT: the event loop never waits for it. The queue is bounded in exchanges and in characters; what it does not
take, what is too large, and what could not be written before the end is counted in `lost` by its reason.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from policies.facts import Account
from policies.model import Action
from policies.ready import PolicySet

from ..audit.steady import Steady
from ..logs import get_logger
from .seal import ContentUnavailable
from .stated import told
from .texts import Texts
from .vault import Item, Vault

if TYPE_CHECKING:
    from ..dialects.base import Request
    from .choice import Choice

log = get_logger("penstock.content")

MOST, MOST_CHARACTERS = 4096, 32 << 20
"""Exchanges that wait at most, and the characters of all their texts."""
LARGEST = 4 << 20
"""Characters of one exchange that is kept."""
BATCH = 256
"""Most exchanges in one commit."""
GATHER = 0.25
"""Seconds that the first waits for others."""
TIDY = 60.0
"""Seconds between two looks for what has expired."""
MOST_SETS = 64
"""Policy sets whose marks are remembered."""
BACKOFF = (0.5, 10.0)
"""Seconds before the first and between the later attempts on a failing disk."""


class Kept(Texts):
    """What may be kept of one exchange: `ended` says whether it is."""

    def __init__(self, keeping: Keeping, id: str, marks: Marks, account: Account, drawn: bool) -> None:
        super().__init__(marks.masking, LARGEST)
        self.id, self._keeping, self._marks, self._drawn = id, keeping, marks, drawn
        self._account, self._dialect = account, ""
        self.request: Request | None = None
        """What was asked, where it is one request: its facts are kept, too."""

    @property
    def wanted(self) -> bool:
        """Whether it is to be kept, as far as it went."""
        return self._drawn or self._keeping.choice.fits(self.rules, self._marks.keeping)

    def ended(self, facts: dict[str, Any]) -> str:
        """ "kept" where it is on its way into the store, "lost" where it should be, and nothing where it is not to be.
        `facts` are those of the record: they name the subjects."""
        if not self.wanted:
            return ""
        if not self.size and not self.over:
            return ""  # nothing was judged
        self._dialect = facts["dialect"]
        subjects = (facts["account"], *facts.get("claims", {}).values())
        return "kept" if self._keeping.take(self, tuple(dict.fromkeys(subjects))) else "lost"

    def plain(self) -> dict[str, Any]:
        """As `Texts.plain`, and `facts` where they are known."""
        content = super().plain()
        if self.request is not None:
            content["facts"] = told(self.request, self._dialect, self._account)
        return content


_Waiting = tuple[Kept, float, tuple[str, ...]]
"""What waits to be written, when it ended, and its subjects."""


class Marks:
    """The ids of the rules of a policy set that mask, and of those that say `keep: content`."""

    def __init__(self, policies: PolicySet) -> None:
        rules = policies.rules
        self.masking = frozenset(rule.id for rule in rules if rule.action is Action.MASK)
        self.keeping = frozenset(rule.id for rule in rules if rule.keep is not None)


class Keeping:
    """`kept` counts what was written, `lost` the rest by reason: full, large, unwritable. `fault` says why nothing can
    be written at the moment. Counters may be read anywhere, the rest belongs to the event loop."""

    def __init__(
        self,
        vault: Vault,
        choice: Choice,
        keep: float,
        hear: Callable[[ContentUnavailable | None], object] | None = None,
        last: float = 0.0,
    ) -> None:
        """`keep` is how many seconds content is kept. The vault belongs to this from now on, and is closed at the
        end. `hear` is told, in the thread that writes, when that begins to fail, and (None) when it is well again.
        `last` is when something was written there last, where that is known (unix seconds)."""
        self.choice, self._vault, self._keep, self._clock = choice, vault, keep, Steady(last)
        vault.follow(self._clock.now)
        self._told = hear or (lambda error: None)
        self._marks: dict[str, Marks] = {}
        self._queue: deque[_Waiting] = deque()
        self._taken = self._left = 0  # characters that came into the queue, and (the thread's count) that left it
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="content", daemon=True)
        self.kept = 0
        self.lost: Counter[str] = Counter(full=0, large=0, unwritable=0)
        self.fault = ""

    def start(self) -> None:
        self._thread.start()

    def begin(self, id: str, policies: PolicySet, account: Account) -> Kept | None:
        """What gathers the texts of the exchange `id` of `account`, where it may have to be kept."""
        drawn = self.choice.drawn(id)
        marks = self._marks.get(policies.digest)
        if marks is None:
            if len(self._marks) >= MOST_SETS:
                self._marks.clear()  # after many reloads
            marks = self._marks[policies.digest] = Marks(policies)
        return Kept(self, id, marks, account, drawn) if drawn or self.choice.fired or marks.keeping else None

    def take(self, kept: Kept, subjects: tuple[str, ...]) -> bool:
        """Whether the queue took it."""
        if kept.over:
            self.lost["large"] += 1
            return False
        waiting = self._taken - self._left
        if len(self._queue) >= MOST or waiting + kept.size > MOST_CHARACTERS or self._end.is_set():
            self.lost["full"] += 1
            return False
        self._taken += kept.size
        self._queue.append((kept, self._clock.now(), subjects))
        if not self._wake.is_set():
            self._wake.set()
        return True

    @property
    def used(self) -> float:
        """How much of the queue's room is taken, 0 to 1."""
        return max(len(self._queue) / MOST, (self._taken - self._left) / MOST_CHARACTERS)

    def close(self, within: float = 5.0) -> None:
        """Write what waits, for at most so many seconds. Blocks."""
        self._end.set()
        self._wake.set()
        self._thread.join(within)
        if left := len(self._queue):
            self.lost["unwritable"] += left
            log.error("content could not be written before the end", exchanges=left, problem=self.fault)

    # ---- the thread

    def _run(self) -> None:
        tidied, pause = 0.0, BACKOFF[0]
        while True:
            self._wake.wait(TIDY)
            ending = self._end.wait(GATHER)
            self._wake.clear()
            try:
                while self._queue:
                    self._write()
                if time.monotonic() - tidied > TIDY or not tidied:
                    self._tidy()
                    tidied = time.monotonic()
            except ContentUnavailable as error:
                if not self.fault:
                    self._told(error)
                self.fault = str(error)
                if ending:
                    break
                self._end.wait(pause)
                pause = min(2 * pause, BACKOFF[1])
                self._wake.set()
                continue
            if self.fault and not ending and not self._vault.has_room():
                self._end.wait(pause)  # it is looked at again, though nothing comes
                self._wake.set()
                continue
            if self.fault:
                self._told(None)
            self.fault, pause = "", BACKOFF[0]
            if ending:
                break
        self._vault.close()

    def _tidy(self) -> None:
        """Let go of what is too old. Raises ContentUnavailable."""
        try:
            while not self._vault.expire(self._clock.now() - self._keep):
                pass
        except ContentUnavailable:
            raise
        except Exception as error:  # of a damaged row, say: it must not end the thread
            log.exception("content that is too old was not removed")
            raise ContentUnavailable(f"what is too old stays: {type(error).__name__}", "the log has more") from None

    def _write(self) -> None:
        """The next batch, which leaves the queue once it is written."""
        batch = [self._queue[place] for place in range(min(BATCH, len(self._queue)))]
        self.kept += self._put(batch)
        for _ in batch:
            kept, _, _ = self._queue.popleft()
            self._left += kept.size

    def _put(self, batch: Sequence[_Waiting]) -> int:
        """How many were written. Raises ContentUnavailable where none could be."""
        try:
            self._vault.write([Item(kept.id, at, subjects, kept.plain()) for kept, at, subjects in batch])
            return len(batch)
        except ContentUnavailable:
            raise
        except Exception as error:  # a text that is no text, say: it must not keep the others
            if len(batch) == 1:
                id = batch[0][0].id
                log.error("content of a decision cannot be kept", decision=id, problem=type(error).__name__)
                self.lost["unwritable"] += 1
                return 0
        return sum(self._put([one]) for one in batch)
