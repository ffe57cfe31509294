"""Backups: the durable streams and buckets in one file, by the server's own snapshots.

A snapshot holds a stream byte for byte, with its numbers, headers and consumers, so a restored ledger counts on from
where it was. The file is a tar archive with the snapshots in chunks; its last member is the manifest, so that a file
which was cut off is never restored.

What lives for minutes only is left out: queued jobs, results, and above all the keys of payloads, so that a backup
cannot make readable what was erased.
"""

import asyncio
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_admin.periods import show_time
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.model import Message
from callboard_contracts.streams import (
    BUCKET_ACCOUNTS,
    BUCKET_CHARACTERS,
    BUCKET_ROOMS,
    BUCKET_VOLUNTEERS,
    CHAT,
    KEYS,
    LEASE,
    RESULT,
    ROOM_AUDIO,
    TTS,
    TURNS,
    USAGE,
    WEBHOOKS,
    stored_streams,
)
from callboard_kit.bus import ApiError, Bus, BusUnavailable

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
SILENCE_S = 60.0
"""A server that sends nothing of a snapshot for this long has given it up."""
RESTORE_TIMEOUT_S = 300.0
POLL_S = 0.1
PRIVATE_FILE = 0o600
NOT_FOUND = 404
SHORT_LIVED = frozenset({CHAT, TTS, RESULT, WEBHOOKS, KEYS})
ROOM_STREAMS = frozenset({f"KV_{BUCKET_ROOMS}", ROOM_AUDIO, TURNS})
"""What holds the dialogues of rooms."""

Say = Callable[[str], None]


class StreamBackup(Message):
    """One stream of a backup, as the server described it when the snapshot began."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    consumers: tuple[str, ...] = ()
    chunks: int
    sha256: str

    @property
    def last_seq(self) -> int:
        """The number of the newest message."""
        return int(self.state["last_seq"])

    @property
    def messages(self) -> int:
        """How many messages the stream had."""
        return int(self.state["messages"])


class Manifest(Message):
    """What a backup holds.

    `changed` names the streams that were written to while the backup was made: where there is none, the streams agree
    with each other exactly.
    """

    format: Literal[1] = 1
    created_at: float
    streams: tuple[StreamBackup, ...]
    changed: tuple[str, ...] = ()


def backed_up(config: Config, *, rooms: bool = True) -> tuple[str, ...]:
    """The streams that a backup holds, in the order in which they are read; without `rooms`, not what was said there.

    The order matters where a site is at work. Leases come first and outcomes later, so that the reaper finds a lease
    for each outcome whose increments were not read. Usage events come last, so that none is missing that was counted.
    """
    buckets = (BUCKET_ACCOUNTS, BUCKET_CHARACTERS, BUCKET_ROOMS, BUCKET_VOLUNTEERS)
    names = (*stored_streams(config), *(f"KV_{bucket}" for bucket in buckets))
    left_out = SHORT_LIVED if rooms else SHORT_LIVED | ROOM_STREAMS
    return tuple(
        sorted((name for name in names if name not in left_out), key=lambda name: (name != LEASE, name == USAGE))
    )


async def back_up(bus: Bus, names: Iterable[str], path: Path, say: Say = lambda _text: None) -> Manifest:
    """Writes the streams into a file that only its owner may read; the file appears once it is whole.

    Raises:
        CallboardError: a stream is missing, or the server gave a snapshot up.
        BusError: the bus failed.
        OSError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.new")
    done: list[StreamBackup] = []
    try:
        with _archive(draft) as archive:
            for name in names:
                done.append(await _save(bus, name, archive))
                say(f"{name}: {done[-1].messages} messages")
            changed = [one.name for one in done if await _last_seq(bus, one.name) != one.last_seq]
            manifest = Manifest(created_at=time.time(), streams=tuple(done), changed=tuple(changed))
            await asyncio.to_thread(_add, archive, MANIFEST, manifest.encoded())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


