"""What a plan consists of: its steps in their order, and its warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action, Step
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry

from tests.kit.facts import CAPTURED, GRID, LEAVING, active, inert, with_layer
from tests.kit.values import (
    MACHINE,
    NEWER,
    VERSION,
    a_marker,
    baked,
    digest,
    gpu,
    never_baked,
    policy,
    ready,
    resident,
)

NONE = Action.NONE

HELD = replace(resident(), users=1)
DAMAGED: dict[str, Any] = {"active_layer": "", "active_version": "", "activation_problem": "activation.json: not valid JSON"}
FOUND: dict[str, Any] = {"unrecorded_layers": (CAPTURED.layer,), "active_version": VERSION}
AFTER = [Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.RESTART_CONTAINERD, Step.WRITE_RECORD, Step.START_SERVICES]


@pytest.mark.parametrize(
    ("facts", "policy", "before"),
    [
        pytest.param(baked(), policy(), [], id="fast"),
        pytest.param(baked(image_present=False, config_digest=""), policy(), [Step.PULL_IMAGE], id="image not there"),
        pytest.param(baked(loaded=(resident("nouveau"),)), policy(), [Step.UNLOAD_MODULES], id="nouveau loaded"),
        pytest.param(baked(loaded=(resident(),)), policy(), [], id="the right module loaded by udev stays"),
        pytest.param(baked(loaded=(resident(version="570.1"),)), policy(), [Step.UNLOAD_MODULES], id="another version loaded"),
        pytest.param(never_baked(), policy(), [], id="install on a clean node"),
        pytest.param(never_baked(loaded=(resident("nouveau"),)), policy(), [Step.UNLOAD_MODULES], id="install over nouveau"),
        pytest.param(baked(functions=(gpu("nouveau"),)), policy(), [Step.UNLOAD_MODULES], id="nouveau built in"),
        pytest.param(baked(loaded=(resident("nova-core"),)), policy(), [Step.UNLOAD_MODULES], id="nova loaded"),
        pytest.param(baked(functions=(gpu("NovaCore"),)), policy(), [Step.UNLOAD_MODULES], id="nova built in"),
        pytest.param(inert(), policy(), [Step.ACTIVATE_LAYER], id="an inert layer is activated"),
        pytest.param(active(), policy(), [], id="an active layer stays"),
        pytest.param(
            active(active_machine_id="other", loaded=(resident(),)),
            policy(),
            [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER],
            id="a layer that another machine activated is removed first",
        ),
        pytest.param(
            inert(active_layer="another", active_machine_id=MACHINE),
            policy(),
            [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER],
            id="another active layer is removed first",
        ),
        pytest.param(inert(), policy(GRID), [], id="an inert layer of another kind needs no removal"),
        pytest.param(inert(layer_contents=("bad",)), policy(), [], id="a damaged inert layer stays in the store"),
        pytest.param(active(), policy(GRID), [Step.REMOVE_DRIVER], id="an active layer of another kind is removed first"),
        pytest.param(active(dkms=()), policy(), [Step.REMOVE_DRIVER], id="an active layer that is incomplete is removed first"),
        pytest.param(active(marker=None), policy(), [Step.REMOVE_DRIVER], id="an active layer without its marker is removed first"),
        pytest.param(active(kver=NEWER), policy(), [Step.REMOVE_DRIVER], id="an active layer for another kernel is removed first"),
        pytest.param(
            active(kver=NEWER, config_digest=digest("another")),
            policy(),
            [Step.REMOVE_DRIVER],
            id="an active layer for another kernel, of another image, is removed first",
        ),
        pytest.param(
            never_baked(active_layer="gone", active_machine_id=MACHINE),
            policy(),
            [Step.REMOVE_DRIVER],
            id="an active layer that is no longer in the store is removed first",
        ),
        pytest.param(baked(), policy(GRID), [Step.REMOVE_DRIVER], id="another kind of ours is removed first"),
        pytest.param(with_layer(version="570.1"), policy(), [Step.REMOVE_DRIVER], id="another version of ours is removed first"),
        pytest.param(baked(layer_contents=("bad",)), policy(), [Step.REMOVE_DRIVER], id="a damaged layer is removed first"),
        pytest.param(
            replace(with_layer(kver=NEWER), marker=a_marker(kernel=NEWER)), policy(), [], id="the same driver for another kernel stays"
        ),
        pytest.param(
            baked(layer_contents=("bad",), loaded=(resident(),), image_present=False, config_digest=""),
            policy(),
            [Step.PULL_IMAGE, Step.UNLOAD_MODULES, Step.REMOVE_DRIVER],
            id="all three, in order",
        ),
        pytest.param(
            never_baked(marker=a_marker(version="570.1"), dkms=(DkmsEntry("570.1"),)),
            policy(),
            [Step.REMOVE_DRIVER],
            id="a driver that only a marker records is removed first",
        ),
        pytest.param(inert(**DAMAGED), policy(), [Step.REMOVE_DRIVER], id="after a damaged activation record a removal comes first"),
        pytest.param(never_baked(**LEAVING), policy(), [Step.REMOVE_DRIVER], id="an interrupted removal is finished first"),
        pytest.param(ready(**LEAVING), policy(), [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="… of a driver that seems whole"),
        pytest.param(baked(**LEAVING), policy(), [Step.REMOVE_DRIVER], id="… of what was baked in place"),
        pytest.param(inert(**LEAVING), policy(), [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER], id="… where a layer is inert"),
        pytest.param(active(**LEAVING), policy(), [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER], id="… before the layer was deactivated"),
    ],
)
def test_what_comes_before_the_container(facts: Facts, policy: Policy, before: list[Step]) -> None:
    assert list(decide(facts, policy).steps) == [*before, Step.RUN_CONTAINER, *AFTER]


@pytest.mark.parametrize(
    ("facts", "steps"),
    [
        pytest.param(ready(), [], id="the same boot: nothing"),
        pytest.param(ready(boot_id="boot-2"), [Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES], id="boot"),
        pytest.param(ready(loaded=()), [Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES], id="not loaded"),
        pytest.param(
            ready(loaded=(resident(), resident("nvidia-uvm", state="loading"))),
            [Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES],
            id="half loaded",
        ),
        pytest.param(ready(device_nodes=False), [Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES], id="no device nodes"),
        pytest.param(
            ready(boot_id="boot-2", loaded=(resident("nouveau"),), functions=(gpu("nouveau"),)),
            [Step.UNLOAD_MODULES, Step.LOAD_MODULES, Step.CHECK_DRIVER, Step.START_SERVICES],
            id="nouveau came first",
        ),
        pytest.param(
            ready(loaded=(resident(), resident("nvidia-uvm"), resident("nouveau"))),
            [],
            id="a nouveau that has bound no GPU may stay",
        ),
    ],
)
def test_a_ready_node_gets_no_container_and_no_restart(facts: Facts, steps: list[Step]) -> None:
    assert list(decide(facts, policy()).steps) == steps


@pytest.mark.parametrize(
    ("changes", "want", "code", "steps"),
    [
        pytest.param({"functions": ()}, policy(), "no_gpu", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="lost its gpu"),
        pytest.param({}, policy(managed=False), "not_managed", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="opted out"),
        pytest.param({"operator": ("x",)}, policy(), "operator_owned", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="an operator's now"),
        pytest.param({"foreign": ("x",)}, policy(), "foreign_driver", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="another's driver"),
        pytest.param({"operator": ("x",), "loaded": (HELD,)}, policy(), "operator_owned", [Step.REMOVE_DRIVER], id="an operator's, held"),
        pytest.param({"foreign": ("x",), "loaded": (HELD,)}, policy(), "foreign_driver", [Step.REMOVE_DRIVER], id="another's, held"),
        pytest.param({"functions": (), "foreign": ("x",), "loaded": (HELD,)}, policy(), "no_gpu", [Step.REMOVE_DRIVER], id="no gpu, held"),
        pytest.param(
            {"loaded": (HELD,)}, policy(managed=False), "not_managed", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="ours alone, held"
        ),
        pytest.param(
            {"loaded": (resident(version="570.1"),)}, policy(managed=False), "not_managed", [Step.REMOVE_DRIVER], id="modules of another"
        ),
        pytest.param({"loaded": (resident("nouveau", ""),)}, policy(managed=False), "not_managed", [Step.REMOVE_DRIVER], id="nouveau"),
        pytest.param(
            {"functions": (gpu("vfio-pci"),), "loaded": ()},
            policy(),
            "gpu_passthrough",
            [Step.REMOVE_DRIVER],
            id="given to a virtual machine",
        ),
        pytest.param({"active_layer": "", "functions": ()}, policy(), "no_gpu", [], id="no layer active: nothing is done"),
        pytest.param({**DAMAGED, "functions": ()}, policy(), "no_gpu", [], id="record damaged, no layer active"),
        pytest.param(
            {"active_layer": "", "functions": (), "active_version": "", **LEAVING},
            policy(),
            "no_gpu",
            [Step.REMOVE_DRIVER],
            id="the layer was deactivated, the rest of the removal not done",
        ),
        pytest.param({**DAMAGED, **FOUND, "functions": ()}, policy(), "no_gpu", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="damaged"),
        pytest.param(
            {**DAMAGED, **FOUND, "foreign": ("x",), "loaded": (HELD,)}, policy(), "foreign_driver", [Step.REMOVE_DRIVER], id="damaged, held"
        ),
        pytest.param({**DAMAGED, **FOUND, "activation_is_newer": True, "functions": ()}, policy(), "no_gpu", [], id="of a newer layout"),
    ],
)
def test_an_active_layer_is_removed_where_no_driver_belongs(changes: dict[str, Any], want: Policy, code: str, steps: list[Step]) -> None:
    plan = decide(active(**{"loaded": (resident(),), **changes}), want)
    assert (plan.code, plan.action, list(plan.steps), plan.fails) == (code, NONE, steps, False)


@pytest.mark.parametrize("owner", ["operator", "foreign"])
def test_modules_that_may_be_another_owners_are_named(owner: str) -> None:
    facts = active(loaded=(HELD,), **{owner: ("x",)})
    assert any("nvidia" in warning and "reboot" in warning for warning in decide(facts, policy()).warnings)
    assert decide(replace(facts, loaded=()), policy()).warnings == ()


def test_without_its_image_a_plan_is_provisional() -> None:
    assert decide(baked(image_present=False, config_digest=""), policy()).provisional
    assert not decide(baked(), policy()).provisional


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        pytest.param(baked(containerd_config="[plugins]"), 'imports = ["/etc/containerd/config.d/*.toml"]', id="missing import"),
        pytest.param(baked(containerd_config="imports = ["), "cannot be told", id="configuration that is not TOML"),
        pytest.param(baked(containerd_config=None), "cannot be told", id="configuration that cannot be read"),
        pytest.param(baked(functions=(gpu(), gpu("vfio-pci", "0000:02:00.0"))), "0000:02:00.0", id="passed through"),
        pytest.param(
            never_baked(service_packages=(("nvidia-fabricmanager-570", "570.1"),)), "nvidia-fabricmanager-570 570.1", id="another's fabric"
        ),
        pytest.param(ready(**DAMAGED), "activation.json", id="activation record damaged"),
        pytest.param(inert(**DAMAGED, functions=()), "activation.json", id="the same on a node without a GPU"),
    ],
)
def test_warns(facts: Facts, word: str) -> None:
    assert any(word in warning for warning in decide(facts, policy()).warnings)
    assert decide(baked(service_packages=(("nvidia-fabricmanager-580", VERSION),)), policy()).warnings == ()
