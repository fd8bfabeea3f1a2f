"""Listing folders: what cannot be listed is an error, and never empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import folders
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.folders import matching, names_in

from tests.kit.unreadable import make_unreadable

LIBRARY = Path(folders.__file__).parents[1]
# What hides an error. A build's log and the processes that run are read while they change; whether a C header is there is looked for in
# thousands of folders, and a folder that cannot be read there says that it is missing, which is refused.
HIDES = re.compile(r"\.r?glob\(|\.iterdir\(|os\.walk\((?!.*onerror)|os\.(?:listdir|scandir)\(")
MAY = {"container/build_log.py", "driver/holders.py", "system/toolchain.py"}
# These pass the error on.
PASS_ON = {
    *("bake/overlay_diff.py", "container/scratch.py", "store/contents.py", "store/layers.py", "store/objects.py"),
    *("system/setuid.py", "system/tree.py", "util/folders.py", "util/logs.py"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in ("a/x/updates/dkms/n.ko", "a/x/updates/m.ko.xz", "a/y/updates/.k.ko", "a/y/build/Makefile", "a/b.conf", "a/[c].conf"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "a/link").symlink_to("x")
    (tmp_path / "a/x/updates/loop").symlink_to(".")
    (tmp_path / "a/x/build").symlink_to("gone")
    return tmp_path / "a"


@pytest.mark.parametrize(
    "pattern", ["*", "*.conf", "*/build", "*/updates/**/*.ko*", "**/*", "x/updates/*", "*/updates/*.ko", "none/*", "b.conf/*", "[[]c].conf"]
)
def test_finds_what_glob_finds(tree: Path, pattern: str) -> None:
    assert matching(tree, pattern) == tuple(sorted(set(tree.glob(pattern))))


def test_a_folder_that_does_not_exist_is_empty(tree: Path) -> None:
    (tree / "around").symlink_to("around")
    for name in ("none", "b.conf", "around"):
        assert names_in(tree / name) == ()
        assert matching(tree / name, "**/*.ko") == ()


@pytest.mark.parametrize("pattern", ["*/updates/**/*.ko*", "x/updates/*", "**/*.ko", "*/*/*"])
def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tree: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    make_unreadable(monkeypatch, tree / "x/updates")
    with pytest.raises(OSError, match="Input/output error") as caught:
        matching(tree, pattern)
    assert str(caught.value.filename).endswith("/updates")
    assert matching(tree, "y/updates/*")


def test_nothing_else_in_the_library_hides_such_an_error() -> None:
    found = {str(path.relative_to(LIBRARY)) for path in LIBRARY.rglob("*.py") if HIDES.search(path.read_text())}
    assert found - MAY - PASS_ON == set()
