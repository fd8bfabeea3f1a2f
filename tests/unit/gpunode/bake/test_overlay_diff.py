"""The comparison of overlays' upper folders with the real root."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import overlay_diff, sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.overlay_diff import Captured
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.sandbox import Sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree

from tests.kit.node import FakeNode
from tests.kit.values import KVER, LOADER, NEWER, VERSION

MODULES = f"usr/lib/modules/{KVER}"


class Inside:
    """An open sandbox, and changes that are made in it."""

    def __init__(self, node: FakeNode, box: Sandbox) -> None:
        self.node = node
        self.box = box

    def put(self, path: str, text: str = "x", mode: int = 0o644) -> None:
        with self.node.in_sandbox(self.box.merged):
            self.node.put(path, text, mode)

    def do(self, change: Callable[[Path], object]) -> None:
        with self.node.in_sandbox(self.box.merged):
            change(self.box.merged)

    def copy_up(self, path: str) -> None:
        self.node.overlays[0].copied_up.append(path)
        self.node.overlays[0].sync()

    def read(self) -> Captured:
        return overlay_diff.read(self.node.root, self.box, KVER)


@pytest.fixture
def inside(node: FakeNode) -> Iterator[Inside]:
    node.put(f"{LOADER}/libGL.so.1", "the distribution's")
    node.link(f"{LOADER}/libGL.so", "libGL.so.1")
    node.put("usr/share/vulkan/icd.d/a.json", "a")
    node.put("usr/share/vulkan/icd.d/b/c.json", "c")
    node.put("usr/bin/tool", "tool", 0o755)
    node.add_kernel(NEWER)
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as box:
        yield Inside(node, box)


def paths(found: Captured) -> list[str]:
    return [e.path for e in found.files]


def test_nothing_written_is_nothing_captured_though_headers_were_hidden(inside: Inside) -> None:
    assert inside.read() == Captured((), (), (), (), (), ())


def test_what_was_added(inside: Inside) -> None:
    inside.put("usr/bin/nvidia-modprobe", "helper", 0o4755)
    inside.put("opt/azure/aks-gpu/dkms-marker", "kernel=")
    inside.do(lambda root: (root / f"{LOADER}/libcuda.so").symlink_to("libcuda.so.1"))
    found = inside.read()
    assert paths(found) == [
        *("opt/azure", "opt/azure/aks-gpu", "opt/azure/aks-gpu/dkms-marker"),
        *("usr/bin/nvidia-modprobe", f"{LOADER}/libcuda.so"),
    ]
    entries = {e.path: e for e in found.files}
    assert (entries["usr/bin/nvidia-modprobe"].mode, entries["usr/bin/nvidia-modprobe"].size) == (0o4755, 6)
    assert entries[f"{LOADER}/libcuda.so"].target == "libcuda.so.1"
    assert (found.replaced, found.deleted, found.originals) == ((), (), ())


def test_says_which_files_may_be_linked(inside: Inside) -> None:
    built_from, source = "usr/src/nvidia-1.2/nvidia/nv-kernel.o_binary", "usr/src/nvidia-1.2/nvidia/nv.c"
    for path in (built_from, source):
        inside.put(path, "x")
    linked = {entry.path: entry.linked for entry in inside.read().files}
    assert (linked[built_from], linked[source], linked["usr/src/nvidia-1.2"]) == (True, False, False)


@pytest.mark.parametrize("path", ["usr/bin/tool", f"{LOADER}/libGL.so", "usr/share/vulkan", "etc"])
def test_what_was_only_copied_up_is_no_replacement(inside: Inside, path: str) -> None:
    inside.copy_up(path)
    assert os.path.lexists(inside.box.uppers[""] / path)
    assert inside.read() == Captured((), (), (), (), (), ())


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param(lambda r: (r / f"{LOADER}/libGL.so.1").write_text("NVIDIA's"), f"{LOADER}/libGL.so.1", id="content"),
        pytest.param(lambda r: (r / "usr/bin/tool").chmod(0o4755), "usr/bin/tool", id="mode of a file"),
        pytest.param(lambda r: (r / "usr/share/vulkan").chmod(0o700), "usr/share/vulkan", id="mode of a folder"),
        pytest.param(
            lambda r: ((r / f"{LOADER}/libGL.so").unlink(), (r / f"{LOADER}/libGL.so").symlink_to("nvidia/libGL.so.1")),
            f"{LOADER}/libGL.so",
            id="target of a link",
        ),
        pytest.param(
            lambda r: ((r / f"{LOADER}/libGL.so").unlink(), (r / f"{LOADER}/libGL.so").write_text("now a file")),
            f"{LOADER}/libGL.so",
            id="a file for a link",
        ),
    ],
)
def test_what_was_replaced_is_guarded_by_what_it_was(inside: Inside, change: Callable[[Path], object], path: str) -> None:
    before = tree.describe(inside.node.root, [path])
    inside.do(change)
    found = inside.read()
    assert (paths(found), found.replaced, found.deleted) == ([path], (path,), ())
    assert found.originals == before
    assert found.files != before


def test_a_deleted_file_is_guarded_too(inside: Inside) -> None:
    inside.do(lambda root: (root / f"{LOADER}/libGL.so.1").unlink())
    found = inside.read()
    assert (found.files, found.deleted) == ((), (f"{LOADER}/libGL.so.1",))
    assert [e.sha256 for e in found.originals] == [tree.describe(inside.node.root, found.deleted)[0].sha256]


def test_a_deleted_folder_is_each_path_in_it(inside: Inside) -> None:
    inside.do(lambda root: [p.unlink() for p in (root / "usr/share/vulkan").rglob("*.json")])
    inside.do(lambda root: ((root / "usr/share/vulkan/icd.d/b").rmdir(), (root / "usr/share/vulkan/icd.d").rmdir()))
    top = "usr/share/vulkan/icd.d"
    found = inside.read()
    assert found.deleted == (top, f"{top}/a.json", f"{top}/b", f"{top}/b/c.json")
    assert tuple(e.path for e in found.originals) == found.deleted


def test_an_opaque_folder_hides_all_that_it_does_not_have(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``rm -r`` and ``mkdir``. Only root may set the attribute, so it is faked here."""
    inside.put("usr/share/vulkan/icd.d/a.json", "NVIDIA's")
    opaque = inside.box.uppers[""] / "usr/share/vulkan/icd.d"
    real = overlay_diff._attribute
    monkeypatch.setattr(overlay_diff, "_attribute", lambda p, n: b"y" if (p, n) == (opaque, overlay_diff._OPAQUE) else real(p, n))
    found = inside.read()
    assert found.replaced == ("usr/share/vulkan/icd.d/a.json",)
    assert found.deleted == ("usr/share/vulkan/icd.d/b", "usr/share/vulkan/icd.d/b/c.json")


