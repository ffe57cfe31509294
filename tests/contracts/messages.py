"""The messages whose form is a promise, by the name of their frozen sample and schema."""

from callboard_contracts.accounts import Account
from callboard_contracts.characters import (
    Character,
    CharacterChanged,
    CharacterReply,
    DeleteCharacter,
    PutCharacter,
)
from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingJob, EmbeddingResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply, ResumeRequest
from callboard_contracts.jobs import AttemptRecord, DeadLetter
from callboard_contracts.kept import JobTicket, KeptDialogue, KeptGroup
from callboard_contracts.kudos import (
    KudosBalanceRequest,
    KudosEarnRequest,
    KudosReply,
    KudosTransferRequest,
    KudosUptimeRequest,
)
from callboard_contracts.model import Message
from callboard_contracts.progress import WorkerProgress
from callboard_contracts.quota import (
    AuditEvent,
    IdentifyReply,
    IdentifyRequest,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageEvent,
    UsageReply,
    UsageRequest,
    VerifyReply,
    VerifyRequest,
)
from callboard_contracts.rooms import (
    CancelTurn,
    OpenRoom,
    PostTurn,
    Room,
    RoomReply,
    RoomRequest,
    SpeakInRoom,
    TurnEnded,
)
from callboard_contracts.speech import SegmentInfo, SpeechJob, UtteranceStart
from callboard_contracts.transcription import TranscriptionFrame, TranscriptionJob, TranscriptionResult
from callboard_contracts.volunteers import (
    PopReply,
    PopRequest,
    ProgressRequest,
    SubmitReply,
    SubmitRequest,
    VolunteerRecord,
    WithdrawPop,
)
from callboard_contracts.webhooks import WebhookTask
from callboard_contracts.workers import PoolRecord, ProcessRecord, WorkerInfo

MESSAGES: dict[str, type[Message]] = {
    "account": Account,
    "attempt_record": AttemptRecord,
    "audit_event": AuditEvent,
    "cancel_turn": CancelTurn,
    "character": Character,
    "character_changed": CharacterChanged,
    "character_reply": CharacterReply,
    "chat_frame": ChatFrame,
    "chat_job": ChatJob,
    "chat_result": ChatResult,
    "dead_letter": DeadLetter,
    "delete_character": DeleteCharacter,
    "edge_heartbeat": EdgeHeartbeat,
    "embedding_frame": EmbeddingFrame,
    "embedding_job": EmbeddingJob,
    "embedding_result": EmbeddingResult,
    "error_info": ErrorInfo,
    "identify_reply": IdentifyReply,
    "identify_request": IdentifyRequest,
    "job_ticket": JobTicket,
    "kept_dialogue": KeptDialogue,
    "kept_group": KeptGroup,
    "kudos_balance_request": KudosBalanceRequest,
    "kudos_earn_request": KudosEarnRequest,
    "kudos_reply": KudosReply,
    "kudos_transfer_request": KudosTransferRequest,
    "kudos_uptime_request": KudosUptimeRequest,
    "open_room": OpenRoom,
    "pool_record": PoolRecord,
    "pop_reply": PopReply,
    "pop_request": PopRequest,
    "post_turn": PostTurn,
    "process_record": ProcessRecord,
    "progress_request": ProgressRequest,
    "put_character": PutCharacter,
    "release_reply": ReleaseReply,
    "release_request": ReleaseRequest,
    "reserve_reply": ReserveReply,
    "reserve_request": ReserveRequest,
    "resume_reply": ResumeReply,
    "resume_request": ResumeRequest,
    "room": Room,
    "room_reply": RoomReply,
    "room_request": RoomRequest,
    "segment_info": SegmentInfo,
    "speak_in_room": SpeakInRoom,
    "speech_job": SpeechJob,
    "submit_reply": SubmitReply,
    "submit_request": SubmitRequest,
    "transcription_frame": TranscriptionFrame,
    "transcription_job": TranscriptionJob,
    "transcription_result": TranscriptionResult,
    "turn_ended": TurnEnded,
    "usage_event": UsageEvent,
    "usage_reply": UsageReply,
    "usage_request": UsageRequest,
    "utterance_start": UtteranceStart,
    "verify_reply": VerifyReply,
    "verify_request": VerifyRequest,
    "volunteer_record": VolunteerRecord,
    "webhook_task": WebhookTask,
    "withdraw_pop": WithdrawPop,
    "worker_info": WorkerInfo,
    "worker_progress": WorkerProgress,
}
