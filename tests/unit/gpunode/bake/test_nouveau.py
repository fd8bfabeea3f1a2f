"""Bakes that blacklist nouveau: the file, its copies in initramfs images, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow, preflight
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.flow import Baked
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import nouveau_blacklist
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError, GpuNodeError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers

from tests.kit.bake import bake, builds, outside, request
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import KVER, NEWER

GENERIC = "6.1.0-56-amd64"
IMAGE = f"boot/initrd.img-{GENERIC}"
MODULE = f"usr/lib/modules/{GENERIC}/kernel/drivers/gpu/drm/nouveau/nouveau.ko"
MODES = pytest.mark.parametrize("mode", ["in_place", "captured"])
UPDATE = ["update-initramfs", "-u", "-k"]


def run(node: FakeNode, **changes: Any) -> Baked:
    return bake(node, **{"kernels": KVER, **changes})


def refused(node: FakeNode, error: type[GpuNodeError], **changes: Any) -> GpuNodeError:
    """The error of a failed bake; asserts that the image is unchanged."""
    before = outside(node)
    with pytest.raises(error) as caught:
        run(node, **changes)
    assert outside(node) == before
    return caught.value


def initramfs(node: FakeNode, kver: str = GENERIC) -> list[str]:
    return (node.root / f"boot/initrd.img-{kver}").read_text().split()


def file(node: FakeNode) -> Path:
    return node.root / nouveau_blacklist.PATH


@pytest.fixture(autouse=True)
def with_nouveau(node: FakeNode) -> None:
    """The cloud kernel, which is baked for, and beside it a generic one with nouveau; both have an initramfs."""
    node.add_kernel(GENERIC)
    node.put(MODULE)
    node.put("usr/bin/lsinitramfs")
    node.put("etc/modprobe.d/other.conf", "options snd x=1\n")
    for kver in (KVER, GENERIC):
        node.put(f"boot/initrd.img-{kver}", "init\netc/modprobe.d/other.conf\n")
    node.scripts = [builds(kver=KVER)]


@MODES
def test_file_and_initramfs_come_with_the_bake_and_again_nothing_changes(node: FakeNode, mode: str) -> None:
    baked = run(node, mode=mode)
    assert file(node).read_text() == nouveau_blacklist.TEXT
    assert file(node).stat().st_mode & 0o7777 == 0o644
    assert nouveau_blacklist.TEXT.splitlines()[1:] == ["blacklist nouveau", "options nouveau modeset=0"]
    assert nouveau_blacklist.PATH in initramfs(node)
    assert node.called("update-initramfs") == [[*UPDATE, GENERIC]], "the kernel without nouveau needs none"
    assert baked.report["nouveau"]["file"] == f"/{nouveau_blacklist.PATH}"
    assert baked.report["nouveau"]["initramfs"] == [GENERIC]
    assert not [entry for layer in baked.layers for entry in layer.files if entry.path == nouveau_blacklist.PATH]
    before, node.calls[:] = node.tree(), []
    again = run(node, mode=mode)
    assert (again.changed, again.new) == (False, ())
    assert node.tree() == before
    assert not node.called("update-initramfs")
    assert not flow.would_change(node, request(mode=mode, kernels=KVER), node.root)


@MODES
def test_turned_off_a_later_bake_takes_both_away_and_builds_nothing(node: FakeNode, mode: str) -> None:
    run(node, mode=mode)
    node.calls.clear()
    assert flow.would_change(node, request(mode=mode, kernels=KVER, blacklist_nouveau=False), node.root)
    baked = run(node, mode=mode, blacklist_nouveau=False)
    assert (baked.changed, baked.new, node.driver_runs) == (True, (), [])
    assert not file(node).exists()
    assert nouveau_blacklist.PATH not in initramfs(node)
    assert baked.report["nouveau"] == {
        "blacklist": False,
        "file": "",
        "files": [],
        "says": nouveau_blacklist.decide(nouveau_blacklist.look(node.root, ()), False).says,
        "initramfs": [GENERIC],
    }
    assert not run(node, mode=mode, blacklist_nouveau=False).changed


def test_turned_off_from_the_start_nothing_is_written(node: FakeNode) -> None:
    before = outside(node)
    assert "a boot unloads it" in run(node, blacklist_nouveau=False).report["nouveau"]["says"]
    assert outside(node) == before


@MODES
def test_where_no_kernel_has_nouveau_nothing_is_written(node: FakeNode, mode: str) -> None:
    (node.root / MODULE).unlink()
    assert run(node, mode=mode).report["nouveau"]["says"] == "no installed kernel has a module of nouveau or nova_core: nothing is written"
    assert not file(node).exists()
    assert not node.called("update-initramfs")


def test_a_kernel_with_nouveau_that_goes_takes_the_file_along(node: FakeNode) -> None:
    run(node)
    (node.root / MODULE).unlink()
    assert run(node).changed
    assert not file(node).exists()
    assert nouveau_blacklist.PATH not in initramfs(node)


def test_every_kernel_that_has_nouveau_compressed_too_is_seen_to(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    node.put(f"usr/lib/modules/{NEWER}/kernel/drivers/gpu/drm/nouveau/nouveau.ko.zst")
    run(node)
    assert node.called("update-initramfs") == [[*UPDATE, GENERIC]], "the new one has no initramfs"
    node.put(f"boot/initrd.img-{NEWER}", "init\n")
    node.calls.clear()
    assert run(node).report["nouveau"]["initramfs"] == [NEWER]
    assert node.called("update-initramfs") == [[*UPDATE, NEWER]]


NOVA = nouveau_blacklist.NOVA


@MODES
def test_nova_is_kept_out_as_nouveau_is_also_by_a_bake_after_one_that_knew_only_nouveau(node: FakeNode, mode: str) -> None:
    run(node, mode=mode)
    node.put(f"usr/lib/modules/{GENERIC}/kernel/drivers/gpu/nova-core/nova-core.ko.xz")
    node.calls.clear()
    baked = run(node, mode=mode)
    assert (baked.changed, baked.new) == (True, ())
    assert (node.root / NOVA.path).read_text() == NOVA.text
    assert {NOVA.path, nouveau_blacklist.PATH} < {*initramfs(node)}
    assert node.called("update-initramfs") == [[*UPDATE, GENERIC]]
    assert baked.report["nouveau"]["files"] == [f"/{nouveau_blacklist.PATH}", f"/{NOVA.path}"]
    assert not run(node, mode=mode).changed
    run(node, mode=mode, blacklist_nouveau=False)
    assert not {NOVA.path, nouveau_blacklist.PATH} & {*initramfs(node)}
    assert not (node.root / NOVA.path).exists()


# --- dracut ----------------------------------------------------------------------------------------------------------


def made_by_dracut(node: FakeNode, hostonly: bool, *modules: str) -> None:
    """dracut makes the images, and copies /etc/modprobe.d only for one host."""

    def dracut(node: FakeNode, words: list[str]) -> Reply:
        conf = [str(p.relative_to(node.root)) for p in sorted((node.root / "etc/modprobe.d").glob("*.conf"))] if hostonly else []
        paths = ["init", "usr/lib/dracut/modules.txt", *conf, *(f"usr/lib/modules/{words[2]}/kernel/{name}" for name in modules)]
        node.put(f"boot/initrd.img-{words[2]}", "".join(f"{path}\n" for path in paths))
        return Reply()

    node.missing_programs.add("lsinitramfs")
    (node.root / "usr/bin/lsinitramfs").unlink()
    for name in ("lsinitrd", "dracut"):
        node.put(f"usr/bin/{name}")
    node.programs["update-initramfs"] = dracut
    for kver in (KVER, GENERIC):
        dracut(node, [*UPDATE[1:], kver])


def test_what_dracut_makes_is_looked_into_and_made_again(node: FakeNode) -> None:
    made_by_dracut(node, True, "drivers/gpu/drm/nouveau/nouveau.ko.xz")
    assert run(node).report["nouveau"]["initramfs"] == [GENERIC]
    assert nouveau_blacklist.PATH in initramfs(node)
    assert not run(node).changed


def test_an_image_of_dracut_without_the_module_needs_no_blacklist(node: FakeNode) -> None:
    made_by_dracut(node, False)
    assert run(node).report["nouveau"]["initramfs"] == []
    assert file(node).exists()
    assert node.called("update-initramfs") == []
    assert not run(node).changed


def test_one_with_the_module_and_no_blacklist_is_an_error_that_says_what_to_tell_dracut(node: FakeNode) -> None:
    made_by_dracut(node, False, "drivers/gpu/drm/nouveau/nouveau.ko.xz")
    error = refused(node, BuildError)
    assert error.code == "initramfs_unchanged"
    assert f'add install_items+=" /{nouveau_blacklist.PATH} " to a file in /etc/dracut.conf.d' in str(error)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param("etc/modprobe.d/mine.conf", "# no\n blacklist  nouveau\n", id="blacklist"),
        pytest.param("usr/lib/modprobe.d/mine.conf", "install nouveau /bin/false\n", id="install, in usr"),
        pytest.param("etc/modprobe.d/blacklist-nouveau.conf", "options x y=1\nalias nouveau off\n", id="alias"),
    ],
)
def test_an_owners_own_blacklist_is_enough_and_is_brought_into_the_initramfs(node: FakeNode, path: str, text: str) -> None:
    node.put(path, text)
    node.put(IMAGE, f"init\n{path}\n" if path.startswith("usr") else "init\n")
    says = run(node).report["nouveau"]["says"]
    assert f"/{path}" in says
    assert "no second one is written" in says
    assert not file(node).exists()
    assert any(name.endswith(Path(path).name) for name in initramfs(node))
    assert not run(node).changed


@pytest.mark.parametrize("chosen", [True, False])
def test_a_changed_file_is_refused_before_anything_else(node: FakeNode, chosen: bool) -> None:
    run(node)
    file(node).write_text(nouveau_blacklist.TEXT + "# mine\n")
    node.calls.clear()
    error = refused(node, PreflightError, blacklist_nouveau=chosen)
    assert (error.code, node.driver_runs) == ("nouveau_file_changed", [])
    assert f"/{nouveau_blacklist.PATH} is not what a bake writes: delete it" in str(error)


def test_a_link_of_that_name_is_not_ours(node: FakeNode) -> None:
    node.put("etc/elsewhere", nouveau_blacklist.TEXT)
    node.link(nouveau_blacklist.PATH, "../elsewhere")
    assert refused(node, PreflightError).code == "nouveau_file_changed"


# --- interrupted, failed ---------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("chosen", [True, False], ids=["coming", "going"])
def test_killed_between_file_and_initramfs_the_next_bake_completes(node: FakeNode, mode: str, chosen: bool) -> None:
    run(node, mode=mode, blacklist_nouveau=not chosen)
    if chosen:
        node.put(nouveau_blacklist.PATH, nouveau_blacklist.TEXT)
    else:
        file(node).unlink()
    assert run(node, mode=mode, blacklist_nouveau=chosen).changed
    assert (file(node).exists(), nouveau_blacklist.PATH in initramfs(node)) == (chosen, chosen)


def test_killed_while_the_file_was_written_the_next_bake_removes_the_scrap(node: FakeNode) -> None:
    scrap = node.put("etc/modprobe.d/.gpu-prebake-nouveau.conf.4711.tmp", "# Writ")
    run(node, blacklist_nouveau=False)
    assert not scrap.exists()


@MODES
def test_a_failed_build_touches_neither(node: FakeNode, mode: str) -> None:
    node.scripts = [lambda node, action: Reply(1, "boom\n")]
    error = refused(node, BuildError, mode=mode, tries=1)
    assert error.code == "build_failed"
    assert not node.called("update-initramfs")


@MODES
@pytest.mark.parametrize("chosen", [True, False], ids=["coming", "going"])
def test_an_initramfs_that_cannot_be_made_puts_everything_back(
    node: FakeNode, mode: str, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.add_kernel(NEWER)
    node.put(f"usr/lib/modules/{NEWER}/kernel/drivers/gpu/drm/nouveau/nouveau.ko.zst")
    node.put(f"boot/initrd.img-{NEWER}", "init\netc/modprobe.d/other.conf\n")
    if not chosen:
        run(node, mode=mode)
    works = node.programs["update-initramfs"]

    def fails(node: FakeNode, words: list[str]) -> Reply:
        return Reply(1, err="no space left\n") if words[-1] == NEWER else works(node, words)

    monkeypatch.setitem(node.programs, "update-initramfs", fails)
    before = outside(node)
    with pytest.raises(BuildError) as caught:
        run(node, mode=mode, blacklist_nouveau=chosen)
    assert caught.value.code == "command_failed"
    after = outside(node)
    assert {p: t for p, t in after.items() if p != IMAGE} == {p: t for p, t in before.items() if p != IMAGE}
    assert (nouveau_blacklist.PATH in initramfs(node)) is not chosen
    assert bool(layers.read_all(node.root)[0]) is not chosen, "no layer of a bake that failed, and none lost"
    monkeypatch.undo()
    assert run(node, mode=mode, blacklist_nouveau=chosen).changed
    assert {nouveau_blacklist.PATH in initramfs(node, kver) for kver in (GENERIC, NEWER)} == {chosen}


def test_a_record_that_cannot_be_written_puts_everything_back(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layers, "write", fails)
    before = outside(node)
    with pytest.raises(BuildError, match="No space"):
        run(node)
    assert outside(node) == before


def test_an_update_that_does_nothing_is_an_error(node: FakeNode) -> None:
    node.programs["update-initramfs"] = lambda node, words: Reply()
    error = refused(node, BuildError)
    assert error.code == "initramfs_unchanged"
    assert f"did not change /{IMAGE}" in str(error)
    assert "update_initramfs=no" in str(error)


def test_images_that_nobody_can_look_into_are_left_and_named(node: FakeNode) -> None:
    (node.root / "usr/bin/lsinitramfs").unlink()
    says = run(node).report["nouveau"]["says"]
    assert f"whether also in the initramfs of {GENERIC} is unknown" in says
    assert file(node).exists()
    assert not node.called("update-initramfs")


# --- other parts that meet the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False], ids=["deleted", "written"])
def test_a_driver_image_that_writes_or_deletes_the_same_path_does_not_own_it(node: FakeNode, there: bool) -> None:
    def meddles(node: FakeNode, action: str) -> Reply:
        node.put(nouveau_blacklist.PATH, nouveau_blacklist.TEXT)
        if there:
            file(node).unlink()
        return builds(kver=KVER)(node, action)

    if there:
        node.put(nouveau_blacklist.PATH, nouveau_blacklist.TEXT)
    node.scripts = [meddles]
    (layer,) = run(node).layers
    assert nouveau_blacklist.PATH not in {*(entry.path for entry in (*layer.files, *layer.originals)), *layer.replaced, *layer.deleted}
    assert file(node).read_text() == nouveau_blacklist.TEXT


@pytest.mark.parametrize("chosen", [True, False])
def test_preflight_says_what_will_be(node: FakeNode, chosen: bool) -> None:
    found = preflight.check(node.root, node, Containerd(node), request(kernels=KVER, blacklist_nouveau=chosen))
    assert (f"/{nouveau_blacklist.PATH}" in found.nouveau) is chosen
    assert not file(node).exists()
