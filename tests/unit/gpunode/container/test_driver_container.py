"""Running a driver container by the contract."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import driver_container
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.driver_container import (
    ACTIONS,
    ContainerRun,
    DriverContainer,
    Place,
    actions_in,
    run_argv,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import CommandError, ImageError

from tests.kit.node import ENTRYPOINT, FakeNode
from tests.kit.reply import KILLED, Reply
from tests.kit.values import IMAGE


def container(node: FakeNode) -> DriverContainer:
    return DriverContainer(Containerd(node), node, node.root)


def test_the_command_is_the_contracts(node: FakeNode) -> None:
    wanted = (
        "ctr -n k8s.io run --privileged --rm --net-host --with-ns pid:/proc/1/ns/pid "
        "--mount type=bind,src=/opt/gpu,dst=/mnt/gpu,options=rbind --mount type=bind,src=/opt/actions,dst=/mnt/actions,options=rbind "
        f"{IMAGE} gpuprebuild /entrypoint.sh build-only"
    )
    assert " ".join(run_argv(Containerd(node), IMAGE, "gpuprebuild", "build-only")) == wanted


def test_in_a_sandbox_the_folders_are_bound_from_inside_it(node: FakeNode) -> None:
    words = run_argv(Containerd(node), IMAGE, "gpuprebuild-1", "build-only", Place("/store/merged", 4242))
    assert "pid:/proc/4242/ns/pid" in words
    assert "type=bind,src=/store/merged/opt/gpu,dst=/mnt/gpu,options=rbind" in words
    assert "type=bind,src=/store/merged/opt/actions,dst=/mnt/actions,options=rbind" in words


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        pytest.param(ENTRYPOINT, ACTIONS, id="all"),
        pytest.param("case $1 in copy) ;; install) ;; esac", ("copy", "install"), id="an older image"),
        pytest.param("install-skip-build", ("install-skip-build",), id="a longer word is not the shorter"),
        pytest.param("# build-only\n   # install\nx", (), id="comments"),
        pytest.param("xinstall install_x build-only2 pre-copy", (), id="parts of words"),
        pytest.param('"build-only"|copy)', ("copy", "build-only"), id="quoted"),
        pytest.param("", (), id="empty"),
    ],
)
def test_actions_are_exact_words(text: str, actions: tuple[str, ...]) -> None:
    assert actions_in(text) == actions


def test_an_image_without_an_entrypoint_is_no_driver_image(node: FakeNode) -> None:
    node.programs["ctr"] = lambda node, words: Reply(1, err="cat: no such file\n") if "run" in words else Reply()
    with pytest.raises(ImageError) as caught:
        container(node).known_actions(IMAGE)
    assert caught.value.code == "image_not_a_driver"


def test_an_image_that_is_slow_to_answer_may_be_one_all_the_same(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> str:
        raise CommandError(["ctr", "run"], None, "", "killed after 180 s", timed_out=True)

    monkeypatch.setattr(Containerd, "read_file", killed)
    with pytest.raises(ImageError, match="did not end: ctr run: killed after 180 s") as caught:
        container(node).known_actions(IMAGE)
    assert caught.value.code == "image"


def test_each_run_begins_clean(node: FakeNode) -> None:
    left = node.put("opt/gpu/config.sh", "DRIVER_VERSION=1\n")
    node.containers = ["gpuinstall-1", "gpuprebuild", "gpuprebuild-x", "web"]
    seen: list[bool] = []

    def looks(node: FakeNode, action: str) -> Reply:
        seen.append(left.exists())
        return Reply(out="T 1 a\nT 2 b\n")

    node.scripts = [looks]
    run = container(node).run(IMAGE, "gpuinstall-1", "install", 60)
    assert seen == [False]
    assert node.containers == ["gpuprebuild", "gpuprebuild-x", "web"]
    assert run.succeeded
    log = (node.root / run.log.lstrip("/")).read_text()
    assert [line.split(None, 1)[1] for line in log.splitlines()] == ["T 1 a", "T 2 b"]


def test_a_run_at_its_limit_is_ended_altogether(node: FakeNode) -> None:
    node.scripts = [lambda node, action: Reply(out="working\n", seconds=KILLED)]
    run = container(node).run(IMAGE, "gpuinstall-1", "install", 60)
    assert (run.timed_out, run.succeeded, node.containers) == (True, False, [])
    ended = [argv[3:] for argv in node.calls if argv[-1] == "gpuinstall-1" and argv[3] != "run"]
    assert ended == [
        ["tasks", "kill", "-a", "-s", "SIGKILL", "gpuinstall-1"],
        ["tasks", "rm", "-f", "gpuinstall-1"],
        ["containers", "rm", "gpuinstall-1"],
        ["snapshots", "rm", "gpuinstall-1"],
    ]


def test_nothing_of_the_scratch_folders_stays(node: FakeNode) -> None:
    container(node).clean_slate()
    assert (node.root / "opt/actions").is_dir()
    container(node).sweep()
    assert list((node.root / "opt").iterdir()) == []


def test_an_image_is_asked_without_a_folder_in_the_root(node: FakeNode) -> None:
    """A run that is killed at this point then leaves no folder behind."""
    before = node.tree()
    node.put("opt/gpu/NVIDIA-Linux-x86_64-1.2/left-by-a-killed-run")
    assert container(node).known_actions(IMAGE) == ("copy", "install", "build-only", "install-skip-build")
    assert node.tree() == before
    assert list((node.root / "opt").iterdir()) == []


def flood(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> tuple[ContainerRun, list[str], list[str]]:
    """A container that writes more than is kept. Returns its run, the lines of its log, and those that were passed on."""
    for name, size in (("LOGGED_FIRST", 20_000), ("LOGGED_LAST", 10_000), ("SAID", 5_000)):
        monkeypatch.setattr(driver_container, name, size)
    node.scripts = [lambda node, action: Reply(out="".join(f"line {number}\n" for number in range(2000)))]
    said: list[str] = []
    run = DriverContainer(Containerd(node), node, node.root, said.append).run(IMAGE, "gpuinstall-1", "install", 60)
    return run, (node.root / run.log.lstrip("/")).read_text().splitlines(), said


def test_a_container_that_never_stops_writing_fills_neither_disk_nor_log(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    run, log, said = flood(node, monkeypatch)
    assert run.succeeded
    assert sum(map(len, log)) < 40_000
    assert log[0].endswith(" line 0")
    assert log[-1].endswith(" line 1999")
    assert len([line for line in log if line.endswith("were cut here]")]) == 1
    assert sum(map(len, said)) < 6_000
    assert said[0] == "line 0"
    assert said[-1].endswith("more lines of the driver container are not shown here; its log has the first and the last of them]")


def test_a_log_that_cannot_be_written_does_not_end_the_container(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.scripts = [lambda node, action: Reply(out="working\n")]
    (node.root / "var/log/gpu-prebake").mkdir(parents=True)
    (node.root / "var/log/gpu-prebake/gpuinstall-1.log").symlink_to("/dev/full")
    said: list[str] = []
    run = DriverContainer(Containerd(node), node, node.root, said.append).run(IMAGE, "gpuinstall-1", "install", 60)
    assert run.succeeded
    assert said == ["working"]
