"""The JSON of the admin API.

Unlike elsewhere a field that is not known is refused, since it may be a misspelt limit.
"""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from callboard_admin.accounts import MAX_LIMIT
from callboard_admin.character_cards import CardFormat, CardVersion
from callboard_admin.room_records import RoomFormat
from callboard_admin.usage_exports import ExportFormat
from callboard_contracts.kudos import KUDOS_SCALE, MAX_KUDOS
from callboard_edge.http.bodies import AnswerBody, Whole

MAX_WORD = 200
Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
Period = Annotated[str, Field(min_length=1, max_length=40)]
TransactionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Kudos = Annotated[Decimal, Field(gt=0, le=MAX_KUDOS // KUDOS_SCALE, decimal_places=3)]
Limit = Annotated[Whole, Field(ge=0, le=MAX_LIMIT)]


class AdminBody(BaseModel):
    """The base of requests."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class AdminQuery(BaseModel):
    """The base of query parameters."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class LimitsBody(AdminBody):
    """Limits in place of the tier's; null gives one back to the tier."""

    tokens_per_day: Limit | None = None
    tokens_per_month: Limit | None = None
    requests_per_minute: Limit | None = None
    jobs_at_once: Limit | None = None


class CreateBody(AdminBody):
    """A new account; `expires` is a period such as `90d` or a date."""

    name: Word
    tier: Word | None = None
    expires: Period | None = None
    limits: LimitsBody | None = None


class ChangeBody(AdminBody):
    """What is to change; what is left out stays."""

    tier: Word | None = None
    limits: LimitsBody | None = None


class RotateBody(AdminBody):
    """`keep` is how long the other keys still work, such as `24h`; left out, not at all."""

    keep: Period | None = None
    expires: Period | None = None


class RevokeBody(AdminBody):
    """Whom: a key, the start of its digest, or the id or name of an account, which means all its keys."""

    who: Word


class VerifyBody(AdminBody):
    """Since when: a period such as `24h`, which is the default, or a date."""

    since: Period | None = None


class EarnBody(AdminBody):
    """Kudos for an account; `id` names the transaction, so that a repeat counts once."""

    amount: Kudos
    id: TransactionId | None = None


class TransferBody(AdminBody):
    """Kudos for another account, which `to` names by its id or name."""

    to: Word
    amount: Kudos
    id: TransactionId | None = None


class ListQuery(AdminQuery):
    """Which part of the list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Word | None = None


class UsageQuery(AdminQuery):
    """Whose use, and of which time; of all tenants those that used the most."""

    who: Word | None = None
    since: Period = "24h"
    until: Period | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class ExportQuery(AdminQuery):
    """Whose events, of which time, and in which form."""

    who: Word | None = None
    since: Period = "30d"
    until: Period | None = None
    format: ExportFormat = "csv"


class HistoryQuery(AdminQuery):
    """Which changes: those since a time, by default `30d`, or all after the one that the last answer ended with."""

    since: Period | None = None
    after: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class LeaderQuery(AdminQuery):
    """Since when, by default `30d`, and how many."""

    since: Period | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 20


class RoomQuery(AdminQuery):
    """How many rooms."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class RoomExportQuery(AdminQuery):
    """In which form: JSON, or WebVTT with times."""

    format: RoomFormat = "json"


class KeyObject(AnswerBody):
    """A key, by the start of its SHA-256; times are in UTC."""

    digest: str
    state: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class AccountObject(AnswerBody):
    """An account; `limits` are those of its own."""

    id: str
    name: str
    tier: str
    limits: dict[str, int]
    created_at: str
    keys: list[KeyObject]


class NewKeyObject(AnswerBody):
    """An account and its new key, which is not stored and never shown again."""

    key: str
    account: AccountObject


class AccountListObject(AnswerBody):
    """Some accounts, the oldest first; `next` is the `after` of the next part."""

    accounts: list[AccountObject]
    next: str | None


class BalanceObject(AnswerBody):
    """The balance of an account, without what is held for running requests."""

    account: str
    kudos: float


class TransactionObject(AnswerBody):
    """A transaction in kudos, and the balance after it of the account that earned or gave.

    `repeated` says that it was made before under this id.
    """

    id: str
    account: str
    kudos: float
    repeated: bool


class ChangeObject(AnswerBody):
    """One change of an account's kudos; `by` is the id of the transaction or hold that made it, and the step."""

    at: str
    change: float
    kudos: float
    by: str


class HistoryObject(AnswerBody):
    """Changes, the oldest first; `next` is the `after` of the next part, null at the end."""

    account: str
    changes: list[ChangeObject]
    next: int | None


class LeaderObject(AnswerBody):
    """What an account's volunteers earned, for texts and for having been there; `kudos` is its balance now."""

    account: str
    name: str | None
    rewards: float
    uptime: float
    kudos: float


class LeadersObject(AnswerBody):
    """Accounts, the one that earned most first."""

    leaders: list[LeaderObject]


class PaymentObject(AnswerBody):
    """One payment for a volunteer's work; `id` is the transaction."""

    at: str
    account: str
    amount: float
    reason: str
    id: str


class PaymentsObject(AnswerBody):
    """Payments, the oldest first; `next` is the `after` of the next part, null at the end."""

    worker: str
    payments: list[PaymentObject]
    next: int | None


class TenantUseObject(AnswerBody):
    """What one tenant used, holds of running requests included."""

    tenant: str
    name: str | None
    tier: str | None
    tokens: float


class UseObject(AnswerBody):
    """The use of a time, which is counted by the hour; `tenants` is how many used anything."""

    since: str
    until: str
    tenants: int
    usage: list[TenantUseObject]


class EventObject(AnswerBody):
    """One step that quota took for a request."""

    at: str
    what: str
    tenant: str
    tokens: float
    reason: str
    hold: str


class AuditTrailObject(AnswerBody):
    """What quota did for a request, in order."""

    request_id: str
    events: list[EventObject]


class RoomSummaryObject(AnswerBody):
    """A room; `claimed` says whether it has an owner's secret, `messages` how many it remembers."""

    id: str
    kind: str
    key: str
    claimed: bool
    created_at: str
    active_at: str
    messages: int
    running: bool
    waiting: int


class RoomListObject(AnswerBody):
    """Some rooms, the one that was last active first; `count` is how many there are."""

    count: int
    rooms: list[RoomSummaryObject]


class RoomMessageObject(AnswerBody):
    """What was said: by a visitor (`user`) or a character (`assistant`)."""

    at: str
    role: str
    speaker: str
    text: str


class RoomObject(AnswerBody):
    """A room and what it remembers, the oldest message first."""

    room: RoomSummaryObject
    dialogue: list[RoomMessageObject]


class CharacterBody(AdminBody):
    """The settings of a character; what is left out is the default.

    `prompt` is the text before every dialogue, with the placeholders `{name}`, `{desc}`, `{location}` and
    `{character}`. `words` says how words are spoken, as `tts.words` does.
    """

    name: Word | None = None
    display_name: Word | None = None
    prompt: str | None = None
    desc: str | None = None
    location: str | None = None
    example_dialogue: str | None = None
    greetings: list[str] | None = None
    model: str | None = None
    fallback_model: str | None = None
    voice: str | None = None
    words: dict[str, str] | None = None
    memory_messages: Whole | None = None
    prompt_format: str | None = None
    sampling: dict[str, Any] | None = None
    max_output_tokens: Whole | None = None


class RevisionQuery(AdminQuery):
    """The revision at which a character must be, 0 for one that must not exist yet; left out, any."""

    revision: int | None = Field(default=None, ge=0)


class CharacterImportBody(AdminBody):
    """A card, as its JSON or as a PNG or JSON file in base64, and settings of the site's own over those of the card."""

    card: dict[str, Any] | None = None
    file: str | None = None
    name: Word | None = None
    model: Word | None = None
    voice: Word | None = None
    replace: bool | None = None


class CharacterExportQuery(AdminQuery):
    """The form of a card, and its version; left out, that of the import."""

    format: CardFormat = "json"
    spec: CardVersion | None = None


class ForgetQuery(AdminQuery):
    """Whom a character forgets; left out, all."""

    speaker: Word | None = None


class CharacterObject(AnswerBody):
    """A character's settings, and the revision at which it is."""

    name: str
    display_name: str
    revision: int


class CharacterListObject(AnswerBody):
    """All characters, by name."""

    characters: list[CharacterObject]


class ForgottenObject(AnswerBody):
    """How many memories were forgotten."""

    forgotten: int
