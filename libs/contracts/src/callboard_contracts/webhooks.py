"""Addresses that requesters have called once a text is there."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import Field

from callboard_contracts.model import Message
from callboard_contracts.section import Section


class WebhooksSection(Section):
    """Addresses of requesters that the edges call with each finished text."""

    enabled: bool = False
    """Whether requests may name a webhook; otherwise those that do are refused."""
    allow_http: bool = False
    """Whether a webhook may be called without TLS."""
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(default=(443, 80), min_length=1)
    """The ports that may be called."""
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that may be called although they are not public, such as those of receivers of one's own. Whoever may
    ask for texts can have a request sent to every address in them."""
    timeout_s: float = Field(default=5.0, gt=0, le=30)
    """How long one call may take, from the look-up of the name to the status of the answer."""
    attempts: int = Field(default=4, ge=1, le=10)
    """How often a call is tried where the receiver is not reached or fails."""
    max_waiting: int = Field(default=1000, ge=1, le=10_000)
    """How many texts of the whole site may wait for their webhooks at once; further requests with one are refused."""


class WebhookTask(Message):
    """One webhook that is to be called with a job's text, kept encrypted under `webhook.<job>` until it was.

    The address itself is kept with the request, under `name`, and is gone when that is; `protocol` shows the text in
    its own form.
    """

    job_id: str
    name: str
    protocol: str