async def _save(bus: Bus, name: str, archive: tarfile.TarFile) -> StreamBackup:
    """Adds one stream's snapshot to an archive, each chunk acknowledged once it is written."""
    digest = hashlib.sha256()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    count, heard_at = 0, time.monotonic()

    def write(data: bytes) -> None:
        digest.update(data)
        _add(archive, _chunk_name(name, count), data)

    async def take(message: Msg) -> None:
        nonlocal count, heard_at
        heard_at = time.monotonic()
        if ended.done():
            return
        if not message.data:
            ended.set_result((message.headers or {}).get("Description", ""))
            return
        try:
            await asyncio.to_thread(write, message.data)
        except OSError as error:
            ended.set_exception(error)
            return
        count += 1
        if message.reply:
            await bus.publish(message.reply)

    try:
        consumers = await _durables(bus, name)
    except ApiError as error:
        raise _failed(f"{name}: {error}") from None
    inbox = bus.connection.new_inbox()
    subscription = await bus.subscribe(inbox, take)
    try:
        body = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES, "no_consumers": False, "jsck": True}
        try:
            answer = await bus.api(f"STREAM.SNAPSHOT.{name}", body, SILENCE_S)
        except ApiError as error:
            raise _failed(f"{name}: {error}") from None
        while not ended.done():
            await asyncio.wait({ended}, timeout=1.0)
            if not ended.done() and time.monotonic() - heard_at > SILENCE_S:
                raise BusUnavailable(f"{name}: nothing of the snapshot for {SILENCE_S:.0f} s")
        if reason := ended.result():
            raise _failed(f"{name}: the server gave the snapshot up: {reason}")
    finally:
        ended.cancel()
        await bus.unsubscribe(subscription)
    return StreamBackup(
        name=name,
        config=answer["config"],
        state=answer["state"],
        consumers=tuple(consumers),
        chunks=count,
        sha256=digest.hexdigest(),
    )


def read_manifest(path: Path) -> Manifest:
    """Reads a whole backup, checks every byte of it, and returns what it holds; blocks.

    Raises:
        CallboardError: the file is none, is cut off, or is damaged.
    """
    digests: dict[str, Any] = {}
    counts: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for name, data in _members(archive):
                if name == MANIFEST:
                    manifest = Manifest.model_validate_json(data)
                    break
                stream = name.partition("/")[0]
                digests.setdefault(stream, hashlib.sha256()).update(data)
                counts[stream] = counts.get(stream, 0) + 1
            else:
                raise _failed(f"{path}: the backup is cut off")
    except (tarfile.TarError, ValidationError, EOFError) as error:
        raise _failed(f"{path}: not a backup of Callboard: {type(error).__name__}") from None
    for one in manifest.streams:
        found = digests[one.name].hexdigest() if one.name in digests else ""
        if found != one.sha256 or counts[one.name] != one.chunks:
            raise _failed(f"{path}: the content of {one.name} is damaged")
    return manifest


async def restore(
    bus: Bus, path: Path, manifest: Manifest, replicas: int, say: Say = lambda _text: None, *, replace: bool = False
) -> None:
    """Restores every stream of a backup that was read by `read_manifest`.

    Streams that hold messages are deleted first with `replace`; empty ones always are.

    Raises:
        CallboardError: a stream holds messages, services are running, or the server does not take a snapshot.
        BusError: the bus failed; a repeat with `replace` begins anew.
    """
    for one in manifest.streams:
        await _check_target(bus, one.name, replace=replace)
    with tarfile.open(path, "r:") as archive:
        members = _members(archive)
        for one in manifest.streams:
            await _delete(bus, one.name)
            await _load(bus, one, replicas, members)
            say(f"{one.name}: {one.messages} messages")


