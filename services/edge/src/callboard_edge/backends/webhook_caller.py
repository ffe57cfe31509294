"""Calls webhooks over HTTP, and only at addresses that the site allows."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from callboard_contracts.webhooks import WebhooksSection
from callboard_edge.domain.webhook_addresses import WebhookAddresses
from callboard_edge.domain.webhooks import WebhookForbidden, WebhookUnreachable

RESOLVER_THREADS = 4
HEADERS = {"Content-Type": "application/json", "User-Agent": "callboard-webhook"}


class _Forbidden(OSError):  # noqa: N818 - a decision, not a failure
    """What is to be connected to is no address that may be."""


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own, since whoever owns a name decides how long that takes.

    All of a name's addresses have to be allowed: one that stands for a public and a private one has no honest use.
    """

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self._allows = allows
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        if not found:
            raise OSError("the name has no address")
        if not all(self._allows(str(address[0])) for *_, address in found):
            raise _Forbidden
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=flags)
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class HttpWebhookCaller:
    """Sends each call over a connection of its own, to the address that was checked; follows nothing, keeps nothing."""

    def __init__(self, settings: WebhooksSection) -> None:
        self._allows = WebhookAddresses(settings).allows
        self._resolver = _Resolver(self._allows)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            use_dns_cache=False,
            force_close=True,
            limit=0,
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def post(self, url: str, body: bytes) -> int:
        """The status of the answer; its body is not read. Raises WebhookForbidden or WebhookUnreachable."""
        try:
            async with self._session.post(url, data=body, headers=HEADERS, allow_redirects=False) as answer:
                # Otherwise the end of the block might wait for the rest.
                answer.close()
                return answer.status
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _Forbidden):
                raise WebhookForbidden from None
            raise WebhookUnreachable from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise WebhookUnreachable from None

    async def close(self) -> None:
        """Ends what is under way."""
        await self._session.close()
        await self._resolver.close()

    def _socket(self, address: "tuple[Any, ...]") -> socket.socket:
        """A socket for an address that is about to be connected to, which no look-up may have passed by."""
        family, kind, proto, _, where = address
        if not self._allows(str(where[0])):
            raise _Forbidden
        return socket.socket(family, kind, proto)
