"""A container that was not started, and one that ran and failed."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.driver_container import DriverContainer
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.runtime_errors import not_started
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import ImageError

from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import IMAGE

RUNC = "ctr: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
CGROUP = (
    RUNC
    + "error during container init: error setting cgroup config: openat2 /sys/fs/cgroup/x/cpu.weight: no such file or directory: unknown"
)


@pytest.mark.parametrize(
    ("output", "code"),
    [
        pytest.param(f"{CGROUP}\n", "container_not_started", id="a cgroup's file"),
        pytest.param(RUNC + "error mounting proc: permission denied: unknown", "container_not_started", id="a mount"),
        pytest.param("ctr: failed to start shim: fork/exec: resource temporarily unavailable", "container_not_started", id="no process"),
        pytest.param('ctr: container "gpuask": already exists', "container_not_started", id="a name that is taken"),
        pytest.param('ctr: failed to dial "/run/containerd/containerd.sock": x', "containerd_unavailable", id="containerd is away"),
        pytest.param('ctr: image "x:1": not found', "image_missing", id="the image is gone"),
        pytest.param("ctr: failed to prepare snapshot: no space left on device", "no_space", id="full"),
        pytest.param(RUNC + 'exec: "cat": executable file not found in $PATH: unknown', None, id="no program in the image"),
        pytest.param(
            RUNC + 'exec: "/entrypoint.sh": stat /entrypoint.sh: no such file or directory: unknown', None, id="no entrypoint in the image"
        ),
        pytest.param("exec /usr/bin/cat: exec format error", None, id="another architecture"),
        pytest.param("cat: /entrypoint.sh: No such file or directory", None, id="the program ran"),
        pytest.param("ctr: said the container\nand failed\n", None, id="a line of the container's own"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_only_ctrs_own_last_line_says_that_nothing_was_started(output: str, code: str | None) -> None:
    found = not_started(output)
    assert (found and found.code) == code


def test_a_runtime_that_cannot_start_the_question_is_not_the_images_fault(node: FakeNode) -> None:
    node.programs["ctr"] = lambda node, words: Reply(1, err=f"{CGROUP}\n") if "run" in words else Reply()
    with pytest.raises(ImageError, match=r"cpu\.weight: no such file") as caught:
        DriverContainer(Containerd(node), node, node.root).known_actions(IMAGE)
    assert caught.value.code == "container_not_started"
