"""Captured bakes on a fake node: the image is not changed, and the layer is in the store."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow, sandbox
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.flow import Baked
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError, GpuNodeError, InputError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import BAKE_REPORT, LAYERS, STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, key, objects_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit.bake import COMPILE_LOG, OTHER, bake, builds_newest, outside, request
from tests.kit.node import FakeNode
from tests.kit.reply import KILLED, Reply
from tests.kit.values import IMAGE, KVER, LIBRARIES, LOADER, MACHINE, MARKER, NEWER, OLDER, VERSION


def run(node: FakeNode, **changes: Any) -> Baked:
    return bake(node, mode="captured", **changes)


def failed(node: FakeNode, error: type[GpuNodeError] = BuildError, **changes: Any) -> GpuNodeError:
    """The error of a failed bake; asserts that neither the image nor the store has changed."""
    before, objects = outside(node), node.tree(STORE)
    with pytest.raises(error) as caught:
        run(node, **changes)
    assert outside(node) == before
    assert node.tree(STORE) == objects
    return caught.value


@pytest.fixture(autouse=True)
def newest_in_sight(node: FakeNode) -> None:
    node.scripts = [builds_newest()]


def test_the_image_stays_as_it_is_and_the_layer_lies_in_the_store(node: FakeNode) -> None:
    before = outside(node)
    baked = run(node)
    (layer,) = baked.layers
    assert outside(node) == before
    assert layers.read_all(node.root) == ((layer,), ())
    assert (layer.stored, layer.layer, layer.replaced, layer.deleted) == (True, f"cuda-{VERSION}-open-{KVER}", (), ())
    paths = {e.path: e for e in layer.files}
    assert {f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko", f"{LIBRARIES}/libcuda.so.1", MARKER} <= set(paths)
    assert paths["usr/bin/nvidia-modprobe"].mode == 0o4755
    assert Store(node.root).problems(objects_of(layer)) == ()
    assert [fact.name for fact in layer.module_facts] == ["nvidia-uvm", "nvidia"]
    assert json.loads((node.root / BAKE_REPORT).read_text()) == baked.report
    assert not (node.root / sandbox.CAPTURES).exists()
    assert not (node.root / "opt/gpu").exists()


def test_nothing_in_the_store_can_be_entered_executed_or_loaded(node: FakeNode) -> None:
    run(node)
    for path in (node.root / STORE).rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700
        else:
            assert not mode & 0o6000
            assert path.suffix not in (".ko", ".so")


def test_module_indexes_are_recorded_with_what_they_were(node: FakeNode) -> None:
    before = tree.describe(node.root, [f"usr/lib/modules/{KVER}/modules.dep"])[0].sha256
    (index,) = run(node).layers[0].indexes
    assert (index.path, index.before) == (f"usr/lib/modules/{KVER}/modules.dep", before)
    assert Store(node.root).path(key(index.after)).read_text() == "nvidia-uvm.ko:\nnvidia.ko:\n"


def test_the_container_is_given_the_sandbox(node: FakeNode) -> None:
    run(node)
    (argv,) = [argv for argv in node.calls if "--privileged" in argv]
    assert f"pid:/proc/{node.sandbox_pid}/ns/pid" in argv
    assert sum(word.startswith(f"type=bind,src={node.root / sandbox.CAPTURES}") for word in argv) == 2


@pytest.mark.parametrize(
    ("wanted", "built"),
    [
        pytest.param("all", [OLDER, KVER, NEWER], id="all"),
        pytest.param([KVER, OLDER], [KVER, OLDER], id="a list"),
        pytest.param(OLDER, [OLDER], id="one, the oldest"),
    ],
)
def test_an_unmodified_image_builds_for_each_kernel_that_is_asked_for(node: FakeNode, wanted: Any, built: list[str]) -> None:
    node.add_kernel(NEWER)
    node.add_kernel(OLDER)
    before = outside(node)
    baked = run(node, kernels=wanted)
    assert [layer.identity.kver for layer in baked.layers] == built
    assert [report["identity"]["kver"] for report in baked.report["layers"]] == built
    for layer in baked.layers:
        assert {e.path.split("/")[3] for e in layer.files if "lib/modules/" in e.path} == {layer.identity.kver}
        assert (layer.deleted, layer.replaced) == ((), ())
    assert outside(node) == before
    notes = (node.root / "var/lib/gpu-prebake/release-notes.txt").read_text().splitlines()
    assert [line.split(" for kernel ")[1].split()[0] for line in notes] == built


def test_a_kernel_without_headers_is_a_clear_error(node: FakeNode) -> None:
    node.add_kernel(NEWER, headers=False)
    error = failed(node, PreflightError, kernels="all")
    assert (error.code, node.driver_runs) == ("tools_missing", [])
    assert f"the headers of kernel {NEWER} are missing (package linux-headers-{NEWER})" in str(error)


def test_the_report_says_what_was_setuid_before_also_after_a_bake_that_built_nothing(node: FakeNode) -> None:
    node.put("usr/bin/sudo", "x", 0o4755)
    assert run(node).report["setuid_before"] == ["usr/bin/sudo"]
    node.put("opt/later", "x", 0o4755)
    assert run(node).report["setuid_before"] == ["usr/bin/sudo"]


def test_in_place_is_for_one_kernel(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    with pytest.raises(InputError, match="in_place bakes for exactly one kernel"):
        bake(node, mode="in_place", kernels="all")


def test_the_same_inputs_again_change_nothing_and_run_no_container(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    first = run(node, kernels="all")
    before, node.calls[:] = node.tree(), []
    again = run(node, kernels="all")
    assert (again.layers, again.new, again.changed) == (first.layers, (), False)
    assert node.tree() == before
    assert node.driver_runs == []
    assert not flow.would_change(node, request(mode="captured", kernels="all"), node.root)


def test_a_kernel_that_came_is_built_for_alone(node: FakeNode) -> None:
    first = run(node, kernels="all")
    node.add_kernel(NEWER)
    assert flow.would_change(node, request(mode="captured", kernels="all"), node.root)
    second = run(node, kernels="all")
    assert second.new == (f"cuda-{VERSION}-open-{NEWER}",)
    assert second.layers[0] == first.layers[0]


def test_another_driver_replaces_ours_once_it_is_sealed(node: FakeNode) -> None:
    run(node)
    other = IMAGE.replace(VERSION, OTHER)
    node.add_image(other)
    node.scripts = [lambda node, action: Reply(1, "config.sh: No such file or directory\n")]
    failed(node, image=other)
    assert [m.identity.version for m in layers.read_all(node.root)[0]] == [VERSION], "the old one stays until then"
    node.scripts = [builds_newest(version=OTHER)]
    (layer,) = run(node, image=other).layers
    assert layers.read_all(node.root) == ((layer,), ())
    held = {p.name for p in (node.root / "var/lib/gpu-prebake/objects").glob("*/*")}
    assert held == {key(e) for e in objects_of(layer)}


@pytest.mark.parametrize("number", [1, 2], ids=["first manifest", "second manifest"])
def test_a_newer_image_of_the_same_driver_that_cannot_be_recorded_leaves_the_old_layers(
    node: FakeNode, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers have the same names, because a name does not contain the image."""
    node.add_kernel(NEWER)
    run(node, kernels="all")
    before = {path: text for path, text in node.tree(STORE).items() if "bake-report" not in path}
    write, written = files.write_atomic, []

    def full(path: Path, text: str, mode: int = 0o644) -> None:
        """Fails at manifest ``number`` and at every later write."""
        if path.name == "manifest.json" or len(written) >= number:
            written.append(path)
            if len(written) >= number:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, text, mode)

    newer = f"{IMAGE[:-14]}20270101000000"
    node.add_image(newer, config=f"sha256:{'9' * 64}")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full)
        patch.setattr(layers, "write_atomic", full)
        assert failed(node, kernels="all", image=newer).code == "no_space"
    assert {path: text for path, text in node.tree(STORE).items() if "bake-report" not in path} == before
    assert {layer.image for layer in run(node, kernels="all", image=newer).layers} == {newer}


