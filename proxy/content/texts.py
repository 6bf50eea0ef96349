"""What was judged of one exchange, gathered while it is judged; masked where the policy masks.

INVARIANT: where a mask rule that is enforced found something, what it found is in no text that is kept: a finding with
a place in the text is replaced there, one without a place takes the whole text and all that was read from the same
place with it, and where such a rule could not be evaluated no text of that look is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifiers.base import Message
from policies.engine import Decision, Mask, everywhere, merge_masks
from policies.model import NUMBER, Stage

if TYPE_CHECKING:
    from ..gate import Question

WITHHELD = "[WITHHELD]"
"""Stands for a text that holds, or may hold, what the policy masks and nobody can place."""
DERIVED = ("#joined", "#thoughts", "#decoded", "#bytes", "#said")
"""How origins end of readings that were derived from other texts."""


@dataclass(slots=True)
class Look:
    """One list of messages that was judged, and what was decided."""

    messages: Sequence[Message]
    decision: Decision


@dataclass(slots=True)
class _Channel:
    """A text of a stream, gathered from the windows in which it was judged. Masks are in characters of all of it."""

    role: str
    pieces: list[str] = field(default_factory=list)
    size: int = 0
    masks: list[tuple[Mask, int]] = field(default_factory=list)
    hidden: bool = False


class Texts:
    """The texts of one exchange. `masking` are the ids of the rules that mask. `size` is how many characters are held,
    `rules` are those that fired, shadows included."""

    def __init__(self, masking: frozenset[str], most: int) -> None:
        """No more than `most` characters are gathered; `over` then says so."""
        self._masking, self._most = masking, most
        self._looks: dict[Stage, list[Look]] = {}
        self._places: dict[Stage, list[tuple[Message, str]]] = {}
        self._channels: dict[str, _Channel] = {}
        self.streams = False
        """The answer is a stream: its texts come by `window`."""
        self.rules: set[str] = set()
        self.size = 0
        self.over = False

    def saw(self, decision: Decision, messages: Sequence[Message], places: Sequence[tuple[Message, str]]) -> None:
        """`messages` were judged, and after them `places`, which are no text."""
        for item in (*decision.fired, *decision.shadow):
            self.rules.add(item.rule)
        if places:
            self._places.setdefault(decision.stage, []).extend(places)
        if not messages or (self.streams and decision.stage is Stage.OUTPUT):
            return
        if self._room(sum([len(message.text) for message in messages])):
            self._looks.setdefault(decision.stage, []).append(Look(messages, decision))

    def window(self, question: Question, decision: Decision) -> None:
        """A part of a streamed answer was judged: each message a text from `starts` on."""
        masks, hidden = self._hiding(question.messages, decision)
        for index, message in enumerate(question.messages):
            start = question.starts[index]
            channel = self._channels.setdefault(message.origin, _Channel(str(message.role)))
            fresh = message.text[channel.size - start :] if start <= channel.size else ""
            channel.hidden = channel.hidden or index in hidden or start > channel.size
            if not self._room(len(fresh)):
                return
            channel.pieces.append(fresh)
            channel.size += len(fresh)
            channel.masks += [
                (Mask(0, max(mask.start + start, 0), mask.end + start, mask.replacement), 0)
                for mask in masks
                if mask.message == index and mask.end + start > 0
            ]

    def plain(self) -> dict[str, Any]:
        """All of it, JSON-able: for each stage `texts` as [role, origin, text] and `places` as [role, origin, kind];
        `masked` where something was."""
        out: dict[str, Any] = {}
        for stage in Stage:
            texts: list[list[str]] = []
            masked = False
            for look in self._looks.get(stage, ()):
                found, changed = self._read(look)
                texts += found
                masked = masked or changed
            if stage is Stage.OUTPUT:
                for origin, channel in self._channels.items():
                    texts.append([channel.role, origin, _told(channel)])
                    masked = masked or channel.hidden or bool(channel.masks)
            places = [[str(message.role), message.origin, kind] for message, kind in self._places.get(stage, ())]
            if texts or places:
                out[str(stage)] = {"texts": texts, "places": places, "masked": masked}
        return out

    def _room(self, characters: int) -> bool:
        """Whether so many more may be held; where not, nothing is held any more."""
        self.size += characters
        if self.size > self._most:
            self.over = True
            self._looks.clear()
            self._channels.clear()
        return not self.over

    def _read(self, look: Look) -> tuple[list[list[str]], bool]:
        """The texts of a look as they are kept, and whether any was changed."""
        masks, hidden = self._hiding(look.messages, look.decision)
        changed = bool(masks or hidden)
        texts: list[list[str]] = []
        for index, message in enumerate(look.messages):
            if changed and message.origin.endswith(DERIVED):
                continue  # it may say again what is masked where it stands
            own = [mask for mask in masks if mask.message == index]
            text = WITHHELD if index in hidden else _masked(message.text, own)
            texts.append([str(message.role), message.origin, text])
        return texts, changed

    def _hiding(self, messages: Sequence[Message], decision: Decision) -> tuple[Sequence[Mask], set[int]]:
        """What is to be masked in `messages`, and the indices of those that are withheld."""
        found = [item for item in decision.fired if item.rule in self._masking]
        if any(item.not_evaluated for item in found):
            return (), set(range(len(messages)))
        if decision.masks:
            return decision.masks, set()
        masks: list[tuple[Mask, int]] = []
        nowhere: set[int] = set()
        for item in found:  # the request was blocked, but for something else or for want of a place
            for finding in item.findings:
                if finding.span is not None:
                    shown = f"[{finding.label.upper()}]"
                    masks += [(Mask(place, *finding.span, shown), 0) for place in finding.places]
                elif finding.message < len(messages):
                    nowhere.update(finding.places)
                else:  # in a reading of a stream's window that is not told apart
                    return (), set(range(len(messages)))
            if not item.findings:
                return (), set(range(len(messages)))
        return merge_masks(everywhere(masks, messages)), _around(messages, nowhere)


def _around(messages: Sequence[Message], nowhere: set[int]) -> set[int]:
    """The messages that stand where these do: the text itself, what it was derived from, and its parts."""
    bases = {messages[index].origin.partition("#")[0] for index in nowhere}
    return {
        index
        for index, message in enumerate(messages)
        if any(f"{message.origin.partition('#')[0]}/".startswith(f"{base}/") for base in bases)
    }


def _masked(text: str, masks: Sequence[Mask]) -> str:
    """`text` with `masks`, which are sorted and do not overlap."""
    out, position = [], 0
    for mask in masks:
        out += [text[position : mask.start], mask.replacement.replace(NUMBER, "#")]
        position = mask.end
    return "".join([*out, text[position:]]) if masks else text


def _told(channel: _Channel) -> str:
    return WITHHELD if channel.hidden else _masked("".join(channel.pieces), merge_masks(channel.masks))
