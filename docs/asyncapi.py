"""The AsyncAPI document of quota's messages, made from its FastStream subscribers."""

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
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import reply_of
from callboard_kit.bus import Bus
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.verification import Verifier
from callboard_quota.handlers.rpc import RpcHandlers, subscribe_control

DESCRIPTION = "What the quota service takes from the bus and puts on it."


def page() -> str:
    """The document as JSON."""
    # Only signatures and docstrings are read, so the handlers need nothing to work with.
    reservations, kudos = ReservationService.__new__(ReservationService), KudosService.__new__(KudosService)
    handlers = RpcHandlers(Bus.__new__(Bus), BackgroundTasks(), reservations, kudos, Verifier.__new__(Verifier))
    broker = NatsBroker()
    handlers.subscribe(broker)
    subscribe_control(broker, lambda: None, lambda _tenant: None)

    async def settle(event: UsageEvent) -> None:
        """Settles the holds of a usage event, which is read from the stream USAGE."""

    broker.subscriber(subjects.usage("tenant").replace("tenant", "{tenant}"), title="usage")(settle)
    audit = subjects.audit("id").replace("id", "{request_id}")
    broker.publisher(audit, title="audit", schema=AuditEvent, description="What quota did about a request.")
    specification = AsyncAPI(
        broker, title="Callboard quota", version=version("callboard-quota"), description=DESCRIPTION
    )
    document: dict[str, Any] = specification.to_specification().to_jsonable()
    # Each installation has servers of its own.
    del document["servers"]
    for channel in document["channels"].values():
        del channel["servers"]
    _add_replies(document, {subject: reply_of(handler) for subject, handler in handlers.handlers.items()})
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
