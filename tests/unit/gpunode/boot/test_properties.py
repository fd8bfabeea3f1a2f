"""Properties of the decision for any facts and policy: one plan with a reason, and a fast path only where everything is known."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.facts import Active, Facts
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Action, Step
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import supported_gpus
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.gpu_list import UNKNOWN, Driver
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import gpu_lists
from tests.kit.facts import GRID, OTHER_IMAGE, SIGNED, enforced
from tests.kit.values import (
    IMAGE,
    KVER,
    NEWER,
    SIGNER,
    VERSION,
    a_marker,
    a_record,
    baked,
    changed,
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

VERSIONS = st.sampled_from([VERSION, "570.1", ""])
KVERS = st.sampled_from([KVER, NEWER, ""])
ARCHES = st.sampled_from(["x86_64", "aarch64", ""])
KINDS = st.sampled_from(["cuda", "grid", ""])
FLAVOURS = st.sampled_from(["open", "proprietary", ""])
DIGESTS = st.sampled_from([identity().config_digest, digest("other"), ""])
IDENTITIES = st.builds(identity, kver=KVERS, arch=ARCHES, kind=KINDS, version=VERSIONS, flavour=FLAVOURS, config_digest=DIGESTS)
LISTED = supported_gpus.read(gpu_lists.document(*gpu_lists.NEWER).encode(), gpu_lists.PATH)
DEVICES = st.sampled_from(["2330", "2901", "1db4", "102d", "4000", "ffff"])
LAYERS = st.builds(
    manifest,
    IDENTITIES,
    gpus=st.sampled_from([UNKNOWN, LISTED]),
    signer=st.sampled_from([None, SIGNER]),
    actions=st.sampled_from([("install", "install-skip-build"), ("install",)]),
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
BOUND = (None, "nvidia", "nouveau", "NovaCore", "vfio-pci", "nvgrace_gpu_vfio_pci")
LOADED = ("nvidia", "nvidia-uvm", "nouveau", "nova-core")
CONTENTS = st.sampled_from([None, (), ("bad",)])
PROBLEMS = st.sampled_from(["", "bad"])
FACTS = st.builds(
    Facts,
    kver=KVERS,
    machine=st.sampled_from(["x86_64", "riscv64"]),
    arch=st.one_of(st.none(), ARCHES),
    machine_id=st.sampled_from([a_record().machine_id, ""]),
    functions=st.lists(st.builds(gpu, st.sampled_from(BOUND), device=st.one_of(st.just("2330"), DEVICES)), max_size=2).map(tuple),
    loaded=st.lists(st.builds(resident, st.sampled_from(LOADED), VERSIONS), max_size=2).map(tuple),
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
    active=st.builds(Active, problem=PROBLEMS, is_newer=st.booleans(), removal_under_way=st.sampled_from([False, False, True])),
    record=st.one_of(st.none(), RECORDS),
    record_problem=PROBLEMS,
    record_contents=CONTENTS,
    containerd_ready=st.booleans(),
    unreadable=st.sampled_from(["", "", "", "/x cannot be read"]),
    containerd_config=st.sampled_from(["", "imports = [", None]),
    image_present=st.booleans(),
    config_digest=DIGESTS,
    boot_id=st.sampled_from(["boot-1", ""]),
    device_nodes=st.booleans(),
)  # fmt: skip
# Random facts rarely allow a fast path; those of a baked or ready node with a few random fields do.
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
        assert plan.steps == () or (facts.active.removal_under_way and plan.steps == (Step.REMOVE_DRIVER,))
    if plan.action is not NONE:
        assert plan.steps[-2:] == (Step.WRITE_RECORD, Step.START_SERVICES)
        assert plan.steps.count(Step.RUN_CONTAINER) == 1
        assert plan.steps[-2:] == (Step.WRITE_RECORD, Step.START_SERVICES)


@given(ANY_FACTS, ANY_POLICY)
def test_an_interrupted_removal_is_finished_before_anything_else(facts: Facts, policy: Policy) -> None:
    plan = decide(changed(facts, removal_under_way=True, activation_is_newer=False), policy)
    assert Step.REMOVE_DRIVER in plan.steps or plan.fails


def same_driver(one: Manifest, other: Manifest) -> bool:
    return all(getattr(one.identity, name) == getattr(other.identity, name) for name in ("arch", "kind", "version"))


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
    assert not facts.active.problem
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
    listed = next((m.gpus for m in facts.layers if plan.layer and m.gpus.is_known and same_driver(m, plan.layer)), UNKNOWN)
    driver = Driver(wanted.kind, wanted.version, facts.module.flavour, listed)
    assert {driver.refusal(one.device) for one in facts.gpus if one.driver != "vfio-pci"} == {""}
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
def test_nothing_is_compiled_that_the_kernel_would_not_accept(facts: Facts, policy: Policy) -> None:
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
