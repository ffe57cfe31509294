"""Puts together what the protocols are given."""

from collections.abc import Callable

from callboard_contracts.config import Config
from callboard_edge.domain.administration import Administration
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import (
    chat_catalogue,
    embedding_catalogue,
    recognition_catalogue,
    speech_catalogue,
)
from callboard_edge.domain.character_admission import CharacterAdmission
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.dialogues import Dialogues
from callboard_edge.domain.holds_ahead import HoldsAhead
from callboard_edge.domain.job_groups import JobGroups
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.offers import Offer, Offers
from callboard_edge.domain.ports import ResultStore
from callboard_edge.domain.room_turns import RoomTurns
from callboard_edge.domain.running_replies import FollowedReplies
from callboard_edge.domain.saved_slots import SavedSlots
from callboard_edge.domain.spirit_box import SpiritBox
from callboard_edge.domain.spirit_ports import Sounds
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.volunteer_jobs import VolunteerJobs, VolunteerWorkers
from callboard_edge.domain.volunteer_models import VolunteerCatalogue, volunteer_pools
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.webhooks import WebhookCaller, WebhookQueue, Webhooks
from callboard_edge.domain.workers import Workers
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.embedding_responder import EmbeddingResponder
from callboard_edge.http.live_sessions import LiveSessions
from callboard_edge.http.narrated_responder import NarratedResponder
from callboard_edge.http.room_recording import RoomRecordingResponder
from callboard_edge.http.room_stream import RoomStreamResponder
from callboard_edge.http.speech_responder import SpeechResponder
from callboard_edge.http.text_responder import TextResponder
from callboard_edge.http.transcription_responder import TranscriptionResponder
from callboard_edge.media import spirit_sounds
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.settings import edge_settings


def edge_context(
    config: Config,
    deps: Dependencies,
    results: ResultStore,
    workers: Workers,
    encoders: EncoderPool,
    streams: RoomStreams,
    metrics: EdgeMetrics,
    ready: Callable[[], str | None],
    admin: Administration | None = None,
    *,
    holds_ahead: HoldsAhead | None = None,
    running: FollowedReplies | None = None,
    characters: Characters | None = None,
    saved_slots: SavedSlots | None = None,
    volunteers: Volunteers | None = None,
    volunteer_workers: VolunteerWorkers | None = None,
    webhook_queue: WebhookQueue | None = None,
    webhook_caller: WebhookCaller | None = None,
) -> EdgeContext:
    """Puts together what the protocols are given; `running` is made where this edge is the only one.

    Without `volunteers` and the `volunteer_workers` that hold their jobs the site takes none, and it calls no webhooks
    without their queue and a caller.
    """
    settings = edge_settings(config, deps.jobs.max_request_bytes)
    characters = Characters() if characters is None else characters
    kept = KeptJobs(deps, results)
    parts = deps, workers, kept, config.edge.request_timeout_s, config.chat.hold_slice_tokens
    room_turns = RoomTurns(Admission(*parts), config.tts.hold_slice_ms)
    admission = CharacterAdmission(*parts, turns=room_turns, count=metrics.character_request)
    pools = volunteer_pools(config.chat)
    offer = Offer(
        VolunteerCatalogue(chat_catalogue(config.chat), config.chat, workers),
        speech_catalogue(config.tts, characters),
        embedding_catalogue(config.chat),
        recognition_catalogue(config.stt),
    )

    async def tier_of(caller: Caller) -> str:
        # Where quota is away and the site admits all, a caller counts as one without a key.
        return (await admission.identify(caller)).tier or config.quota.anonymous_tier

    text = TextResponder(admission, workers, metrics)
    offers = Offers(offer, config.quota.tiers, tier_of, characters, workers)
    return EdgeContext(
        settings=settings,
        chat_models=offer.chat_models,
        embedding_models=offer.embedding_models,
        speech_models=offer.speech_models,
        recognition_models=offer.recognition_models,
        offers=offers,
        characters=characters,
        workers=workers,
        admission=admission,
        text=text,
        embeddings=EmbeddingResponder(admission, workers),
        speech=SpeechResponder(admission, encoders, metrics, settings),
        narrated=NarratedResponder(text, admission, encoders, metrics, settings),
        transcriptions=TranscriptionResponder(admission, workers, metrics, config.stt),
        live_sessions=LiveSessions(config.realtime, metrics),
        rooms=deps.rooms,
        room_reader=deps.room_reader,
        inquiry=deps.inquiry,
        room_turns=room_turns,
        room_streams=RoomStreamResponder(streams, deps.room_reader, config.room_stream, metrics),
        room_recordings=RoomRecordingResponder(streams.source, deps.room_reader, encoders, config),
        metrics=metrics,
        running=running or FollowedReplies(),
        dialogues=Dialogues(results, deps.background, deps.jobs.max_request_bytes, deps.now),
        groups=JobGroups(kept, results, deps.background),
        ready=ready,
        admin=admin,
        holds_ahead=holds_ahead,
        saved_slots=saved_slots,
        spirit_box=spirit_box(config, admission, offers, workers, encoders, metrics),
        volunteers=volunteers or Volunteers(None, deps.now),
        volunteer_jobs=None
        if volunteer_workers is None or not pools
        else VolunteerJobs(volunteer_workers, workers, pools, lambda: ready() is not None),
        webhooks=None
        if webhook_queue is None or webhook_caller is None
        else Webhooks(config.horde.webhooks, webhook_queue, webhook_caller, kept, results, metrics.webhook_ended),
    )


def spirit_box(
    config: Config,
    admission: Admission,
    offers: Offers,
    workers: Workers,
    encoders: EncoderPool,
    metrics: EdgeMetrics,
) -> SpiritBox | None:
    """The site's spirit box, or None where it has none."""
    if not config.spirit_box.enabled:
        return None

    async def encoded(pcm: bytes) -> bytes:
        async with encoders.session("mp3") as session:
            return await session.feed(pcm) + await session.finish()

    sounds = Sounds(encoded, spirit_sounds.refusal(), spirit_sounds.silence())
    figures = metrics.spirit_box
    box = SpiritBox(config.spirit_box, config.stt, config.tts, admission, offers, workers, sounds, figures)
    figures.visitors.set_function(lambda: box.visitors)
    return box
