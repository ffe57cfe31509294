"""nats-py's transport, with a reader that offers what arrives before it is buffered."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

Take = Callable[[bytes], int]
_REFUSAL = b"-ERR 'Authorization"
"""How the server begins its answer to credentials that it does not know."""


class Reader(asyncio.StreamReader):
    """A stream reader that offers arriving bytes to `take` before it buffers them."""

    take: Take | None = None
    refused = False
    """Whether the server refused the credentials; a reset that follows at once can hide the line from its reader."""
    _buffer: bytearray

    def feed_data(self, data: Any) -> None:
        """Buffers what `take` leaves of the data."""
        if self.take is None and _REFUSAL in data:
            self.refused = True
        # Buffered bytes are read in order, so new bytes must not overtake them.
        if self.take is not None and not self._buffer:
            data = data[self.take(data) :]
        if data:
            super().feed_data(data)


class Transport(TcpTransport):
    """The client's transport with a `Reader`, also under TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.reader: Reader | None = None
        self.under_tls = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connects; raises TimeoutError and OSError."""
        if self._bare_io_writer is not None:
            # The client leaves a connection open that was refused.
            self._bare_io_writer.close()
        self.under_tls = False
        loop = asyncio.get_running_loop()
        reader = Reader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(connect_timeout):
            # The client lets no address without a host and a port get here.
            transport, _ = await loop.create_connection(lambda: protocol, uri.hostname or "", uri.port or 0)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.reader = self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Goes over to TLS; raises TimeoutError and OSError, of which ssl.SSLError is one."""
        loop = asyncio.get_running_loop()
        reader = Reader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        assert self._io_writer is not None
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            transport = await loop.start_tls(self._io_writer.transport, protocol, ssl_context, server_hostname=name)
        # start_tls raises where it makes none.
        assert transport is not None
        self.reader = self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.under_tls = True

    def writelines(self, payload: Sequence[bytes]) -> None:
        """Writes parts at once, which costs less than one by one; raises OSError and RuntimeError."""
        assert self._io_writer is not None
        self._io_writer.transport.write(b"".join(payload))

    def __bool__(self) -> bool:
        return True
