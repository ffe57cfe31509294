"""All figures of the edge; labels are closed sets, durations in seconds, sizes in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from callboard_contracts.config import Config
from callboard_contracts.jobs import Service
from callboard_contracts.pools import PoolSection
from callboard_edge.domain.holds_ahead import Result as HoldResult
from callboard_edge.domain.spirit_ports import Outcome, Stage
from callboard_edge.domain.waiting_jobs import WaitingJobs
from callboard_edge.domain.webhooks import Outcome as WebhookOutcome
from callboard_edge.domain.workers import Workers

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FIRST_BYTE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LATENESS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2)
SPOKEN_TURN_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30, 60)

REALTIME_LIMITS = ("site", "caller")
TURNS = ("server_vad", "client")
ADMIN_REFUSALS = ("missing", "wrong", "blocked")
MEMORY_USES = ("kept", "none")
HOLD_RESULTS: tuple[HoldResult, ...] = get_args(HoldResult)
STAGES: tuple[Stage, ...] = get_args(Stage)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
WEBHOOK_OUTCOMES: tuple[WebhookOutcome, ...] = get_args(WebhookOutcome)
STAGE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)


class SpiritBoxMetrics:
    """What is counted of the spirit box."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.visitors = Gauge("callboard_edge_spirit_visitors", "Visitors of the spirit box.", registry=registry)
        self.contacts = Counter(
            "callboard_edge_spirit_contacts_total",
            "Questions to the spirit box, by outcome: answered, failed, or replaced by the next one (or left) before "
            "an answer was heard.",
            ("outcome",),
            registry=registry,
        )
        self.stages = Histogram(
            "callboard_edge_spirit_stage_seconds",
            "From the end of a question to its text, to the first token of the answer, and to its first sound.",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        for outcome in OUTCOMES:
            self.contacts.labels(outcome)
        for stage in STAGES:
            self.stages.labels(stage)

    def reached(self, stage: Stage, seconds: float) -> None:
        """Notes how long after the end of a question a stage was reached."""
        self.stages.labels(stage).observe(seconds)

    def ended(self, outcome: Outcome) -> None:
        """Counts a question."""
        self.contacts.labels(outcome).inc()


class OpenStreams:
    """How many streamed answers of one route are being sent; a context that counts one more."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class EdgeMetrics:
    """The edge's metrics, in one registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests = Counter(
            "callboard_edge_requests_total",
            "HTTP requests answered, by route, protocol, mode (stream or whole) and class of status.",
            ("route", "protocol", "mode", "status"),
            registry=registry,
        )
        self.duration = Histogram(
            "callboard_edge_request_duration_seconds",
            "From a request's headers to the last byte of its answer.",
            ("route", "mode"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "callboard_edge_time_to_first_byte_seconds",
            "From a request's headers to the first byte of a streamed answer's content.",
            ("route",),
            buckets=FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        self.open_streams = Gauge(
            "callboard_edge_open_streams", "Streamed answers that are being sent.", ("route",), registry=registry
        )
        self.clients_gone = Counter(
            "callboard_edge_clients_gone_total",
            "Requests whose client went away, or read too slowly, before the end.",
            ("route",),
            registry=registry,
        )
        self.volunteer_pops = Counter(
            "callboard_edge_volunteer_pops_total",
            "Pops of volunteers that were answered, by whether they got a job.",
            ("result",),
            registry=registry,
        )
        self.volunteer_submits = Counter(
            "callboard_edge_volunteer_submits_total",
            "Texts that volunteers submitted, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self.volunteers_online = Gauge(
            "callboard_edge_volunteers_online",
            "Volunteers that have asked for work within five minutes, as each edge knows them.",
            registry=registry,
        )
        self.webhooks = Counter(
            "callboard_edge_webhooks_total",
            "Webhooks, by outcome: delivered, refused by the receiver, forbidden by the site's rules for addresses, "
            "failed at every attempt, without a text (no_text), or expired.",
            ("outcome",),
            registry=registry,
        )
        self.webhooks_waiting = Gauge(
            "callboard_edge_webhooks_waiting",
            "Webhooks in this edge's hands that wait for their texts or for their receivers.",
            registry=registry,
        )
        self.errors = Counter(
            "callboard_edge_errors_total",
            "Requests that ended in an error, by its code, before or in the middle of the answer.",
            ("route", "code"),
            registry=registry,
        )
        self.too_many = Counter(
            "callboard_edge_too_many_requests_total",
            "Answers of status 429, by reason.",
            ("reason",),
            registry=registry,
        )
        self.sent_bytes = Counter(
            "callboard_edge_sent_bytes_total", "Bytes of answers' bodies.", ("route",), registry=registry
        )
        self.admitted_without_quota = Counter(
            "callboard_edge_admitted_without_quota_total",
            "Requests let in without a hold because no quota process answered and the site says so.",
            registry=registry,
        )
        self.holds_ahead = Counter(
            "callboard_edge_holds_ahead_total",
            "Holds that were taken before the request that they are for, by result: used or released.",
            ("result",),
            registry=registry,
        )
        self.dropped_messages = Counter(
            "callboard_edge_dropped_messages_total",
            "Workers' messages that a full inbox dropped; they are read back from the bus.",
            registry=registry,
        )
        self.replays = Counter(
            "callboard_edge_replays_total",
            "Reads from the bus because of a gap, a lost connection or a long silence.",
            registry=registry,
        )
        self.admin_refusals = Counter(
            "callboard_edge_admin_refusals_total",
            "Requests to the admin API without its token, by reason: missing, wrong, or blocked after wrong ones.",
            ("reason",),
            registry=registry,
        )
        self.room_listeners = Gauge(
            "callboard_edge_room_listeners", "Clients that listen to a room's stream.", registry=registry
        )
        self.rooms_mixed = Gauge(
            "callboard_edge_rooms_mixed", "Rooms whose sound is mixed because somebody listens.", registry=registry
        )
        self.room_encoding = Counter(
            "callboard_edge_room_encoding_seconds_total",
            "Processor time spent on encoding room streams.",
            registry=registry,
        )
        self.room_lateness = Histogram(
            "callboard_edge_room_lateness_seconds",
            "How long after its time a frame of the room streams was sent; one observation counts for all rooms.",
            buckets=LATENESS_BUCKETS,
            registry=registry,
        )
        self.room_frames_skipped = Counter(
            "callboard_edge_room_frames_skipped_total",
            "Frames of 24 ms that were never made because the process stood still for longer than is caught up.",
            registry=registry,
        )
        self.room_frames_dropped = Counter(
            "callboard_edge_room_frames_dropped_total",
            "Frames of 24 ms that were left out for listeners that did not read in time.",
            registry=registry,
        )
        self.room_listeners_dropped = Counter(
            "callboard_edge_room_listeners_dropped_total",
            "Listeners that were disconnected because they did not read.",
            registry=registry,
        )
        self.room_underruns = Counter(
            "callboard_edge_room_underruns_total",
            "Silences in the middle of an utterance because its next sound was not there in time.",
            registry=registry,
        )
        self.pool_workers = Gauge(
            "callboard_edge_pool_workers",
            "Workers of a pool that have announced themselves; every edge counts all. *may_sleep* says whether the "
            "pool may be without any.",
            ("service", "pool", "may_sleep"),
            registry=registry,
        )
        self.oldest_job = Gauge(
            "callboard_edge_oldest_job_seconds",
            "How long the oldest request of a pool has waited for its first output; 0 where none waits.",
            ("service", "pool"),
            registry=registry,
        )
        self.characters = Gauge(
            "callboard_edge_characters", "Characters that this edge knows; every edge knows all.", registry=registry
        )
        self.character_requests = Counter(
            "callboard_edge_character_requests_total",
            "Requests to characters, by memory: kept where the request names its speaker, none where it does not.",
            ("memory",),
            registry=registry,
        )
        self.spirit_box = SpiritBoxMetrics(registry)
        self.realtime_sessions = Gauge(
            "callboard_edge_realtime_sessions", "Open sessions of real-time conversation.", registry=registry
        )
        self.realtime_refused = Counter(
            "callboard_edge_realtime_refused_total",
            "Sessions that were refused because too many are open, of the site or of the caller.",
            ("limit",),
            registry=registry,
        )
        self.realtime_transcript = Histogram(
            "callboard_edge_realtime_transcript_seconds",
            "From the end of what somebody said to the text of it, by what ended the turn: *server_vad* or *client*. "
            "With *server_vad* the silence that has to pass first counts too.",
            ("turn",),
            buckets=SPOKEN_TURN_BUCKETS,
            registry=registry,
        )
        self.realtime_first_text = Histogram(
            "callboard_edge_realtime_first_text_seconds",
            "The same to the first text of the answer.",
            ("turn",),
            buckets=SPOKEN_TURN_BUCKETS,
            registry=registry,
        )
        self.realtime_first_audio = Histogram(
            "callboard_edge_realtime_first_audio_seconds",
            "The same to the first sound of the answer.",
            ("turn",),
            buckets=SPOKEN_TURN_BUCKETS,
            registry=registry,
        )
        self.realtime_interruptions = Counter(
            "callboard_edge_realtime_interruptions_total",
            "Answers that were stopped because somebody spoke into them.",
            registry=registry,
        )
        for limit in REALTIME_LIMITS:
            self.realtime_refused.labels(limit)
        for turn in TURNS:
            self.realtime_transcript.labels(turn)
            self.realtime_first_text.labels(turn)
            self.realtime_first_audio.labels(turn)
        for outcome in WEBHOOK_OUTCOMES:
            self.webhooks.labels(outcome)
        self._holds_ahead = {result: self.holds_ahead.labels(result) for result in HOLD_RESULTS}
        for reason in ADMIN_REFUSALS:
            self.admin_refusals.labels(reason)
        for memory in MEMORY_USES:
            self.character_requests.labels(memory)
        self._answered: dict[tuple[str, str, str, str], _Answered] = {}
        self._streaming: dict[str, OpenStreams] = {}

    def answered(self, route: str, protocol: str, mode: str, status: str) -> "_Answered":
        """The figures of one kind of answer, looked up once, because every request needs them."""
        key = (route, protocol, mode, status)
        found = self._answered.get(key)
        if found is None:
            found = self._answered[key] = _Answered(
                requests=self.requests.labels(*key),
                duration=self.duration.labels(route, mode),
                first_byte=self.first_byte.labels(route),
                sent_bytes=self.sent_bytes.labels(route),
            )
        return found

    def streaming(self, route: str) -> OpenStreams:
        """The context in which a streamed answer of a route is sent."""
        found = self._streaming.get(route)
        if found is None:
            found = self._streaming[route] = OpenStreams()
            self.open_streams.labels(route).set_function(lambda: found.count)
        return found

    def hold_ahead_ended(self, result: HoldResult) -> None:
        """Counts a hold that was taken ahead."""
        self._holds_ahead[result].inc()

    def webhook_ended(self, outcome: WebhookOutcome) -> None:
        """Counts a webhook that is done with."""
        self.webhooks.labels(outcome).inc()

    def character_request(self, memory: str) -> None:
        """Counts a request to a character."""
        self.character_requests.labels(memory).inc()

    def watch_pools(self, config: Config, workers: Workers, waiting: WaitingJobs) -> None:
        """Shows for each pool of the configuration what is known of it at the moment."""
        pools: dict[Service, Mapping[str, PoolSection]]
        pools = {"chat": config.chat.pools, "tts": config.tts.pools, "stt": config.stt.pools}
        for service, sections in pools.items():
            for pool, section in sections.items():
                may_sleep = str(section.may_sleep).lower()
                count = partial(workers.count, service, pool)
                self.pool_workers.labels(service, pool, may_sleep).set_function(count)
                self.oldest_job.labels(service, pool).set_function(partial(waiting.oldest_s, service, pool))


@dataclass(frozen=True, slots=True)
class _Answered:
    requests: Counter
    duration: Histogram
    first_byte: Histogram
    sent_bytes: Counter
