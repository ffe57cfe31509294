"""What the streams and buckets of an installation are bound by."""

import pytest

from callboard_contracts.config import Config
from callboard_contracts.streams import BUCKET_ROOMS, ROOM_AUDIO, ROOMS_BYTES, buckets, streams

pytestmark = pytest.mark.unit

LEAST_MEMORY_MIB = 1536
"""`max_mem` of the manifests; the other set-ups have more."""


def test_everybody_may_open_rooms_but_not_fill_the_disk() -> None:
    config = next(bucket.config(1) for bucket in buckets() if bucket.name == BUCKET_ROOMS)
    assert (config["max_bytes"], config["discard"]) == (ROOMS_BYTES, "old")


@pytest.mark.parametrize(("life_s", "storage"), [(None, "memory"), (3600.0, "file")])
def test_what_rooms_say_is_on_disk_only_where_it_is_recorded(life_s: float | None, storage: str) -> None:
    config = Config.model_validate({"rooms": {"recording_life_s": life_s, "recording_max_mib": 64}})
    audio = next(spec.config(1) for spec in streams(config) if spec.name == ROOM_AUDIO)
    assert audio["storage"] == storage
    assert 0 < audio["max_bytes"] <= 512 * 1024 * 1024


def test_what_is_kept_in_memory_fits_the_memory_that_every_set_up_gives_the_bus() -> None:
    bounds = [spec.config(1)["max_bytes"] for spec in streams(Config()) if spec.memory]
    assert sum(bounds) <= LEAST_MEMORY_MIB * 1024 * 1024
