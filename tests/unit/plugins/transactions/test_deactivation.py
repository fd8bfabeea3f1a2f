"""Taking a captured layer away that somebody or something has changed since, on real files below a fake root."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import activated, activation
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.manifest import Manifest

from tests.unit.plugins.layernode import DELETED, LIBRARY, MODULE, MODULES, REPLACED, SETUID, LayerNode, refused, remove, snapshot
from tests.unit.plugins.support import DROPIN, KVER, LIBRARIES, LOADER, NEWER, VERSION

DKMS_COPY = f"var/lib/dkms/nvidia/{VERSION}/{KVER}/x86_64/module/nvidia.ko"
DKMS_TREE = f"var/lib/dkms/nvidia/{VERSION}"


# --- taking away what was changed since ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        pytest.param(SETUID, lambda p: p.write_text("other"), "its sha256 was changed", id="copy overwritten"),
        pytest.param(SETUID, lambda p: p.chmod(0o755), "its mode was changed", id="copy chmodded"),
        pytest.param(LIBRARY, lambda p: p.write_text("other"), "its sha256 was changed", id="link overwritten in place"),
        pytest.param(LIBRARY, lambda p: p.chmod(0o4755), "its mode was changed", id="link chmodded"),
        pytest.param(f"{LIBRARIES}/libcuda.so.1", lambda p: (p.unlink(), p.symlink_to("x")), "its target was changed", id="other target"),
        pytest.param(REPLACED, lambda p: p.write_text("mine"), "its sha256 was changed", id="replaced and edited"),
        pytest.param(DELETED, lambda p: p.write_text("mine"), "it came", id="deleted and made anew"),
    ],
)
def test_what_the_owner_changed_is_kept_and_named(
    node: LayerNode, layer: Manifest, active: activated.Activation, path: str, change: Callable[[Path], object], why: str
) -> None:
    change(node.root / path)
    changed = snapshot(node.root)[path]
    problems = activation.verify(node.root)
    assert path == DELETED or any(path in problem for problem in problems)
    done = activation.deactivate(node.root, node)
    assert [word for word in done.kept if f"/{path}: " in word] == [f"/{path}: {why} after the layer was put in place"]
    assert snapshot(node.root)[path] == changed
    assert not (node.root / MODULE).exists()
    assert activated.read(node.root) is None


@pytest.mark.parametrize("change", [lambda p: p.chmod(0o4755), lambda p: p.write_text("other")], ids=["chmod", "overwritten"])
def test_an_object_that_was_altered_through_its_link_is_never_placed_again(
    node: LayerNode, layer: Manifest, active: activated.Activation, change: Callable[[Path], None]
) -> None:
    change(node.root / MODULE)
    activation.deactivate(node.root, node)
    remove(node, MODULE)
    remove(node, DKMS_COPY)
    refused(node, layer, "layer_damaged", "/usr/lib/modules")


def test_active_and_changed_is_an_error_that_names_the_file(node: LayerNode, layer: Manifest, active: activated.Activation) -> None:
    (node.root / SETUID).write_text("other")
    with pytest.raises(LayerError, match=SETUID) as caught:
        activation.activate(node.root, node, layer)
    assert caught.value.code == "activation_changed"


def test_a_file_of_somebody_else_keeps_its_folder(node: LayerNode, active: activated.Activation) -> None:
    node.put(f"{LIBRARIES}/mine.txt", "mine")
    done = activation.deactivate(node.root, node)
    assert (node.root / LIBRARIES / "mine.txt").read_text() == "mine"
    assert f"/{LIBRARIES}: the folder holds something else" in done.kept


def test_a_missing_file_is_no_matter_and_a_missing_replacement_is_restored(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activation.activate(node.root, node, layer)
    remove(node, LIBRARY)
    remove(node, REPLACED)
    assert activation.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_nothing_is_removed_behind_a_link(node: LayerNode, active: activated.Activation) -> None:
    """An owner moved the folder away, and a link to the copy is in its place."""
    (node.root / "srv").mkdir()
    (node.root / LIBRARIES).rename(node.root / "srv/lib64")
    node.link(LIBRARIES, "/srv/lib64")
    (node.root / LIBRARIES).unlink()
    (node.root / LIBRARIES).symlink_to(node.root / "srv/lib64")
    done = activation.deactivate(node.root, node)
    assert (node.root / "srv/lib64" / f"libcuda.so.{VERSION}").exists()
    assert any(f"/{LIBRARY}: its folder became a link" in word for word in done.kept)


def test_second_copies_are_not_looked_for_behind_a_link(node: LayerNode, active: activated.Activation) -> None:
    """An absolute link in an image that lies mounted leads to the machine that looks at it."""
    elsewhere = node.root.parent / "elsewhere"
    (node.root / LOADER).rename(elsewhere)
    (node.root / LOADER).symlink_to(elsewhere)
    copy = elsewhere / f"libcuda.so.{VERSION}"
    copy.write_bytes((node.root / LIBRARY).read_bytes())
    activation.deactivate(node.root, node)
    assert copy.exists()


def test_second_copies_are_found_by_name_and_content(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activation.activate(node.root, node, layer)
    node.initialise_device()
    node._do_ldconfig([])
    other = node.put(f"{LOADER}/other.txt", "other")
    done = activation.deactivate(node.root, node)
    assert set(done.second_copies) == {
        f"{LOADER}/{name}" for lib in ("libcuda", "libnvidia-ml") for name in (f"{lib}.so.1", f"{lib}.so.{VERSION}")
    }
    other.unlink()
    after = snapshot(node.root)
    left = {path for path in {*before, *after} if before.get(path) != after.get(path) and after.get(path, (0,))[0] != stat.S_IFDIR}
    assert left == {DROPIN, "usr/lib/udev/rules.d/71-nvidia-dev-char.rules"}


def test_a_second_copy_with_another_content_or_of_a_package_stays(node: LayerNode, active: activated.Activation) -> None:
    node.put(f"{LOADER}/libcuda.so.{VERSION}", "another")
    node.put(f"{LOADER}/libnvidia-ml.so.{VERSION}", f"libnvidia-ml {VERSION}")
    node.put("var/lib/dpkg/info/libnvidia-ml1.list", f"/{LOADER}/libnvidia-ml.so.{VERSION}\n")
    done = activation.deactivate(node.root, node)
    assert (node.root / LOADER / f"libcuda.so.{VERSION}").exists()
    assert (node.root / LOADER / f"libnvidia-ml.so.{VERSION}").exists()
    assert any("libnvidia-ml" in word and "package owns" in word for word in done.kept)


@pytest.mark.parametrize("fails", [False, True], ids=["built", "a build that failed"])
def test_what_dkms_has_built_from_the_layers_source_goes_with_it(node: LayerNode, layer: Manifest, fails: bool) -> None:
    node.add_kernel(NEWER)
    before = snapshot(node.root)
    activation.activate(node.root, node, layer)
    node.kernel_hook_builds(NEWER)
    if fails:
        node.put(f"{DKMS_TREE}/build/make.log", "error")
        node.link(f"{DKMS_TREE}/build/source", "nowhere")
    assert activation.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before
    assert ["depmod", "-b", str(node.root), NEWER] in node.calls


def test_a_build_anew_for_the_layers_own_kernel_goes_too(node: LayerNode, layer: Manifest) -> None:
    before = snapshot(node.root)
    activation.activate(node.root, node, layer)
    node.kernel_hook_builds(KVER)
    assert activation.deactivate(node.root, node).kept == []
    assert snapshot(node.root) == before


def test_another_kernels_module_that_dkms_has_not_built_stays_and_is_named(node: LayerNode, active: activated.Activation) -> None:
    theirs = node.kernel_hook_builds(NEWER)[0]
    node.put(theirs, "the owner's")
    done = activation.deactivate(node.root, node)
    assert done.kept_paths == {theirs}
    assert (node.root / theirs).read_text() == "the owner's"


def test_a_registration_whose_sources_are_a_packages_now_stays(node: LayerNode, active: activated.Activation) -> None:
    """A distribution's DKMS package of the same version uses just these paths; its files may equal ours."""
    source = f"usr/src/nvidia-{VERSION}"
    node.put("var/lib/dpkg/info/nvidia-dkms-580.list", f"/{source}\n/{source}/dkms.conf\n")
    built = node.kernel_hook_builds(NEWER)
    done = activation.deactivate(node.root, node)
    stay = {f"{source}/dkms.conf", f"{DKMS_TREE}/source", MODULE, DKMS_COPY, *built}
    assert {path for path in stay if not os.path.lexists(node.root / path)} == set()
    assert done.kept_paths >= stay - {*built}
    assert "updates/dkms/nvidia.ko" in (node.root / MODULES / "modules.dep").read_text()
    assert not (node.root / LIBRARY).exists()


def test_links_that_ldconfig_made_go_with_their_libraries(node: LayerNode, active: activated.Activation) -> None:
    node.link(f"{LIBRARIES}/libcuda.so", f"libcuda.so.{VERSION}")
    node.link(f"{LIBRARIES}/libmine.so", "libmine.so.1")
    activation.deactivate(node.root, node)
    assert sorted(p.name for p in (node.root / LIBRARIES).iterdir()) == ["libmine.so"]