def test_a_layer_that_is_baked_again_is_not_judged_by_the_old_one(node: FakeNode) -> None:
    (old,) = run(node).layers
    layers.mark_bad(node.root, old, MACHINE, "nvidia-smi says 18")
    newer = f"{IMAGE[:-14]}20270101000000"
    node.add_image(newer, config=f"sha256:{'9' * 64}")
    (new,) = run(node, image=newer).layers
    assert new.layer == old.layer
    assert layers.why_judged_bad(node.root, old, MACHINE) == "nvidia-smi says 18"
    assert layers.why_judged_bad(node.root, new, MACHINE) is None


def test_a_kernel_that_is_not_asked_for_any_more_loses_its_layer(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    run(node, kernels="all")
    again = run(node, kernels=[KVER])
    assert (again.new, again.changed) == ((), True)
    assert layers.read_all(node.root) == (again.layers, ())


def test_a_layer_with_a_damaged_object_is_baked_again(node: FakeNode) -> None:
    (layer,) = run(node).layers
    module = next(e for e in layer.files if e.path.endswith("/updates/dkms/nvidia.ko"))
    Store(node.root).path(key(module)).write_text("spoilt")
    assert run(node).changed
    assert Store(node.root).problems(objects_of(layer)) == ()


def test_a_layer_whose_original_has_changed_is_baked_again(node: FakeNode) -> None:
    def replaces(node: FakeNode, action: str) -> Reply:
        node.put(f"{LOADER}/libGL.so.1", "NVIDIA's")
        return Reply()

    node.put(f"{LOADER}/libGL.so.1", "the distribution's")
    node.scripts = [builds_newest(replaces)]
    assert run(node).layers[0].replaced == (f"{LOADER}/libGL.so.1",)
    assert not run(node).changed
    node.put(f"{LOADER}/libGL.so.1", "the distribution's next")
    assert run(node).changed


@pytest.mark.parametrize("image", [IMAGE, IMAGE.replace(VERSION, OTHER)], ids=["the same", "another"])
def test_an_active_layer_is_taken_out_of_the_image_first(node: FakeNode, image: str) -> None:
    """As in an image that was made from a node with an active layer."""
    plain = outside(node)
    (layer,) = run(node).layers
    activate.activate(node.root, node, layer)
    assert (node.root / MARKER).exists()
    node.add_image(image)
    node.scripts = [builds_newest(version=VERSION if image == IMAGE else OTHER)]
    baked = run(node, image=image)
    assert "deactivate-old-layer" in [step["name"] for step in baked.report["steps"]]
    assert outside(node) == plain
    assert [m.layer for m in layers.read_all(node.root)[0]] == [baked.layers[0].layer]


# --- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param({"marker": {"kernel": NEWER}}, "marker_mismatch", id="kernel"),
        pytest.param({"without": ("marker",)}, "marker_missing", id="no marker"),
        pytest.param({"without": ("nvidia-uvm",)}, "build_incomplete", id="no uvm"),
        pytest.param({"without": ("dkms",)}, "build_incomplete", id="not registered"),
        pytest.param({"licence": "NVIDIA"}, "flavour_refused", id="flavour"),
    ],
)
def test_what_is_not_as_asked_is_an_error(node: FakeNode, options: dict[str, Any], code: str) -> None:
    node.scripts = [builds_newest(**options)]
    assert failed(node, flavour="open").code == code


