"""What an initramfs image holds, by the programs of initramfs-tools and of dracut."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import initramfs
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.initramfs import Listing
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError

from tests.kit.node import FakeNode
from tests.kit.reply import KILLED, Reply
from tests.kit.values import DATA, KVER

IMAGE = f"boot/initrd.img-{KVER}"
DRACUTS = (DATA / "initramfs/lsinitrd-059.txt").read_text()


@pytest.fixture
def by_dracut(node: FakeNode) -> FakeNode:
    node.missing_programs.add("lsinitramfs")
    node.put("usr/bin/lsinitrd")
    node.put("usr/bin/dracut")
    node.put(IMAGE, DRACUTS)
    return node


def test_the_files_in_dracuts_listing_are_read(by_dracut: FakeNode) -> None:
    (found,) = initramfs.contents(by_dracut.root, by_dracut).values()
    assert found.is_dracuts
    assert len(found.paths) == len([line for line in DRACUTS.splitlines() if " root " in line])
    files = {path for path in found.paths if "." in path or " " in path}
    assert files == {
        *(".", "kernel/x86/microcode/GenuineIntel.bin", "etc/a name with spaces"),
        *("usr/lib/dracut/build-parameter.txt", "usr/lib/dracut/modules.txt"),
        *(f"usr/lib/modules/{KVER}{below}" for below in ("", "/kernel", "/kernel/fs", "/kernel/fs/ext4", "/kernel/fs/ext4/ext4.ko")),
    }
    assert {"bin", "init", "dev/console", "early_cpio", "var/tmp"} < {*found.paths}


def test_only_names_come_from_lsinitramfs(node: FakeNode) -> None:
    node.put("usr/bin/lsinitramfs")
    node.put(IMAGE, "./init\n./etc/a name\n\nusr\n")
    assert initramfs.contents(node.root, node) == {KVER: Listing(("init", "etc/a name", "usr"))}
    assert not initramfs.contents(node.root, node)[KVER].is_dracuts


def test_a_module_of_the_driver_is_found_in_dracuts_image(by_dracut: FakeNode) -> None:
    assert initramfs.problems(by_dracut.root, by_dracut) == ()
    line = f"-rw-r--r--   1 root     root      9876543 Jan 12 06:13 usr/lib/modules/{KVER}/updates/dkms/nvidia.ko.zst\n"
    by_dracut.put(IMAGE, DRACUTS + line)
    (problem,) = initramfs.problems(by_dracut.root, by_dracut)
    assert problem == f"/{IMAGE}: contains a module of the driver: run update-initramfs -u -k {KVER}"
    assert initramfs.holding(by_dracut.root, by_dracut, ()) == (KVER,)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(1, err="premature end of archive\n"), id="fails"),
        pytest.param(Reply(out="Image: x: 4.0K\n=====\n"), id="lists nothing"),
        pytest.param(Reply(seconds=KILLED), id="hangs"),
    ],
)
def test_an_image_that_cannot_be_read_is_not_an_empty_one(by_dracut: FakeNode, reply: Reply) -> None:
    by_dracut.programs["lsinitrd"] = lambda node, words: reply
    (problem,) = initramfs.problems(by_dracut.root, by_dracut)
    assert problem.startswith(f"/{IMAGE}: its contents cannot be listed: lsinitrd")
    with pytest.raises(CommandError):
        initramfs.contents(by_dracut.root, by_dracut)


def test_without_a_program_that_lists_it_says_which(node: FakeNode) -> None:
    node.missing_programs |= {"lsinitramfs", "lsinitrd"}
    node.put(IMAGE, "init\n")
    (problem,) = initramfs.problems(node.root, node)
    assert "lsinitramfs and lsinitrd: missing or not executable" in problem
