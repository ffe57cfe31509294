"""The messages whose form is a promise, by the name of their frozen sample and schema."""

from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult, CreditReply, CreditRequest
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.quota import (
    IdentifyReply,
    IdentifyRequest,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageEvent,
)
from callboard_contracts.speech import SegmentInfo, SpeechJob

MESSAGES: dict[str, type[Message]] = {
    "chat_frame": ChatFrame,
    "chat_job": ChatJob,
    "chat_result": ChatResult,
    "credit_reply": CreditReply,
    "credit_request": CreditRequest,
    "error_info": ErrorInfo,
    "identify_reply": IdentifyReply,
    "identify_request": IdentifyRequest,
    "release_reply": ReleaseReply,
    "release_request": ReleaseRequest,
    "reserve_reply": ReserveReply,
    "reserve_request": ReserveRequest,
    "segment_info": SegmentInfo,
    "speech_job": SpeechJob,
    "usage_event": UsageEvent,
}
