"""Reads the streams in which engines send text: server-sent events and lines of JSON."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from callboard_cli.volunteer.errors import EngineFailed

MAX_LINE_BYTES = 1024 * 1024
_DONE = b"[DONE]"


async def events(answer: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    """Yields the JSON of each event's data until the stream ends; raises EngineFailed for what is no JSON object."""
    async for line in _lines(answer):
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == _DONE:
                return
            if data:
                yield _parsed(data)


async def json_lines(answer: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    """Yields the JSON of each line; raises EngineFailed for what is no JSON object."""
    async for line in _lines(answer):
        if line.strip():
            yield _parsed(line)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    rest = b""
    async for part in answer.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise EngineFailed("the engine sends a line without end")
    if rest:
        yield rest


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineFailed("the engine sends no JSON")
    return found
