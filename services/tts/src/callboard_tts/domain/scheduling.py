"""Decides which utterance's next piece an engine lane speaks: the one whose listener runs dry first.

The earliest latest start is first: the moment when a listener has heard all, less the time that the next piece takes.
What is due already is shared fairly between tenants by start-time fair queueing, so that a tenant's own utterances
compete with each other first. Every due time is fixed when the piece is asked for, so each piece's turn comes.

The clock's times are given to each call.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BATCH_PATIENCE_S = 30.0
"""How much later than a live one a piece is due for which nobody listens."""
NEAR_DRY_SHARE = 0.5
"""With less than this share of the bound ahead, a listener counts as nearly dry."""
UNKNOWN_REST_S = 30.0
"""How much sound is expected of a text that still arrives."""
HORIZONS_S = (10.0, 20.0, 40.0)
"""The times within which all that listeners need then must be spoken, for one more utterance to be admitted."""
MIN_RETRY_S = 1.0
START_MARGIN = 1.5
"""By how much more than one round of pieces takes a listener's start is delayed while others need the engine."""
UNKNOWN_PIECE_S = 5.0
"""How long the next piece of a text that still arrives is expected to be."""
_DECAY = 0.8


@dataclass(eq=False, slots=True)
class Playback:
    """One utterance in work, and how far its sound is ahead of its listener; lengths are seconds of sound.

    `rest_s` is what is still to be spoken, as far as it is known; `is_whole` says that it is known to the end.
    """

    tenant: str
    is_batch: bool = False
    rest_s: float = 0.0
    is_whole: bool = False
    piece_s: float = 0.0
    """How long the piece is expected to be that is spoken or asked for."""
    begun: bool = False
    """Whether it has a first sound."""
    dry_at: float = 0.0
    """When its listener has heard all that was made."""

    def expect(self, sound_s: float, *, is_last: bool) -> None:
        """Takes note of pieces that are to be spoken; the estimate of a whole text gives way to its pieces."""
        known_s = 0.0 if self.is_whole else self.rest_s
        self.rest_s, self.is_whole = known_s + sound_s, is_last

    def made(self, sound_s: float, now: float) -> None:
        """Takes note of sound that goes to the listener."""
        self.dry_at = max(self.dry_at, now) + sound_s
        self.begun = self.begun or sound_s > 0

    def ahead_s(self, now: float) -> float:
        """How much of its sound was not heard yet."""
        return max(0.0, self.dry_at - now) if self.begun else 0.0

    def needed_s(self, within_s: float, now: float) -> float:
        """How much sound is to be made for its listener within a time."""
        rest_s = self.rest_s if self.is_whole else max(self.rest_s, UNKNOWN_REST_S)
        return min(rest_s, max(0.0, within_s - self.ahead_s(now)))


class RealTimeFactor:
    """The engine's time for a second of sound, smoothed over the last pieces; None before the first."""

    def __init__(self) -> None:
        self._working_s = 0.0
        self._sound_s = 0.0

    @property
    def value(self) -> float | None:
        """The factor of one lane."""
        return self._working_s / self._sound_s if self._sound_s > 0 else None

    def add(self, working_s: float, sound_s: float) -> None:
        """Takes in one piece; longer ones weigh more."""
        self._working_s = self._working_s * _DECAY + working_s
        self._sound_s = self._sound_s * _DECAY + sound_s


@dataclass(slots=True)
class _Request:
    playback: Playback
    piece_s: float
    asked_at: float

    def due_at(self) -> float:
        begun_at = max(self.playback.dry_at, self.asked_at) if self.playback.begun else self.asked_at
        return begun_at + (BATCH_PATIENCE_S if self.playback.is_batch else 0.0)


