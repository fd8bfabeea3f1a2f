"""Which rung of the ladder a node takes, and why the others are refused: one row for every code that the decision can give."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import decide as decide_module
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import ladder
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.marker import differences as marker_differences
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import supported_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry

from tests.kit import gpu_lists
from tests.kit.facts import CAPTURED, GRID, LEAVING, OTHER_IMAGE, SIGNED, active, enforced, in_image, inert, layer, with_layer
from tests.kit.values import (
    KVER,
    NEWER,
    SIGNER,
    VERSION,
    a_marker,
    a_record,
    baked,
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

NONE, SKIP, INSTALL = Action.NONE, Action.INSTALL_SKIP_BUILD, Action.INSTALL
OLD = "registry.lab:5000/aks/aks-gpu-cuda:550.90.07-20260430040408"
NEW = "registry.lab:5000/aks/aks-gpu-cuda:595.58.03-20260430040408"
ANY_DIGEST = policy(require_digest=False)


def of_flavour(flavour: str, *gpus: Any) -> Facts:
    licence = {"open": "Dual MIT/GPL", "proprietary": "NVIDIA"}[flavour]
    return baked(layers=(layer(flavour=flavour),), module=module(licence=licence), functions=gpus or (gpu(),))


LISTED = supported_gpus.read(
    gpu_lists.document(
        gpu_lists.row("2330"),
        *(gpu_lists.row(device, gpu_lists.OPEN) for device in ("2901", "4000")),
        gpu_lists.row("27b8", legacy="570.xx"),
    ).encode(),
    gpu_lists.PATH,
)


def listing(device: str, *more: Any, **changes: str) -> Facts:
    """A node with the GPU ``device`` and ``more``, and with a layer whose driver has such a list."""
    who = identity(**changes)
    return baked(layers=(manifest(who, gpus=LISTED),), functions=(gpu(device=device), *more), marker=a_marker(kind=who.kind))


def other_versions_list() -> Facts:
    others = manifest(identity(version="570.1"), gpus=LISTED)
    return baked(layers=(manifest(), others), functions=(gpu(device="4000"),))


def row(name: str, facts: Facts, code: str, action: Action, policy: Policy = policy(), **more: Any) -> Any:  # noqa: B008
    return pytest.param(facts, policy, code, action, more.get("fails", False), id=name)


PLANS = [
    # left alone
    row("not managed", baked(), "not_managed", NONE, policy(managed=False)),
    row("not managed, even of an unknown architecture", never_baked(arch=None), "not_managed", NONE, policy(managed=False)),
    row("riscv64", never_baked(arch=None, machine="riscv64"), "unsupported_arch", NONE, fails=True),
    row("a bus that cannot be listed", baked(functions=(), unreadable="the bus cannot be read"), "unreadable", NONE, fails=True),
    row("gpu operator", baked(operator=("/run/nvidia/validations/driver-ready",)), "operator_owned", NONE),
    row("no gpu", baked(functions=()), "no_gpu", NONE),
    row("a switch is no gpu", baked(functions=(gpu(pci_class="068000"),)), "no_gpu", NONE),
    row("all passed through", baked(functions=(gpu("vfio-pci"), gpu("vfio-pci", "0000:02:00.0"))), "gpu_passthrough", NONE),
    row("all passed through, one by Grace's own driver",
        never_baked(functions=(gpu("vfio-pci"), gpu("nvgrace_gpu_vfio_pci", "0009:01:00.0"))), "gpu_passthrough", NONE),
    row("another's driver", baked(foreign=("package nvidia-driver",)), "foreign_driver", NONE),
    # errors before anything
    row("gpu newer than the driver", baked(functions=(gpu(device="2901"),)), "gpu_not_supported", NONE, policy(OLD), fails=True),
    row("gpu older than the driver", baked(functions=(gpu(device="1db4"),)), "gpu_not_supported", NONE, policy(NEW), fails=True),
    row("dropped by the driver's list", listing("27b8"), "gpu_not_supported", NONE, fails=True),
    row("dropped by the list of a layer for another kernel", listing("27b8", kver=NEWER), "gpu_not_supported", NONE, fails=True),
    row("dropped by the driver's list, passed through", listing("2901", gpu("vfio-pci", "0000:02:00.0", device="27b8")),
        "baked_layer_matches", SKIP),
    row("dropped by the driver's list, grid", listing("27b8", kind="grid"), "baked_layer_matches", SKIP, policy(GRID)),
    row("installed, dropped by the driver's list", ready(layers=listing("27b8").layers, functions=(gpu(device="27b8"),)),
        "gpu_not_supported", NONE, fails=True),
    row("K80, dropped by the driver", baked(functions=(gpu(device="102d"),)), "gpu_not_supported", NONE, fails=True),
    row("K80, dropped by the driver, never baked", never_baked(functions=(gpu(device="102d"),)), "gpu_not_supported", NONE, fails=True),
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
    row("image deleted from containerd", baked(image_present=False, config_digest=""), "baked_layer_matches", SKIP),
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
    row("somebody's manifest", baked(layers=(), layer_problems=("m: bad",), untrusted=("m: bad",)), "store_untrusted", INSTALL),
    row("contents", baked(layer_contents=("/usr/lib/x: its sha256 changed since it was recorded",)), "contents_mismatch", INSTALL),
    row("contents not verified", baked(layer_contents=None), "contents_unverified", INSTALL),
    row("proprietary modules, Blackwell", of_flavour("proprietary", gpu(device="2901")), "gpu_refuses_modules", INSTALL),
    row("proprietary modules, Hopper and Blackwell", of_flavour("proprietary", gpu(), gpu(address="0000:02:00.0", device="2901")),
        "gpu_refuses_modules", INSTALL),
    row("open modules, Volta", baked(functions=(gpu(device="1db4"),)), "gpu_refuses_modules", INSTALL),
    row("gpu that the driver's list has without open modules", listing("2330"), "gpu_refuses_modules", INSTALL),
    row("installed, gpu that the list has without open modules", ready(layers=listing("2330").layers), "already_initialised", NONE),
    row("T4, which the driver's list lacks", listing("1eb8"), "baked_layer_matches", SKIP),
    row("gpu of no known generation, in the driver's list", listing("4000"), "baked_layer_matches", SKIP),
    row("gpu of no known generation, in the list of a layer for another kernel", listing("4000", kver=NEWER), "kernel_mismatch", INSTALL),
    row("gpu of no known generation, in the list of another version's layer", other_versions_list(), "gpu_unknown", INSTALL),
    row("gpu of no known generation", baked(functions=(gpu(device="ffff"),)), "gpu_unknown", INSTALL),
    row("marker alone, gpu of no known generation", baked(layers=(), layer_contents=None, functions=(gpu(device="ffff"),)), "gpu_unknown",
        INSTALL, ANY_DIGEST),
    row("installed on a node that now has another GPU", ready(functions=(gpu(device="1db4"),)), "gpu_refuses_modules", INSTALL),
    row("captured, cannot be activated", inert(layer_obstacle="/usr/x: a file is there already"), "layer_unplaceable", INSTALL),
    row("captured, judged bad", inert(layers_judged_bad={CAPTURED.layer: "nvidia-smi says 18"}), "layer_judged_bad", INSTALL),
    row("captured, objects damaged", inert(layer_contents=("object: sha256",)), "contents_mismatch", INSTALL),
    row("in place by the image", in_image(), "baked_layer_matches", SKIP),
    row("in place by the image, without a machine id", in_image(machine_id=""), "baked_layer_matches", SKIP),
    row("in place by the image, a file changed", in_image(layer_contents=("bad",)), "contents_mismatch", INSTALL),
    row("captured, active, DKMS's entry gone", active(dkms=()), "dkms_not_registered", INSTALL),
    row("captured, active, marker gone", active(marker=None), "marker_missing", INSTALL),
    row("activation record damaged", inert(activation_problem="bad"), "activation_invalid", INSTALL),
    row("activation record damaged, files in place", inert(activation_problem="bad", unrecorded_layers=(CAPTURED.layer,)),
        "activation_invalid", INSTALL),
    row("journal damaged", active(activation_problem="bad"), "activation_invalid", INSTALL),
    row("activation record damaged, nothing baked", never_baked(activation_problem="bad"), "activation_invalid", INSTALL),
    row("activation record of a newer layout", inert(activation_problem="bad", activation_is_newer=True),
        "activation_invalid", NONE, fails=True),
    row("record of another version", never_baked(record=a_record(identity=identity(version="570.1")), record_contents=()),
        "never_baked", INSTALL),
    # enforced signatures: no compile that cannot be loaded
    row("unsigned where enforced", baked(signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("never baked where enforced", never_baked(signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("signed by another key than the trusted", enforced(SIGNED, "bb"), "signatures_enforced", NONE, fails=True),
    row("signed, and nothing trusted", replace(SIGNED, signatures_enforced=True, trusted_keys=()), "signatures_enforced", NONE, fails=True),
    row("signed, and the keyrings cannot be read", replace(SIGNED, signatures_enforced=True), "signatures_enforced", NONE, fails=True),
    row("signed, but no manifest says by whom", enforced(baked(module=module(signer="k"), uvm=module(signer="k"))),
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
    row("second run, activation record damaged", ready(activation_problem="bad"), "already_initialised", NONE),
    row("second run, activation record of a newer layout", ready(activation_problem="bad", activation_is_newer=True),
        "already_initialised", NONE),
    row("second run, gpu of no known generation", ready(functions=(gpu(device="ffff"),)), "already_initialised", NONE),
    row("second run, image deleted from containerd", ready(image_present=False, config_digest=""), "already_initialised", NONE),
    row("second run, digest unknown", ready(config_digest=""), "already_initialised", NONE),
    row("second run, digest never known", ready(record=a_record(identity=identity(config_digest=""))), "already_initialised", NONE),
    row("after a reboot", ready(boot_id="boot-2", loaded=(), device_nodes=False), "already_initialised", NONE),
]  # fmt: skip
# Codes with which a rung is refused, each with facts where only this is wrong.
REFUSALS = [
    ("never_initialised", baked(), policy()),
    ("record_invalid", baked(record_problem="bad"), policy()),
    ("store_untrusted", baked(record_problem="bad", untrusted=("bad",)), policy()),
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
    """Every code that decide.py and ladder.py give a plan or a refusal, and those of the table of differences."""
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
