"""NVSwitches of either kind, fabric manager with them and without, and the GPUs that must join."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import fabric, nvidia_smi
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.fabric import Found, Switches
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import pci
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit.node import FakeNode
from tests.kit.reply import KILLED, Reply
from tests.kit.vpd import product_data

B200, B300, GB200, GB300, H100, RUBIN, L40S = "0x2901", "0x3182", "0x2941", "0x31c2", "0x2330", "0x3041", "0x26b9"
BRIDGE = product_data({"PN": "x", "VA": "MLX:MODL=CX75310:SMDL=SW_MNG"})
NIC = product_data({"PN": "MCX75310AAS-NEAT", "VA": "MLX:MN=MLNX:CSKU=V2:UUID=V3:PCI=V0:MODL=CX75310"})
UNITS = "usr/lib/systemd/system"
MANAGER = f"{UNITS}/nvidia-fabricmanager.service"
UNIT = "[Service]\n"


def add_infiniband(
    node: FakeNode, name: str, data: bytes | None, address: str, device: str = "0x1021", pci_class: str = "0x020700", bound: bool = True
) -> Path:
    """A ConnectX function, its InfiniBand device, and its product data."""
    folder = node.root / f"sys/bus/pci/devices/{address}"
    for file, text in (("vendor", "0x15b3"), ("device", device), ("class", pci_class)):
        node.put(f"sys/bus/pci/devices/{address}/{file}", text + "\n")
    if data is not None:
        (folder / "vpd").write_bytes(data)
    if bound:
        node.link(f"sys/class/infiniband/{name}/device", f"../../../bus/pci/devices/{address}")
    return folder


def add_umad(node: FakeNode) -> None:
    (node.root / "sys/class/infiniband_mad").mkdir(parents=True)


def hgx(node: FakeNode, device: str = B200) -> FakeNode:
    """Eight GPUs, two ways to the switches, two network adapters."""
    for number in range(8):
        node.add_gpu(device, address=f"0000:{number:02x}:00.0")
    for number, data in enumerate((NIC, BRIDGE, BRIDGE, NIC)):
        add_infiniband(node, f"mlx5_{number}", data, f"0000:a{number}:00.0")
    add_umad(node)
    node.put(MANAGER, UNIT)
    return node


def look(node: FakeNode) -> Found:
    return fabric.look(node.root, node, Deadline(60, node.clock, node.clock.sleep), pci.nvidia_functions(node.root))


def manage(node: FakeNode) -> fabric.Managed:
    return fabric.manage(node.root, node, Deadline(60, node.clock, node.clock.sleep), pci.nvidia_functions(node.root))


def units(node: FakeNode, *, fails: str = "", **states: str) -> None:
    """Units that are ``enabled`` and the like, as systemd shows them; all that changes one succeeds, or ``fails`` with these words."""
    known = {name.replace("_", "-"): state for name, state in states.items()}
    shows = node.programs["systemctl"]

    def systemctl(node: FakeNode, words: list[str]) -> Reply:
        if words[0] != "show":
            return Reply(1, err=fails) if fails else Reply()
        lines: list[str] = []
        name = ""
        for line in shows(node, words).out.splitlines():
            key, _equals, value = line.partition("=")
            name = value.removesuffix(".service") if key == "Id" else name
            state = known.get(name, "disabled")
            is_masked = state.startswith("masked") and line == "LoadState=loaded"
            lines.append("LoadState=masked" if is_masked else f"{key}={state}" if key == "UnitFileState" and value else line)
        return Reply(out="\n".join(lines) + "\n")

    node.programs["systemctl"] = systemctl


def does_not_answer(node: FakeNode) -> None:
    node.programs["systemctl"] = lambda _, words: Reply(seconds=KILLED) if words[0] == "show" else Reply()


def asked(node: FakeNode, verb: str) -> list[str]:
    return [argv[-1] for argv in node.called("systemctl", verb)]


# --- which switches there are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [B200, B300, RUBIN])
def test_switches_of_nvlink_5_are_seen_through_bridges(node: FakeNode, device: str) -> None:
    assert look(hgx(node, device)) == Found(Switches.NVLINK5)
    assert len(node.called("od")) == 2  # the first bridge is enough


def test_a_switch_on_the_bus_needs_no_product_data(node: FakeNode) -> None:
    hgx(node, H100).add_gpu("0x22a3", "0x068000", address="0000:f0:00.0")
    assert look(node) == Found(Switches.PCI)
    assert node.called("od") == []


@pytest.mark.parametrize("device", [H100, L40S, GB200, GB300])
def test_nobody_reads_product_data_where_there_can_be_no_such_switch(node: FakeNode, device: str) -> None:
    assert look(hgx(node, device)) == Found(Switches.NONE)
    assert node.called("od") == []


def test_network_adapters_alone_are_no_way_to_a_switch(node: FakeNode) -> None:
    node.add_gpu(B200)
    add_infiniband(node, "mlx5_0", NIC, "0000:a0:00.0")
    add_infiniband(node, "mlx5_1", NIC, "0000:a1:00.0", pci_class="0x020000")
    assert look(node) == Found(Switches.NONE)


def test_a_gpu_without_any_adapter_has_none(node: FakeNode) -> None:
    node.add_gpu(B200)
    assert look(node) == Found(Switches.NONE)


def test_virtual_functions_in_a_vm_have_no_product_data_and_are_none(node: FakeNode) -> None:
    node.add_gpu(B200)
    add_infiniband(node, "mlx5_0", None, "0000:a0:00.0", device="0x101e")
    add_infiniband(node, "mlx5_1", None, "0000:a1:00.0", device="0x101e", bound=False)
    assert look(node) == Found(Switches.NONE)


def test_a_word_that_only_contains_the_sign_is_none(node: FakeNode) -> None:
    node.add_gpu(B200)
    add_infiniband(node, "mlx5_0", product_data({"PN": "NOSW_MNG2", "VA": "SW_MNGX"}), "0000:a0:00.0")
    assert look(node) == Found(Switches.NONE)


def damaged(node: FakeNode) -> None:
    add_infiniband(node, "mlx5_0", BRIDGE[:-1], "0000:a0:00.0")


def hangs(node: FakeNode) -> None:
    add_infiniband(node, "mlx5_0", BRIDGE, "0000:a0:00.0")
    node.programs["od"] = lambda _node, _words: Reply(seconds=KILLED)


def fails(node: FakeNode) -> None:
    add_infiniband(node, "mlx5_0", BRIDGE, "0000:a0:00.0")
    node.programs["od"] = lambda _node, _words: Reply(1, err="od: read error: Connection timed out")


def without_driver(node: FakeNode) -> None:
    add_infiniband(node, "mlx5_0", BRIDGE, "0000:a0:00.0", bound=False)


def without_umad(node: FakeNode) -> None:
    add_infiniband(node, "mlx5_0", BRIDGE, "0000:a0:00.0")
    (node.root / "sys/class/infiniband_mad").rmdir()


UNKNOWN = [
    pytest.param(damaged, "mlx5_0", id="damaged product data"),
    pytest.param(hangs, "cannot be read", id="a read that hangs"),
    pytest.param(fails, "cannot be read", id="a read that fails"),
    pytest.param(without_driver, "0000:a0:00.0 has no driver", id="no driver"),
    pytest.param(without_umad, "modprobe ib_umad", id="no ib_umad"),
]


@pytest.mark.parametrize(("change", "word"), UNKNOWN)
def test_what_cannot_be_told_is_left_as_it_is_and_warned_of(node: FakeNode, change: Callable[[FakeNode], None], word: str) -> None:
    node.add_gpu(B200)
    node.put(MANAGER, UNIT)
    add_umad(node)
    units(node, nvidia_fabricmanager="enabled")
    change(node)
    done = manage(node)
    assert (done.found.switches, done.started, done.disabled, done.must_join) == (Switches.UNKNOWN, (), (), False)
    assert word in done.warnings[0]
    assert "cannot be told" in done.warnings[0]
    assert node.called("systemctl") == []


def test_one_bridge_that_can_be_read_is_enough(node: FakeNode) -> None:
    add_infiniband(hgx(node), "mlx5_0", BRIDGE[:-1], "0000:a0:00.0")
    assert look(node) == Found(Switches.NVLINK5)


# --- the services ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["enabled", "enabled-runtime"])
def test_without_a_switch_fabric_manager_is_stopped_disabled_and_its_failure_forgotten(node: FakeNode, state: str) -> None:
    node.add_gpu(L40S)
    node.put(MANAGER, UNIT)
    units(node, nvidia_fabricmanager=state)
    assert manage(node).disabled == ("nvidia-fabricmanager",)
    assert node.called("systemctl")[1:] == [
        ["systemctl", "disable", "--now", "nvidia-fabricmanager"],
        ["systemctl", "reset-failed", "nvidia-fabricmanager"],
    ]


@pytest.mark.parametrize("state", ["disabled", "masked", "static", ""])
def test_one_that_is_not_enabled_is_left_alone(node: FakeNode, state: str) -> None:
    node.add_gpu(L40S)
    node.put(MANAGER, UNIT)
    units(node, nvidia_fabricmanager=state)
    assert manage(node).disabled == ()
    assert [argv[1] for argv in node.called("systemctl")] == ["show"]


def test_without_the_unit_nothing_is_changed(node: FakeNode) -> None:
    node.add_gpu(L40S)
    manage(node)
    assert [argv[1] for argv in node.called("systemctl")] == ["show"]


def test_where_systemd_does_not_answer_nothing_is_disabled_and_switches_are_an_error(node: FakeNode) -> None:
    node.add_gpu(L40S)
    node.put(MANAGER, UNIT)
    does_not_answer(node)
    assert manage(node).disabled == ()
    with pytest.raises(BootError, match="systemd does not say whether nvidia-fabricmanager is installed") as caught:
        manage(hgx(node))
    assert caught.value.code == "fabric_manager"
    assert asked(node, "start") == []


@pytest.mark.parametrize("folder", ["etc/systemd/system", "run/systemd/generator", "usr/local/lib/systemd/system"])
def test_fabric_manager_is_found_where_systemd_finds_it(node: FakeNode, folder: str) -> None:
    (hgx(node).root / MANAGER).unlink()
    node.put(f"{folder}/nvidia-fabricmanager.service", UNIT)
    assert manage(node).started == ("nvidia-fabricmanager",)


def test_a_masked_fabric_manager_is_named(node: FakeNode) -> None:
    units(hgx(node), nvidia_fabricmanager="masked")
    with pytest.raises(BootError, match="the unit of nvidia-fabricmanager is masked"):
        manage(node)


def test_one_that_cannot_be_disabled_is_a_warning(node: FakeNode) -> None:
    node.add_gpu(L40S)
    node.put(MANAGER, UNIT)
    units(node, nvidia_fabricmanager="enabled", fails="Read-only file system")
    done = manage(node)
    assert (done.disabled, len(done.warnings)) == ((), 1)
    assert "Read-only file system" in done.warnings[0]


@pytest.mark.parametrize("unit", ["nvlsm", "nvidia-nvlsm"])
@pytest.mark.parametrize(("state", "starts"), [("enabled", True), ("static", True), ("disabled", False), ("masked", False)])
def test_nvlsm_is_started_before_fabric_manager_which_else_starts_it_itself(node: FakeNode, unit: str, state: str, starts: bool) -> None:
    hgx(node).put(f"{UNITS}/{unit}.service", UNIT)
    units(node, **{unit.replace("-", "_"): state})
    expected = [*([unit] if starts else []), "nvidia-fabricmanager"]
    assert list(manage(node).started) == asked(node, "start") == expected


def test_without_nvlsm_fabric_manager_alone_is_started(node: FakeNode) -> None:
    done = manage(hgx(node))
    assert (done.started, done.must_join) == (("nvidia-fabricmanager",), True)


def test_up_to_nvlink_4_nvlsm_is_not_started(node: FakeNode) -> None:
    hgx(node, H100).add_gpu("0x22a3", "0x068000", address="0000:f0:00.0")
    node.put(f"{UNITS}/nvlsm.service", UNIT)
    units(node, nvlsm="enabled")
    assert manage(node).started == ("nvidia-fabricmanager",)


@pytest.mark.parametrize("device", [GB200, GB300])
def test_on_a_node_of_a_rack_fabric_manager_is_never_started(node: FakeNode, device: str) -> None:
    units(hgx(node, device), nvidia_fabricmanager="enabled")
    node.add_gpu("0x22a3", "0x068000", address="0000:f0:00.0")
    assert manage(node).disabled == ("nvidia-fabricmanager",)
    assert asked(node, "start") == []


@pytest.mark.parametrize("is_installed", [True, False])
def test_switches_without_a_working_fabric_manager_are_an_error(node: FakeNode, is_installed: bool) -> None:
    hgx(node)
    if not is_installed:
        (node.root / MANAGER).unlink()
    units(node, fails="Job failed")
    with pytest.raises(BootError, match="Job failed" if is_installed else "not installed") as caught:
        manage(node)
    assert caught.value.code == "fabric_manager"


# --- the GPUs --------------------------------------------------------------------------------------------------------

# As nvidia-smi 580 shows them; the sections around it are shortened.
GPU = """\
GPU 00000000:{number:02X}:00.0
    Product Name                          : NVIDIA B200
    GPU Fabric GUID                       : 0x0
    Fabric
        State                             : {state}
        Status                            : {status}
        CliqueId                          : 0
        ClusterUUID                       : 00000000-0000-0000-0000-000000000000
        Health
            Summary                       : N/A
            Status                        : unrelated
    ECC Mode
        State                             : Enabled

