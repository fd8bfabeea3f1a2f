"""The mode ``captured``: each kernel's build runs in a sandbox, and what it wrote becomes an inert layer in the store.

The image itself is not changed, so nothing needs to be rolled back in it. The manifests are written last; until then the store only has
objects that no document names. A bake that fails removes them; if it is killed, the next bake does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ..activation import deactivate as activation_deactivate
from ..activation import discard as activation_discard
from ..container.driver_container import ContainerRun, Place
from ..errors import DataError
from ..store import activation_record
from ..store import layers as store_layers
from ..store.layers import path_of, read_all
from ..store.manifest import CAPTURED, Manifest
from ..store.objects import Store, objects_of
from ..system import tree
from ..util import files
from . import overlay_diff, sandbox
from .builder import Builder
from .overlay_diff import Captured
from .sandbox import Sandbox

_DEPMOD_S = 120.0


class Capturing:
    """Bakes captured layers, one for each kernel."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.root = builder.root
        self.store = Store(builder.root)

    def present(self, kver: str) -> Manifest | None:
        """The requested layer, if the store has it undamaged and the files that it replaces or deletes are unchanged; else None."""
        layer = self.builder.asked_for(read_all(self.root)[0], CAPTURED, kver)
        if layer and not self.store.problems(objects_of(layer)) and not tree.problems(self.root, layer.originals):
            return layer
        return None

    def sweep(self) -> None:
        """Removes what a killed bake left: its sandbox, and objects that no document names. Raises BuildError."""
        left = sandbox.sweep(self.root, self.builder.runner)
        dropped = self.store.sweep() + self._collect()
        if left or dropped:
            with self.builder.events.step("take-away-interrupted", sandboxes=list(left), dropped=dropped):
                pass

    def bake(self, kernels: Sequence[str]) -> list[Manifest]:
        """Builds for each of ``kernels``, then writes their manifests. Raises GpuNodeError, and leaves the store as it was."""
        made: list[Manifest] = []
        before: dict[Path, Path | None] = {}
        try:
            made += [self._bake_one(kver) for kver in kernels]
            with self.builder.nouveau_choice_applied(), self.builder.events.step("record", layers=[layer.layer for layer in made]):
                for layer in made:
                    path = path_of(self.root, layer.layer)
                    before[path] = self._keep_old_manifest(path)
                    store_layers.write(self.root, layer)
        except BaseException:
            self._undo_record(before)
            raise
        self.store.sweep()
        return made

    @staticmethod
    def _keep_old_manifest(path: Path) -> Path | None:
        """Gives a manifest a second name, a hard link, which needs no space. None if there is no manifest. ``Store.sweep`` removes it."""
        beside = path.with_name(f".old-manifest.json.{os.getpid()}.tmp")
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except FileNotFoundError:
            return None
        return beside

    def _undo_record(self, before: Mapping[Path, Path | None]) -> None:
        """Puts back the manifests as they were ``before`` this bake, and removes objects that no document names. A new manifest that cannot
        be replaced by the old one stays: it is complete too. An OSError here is only shown; the caller raises what made the bake fail."""
        for path, old in before.items():
            with self._errors_only_shown():
                if old:
                    old.replace(path)
                    old.unlink(missing_ok=True)  # rename(2) does nothing if both names are still the same file
                    files.sync_folder(path.parent)
                else:
                    files.remove_durably(path)
        with self._errors_only_shown():
            self._collect()

    @contextlib.contextmanager
    def _errors_only_shown(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.builder.events.say(f"{error}: the next bake removes what this one left in the store")

    def not_requested(self, wanted: Collection[str]) -> list[Manifest]:
        """The captured layers in the store whose names are not in ``wanted``."""
        return [m for m in read_all(self.root)[0] if m.mode == CAPTURED and m.layer not in wanted]

    def discard(self, layers: Sequence[Manifest]) -> None:
        """Discards layers, the manifest first, and removes every object that no document names any more."""
        runner, events = self.builder.runner, self.builder.events
        with events.step("discard-old-layers", layers=[m.layer for m in layers]) as event:
            for layer in layers:
                activation_discard.discard(self.root, runner, layer.layer, events.say)
            event["dropped"] = self._collect()

    def deactivate(self) -> None:
        """Deactivates a layer that is active in the image, as after a copy of a used node: the build would start from its files."""
        if activation_record.read(self.root) or activation_record.read_journal(self.root):
            with self.builder.events.step("deactivate-old-layer") as event:
                event["layer"] = activation_deactivate.deactivate(self.root, self.builder.runner, self.builder.events.say).layer

    def _collect(self) -> int:
        try:
            return self.store.collect()
        except DataError as error:  # an unreadable document may name any object, so all are kept until it is repaired or removed
            self.builder.events.say(str(error))
            return 0

    # --- one kernel --------------------------------------------------------------------------------------------------

    def _bake_one(self, kver: str) -> Manifest:
        builder = self.builder
        for number in range(1, builder.request.tries + 1):
            name = builder.next_container()
            with self._sandbox(kver, name) as box:
                # A marker that came with the image must not count as this build's.
                (box.merged / builder.request.marker_path.lstrip("/")).unlink(missing_ok=True)
                with builder.events.step("build", kernel=kver) as event:
                    container = builder.container(Place(str(box.merged), box.pid))
                    run = builder.attempt(container, name, kver, number)
                    event.update(tries=number, rc=run.rc, log=run.log)
                if run.succeeded:
                    container.sweep()
                    return self._capture(box, kver, run, number)
                builder.judge_failure(box.merged, kver, run, number)
            builder.pause()
        raise AssertionError("the last try either returns or raises")

    @contextlib.contextmanager
    def _sandbox(self, kver: str, container: str) -> Iterator[Sandbox]:
        events = self.builder.events
        with contextlib.ExitStack() as stack:
            with events.step("open-sandbox", kernel=kver):
                box = stack.enter_context(sandbox.opened(self.root, self.builder.runner, kver, container, events.say))
            yield box
            with events.step("close-sandbox", kernel=kver):
                stack.close()

    def _capture(self, box: Sandbox, kver: str, run: ContainerRun, tries: int) -> Manifest:
        builder = self.builder
        with builder.events.step("assert", kernel=kver):
            # Inside, so that the driver's own depmod.d(5) files apply. A container need not have run depmod after its last module.
            builder.runner.run(["nsenter", "-t", str(box.pid), "-m", "depmod", kver], timeout_s=_DEPMOD_S)
            built = builder.check(box.merged, kver)
        builder.sign(box.merged, kver, overlay_diff.changes_in(self.root, box).written if builder.signer else ())
        with builder.events.step("capture", kernel=kver) as event:
            found = overlay_diff.read(self.root, box, kver)
            if overlay_diff.packages_changed(self.root, box.merged):
                builder.warnings.append(
                    "packages were installed or removed during the build: the layer has their files, but not dpkg's record of them"
                )
            event.update(
                files=len(found.files), bytes=sum(e.size for e in found.files), replaced=list(found.replaced), deleted=list(found.deleted)
            )
            event.update(left_out=list(found.left_out))
        layer = builder.layer(box.merged, built, run, tries, CAPTURED, **_lists(found))
        with builder.events.step("store", kernel=kver) as event:
            event["objects"] = len({self.store.put(Path(box.merged / e.path), e) for e in objects_of(layer)})
        return layer


def _lists(found: Captured) -> dict[str, object]:
    return {name: getattr(found, name) for name in ("files", "replaced", "deleted", "originals", "indexes")}
