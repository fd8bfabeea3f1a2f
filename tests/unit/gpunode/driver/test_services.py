"""The driver's own services: found where systemd finds them, stopped before the driver is unloaded, and started again in every way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import control, services
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.services import Unit
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, CommandError, DeadlineError, GpuNodeError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STOPPED_SERVICES
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit import systemd
from tests.kit.boot import boot, failed, fails
from tests.kit.facts import OTHER_IMAGE
from tests.kit.node import FakeNode, bake_layer
from tests.kit.reply import KILLED, Reply
from tests.kit.values import digest, policy

GRIDD, PERSISTENCED = "nvidia-gridd", "nvidia-persistenced"


def stopped(node: FakeNode) -> tuple[str, ...]:
    return services.stop(node.root, node, Deadline(60))


def log_of(node: FakeNode) -> list[str]:
    """What was done to services and modules, in order."""
    changes = [argv for argv in node.calls if argv[0] == "modprobe" or (argv[0] == "systemctl" and argv[1] in ("start", "stop"))]
    return [" ".join(argv) for argv in changes]


@pytest.fixture
def brought_up(node: FakeNode) -> FakeNode:
    """A node with its driver, and with an owner's units for two of its services."""
    node.add_gpu()
    bake_layer(node)
    boot(node)
    for name in (GRIDD, PERSISTENCED):
        systemd.add_unit(node, name, "etc/systemd/system")
    node.add_image(OTHER_IMAGE, config=digest("other"))
    node.calls.clear()
    return node


RUNNING = {GRIDD, PERSISTENCED}
ANOTHER = policy(OTHER_IMAGE)  # so that the driver is unloaded and removed, and another is installed


# --- where they are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", systemd.FOLDERS)
@pytest.mark.parametrize("name", [GRIDD, PERSISTENCED])
def test_a_unit_is_found_where_systemd_finds_it(node: FakeNode, folder: str, name: str) -> None:
    systemd.add_unit(node, name, folder)
    assert stopped(node) == (name,)
    assert node.running == set()


def test_what_does_not_run_is_not_touched(node: FakeNode) -> None:
    systemd.add_unit(node, GRIDD, runs=False)
    assert stopped(node) == ()
    assert not (node.root / STOPPED_SERVICES).exists()


def test_of_two_names_of_one_unit_its_own_is_stopped_once(node: FakeNode) -> None:
    systemd.add_unit(node, "nvidia-dcgm")
    node.link("etc/systemd/system/dcgm.service", "/usr/lib/systemd/system/nvidia-dcgm.service")
    assert stopped(node) == ("nvidia-dcgm",)


def test_one_whose_file_has_gone_runs_until_it_is_stopped(node: FakeNode) -> None:
    node.running.add(GRIDD)
    assert stopped(node) == (GRIDD,)
    assert services.start_again(node.root, node) == ()
    assert node.running == set()


@pytest.mark.parametrize("reply", [Reply(1, err="System has not been booted with systemd"), Reply(seconds=KILLED), Reply(out="nonsense\n")])
def test_where_systemd_does_not_answer_there_are_none(node: FakeNode, reply: Reply) -> None:
    systemd.add_unit(node, GRIDD)
    node.programs["systemctl"] = lambda node, words: reply
    assert stopped(node) == ()


def test_what_systemd_shows_is_read_by_its_names() -> None:
    text = "UnitFileState=enabled\nId=a.service\nLoadState=loaded\nActiveState=activating\n\nId=b.service\nLoadState=not-found\n\n"
    assert services.parse(text) == (Unit("a", "loaded", "activating", "enabled"), Unit("b", "not-found", "", ""))
    assert services.parse(text)[0].is_running
    assert services.parse("\n\n") == ()


# --- started again -----------------------------------------------------------------------------------------------------


def test_after_a_boot_that_replaced_the_driver_they_run_again(brought_up: FakeNode) -> None:
    assert boot(brought_up, ANOTHER).result == "compiled"
    log = log_of(brought_up)
    assert log.index(f"systemctl stop {GRIDD}") < log.index("modprobe -r nvidia") < log.index(f"systemctl start {GRIDD}")
    assert brought_up.running == RUNNING
    assert not (brought_up.root / STOPPED_SERVICES).exists()


def test_after_a_boot_that_failed_too(brought_up: FakeNode) -> None:
    brought_up.scripts = [fails()]
    failed(brought_up, ANOTHER)
    assert f"systemctl stop {GRIDD}" in log_of(brought_up)
    assert brought_up.running == RUNNING


@pytest.mark.parametrize(
    ("breaks", "error"),
    [
        pytest.param(lambda node: node.held_modules.add("nvidia"), BootError, id="a module is in use"),
        pytest.param(lambda node: hang(node, "stop", GRIDD), CommandError, id="one does not stop"),
    ],
)
def test_where_unloading_fails_they_run_again(
    brought_up: FakeNode, breaks: Callable[[FakeNode], object], error: type[GpuNodeError]
) -> None:
    breaks(brought_up)
    failed(brought_up, ANOTHER, error)
    assert f"systemctl start {GRIDD}" in log_of(brought_up)
    assert brought_up.running == RUNNING
    assert not (brought_up.root / STOPPED_SERVICES).exists()


