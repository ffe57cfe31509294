"""What a room's listeners hear at each moment: its utterances one after the other, by the clock.

The rule is the same wherever it is applied: an utterance is heard as soon as its sound is there and the one before it
is over, with a pause between. So two edges that play one room, or one that begins in the middle and plays what the bus
has kept up to now, arrive at the same place.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from callboard_contracts.speech import BYTES_PER_MS, BYTES_PER_SAMPLE, AudioSegment, UtteranceStart
from callboard_edge.domain.reorder import SpeechReorderBuffer

BYTES_PER_S = 1000 * BYTES_PER_MS
LOW_BYTES = 5 * BYTES_PER_S
"""With less than this ahead, an utterance that was not taken whole is read on from the bus."""
STALL_TIMEOUT_S = 30.0
"""How long an utterance that has begun to arrive may bring nothing, while it is its turn, before it counts as over."""
GAP_TIMEOUT_S = 3.0
"""How long listeners wait for a segment that the bus no longer has, while later ones are there."""
FIRST_CHECK_S = 2.0
LAST_CHECK_S = 8.0
"""How long a silent utterance is waited for before the bus is asked whether something was missed: at first, at most."""
RETRY_PAUSE_S = 0.25
PREPARED = 2
"""How many utterances are kept ready to be heard: the one whose turn it is, and the next."""
MAX_HEARD = 1024
"""How many utterances are remembered as heard, so that none is heard again when the bus is read again."""
MAX_UTTERANCES = 256


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """One message of a room's sound, and when it came, in Unix seconds: an announcement or a segment."""

    utterance: str
    at: float
    content: UtteranceStart | AudioSegment


@dataclass(frozen=True, slots=True)
class Speaking:
    """Who is heard."""

    number: int
    speaker: str


@dataclass(frozen=True, slots=True)
class WantedSegments:
    """What must be read from the bus: the segments of an utterance from a number on."""

    utterance: str
    from_n: int