def test_below_an_opaque_folder_everything_is_opaque(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``rm -r icd.d`` and ``mkdir -p icd.d/b``: overlayfs marks only the topmost folder."""
    inside.put("usr/share/vulkan/icd.d/b/new.json", "NVIDIA's")
    opaque = inside.box.uppers[""] / "usr/share/vulkan/icd.d"
    real = overlay_diff._attribute
    monkeypatch.setattr(overlay_diff, "_attribute", lambda p, n: b"y" if (p, n) == (opaque, overlay_diff._OPAQUE) else real(p, n))
    found = inside.read()
    assert paths(found) == ["usr/share/vulkan/icd.d/b/new.json"]
    assert found.deleted == ("usr/share/vulkan/icd.d/a.json", "usr/share/vulkan/icd.d/b/c.json")


def test_what_was_made_and_removed_again_is_nothing(inside: Inside) -> None:
    inside.put("usr/bin/scratch")
    inside.do(lambda root: (root / "usr/bin/scratch").unlink())
    os.mknod(inside.box.uppers[""] / "usr/bin/scratch.2", 0o020000, os.makedev(0, 0))
    (inside.box.uppers[""] / "usr/bin/scratch").unlink()
    assert inside.read() == Captured((), (), (), (), (), ())


@pytest.mark.parametrize("kind", ["a folder for a file", "a file for a folder", "a link for a folder"])
def test_what_changes_its_kind_with_all_below_it_is_refused_by_name(inside: Inside, kind: str) -> None:
    path = "usr/share/vulkan/icd.d" if kind.endswith("folder") else "usr/bin/tool"

    def change(root: Path) -> None:
        for below in sorted((root / path).rglob("*"), reverse=True):
            below.rmdir() if below.is_dir() else below.unlink()
        (root / path).rmdir() if kind.endswith("folder") else (root / path).unlink()
        if kind.startswith("a folder"):
            (root / path).mkdir()
        elif kind.startswith("a file"):
            (root / path).write_text("x")
        else:
            (root / path).symlink_to("elsewhere")

    inside.do(change)
    with pytest.raises(BuildError, match=f"/{path}: such a change cannot be part of a layer") as caught:
        inside.read()
    assert caught.value.code == "capture_refused"


@pytest.mark.parametrize("name", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_contents_that_lie_elsewhere_are_refused(inside: Inside, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    inside.put("usr/bin/tool", "changed")
    monkeypatch.setattr(overlay_diff, "_attribute", lambda p, n: b"/x" if n == name and p.name == "tool" else b"")
    with pytest.raises(BuildError, match=f"/usr/bin/tool has the attribute {name}"):
        inside.read()


@pytest.mark.parametrize(
    "path",
    [
        *("tmp/x", "run/x", "var/tmp/x", "var/log/nvidia-installer.log", "var/cache/ldconfig/aux-cache", "dev/nvidia0"),
        *("opt/gpu/config.sh", "opt/actions/install.sh", "var/lib/dpkg/status", "var/lib/apt/lists/x", "var/lib/containerd/x"),
        *("etc/ld.so.cache", "boot/initrd.img-6.1", "var/lib/initramfs-tools/6.1", "usr/lib/python3/__pycache__/x.pyc"),
        *(f"var/lib/dkms/nvidia/{VERSION}/build/make.log", f"usr/lib/modules/{NEWER}/modules.dep"),
        *("var/lib/dkms/mok.key", "var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.priv", "var/lib/shim-signed/mok/MOK.der"),
    ],
)
def test_never_captured_nor_reported(inside: Inside, path: str) -> None:
    inside.put(path, "written during the build")
    assert inside.read() == Captured((), (), (), (), (), ())


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("mok_signing_key=/etc/keys/dkms.key", id="plain"),
        pytest.param("mok_signing_key='/etc/keys/dkms.key' # ours", id="with a comment"),
        pytest.param("export mok_signing_key=/etc/keys/dkms.key;", id="exported"),
        pytest.param("mok_signing_key=/etc//keys/../keys/dkms.key", id="not tidy"),
        pytest.param("mok_signing_key=/etc/link/dkms.key", id="behind a link"),
        pytest.param("mok_signing_key=/etc/absolute/dkms.key", id="behind an absolute link"),
    ],
)
def test_a_key_that_dkms_is_configured_to_keep_elsewhere_is_not_captured(node: FakeNode, key: str) -> None:
    """DKMS's configuration is shell script."""
    node.put("etc/dkms/framework.conf", f"{key}\nmok_certificate=/etc/keys/dkms.pub\n")
    node.put("etc/keys/.keep")
    node.link("etc/link", "keys")
    node.link("etc/absolute", "/etc/keys")
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as box:
        inside = Inside(node, box)
        inside.put("etc/keys/dkms.key", "made during the build")
        inside.put("etc/keys/dkms.pub", "made during the build")
        assert inside.read() == Captured((), (), (), (), (), ())


@pytest.mark.parametrize("path", ["var/cache/x", "etc/ld.so.cache", "var/lib/dpkg/status", "boot/initrd.img-1", "run/x"])
def test_the_deletion_of_such_a_path_is_not_captured_either(node: FakeNode, path: str) -> None:
    node.put(path, "there before")
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as box:
        inside = Inside(node, box)
        inside.do(lambda root: (root / path).unlink())
        assert inside.read() == Captured((), (), (), (), (), ())


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        pytest.param(
            "etc/modprobe.d/blacklist-nouveau.conf", "# by x\nblacklist nouveau\noptions nouveau modeset=0\n", "nouveau", id="nouveau"
        ),
        pytest.param("usr/lib/modprobe.d/nvidia-installer-disable-nouveau.conf", "alias nouveau off\n", "nouveau", id="in usr"),
        pytest.param(
            "etc/modprobe.d/no-nova.conf", "blacklist nova-core\nblacklist nova_core\nblacklist nouveau\n", "nouveau or Nova", id="nova"
        ),
        pytest.param("etc/initramfs-tools/hooks/nvidia", "#!/bin/sh\n", "initramfs", id="hook"),
        pytest.param("etc/dracut.conf.d/nvidia.conf", "add_drivers+=nvidia\n", "initramfs", id="dracut"),
        pytest.param("root/.nvidia-settings-rc", "x", "outside the folders in which a driver may have files", id="outside"),
        pytest.param("var/lib/nvidia/state", "x", "outside the folders in which a driver may have files", id="outside in var"),
    ],
)
def test_left_out_and_reported(inside: Inside, path: str, text: str, said: str) -> None:
    inside.put(path, text)
    found = inside.read()
    assert [e.path for e in found.files if e.type != "folder"] == []
    (line,) = found.left_out
    assert line.startswith(f"/{path}: ")
    assert said in line


