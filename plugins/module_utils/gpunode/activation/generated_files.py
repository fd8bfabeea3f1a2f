"""Backs up and makes the generated files: the kernel's ``modules.*`` (depmod) and ``ld.so.cache`` (ldconfig).

If the node's own indexes are those of the bake, the indexes that depmod made in the bake are put in place, and depmod is not run: on an
identical tree its output is identical.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..store.activation_record import DEPMOD, LDCONFIG, Derived, Kept
from ..store.manifest import Index, Manifest
from ..store.objects import Store
from ..system import kernels, tree
from ..system.tree import Entry
from ..util.expressions import expression
from ..util.folders import matching
from ..util.run import Runner

# The files that depmod(8) writes. The other modules.* are part of the kernel's package.
_INDEXES = (
    *("modules.alias", "modules.alias.bin", "modules.builtin.alias.bin", "modules.builtin.bin", "modules.dep", "modules.dep.bin"),
    *("modules.devname", "modules.softdep", "modules.symbols", "modules.symbols.bin", "modules.weakdep"),
)
_LOADER_CACHE = "etc/ld.so.cache"
_LOADER_CONFIG = "etc/ld.so.conf"
_TOOL_S = 120.0
_TEMPORARY = expression(r"modules\.[a-z.]+(\.\d+){3}")


def back_up(root: Path, store: Store, entries: Iterable[Entry]) -> tuple[Kept, ...]:
    """Backs up what ``entries`` describe. Raises DataError if a file does not match its entry; OSError."""
    kept = []
    for entry in entries:
        file = root / entry.path
        if entry.type == "file":
            store.put(file, entry)
        kept.append(Kept(entry, file.lstat().st_mtime_ns))
    return tuple(kept)


def plan(root: Path, store: Store, layer: Manifest) -> tuple[Derived, ...]:
    """The generated files that must be made again for ``layer``. Backs up those that are there now."""
    indexes = {index.path: index for index in layer.indexes}
    present = _present(root, [*_index_paths(root, layer), *indexes])
    before = back_up(root, store, (present[path] for path in sorted(present)))
    if indexes and _are_as_in_the_bake(indexes, present):
        found = [Derived(DEPMOD, before, tuple(index.after for index in layer.indexes), swapped=True)]
    else:
        found = [Derived(DEPMOD, before)]
    if any(".so" in entry.path.rpartition("/")[2] or entry.path.startswith(_LOADER_CONFIG) for entry in layer.files):
        cache = _present(root, [_LOADER_CACHE])
        found.append(Derived(LDCONFIG, back_up(root, store, cache.values())))
    return tuple(found)


def _index_paths(root: Path, layer: Manifest) -> list[str]:
    folder = f"{'usr/' if (root / 'lib').is_symlink() else ''}lib/modules/{layer.identity.kver}"
    return [f"{folder}/{name}" for name in _INDEXES]


def _present(root: Path, paths: Iterable[str]) -> dict[str, Entry]:
    found = tree.describe_present(root, sorted(set(paths)))
    return {path: entry for path, entry in found.items() if entry is not None}


def _are_as_in_the_bake(indexes: Mapping[str, Index], present: Mapping[str, Entry]) -> bool:
    """Whether the indexes that the layer changes are those from before the bake. Then the modules are the same too, and so are the indexes
    that the layer does not change, which the manifest does not list."""
    return all((present[path].sha256 if path in present else "") == index.before for path, index in indexes.items())


def make(root: Path, runner: Runner, derived: Derived, kver: str) -> None:
    """Runs the program that makes the files of ``derived``. Raises CommandError."""
    if derived.program == DEPMOD:
        run_depmod(root, runner, kver)
    else:
        run_ldconfig(root, runner)


def run_depmod(root: Path, runner: Runner, kver: str) -> None:
    """Indexes a kernel's modules, unless the kernel was removed meanwhile. Raises CommandError."""
    if kernels.is_installed(root, kver):
        runner.run(["depmod", *_below(root, "-b"), kver], timeout_s=_TOOL_S)


def run_ldconfig(root: Path, runner: Runner) -> None:
    """Makes the loader's cache. Raises CommandError."""
    runner.run(["ldconfig", *_below(root, "-r")], timeout_s=_TOOL_S)


def _below(root: Path, option: str) -> list[str]:
    return [] if root == Path("/") else [option, str(root)]


def sweep(root: Path, program: str, kver: str) -> None:
    """Removes the temporary files of a program that was killed: ``modules.dep.<pid>.<time>.<time>`` (kmod), ``ld.so.cache~`` (glibc)."""
    if program == LDCONFIG:
        (root / f"{_LOADER_CACHE}~").unlink(missing_ok=True)
        return
    for path in matching(root / "lib/modules" / kver, "modules.*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def made(root: Path, derived: Derived, layer: Manifest) -> Derived:
    """``derived`` with the files that are there now as ``after``; unchanged if they were taken from the bake."""
    if derived.swapped:
        return derived
    paths = [_LOADER_CACHE] if derived.program == LDCONFIG else _index_paths(root, layer)
    after = _present(root, [*paths, *(kept.entry.path for kept in derived.before)])
    return replace(derived, after=tuple(after[path] for path in sorted(after)))
