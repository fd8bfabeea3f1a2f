"""Boots of a fake node: two ways to boot it, what its driver containers do, and what a test asks of it afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.apply import carry_out
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.context import BootRun
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.policy import Policy
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BootError, GpuNodeError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import Events

from tests.kit.layer import LayerNode, snapshot
from tests.kit.node import FakeNode, behave
from tests.kit.reply import Reply, Script
from tests.kit.values import VERSION, policy

SKIP, INSTALL = "install-skip-build", "install"
# What a boot writes also where it puts no layer in place, the store apart, which ``snapshot`` leaves out.
BOOTS_OWN = ("proc/", "sys/", "dev/", "run/", "opt/", "var/log/")


def boot(node: FakeNode, want: Policy | None = None) -> Outcome:
    """Probe, decide and apply, as flow.boot does, on the fake node's clock."""
    want = want or policy()
    deadline = Deadline(want.deadline_s, node.clock, node.clock.sleep)
    containerd = Containerd(node)
    facts = probe(node.root, node, containerd, want.wanted)
    return carry_out(BootRun(node.root, node, containerd, want, facts, deadline, Events(), decide(facts, want)))


def failed(node: FakeNode, want: Policy | None = None, error: type[GpuNodeError] = BootError) -> GpuNodeError:
    """The error with which a boot ends."""
    with pytest.raises(error) as caught:
        boot(node, want)
    return caught.value


def flow_boot(node: LayerNode, want: Policy | None = None, check: bool = False) -> Outcome:
    """A boot as the module does it: with lock, resumed journals and check mode, on the machine's clock."""
    return flow.boot(node, want or policy(delay_s=0), check, root=node.root)[1]


# --- what driver containers do ---------------------------------------------------------------------------------------


def fails(seconds: float = 5.0, before: Callable[[FakeNode], object] = lambda node: None, out: str = "it failed\n") -> Script:
    """A driver container that does ``before`` to the node and then exits with status 1."""

    def script(node: FakeNode, action: str) -> Reply:
        before(node)
        return Reply(1, out, seconds=seconds)

    return script


def loads(node: FakeNode) -> None:
    node.insert("nvidia", VERSION)


def logs(text: str) -> Callable[[FakeNode], None]:
    """The driver is loaded, and the kernel's log gets ``text``."""

    def write(node: FakeNode) -> None:
        loads(node)
        node.dmesg += text

    return write


def refuses(node: LayerNode, action: str) -> Reply:
    """Asked to skip the build: a module that this kernel does not load."""
    if action == SKIP:
        node.insert_error = "Invalid module format"
        return Reply(1, out="no\n", seconds=5.0)
    node.insert_error = ""
    return behave(node, action)


# --- what happens to a node, and what is on it -----------------------------------------------------------------------


def lose_gpu(node: LayerNode) -> None:
    """Takes every device off the PCI bus."""
    for path in sorted((node.root / "sys/bus/pci").rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()


def restarts(node: FakeNode) -> int:
    """How often containerd was restarted."""
    return len(node.called("systemctl", "restart", "containerd"))


def placed(node: LayerNode) -> dict[str, object]:
    """All files of the node, except those that any boot may write."""
    return {p: what for p, what in snapshot(node.root).items() if not f"{p}/".startswith(BOOTS_OWN)}