@pytest.mark.parametrize("text", ["options nvidia NVreg_X=1\nblacklist nouveau\n", "# empty\n", "blacklist\n", "options nvidia x=1\n"])
def test_a_modprobe_file_that_is_not_about_nouveau_alone_is_carried(inside: Inside, text: str) -> None:
    inside.put("etc/modprobe.d/nvidia.conf", text)
    assert "etc/modprobe.d/nvidia.conf" in paths(inside.read())


def test_new_folders_of_what_is_left_out_go_with_it(inside: Inside) -> None:
    inside.put(f"var/lib/dkms/nvidia/{VERSION}/build/x.o")
    inside.put("etc/initramfs-tools/hooks/nvidia")
    inside.put("etc/modprobe.d/blacklist-nouveau.conf", "blacklist nouveau\n")
    inside.do(lambda root: (root / "etc/nvidia").mkdir())
    assert paths(inside.read()) == ["etc/nvidia"], "an empty folder of the driver's own stays"


def test_a_device_is_left_out_and_reported(inside: Inside) -> None:
    inside.do(lambda root: os.mkfifo(root / "usr/bin/nvidia-pipe"))
    found = inside.read()
    assert found.files == ()
    assert found.left_out == ("/usr/bin/nvidia-pipe: neither a file, a link nor a folder",)