async def _check_target(bus: Bus, name: str, *, replace: bool) -> None:
    try:
        state = (await bus.api(f"STREAM.INFO.{name}", {}))["state"]
        consumers = (await bus.api(f"CONSUMER.LIST.{name}", {})).get("consumers") or []
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        return
    if any(consumer.get("num_waiting") for consumer in consumers):
        raise _failed(f"{name} is in use; stop all services first")
    if state["last_seq"] and not replace:
        raise _failed(f"{name} holds {state['messages']} messages; --replace deletes what is there")


async def _delete(bus: Bus, name: str) -> None:
    try:
        await bus.api(f"STREAM.DELETE.{name}", {})
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise


async def _load(bus: Bus, one: StreamBackup, replicas: int, members: Iterator[tuple[str, bytes]]) -> None:
    body = {"config": {**one.config, "num_replicas": replicas}, "state": one.state}
    try:
        target = (await bus.api(f"STREAM.RESTORE.{one.name}", body, RESTORE_TIMEOUT_S))["deliver_subject"]
    except ApiError as error:
        raise _failed(f"{one.name}: the server takes no snapshot: {error}") from None
    for _ in range(one.chunks):
        _name, data = await asyncio.to_thread(next, members)
        _check_answer(one.name, await bus.request(target, data, RESTORE_TIMEOUT_S))
    _check_answer(one.name, await bus.request(target, b"", RESTORE_TIMEOUT_S))
    await _wait_for_consumers(bus, one)
    # A snapshot of a stream that is written to may hold a few messages more than its description says.
    if await _last_seq(bus, one.name) < one.last_seq:
        raise _failed(f"{one.name}: the restored stream ends before the backup does")


async def _durables(bus: Bus, name: str) -> list[str]:
    """The consumers of a stream that outlive their clients; a few at most."""
    found = (await bus.api(f"CONSUMER.LIST.{name}", {})).get("consumers") or []
    return [one["name"] for one in found if one["config"].get("durable_name")]


async def _wait_for_consumers(bus: Bus, one: StreamBackup) -> None:
    """Returns when all consumers are there: in a cluster they follow their stream, and who declared them would win."""
    try:
        async with asyncio.timeout(RESTORE_TIMEOUT_S):
            while True:
                if {*one.consumers} <= {*await _durables(bus, one.name)}:
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise _failed(f"{one.name}: its consumers did not come back") from None


def _check_answer(name: str, answer: bytes) -> None:
    error = json.loads(answer).get("error") if answer else None
    if error:
        raise _failed(f"{name}: the server refuses the snapshot: {error.get('description', '')}")


async def _last_seq(bus: Bus, name: str) -> int:
    return int((await bus.api(f"STREAM.INFO.{name}", {}))["state"]["last_seq"])


def describe(manifest: Manifest) -> list[str]:
    """What a backup holds, in lines."""
    messages = sum(one.messages for one in manifest.streams)
    lines = [f"{len(manifest.streams)} streams, {messages} messages, made at {show_time(manifest.created_at)}"]
    if manifest.changed:
        lines.append(
            f"made while the site was in use: {', '.join(manifest.changed)} changed meanwhile; after a restore, "
            "counters may be off until their hour is closed, and kudos that moved then may be lost"
        )
    return lines


@contextmanager
def _archive(path: Path) -> Generator[tarfile.TarFile]:
    path.unlink(missing_ok=True)
    with (
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        yield archive
        archive.close()
        file.flush()
        os.fsync(file.fileno())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), PRIVATE_FILE, int(time.time())
    archive.addfile(member, io.BytesIO(data))


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The chunks in order, then the manifest."""
    for member in archive:
        bound = MAX_MANIFEST_BYTES if member.name == MANIFEST else MAX_CHUNK_BYTES
        content = archive.extractfile(member) if member.size <= bound else None
        if content is None:
            raise tarfile.ReadError("an unexpected member")
        yield member.name, content.read()


def _chunk_name(stream: str, n: int) -> str:
    return f"{stream}/{n:08d}"


def _failed(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message)