@dataclass(slots=True)
class _Utterance:
    name: str
    start: UtteranceStart
    order: SpeechReorderBuffer = field(default_factory=SpeechReorderBuffer)
    sound: deque[tuple[int, bytes]] = field(default_factory=deque[tuple[int, bytes]])
    """The sound that was not heard yet, by the numbers of its segments."""
    buffered_bytes: int = 0
    heard: bool = False
    arrived_at: float | None = None
    silent_since: float | None = None
    newest_n: int = -1
    lost: bool = False
    retry_at: float = 0.0
    check_at: float = 0.0
    check_s: float = FIRST_CHECK_S

    @property
    def behind(self) -> bool:
        """Whether the bus has, or may have, more of it."""
        return not self.order.ended and (self.lost or self.newest_n >= self.order.next_n)

    def gives_up_at(self) -> float:
        """Until when its next sound is waited for."""
        if self.arrived_at is None:
            return self.start.expires_at
        return max(self.arrived_at, self.silent_since or 0.0) + STALL_TIMEOUT_S

    def feed(self, segment: AudioSegment) -> int:
        """Takes a segment and returns by how many bytes there is more to hear."""
        added = 0
        for piece in self.order.feed((segment,)):
            whole = len(piece.pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
            if whole:
                self.sound.append((piece.n, piece.pcm[:whole]))
                added += whole
        self.buffered_bytes += added
        return added


class RoomPlayout:
    """Takes what a room says and hands it out by the clock.

    It holds at most `max_buffered_bytes` of sound that came by itself; what does not fit is read from the bus when its
    time comes, as `wanted` says. `now` is always in Unix seconds and never goes back.
    """

    def __init__(self, pause_s: float, max_buffered_bytes: int) -> None:
        self.speaking: Speaking | None = None
        self.starts_lost = False
        """Whether an announcement may have been missed, so that those on the bus must be read again."""
        self.underruns = 0
        """How often an utterance that had begun ran out of sound before its end."""
        self._pause_bytes = int(pause_s * 1000) * BYTES_PER_MS
        self._pause_left_bytes = 0
        self._max_buffered_bytes = max_buffered_bytes
        self._buffered_bytes = 0
        self._utterances: dict[str, _Utterance] = {}
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._unknown: set[str] = set()
        self._played_until: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody speaks, and nobody has just spoken."""
        return self.speaking is None and not self._pause_left_bytes

    @property
    def buffered_bytes(self) -> int:
        """How much sound is held."""
        return self._buffered_bytes

    def take(self, event: RoomEvent) -> None:
        """Takes what has just come; sound that does not fit, or comes before its turn, is left on the bus."""
        content = event.content
        if isinstance(content, UtteranceStart):
            self._announce(event.utterance, content, lost=event.utterance in self._unknown)
            return
        utterance = self._utterances.get(event.utterance)
        if utterance is None:
            if event.utterance not in self._heard and len(self._unknown) < MAX_UTTERANCES:
                self._unknown.add(event.utterance)
                self.starts_lost = True
            return
        utterance.arrived_at = event.at
        utterance.newest_n = max(utterance.newest_n, content.n)
        fits = self._buffered_bytes + len(content.pcm) <= self._max_buffered_bytes
        if content.n <= utterance.order.next_n and fits:
            self._buffered_bytes += utterance.feed(content)

    def take_read(self, wanted: WantedSegments, segments: Iterable[AudioSegment], now: float) -> None:
        """Takes what the bus had of the segments that were wanted, possibly nothing."""
        utterance = self._utterances.get(wanted.utterance)
        if utterance is None:
            return
        found = list(segments)
        before = utterance.order.next_n
        silent_s = now - (utterance.silent_since or now)
        if found and utterance.order.next_n < min(segment.n for segment in found) and silent_s > GAP_TIMEOUT_S:
            utterance.order = SpeechReorderBuffer(min(segment.n for segment in found))
        for segment in found:
            self._buffered_bytes += utterance.feed(segment)
            utterance.newest_n = max(utterance.newest_n, segment.n)
        if utterance.order.next_n > before:
            utterance.arrived_at = now
        else:
            utterance.lost = False
            utterance.retry_at = now + RETRY_PAUSE_S
            utterance.check_s = min(LAST_CHECK_S, 2 * utterance.check_s)
            utterance.check_at = now + utterance.check_s

    def take_starts(self, events: Iterable[RoomEvent]) -> None:
        """Takes every announcement that the bus has; utterances without one are never heard."""
        for event in events:
            if isinstance(event.content, UtteranceStart):
                self._announce(event.utterance, event.content, lost=True)
        self.starts_lost = False
        for name in self._unknown:
            self._remember(name)
        self._unknown.clear()

    def mark_lost(self) -> None:
        """Notes that messages may have passed unseen."""
        self.starts_lost = True
        for utterance in self._utterances.values():
            utterance.lost = True

    def wanted(self, now: float) -> WantedSegments | None:
        """What must be read from the bus now."""
        for utterance in self._in_turn()[:PREPARED]:
            order = utterance.order
            if order.ended or utterance.buffered_bytes >= LOW_BYTES:
                continue
            if utterance.behind and now >= utterance.retry_at:
                return WantedSegments(utterance.name, order.next_n)
            if utterance.silent_since is not None and now >= utterance.check_at:
                return WantedSegments(utterance.name, order.next_n)
        return None

    def read(self, size: int, now: float) -> bytes:
        """The next so many bytes of sound, which are heard from `now` on; silence where nobody speaks."""
        return b"".join(bytes(part) if isinstance(part, int) else part for part in self._parts(size, now))

    def play_until(self, now: float) -> None:
        """Leaves out what was to be heard up to a time, as if it had been read; the first call sets the beginning."""
        if self._played_until is not None and now > self._played_until:
            size = _bytes_in(now - self._played_until)
            for _part in self._parts(size, self._played_until):
                pass
        self._played_until = now if self._played_until is None else max(now, self._played_until)

    def limit(self, max_buffered_bytes: int) -> None:
        """Sets the limit; what is held over it goes, latest first, and is read from the bus when its time comes."""
        self._max_buffered_bytes = max_buffered_bytes
        for utterance in reversed(self._in_turn()):
            while self._buffered_bytes > max_buffered_bytes and len(utterance.sound) > utterance.heard:
                n, pcm = utterance.sound.pop()
                utterance.order = SpeechReorderBuffer(n)
                utterance.lost = True
                utterance.buffered_bytes -= len(pcm)
                self._buffered_bytes -= len(pcm)

    def _announce(self, name: str, start: UtteranceStart, *, lost: bool) -> None:
        if name in self._utterances or name in self._heard or len(self._utterances) >= MAX_UTTERANCES:
            return
        self._utterances[name] = _Utterance(name, start, lost=lost)
        self._unknown.discard(name)

    def _in_turn(self) -> list[_Utterance]:
        return sorted(self._utterances.values(), key=_turn)

    def _parts(self, size: int, now: float) -> Iterator[bytes | int]:
        """So many bytes, as sound or as the length of a silence."""
        while size > 0:
            part = self._next_part(size, now)
            length = part if isinstance(part, int) else len(part)
            yield part
            size -= length
            now += length / BYTES_PER_S

    def _next_part(self, most: int, now: float) -> bytes | int:
        while True:
            if self._pause_left_bytes:
                silence = min(most, self._pause_left_bytes)
                self._pause_left_bytes -= silence
                return silence
            utterance = min(self._utterances.values(), key=_turn, default=None)
            if utterance is None:
                return most
            if utterance.sound:
                return self._sound(utterance, most)
            if utterance.order.ended or now >= utterance.gives_up_at():
                self._end(utterance)
                continue
            if utterance.silent_since is None:
                utterance.silent_since = now
                utterance.check_s = FIRST_CHECK_S
                utterance.check_at = now + FIRST_CHECK_S
                self.underruns += utterance.heard
            return min(most, max(BYTES_PER_SAMPLE, _bytes_in(utterance.gives_up_at() - now)))

    def _sound(self, utterance: _Utterance, most: int) -> bytes:
        n, pcm = utterance.sound.popleft()
        if len(pcm) > most:
            utterance.sound.appendleft((n, pcm[most:]))
            pcm = pcm[:most]
        utterance.buffered_bytes -= len(pcm)
        self._buffered_bytes -= len(pcm)
        utterance.silent_since = None
        if not utterance.heard:
            utterance.heard = True
            self.speaking = Speaking(utterance.start.number, utterance.start.speaker)
        return pcm

    def _end(self, utterance: _Utterance) -> None:
        del self._utterances[utterance.name]
        self._buffered_bytes -= utterance.buffered_bytes
        self._remember(utterance.name)
        if utterance.heard:
            self.speaking = None
            self._pause_left_bytes = self._pause_bytes

    def _remember(self, name: str) -> None:
        self._heard[name] = None
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)


def _turn(utterance: _Utterance) -> tuple[bool, int]:
    """Sorts utterances: the one that has begun to be heard is never interrupted."""
    return not utterance.heard, utterance.start.number


def _bytes_in(seconds: float) -> int:
    """The length of so much sound, in whole samples."""
    return max(0, int(seconds * BYTES_PER_S)) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
