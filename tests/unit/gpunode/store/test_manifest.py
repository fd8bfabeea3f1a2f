"""Reading a layer's manifest: everything that is not exactly right is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.gpu_list import UNKNOWN, GpuList
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import STORE
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers as store_layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.layers import path_of, read_all
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import gpu_lists
from tests.kit import values as support
from tests.kit.node import write_as_0_1_0

LAYER = support.manifest().layer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store_layers.write(tmp_path_factory.mktemp("root"), support.manifest(stored=True)).read_text()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A manifest of version 0.1.0, of a layer that was baked in place."""
    root = tmp_path_factory.mktemp("root")
    write_as_0_1_0(root, support.manifest())
    return path_of(root, LAYER).read_text()


def test_round_trip(tmp_path: Path) -> None:
    layer = support.captured(warnings=("a",), accept_no_device=True, tries=2)
    path = store_layers.write(tmp_path, layer)
    assert store_layers.read(path) == layer
    assert read_all(tmp_path) == ((layer,), ())


def test_says_which_files_are_linked(tmp_path: Path) -> None:
    plain, module = support.entry("usr/src/nvidia-1.2/nvidia/nv-kernel.o_binary"), support.manifest().modules[0]
    layer = support.manifest(files=(replace(module, linked=False), replace(plain, linked=True)))
    path = store_layers.write(tmp_path, layer)
    assert json.loads(path.read_text())["linked"] == [plain.path]
    assert [entry.linked for entry in store_layers.read(path).files] == [False, True]


@pytest.mark.parametrize("changes", [{"mode": 0o4755}, {"mode": 0o666}, {"attributes": (("user.a", ""),)}])
def test_refuses_to_link_a_file_that_others_could_write_to_or_that_has_rights(tmp_path: Path, changes: dict[str, Any]) -> None:
    layer = support.manifest()
    with pytest.raises(DataError, match="wrong or empty: linked"):
        store_layers.write(tmp_path, replace(layer, files=(*layer.files, support.entry("usr/bin/x", linked=True, **changes))))


def test_a_layer_of_0_1_0_is_stored_unless_it_was_baked_in_place(good: str, old: str) -> None:
    assert manifest.parse(old, "manifest.json", LAYER) == support.manifest()
    captured = with_value(with_value(with_value(good, "schema", 2), "mode", "captured"), "linked", ...)
    assert manifest.parse(captured, "manifest.json", LAYER) == support.manifest(stored=True)
    assert {entry.linked for entry in manifest.parse(captured, "manifest.json", LAYER).files} == {None}


