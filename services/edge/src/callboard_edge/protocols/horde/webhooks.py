"""The webhooks of requests: whether one is taken, and what it is sent."""

from typing import Any

from callboard_contracts.chat import ChatResult
from callboard_contracts.kept import KeptGroup
from callboard_edge.domain.webhooks import Webhooks
from callboard_edge.protocols.horde.bodies import AsyncBody
from callboard_edge.protocols.horde.errors import Refusal
from callboard_edge.protocols.horde.generations import generation
from callboard_edge.protocols.horde.prices import kudos_shown


def check_webhook(webhooks: Webhooks | None, body: AsyncBody) -> None:
    """Refuses a webhook that the site does not call.

    Raises:
        Refusal: webhooks are not called here, or not at such an address.
    """
    if not body.webhook:
        return
    if webhooks is None:
        message = "This site calls no webhooks; leave 'webhook' out and ask for the status."
        raise Refusal(400, "BadRequest", message, "webhook")
    fault = webhooks.fault(body.webhook)
    if fault is not None:
        raise Refusal(400, "BadRequest", f"'webhook' {fault}.", "webhook")


def posted(group: KeptGroup, result: ChatResult) -> dict[str, Any] | None:
    """What a webhook is sent of a text; None for what failed or was cancelled, which the status shows."""
    shown = None if result.end.reason == "cancelled" else generation(group, result)
    if shown is None:
        return None
    return {
        **shown,
        "request": group.request_id,
        "id": result.request_id,
        "kudos": kudos_shown(result.kudos),
    }
