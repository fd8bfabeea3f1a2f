"""Bakes in place: a captured layer that the bake activates in the image, for every machine that is made from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate, deactivate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.flow import Baked
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import GpuNodeError, LayerError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import ACTIVATION, ACTIVATION_JOURNAL
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.activation_record import COPY, LINK, Activation, Journal
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree

from tests.kit import layer as layernode
from tests.kit.bake import OTHER, bake, builds, outside, request
from tests.kit.layer import DELETED, LIBRARY, REPLACED, SETUID, LayerNode, snapshot
from tests.kit.reply import Reply
from tests.kit.values import IMAGE, KVER, LOADER, VERSION

OTHER_IMAGE = IMAGE.replace(VERSION, OTHER)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerNode]:
    """A build machine for whose image a driver image replaces and deletes files of the distribution."""
    with layernode.fast_folder() as folder:
        monkeypatch.setattr(paths, "LOCK", folder / "lock")
        monkeypatch.setattr("os.geteuid", lambda: 0)
        made = LayerNode(folder / "root")
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=made.kver, machine="x86_64"))
        made.scripts = [builds()]
        made.add_image(OTHER_IMAGE)
        made.put(f"{LOADER}/libc.so.6", "the system")
        yield made


def run(node: LayerNode, mode: str = "in_place", **changes: Any) -> Baked:
    return bake(node, mode=mode, **changes)


def active(node: LayerNode) -> Activation:
    found = activation_record.read(node.root)
    assert found
    return found


def of_system(node: LayerNode) -> dict[str, Any]:
    """Everything outside of the store that is not a program's scratch."""
    scratch = ("run/", "tmp/", "opt/actions", "var/log")
    return {path: what for path, what in snapshot(node.root).items() if not f"{path}/".startswith(scratch)}


def test_the_layer_is_active_for_every_machine_of_the_image(node: LayerNode) -> None:
    (layer,) = run(node).layers
    record = active(node)
    assert (record.identity, record.machine_id, record.verified) == (layer.identity, "", True)
    assert tree.problems(node.root, layer.files) == ()
    assert (node.root / SETUID).stat().st_mode & 0o7777 == 0o4755
    # Version 0.1.0 reads it as the activation of another machine, which it takes away.
    assert {"schema": 1, "machine_id": ""}.items() <= json.loads((node.root / ACTIVATION).read_text()).items()
    assert REPLACED in layer.replaced
    assert not (node.root / DELETED).exists()
    assert not (node.root / ACTIVATION_JOURNAL).exists()


def test_again_nothing_is_changed_and_no_file_is_put_in_place_again(node: LayerNode) -> None:
    run(node)
    before, record = node.tree(), active(node)
    assert not flow.would_change(node, request(mode="in_place"), node.root)
    assert not run(node).changed
    assert node.tree() == before
    assert active(node) == record


def test_the_image_is_as_before_once_the_driver_is_removed(node: LayerNode) -> None:
    before = of_system(node)
    run(node)
    assert of_system(node) != before
    removed = removal_flow.remove(node, RemoveRequest(), root=node.root)
    assert removed.result == "removed"
    assert {REPLACED, DELETED} <= {*removed.restored}
    assert of_system(node) == before


def test_the_images_growth_counts_objects_and_copies_and_no_links(node: LayerNode) -> None:
    objects = {path: path.stat().st_size for path in (node.root / paths.OBJECTS).glob("*/*")}
    assert objects == {}
    captured = run(node, "captured").report["image_growth"]
    assert captured["copied_bytes"] == 0
    growth = run(node).report["image_growth"]
    record = active(node)
    sizes = {entry.path: entry.size for entry in record.placed}
    ways = {way: sum(sizes[path] for path, how in record.how.items() if how == way) for way in (COPY, LINK)}
    assert ways[COPY]
    assert ways[LINK]
    assert growth["copied_bytes"] == ways[COPY]
    assert growth["store_bytes"] == sum(path.stat().st_size for path in (node.root / paths.OBJECTS).glob("*/*"))
    assert growth["store_bytes"] > captured["store_bytes"], "the backups of what the layer replaces"


# --- changes between bakes -------------------------------------------------------------------------------------------


