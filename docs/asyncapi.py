"""The AsyncAPI document of the messages of quota and rooms, made from their FastStream subscribers."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from pydantic.json_schema import models_json_schema

from callboard_contracts import subjects
from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent, UsageEvent
from callboard_contracts.rooms import TurnEnded
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import reply_of
from callboard_kit.bus import Bus
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.repair import CounterRepair
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.verification import Verifier
from callboard_quota.handlers.rpc import RpcHandlers, subscribe_control
from callboard_rooms.domain.characters import CharacterService
from callboard_rooms.domain.rooms import RoomService
from callboard_rooms.handlers.rpc import RoomHandlers

DESCRIPTION = "What the quota and rooms services take from the bus and put on it."


def page() -> str:
    """The document as JSON."""
    # Only signatures and docstrings are read, so the handlers need nothing to work with.
    reservations, kudos = ReservationService.__new__(ReservationService), KudosService.__new__(KudosService)
    verifier, repair = Verifier.__new__(Verifier), CounterRepair.__new__(CounterRepair)
    handlers = RpcHandlers(Bus.__new__(Bus), BackgroundTasks(), reservations, kudos, verifier, repair)
    broker = NatsBroker()
    room_handlers = RoomHandlers(
        Bus.__new__(Bus),
        RoomService.__new__(RoomService),
        CharacterService.__new__(CharacterService),
        BackgroundTasks(),
    )
    handlers.subscribe(broker)
    room_handlers.subscribe(broker)
    subscribe_control(broker, lambda: None, lambda _tenant: None)

    async def settle(event: UsageEvent) -> None:
        """Settles the holds of a usage event, which is read from the stream USAGE."""

    broker.subscriber(subjects.usage("tenant").replace("tenant", "{tenant}"), title="usage")(settle)

    async def end_turn(event: TurnEnded) -> None:
        """Takes the reply of a turn, which is read from the stream TURNS, and starts the next."""

    ended = subjects.turn_ended("room", "turn").replace("turn.room.turn", "turn.{room}.{turn}")
    broker.subscriber(ended, title="turn")(end_turn)
    audit = subjects.audit("id").replace("id", "{request_id}")
    broker.publisher(audit, title="audit", schema=AuditEvent, description="What quota did about a request.")
    specification = AsyncAPI(broker, title="Callboard", version=version("callboard-quota"), description=DESCRIPTION)
    document: dict[str, Any] = specification.to_specification().to_jsonable()
    # Each installation has servers of its own.
    del document["servers"]
    for channel in document["channels"].values():
        del channel["servers"]
    requests = {**handlers.handlers, **room_handlers.handlers}
    _add_replies(document, {subject: reply_of(handler) for subject, handler in requests.items()})
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _add_replies(document: dict[str, Any], replies: Mapping[str, type[Message]]) -> None:
    """Adds what FastStream leaves out: the reply of each request, on the request's own reply subject."""
    models = dict.fromkeys(replies.values())
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    components = document["components"]
    components["schemas"] = {**schemas["$defs"], **components["schemas"]}
    for subject, model in replies.items():
        name = f"{subject}:Reply"
        components["messages"][name] = {"title": name, "payload": {"$ref": f"#/components/schemas/{model.__name__}"}}
        message = {"$ref": f"#/components/messages/{name}"}
        document["channels"][name] = {"address": None, "messages": {"Reply": message}}
        document["operations"][subject]["reply"] = {
            "address": {"location": "$message.header#/reply_to"},
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/Reply"}],
        }
