"""The decision: one row for every code that it can give, and what holds for any facts at all."""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import decide as decide_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import ladder
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action, Step
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.marker import differences as marker_differences
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.values import (
    IMAGE,
    KVER,
    MACHINE,
    NEWER,
    SIGNER,
    VERSION,
    a_marker,
    a_record,
    baked,
    captured,
    digest,
    gpu,
    identity,
    manifest,
    module,
    never_baked,
    policy,
    ready,
    resident,
)

HELD = replace(resident(), users=1)
NONE, SKIP, INSTALL = Action.NONE, Action.INSTALL_SKIP_BUILD, Action.INSTALL
OTHER_IMAGE = f"registry.lab:5000/aks/aks-gpu-cuda:{VERSION}-20260501000000"
OLD = "registry.lab:5000/aks/aks-gpu-cuda:550.90.07-20260430040408"
NEW = "registry.lab:5000/aks/aks-gpu-cuda:595.58.03-20260430040408"
GRID = f"registry.lab:5000/aks/aks-gpu-grid:{VERSION}-20260430040408"


def layer(**changes: str) -> Any:
    return manifest(identity(**changes))


def with_layer(**changes: str) -> Facts:
    return baked(layers=(layer(**changes),))


def of_flavour(flavour: str, *gpus: Any) -> Facts:
    licence = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}[flavour]
    return baked(layers=(layer(flavour=flavour),), module=module(licence=licence), functions=gpus or (gpu(),))


CAPTURED = captured()


def inert(**changes: Any) -> Facts:
    """A node with a captured layer in its store, and nothing of it in place."""
    return never_baked(**{"layers": (CAPTURED,), "layer_contents": (), "module": module(), "uvm": module("nvidia-uvm"), **changes})


def active(**changes: Any) -> Facts:
    """The same with the layer put in place on this machine."""
    return baked(
        **{"layers": (CAPTURED,), "active_layer": CAPTURED.layer, "active_machine_id": MACHINE, "active_version": VERSION, **changes}
    )


SIGNED = baked(layers=(manifest(signer=SIGNER),))


def enforced(facts: Facts, *trusted: str) -> Facts:
    """The same node where signatures are enforced, and a signer is trusted: that of ``SIGNED``, unless others are given."""
    return replace(facts, signatures_enforced=True, trusted_keys=trusted or (SIGNER.key_id,))


DAMAGED: dict[str, Any] = {"active_layer": "", "active_version": "", "activation_problem": "activation.json: not valid JSON"}
LEAVING: dict[str, Any] = {"removal_under_way": True}
FOUND: dict[str, Any] = {"unrecorded_layers": (CAPTURED.layer,), "active_version": VERSION}


def row(name: str, facts: Facts, code: str, action: Action, policy: Policy = policy(), **more: Any) -> Any:  # noqa: B008
    return pytest.param(facts, policy, code, action, more.get("fails", False), id=name)


ANY_DIGEST = policy(require_digest=False)

