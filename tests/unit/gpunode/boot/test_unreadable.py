"""A node on which a folder cannot be listed: nothing is known of it, and nothing is done."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.decide import decide
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.probe import probe
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import foreign, libraries
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import inertness
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import dpkg, kernels, setuid
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

from tests.kit.boot import failed
from tests.kit.facts import inert
from tests.kit.node import FakeNode
from tests.kit.unreadable import make_unreadable
from tests.kit.values import KVER, LOADER, VERSION, policy

UPDATES = f"usr/lib/modules/{KVER}/updates"


@pytest.mark.parametrize("folder", ["sys/bus/pci/devices", "var/lib/dkms", "var/lib/dkms/nvidia", LOADER])
def test_a_boot_ends_without_a_change_and_names_the_folder(baked: FakeNode, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    make_unreadable(monkeypatch, baked.root / folder)
    error = failed(baked)
    assert error.code == "unreadable"
    assert folder.rpartition("/")[2] in str(error)
    assert baked.driver_runs == []


@pytest.mark.parametrize("folder", ["usr/lib/modules", UPDATES, f"{UPDATES}/dkms"])
def test_so_does_one_where_a_foreign_module_may_be(fresh: FakeNode, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    (fresh.root / folder).mkdir(parents=True, exist_ok=True)
    make_unreadable(monkeypatch, fresh.root / folder)
    assert failed(fresh).code == "unreadable"
    assert fresh.driver_runs == []


def test_a_dpkg_status_that_cannot_be_read_is_not_empty(baked: FakeNode) -> None:
    status = baked.root / "var/lib/dpkg/status"
    status.unlink()
    status.mkdir()
    assert failed(baked).code == "unreadable"


def test_an_unmanaged_node_is_left_alone_all_the_same(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    make_unreadable(monkeypatch, baked.root / "var/lib/dkms")
    facts = probe(baked.root, baked, Containerd(baked), policy().wanted)
    assert decide(facts, policy(managed=False)).code == "not_managed"


def test_a_bus_that_cannot_be_listed_is_not_a_node_without_a_gpu() -> None:
    plan = decide(inert(functions=(), unreadable="/sys/bus/pci/devices cannot be read (x)"), policy())
    assert (plan.code, plan.fails, plan.steps) == ("unreadable", True, ())


def test_layers_that_cannot_be_listed_are_a_problem_of_theirs(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    make_unreadable(monkeypatch, baked.root / "var/lib/gpu-prebake/layers")
    found, problems = layers.read_all(baked.root)
    assert found == ()
    assert len(problems) == 1


def test_libraries_that_cannot_be_listed_are_of_no_version(baked: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert libraries.version_problems(baked.root, "x86_64", VERSION) == ()
    make_unreadable(monkeypatch, baked.root / LOADER)
    (problem,) = libraries.version_problems(baked.root, "x86_64", VERSION)
    assert "cannot be listed" in problem


@pytest.mark.parametrize(
    ("folder", "read"),
    [
        pytest.param("usr/lib/modules", kernels.installed, id="kernels"),
        pytest.param("usr/lib/modules", kernels.with_headers, id="kernels with headers"),
        pytest.param("var/lib/dpkg/info", dpkg.owned_by_dpkg, id="what packages own"),
        pytest.param("usr/bin", setuid.setuid, id="setuid files"),
        pytest.param(UPDATES, foreign.module_files, id="modules"),
        pytest.param(LOADER, lambda root: foreign.libraries(root, "x86_64"), id="libraries"),
        pytest.param(LOADER, lambda root: list(inertness._libraries(root, "x86_64")), id="live libraries"),
        pytest.param(UPDATES, lambda root: list(inertness._modules(root)), id="live modules"),
    ],
)
def test_no_reader_takes_it_for_empty(baked: FakeNode, monkeypatch: pytest.MonkeyPatch, folder: str, read: object) -> None:
    assert callable(read)
    (baked.root / folder).mkdir(parents=True, exist_ok=True)
    make_unreadable(monkeypatch, baked.root / folder)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read(baked.root)
    assert caught.value.errno == errno.EIO


def test_a_tree_that_cannot_be_looked_through_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    make_unreadable(monkeypatch, tmp_path / "a/b")
    assert not files.remove_tree(tmp_path / "a")
    assert (tmp_path / "a/b").is_dir()
