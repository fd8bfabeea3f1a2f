"""Boots of an image whose layer a bake activated: for every machine of the image, until a boot adopts it. Also an image of 0.1.0."""

from __future__ import annotations

import shutil

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import flow as activation_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome, Step
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, LayerError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import DRIVER, RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import activation_record, layers, node_record
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree

from tests.kit.boot import INSTALL, SKIP, boot, flow_boot, lose_gpu, placed, refuses
from tests.kit.facts import in_image
from tests.kit.layer import LIBRARY, LayerNode, alter, snapshot
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import KVER, MACHINE, policy

OTHER_MACHINE = "f" * 32


@pytest.fixture
def inert(layered: LayerNode) -> dict[str, object]:
    """The files of the image before its layer was activated."""
    return placed(layered)


@pytest.fixture
def image(layered: LayerNode, layer: Manifest, inert: dict[str, object]) -> LayerNode:
    """A node that was made from an image that was baked in place."""
    activate.activate(layered.root, layered, layer, for_image=True)
    layered.calls.clear()
    return layered


def owner(node: LayerNode) -> str | None:
    """The machine id in the activation record; None without a record."""
    found = activation_record.read(node.root)
    return found.machine_id if found else None


def becomes(node: LayerNode, machine: str) -> None:
    """The disk is copied to another machine."""
    node.put("etc/machine-id", f"{machine}\n")
    shutil.rmtree(node.root / "dev", ignore_errors=True)
    (node.root / "proc/modules").write_text("")


def warned(outcome: Outcome, layer: Manifest) -> bool:
    return any(layer.layer in warning and "activated in this node's image" in warning for warning in outcome.warnings)


def test_with_a_gpu_it_takes_the_fast_path_and_adopts_the_layer(image: LayerNode) -> None:
    assert owner(image) == ""
    before = {path: what for path, what in placed(image).items() if "/lib64/" in path or "modules" in path}
    outcome = flow_boot(image)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    assert image.driver_runs == [SKIP]
    assert [step["name"] for step in outcome.steps if step["name"] in (Step.ACTIVATE_LAYER.value, Step.REMOVE_DRIVER.value)] == []
    assert owner(image) == MACHINE
    assert before.items() <= placed(image).items(), "no file was put in place again"
    again = flow_boot(image)
    assert (again.result, again.changed, again.containers) == ("ready", False, 0)


@pytest.mark.parametrize("why", ["no_gpu", "not_managed", "operator_owned", "foreign_driver"])
def test_where_no_driver_belongs_a_node_that_has_not_adopted_it_is_left_alone(image: LayerNode, layer: Manifest, why: str) -> None:
    if why == "no_gpu":
        lose_gpu(image)
    elif why == "operator_owned":
        image.put("run/nvidia/validations/.driver-ctr-ready")
    elif why == "foreign_driver":
        image.put("var/lib/dpkg/status", "Package: nvidia-driver\nVersion: 1\nStatus: install ok installed\n\n")
    before = snapshot(image.root, "none")
    outcome = flow_boot(image, policy(managed=why != "not_managed"))
    assert (outcome.result, outcome.code, outcome.changed) == ("nothing", why, False)
    assert warned(outcome, layer)
    assert {p: what for p, what in snapshot(image.root, "none").items() if not p.startswith(("run", "var/log"))} == {
        p: what for p, what in before.items() if not p.startswith(("run", "var/log"))
    }


@pytest.mark.parametrize("managed", [True, False], ids=["lost its gpu", "opted out"])
def test_a_node_that_has_adopted_it_gets_it_deactivated(image: LayerNode, inert: dict[str, object], managed: bool) -> None:
    flow_boot(image)
    if managed:
        lose_gpu(image)
    outcome = flow_boot(image, policy(managed=managed))
    assert (outcome.result, outcome.code) == ("removed", "no_gpu" if managed else "not_managed")
    assert owner(image) is None
    now = placed(image)
    assert {path: now.get(path) for path in inert if now.get(path) != inert[path]} == {}


def test_two_machines_that_are_cloned_before_the_first_boot_adopt_it_each(image: LayerNode) -> None:
    becomes(image, OTHER_MACHINE)
    assert flow_boot(image).result == "fast"
    assert owner(image) == OTHER_MACHINE
    assert image.driver_runs == [SKIP]