def test_from_captured_to_in_place_and_back_nothing_is_built(node: LayerNode) -> None:
    before = of_system(node)
    run(node, "captured")
    inert = of_system(node)
    assert inert == before
    node.calls.clear()
    assert flow.would_change(node, request(mode="in_place"), node.root)
    assert (run(node).changed, run(node).new) == (True, ())
    assert active(node).machine_id == ""
    assert flow.would_change(node, request(mode="captured"), node.root)
    back = run(node, "captured")
    assert (back.changed, back.new, node.driver_runs) == (True, (), [])
    assert back.report["mode"] == "captured"
    assert of_system(node) == before
    assert not (node.root / ACTIVATION).exists()


def test_another_driver_takes_the_place_of_the_first(node: LayerNode) -> None:
    run(node)
    node.scripts = [builds(version=OTHER)]
    (layer,) = run(node, image=OTHER_IMAGE).layers
    assert active(node).layer == layer.layer
    assert layers.read_all(node.root) == ((layer,), ())
    assert not [path for path in node.driver_tree() if VERSION in path]
    assert node.root.joinpath(REPLACED).read_text() == "options nvidia\n"
    deactivate.deactivate(node.root, node)
    assert node.root.joinpath(REPLACED).read_text() == "options system\n", "the distribution's own, not the first driver's"


def test_a_build_that_fails_leaves_no_driver_in_place(node: LayerNode) -> None:
    before = of_system(node)
    run(node)
    node.scripts = [lambda node, action: Reply(1, "boom\n")]
    with pytest.raises(GpuNodeError):
        run(node, image=OTHER_IMAGE, tries=1)
    assert of_system(node) == before
    assert [layer.identity.version for layer in layers.read_all(node.root)[0]] == [VERSION]


def test_a_file_that_is_missing_comes_back_without_a_build(node: LayerNode) -> None:
    run(node)
    (node.root / LIBRARY).unlink()
    node.calls.clear()
    assert flow.would_change(node, request(mode="in_place"), node.root)
    again = run(node)
    assert (again.changed, again.new, node.driver_runs) == (True, (), [])
    assert tree.problems(node.root, active(node).placed) == ()


def test_a_file_that_somebody_changed_is_named(node: LayerNode) -> None:
    run(node)
    (node.root / SETUID).write_text("mine")
    with pytest.raises(LayerError, match=f"/{SETUID}: a file is there already") as caught:
        run(node)
    assert caught.value.code == "path_taken"
    assert (node.root / SETUID).read_text() == "mine"


def test_a_layer_that_is_active_on_this_machine_becomes_the_images(node: LayerNode) -> None:
    (layer,) = run(node, "captured").layers
    activate.activate(node.root, node, layer)
    assert active(node).machine_id
    assert flow.would_change(node, request(mode="in_place"), node.root)
    assert run(node).changed
    assert active(node).machine_id == ""


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_killed_between_manifest_and_activation_the_next_bake_activates(node: LayerNode, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(activate, "activate", dies)
        with pytest.raises(Killed):
            run(node)
    assert len(layers.read_all(node.root)[0]) == 1
    assert not (node.root / ACTIVATION).exists()
    node.calls.clear()
    again = run(node)
    assert (again.changed, again.new, node.driver_runs) == (True, (), [])
    assert active(node).machine_id == ""


def test_killed_inside_the_activation_the_next_bake_rolls_back_and_activates(node: LayerNode) -> None:
    run(node)
    whole, record = of_system(node), active(node)
    activation_record.write_journal(node.root, Journal(activation_record.ACTIVATE, record))
    (node.root / ACTIVATION).unlink()
    (node.root / SETUID).unlink()
    assert flow.look(node, request(mode="in_place"), node.root).kernels == (KVER,), "its files are not a foreign driver's"
    assert flow.would_change(node, request(mode="in_place"), node.root)
    node.calls.clear()
    again = run(node)
    assert (again.changed, again.new, node.driver_runs) == (True, (), [])
    assert of_system(node) == whole
    assert not (node.root / ACTIVATION_JOURNAL).exists()


def test_what_0_1_0_left_of_a_bake_in_place_is_refused_by_name(node: LayerNode, tmp_path: Path) -> None:
    node.put(paths.BAKE_JOURNAL_OF_0_1, "{}")
    before = outside(node)
    with pytest.raises(PreflightError, match="start from a fresh machine") as caught:
        run(node)
    assert caught.value.code == "bake_unfinished"
    assert (outside(node), node.driver_runs) == (before, [])