def test_a_stale_marker_in_the_image_is_no_success(node: FakeNode) -> None:
    right = f"kernel={KVER}\ndriver_version={VERSION}\ndriver_kind=cuda\narch=x86_64\n"
    node.put(MARKER, right)
    node.scripts = [builds_newest(without=("marker",))]
    assert failed(node).code == "marker_missing"
    node.scripts = [builds_newest()]
    node.put(MARKER, right.replace(VERSION, "570.1"))
    assert run(node).layers[0].replaced == (MARKER,)


@pytest.mark.parametrize(
    ("output", "code", "tries", "said"),
    [
        pytest.param(COMPILE_LOG, "compile_failed", 1, "does not compile", id="compile error"),
        pytest.param("ld: final link failed: No space left on device\n", "no_space", 1, "larger disk", id="full"),
        pytest.param(
            "cp: cannot create special file '/usr/bin/lib64/lib64/libGL.so.1': Operation not permitted\n",
            *("library_deleted", 1, "deletes the distribution's library libGL.so.1"),
            id="a deletion that cannot be handed on",
        ),
        pytest.param("ctr: OCI runtime create failed: cpu.weight: no such file\n", "container_not_started", 3, "cpu.weight", id="runtime"),
        pytest.param("E: Could not get lock /var/lib/dpkg/lock\n", "build_failed", 3, "Could not get lock", id="transient"),
    ],
)
def test_a_failed_build_leaves_nothing(node: FakeNode, output: str, code: str, tries: int, said: str) -> None:
    node.scripts = [lambda node, action: Reply(1, output)]
    error = failed(node)
    assert (error.code, len(node.driver_runs)) == (code, tries)
    assert said in str(error)