"""
HEAD = "\n==============NVSMI LOG==============\n\nDriver Version                            : 580.1\n\n"


def shows(*states: tuple[str, str]) -> str:
    return HEAD + "".join(GPU.format(number=number, state=state, status=status) for number, (state, status) in enumerate(states))


def answers(node: FakeNode, *shown: str) -> None:
    """What ``nvidia-smi -q`` shows, one time after the other; the last is repeated."""
    rest = list(shown)

    def smi(_: FakeNode, words: list[str]) -> Reply:
        assert words == ["-q"]
        return Reply(out=rest.pop(0) if len(rest) > 1 else rest[0], seconds=1.0)

    node.programs["nvidia-smi"] = smi


def wait(node: FakeNode, switches: Switches = Switches.NVLINK5, limit_s: float = 60.0, deadline_s: float = 600.0) -> tuple[str, ...]:
    deadline = Deadline(deadline_s, node.clock, node.clock.sleep)
    return fabric.wait(node, deadline, Found(switches), limit_s, lambda _: None)


DONE, UNDER_WAY, NOT_STARTED, NONE = ("Completed", "Success"), ("In Progress", "N/A"), ("Not Started", "N/A"), ("N/A", "N/A")


def test_the_states_are_read() -> None:
    assert [(one.gpu, one.state, one.status) for one in nvidia_smi.parse_fabric(shows(DONE, UNDER_WAY))] == [
        ("00000000:00:00.0", *DONE),
        ("00000000:01:00.0", *UNDER_WAY),
    ]


def test_gpus_that_are_still_joining_are_waited_for(node: FakeNode) -> None:
    answers(node, shows(NOT_STARTED, NOT_STARTED), shows(DONE, UNDER_WAY), shows(DONE, UNDER_WAY), shows(DONE, DONE))
    assert wait(node) == ()
    assert len(node.called("nvidia-smi")) == 4


def test_gpus_that_have_joined_are_not_waited_for(node: FakeNode) -> None:
    answers(node, shows(DONE, DONE))
    before = node.clock.now
    assert wait(node) == ()
    assert node.clock.now - before == 1.0


@pytest.mark.parametrize(("limit_s", "deadline_s"), [(20.0, 600.0), (600.0, 20.0)])
def test_the_wait_has_a_limit(node: FakeNode, limit_s: float, deadline_s: float) -> None:
    answers(node, shows(DONE, UNDER_WAY))
    before = node.clock.now
    with pytest.raises(BootError, match=r"GPU 00000000:01:00.0: In Progress.*error 802") as caught:
        wait(node, limit_s=limit_s, deadline_s=deadline_s)
    assert caught.value.code == "fabric_pending"
    assert node.clock.now - before <= 20.0


def test_a_failure_is_an_error_at_once_and_names_its_gpu(node: FakeNode) -> None:
    answers(node, shows(UNDER_WAY, ("Completed", "Insufficient Resources")))
    with pytest.raises(BootError, match=r"GPU 00000000:01:00.0: Completed \(Insufficient Resources\)") as caught:
        wait(node)
    assert caught.value.code == "fabric_failed"
    assert len(node.called("nvidia-smi")) == 1


@pytest.mark.parametrize("shown", [shows(NONE, NONE), HEAD, ""])
def test_a_driver_that_says_no_state_is_warned_of_with_nvlink_5_only(node: FakeNode, shown: str) -> None:
    answers(node, shown)
    assert wait(node, Switches.PCI) == ()
    (warning,) = wait(node)
    assert "does not say" in warning


def test_an_nvidia_smi_that_fails_is_an_error(node: FakeNode) -> None:
    node.programs["nvidia-smi"] = lambda _node, _words: Reply(15, "Unable to determine the device handle")
    with pytest.raises(BootError) as caught:
        wait(node)
    assert caught.value.code == "no_answer"