def test_the_deletion_of_a_pipe_is_refused_by_name(inside: Inside) -> None:
    """It could not be recorded: a manifest with such an entry is invalid."""
    os.mkfifo(inside.node.root / "etc/pipe")
    (inside.box.uppers[""] / "etc").mkdir(exist_ok=True)
    os.mknod(inside.box.uppers[""] / "etc/pipe", 0o020000, os.makedev(0, 0))
    with pytest.raises(BuildError, match="deletes /etc/pipe, which is neither") as caught:
        inside.read()
    assert caught.value.code == "capture_refused"


def test_attributes_of_the_overlay_stay_in_it_and_the_files_own_are_kept(inside: Inside) -> None:
    inside.put("usr/bin/nvidia-caps")
    try:
        os.setxattr(inside.box.merged / "usr/bin/nvidia-caps", "user.note", b"kept")
        os.setxattr(inside.box.merged / "usr/bin/nvidia-caps", "user.a", b"")
    except OSError:
        pytest.skip("this filesystem has no user attributes")
    (entry,) = inside.read().files
    assert entry.attributes == (("user.a", ""), ("user.note", base64.b64encode(b"kept").decode()))


def test_indexes_are_those_of_the_kernel_that_changed(inside: Inside) -> None:
    inside.put(f"{MODULES}/modules.dep", "nvidia.ko:\n")
    inside.put(f"{MODULES}/modules.symbols", "new\n")
    inside.put(f"usr/lib/modules/{NEWER}/modules.symbols", "another kernel's\n")
    inside.copy_up(f"{MODULES}/kernel/fs/ext4.ko")
    found = inside.read()
    assert [(i.path, bool(i.before)) for i in found.indexes] == [(f"{MODULES}/modules.dep", True), (f"{MODULES}/modules.symbols", False)]
    assert found.files == ()


def test_what_several_filesystems_hold_is_one_layer(node: FakeNode) -> None:
    node.put("proc/self/mountinfo", node.mountinfo + "30 28 8:2 / /usr rw - xfs /dev/sda2 rw\n")
    with sandbox.opened(node.root, node, KVER, "gpuprebuild-1") as box:
        for top, path in (("", "etc/ld.so.conf.d/nvidia.conf"), ("usr", "bin/nvidia-smi")):
            for base in (box.uppers[top], box.merged / top):
                (base / path).parent.mkdir(parents=True, exist_ok=True)
                (base / path).write_text("x")
        os.mknod(box.uppers["usr"] / "bin/gcc", 0o020000, os.makedev(0, 0))
        found = overlay_diff.read(node.root, box, KVER)
    assert [e.path for e in found.files if e.type == "file"] == ["etc/ld.so.conf.d/nvidia.conf", "usr/bin/nvidia-smi"]
    assert found.deleted == ("usr/bin/gcc",)
