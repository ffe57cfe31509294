"""The messages whose form is a promise, by the name of their frozen sample and schema."""

from callboard_contracts.accounts import Account
from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult, InterestReply, InterestRequest
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.kudos import KudosBalanceRequest, KudosEarnRequest, KudosReply, KudosTransferRequest
from callboard_contracts.model import Message
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
from callboard_contracts.speech import SegmentInfo, SpeechJob

MESSAGES: dict[str, type[Message]] = {
    "account": Account,
    "audit_event": AuditEvent,
    "chat_frame": ChatFrame,
    "chat_job": ChatJob,
    "chat_result": ChatResult,
    "interest_reply": InterestReply,
    "interest_request": InterestRequest,
    "error_info": ErrorInfo,
    "identify_reply": IdentifyReply,
    "identify_request": IdentifyRequest,
    "kudos_balance_request": KudosBalanceRequest,
    "kudos_earn_request": KudosEarnRequest,
    "kudos_reply": KudosReply,
    "kudos_transfer_request": KudosTransferRequest,
    "release_reply": ReleaseReply,
    "release_request": ReleaseRequest,
    "reserve_reply": ReserveReply,
    "reserve_request": ReserveRequest,
    "segment_info": SegmentInfo,
    "speech_job": SpeechJob,
    "usage_event": UsageEvent,
    "usage_reply": UsageReply,
    "usage_request": UsageRequest,
    "verify_reply": VerifyReply,
    "verify_request": VerifyRequest,
}
