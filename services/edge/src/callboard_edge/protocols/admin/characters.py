"""The admin API's view of characters, with the operations of `callboard characters`."""

import base64
import binascii
import json
import logging
from typing import Any

from aiohttp import web

from callboard_admin.character_cards import CONTENT_TYPES
from callboard_admin.character_records import settings_of
from callboard_contracts.characters import StoredCharacter
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.administration import Administration
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.admin.auth import AdminAuth
from callboard_edge.protocols.admin.bodies import (
    CharacterBody,
    CharacterExportQuery,
    CharacterImportBody,
    CharacterListObject,
    CharacterObject,
    ForgetQuery,
    ForgottenObject,
    RevisionQuery,
)

log = logging.getLogger(__name__)

UNKNOWN = Answer("No character is called so.", ErrorAnswer)
CONFLICT = Answer("The character is at another revision, or there is one of that name.", ErrorAnswer)


def routes(admin: Administration, guard: AdminAuth) -> list[Route]:
    """The routes of this module."""
    records = admin.characters

    def note(call: Call, action: str) -> None:
        log.info("admin_change", extra={"request_id": call.request_id, "action": action})

    async def listing(call: Call) -> web.StreamResponse:
        return call.answer({"characters": [_shown(one) for one in await records.all()]})

    async def show(call: Call) -> web.StreamResponse:
        return call.answer(_shown(await records.find(call.params["name"])))

    async def put(call: Call) -> web.StreamResponse:
        query = parse_query(RevisionQuery, call.request.query)
        body = await call.json(CharacterBody)
        settings = body.model_dump(exclude_none=True)
        stored = await records.put_settings(call.params["name"], settings, query.revision)
        note(call, "character_put")
        return call.answer(_shown(stored))

    async def delete(call: Call) -> web.StreamResponse:
        query = parse_query(RevisionQuery, call.request.query)
        character = await records.delete(call.params["name"], query.revision)
        note(call, "character_delete")
        return call.answer(settings_of(character))

    async def imported(call: Call) -> web.StreamResponse:
        body = await call.json(CharacterImportBody)
        given = {"model": body.model, "voice": body.voice}
        settings = {field: value for field, value in given.items() if value is not None}
        replaces = bool(body.replace)
        stored, dropped = await records.import_file(_card_file(body), body.name, settings, replaces=replaces)
        note(call, "character_import")
        return call.answer({**_shown(stored), "picture_dropped": dropped})

    async def exported(call: Call) -> web.StreamResponse:
        query = parse_query(CharacterExportQuery, call.request.query)
        name = call.params["name"]
        data = await records.export_file(name, query.format, query.spec)
        headers = {"Content-Disposition": f'attachment; filename="{name}.{query.format}"'}
        return web.Response(body=data, content_type=CONTENT_TYPES[query.format], headers=headers)

    async def forget(call: Call) -> web.StreamResponse:
        query = parse_query(ForgetQuery, call.request.query)
        count = await records.forget(call.params["name"], query.speaker)
        note(call, "character_forget")
        return call.answer({"forgotten": count})

    one = "/characters/{name}"
    return [
        guard.route(
            "GET",
            "/characters",
            listing,
            "admin_characters",
            "List the characters with their settings",
            answers={200: Answer("The characters.", CharacterListObject)},
        ),
        guard.route(
            "GET",
            one,
            show,
            "admin_character",
            "Show a character's settings",
            answers={200: Answer("The character.", CharacterObject), 404: UNKNOWN},
        ),
        guard.route(
            "PUT",
            one,
            put,
            "admin_character_put",
            "Write a character; settings that are left out are the defaults",
            body=CharacterBody,
            query=RevisionQuery,
            answers={200: Answer("The character.", CharacterObject), 409: CONFLICT},
        ),
        guard.route(
            "DELETE",
            one,
            delete,
            "admin_character_delete",
            "Delete a character and all that it remembers",
            query=RevisionQuery,
            answers={200: Answer("Its settings as they were."), 404: UNKNOWN, 409: CONFLICT},
        ),
        guard.route(
            "POST",
            "/characters",
            imported,
            "admin_character_import",
            "Import a character card",
            body=CharacterImportBody,
            answers={200: Answer("The character.", CharacterObject), 409: CONFLICT},
        ),
        guard.route(
            "GET",
            f"{one}/export",
            exported,
            "admin_character_export",
            "Export a character as a card",
            query=CharacterExportQuery,
            answers={200: Answer("The card.", media_types=tuple(CONTENT_TYPES.values())), 404: UNKNOWN},
        ),
        guard.route(
            "DELETE",
            f"{one}/memory",
            forget,
            "admin_character_forget",
            "Have a character forget a speaker, or all",
            query=ForgetQuery,
            answers={200: Answer("How many memories are gone.", ForgottenObject), 404: UNKNOWN},
        ),
    ]


def _card_file(body: CharacterImportBody) -> bytes:
    """The file of a card; raises CallboardError where there is none, or more than one."""
    if (body.card is None) == (body.file is None):
        raise CallboardError(ErrorCode.INVALID_REQUEST, "Either 'card' or 'file' is needed.", param="card")
    if body.file is None:
        return json.dumps(body.card).encode()
    try:
        return base64.b64decode(body.file, validate=True)
    except (binascii.Error, ValueError):
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The file is not valid base64.", param="file") from None


def _shown(stored: StoredCharacter) -> dict[str, Any]:
    return {**settings_of(stored.character), "revision": stored.revision}
