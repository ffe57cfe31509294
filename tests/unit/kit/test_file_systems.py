"""Which file systems keep the content of a file that takes the place of another."""

from pathlib import Path

import pytest

from callboard_kit.file_systems import orders_renames

pytestmark = pytest.mark.unit

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - xfs /dev/sda1 rw,attr2
22 21 8:2 / /srv rw,relatime - ext4 /dev/sda2 rw,discard
23 22 8:3 / /srv/fast rw - ext4 /dev/sda3 rw,noauto_da_alloc
24 22 8:4 / /srv/loose rw - ext4 /dev/sda4 rw,data=writeback
25 22 0:40 /@data /srv/my\\040data rw master:2 - btrfs /dev/sdb rw,space_cache=v2
26 22 0:41 / /srv/pool rw - zfs pool/data rw
27 22 0:42 / /srv/layers rw - overlay overlay rw,lowerdir=/a
28 22 8:5 / /srv/twice rw - ext4 /dev/sda5 rw
29 22 8:6 / /srv/twice rw - xfs /dev/sda6 rw
a line that is cut
"""


@pytest.mark.parametrize(
    ("folder", "ordered"),
    [
        ("/var/callboard", False),
        ("/srv/callboard", True),
        ("/srvother", False),
        ("/srv/fast/callboard", False),
        ("/srv/loose", False),
        ("/srv/my data/callboard", True),
        ("/srv/pool", True),
        ("/srv/layers/callboard", False),
        ("/srv/twice", False),
    ],
)
def test_the_mount_that_a_folder_is_on_decides(folder: str, *, ordered: bool, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert orders_renames(Path(folder), mounts) is ordered


def test_machine_that_does_not_tell_its_mounts_promises_nothing(tmp_path: Path) -> None:
    assert not orders_renames(tmp_path, tmp_path / "missing")
