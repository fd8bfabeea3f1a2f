"""Baking in place: the driver container installs into the image itself. If the bake fails, what the container added is removed.

A journal says that a bake is under way, so that the next run removes what a killed one added.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..activation import generated_files
from ..container.driver_container import ContainerRun
from ..driver import dkms, footprint
from ..errors import BuildError, GpuNodeError
from ..paths import BAKE_JOURNAL, LAYERS, STORE
from ..removal import uninstall
from ..store import installed_files
from ..store import layers as store_layers
from ..store.layers import read_all
from ..store.manifest import IN_PLACE, Manifest
from ..system import kernels, tree
from ..system.dpkg import owned_by_dpkg
from ..util import files
from .builder import Builder

_SCHEMA = 1  # of the journal
_HIDDEN = ".build.gpu-prebake-hidden"


class InPlace:
    """The mode ``in_place``: one layer, for one kernel, live in the image."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.root = builder.root
        self._keys_to_be: list[str] = []

    def present(self, kver: str) -> Manifest | None:
        """The requested layer, if it is in the image and unchanged."""
        layer = self.builder.asked_for(read_all(self.root)[0], IN_PLACE, kver)
        return layer if layer and not self._problems(layer) else None

    def _problems(self, layer: Manifest) -> tuple[str, ...]:
        try:
            wrong = self.builder.marker_problems(self.root, layer.identity.kver)
        except GpuNodeError as error:
            return (str(error),)
        return wrong or tree.problems(self.root, layer.deciding_files)

    def remove_layers(self) -> None:
        """Removes the layers of earlier bakes in place. Our own files are never a foreign driver."""
        layers = [layer for layer in read_all(self.root)[0] if layer.mode == IN_PLACE]
        if not layers:
            return
        builder = self.builder
        with builder.events.step("remove-old-layers", layers=[m.layer for m in layers]) as event:
            path, say = builder.request.marker_path, builder.events.say
            ours = uninstall.Accounted(builder.arch, tuple(layers), placed=installed_files.read_if_valid(self.root), marker_path=path)
            done = uninstall.remove_driver(self.root, builder.runner, ours, say)
            event.update(removed=len(done.removed), kept=done.kept)

    def bake(self, kver: str) -> Manifest:
        """Builds, checks, and writes the manifest last. Raises GpuNodeError after removing what the build added."""
        builder = self.builder
        files.remove_durably(self._marker_file())  # a marker of an earlier build would count as this build's (rule B7)
        before = footprint.listing(self.root)
        # A key that exists already is the image's own; DKMS generates one if there is none (rule B22).
        self._keys_to_be = [key for key in dkms.own_keys(self.root) if not (self.root / key).exists()]
        self._write_journal(kver, before)
        with self._taken_back_on_failure(before):
            with builder.events.step("build", kernel=kver) as event:
                run, tries = self._build(kver, set(before))
                event.update(tries=tries, log=run.log)
            with builder.events.step("assert-and-record"):
                return self._record(kver, run, tries, before)

    def _build(self, kver: str, before: set[str]) -> tuple[ContainerRun, int]:
        builder = self.builder
        for number in range(1, builder.request.tries + 1):
            files.remove_durably(self._marker_file())
            with only_headers_of(self.root, kver):
                run = builder.attempt(builder.container(), builder.next_container(), kver, number)
            if run.succeeded:
                return run, number
            builder.judge_failure(self.root, kver, run, number)
            remove_added(self.root, before)  # so that nothing of a killed try gets into the layer
            builder.pause()
        raise AssertionError("the last try either returns or raises")

    def _record(self, kver: str, run: ContainerRun, tries: int, before: tree.Listing) -> Manifest:
        builder = self.builder
        builder.container().sweep()
        built = builder.check(self.root, kver)
        self._drop_keys()
        if builder.signer:
            builder.sign(self.root, kver, footprint.listing(self.root).keys() - before.keys())
        change = tree.difference(before, footprint.listing(self.root))
        added = footprint.drivers_part(change.added)
        strange = sorted(set(change.added) - set(added))
        if strange:
            builder.warnings.append(
                f"appeared during the build and is not taken for the driver's: {', '.join('/' + p for p in strange[:5])}"
            )
        entries = tree.describe(self.root, added)
        lists = {"files": entries, "replaced": change.replaced, "deleted": change.deleted}
        layer = builder.layer(self.root, built, run, tries, IN_PLACE, **lists)
        store_layers.write(self.root, layer)
        files.remove_durably(self.root / BAKE_JOURNAL)
        return layer

    # --- taking back -------------------------------------------------------------------------------------------------

    def _marker_file(self) -> Path:
        return self.root / self.builder.request.marker_path.lstrip("/")

    def _write_journal(self, kver: str, before: tree.Listing) -> None:
        files.make_private(self.root / STORE)
        files.write_atomic(self.root / BAKE_JOURNAL, json.dumps({"schema": _SCHEMA, "kver": kver, "paths": sorted(before)}), 0o600)

    @contextlib.contextmanager
    def _taken_back_on_failure(self, before: tree.Listing) -> Iterator[None]:
        """If the body fails, removes what the build added, and raises the error again (rule B8)."""
        try:
            yield
        except BaseException as error:
            self.builder.events.say("the build failed: removing what it added")
            self.take_back(set(before))
            change = tree.difference(before, footprint.listing(self.root))
            if isinstance(error, GpuNodeError):
                error.details.update(replaced=list(change.replaced), deleted=list(change.deleted))
            raise

    def take_back_interrupted(self) -> None:
        """Removes what a killed bake left: containers, mounts, hidden headers and files. Raises BuildError."""
        show_headers(self.root)
        try:
            journal = json.loads((self.root / BAKE_JOURNAL).read_text(encoding="utf-8"))
            if journal["schema"] != _SCHEMA:
                raise ValueError(f"layout version {journal['schema']!r}, this program reads {_SCHEMA}")
            paths = {str(path) for path in journal["paths"]}
            if not paths or paths != set(journal["paths"]) or not isinstance(journal["paths"], list):
                raise ValueError("it lists no files, and what it does not list would be removed")
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise BuildError(
                f"an earlier bake was interrupted and its journal /{BAKE_JOURNAL} cannot be read ({error}): start from a fresh machine",
                code="journal_invalid",
            ) from error
        with self.builder.events.step("take-back-interrupted-bake") as event:
            event["removed"] = self.take_back(paths)

    def take_back(self, before: set[str]) -> int:
        """Removes every path that is not in ``before``, and regenerates the indexes. Returns how many paths it removed."""
        self._drop_records()
        self._drop_keys()
        container = self.builder.container()
        container.clean_slate()
        container.sweep()
        show_headers(self.root)
        removed = remove_added(self.root, before)
        generated_files.regenerate(self.root, self.builder.runner)
        files.remove_durably(self.root / BAKE_JOURNAL)
        return removed

    def _drop_keys(self) -> None:
        for key in self._keys_to_be:
            (self.root / key).unlink(missing_ok=True)

    def _drop_records(self) -> None:
        """Removes this bake's manifest before its files (rule B8). Older layers in place were removed before the journal was written.
        A captured layer is only in the store, and stays."""
        captured = {layer.layer for layer in read_all(self.root)[0] if layer.mode != IN_PLACE}
        for folder in sorted((self.root / LAYERS).glob("*")):
            if folder.name not in captured:
                shutil.rmtree(folder, ignore_errors=True)


