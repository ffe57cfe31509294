"""Payloads that stay readable as long as their key, and keys that leave nothing in the server's files."""

import asyncio
import base64

import pytest

from callboard_contracts.config import Config
from callboard_contracts.streams import KEYS
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.payload_cipher import OVERHEAD_BYTES, PayloadCipher, PayloadUnreadable, erase_old_keys
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer
from tests.support.stored_files import files_with

pytestmark = pytest.mark.integration

WORDS = b'{"prompt": "what nobody else may read"}'


async def stored_keys(bus: Bus) -> dict[int, bytes]:
    state = (await bus.api(f"STREAM.INFO.{KEYS}", {}))["state"]
    seqs = range(state["first_seq"], state["last_seq"] + 1) if state["messages"] else ()
    return {
        seq: base64.b64decode((await bus.api(f"STREAM.MSG.GET.{KEYS}", {"seq": seq}))["message"]["data"])
        for seq in seqs
    }


async def test_any_process_reads_what_another_encrypted(bus: Bus, config: Config) -> None:
    other = await Bus.connect(config.nats, "other", lambda: None)
    sealed = await bus.cipher.encrypt(WORDS)
    assert WORDS not in sealed
    assert len(sealed) == len(WORDS) + OVERHEAD_BYTES
    assert await other.cipher.decrypt(sealed) == WORDS
    assert await bus.cipher.decrypt(await other.cipher.encrypt(WORDS)) == WORDS
    # The second process found the key of the first.
    assert len(await stored_keys(bus)) == 1
    await other.close()


async def test_many_that_begin_at_once_share_a_key(bus: Bus) -> None:
    sealed = await asyncio.gather(*(bus.cipher.encrypt(WORDS) for _ in range(20)))
    assert len(set(sealed)) == 20
    assert len(await stored_keys(bus)) == 1


async def test_plain_payload_of_an_older_sender_is_read_as_it_is(bus: Bus) -> None:
    assert await bus.cipher.decrypt(WORDS) == WORDS


async def test_damaged_payload_is_unreadable(bus: Bus) -> None:
    sealed = await bus.cipher.encrypt(WORDS)
    for damaged in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:20]):
        with pytest.raises(PayloadUnreadable):
            await bus.cipher.decrypt(damaged)


async def test_old_keys_are_erased_from_the_files_and_younger_ones_stay(bus: Bus, server: NatsServer) -> None:
    store = server.folder / "store"
    old = await PayloadCipher(bus).encrypt(WORDS)
    await asyncio.sleep(1.2)
    young = await PayloadCipher(bus, rotation_s=0.5).encrypt(WORDS)
    (first, first_key), (second, second_key) = (await stored_keys(bus)).items()
    assert files_with(store, first_key)
    await erase_old_keys(bus, life_s=1.0)
    assert list(await stored_keys(bus)) == [second]
    # Both keys were in one file, from which the server took the bytes of the first.
    assert files_with(store, first_key) == []
    assert files_with(store, second_key)
    with pytest.raises(PayloadUnreadable):
        await PayloadCipher(bus).decrypt(old)
    assert await PayloadCipher(bus).decrypt(young) == WORDS
    assert first < second


async def test_keys_outlive_a_killed_server(server: NatsServer, config: Config) -> None:
    before = await Bus.connect(config.nats, "before", lambda: None)
    await apply_streams(before, config)
    sealed = await before.cipher.encrypt(WORDS)
    await before.close()
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    after = await Bus.connect(config.nats, "after", lambda: None)
    assert await after.cipher.decrypt(sealed) == WORDS
    await after.close()


async def test_nothing_is_encrypted_without_the_stream_of_keys(bus: Bus) -> None:
    await bus.api(f"STREAM.DELETE.{KEYS}", {})
    with pytest.raises(BusUnavailable):
        await bus.cipher.encrypt(WORDS)
