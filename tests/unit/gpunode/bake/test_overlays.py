"""The plan of a sandbox's root, for many mount tables."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import overlays
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.overlays import Part
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import UnsupportedError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import mounts

from tests.kit.values import DATA

STORE = "/var/lib/gpu-prebake"
ROOT = "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def plan(*lines: str) -> tuple[Part, ...]:
    return overlays.plan(mounts.parse("\n".join(lines)), STORE)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param("30 28 8:2 / /usr rw - xfs /dev/sda2 rw", Part("/usr", True), id="usr"),
        pytest.param("30 28 8:2 / /var rw - btrfs /dev/sda2 rw", Part("/var", True), id="var"),
        pytest.param("30 28 8:2 / /boot rw - ext4 /dev/sda2 rw", Part("/boot", True), id="boot"),
        pytest.param("30 28 8:2 / /boot ro - ext4 /dev/sda2 ro", Part("/boot", True), id="boot, only read"),
        pytest.param("30 28 8:2 / /var/lib/dkms rw - tmpfs none rw", Part("/var/lib/dkms", True), id="a folder of the driver's"),
        pytest.param("30 28 8:15 / /boot/efi rw - vfat /dev/sda15 rw", Part("/boot/efi", False), id="no names of their own"),
        pytest.param("30 28 0:9 / /opt/tools rw - nfs4 server:/x rw", Part("/opt/tools", False), id="network"),
        pytest.param("30 28 0:9 / /opt/tools rw - fuse.sshfs server:/x rw", Part("/opt/tools", False), id="fuse"),
        pytest.param("30 28 8:3 / /home rw - ext4 /dev/sda3 rw", Part("/home", False), id="home"),
        pytest.param("30 28 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro", Part("/snap/core/1", False), id="snap"),
        pytest.param("30 28 8:1 /x /srv/x rw - overlay none rw", Part("/srv/x", False), id="an overlay where no driver goes"),
        pytest.param("30 28 0:5 / /dev rw - devtmpfs udev rw", None, id="dev"),
        pytest.param("30 28 0:5 / /run/lock rw - tmpfs tmpfs rw", None, id="run"),
        pytest.param("30 28 0:5 / /tmp rw - tmpfs tmpfs rw", None, id="tmp"),
        pytest.param("30 28 0:5 / /var/lib/nfs/rpc_pipefs rw - rpc_pipefs sunrpc rw", None, id="no files"),
        pytest.param("30 28 0:5 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw", None, id="a container's"),
        pytest.param(f"30 28 0:5 / {STORE}/captures/1-a/merged rw - overlay gpu-prebake rw", None, id="left by a killed capture"),
        pytest.param("30 28 8:3 / /variable rw - ext4 /dev/sda3 rw", Part("/variable", False), id="a longer name"),
    ],
)
def test_each_filesystem_gets_what_it_needs(line: str, part: Part | None) -> None:
    assert plan(ROOT, line) == ((Part("/", True), part) if part else (Part("/", True),))


def test_outer_before_inner_whatever_the_order_of_mounting() -> None:
    lines = [
        "31 30 8:3 / /usr/lib/modules rw - ext4 /dev/sda3 rw",
        "32 28 8:4 / /boot rw - ext4 /dev/sda4 rw",
        "30 28 8:2 / /usr rw - ext4 /dev/sda2 rw",
        ROOT,
    ]
    assert [part.point for part in plan(*lines)] == ["/", "/boot", "/usr", "/usr/lib/modules"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        pytest.param(["28 1 0:9 / / rw - overlay overlay rw"], "/ is an overlay itself (overlay)", id="container"),
        pytest.param([ROOT, "30 28 0:9 / /usr rw - overlay sysext rw"], "/usr is an overlay itself", id="system extension"),
        pytest.param([ROOT, "30 28 8:2 / /usr ro - ext4 /dev/sda2 rw"], "/usr is read-only (mount /usr, ext4)", id="usr mounted so"),
        pytest.param([ROOT, "30 28 8:2 / /usr rw - erofs /dev/sda2 ro"], "/usr is read-only (mount /usr, erofs)", id="usr is so"),
        pytest.param(["28 1 8:1 / / ro - ext4 /dev/sda1 rw"], "/usr is read-only (mount /, ext4)", id="root"),
        pytest.param(["28 1 8:1 / / ro - ext4 /dev/a rw", "30 28 8:2 / /usr rw - ext4 /dev/b rw"], "/var is read-only", id="var"),
        pytest.param(["30 28 8:2 / /usr rw - ext4 /dev/sda2 rw"], "names no root filesystem", id="no root"),
        pytest.param([], "names no root filesystem", id="empty"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(lines: list[str], said: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan(*lines)
    assert said in str(caught.value)
    assert caught.value.code == "root_unsupported"


def test_a_mount_that_another_lies_over_is_none() -> None:
    table = mounts.parse(
        "\n".join(
            [
                "22 30 0:20 / /proc rw - proc proc rw",  # mounted by an initramfs, then moved into the later root
                "1 1 0:1 / / rw - rootfs rootfs rw",
                "30 1 8:1 / / rw - ext4 /dev/sda1 rw",
                "31 30 8:2 / /usr ro - ext4 /dev/sda2 ro",
                "32 31 8:3 / /usr/src rw - ext4 /dev/sda3 rw",
                "33 31 8:4 / /usr rw - xfs /dev/sda4 rw",
            ]
        )
    )
    assert [(m.point, m.fstype) for m in mounts.visible(table)] == [("/proc", "proc"), ("/", "ext4"), ("/usr", "xfs")]
    assert overlays.plan(table, STORE) == (Part("/", True), Part("/usr", True))


def test_the_captured_table() -> None:
    table = mounts.parse((DATA / "mounts/mountinfo-native-node.txt").read_text(encoding="utf-8"))
    assert overlays.plan(table, STORE) == (Part("/", True),)