def remove_added(root: Path, before: set[str]) -> int:
    """Removes what a driver build has added since ``before``. Returns how many paths it removed.

    Other programs may have added files too, above all between an interrupted bake and the next one. So only files in a driver's
    places are removed, and none that a package owns.
    """
    added = footprint.drivers_part([path for path in footprint.listing(root) if path not in before])
    owned = owned_by_dpkg(root) if added else set()
    removed = 0
    for path in sorted(added, reverse=True):
        file = root / path
        if path in owned:
            continue
        if file.is_dir() and not file.is_symlink():
            try:
                file.rmdir()
            except OSError:
                continue  # it holds files that are not listed, or files that stay
        else:
            file.unlink(missing_ok=True)
        removed += 1
    return removed


@contextlib.contextmanager
def only_headers_of(root: Path, kver: str) -> Iterator[None]:
    """Hides the headers of newer kernels during the body: an unmodified driver image builds for the newest (docs/contract.md)."""
    try:
        for other in kernels.with_headers(root):
            if kernels.version_key(other) > kernels.version_key(kver):
                folder = root / "lib/modules" / other
                (folder / "build").rename(folder / _HIDDEN)
        yield
    finally:
        show_headers(root)


def show_headers(root: Path) -> None:
    """Shows again what ``only_headers_of`` hid, also what a killed run hid."""
    for hidden in (root / "lib/modules").glob(f"*/{_HIDDEN}"):
        hidden.rename(hidden.with_name("build"))
