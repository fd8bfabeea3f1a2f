"""Where our files are below a root, and whose they are: by themselves, and in everything that uses the store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode import paths
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import activate
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.activation import flow as layer_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow as bake_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.boot.plan import Outcome
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import marker
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError, GpuNodeError, PreflightError, SealError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import (
    ACTIVATION,
    ACTIVATION_JOURNAL,
    BAKE_REPORT,
    INSTALLED_FILES,
    LAYERS,
    NODE_RECORD,
    OBJECTS,
    STORE,
)
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal import flow as removal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.removal.request import RemoveRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import flow as seal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.request import SealRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers, node_record, reports
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import trust

from tests.kit import layer as layernode
from tests.kit.bake import request
from tests.kit.boot import INSTALL, SKIP, flow_boot
from tests.kit.layer import LayerNode, snapshot
from tests.kit.values import MARKER

USER = 1234
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")


def made(root: Path, *folders: str, **links: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for path, target in links.items():
        (root / path).symlink_to(target)
    return root


@pytest.mark.parametrize(
    ("target", "found"),
    [
        pytest.param("data/v", "data/v/lib/x", id="relative"),
        pytest.param("/data/v", "data/v/lib/x", id="absolute"),
        pytest.param("../../../data/v", "data/v/lib/x", id="above the root"),
        pytest.param("./data/../data/v/.", "data/v/lib/x", id="with dots"),
        pytest.param("second", "data/v/lib/x", id="two links"),
        pytest.param("/gone", "gone/lib/x", id="to nothing"),
    ],
)
def test_a_link_is_followed_as_the_system_itself_would(tmp_path: Path, target: str, found: str) -> None:
    root = made(tmp_path / "root", "data/v/lib", var=target, second="/data/v")
    (root / "data/v/lib/x").symlink_to("/elsewhere")
    assert trust.below(root, "var/lib/x") == root / found


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        trust.below(made(tmp_path / "root", ".", var="/var"), "var/lib")


def test_nothing_is_followed_in_the_store(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "data", STORE, var_="x")
    (root / LAYERS).symlink_to("/data")
    assert trust.below(root, f"{LAYERS}/a/manifest.json") == root / LAYERS / "a/manifest.json"


def test_the_marker_of_a_mounted_image_is_its_own(tmp_path: Path) -> None:
    root, theirs = tmp_path / "root", tmp_path / "host"
    theirs.mkdir()
    (theirs / "dkms-marker").write_text("kernel=host\n")
    folder = made(root, "opt/azure", str(theirs).strip("/")) / "opt/azure/aks-gpu"
    folder.symlink_to(theirs)
    assert marker.read(root) is None
    (root / str(theirs).strip("/") / "dkms-marker").write_text("kernel=image\n")
    found = marker.read(root, f"/{MARKER}")
    assert found
    assert found.kernel == "image"


# --- whose the store is ----------------------------------------------------------------------------------------------

Change = Callable[[Path], None]


def given_away(path: str) -> Change:
    return lambda root: os.chown(root / path, USER, USER, follow_symlinks=False)


def opened(path: str, mode: int) -> Change:
    return lambda root: (root / path).chmod(mode)


def linked(path: str, user: int = 0) -> Change:
    """Moves a folder to /data and links it from its place."""

    def change(root: Path) -> None:
        (root / "data").mkdir()
        (root / path).rename(root / "data/moved")
        (root / path).symlink_to("/data/moved")
        os.chown(root / path, user, user, follow_symlinks=False)

    return change


STORES = [
    pytest.param(linked(STORE), "store_link", id="a link"),
    pytest.param(given_away(STORE), "store_untrusted", id="a user's"),
    pytest.param(opened(STORE, 0o777), "store_untrusted", id="writable by all"),
    pytest.param(opened(STORE, 0o770), "store_untrusted", id="writable by a group"),
    pytest.param(linked("var", USER), "store_untrusted", id="above it a user's link"),
    pytest.param(given_away("var/lib"), "store_untrusted", id="above it a user's folder"),
    pytest.param(opened("var/lib", 0o777), "store_untrusted", id="above it a folder writable by all"),
]
GOOD = [
    pytest.param(lambda root: None, id="as it is"),
    pytest.param(linked("var"), id="above it root's link"),
    pytest.param(opened("var/lib", 0o1777), id="above it a folder with the sticky bit"),
    pytest.param(opened("var/lib", 0o775), id="above it a folder writable by root's group"),
    pytest.param(lambda root: shutil.rmtree(root / STORE), id="not there"),
]


@pytest.mark.parametrize("change", GOOD)
def test_a_store_that_is_roots_alone_is_used(tmp_path: Path, change: Change) -> None:
    change(made(tmp_path / "root", STORE))
    trust.require_store(tmp_path / "root")


@pytest.fixture
def node_and_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LayerNode, Manifest]]:
    with layernode.fast_folder() as folder:
        monkeypatch.setattr(paths, "LOCK", folder / "locks/lock")
        node, layer = layernode.a_node(folder)
        node.add_gpu()
        monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=node.kver, machine="x86_64"))
        yield node, layer


@pytest.fixture
def node(node_and_layer: tuple[LayerNode, Manifest]) -> LayerNode:
    return node_and_layer[0]


@pytest.fixture
def layer(node_and_layer: tuple[LayerNode, Manifest]) -> Manifest:
    return node_and_layer[1]


FLOWS: dict[str, Callable[[LayerNode], object]] = {
    "boot": flow_boot,
    "a boot in check mode": lambda node: flow_boot(node, check=True),
    "bake": lambda node: bake_flow.bake(node, request(), root=node.root),
    "what a bake would do": lambda node: bake_flow.would_change(node, request(), root=node.root),
    "seal": lambda node: seal_flow.seal(node.root, node, Containerd(node), SealRequest()),
    "removal": lambda node: removal_flow.remove(node, RemoveRequest(), root=node.root),
    "a removal in check mode": lambda node: removal_flow.remove(node, RemoveRequest(), check=True, root=node.root),
    "activation": lambda node: layer_flow.set_state(node, layer_flow.ACTIVE, "x", root=node.root),
    "discard": lambda node: layer_flow.set_state(node, layer_flow.ABSENT, "x", root=node.root),
}


@pytest.mark.parametrize(("change", "code"), STORES)
def test_a_store_that_others_could_write_ends_everything_before_anything_changes(node: LayerNode, change: Change, code: str) -> None:
    change(node.root)
    before = snapshot(node.root, "none")
    for name, flow in FLOWS.items():
        node.calls.clear()
        with pytest.raises(PreflightError) as caught:
            flow(node)
        assert (caught.value.code, name) == (code, name)
        assert snapshot(node.root, "none") == before, name
        assert node.calls == [], name


def test_the_store_of_a_mounted_image_is_below_it_where_a_link_leads_out(node: LayerNode, layer: Manifest, tmp_path: Path) -> None:
    """/var of the image is a link to an absolute path, at which the machine itself has a store too."""
    outside = tmp_path / "var"
    shutil.copytree(node.root / "var", outside, symlinks=True)
    inside = node.root / str(outside).strip("/")
    inside.parent.mkdir(parents=True)
    (node.root / "var").rename(inside)
    (node.root / "var").symlink_to(outside)
    before = snapshot(outside, "none")
    with pytest.raises(SealError):
        seal_flow.seal(node.root, node, None, SealRequest())
    assert (inside / "lib/gpu-prebake/seal-report.json").exists()
    assert layer_flow.set_state(node, layer_flow.ABSENT, layer.layer, root=node.root).changed
    assert not (inside / "lib/gpu-prebake/layers" / layer.layer).exists()
    assert snapshot(outside, "none") == before


# --- whose a layer, an object or a document is -----------------------------------------------------------------------

BAD_LAYERS = [
    pytest.param("", given_away, id="a user's folder"),
    pytest.param("", lambda path: opened(path, 0o777), id="a folder writable by all"),
    pytest.param("", linked, id="a link"),
    pytest.param("/manifest.json", given_away, id="a user's manifest"),
    pytest.param("/manifest.json", lambda path: opened(path, 0o622), id="a manifest writable by all"),
    pytest.param("/manifest.json", linked, id="a manifest that is a link"),
]


@pytest.mark.parametrize(("inside", "change"), BAD_LAYERS)
def test_a_layer_that_others_could_write_is_not_used(
    node: LayerNode, layer: Manifest, inside: str, change: Callable[[str], Change]
) -> None:
    change(f"{LAYERS}/{layer.layer}{inside}")(node.root)
    outcome = flow_boot(node)
    assert (outcome.action.value, outcome.code) == (INSTALL, "store_untrusted")
    for refuses in (FLOWS["bake"], lambda node: layer_flow.set_state(node, layer_flow.ABSENT, layer.layer, root=node.root)):
        before = snapshot(node.root, "none")
        with pytest.raises(GpuNodeError) as caught:
            refuses(node)
        assert caught.value.code == "store_untrusted"
        assert snapshot(node.root, "none") == before


@pytest.mark.parametrize("path", [LAYERS, OBJECTS])
@pytest.mark.parametrize("change", [given_away, linked])
def test_a_folder_of_layers_or_objects_that_others_could_write_is_not_used(
    node: LayerNode, path: str, change: Callable[[str], Change]
) -> None:
    change(path)(node.root)
    outcome = flow_boot(node)
    assert outcome.action.value == INSTALL
    assert outcome.code == ("store_untrusted" if path == LAYERS else "contents_mismatch")
    assert "link" in outcome.reason or str(USER) in outcome.reason


def test_a_folder_of_one_object_that_others_could_write_is_not_used(node: LayerNode, layer: Manifest) -> None:
    given_away(str(layernode.object_of(node, layer, layernode.MODULE).parent.relative_to(node.root)))(node.root)
    assert flow_boot(node).code == "contents_mismatch"


DOCUMENTS = [NODE_RECORD, ACTIVATION, INSTALLED_FILES]


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("change", [given_away, lambda path: opened(path, 0o666), linked])
def test_a_document_that_others_could_write_is_not_believed(node: LayerNode, path: str, change: Callable[[str], Change]) -> None:
    assert flow_boot(node).action.value == SKIP
    change(path)(node.root)
    outcome: Outcome = flow_boot(node)
    if path == NODE_RECORD:
        assert outcome.plan.refused[0].code == "store_untrusted"
    if path == ACTIVATION:
        assert any("so it is not used" in warning for warning in outcome.warnings)
    assert node_record.read(node.root)
    assert not outcome.plan.fails


def test_a_journal_that_a_user_wrote_takes_nothing_away(node: LayerNode) -> None:
    node.put(ACTIVATION_JOURNAL, "{}")
    given_away(ACTIVATION_JOURNAL)(node.root)
    outcome = flow_boot(node)
    assert outcome.code == "store_untrusted"
    assert (node.root / f"{ACTIVATION_JOURNAL}.damaged").exists()


def test_a_report_that_a_user_wrote_excuses_no_setuid_file(node: LayerNode) -> None:
    node.put(BAKE_REPORT, '{"setuid_before": ["usr/bin/evil"]}')
    assert reports.setuid_before(node.root) == ("usr/bin/evil",)
    given_away(BAKE_REPORT)(node.root)
    assert reports.setuid_before(node.root) == ()


def test_a_mark_that_a_user_wrote_still_counts_since_it_only_costs_a_compile(node: LayerNode, layer: Manifest) -> None:
    layers.mark_bad(node.root, layer, "m", "it failed")
    given_away(f"{LAYERS}/{layer.layer}/judged-bad.json")(node.root)
    assert "not used" in str(layers.why_judged_bad(node.root, layer, "m"))


def test_a_damaged_document_is_kept_beside_somebodys_folder(node: LayerNode, layer: Manifest) -> None:
    activate.activate(node.root, node, layer)
    node.put(ACTIVATION, "{")
    theirs = node.put(f"{ACTIVATION}.damaged/notes", "mine")
    layer_flow.set_state(node, layer_flow.INACTIVE, root=node.root, live=False)
    assert theirs.read_text() == "mine"
    assert (node.root / f"{ACTIVATION}.damaged-2").read_text() == "{"


def test_the_error_names_path_and_owner(tmp_path: Path) -> None:
    root = made(tmp_path / "root", STORE)
    (root / NODE_RECORD).write_text("{}")
    given_away(NODE_RECORD)(root)
    with pytest.raises(DataError, match=rf"node-record\.json: it belongs to the user {USER}"):
        node_record.read(root)