def test_a_copy_of_a_node_that_has_adopted_it_puts_it_in_place_anew(image: LayerNode) -> None:
    flow_boot(image)
    becomes(image, OTHER_MACHINE)
    outcome = flow_boot(image)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    names = [step["name"] for step in outcome.steps]
    assert names.index(Step.REMOVE_DRIVER.value) < names.index(Step.ACTIVATE_LAYER.value)
    assert owner(image) == OTHER_MACHINE


def test_a_copy_that_opted_out_of_a_node_that_has_adopted_it_gets_it_deactivated(image: LayerNode) -> None:
    flow_boot(image)
    becomes(image, OTHER_MACHINE)
    assert flow_boot(image, policy(managed=False)).result == "removed"
    assert owner(image) is None


def test_a_boot_that_fails_adopts_nothing(image: LayerNode) -> None:
    image.scripts = [lambda node, action: Reply(1, "no space left on device\n", seconds=5.0)]
    with pytest.raises(BootError):
        flow_boot(image)
    assert owner(image) == ""


def test_a_layer_that_is_judged_bad_goes_and_is_not_tried_again(image: LayerNode, layer: Manifest) -> None:
    image.scripts = [refuses]
    outcome = flow_boot(image)
    assert (outcome.result, outcome.code, image.driver_runs) == ("compiled", "fast_path_failed", [SKIP, INSTALL])
    assert owner(image) is None
    assert layers.why_judged_bad(image.root, layer, MACHINE)


def test_with_a_changed_file_it_is_removed_before_the_full_install(image: LayerNode) -> None:
    alter(image, LIBRARY, text="damaged")
    outcome = flow_boot(image)
    assert (outcome.result, outcome.code) == ("compiled", "contents_mismatch")
    assert owner(image) is None


def test_a_killed_removal_of_it_is_finished_also_on_a_node_that_opts_out() -> None:
    plan = decide(in_image(removal_under_way=True), policy(managed=False))
    assert plan.steps == (Step.REMOVE_DRIVER,)
    assert plan.warnings == ()


def test_on_request_it_is_deactivated_and_activated_again_for_this_machine(
    image: LayerNode, layer: Manifest, inert: dict[str, object]
) -> None:
    assert activation_flow.set_state(image, "inactive", root=image.root, live=False).changed
    assert placed(image) == inert
    activation_flow.set_state(image, "active", layer.layer, root=image.root, live=False)
    assert owner(image) == MACHINE


def test_asked_for_by_name_an_active_layer_becomes_this_machines(image: LayerNode, layer: Manifest) -> None:
    assert not activation_flow.set_state(image, "active", layer.layer, root=image.root, live=False).changed
    assert owner(image) == MACHINE


def test_a_removal_restores_what_it_replaced(image: LayerNode, inert: dict[str, object]) -> None:
    done = removal_flow.remove(image, RemoveRequest(scope=DRIVER), root=image.root)
    assert (done.result, owner(image)) == ("removed", None)
    assert placed(image) == inert


# --- an image of version 0.1.0 ---------------------------------------------------------------------------------------


def test_an_image_that_0_1_0_baked_in_place_keeps_its_driver_live_and_takes_the_fast_path(baked: FakeNode) -> None:
    (layer,) = layers.read_all(baked.root)[0]
    assert not layer.stored
    outcome = boot(baked)
    assert (outcome.result, outcome.code, baked.driver_runs) == ("fast", "baked_layer_matches", [SKIP])
    record = node_record.read(baked.root)
    assert record
    assert not record.built_here
    assert tree.problems(baked.root, layer.deciding_files) == ()
    left = boot(baked, policy(managed=False))
    assert (left.code, left.changed) == ("not_managed", False)
    assert tree.problems(baked.root, layer.deciding_files) == ()


def test_its_removal_goes_by_hash_and_gpu_layer_does_not_activate_it(baked: FakeNode) -> None:
    (layer,) = layers.read_all(baked.root)[0]
    with pytest.raises(LayerError) as caught:
        activation_flow.set_state(baked, "active", layer.layer, root=baked.root, live=False)
    assert caught.value.code == "layer_in_place"
    changed = baked.put(f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko", "the owner's")
    done = removal_flow.remove(baked, RemoveRequest(), root=baked.root)
    assert f"/usr/lib/modules/{KVER}/updates/dkms/nvidia.ko" in {item.what for item in done.left}
    assert changed.read_text() == "the owner's"
    assert not (baked.root / LIBRARY).exists()