def test_each_try_has_a_sandbox_of_its_own(node: FakeNode) -> None:
    def hangs(node: FakeNode, action: str) -> Reply:
        node.put("usr/bin/left-by-the-first-try", "x")
        return Reply(seconds=KILLED)

    node.scripts = [hangs, builds_newest()]
    (layer,) = run(node).layers
    assert layer.tries == 2
    assert "usr/bin/left-by-the-first-try" not in {e.path for e in layer.files}
    assert [argv[-3] for argv in node.calls if "--privileged" in argv] == ["gpuprebuild-1", "gpuprebuild-2"]
    assert len(node.called("unshare")) == 2


def test_one_kernel_that_fails_seals_none(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    node.scripts = [builds_newest(), lambda node, action: Reply(1, COMPILE_LOG)]
    assert failed(node, kernels="all").code == "compile_failed"
    assert layers.read_all(node.root) == ((), ())


def test_packages_that_were_installed_are_warned_of(node: FakeNode) -> None:
    def installs(node: FakeNode, action: str) -> Reply:
        node.put("var/lib/dpkg/status", "Package: libx\nStatus: install ok installed\n")
        return Reply()

    node.scripts = [builds_newest(installs)]
    baked = run(node)
    assert "packages were installed or removed during the build" in baked.report["warnings"][0]
    assert (node.root / "var/lib/dpkg/status").read_text() == ""


def test_what_a_killed_bake_left_is_removed_by_the_next(node: FakeNode) -> None:
    run(node)
    before = node.tree(STORE)
    node.put(f"{sandbox.CAPTURES}/1-a/upper/0/usr/bin/nvidia-smi", "x")
    for path in (
        f"objects/ab/{'ab' * 32}",
        f"objects/ab/.{'ab' * 32}.4711.tmp",
        "layers/x/.manifest.json.4711.tmp",
        ".bake-report.json.4711.tmp",
    ):
        node.put(f"{STORE}/{path}", "half")
    assert not run(node).changed
    assert {p for p in node.tree(STORE).keys() ^ before.keys()} == set()


def test_what_is_not_ours_in_the_store_is_kept(node: FakeNode) -> None:
    foreign = [f"{STORE}/{path}" for path in ("notes", ".x.tmp", "objects/note", "objects/ab/note", "layers/note", "layers/x/note")]
    for path in foreign:
        node.put(path, "somebody's")
    (layer,) = run(node).layers
    beside = f"{LAYERS}/{layer.layer}/note"
    node.put(beside, "somebody's")
    other = IMAGE.replace(VERSION, OTHER)
    node.add_image(other)
    node.scripts = [builds_newest(version=OTHER)]
    assert run(node, image=other).changed
    kept = node.tree(STORE)
    assert [kept.get(path) for path in (*foreign, beside)] == ["644 somebody's"] * 7
    assert [m.identity.version for m in layers.read_all(node.root)[0]] == [OTHER]


@pytest.mark.parametrize("lost", [BAKE_REPORT, "var/lib/gpu-prebake/release-notes.txt"])
def test_a_bake_writes_the_report_and_notes_of_one_that_was_killed_before_it_could(node: FakeNode, lost: str) -> None:
    run(node)
    before = node.tree(STORE)
    (node.root / lost).unlink()
    again = run(node)
    assert (again.new, again.changed, len(node.driver_runs)) == ((), True, 1)
    assert node.tree(STORE).keys() == before.keys()
    assert not run(node).changed


def test_an_overlay_root_is_refused_before_anything_runs(node: FakeNode) -> None:
    node.put("proc/self/mountinfo", "28 1 0:9 / / rw - overlay overlay rw\n")
    error = failed(node, GpuNodeError)
    assert (error.code, node.driver_runs) == ("root_unsupported", [])
    with pytest.raises(GpuNodeError, match="bake on a machine whose root is a plain filesystem"):
        flow.would_change(node, request(mode="in_place"), node.root)
