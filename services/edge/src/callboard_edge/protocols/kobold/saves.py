"""Slots in which KoboldAI Lite keeps stories on the server: each holder of a key has twelve of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from aiohttp import web
from pydantic import BeforeValidator

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.saves import MAX_SAVE_BYTES, SLOTS
from callboard_edge.domain.saved_slots import Save, SavedSlots, SavesFull
from callboard_edge.http.bodies import AnswerBody, Body, parse
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.protocols.kobold.bodies import AnyBody
from callboard_edge.protocols.kobold.errors import ANSWERS

TAG = "KoboldAI"
MAX_BODY_BYTES = MAX_SAVE_BYTES + 64 * 1024
MAX_TITLE, MAX_FORMAT = 200, 64
SAVES_AT_ONCE = 4
"""How many bodies of this size an edge has in work."""
WAIT_S = 20.0
ON_LOOP_BYTES = 256 * 1024
EMPTY = "The slot is empty."
NO_TEXT = "The data is not valid Unicode."
NO_KEY = "Slots need an API key as the password."
NO_SLOT = f"There are slots 0 to {SLOTS - 1}."
TOO_LARGE = f"A slot holds {MAX_SAVE_BYTES // (1024 * 1024)} MiB at most."
FULL = "The server keeps as much as it may; ask its operator."


def _slot(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return number if 0 <= number < SLOTS else -1


Slot = Annotated[int, BeforeValidator(_slot)]
"""A slot's number; -1 for what is none."""


class LoadBody(Body):
    """Which slot."""

    slot: Slot = -1


class SaveBody(LoadBody):
    """What a slot is to hold; without data it is emptied."""

    title: str | None = None
    format: str | None = None
    data: str | None = None


class SaveAnswer(AnswerBody):
    """Whether it was done, and why not."""

    success: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Saves:
    """The handlers; `places` are those for large bodies."""

    context: EdgeContext
    places: asyncio.Semaphore

    async def list(self, call: Call) -> web.StreamResponse:
        """The titles of the caller's slots."""
        owned = await self._owned(call)
        if owned is None:
            return call.answer([])
        slots, tenant = owned
        found = await slots.titles(tenant)
        return call.answer([found.get(slot, "") for slot in range(SLOTS)])

    async def load(self, call: Call) -> web.StreamResponse:
        """What a slot holds."""
        body = await call.json(LoadBody)
        owned = await self._owned(call)
        if owned is None or body.slot < 0:
            return call.answer({"success": False, "data": None, "error": NO_KEY if owned is None else NO_SLOT})
        slots, tenant = owned
        async with self._place():
            found = await slots.load(tenant, body.slot)
        if found is None:
            return call.answer({"success": False, "data": None, "error": EMPTY})
        data = {"title": found.title, "format": found.format, "data": found.data.decode()}
        return call.answer({"success": True, "data": data})

    async def save(self, call: Call) -> web.StreamResponse:
        """Takes what a slot is to hold."""
        owned = await self._owned(call)
        if owned is None:
            return call.answer({"success": False, "error": NO_KEY})
        async with self._place():
            raw = await call.read()
            body = await asyncio.to_thread(parse, SaveBody, raw) if len(raw) > ON_LOOP_BYTES else parse(SaveBody, raw)
            error = await _save(*owned, body)
        return call.answer({"success": not error, "error": error})

    async def _owned(self, call: Call) -> tuple[SavedSlots, str] | None:
        """The slots and their tenant; None for callers without a key, who cannot be told from each other."""
        tenant = (await self.context.admission.identify(call.caller)).tenant
        if call.caller.key_digest is None or self.context.saved_slots is None:
            return None
        return self.context.saved_slots, tenant

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(WAIT_S):
                await self.places.acquire()
        except TimeoutError:
            raise CallboardError(
                ErrorCode.OVERLOADED, "Too much is being saved and loaded; try again shortly.", retry_after_s=5.0
            ) from None
        try:
            yield
        finally:
            self.places.release()


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    saves = Saves(context, asyncio.Semaphore(SAVES_AT_ONCE))
    done = {**ANSWERS, 200: Answer("Whether it was done, and why not.", SaveAnswer)}
    listed = {**ANSWERS, 200: Answer("The titles of the twelve slots, empty ones as empty text.")}

    def post(path: str, handler: Handler, summary: str, body: type[Body], limit: int | None = None) -> Route:
        name = f"kobold_saves_{path}"
        answers = listed if path == "list" else done
        path = f"/api/extra/data/{path}"
        return Route(
            "POST", path, handler, name, summary, TAG, body=body, security="none", answers=answers, max_body_bytes=limit
        )

    return [
        post("list", saves.list, "List what the holder of a key has saved", AnyBody),
        post("load", saves.load, "Load a slot", LoadBody),
        post("save", saves.save, "Save into a slot, or empty it", SaveBody, MAX_BODY_BYTES),
    ]


async def _save(slots: SavedSlots, tenant: str, body: SaveBody) -> str:
    """Saves, and returns why it was not done, or nothing."""
    try:
        data = (body.data or "").encode()
    except UnicodeEncodeError:
        return NO_TEXT
    if body.slot < 0:
        return NO_SLOT
    if len(data) > MAX_SAVE_BYTES:
        return TOO_LARGE
    if not data:
        await slots.erase(tenant, body.slot)
        return ""
    title, form = (text.encode(errors="replace").decode() for text in (body.title or "Untitled", body.format or ""))
    try:
        await slots.save(tenant, body.slot, Save(title[:MAX_TITLE], form[:MAX_FORMAT], data))
    except SavesFull:
        return FULL
    return ""
