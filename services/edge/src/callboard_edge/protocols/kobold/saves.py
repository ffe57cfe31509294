"""Slots in which KoboldAI Lite keeps stories on the server: each holder of a key has twelve of its own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from aiohttp import web
from pydantic import BeforeValidator

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.saves import MAX_SAVE_BYTES, SLOTS
from callboard_edge.domain.saved_slots import Save, SavedSlots, SavesFull
from callboard_edge.http.bodies import AnswerBody, Body, parse
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.kobold.bodies import AnyBody
from callboard_edge.protocols.kobold.errors import ANSWERS

TAG = "KoboldAI"
MAX_BODY_BYTES = MAX_SAVE_BYTES + 64 * 1024
MAX_TITLE, MAX_FORMAT = 200, 64
SAVES_AT_ONCE = 4
"""How many bodies of this size an edge has in work."""
WAIT_S = 20.0
ON_LOOP_BYTES = 256 * 1024
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


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    places = asyncio.Semaphore(SAVES_AT_ONCE)

    async def owner(call: Call) -> tuple[SavedSlots, str] | None:
        """The slots and their tenant; None for callers without a key, who cannot be told from each other."""
        tenant = (await context.admission.identify(call.caller)).tenant
        if call.caller.key_digest is None or context.saved_slots is None:
            return None
        return context.saved_slots, tenant

    async def titles(call: Call) -> web.StreamResponse:
        owned = await owner(call)
        if owned is None:
            return call.answer([])
        slots, tenant = owned
        found = await slots.titles(tenant)
        return call.answer([found.get(slot, "") for slot in range(SLOTS)])

    async def load(call: Call) -> web.StreamResponse:
        body = await call.json(LoadBody)
        owned = await owner(call)
        if owned is None or body.slot < 0:
            return call.answer({"success": False, "data": None, "error": NO_KEY if owned is None else NO_SLOT})
        slots, tenant = owned
        async with place():
            found = await slots.load(tenant, body.slot)
            if found is None:
                return call.answer({"success": False, "data": None, "error": "The slot is empty."})
            data = {"title": found.title, "format": found.format, "data": found.data.decode()}
            return call.answer({"success": True, "data": data})

    async def save(call: Call) -> web.StreamResponse:
        owned = await owner(call)
        if owned is None:
            return _refused(call, NO_KEY)
        slots, tenant = owned
        async with place():
            raw = await call.read()
            body = await asyncio.to_thread(parse, SaveBody, raw) if len(raw) > ON_LOOP_BYTES else parse(SaveBody, raw)
            data = (body.data or "").encode()
            if body.slot < 0:
                return _refused(call, NO_SLOT)
            if len(data) > MAX_SAVE_BYTES:
                return _refused(call, TOO_LARGE)
            if not data:
                await slots.erase(tenant, body.slot)
                return call.answer({"success": True, "error": ""})
            found = Save((body.title or "Untitled")[:MAX_TITLE], (body.format or "")[:MAX_FORMAT], data)
            try:
                await slots.save(tenant, body.slot, found)
            except SavesFull:
                return _refused(call, FULL)
            return call.answer({"success": True, "error": ""})

    @asynccontextmanager
    async def place() -> AsyncGenerator[None]:
        """One of the places for large bodies."""
        try:
            async with asyncio.timeout(WAIT_S):
                await places.acquire()
        except TimeoutError:
            raise CallboardError(
                ErrorCode.OVERLOADED, "Too much is being saved and loaded; try again shortly.", retry_after_s=5.0
            ) from None
        try:
            yield
        finally:
            places.release()

    answers = {**ANSWERS, 200: Answer("Whether it was done, and why not.", SaveAnswer)}
    listed = {**ANSWERS, 200: Answer("The titles of the twelve slots, empty ones as empty text.")}
    path = "/api/extra/data"
    return [
        Route("POST", f"{path}/list", titles, "kobold_saves", "List what is saved", TAG, body=AnyBody, answers=listed),
        Route("POST", f"{path}/load", load, "kobold_load", "Load a slot", TAG, body=LoadBody, answers=answers),
        Route(
            "POST",
            f"{path}/save",
            save,
            "kobold_save",
            "Save into a slot, or empty it",
            TAG,
            body=SaveBody,
            answers=answers,
            max_body_bytes=MAX_BODY_BYTES,
        ),
    ]


def _refused(call: Call, reason: str) -> web.StreamResponse:
    return call.answer({"success": False, "error": reason})