def test_where_the_deadline_passes_between_two_they_run_again(brought_up: FakeNode) -> None:
    hang(brought_up, "stop", PERSISTENCED, seconds=50.0)
    with pytest.raises(DeadlineError):
        control.unload(brought_up.root, brought_up, Deadline(50, brought_up.clock, brought_up.clock.sleep))
    assert brought_up.running == RUNNING


def hang(node: FakeNode, verb: str, service: str, seconds: float = KILLED) -> None:
    """A service that takes ``seconds``, and is stopped all the same."""
    works = node.programs["systemctl"]

    def slow(node: FakeNode, words: list[str]) -> Reply:
        reply = works(node, words)
        return Reply(reply.rc, reply.out, reply.err, seconds) if words == [verb, service] else reply

    node.programs["systemctl"] = slow


def test_the_run_after_one_that_was_killed_starts_what_that_one_stopped(brought_up: FakeNode) -> None:
    stopped(brought_up)  # and killed here
    assert (stopped(brought_up), brought_up.running) == ((), set())
    assert boot(brought_up).result == "ready"
    assert brought_up.running == RUNNING


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(lambda node: (node.root / f"usr/lib/systemd/system/{GRIDD}.service").unlink(), id="removed"),
        pytest.param(lambda node: node.link(f"etc/systemd/system/{GRIDD}.service", "/dev/null"), id="masked"),
        pytest.param(lambda node: (node.root / f"etc/systemd/system/multi-user.target.wants/{GRIDD}.service").unlink(), id="disabled"),
    ],
)
def test_what_somebody_has_switched_off_meanwhile_stays_stopped(node: FakeNode, changes: Callable[[FakeNode], object]) -> None:
    systemd.add_unit(node, GRIDD)
    stopped(node)
    changes(node)
    assert services.start_again(node.root, node) == ()
    assert node.running == set()
    assert not (node.root / STOPPED_SERVICES).exists()


def test_where_systemd_does_not_answer_then_the_next_run_starts_them(node: FakeNode) -> None:
    systemd.add_unit(node, GRIDD)
    stopped(node)
    works = node.programs["systemctl"]
    node.programs["systemctl"] = lambda node, words: Reply(seconds=KILLED)
    (warning,) = services.start_again(node.root, node)
    assert f"systemctl start {GRIDD}" in warning
    node.programs["systemctl"] = works
    assert services.start_again(node.root, node) == ()
    assert node.running == {GRIDD}


def test_where_systemd_does_not_answer_nothing_is_started_and_that_is_said(node: FakeNode) -> None:
    node.programs["systemctl"] = lambda node, words: Reply(seconds=KILLED)
    started, warnings = control.start_services(node, Deadline(60))
    assert (started, len(warnings)) == ([], 1)
    assert "systemd does not answer" in warnings[0]


def test_one_that_ran_though_it_was_disabled_is_started(node: FakeNode) -> None:
    systemd.add_unit(node, GRIDD, is_enabled=False)
    stopped(node)
    services.start_again(node.root, node)
    assert node.running == {GRIDD}


def test_one_that_does_not_start_is_a_warning(node: FakeNode) -> None:
    systemd.add_unit(node, GRIDD)
    stopped(node)
    node.stuck_units = {f"{GRIDD}.service"}
    (warning,) = services.start_again(node.root, node)
    assert warning.startswith(f"{GRIDD} does not start: Job for {GRIDD}.service failed.")


def test_of_a_note_only_our_services_are_believed(node: FakeNode) -> None:
    systemd.add_unit(node, "ssh", runs=False)
    systemd.add_unit(node, GRIDD, runs=False)
    node.put(STOPPED_SERVICES, f"ssh enabled\n-r enabled\n{GRIDD}\nx\n\n{PERSISTENCED} enabled\n")
    assert services.start_again(node.root, node) == ()
    assert log_of(node) == []


# --- where the driver goes ---------------------------------------------------------------------------------------------


def test_after_a_removal_they_stay_stopped_and_are_named(brought_up: FakeNode) -> None:
    done = removal.remove(brought_up, RemoveRequest(), root=brought_up.root)
    assert (set(done.services), brought_up.running) == (RUNNING, set())
    assert not (brought_up.root / STOPPED_SERVICES).exists()


def test_after_a_removal_that_failed_they_run_again(brought_up: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(removal.deactivate, "deactivate", fails)
    with pytest.raises(OSError, match="Input/output"):
        removal.remove(brought_up, RemoveRequest(), root=brought_up.root)
    assert f"systemctl stop {GRIDD}" in log_of(brought_up)
    assert brought_up.running == RUNNING