@dataclass(slots=True)
class PieceScheduler:
    """The lanes of one engine, and who waits for them."""

    lanes: int
    ahead_s: float
    factor: RealTimeFactor = field(default_factory=RealTimeFactor)
    _playbacks: set[Playback] = field(default_factory=set[Playback])
    _waiting: dict[Playback, _Request] = field(default_factory=dict[Playback, _Request])
    _speaking: set[Playback] = field(default_factory=set[Playback])
    _virtual_time: float = 0.0
    _tenant_ends: dict[str, float] = field(default_factory=dict[str, float])
    """Where in virtual time each tenant's share ends that was given out."""

    def shortage_s(self, playback: Playback, now: float) -> float:
        """By how many seconds the lanes would lag behind what all live listeners need, with one more; 0 for none.

        One alone is never short, since nobody else is harmed. Nor is a tenant within its share, since pieces are shared
        fairly between tenants: whoever takes more than a share is the one who lags.
        """
        others = self._live_others(playback)
        lag_s = self._lag_s([*others, playback], 1.0, now)
        if not others or lag_s <= 0 or self.within_share(playback, now):
            return 0.0
        return max(MIN_RETRY_S, lag_s)

    def within_share(self, playback: Playback, now: float) -> bool:
        """Whether a tenant with one more utterance takes no more of the lanes than the others leave it in fairness."""
        others = self._live_others(playback)
        own = [playback, *(one for one in others if one.tenant == playback.tenant)]
        tenants = {playback.tenant, *(one.tenant for one in others)}
        return len(tenants) > 1 and self._lag_s(own, 1 / len(tenants), now) <= 0

    def speaks_for(self, tenant: str) -> bool:
        """Whether a tenant has an utterance in work."""
        return any(one.tenant == tenant for one in self._playbacks)

    def _live_others(self, playback: Playback) -> list[Playback]:
        return [one for one in self._playbacks if not one.is_batch and one is not playback]

    def _lag_s(self, playbacks: Sequence[Playback], share: float, now: float) -> float:
        """By how many seconds a share of the lanes lags behind what these listeners need, at worst."""
        factor = (self.factor.value or 0.0) / self.lanes
        return max(
            sum(one.needed_s(within_s, now) for one in playbacks) * factor - within_s * share for within_s in HORIZONS_S
        )

    def start_delay_s(self, playback: Playback, made_s: float, next_s: float) -> float:
        """How much later a listener starts who has `made_s` of sound, so as not to run dry before the next piece.

        Alone nobody waits. Beside others who are spoken to, the next piece comes after one of each of theirs.
        """
        others = [one for one in self._playbacks if self._needs_engine(one) and one is not playback]
        if not others or playback.is_batch:
            return 0.0
        round_s = sum(one.piece_s for one in others) + next_s
        return max(0.0, START_MARGIN * round_s * (self.factor.value or 0.0) / self.lanes - made_s)

    def enter(self, playback: Playback) -> None:
        """Takes an utterance into work."""
        self._playbacks.add(playback)

    def leave(self, playback: Playback) -> None:
        """Forgets an utterance, which has no lane any more."""
        self._playbacks.discard(playback)
        self._waiting.pop(playback, None)

    def ask(self, playback: Playback, piece_s: float, now: float) -> None:
        """Asks for a lane for an utterance's next piece, which is expected to be so long."""
        playback.piece_s = piece_s
        self._waiting[playback] = _Request(playback, piece_s, now)

    def withdraw(self, playback: Playback) -> None:
        """Asks no more."""
        self._waiting.pop(playback, None)

    def release(self, playback: Playback) -> None:
        """Gives a lane back."""
        self._speaking.discard(playback)

    def grant(self, now: float) -> Playback | None:
        """Gives a free lane to the utterance that is next; None where there is no lane, or nobody may have it now."""
        if len(self._speaking) >= self.lanes:
            return None
        eligible = [request for request in self._waiting.values() if self._is_eligible(request.playback, now)]
        if not eligible:
            return None
        due = [request for request in eligible if self._latest_start(request) <= now]
        chosen = min(due, key=self._fair_order) if due else min(eligible, key=self._latest_start)
        self._charge(chosen)
        del self._waiting[chosen.playback]
        self._speaking.add(chosen.playback)
        return chosen.playback

    def next_check_s(self, now: float) -> float | None:
        """After how long somebody who waits for a free lane may have it; None where only others' work can tell."""
        if len(self._speaking) >= self.lanes or not self._waiting:
            return None
        return max(0.0, min(playback.ahead_s(now) for playback in self._waiting) - self.ahead_s)

    def _is_eligible(self, playback: Playback, now: float) -> bool:
        """Whether an utterance is not so far ahead that its lane is better kept for those who may need it soon."""
        if playback.ahead_s(now) <= self.ahead_s:
            return True
        near_dry_s = self.ahead_s * NEAR_DRY_SHARE
        others: Iterable[Playback] = (*self._waiting, *self._speaking)
        return all(one is playback or one.is_batch or one.ahead_s(now) >= near_dry_s for one in others)

    def _needs_engine(self, playback: Playback) -> bool:
        return not playback.is_batch and (playback in self._waiting or playback in self._speaking)

    def _latest_start(self, request: _Request) -> float:
        working_s = request.piece_s * (self.factor.value or 0.0) if request.playback.begun else 0.0
        return request.due_at() - working_s

    def _fair_order(self, request: _Request) -> tuple[float, float]:
        return self._share_begins(request), self._latest_start(request)

    def _share_begins(self, request: _Request) -> float:
        return max(self._virtual_time, self._tenant_ends.get(request.playback.tenant, 0.0))

    def _charge(self, request: _Request) -> None:
        begins = self._share_begins(request)
        self._virtual_time = begins
        self._tenant_ends = {tenant: end for tenant, end in self._tenant_ends.items() if end > begins}
        self._tenant_ends[request.playback.tenant] = begins + request.piece_s
