"""A GPU that is bound to nouveau: it is unbound if nobody uses it; otherwise a reboot is asked for (D18)."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.flow import boot
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError

from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import policy

GPU, SECOND = "0000:01:00.0", "0000:02:00.0"
FOLDER = "/sys/bus/pci/drivers/nouveau"


@pytest.fixture
def taken(node: FakeNode) -> FakeNode:
    """A baked node whose two GPUs nouveau has bound by itself, with a display device and a console."""
    for address in (GPU, SECOND):
        node.add_gpu(driver="nouveau", address=address)
    for name in ("drm/card0", "drm/renderD128", "graphics/fb0"):
        (node.root / "sys/bus/pci/devices" / GPU / name).mkdir(parents=True)
    node.insert("nouveau", "")
    node.smi = node.smi.__class__(0, "GPU 0: x\nGPU 1: x\n")
    bake_layer(node)
    return node


def booted(node: FakeNode) -> Outcome:
    return boot(node, policy(), root=node.root)[1]


def changes(node: FakeNode) -> list[str]:
    """The changes to nouveau and the modules, in order."""
    found = []
    for argv in node.calls:
        if argv[-1].startswith(FOLDER):
            found.append(f"{argv[3]} {argv[4]}")
        elif argv[:2] == ["modprobe", "-r"] or argv[0] == "udevadm":
            found.append(" ".join(argv))
    return found


def opened(node: FakeNode, device: str) -> None:
    node.put("proc/812/comm", "Xorg\n")
    node.link("proc/812/fd/7", device)


def test_an_unused_nouveau_is_unbound_unloaded_and_said(taken: FakeNode) -> None:
    opened(taken, "/dev/dri/card1")  # another graphics card's
    outcome = booted(taken)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    assert changes(taken) == [f"unbind {GPU}", f"unbind {SECOND}", "udevadm settle", "modprobe -r nouveau"]
    (step,) = [step for step in outcome.steps if step["name"] == "unload-modules"]
    assert step["modules"] == ["nouveau"]
    assert booted(taken).result == "ready"


def test_one_that_has_bound_nothing_is_only_unloaded(taken: FakeNode) -> None:
    for address in (GPU, SECOND):
        taken.add_gpu(address=address)
        (taken.root / f"sys/bus/pci/devices/{address}/driver").unlink()
    assert booted(taken).result == "fast"
    assert changes(taken) == ["modprobe -r nouveau"]


def test_one_that_is_built_into_the_kernel_is_unbound(taken: FakeNode) -> None:
    taken.put("proc/modules")
    assert booted(taken).result == "fast"
    assert changes(taken) == [f"unbind {GPU}", f"unbind {SECOND}", "udevadm settle"]


def test_where_it_has_bound_again_after_a_reboot_it_is_taken_out_before_the_modules_are_loaded(taken: FakeNode) -> None:
    booted(taken)
    taken.put("proc/modules")
    taken.put("proc/sys/kernel/random/boot_id", "another\n")
    for address in (GPU, SECOND):
        taken.link(f"sys/bus/pci/devices/{address}/driver", "../../drivers/nouveau")
    taken.insert("nouveau", "")
    taken.calls.clear()
    outcome = booted(taken)
    assert outcome.code == "already_initialised"
    assert [step["name"] for step in outcome.steps][1:] == ["unload-modules", "load-modules", "check-driver", "start-services"]
    assert changes(taken)[-1] == "modprobe -r nouveau"
    assert taken.loaded_names() == ["nvidia-uvm", "nvidia"]


@pytest.mark.parametrize("device", ["/dev/dri/card0", "/dev/dri/renderD128", "/dev/fb0"])
def test_one_that_is_in_use_is_left_and_a_reboot_is_asked_for(taken: FakeNode, device: str) -> None:
    opened(taken, device)
    before = taken.tree("sys", "proc")
    with pytest.raises(BootError) as caught:
        booted(taken)
    assert caught.value.code == "nouveau_in_use"
    assert f"nouveau drives GPU {GPU}, {SECOND}, which is in use by: Xorg (812). A reboot is needed" in str(caught.value)
    assert taken.tree("sys", "proc") == before
    assert (changes(taken), taken.driver_runs) == ([], [])


def test_one_that_cannot_be_unloaded_gets_its_gpus_back(taken: FakeNode) -> None:
    taken.held_modules = {"nouveau"}
    before = taken.tree("sys")
    with pytest.raises(BootError) as caught:
        booted(taken)
    assert caught.value.code == "nouveau_in_use"
    assert "module nouveau cannot be unloaded: modprobe: FATAL: Module nouveau is in use." in str(caught.value)
    assert taken.tree("sys") == before


def test_one_that_does_not_let_go_ends_at_its_limit(taken: FakeNode) -> None:
    taken.bound_for_good = True
    with pytest.raises(BootError, match=f"GPU {GPU} cannot be unbound from nouveau: .* timed out") as caught:
        booted(taken)
    assert caught.value.code == "nouveau_in_use"


def test_in_check_mode_it_is_planned(taken: FakeNode) -> None:
    _, outcome = boot(taken, policy(), check=True, root=taken.root)
    assert outcome.plan.steps[0].value == "unload-modules"
    assert changes(taken) == []


# --- Nova ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def novas(node: FakeNode) -> FakeNode:
    """A baked node whose GPU Nova has bound; nova-drm drives a display device of its own below it."""
    node.add_gpu(driver="NovaCore", address=GPU)
    (node.root / "sys/bus/pci/devices" / GPU / "NovaCore.nova-drm.0/drm/card0").mkdir(parents=True)
    node.insert("nova-core", "")
    node.insert("nova-drm", "")
    bake_layer(node)
    return node


def test_nova_is_unbound_and_unloaded_as_nouveau_is(novas: FakeNode) -> None:
    outcome = booted(novas)
    assert (outcome.result, outcome.code) == ("fast", "baked_layer_matches")
    (step,) = [step for step in outcome.steps if step["name"] == "unload-modules"]
    assert step["modules"] == ["nova-core", "nova-drm"]
    unbound = [argv for argv in novas.calls if argv[-1] == "/sys/bus/pci/drivers/NovaCore/unbind"]
    assert [argv[3:5] for argv in unbound] == [["unbind", GPU]]
    assert novas.loaded_names() == ["nvidia-uvm", "nvidia"]


def test_a_nova_that_is_in_use_is_named(novas: FakeNode) -> None:
    opened(novas, "/dev/dri/card0")
    with pytest.raises(BootError) as caught:
        booted(novas)
    assert caught.value.code == "nouveau_in_use"
    assert f"NovaCore drives GPU {GPU}, which is in use by: Xorg (812). A reboot is needed, with nova_core blacklisted" in str(caught.value)


def test_a_nova_that_cannot_be_unloaded_gets_its_gpu_back(novas: FakeNode) -> None:
    novas.held_modules = {"nova-core"}
    before = novas.tree("sys")
    with pytest.raises(BootError, match="module nova-core cannot be unloaded") as caught:
        booted(novas)
    assert caught.value.code == "nouveau_in_use"
    assert novas.tree("sys") == before


def test_a_nova_that_is_built_into_the_kernel_is_unbound(novas: FakeNode) -> None:
    novas.put("proc/modules")
    assert booted(novas).result == "fast"
    assert "unbind" in [argv[3] for argv in novas.calls if argv[-1].startswith("/sys/bus/pci/drivers/NovaCore/")]


def test_nova_is_unbound_again_after_a_reboot(novas: FakeNode) -> None:
    booted(novas)
    novas.put("proc/modules")
    novas.put("proc/sys/kernel/random/boot_id", "another\n")
    novas.link(f"sys/bus/pci/devices/{GPU}/driver", "../../drivers/NovaCore")
    novas.insert("nova-core", "")
    outcome = booted(novas)
    assert outcome.code == "already_initialised"
    assert [step["name"] for step in outcome.steps][1:] == ["unload-modules", "load-modules", "check-driver", "start-services"]
