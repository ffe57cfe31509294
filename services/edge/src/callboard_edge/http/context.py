"""What every protocol is given."""

from collections.abc import Callable
from dataclasses import dataclass

from callboard_edge.domain.administration import Administration
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import Catalogue, ChatModel, RecognitionModel, SpeechModel
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.dialogues import Dialogues
from callboard_edge.domain.holds_ahead import HoldsAhead
from callboard_edge.domain.job_groups import JobGroups
from callboard_edge.domain.offers import Offers
from callboard_edge.domain.ports import ModelInquiry, RoomReader, RoomsClient
from callboard_edge.domain.room_turns import RoomTurns
from callboard_edge.domain.running_replies import FollowedReplies
from callboard_edge.domain.saved_slots import SavedSlots
from callboard_edge.domain.spirit_box import SpiritBox
from callboard_edge.domain.volunteer_jobs import VolunteerJobs
from callboard_edge.domain.volunteers import Volunteers
from callboard_edge.domain.webhooks import Webhooks
from callboard_edge.domain.workers import Workers
from callboard_edge.http.embedding_responder import EmbeddingResponder
from callboard_edge.http.live_sessions import LiveSessions
from callboard_edge.http.narrated_responder import NarratedResponder
from callboard_edge.http.room_recording import RoomRecordingResponder
from callboard_edge.http.room_stream import RoomStreamResponder
from callboard_edge.http.speech_responder import SpeechResponder
from callboard_edge.http.text_responder import TextResponder
from callboard_edge.http.transcription_responder import TranscriptionResponder
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class EdgeContext:
    """The parts of the edge that handlers use.

    `offers` tells which of the models a caller may ask for, `running` what there is of a reply that has a name. `ready`
    returns None, or why the edge cannot take work; `admin` is None where the site has no admin API, `holds_ahead`
    where no hold is taken before its request, `saved_slots` where it keeps nothing for callers, `spirit_box` where it
    has none, `volunteer_jobs` where it takes no volunteers, `webhooks` where it calls none.
    """

    settings: EdgeSettings
    chat_models: Catalogue[ChatModel]
    embedding_models: Catalogue[ChatModel]
    speech_models: Catalogue[SpeechModel]
    recognition_models: Catalogue[RecognitionModel]
    offers: Offers
    characters: Characters
    workers: Workers
    admission: Admission
    text: TextResponder
    embeddings: EmbeddingResponder
    speech: SpeechResponder
    narrated: NarratedResponder
    transcriptions: TranscriptionResponder
    live_sessions: LiveSessions
    rooms: RoomsClient
    room_reader: RoomReader
    inquiry: ModelInquiry
    room_turns: RoomTurns
    room_streams: RoomStreamResponder
    room_recordings: RoomRecordingResponder
    metrics: EdgeMetrics
    running: FollowedReplies
    dialogues: Dialogues
    groups: JobGroups
    volunteers: Volunteers
    ready: Callable[[], str | None]
    admin: Administration | None = None
    holds_ahead: HoldsAhead | None = None
    saved_slots: SavedSlots | None = None
    spirit_box: SpiritBox | None = None
    volunteer_jobs: VolunteerJobs | None = None
    webhooks: Webhooks | None = None
