"""Bakes on a fake node: what is checked, refused, tried again and reported, in both modes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.report import release_note
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError, GpuNodeError, ImageError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import BAKE_JOURNAL_OF_0_1, BAKE_REPORT
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import driver_images, layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import tree
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit.bake import COMPILE_LOG, bake, builds, outside, request
from tests.kit.node import FakeNode, bake_layer
from tests.kit.reply import KILLED, Reply
from tests.kit.values import IMAGE, KVER, LIBRARIES, MARKER, NEWER, VERSION

BUILD = "build-only"


def run(node: FakeNode, **changes: Any) -> tuple[Manifest, bool, dict[str, Any]]:
    """A bake whose layer is active at its end."""
    baked = bake(node, **{"mode": "in_place", **changes})
    assert len(baked.layers) == 1
    return baked.layers[0], baked.changed, baked.report


def failed(node: FakeNode, error: type[GpuNodeError] = BuildError, **changes: Any) -> GpuNodeError:
    """The error of a failed bake; asserts that the node is unchanged."""
    before = outside(node)
    with pytest.raises(error) as caught:
        run(node, **changes)
    assert outside(node) == before
    assert layers.read_all(node.root) == ((), ())
    assert not (node.root / "opt/gpu").exists() or not node.driver_runs
    return caught.value


def test_what_was_baked_is_recorded_and_reported(node: FakeNode) -> None:
    layer, baked_now, report = run(node)
    assert baked_now
    assert layers.read_all(node.root) == ((layer,), ())
    assert layer.layer == f"cuda-{VERSION}-open-{KVER}"
    assert {f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko", f"{LIBRARIES}/libcuda.so.1", MARKER} <= {e.path for e in layer.files}
    assert (layer.replaced, layer.deleted, layer.tries) == ((), (), 1)
    assert tree.problems(node.root, layer.files) == ()
    assert json.loads((node.root / BAKE_REPORT).read_text()) == report
    notes = (node.root / "var/lib/gpu-prebake/release-notes.txt").read_text()
    assert notes == release_note(layer, request(mode="in_place")) + "\n"
    assert not (node.root / "opt/gpu").exists()


def test_the_release_notes_of_others_stay(node: FakeNode) -> None:
    node.put("etc/notes", "kernel: new\nnvidia-prebake: an old bake\n")
    layer, _, _ = run(node, release_notes="/etc/notes")
    assert (node.root / "etc/notes").read_text() == f"kernel: new\n{release_note(layer, request(mode='in_place'))}\n"


def test_the_release_notes_of_others_stay_byte_for_byte(node: FakeNode) -> None:
    (node.root / "etc/notes").write_bytes(b"caf\xe9\x0b\xe2\x80\xa8 au lait\r\n\nlast")
    layer, _, _ = run(node, release_notes="/etc/notes")
    ours = f"{release_note(layer, request(mode='in_place'))}\n".encode()
    assert (node.root / "etc/notes").read_bytes() == b"caf\xe9\x0b\xe2\x80\xa8 au lait\r\n\nlast\n" + ours


def test_release_notes_that_cannot_be_kept_are_not_replaced(node: FakeNode) -> None:
    node.link("etc/notes", "/dev/zero")
    with pytest.raises(BuildError, match="notes: it is not a regular file"):
        run(node, release_notes="/etc/notes")
    assert (node.root / "etc/notes").is_symlink()


def test_the_same_inputs_again_change_nothing_and_run_no_container(node: FakeNode) -> None:
    first, _, _ = run(node)
    before, node.calls[:] = node.tree(), []
    again, baked_now, _ = run(node)
    assert (again, baked_now) == (first, False)
    assert node.tree() == before
    assert [argv for argv in node.calls if argv[:4] == ["ctr", "-n", "k8s.io", "run"]] == []


def test_another_driver_replaces_ours(node: FakeNode) -> None:
    run(node)
    other = IMAGE.replace(VERSION, "580.159.04")
    node.add_image(other)
    node.scripts = [builds(version="580.159.04")]
    layer, baked_now, _ = run(node, image=other)
    assert baked_now
    assert [m.layer for m in layers.read_all(node.root)[0]] == [layer.layer]
    assert not [path for path in node.driver_tree() if VERSION in path]


def fetched(node: FakeNode, image: str) -> None:
    """The driver image, as the role fetches it before a bake."""
    wanted = request(image=image).wanted
    driver_images.fetch(node.root, Containerd(node), wanted, Deadline(600, node.clock, node.clock.sleep))
    driver_images.pin(node.root, Containerd(node), image)


def test_images_of_earlier_bakes_go_also_of_failed_ones(node: FakeNode) -> None:
    node.images.clear()
    fetched(node, IMAGE)
    run(node)
    others = [IMAGE.replace(VERSION, version) for version in ("580.159.04", "580.200.01")]
    for other in others:  # a bake that fails, then one that succeeds
        fetched(node, other)
        node.scripts = [lambda n, _: Reply(1, "it failed\n")]
        with pytest.raises(BuildError):
            run(node, image=other)
    assert node.pinned == {IMAGE, *others}
    node.scripts = [builds(version="580.200.01")]
    assert flow.would_change(node, request(mode="in_place", image=others[1]), node.root)
    _, changed, report = run(node, image=others[1])
    assert (set(node.images), node.pinned) == ({others[1]}, {others[1]})
    (dropped,) = (step for step in report["steps"] if step["name"] == "drop-old-images")
    assert (changed, set(dropped["images"])) == (True, {IMAGE, others[0]})
    assert not run(node, image=others[1])[1]


def test_an_old_image_that_cannot_be_removed_fails_no_bake(node: FakeNode) -> None:
    other = IMAGE.replace(VERSION, "580.159.04")
    fetched(node, other)
    ctr = node.programs["ctr"]
    node.programs["ctr"] = lambda n, words: Reply(1, err="in use\n") if words[2:4] == ["images", "rm"] else ctr(n, words)
    _, _, report = run(node)
    assert next(step for step in report["steps"] if step["name"] == "drop-old-images")["outcome"] == "left"
    node.programs["ctr"] = ctr
    assert run(node)[1]
    assert set(node.images) == {IMAGE}


def test_the_same_driver_under_another_name_is_baked_again(node: FakeNode) -> None:
    """The seal compares the name, and a node finds the driver image in its containerd by it."""
    run(node)
    other = IMAGE.replace("registry.lab", "mirror.lab")
    node.add_image(other)
    layer, changed, _ = run(node, image=other)
    assert (layer.image, changed) == (other, True)


def test_check_mode_answers_and_writes_nothing(node: FakeNode) -> None:
    before = node.tree()
    assert flow.would_change(node, request(mode="in_place"), node.root)
    assert node.tree() == before
    run(node)
    before = node.tree()
    assert not flow.would_change(node, request(mode="in_place"), node.root)
    assert node.tree() == before


# --- checks of the result --------------------------------------------------------------------------------------------


def test_a_stale_marker_is_no_success(node: FakeNode) -> None:
    node.put(MARKER, f"kernel={KVER}\ndriver_version={VERSION}\ndriver_kind=cuda\narch=x86_64\n")
    node.scripts = [lambda node, action: Reply()]
    assert failed(node).code == "marker_missing"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param({"marker": {"kernel": NEWER}}, "marker_mismatch", f"kernel={NEWER}, wanted {KVER}", id="kernel"),
        pytest.param({"marker": {"driver_version": "570.1"}}, "marker_mismatch", "driver_version=570.1", id="version"),
        pytest.param({"marker": {"driver_kind": "grid"}}, "marker_mismatch", "driver_kind=grid, wanted cuda", id="kind"),
        pytest.param({"marker": {"arch": "aarch64"}}, "marker_mismatch", "arch=aarch64, wanted x86_64", id="arch"),
        pytest.param({"marker": {"arch": ""}}, "marker_mismatch", "arch=unknown", id="arch left out"),
        pytest.param({"marker": {"driver_version": "../x"}}, "marker_invalid", "not a plain word", id="leads out"),
        pytest.param({"without": ("marker",)}, "marker_missing", "left no marker", id="no marker"),
        pytest.param({"without": ("nvidia",)}, "build_incomplete", "module nvidia is missing", id="no module"),
        pytest.param({"without": ("nvidia-uvm",)}, "build_incomplete", "module nvidia-uvm is missing", id="no uvm"),
        pytest.param({"without": ("dkms",)}, "build_incomplete", f"DKMS has no installed nvidia/{VERSION}", id="not registered"),
        pytest.param({"without": ("libraries",)}, "build_incomplete", "no driver library of version", id="no libraries"),
        pytest.param({"licence": "GPL"}, "build_incomplete", "unknown licence 'GPL'", id="licence"),
    ],
)
def test_what_is_not_as_asked_is_an_error_and_taken_back(node: FakeNode, options: dict[str, Any], code: str, message: str) -> None:
    node.scripts = [builds(**options)]
    error = failed(node, GpuNodeError)
    assert error.code == code
    assert message in str(error)


def test_the_flavour_is_asserted(node: FakeNode) -> None:
    node.scripts = [builds(licence="NVIDIA")]
    assert failed(node, flavour="open").code == "flavour_refused"
    layer, _, _ = run(node, flavour="proprietary")
    assert layer.identity.flavour == "proprietary"


def test_a_library_of_another_version_is_an_error(node: FakeNode) -> None:
    def mixed(node: FakeNode, action: str) -> Reply:
        node.build()
        node.put(f"{LIBRARIES}/libnvidia-ptxjitcompiler.so.570.1", "old")
        return Reply()

    node.scripts = [mixed]
    assert failed(node).code == "build_incomplete"


def test_modules_that_do_not_fit_each_other_are_an_error(node: FakeNode) -> None:
    node.put(f"usr/src/linux-headers-{KVER}/Module.symvers")
    node.depmod_says = f"depmod: WARNING: {node.root}/lib/modules/{KVER}/updates/dkms/nvidia-uvm.ko needs unknown symbol nvUvmInterface\n"
    error = failed(node)
    assert error.code == "build_incomplete"
    assert "nvidia-uvm.ko needs unknown symbol nvUvmInterface" in str(error)


def test_a_module_that_a_driver_can_do_without_is_warned_of(node: FakeNode) -> None:
    node.put(f"usr/src/linux-headers-{KVER}/Module.symvers")
    said = f"/lib/modules/{KVER}/updates/dkms/nvidia-drm.ko needs unknown symbol drm_gem_object_free"
    node.depmod_says = f"depmod: WARNING: {node.root}{said}\n"
    (warning,) = run(node)[0].warnings
    assert warning.startswith("a module that the driver can do without may not load: ")
    assert warning.endswith(said)


def test_dkms_own_signing_key_does_not_stay(node: FakeNode) -> None:
    def signs(node: FakeNode, action: str) -> Reply:
        node.build()
        node.put("var/lib/dkms/mok.key", "private")
        node.put("var/lib/dkms/mok.pub", "public")
        return Reply()

    node.scripts = [signs]
    layer, _, _ = run(node)
    assert not list((node.root / "var/lib/dkms").glob("mok.*"))
    assert not [e.path for e in layer.files if "mok" in e.path]


def test_a_key_that_was_there_before_is_not_ours(node: FakeNode) -> None:
    node.put("var/lib/dkms/mok.key", "the image builder's")
    run(node)
    assert (node.root / "var/lib/dkms/mok.key").read_text() == "the image builder's"


# --- tries -----------------------------------------------------------------------------------------------------------


def test_a_timeout_is_tried_again_with_an_id_of_its_own(node: FakeNode) -> None:
    node.scripts = [lambda node, action: Reply(seconds=KILLED), builds()]
    layer, _, _ = run(node)
    assert layer.tries == 2
    assert [argv[-3] for argv in node.calls if "--privileged" in argv] == ["gpuprebuild-1", "gpuprebuild-2"]
    assert node.containers == []


def test_what_a_killed_try_left_is_not_part_of_the_layer(node: FakeNode) -> None:
    def hangs(node: FakeNode, action: str) -> Reply:
        node.put("usr/bin/nvidia-left-by-the-first-try", "x")
        return Reply(seconds=KILLED)

    node.scripts = [hangs, builds()]
    layer, _, _ = run(node)
    assert layer.tries == 2
    assert "usr/bin/nvidia-left-by-the-first-try" not in {e.path for e in layer.files} | set(node.tree())


def test_timeouts_end(node: FakeNode) -> None:
    node.scripts = [lambda node, action: Reply(seconds=KILLED)]
    error = failed(node)
    assert (error.code, node.driver_runs) == ("build_timeout", [BUILD] * 3)
    assert "600 s, 3 times" in str(error)


@pytest.mark.parametrize(
    ("output", "code", "tries", "message"),
    [
        pytest.param(COMPILE_LOG, "compile_failed", 1, "nvidia.c:184:16: error: too few arguments", id="compile error"),
        pytest.param("ld: final link failed: No space left on device\n", "no_space", 1, "larger disk", id="full"),
        pytest.param("config.sh: No such file or directory\n", "build_failed", 1, "config.sh", id="deterministic"),
        pytest.param("E: Could not get lock /var/lib/dpkg/lock\n", "build_failed", 3, "Could not get lock", id="transient"),
    ],
)
def test_only_what_may_pass_is_tried_again(node: FakeNode, output: str, code: str, tries: int, message: str) -> None:
    node.scripts = [lambda node, action: Reply(1, output)]
    error = failed(node)
    assert (error.code, len(node.driver_runs)) == (code, tries)
    assert message in str(error)
    assert error.details["container_output"]


def test_the_first_error_is_taken_from_dkms_log_too(node: FakeNode) -> None:
    def dkms_fails(node: FakeNode, action: str) -> Reply:
        node.put(f"var/lib/dkms/nvidia/{VERSION}/build/make.log", COMPILE_LOG)
        return Reply(1, "Bad return status for module build\n")

    node.scripts = [dkms_fails]
    error = failed(node)
    assert "nvidia.c:184:16: error: too few arguments" in str(error)
    assert "make.log" in error.details["dkms_log"]


# --- before the build ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entrypoint", ["case $1 in copy|install) ;; esac", "# build-only\ninstall", "pre-build-only|build-only-x"])
def test_an_image_without_the_action_is_never_sent_it(node: FakeNode, entrypoint: str) -> None:
    node.entrypoint = entrypoint
    assert failed(node, ImageError).code == "image_without_build_only"
    assert node.driver_runs == []


def test_an_absent_image_is_an_error(node: FakeNode) -> None:
    node.images.clear()
    assert failed(node, ImageError).code == "image_missing"


def test_an_image_for_another_architecture_is_an_error(node: FakeNode) -> None:
    node.add_image(IMAGE, arch="s390x")
    assert failed(node, ImageError).code == "image_no_platform"


def linked_driver(node: FakeNode) -> None:
    node.put("srv/nvidia/535.1/source/x")
    node.link("var/lib/dkms/nvidia", "/srv/nvidia")


def driver_in_another_tree(node: FakeNode) -> None:
    node.put("srv/dkms/nvidia/535.1/source/x")
    node.put("etc/dkms/framework.conf.d/site.conf", "dkms_tree=/srv/dkms\n")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(lambda n: n.put(BAKE_JOURNAL_OF_0_1, "{}"), "bake_unfinished", id="a bake of 0.1.0 was killed"),
        pytest.param(bake_layer, "layer_in_place", id="baked in place by 0.1.0"),
        pytest.param(lambda n: setattr(n, "daemon_ready", False), "containerd_unavailable", id="no containerd"),
        pytest.param(lambda n: n.put("etc/os-release", "ID=fedora\n"), "unsupported", id="rpm system"),
        pytest.param(lambda n: n.put("var/lib/dkms/nvidia-current/535.1/x"), "foreign_driver", id="another's driver"),
        pytest.param(linked_driver, "foreign_driver", id="another's driver behind a link"),
        pytest.param(lambda n: n.put("etc/dkms/framework.conf", "dkms_tree=/srv/dkms\n"), "dkms_elsewhere", id="another tree of DKMS"),
        pytest.param(driver_in_another_tree, "foreign_driver", id="another's driver in another tree"),
        pytest.param(lambda n: (n.root / f"usr/lib/modules/{KVER}/build").unlink(), "tools_missing", id="no headers"),
        pytest.param(lambda n: n.missing_programs.add("gcc"), "tools_missing", id="no compiler"),
        pytest.param(lambda n: n.put("var/lib/gpu-prebake/layers/x/manifest.json", "{"), "manifest_invalid", id="broken manifest"),
    ],
)
def test_preflight_refuses_before_anything_runs(node: FakeNode, spoil: Any, code: str) -> None:
    spoil(node)
    before = node.tree()
    with pytest.raises(GpuNodeError) as caught:
        run(node)
    assert caught.value.code == code
    assert node.tree() == before
    assert node.driver_runs == []


def test_too_little_space_says_how_much_is_missing(node: FakeNode) -> None:
    with pytest.raises(PreflightError, match=r"MB free, a bake needs 9\d+ MB there, \d+ MB are missing"):
        run(node, min_free_mb=999_999_999)


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_a_second_bake_at_the_same_time_is_refused(node: FakeNode) -> None:
    with files.locked(paths.LOCK, "a bake"), pytest.raises(GpuNodeError, match="already running") as caught:
        run(node)
    assert caught.value.code == "busy"