PLANS = [
    # left alone
    row("not managed", baked(), "not_managed", NONE, policy(managed=False)),
    row("not managed, even of an unknown architecture", never_baked(arch=None), "not_managed", NONE, policy(managed=False)),
    row("riscv64", never_baked(arch=None, machine="riscv64"), "unsupported_arch", NONE, fails=True),
    row("gpu operator", baked(operator=("/run/nvidia/validations/driver-ready",)), "operator_owned", NONE),
    row("no gpu", baked(functions=()), "no_gpu", NONE),
    row("a switch is no gpu", baked(functions=(gpu(pci_class="068000"),)), "no_gpu", NONE),
    row("all passed through", baked(functions=(gpu("vfio-pci"), gpu("vfio-pci", "0000:02:00.0"))), "gpu_passthrough", NONE),
    row("another's driver", baked(foreign=("package nvidia-driver",)), "foreign_driver", NONE),
    # errors before anything
    row("gpu newer than the driver", baked(functions=(gpu(device="2901"),)), "gpu_not_supported", NONE, policy(OLD), fails=True),
    row("gpu older than the driver", baked(functions=(gpu(device="1db4"),)), "gpu_not_supported", NONE, policy(NEW), fails=True),
    row("gpu newer than the driver, passed through", baked(functions=(gpu(), gpu("vfio-pci", "0000:02:00.0", device="2901"))),
        "version_mismatch", INSTALL, policy(OLD)),
    row("gpu expected, none there", baked(functions=()), "gpu_missing", NONE, policy(expected_gpus=1), fails=True),
    row("one of two gpus", baked(), "gpu_missing", NONE, policy(expected_gpus=2), fails=True),
    row("no containerd", baked(containerd_ready=False), "containerd_unavailable", NONE, fails=True),
    row("no containerd, none needed", ready(containerd_ready=False, image_present=False, config_digest=""), "already_initialised", NONE),
    # the fast path
    row("baked for exactly this", baked(), "baked_layer_matches", SKIP),
    row("one of two passed through", baked(functions=(gpu(), gpu("vfio-pci", "0000:02:00.0"))), "baked_layer_matches", SKIP),
    row("one of two layers", baked(layers=(layer(kver=NEWER), manifest())), "baked_layer_matches", SKIP),
    row("loaded by udev, no record", baked(loaded=(resident(),)), "baked_layer_matches", SKIP),
    row("image collected meanwhile", baked(image_present=False, config_digest=""), "baked_layer_matches", SKIP),
    row("digest not asked for and unknown", baked(config_digest=""), "baked_layer_matches", SKIP, ANY_DIGEST),
    row("marker alone, digest not asked for", baked(layers=(), layer_contents=None), "marker_matches", SKIP, ANY_DIGEST),
    row("signed by a trusted key where enforced", enforced(SIGNED), "baked_layer_matches", SKIP),
    row("captured, signed by a trusted key where enforced", enforced(inert(layers=(replace(CAPTURED, signer=SIGNER),))),
        "baked_layer_matches", SKIP),
    row("open modules, Blackwell", baked(functions=(gpu(device="2901"),)), "baked_layer_matches", SKIP),
    row("proprietary modules, Hopper", of_flavour("proprietary"), "baked_layer_matches", SKIP),
    row("captured, inert", inert(), "baked_layer_matches", SKIP),
    row("captured, inert, on a node with nothing of it in DKMS and no marker", inert(dkms=(), marker=None), "baked_layer_matches", SKIP),
    row("captured, active, not initialised", active(), "baked_layer_matches", SKIP),
    row("captured, active on another machine", active(active_machine_id="other"), "baked_layer_matches", SKIP),
    row("broken record does not hurt", baked(record_problem="bad"), "baked_layer_matches", SKIP),
    row("copied disk", ready(machine_id="other"), "baked_layer_matches", SKIP),
    row("interrupted after the container", ready(record=a_record(state="started")), "baked_layer_matches", SKIP),
    # full install
    row("never baked", never_baked(), "never_baked", INSTALL),
    row("kernel", replace(with_layer(kver=NEWER), marker=a_marker(kernel=NEWER)), "kernel_mismatch", INSTALL),
    row("kind", baked(), "kind_mismatch", INSTALL, policy(GRID)),
    row("version", with_layer(version="570.1"), "version_mismatch", INSTALL),
    row("arch", with_layer(arch="aarch64"), "arch_mismatch", INSTALL),
    row("flavour", baked(), "flavour_mismatch", INSTALL, policy(flavour="proprietary")),
    row("digest", baked(config_digest=digest("other")), "digest_mismatch", INSTALL),
    row("another digest, though not asked for", baked(config_digest=digest("other")), "digest_mismatch", INSTALL, ANY_DIGEST),
    row("digest unknown", baked(config_digest=""), "digest_unknown", INSTALL),
    row("layer of unknown digest", with_layer(config_digest=""), "digest_mismatch", INSTALL),
    row("kind before kernel", replace(with_layer(kind="grid", kver=NEWER), marker=None), "kind_mismatch", INSTALL),
    row("image without the action", baked(layers=(manifest(actions=("copy", "install")),)), "action_unknown", INSTALL),
    row("no module", baked(module=None), "module_missing", INSTALL),
    row("no uvm", baked(uvm=None), "module_missing", INSTALL),
    row("vermagic", baked(module=module(vermagic=f"{NEWER} SMP")), "vermagic_mismatch", INSTALL),
    row("vermagic of uvm", baked(uvm=module("nvidia-uvm", vermagic=f"{NEWER} SMP")), "vermagic_mismatch", INSTALL),
    row("no vermagic", baked(module=module(vermagic="")), "vermagic_mismatch", INSTALL),
    row("module version", baked(module=module(version="570.1")), "module_version_mismatch", INSTALL),
    row("no module version", baked(module=module(version="")), "module_version_mismatch", INSTALL),
    row("uvm of another version", baked(uvm=module("nvidia-uvm", version="570.1")), "module_version_mismatch", INSTALL),
    row("licence", baked(module=module(licence="NVIDIA")), "module_flavour_mismatch", INSTALL),
    row("unknown licence", baked(module=module(licence="")), "module_flavour_mismatch", INSTALL),
    row("unknown licence, marker alone", baked(layers=(), layer_contents=None, module=module(licence="")), "module_flavour_mismatch",
        INSTALL, ANY_DIGEST),
    row("dkms empty", baked(dkms=()), "dkms_not_registered", INSTALL),
    row("dkms added only", baked(dkms=(DkmsEntry(VERSION),)), "dkms_not_registered", INSTALL),
    row("dkms built only", baked(dkms=(DkmsEntry(VERSION, KVER, "x86_64", "built"),)), "dkms_not_registered", INSTALL),
    row("dkms for another kernel", baked(dkms=(DkmsEntry(VERSION, NEWER, "x86_64", "installed"),)), "dkms_not_registered", INSTALL),
    row("dkms twice", baked(dkms=(DkmsEntry("570.1"), DkmsEntry(VERSION, KVER, "x86_64", "installed"))), "dkms_ambiguous", INSTALL),
    row("no marker", baked(marker=None), "marker_missing", INSTALL),
    row("marker of another kind", baked(marker=a_marker(kind="grid")), "marker_mismatch", INSTALL),
    row("marker without a version", baked(marker=a_marker(version=None)), "marker_mismatch", INSTALL),
    row("marker without arch", baked(marker=a_marker(arch=None)), "marker_mismatch", INSTALL),
    row("broken marker", baked(marker=None, marker_problem="bad"), "marker_invalid", INSTALL),
    row("broken marker alone", never_baked(marker_problem="bad"), "marker_invalid", INSTALL),
    row("marker alone", baked(layers=(), layer_contents=None), "no_manifest", INSTALL),
    row("marker alone, another kernel", baked(layers=(), layer_contents=None, marker=a_marker(kernel=NEWER)), "marker_mismatch",
        INSTALL, ANY_DIGEST),
    row("broken manifest", baked(layers=(), layer_problems=("m: bad",), layer_contents=None), "manifest_invalid", INSTALL),
    row("contents", baked(layer_contents=("/usr/lib/x: its sha256 changed since it was recorded",)), "contents_mismatch", INSTALL),
    row("contents not looked at", baked(layer_contents=None), "contents_unverified", INSTALL),
    row("proprietary modules, Blackwell", of_flavour("proprietary", gpu(device="2901")), "gpu_refuses_modules", INSTALL),
    row("proprietary modules, Hopper and Blackwell", of_flavour("proprietary", gpu(), gpu(address="0000:02:00.0", device="2901")),
        "gpu_refuses_modules", INSTALL),
    row("open modules, Volta", baked(functions=(gpu(device="1db4"),)), "gpu_refuses_modules", INSTALL),
    row("gpu of no known generation", baked(functions=(gpu(device="ffff"),)), "gpu_unknown", INSTALL),
    row("marker alone, gpu of no known generation", baked(layers=(), layer_contents=None, functions=(gpu(device="ffff"),)), "gpu_unknown",
        INSTALL, ANY_DIGEST),
    row("installed on a node that now has another GPU", ready(functions=(gpu(device="1db4"),)), "gpu_refuses_modules", INSTALL),
    row("captured, cannot be placed", inert(layer_obstacle="/usr/x: a file is there already"), "layer_unplaceable", INSTALL),
    row("captured, judged bad", inert(layers_judged_bad={CAPTURED.layer: "nvidia-smi says 18"}), "layer_judged_bad", INSTALL),
    row("captured, objects damaged", inert(layer_contents=("object: sha256",)), "contents_mismatch", INSTALL),
    row("captured, active, DKMS's entry gone", active(dkms=()), "dkms_not_registered", INSTALL),
    row("captured, active, marker gone", active(marker=None), "marker_missing", INSTALL),
    row("record of what is in place damaged", inert(activation_problem="bad"), "activation_invalid", INSTALL),
    row("record of what is in place damaged, files in place", inert(activation_problem="bad", unrecorded_layers=(CAPTURED.layer,)),
        "activation_invalid", INSTALL),
    row("journal damaged", active(activation_problem="bad"), "activation_invalid", INSTALL),
    row("record of what is in place damaged, nothing baked", never_baked(activation_problem="bad"), "activation_invalid", INSTALL),
    row("record of what is in place of a newer layout", inert(activation_problem="bad", activation_is_newer=True),
        "activation_invalid", NONE, fails=True),
    row("record of another version", never_baked(record=a_record(identity=identity(version="570.1")), record_contents=()),
        "never_baked", INSTALL),
    # enforced signatures: no compile that cannot be loaded
    row("unsigned where enforced", baked(signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("never baked where enforced", never_baked(signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("signed by another key than the trusted", enforced(SIGNED, "bb"), "signatures_enforced", NONE, fails=True),
    row("signed, and nothing trusted", replace(SIGNED, signatures_enforced=True, trusted_keys=()), "signatures_enforced", NONE, fails=True),
    row("signed, and the keyrings cannot be read", replace(SIGNED, signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("signed by whom no record tells", enforced(baked(module=module(signer="k"), uvm=module(signer="k"))),
        "signatures_enforced", NONE, fails=True),
    row("marker alone where enforced", enforced(baked(layers=(), layer_contents=None)), "signatures_enforced", NONE, ANY_DIGEST,
        fails=True),
    row("DKMS signs with a trusted key", enforced(never_baked(install_signer="a1" * 20)), "never_baked", INSTALL),
    row("DKMS signs with a key that is not trusted", enforced(never_baked(install_signer="bb")), "signatures_enforced", NONE,
        fails=True),
    row("DKMS signs, and the keyrings cannot be read", never_baked(signatures_enforced=True, install_signer="bb"),
        "signatures_enforced", NONE, fails=True),
    row("compiled here, enforced since", enforced(ready(loaded=(), boot_id="boot-2")), "signatures_enforced", NONE, fails=True),
    row("compiled here, signed by DKMS's trusted key", enforced(ready(loaded=(), boot_id="boot-2", install_signer="a1" * 20)),
        "already_initialised", NONE),
    row("compiled here, and the kernel has it", enforced(ready()), "already_initialised", NONE),
    row("a signed layer's modules, enforced since", enforced(ready(
        loaded=(), boot_id="boot-2", layers=SIGNED.layers, record=a_record(built_here=False))), "already_initialised", NONE),
    row("a signed layer's modules, key no longer trusted", enforced(ready(
        loaded=(), boot_id="boot-2", layers=SIGNED.layers, record=a_record(built_here=False)), "bb"),
        "signatures_enforced", NONE, fails=True),
    # already right
    row("second run", ready(), "already_initialised", NONE),
    row("second run, record of what is in place damaged", ready(activation_problem="bad"), "already_initialised", NONE),
    row("second run, record of what is in place of a newer layout", ready(activation_problem="bad", activation_is_newer=True),
        "already_initialised", NONE),
    row("second run, gpu of no known generation", ready(functions=(gpu(device="ffff"),)), "already_initialised", NONE),
    row("second run, image collected", ready(image_present=False, config_digest=""), "already_initialised", NONE),
    row("second run, digest unknown", ready(config_digest=""), "already_initialised", NONE),
    row("second run, digest never known", ready(record=a_record(identity=identity(config_digest=""))), "already_initialised", NONE),
    row("after a reboot", ready(boot_id="boot-2", loaded=(), device_nodes=False), "already_initialised", NONE),
]  # fmt: skip

# Codes by which a rung is refused, with facts that have just this wrong.
REFUSALS = [
    ("never_initialised", baked(), policy()),
    ("record_invalid", baked(record_problem="bad"), policy()),
    ("other_machine", ready(machine_id="other"), policy()),
    ("other_machine", ready(machine_id="", record=a_record(machine_id="")), policy()),
    ("interrupted", ready(record=a_record(state="started")), policy()),
    ("interrupted", ready(**LEAVING), policy()),
    ("interrupted", baked(**LEAVING), policy()),
    ("interrupted", baked(layers=(), **LEAVING), ANY_DIGEST),
    ("other_driver", ready(record=a_record(identity=identity(kind="grid"))), policy()),
    ("other_driver", ready(record=a_record(identity=identity(version="570.1"))), policy()),
    ("other_driver", ready(record=a_record(identity=identity(arch="aarch64"))), policy()),
    ("other_image", ready(config_digest=digest("other")), policy()),
    ("other_image", ready(image_present=False, config_digest=""), policy(OTHER_IMAGE)),
    ("other_image", ready(config_digest=""), policy(OTHER_IMAGE)),
    ("other_image", ready(record=a_record(identity=identity(config_digest=""))), policy(OTHER_IMAGE)),
    ("other_image", ready(config_digest="", record=a_record(identity=identity(config_digest=""))), policy(OTHER_IMAGE)),
    ("other_flavour", ready(), policy(flavour="proprietary")),
    ("flavour_refused", ready(), policy(flavour="proprietary")),
    ("kernel_changed", ready(kver=NEWER), policy()),
    ("contents_unverified", ready(record_contents=None), policy()),
    ("contents_changed", ready(record_contents=("/usr/bin/nvidia-smi: missing",)), policy()),
    ("other_version_loaded", ready(loaded=(resident(version="570.1"), resident("nvidia-uvm"))), policy()),
    ("module_unsigned", baked(signatures_enforced=True), policy()),
    ("module_untrusted", baked(signatures_enforced=True, module=module(signer="k")), policy()),
    ("module_untrusted", enforced(SIGNED, "bb"), policy()),
    ("module_untrusted", enforced(ready(loaded=())), policy()),
    ("trust_unknown", replace(SIGNED, signatures_enforced=True), policy()),
    ("signatures_enforced", never_baked(signatures_enforced=True), policy()),
]


@pytest.mark.parametrize(("facts", "policy", "code", "action", "fails"), PLANS)
def test_every_case_has_its_plan(facts: Facts, policy: Policy, code: str, action: Action, fails: bool) -> None:
    plan = decide(facts, policy)
    assert (plan.code, plan.action, plan.fails) == (code, action, fails)
    assert plan.reason


@pytest.mark.parametrize(("code", "facts", "policy"), REFUSALS, ids=[f"{i}-{r[0]}" for i, r in enumerate(REFUSALS)])
def test_every_refused_rung_says_why(code: str, facts: Facts, policy: Policy) -> None:
    plan = decide(facts, policy)
    found = {plan.code: plan.reason, **{refusal.code: refusal.reason for refusal in plan.refused}}
    assert code in found
    assert found[code]


def codes_in_source() -> set[str]:
    """Every code in decide.py and ladder.py: where a plan or a refusal is made, and in the table of differences."""
    found = set(ladder.DIFFERENCE_CODES.values())
    position = {"Refusal": 1, "Plan": 1, "_left_alone": 1, "_failure": 0}
    files = [Path(module.__file__ or "") for module in (decide_module, ladder)]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in position:
            words = [c.value for c in ast.walk(node.args[position[node.func.id]]) if isinstance(c, ast.Constant)]
            found |= {word for word in words if isinstance(word, str)}
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.add(node.value.value)
    return found


def test_no_code_is_without_a_row() -> None:
    given_codes: set[str] = set()
    for facts, want in [*((p.values[0], p.values[1]) for p in PLANS), *((facts, want) for _, facts, want in REFUSALS)]:
        plan = decide(facts, want)
        given_codes |= {plan.code, *(r.code for r in plan.refused)}
    given_codes |= {code for code, _, _ in REFUSALS}
    assert codes_in_source() - given_codes == set()


# --- steps -----------------------------------------------------------------------------------------------------------

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
        pytest.param(inert(), policy(), [Step.ACTIVATE_LAYER], id="an inert layer is put in place"),
        pytest.param(active(), policy(), [], id="a layer in place stays"),
        pytest.param(
            active(active_machine_id="other", loaded=(resident(),)),
            policy(),
            [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER],
            id="a layer that another machine put in place goes first",
        ),
        pytest.param(
            inert(active_layer="another", active_machine_id=MACHINE),
            policy(),
            [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER],
            id="another layer in place goes first",
        ),
        pytest.param(inert(), policy(GRID), [], id="an inert layer of another kind is no driver that must go"),
        pytest.param(inert(layer_contents=("bad",)), policy(), [], id="a damaged inert layer stays in the store"),
        pytest.param(active(), policy(GRID), [Step.REMOVE_DRIVER], id="a layer of another kind that is in place goes first"),
        pytest.param(active(dkms=()), policy(), [Step.REMOVE_DRIVER], id="a layer in place that is not whole goes first"),
        pytest.param(active(marker=None), policy(), [Step.REMOVE_DRIVER], id="a layer in place without its marker goes first"),
        pytest.param(active(kver=NEWER), policy(), [Step.REMOVE_DRIVER], id="a layer in place for another kernel goes first"),
        pytest.param(
            active(kver=NEWER, config_digest=digest("another")),
            policy(),
            [Step.REMOVE_DRIVER],
            id="a layer in place for another kernel, of another image, goes first",
        ),
        pytest.param(
            never_baked(active_layer="gone", active_machine_id=MACHINE),
            policy(),
            [Step.REMOVE_DRIVER],
            id="a layer in place that the store has no more goes first",
        ),
        pytest.param(baked(), policy(GRID), [Step.REMOVE_DRIVER], id="another kind of ours goes first"),
        pytest.param(with_layer(version="570.1"), policy(), [Step.REMOVE_DRIVER], id="another version of ours goes first"),
        pytest.param(baked(layer_contents=("bad",)), policy(), [Step.REMOVE_DRIVER], id="a damaged layer goes first"),
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
            id="what only a marker accounts for goes first",
        ),
        pytest.param(inert(**DAMAGED), policy(), [Step.REMOVE_DRIVER], id="what a damaged record may have spoken of goes first"),
        pytest.param(never_baked(**LEAVING), policy(), [Step.REMOVE_DRIVER], id="an interrupted removal is ended first"),
        pytest.param(ready(**LEAVING), policy(), [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="… of a driver that seems whole"),
        pytest.param(baked(**LEAVING), policy(), [Step.REMOVE_DRIVER], id="… of what was baked in place"),
        pytest.param(inert(**LEAVING), policy(), [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER], id="… where a layer is inert"),
        pytest.param(active(**LEAVING), policy(), [Step.REMOVE_DRIVER, Step.ACTIVATE_LAYER], id="… before the layer had gone"),
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
            id="a nouveau that has bound nothing is in nobody's way",
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
        pytest.param({"active_layer": "", "functions": ()}, policy(), "no_gpu", [], id="nothing in place: nothing is done"),
        pytest.param({**DAMAGED, "functions": ()}, policy(), "no_gpu", [], id="record damaged, nothing in place"),
        pytest.param(
            {"active_layer": "", "functions": (), "active_version": "", **LEAVING},
            policy(),
            "no_gpu",
            [Step.REMOVE_DRIVER],
            id="the layer has gone, the rest of an interrupted removal not",
        ),
        pytest.param({**DAMAGED, **FOUND, "functions": ()}, policy(), "no_gpu", [Step.UNLOAD_MODULES, Step.REMOVE_DRIVER], id="damaged"),
        pytest.param(
            {**DAMAGED, **FOUND, "foreign": ("x",), "loaded": (HELD,)}, policy(), "foreign_driver", [Step.REMOVE_DRIVER], id="damaged, held"
        ),
        pytest.param({**DAMAGED, **FOUND, "activation_is_newer": True, "functions": ()}, policy(), "no_gpu", [], id="of a newer layout"),
    ],
)
def test_a_layer_in_place_is_taken_away_where_no_driver_belongs(
    changes: dict[str, Any], want: Policy, code: str, steps: list[Step]
) -> None:
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
        pytest.param(baked(imports_dropins=False), 'imports = ["/etc/containerd/config.d/*.toml"]', id="missing import"),
        pytest.param(baked(functions=(gpu(), gpu("vfio-pci", "0000:02:00.0"))), "0000:02:00.0", id="passed through"),
        pytest.param(
            never_baked(service_packages=(("nvidia-fabricmanager-570", "570.1"),)), "nvidia-fabricmanager-570 570.1", id="another's fabric"
        ),
        pytest.param(ready(**DAMAGED), "activation.json", id="record of what is in place damaged"),
        pytest.param(inert(**DAMAGED, functions=()), "activation.json", id="the same on a node without a GPU"),
    ],
)
def test_warns(facts: Facts, word: str) -> None:
    assert any(word in warning for warning in decide(facts, policy()).warnings)
    assert decide(baked(service_packages=(("nvidia-fabricmanager-580", VERSION),)), policy()).warnings == ()


@pytest.mark.parametrize(
    ("marker", "wrong"),
    [
        pytest.param(a_marker(), 0, id="right"),
        pytest.param(a_marker(kernel=NEWER), 1, id="kernel"),
        pytest.param(a_marker(version="570.1"), 1, id="version"),
        pytest.param(a_marker(kind="grid"), 1, id="kind"),
        pytest.param(a_marker(arch="aarch64"), 1, id="arch"),
        pytest.param(a_marker(version=None, kind=None, arch=None), 3, id="left out is unknown, thus differs"),
    ],
)
def test_a_marker_is_compared_field_by_field(marker: Any, wrong: int) -> None:
    assert len(marker_differences(marker, KVER, VERSION, "cuda", "x86_64")) == wrong


def test_empty_is_not_equal_to_empty() -> None:
    assert len(marker_differences(a_marker(kernel="", version="", kind="", arch=""), "", "", "", "")) == 4


# --- what always holds -----------------------------------------------------------------------------------------------

VERSIONS = st.sampled_from([VERSION, "570.1", ""])
KVERS = st.sampled_from([KVER, NEWER, ""])
ARCHES = st.sampled_from(["x86_64", "aarch64", ""])
KINDS = st.sampled_from(["cuda", "grid", ""])
FLAVOURS = st.sampled_from(["open", "proprietary", ""])
DIGESTS = st.sampled_from([identity().config_digest, digest("other"), ""])
IDENTITIES = st.builds(identity, kver=KVERS, arch=ARCHES, kind=KINDS, version=VERSIONS, flavour=FLAVOURS, config_digest=DIGESTS)
LAYERS = st.builds(
    manifest, IDENTITIES, signer=st.sampled_from([None, SIGNER]), actions=st.sampled_from([("install", "install-skip-build"), ("install",)])
)
MODULES = st.one_of(
    st.none(),
    st.builds(
        module,
        version=VERSIONS,
        licence=st.sampled_from(["NVIDIA", "Dual MIT/GPL", ""]),
        vermagic=KVERS.map(lambda k: f"{k} SMP"),
        signer=st.sampled_from(["", "key"]),
    ),
)
RECORDS = st.builds(
    a_record,
    machine_id=st.sampled_from([a_record().machine_id, "other", ""]),
    state=st.sampled_from(["initialised", "started"]),
    identity=IDENTITIES,
    boot_id=st.sampled_from(["boot-1", "boot-2"]),
    modules=st.sampled_from([{}, {KVER: {}}, {NEWER: {}}]),
)
CONTENTS = st.sampled_from([None, (), ("bad",)])
PROBLEMS = st.sampled_from(["", "bad"])
FACTS = st.builds(
    Facts,
    kver=KVERS,
    machine=st.sampled_from(["x86_64", "riscv64"]),
    arch=st.one_of(st.none(), ARCHES),
    machine_id=st.sampled_from([a_record().machine_id, ""]),
    functions=st.lists(st.builds(gpu, st.sampled_from([None, "nvidia", "nouveau", "vfio-pci"])), max_size=2).map(tuple),
    loaded=st.lists(st.builds(resident, st.sampled_from(["nvidia", "nvidia-uvm", "nouveau"]), VERSIONS), max_size=2).map(tuple),
    signatures_enforced=st.booleans(),
    trusted_keys=st.sampled_from([None, (), (SIGNER.key_id,), ("bb",)]),
    install_signer=st.sampled_from(["", "bb", SIGNER.key_id]),
    operator=st.sampled_from([(), ("sign",)]),
    foreign=st.sampled_from([(), ("package",)]),
    module=MODULES,
    uvm=MODULES,
    dkms=st.lists(
        st.builds(DkmsEntry, VERSIONS, KVERS, ARCHES, st.sampled_from(["added", "built", "installed"])), max_size=2
    ).map(tuple),
    marker=st.one_of(
        st.none(), st.builds(a_marker, kernel=KVERS, version=VERSIONS, kind=KINDS, arch=ARCHES), st.builds(a_marker, version=st.none())
    ),
    marker_problem=PROBLEMS,
    layers=st.lists(LAYERS, max_size=2).map(tuple),
    layer_problems=st.sampled_from([(), ("bad",)]),
    layer_contents=CONTENTS,
    activation_problem=PROBLEMS,
    activation_is_newer=st.booleans(),
    removal_under_way=st.sampled_from([False, False, True]),
    record=st.one_of(st.none(), RECORDS),
    record_problem=PROBLEMS,
    record_contents=CONTENTS,
    containerd_ready=st.booleans(),
    imports_dropins=st.booleans(),
    image_present=st.booleans(),
    config_digest=DIGESTS,
    boot_id=st.sampled_from(["boot-1", ""]),
    device_nodes=st.booleans(),
)  # fmt: skip
# Random facts rarely come near a fast path: a baked or ready node with some fields taken from random ones does.
NEAR = st.builds(
    lambda base, other, names: replace(base, **{name: getattr(other, name) for name in names}),
    st.sampled_from([baked(), ready(), enforced(SIGNED), baked(layers=(), layer_contents=None), never_baked()]),
    FACTS,
    st.sets(st.sampled_from([f.name for f in fields(Facts)]), max_size=3),
)
ANY_FACTS = st.one_of(NEAR, FACTS)
ANY_POLICY = st.builds(
    policy,
    image=st.sampled_from([IMAGE, GRID, OTHER_IMAGE]),
    managed=st.sampled_from([True, True, True, False]),
    expected_gpus=st.sampled_from([None, 0, 1, 2]),
    flavour=st.sampled_from(["any", "open", "proprietary"]),
    require_digest=st.booleans(),
)


@given(ANY_FACTS, ANY_POLICY)
def test_any_facts_have_one_explained_plan(facts: Facts, policy: Policy) -> None:
    plan = decide(facts, policy)
    assert plan.code
    assert plan.reason
    assert all(refusal.code and refusal.reason for refusal in plan.refused)
    assert decide(facts, policy) == plan


@given(ANY_FACTS, ANY_POLICY)
def test_no_action_means_no_steps_unless_the_node_is_ready(facts: Facts, policy: Policy) -> None:
    plan = decide(facts, policy)
    if plan.action is NONE and plan.code != "already_initialised":
        assert plan.steps == () or (facts.removal_under_way and plan.steps == (Step.REMOVE_DRIVER,))
    if plan.action is not NONE:
        assert plan.steps[-2:] == (Step.WRITE_RECORD, Step.START_SERVICES)
        assert plan.steps.count(Step.RUN_CONTAINER) == 1
        assert plan.steps[-2:] == (Step.WRITE_RECORD, Step.START_SERVICES)


@given(ANY_FACTS, ANY_POLICY)
def test_an_interrupted_removal_is_ended_before_anything_else(facts: Facts, policy: Policy) -> None:
    plan = decide(replace(facts, removal_under_way=True, activation_is_newer=False), policy)
    assert Step.REMOVE_DRIVER in plan.steps or plan.fails


@given(ANY_FACTS, ANY_POLICY)
def test_the_build_is_skipped_only_where_everything_is_known_and_equal(facts: Facts, policy: Policy) -> None:
    plan = decide(facts, policy)
    if plan.action is not SKIP:
        return
    wanted = policy.wanted
    assert facts.kver
    assert facts.module
    assert facts.uvm
    assert facts.marker
    assert not facts.activation_problem
    kernels = (facts.module.kver, facts.uvm.kver, facts.marker.kernel)
    assert kernels == (facts.kver,) * 3
    assert (facts.marker.version, facts.marker.kind, facts.marker.arch) == (wanted.version, wanted.kind, facts.arch)
    assert facts.module.version == wanted.version
    assert facts.module.flavour
    assert policy.flavour in ("any", facts.module.flavour)
    assert DkmsEntry(wanted.version, facts.kver, facts.arch or "", "installed") in facts.dkms
    if facts.signatures_enforced:
        assert plan.layer
        assert plan.layer.signer
        assert plan.layer.signer.key_id in (facts.trusted_keys or ())
    if plan.layer is None:
        assert not policy.require_digest
        return
    baked_for = plan.layer.identity
    assert (baked_for.kver, baked_for.arch, baked_for.kind) == (facts.kver, facts.arch, wanted.kind)
    assert (baked_for.version, baked_for.flavour) == (wanted.version, facts.module.flavour)
    assert facts.layer_contents == ()
    if facts.image_present and policy.require_digest:
        assert baked_for.config_digest == facts.config_digest != ""
    if not facts.image_present:
        assert plan.provisional


@given(ANY_FACTS, ANY_POLICY)
def test_nothing_is_compiled_that_the_kernel_would_not_take(facts: Facts, policy: Policy) -> None:
    plan = decide(facts, policy)
    if plan.action is INSTALL and facts.signatures_enforced:
        assert facts.install_signer
        assert facts.install_signer in (facts.trusted_keys or ())


@pytest.mark.parametrize(
    "unknown",
    [
        {"kver": ""},
        {"arch": None},
        {"arch": ""},
        {"config_digest": ""},
        {"module": None},
        {"uvm": None},
        {"dkms": ()},
        {"marker": None},
        {"layer_contents": None},
        {"layers": ()},
        {"activation_problem": "bad"},
    ],
    ids=str,
)
def test_nothing_unknown_leads_to_the_fast_path(unknown: dict[str, Any]) -> None:
    assert decide(baked(**unknown), policy()).action is not SKIP