def test_a_reader_of_0_1_0_meets_a_later_layout(good: str) -> None:
    """It reads layout 2, and takes a greater number for a layer that it must not use: a full install."""
    document = json.loads(good)
    assert document["schema"] == 3
    assert "mode" not in document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("mode", ..., "mode is None", id="no mode"),
        pytest.param("mode", "copied", "the mode 'copied' is unknown", id="unknown mode"),
        pytest.param(
            "originals", [manifest.plain_entry(support.entry("etc/x"))], "originals, indexes (not allowed", id="in place with originals"
        ),
    ],
)
def test_refuses_a_bad_document_of_0_1_0(old: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        manifest.parse(with_value(old, path, value), "manifest.json", LAYER)
    assert message in str(caught.value)


def test_only_root_may_enter_the_store(tmp_path: Path) -> None:
    path = store_layers.write(tmp_path, support.captured())
    folders = [f for f in path.parents if tmp_path / STORE in (f, *f.parents)]
    assert {f.stat().st_mode & 0o777 for f in folders} == {0o700}
    assert path.stat().st_mode & 0o777 == 0o600


def test_versions_are_text(good: str) -> None:
    assert json.loads(good)["identity"]["version"] == support.VERSION


def with_value(text: str, path: str, value: Any) -> str:
    data = json.loads(text)
    *parents, last = path.split(".")
    inner = data
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    where = int(last) if last.isdigit() else last
    if value is ...:
        del inner[where]
    else:
        inner[where] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("schema", 4, "layout version 4, this program reads 3", id="newer layout"),
        pytest.param("schema", 1, "layout version 1, this program reads 3", id="older layout"),
        pytest.param("schema", ..., "layout version None", id="no layout"),
        pytest.param("schema", True, "layout version True", id="layout is a truth value"),
        pytest.param("layer", "cuda-1.2-open-6.1", "wrong or empty: layer", id="another folder's"),
        pytest.param("layer", 7, "layer is 7, not of type str", id="layer is a number"),
        pytest.param("image", None, "image is None", id="no image"),
        pytest.param("identity", [], "identity is", id="identity is a list"),
        pytest.param("identity.kver", "", "wrong or empty: kver", id="empty kernel"),
        pytest.param("identity.config_digest", "", "wrong or empty: config_digest", id="empty digest"),
        pytest.param("identity.config_digest", None, "config_digest", id="null digest"),
        pytest.param("identity.version", 580.12, "version", id="version is a number"),
        pytest.param("identity.version", "..", "wrong or empty: version", id="version leads out"),
        pytest.param("identity.kver", "..", "wrong or empty: kver", id="kernel leads out"),
        pytest.param("identity.arch", "amd64", "wrong or empty: arch", id="arch not normalised"),
        pytest.param("identity.kind", "rocm", "wrong or empty: kind", id="unknown kind"),
        pytest.param("identity.flavour", "any", "wrong or empty: flavour", id="flavour any"),
        pytest.param("identity.more", "x", "wrong shape", id="more identity"),
        pytest.param("identity.arch", ..., "wrong shape", id="less identity"),
        pytest.param("actions", "install", "actions is 'install'", id="actions are a word"),
        pytest.param("actions", [1], "actions contains something that is not text", id="an action is a number"),
        pytest.param("accept_no_device", "false", "accept_no_device is 'false', not of type bool", id="text for a truth value"),
        pytest.param("accept_no_device", 1, "accept_no_device is 1, not of type bool", id="number for a truth value"),
        pytest.param("tries", "1", "tries is '1'", id="tries is text"),
        pytest.param("tries", True, "tries is True", id="tries is a truth value"),
        pytest.param("build_s", "long", "build_s is 'long', not a number of seconds", id="build_s is text"),
        pytest.param("build_s", 10**400, "build_s", id="build_s is beyond a float"),
        pytest.param("build_s", ..., "build_s", id="no build_s"),
        pytest.param("files", {}, "files is", id="files are a mapping"),
        pytest.param("files", [], "no kernel module among them", id="no files"),
        pytest.param("files.0", "nvidia.ko", "wrong shape", id="a file is text"),
        pytest.param("files.0", {"path": "usr/x"}, "type is None", id="a file without its fields"),
        pytest.param("files.0.path", "usr/../etc/shadow", "leads outside", id="path up"),
        pytest.param("files.0.path", "/etc/shadow", "leads outside", id="absolute path"),
        pytest.param("files.0.path", "home/x", "leads outside", id="path elsewhere"),
        pytest.param("files.0.path", "usr", "leads outside", id="a root itself"),
        pytest.param("files.0.path", "usr//x", "leads outside", id="empty part"),
        pytest.param("files.0.path", "usr/x\0", "is not a valid path", id="nul"),
        pytest.param("files.0.path", "usr/" + "x" * 256, "is not a valid path", id="a name that is too long"),
        pytest.param("files.0.path", "usr/" + "x/" * 2046 + "x", "is not a valid path", id="a path that is too long"),
        pytest.param("files.0.path", "usr/\ud800", "is not a valid path", id="no bytes"),
        pytest.param("files.0.path", "var/lib/dkmsx/y", "leads outside", id="a longer name"),
        pytest.param("files.0.path", 7, "path is 7", id="path is a number"),
        pytest.param("files.0.mode", "0644", "mode is '0644'", id="mode is text"),
        pytest.param("files.0.sha256", None, "sha256 is None", id="no hash"),
        pytest.param("files.0.type", "socket", "type 'socket'", id="unknown type"),
        pytest.param("files.0.sha256", "", "wrong for a file: sha256", id="empty hash"),
        pytest.param("files.0.sha256", "A" * 64, "wrong for a file: sha256", id="hash in capitals"),
        pytest.param("files.0.mode", 0o10000, "wrong for a file: mode", id="more than permission bits"),
        pytest.param("files.0.mode", -1, "wrong for a file: mode", id="negative mode"),
        pytest.param("files.0.uid", 2**32 - 1, "wrong for a file: uid", id="an owner that means none"),
        pytest.param("files.0.gid", -1, "wrong for a file: gid", id="negative group"),
        pytest.param("files.0.size", -1, "wrong for a file: size", id="negative size"),
        pytest.param("files.0.size", 2**63, "wrong for a file: size", id="a size that no file has"),
        pytest.param("tries", -1, "tries is -1", id="negative tries"),
        pytest.param("files.0.target", "x", "wrong for a file: target", id="a file with a target"),
        pytest.param("files.0.type", "link", "wrong for a link: size, sha256, target", id="a link with contents"),
        pytest.param("files.0.attributes", {}, "attributes is {}", id="attributes are a mapping"),
        pytest.param("files.0.attributes", [["user.a"]], "wrong shape", id="an attribute without a value"),
        pytest.param("files.0.attributes", [["user.a", 1]], "wrong shape", id="an attribute that is a number"),
        pytest.param("files.0.attributes", [["user.a", "!"]], "wrong for a file: attributes", id="an attribute that is no base64"),
        pytest.param("files.0.attributes", [["a", "QQ=="]], "wrong for a file: attributes", id="an attribute in no namespace"),
        pytest.param("files.0.attributes", [["trusted.overlay.opaque", "eQ=="]], "attributes", id="an overlay's attribute"),
        pytest.param("files.0.attributes", [["user.b", ""], ["user.a", ""]], "attributes", id="attributes in no order"),
        pytest.param("files.0.attributes", [["user.a", ""], ["user.a", ""]], "attributes", id="an attribute twice"),
        pytest.param("files.0.more", 1, "wrong shape", id="more of a file"),
        pytest.param("files.0.linked", True, "wrong shape", id="a file that says that it is linked"),
        pytest.param("linked", ..., "linked is None", id="no linked files"),
        pytest.param("linked", [1], "linked contains something that is not text", id="a linked file is a number"),
        pytest.param("warnings", None, "warnings is None", id="no warnings"),
        pytest.param("replaced", ["etc/../x"], "leads outside", id="replaced leads out"),
        pytest.param("replaced", ["etc/x", "etc/x"], "replaced and deleted (a path twice)", id="replaced twice"),
        pytest.param("deleted", ["/etc/x"], "leads outside", id="deleted leads out"),
        pytest.param("originals", ..., "originals is None", id="no originals"),
        pytest.param("module_facts", ..., "module_facts is None", id="no module facts"),
        pytest.param("module_facts", [], "module_facts (not those", id="a module without facts"),
        pytest.param("module_facts.0.path", "usr/x.ko", "module_facts (not those", id="facts of another file"),
        pytest.param("module_facts.0.version", 580.12, "version is 580.12", id="a module's version is a number"),
        pytest.param("module_facts.0.more", "x", "wrong shape", id="more facts"),
        pytest.param("module_facts.0", "x", "wrong shape", id="facts are text"),
        pytest.param("indexes", ..., "indexes is None", id="no indexes"),
        pytest.param("gpus", "none", "gpus is 'none'", id="a list of GPUs that is text"),
        pytest.param("gpus.source", "", "the list of GPUs is invalid", id="a list of GPUs from nowhere"),
        pytest.param("gpus.source", 7, "the list of GPUs is invalid", id="a list of GPUs from a number"),
        pytest.param("gpus.supported", "2330-", "the list of GPUs is invalid", id="GPUs that are no ranges"),
        pytest.param("gpus.kernelopen", ["2330"], "the list of GPUs is invalid", id="GPUs that are a list"),
        pytest.param("gpus.legacy", {"a b": "102d"}, "the list of GPUs is invalid", id="a branch that is none"),
        pytest.param("gpus.legacy", {"470.xx": "102"}, "the list of GPUs is invalid", id="legacy GPUs that are no ranges"),
        pytest.param("gpus.legacy", {"470.xx": 1}, "470.xx is 1", id="legacy GPUs that are a number"),
        pytest.param("gpus.legacy", ..., "legacy is None", id="no legacy GPUs"),
    ],
)
def test_refuses_a_bad_document(good: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        manifest.parse(with_value(good, path, value), "manifest.json", LAYER)
    assert message in str(caught.value)
    assert caught.value.code == "manifest_invalid"


CAPTURED = support.captured()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("originals", [], "originals (not those of replaced and deleted)", id="no guards"),
        pytest.param("originals.0.path", "etc/z", "originals (not those of replaced and deleted)", id="a guard of something else"),
        pytest.param("originals.0.sha256", "0", "wrong for a file: sha256", id="a guard without a hash"),
        pytest.param("replaced", ["etc/deleted.conf"], "replaced, deleted (contradict files)", id="replaced by nothing"),
        pytest.param("deleted", ["etc/replaced.conf"], "replaced, deleted (contradict files)", id="deleted and there"),
        pytest.param("indexes.0.path", "usr/lib/modules/6.0/modules.dep", "the entry of the index", id="another path inside an index"),
        pytest.param("indexes.0.before", "x", "the entry of the index", id="an index's earlier hash is none"),
        pytest.param("indexes.0.after.type", "folder", "wrong for a folder", id="an index is a folder"),
        pytest.param("indexes.0.after", None, "wrong shape", id="an index is nothing"),
        pytest.param("indexes.0.more", 1, "wrong shape", id="more of an index"),
        pytest.param("indexes.0", 1, "wrong shape", id="an index is a number"),
    ],
)
def test_refuses_a_captured_layer_that_contradicts_itself(path: str, value: Any, message: str, tmp_path: Path) -> None:
    text = store_layers.write(tmp_path, CAPTURED).read_text()
    assert manifest.parse(text, "manifest.json", LAYER) == CAPTURED
    with pytest.raises(DataError) as caught:
        manifest.parse(with_value(text, path, value), "manifest.json", LAYER)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"files": (*CAPTURED.files, CAPTURED.files[0])}, "files (a path twice)", id="a file twice"),
        pytest.param(
            {"files": (*CAPTURED.files, support.entry(f"{CAPTURED.files[0].path}/x"))},
            "is below something that is not a folder",
            id="below a file",
        ),
        pytest.param({"originals": CAPTURED.originals * 2}, "originals (a path twice)", id="a guard twice"),
        pytest.param({"indexes": CAPTURED.indexes * 2}, "indexes (a path twice)", id="an index twice"),
        pytest.param({"module_facts": CAPTURED.module_facts * 2}, "module_facts (a path twice)", id="facts twice"),
        pytest.param({"indexes": (support.index("lib/modules/6.0/modules.dep"),)}, "indexes (not those", id="another kernel's index"),
        pytest.param(
            {"indexes": (support.index(f"lib/modules/{support.KVER}/kernel/modules.x"),)}, "indexes (not those", id="an index further down"
        ),
        pytest.param({"files": (*CAPTURED.files, CAPTURED.indexes[0].after)}, "indexes (not those", id="an index among the files"),
    ],
)
def test_refuses_lists_that_contradict_each_other(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Such a manifest is not written either: a bake must not succeed with a layer that every node would refuse."""
    with pytest.raises(DataError) as caught:
        store_layers.write(tmp_path, replace(CAPTURED, **changes))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "{", "\0", "[" * 100_000, '{"schema": 1, "schema": 1}', "NaN"], ids=range(9))
def test_refuses_what_is_no_document(text: str) -> None:
    with pytest.raises(DataError):
        manifest.parse(text, "manifest.json", LAYER)


def test_cut_off_at_any_byte_it_is_a_data_error(good: str) -> None:
    whole = good.rstrip()
    for length in range(len(whole)):
        with pytest.raises(DataError):
            manifest.parse(whole[:length], "manifest.json", LAYER)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
DEEP = ["identity.version", "identity.kver", "files.0.path", "files.0.mode", "files.0.attributes", "files.0", "module_facts.0"]
KEYS = sorted(json.loads(json.dumps(vars(support.manifest()), default=str)))


@given(key=st.sampled_from([*KEYS, *DEEP]), value=JSON)
def test_any_value_anywhere_is_read_or_a_data_error(good: str, key: str, value: Any) -> None:
    try:
        found = manifest.parse(with_value(good, key, value), "manifest.json", LAYER)
    except DataError:
        return
    assert found.identity == support.manifest().identity


LISTED = GpuList(gpu_lists.PATH, "1e02-1e04 2330", "2330", "", (("367.xx", "0ff2"), ("470.xx", "102d")))


def test_the_drivers_list_of_gpus_is_kept(tmp_path: Path) -> None:
    with_list = replace(CAPTURED, gpus=LISTED)
    text = store_layers.write(tmp_path, with_list).read_text()
    assert manifest.parse(text, "manifest.json", LAYER) == with_list
    assert json.loads(text)["gpus"]["legacy"] == {"367.xx": "0ff2", "470.xx": "102d"}
    document = json.loads(text)
    document["gpus"]["from a later version"] = 1
    assert manifest.parse(json.dumps(document), "manifest.json", LAYER) == with_list


@pytest.mark.parametrize("value", [..., None], ids=["absent", "null"])
def test_a_manifest_without_a_list_of_gpus_has_none(good: str, old: str, value: Any) -> None:
    assert manifest.parse(with_value(good, "gpus", value), "manifest.json", LAYER).gpus == UNKNOWN
    assert "gpus" not in json.loads(old)
    assert manifest.parse(old, "manifest.json", LAYER).gpus == UNKNOWN


def test_one_bad_layer_does_not_hide_a_good_one(tmp_path: Path) -> None:
    store_layers.write(tmp_path, support.manifest())
    bad = path_of(tmp_path, "bad")
    bad.parent.mkdir()
    bad.write_bytes(b"\xff")
    layers, problems = read_all(tmp_path)
    assert [m.layer for m in layers] == [LAYER]
    assert len(problems) == 1
    assert str(bad) in problems[0]


@pytest.mark.parametrize("field", ["kver", "arch", "kind", "version", "flavour", "config_digest"])
def test_an_empty_field_differs_from_everything_and_from_itself(field: str) -> None:
    empty = support.identity(**{field: ""})
    assert empty.differences(empty) == (field,)
    assert empty.differences(support.identity()) == (field,)
    assert support.identity().differences(empty) == (field,)
    assert support.identity().differences(support.identity()) == ()
