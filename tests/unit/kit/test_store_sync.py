"""Bringing a store to the disk: who waits for which sync, and what is synced, on real files."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_kit import store_sync
from callboard_kit.bus_errors import BusUnavailable
from callboard_kit.store_sync import StoreSync

pytestmark = pytest.mark.unit

WAIT_S = 5


class Disk:
    """Takes note of each file that is synced, with its size at that moment; it can be slow, or fail."""

    def __init__(self) -> None:
        self.synced: list[tuple[str, int]] = []
        self.folders: list[str] = []
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self.error: OSError | None = None

    def fdatasync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        size = os.fstat(descriptor).st_size
        self.begun.set()
        assert self.may_end.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        if path.is_dir():
            self.folders.append(path.parent.name)
        else:
            self.synced.append((f"{path.parent.parent.name}/{path.name}", size))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    return disk


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for stream in ("USAGE", "LEASE"):
        (tmp_path / "jetstream" / "$G" / "streams" / stream / "msgs").mkdir(parents=True)
    return tmp_path


@pytest.fixture
async def sync(store: Path, disk: Disk) -> AsyncGenerator[StoreSync]:
    sync = StoreSync(store)
    yield sync
    disk.may_end.set()
    sync.close()


def block(store: Path, stream: str = "USAGE", name: str = "1.blk") -> Path:
    return store / "jetstream" / "$G" / "streams" / stream / "msgs" / name


def write(path: Path, count: int = 1, *, aged: bool = False) -> None:
    """Appends a message; `aged` as if that had been a second ago."""
    with path.open("ab") as file:
        file.write(b"x" * count)
    if aged:
        at = path.stat().st_mtime - 1
        os.utime(path, (at, at))


async def test_what_is_there_is_on_the_disk_with_its_name(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store), 7)
    await sync.on_disk("USAGE")
    assert disk.synced == [("USAGE/1.blk", 7)]
    assert disk.folders == ["USAGE"]


async def test_all_who_ask_at_once_share_one_sync_of_each_stream(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store))
    write(block(store, "LEASE"))
    await asyncio.gather(*(sync.on_disk(stream) for stream in ["USAGE", "LEASE"] * 20))
    assert sorted(disk.synced) == [("LEASE/1.blk", 1), ("USAGE/1.blk", 1)]


async def test_who_asks_while_a_sync_runs_waits_for_the_next(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store), 1)
    disk.may_end.clear()
    first = asyncio.ensure_future(sync.on_disk("USAGE"))
    assert await asyncio.to_thread(disk.begun.wait, WAIT_S)
    write(block(store), 1)
    second = asyncio.ensure_future(sync.on_disk("USAGE"))
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not second.done()
    disk.may_end.set()
    await asyncio.gather(first, second)
    assert disk.synced[-1] == ("USAGE/1.blk", 2)


async def test_who_has_time_waits_for_others_and_is_taken_along_by_who_has_none(
    store: Path, sync: StoreSync, disk: Disk
) -> None:
    write(block(store))
    write(block(store, "LEASE"))
    later = [asyncio.ensure_future(sync.on_disk("USAGE", within_s=within_s)) for within_s in (0.2, 30, 60)]
    await asyncio.sleep(0.1)
    assert disk.synced == []
    await asyncio.wait_for(asyncio.gather(*later), WAIT_S)
    assert disk.synced == [("USAGE/1.blk", 1)]
    disk.synced.clear()
    write(block(store))
    later = [asyncio.ensure_future(sync.on_disk("USAGE", within_s=30))]
    await asyncio.sleep(0)
    await asyncio.wait_for(sync.on_disk("LEASE"), WAIT_S)
    await asyncio.wait_for(asyncio.gather(*later), WAIT_S)
    assert sorted(disk.synced) == [("LEASE/1.blk", 1), ("USAGE/1.blk", 2)]


async def test_only_what_changed_is_synced_again(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store), aged=True)
    write(block(store, name="2.blk"), aged=True)
    await sync.on_disk("USAGE")
    disk.synced.clear()
    disk.folders.clear()
    await sync.on_disk("USAGE")
    assert disk.synced == []
    write(block(store))
    await sync.on_disk("USAGE")
    assert disk.synced == [("USAGE/1.blk", 2)], "an older file can change too, as when a message is erased"
    assert disk.folders == []


async def test_change_within_the_same_tick_of_the_clock_is_not_missed(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store), 3)
    await sync.on_disk("USAGE")
    same = block(store).stat()
    block(store).write_bytes(b"yyy")
    os.utime(block(store), ns=(same.st_atime_ns, same.st_mtime_ns))
    await sync.on_disk("USAGE")
    assert disk.synced == [("USAGE/1.blk", 3)] * 2


async def test_file_in_the_place_of_another_is_synced(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store), aged=True)
    await sync.on_disk("USAGE")
    before = block(store).stat()
    write(block(store, name="new"), 1)
    os.utime(block(store, name="new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    block(store, name="new").rename(block(store))
    await sync.on_disk("USAGE")
    assert disk.synced == [("USAGE/1.blk", 1)] * 2


async def test_stream_in_memory_has_nothing_to_wait_for(sync: StoreSync, disk: Disk) -> None:
    await asyncio.wait_for(sync.on_disk("OUT"), WAIT_S)
    assert disk.synced == []


async def test_disk_that_fails_is_an_error_and_the_next_sync_is_tried(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store))
    disk.error = OSError(5, "Input/output error")
    with pytest.raises(BusUnavailable):
        await sync.on_disk("USAGE")
    disk.error = None
    await sync.on_disk("USAGE")
    assert disk.synced == [("USAGE/1.blk", 1)]


async def test_nobody_waits_for_a_disk_that_does_not_answer(
    store: Path, sync: StoreSync, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sync, "SYNC_TIMEOUT_S", 0.1)
    write(block(store))
    disk.may_end.clear()
    first = asyncio.ensure_future(sync.on_disk("USAGE"))
    assert await asyncio.to_thread(disk.begun.wait, WAIT_S)
    second = asyncio.ensure_future(sync.on_disk("LEASE"))
    for waiting in (first, second):
        with pytest.raises(BusUnavailable):
            await asyncio.wait_for(waiting, WAIT_S)
    disk.may_end.set()
    await asyncio.wait_for(sync.on_disk("USAGE"), WAIT_S)


async def test_who_is_cancelled_leaves_the_others_waiting(store: Path, sync: StoreSync, disk: Disk) -> None:
    write(block(store))
    disk.may_end.clear()
    first, second = (asyncio.ensure_future(sync.on_disk("USAGE")) for _ in range(2))
    assert await asyncio.to_thread(disk.begun.wait, WAIT_S)
    first.cancel()
    await asyncio.sleep(0)
    disk.may_end.set()
    await asyncio.wait_for(second, WAIT_S)
    assert first.cancelled()


async def test_end_of_the_process_fails_whoever_asks(store: Path, sync: StoreSync) -> None:
    write(block(store))
    sync.close()
    with pytest.raises(BusUnavailable):
        await sync.on_disk("USAGE")
