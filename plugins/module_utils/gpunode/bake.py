"""Baking one layer in place: run ``build-only``, assert what it left, record it last; on any failure take back what it added.

A journal names the work under way, so that a run that was killed at any point is taken back by the next one.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import buildlog, dkms, dpkglock, files, inventory, kmod, manifest, marker, preflight, removal, takeback, userspace
from .containerd import HOSTS_DIR, Containerd
from .contract import BUILD_ONLY, LOCK, ContainerRun, DriverContainer
from .deadline import Deadline
from .errors import BuildError, CommandError, GpuNodeError, ImageError
from .events import Events
from .manifest import STORE, Identity, Manifest
from .preflight import JOURNAL, BakeRequest
from .runner import Runner

CONTAINER = "gpuprebuild"
REPORT = f"{STORE}/bake-report.json"
# DKMS makes itself a signing key and leaves the private half in the image, the same in every machine made from it (B22).
_DKMS_KEYS = ("var/lib/dkms/mok.key", "var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.priv", "var/lib/shim-signed/mok/MOK.der")
_DPKG_WAIT_S = 300.0


@dataclass
class Bake:
    """One bake on the system at ``root``, which is this machine's own root except in tests."""

    root: Path
    runner: Runner
    containerd: Containerd
    request: BakeRequest
    events: Events
    warnings: list[str] = field(default_factory=list)

    def run(self) -> tuple[Manifest, bool]:
        """The layer's manifest, and whether it was baked now (False: the same was there already). Raises GpuNodeError."""
        self.container = DriverContainer(self.containerd, self.runner, self.root, self.events.say)
        self._take_back_interrupted()
        checked = preflight.check(self.root, self.runner, self.containerd, self.request)
        self.warnings += checked.warnings
        preflight.require_tools(self.root, self.runner, checked.kver)
        self.kver, self.arch = checked.kver, checked.arch
        digest = self._image_digest()
        present = self.same_layer(digest)
        if present:
            return present, False
        actions = self._actions()
        self._remove_own()
        deadline = Deadline(_DPKG_WAIT_S)
        with dpkglock.held(self.root, deadline, self.events.say):
            files.remove_durably(self._marker_file())  # an inherited marker would count as this build's (B7)
            before = inventory.listing(self.root)
            self._write_journal(before)
            with self._taken_back_on_failure(before):
                with self.events.step("build", kernel=self.kver) as event:
                    run, tries = self._build(set(before))
                    event.update(tries=tries, log=run.log)
                with self.events.step("assert-and-record"):
                    layer = self._record(run, tries, before, digest, actions)
        return layer, True

    # --- before the build -------------------------------------------------------------------------------------------

    def _image_digest(self) -> str:
        reference = self.request.wanted.image.text
        if not self.containerd.target_digest(reference):
            raise ImageError(f"driver image {reference} is not in containerd's k8s.io namespace: pull it first", code="image_missing")
        digest = self.containerd.config_digest(reference, self.arch)
        if not digest:
            raise ImageError(f"driver image {reference} has no manifest for linux on {self.arch}", code="image_no_platform")
        return digest

    def _actions(self) -> tuple[str, ...]:
        reference = self.request.wanted.image.text
        with self.events.step("ask-image"):
            actions = self.container.known_actions(reference)
            self.container.sweep()
        if BUILD_ONLY not in actions:
            raise ImageError(
                f"driver image {reference} does not know the action build-only (it knows {', '.join(actions) or 'none'}): "
                "it is older than prebaking; use a newer one, or do not bake",
                code="image_without_build_only",
            )
        return actions

    def same_layer(self, digest: str) -> Manifest | None:
        """The layer that is asked for, if it is here and unchanged."""
        wanted = self.request.wanted
        for layer in manifest.read_all(self.root)[0]:
            found = layer.identity
            asked = (self.kver, self.arch, wanted.kind, wanted.version, digest)
            same = (found.kver, found.arch, found.kind, found.version, found.config_digest) == asked
            if same and self.request.flavour in ("any", found.flavour) and not self._layer_problems(layer):
                return layer
        return None

    def _layer_problems(self, layer: Manifest) -> tuple[str, ...]:
        try:
            found = marker.read(self.root, self.request.marker_path)
        except GpuNodeError as error:
            return (str(error),)
        wanted = self.request.wanted
        wrong = marker.differences(found, self.kver, wanted.version, wanted.kind, self.arch) if found else ("the marker is missing",)
        return wrong or inventory.problems(self.root, layer.deciding_files)

    def _remove_own(self) -> None:
        """Another bake of ours makes way; our own files are never foreign."""
        layers = manifest.read_all(self.root)[0]
        if not layers:
            return
        with self.events.step("remove-old-layers", layers=[m.layer for m in layers]) as event:
            done = removal.remove_driver(self.root, self.runner, self.arch, layers, None, None, self.request.marker_path, self.events.say)
            event.update(removed=len(done.removed), kept=done.kept)

    # --- the build --------------------------------------------------------------------------------------------------

    def _build(self, before: set[str]) -> tuple[ContainerRun, int]:
        request = self.request
        for number in range(1, request.tries + 1):
            self.events.say(f"building for kernel {self.kver}, try {number} of {request.tries}, at most {request.try_s:.0f} s")
            files.remove_durably(self._marker_file())
            with takeback.only_headers_of(self.root, self.kver):
                run = self.container.run(request.wanted.image.text, f"{CONTAINER}-{number}", BUILD_ONLY, request.try_s)
            if run.succeeded:
                return run, number
            self._judge_failure(run, number)
            takeback.remove_added(self.root, before)  # every try is clean: nothing of a killed one comes into the layer
            Deadline(request.delay_s + 1).pause(request.delay_s)
        raise AssertionError("the last try either returns or raises")

    def _judge_failure(self, run: ContainerRun, number: int) -> None:
        """Raises BuildError where the next try would fail again, or there is none."""
        version = self.request.wanted.version
        log = dkms.build_log(self.root, version)
        error = buildlog.first_error(run.output, log)
        details = {"container_output": buildlog.last_lines(run.output, 60), "dkms_log": buildlog.last_lines(log or "", 60), "log": run.log}
        what = f"the build of {version} for kernel {self.kver}"
        if buildlog.is_out_of_space(run.output, log):
            raise BuildError(
                f"{what} ran out of space: {preflight.free_space(self.root)}. Give the build machine a larger disk",
                code="no_space",
                details=details,
            )
        if error:
            raise BuildError(f"{what} does not compile: {error}. Log: {run.log}", code="compile_failed", details=details)
        last = number == self.request.tries
        if run.timed_out:
            self.events.say(f"{what} was killed after {run.seconds:.0f} s")
            if last:
                raise BuildError(
                    f"{what} did not end within {self.request.try_s:.0f} s, {number} times. Log: {run.log}",
                    code="build_timeout",
                    details=details,
                )
        elif last or not buildlog.is_transient(run.output):
            raise BuildError(
                f"{what} failed (exit status {run.rc}): {buildlog.last_lines(run.output, 3)}. Log: {run.log}",
                code="build_failed",
                details=details,
            )

    # --- what it left -----------------------------------------------------------------------------------------------

    def _record(self, run: ContainerRun, tries: int, before: dict[str, tuple[int, ...]], digest: str, actions: tuple[str, ...]) -> Manifest:
        self.container.sweep()
        found_marker = self._assert_marker()
        flavour = self._assert_modules()
        for key in _DKMS_KEYS:
            if key not in before:
                (self.root / key).unlink(missing_ok=True)
        change = inventory.difference(before, inventory.listing(self.root))
        added = inventory.drivers_part(change.added)
        strange = sorted(set(change.added) - set(added))
        if strange:
            self.warnings.append(f"appeared during the build and is not taken for the driver's: {', '.join('/' + p for p in strange[:5])}")
        identity = Identity(self.kver, self.arch, self.request.wanted.kind, self.request.wanted.version, flavour, digest)
        layer = Manifest(
            layer=manifest.layer_name(identity),
            mode=manifest.IN_PLACE,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            identity=identity,
            image=self.request.wanted.image.text,
            actions=actions,
            accept_no_device=found_marker.accept_no_device,
            files=tuple(e for e in inventory.describe(self.root, added)),
            replaced=change.replaced,
            deleted=change.deleted,
            build_s=round(run.seconds, 2),
            tries=tries,
            warnings=tuple(self.warnings),
        )
        layer = replace(layer, module_facts=manifest.module_facts(self.runner, self.root, layer.modules))
        manifest.write(self.root, layer)
        files.remove_durably(self.root / JOURNAL)
        return layer

    def _assert_marker(self) -> marker.Marker:
        """Every field against what was asked (B7)."""
        path, wanted = self.request.marker_path, self.request.wanted
        found = marker.read(self.root, path)
        if found is None:
            raise BuildError(f"the container ended well and left no marker at {path}: nothing was built", code="marker_missing")
        wrong = marker.differences(found, self.kver, wanted.version, wanted.kind, self.arch)
        if wrong:
            raise BuildError(f"the marker at {path} is not what was asked for: {'; '.join(wrong)}", code="marker_mismatch")
        return found

    def _assert_modules(self) -> str:
        """The modules, their registration and the libraries; returns the flavour (B14, B15, B20)."""
        version = self.request.wanted.version
        problems = []
        flavour = ""
        for name in kmod.NEEDED_MODULES:
            info = kmod.modinfo(self.runner, self.root, self.kver, name)
            if info is None:
                problems.append(f"module {name} is missing for kernel {self.kver}")
                continue
            if info.kver != self.kver:
                problems.append(f"{info.path} was compiled for {info.kver}")
            if info.version and info.version != version:
                problems.append(f"{info.path} is of version {info.version}")
            if name == "nvidia":
                flavour = info.flavour or ""
                if not flavour:
                    problems.append(f"{info.path} has the unknown licence {info.licence!r}")
        if not any((e.version, e.kver, e.arch, e.state) == (version, self.kver, self.arch, "installed") for e in dkms.entries(self.root)):
            problems.append(f"DKMS has no installed nvidia/{version} for kernel {self.kver}")
        problems += userspace.version_problems(self.root, self.arch, version)
        if problems:
            raise BuildError(f"the container ended well, and what it left is not right: {'; '.join(problems)}", code="build_incomplete")
        if self.request.flavour not in ("any", flavour):
            raise BuildError(
                f"the modules are {flavour}, nvidia_prebake_flavour asks for {self.request.flavour}: the installer chooses by the GPU it "
                "sees, and none is here; use a driver image of that flavour",
                code="flavour_refused",
            )
        return flavour

    # --- taking back ------------------------------------------------------------------------------------------------

    def _marker_file(self) -> Path:
        return self.root / self.request.marker_path.lstrip("/")

    def _write_journal(self, before: inventory.Listing) -> None:
        files.make_private(self.root / STORE)
        files.write_atomic(self.root / JOURNAL, json.dumps({"schema": 1, "kver": self.kver, "paths": sorted(before)}), 0o600)

    @contextlib.contextmanager
    def _taken_back_on_failure(self, before: inventory.Listing) -> Iterator[None]:
        """Any failure in the body takes back what the build added, then goes on to the caller (B8)."""
        try:
            yield
        except BaseException as error:
            self.events.say("the build failed: taking back what it added")
            self.take_back(set(before))
            change = inventory.difference(before, inventory.listing(self.root))
            if isinstance(error, GpuNodeError):
                error.details.update(replaced=list(change.replaced), deleted=list(change.deleted))
            raise

    def _take_back_interrupted(self) -> None:
        """What a killed bake left: its containers, mounts, hidden headers, files."""
        takeback.show_headers(self.root)
        try:
            journal = json.loads((self.root / JOURNAL).read_text(encoding="utf-8"))
            paths = {str(path) for path in journal["paths"]}
            if not paths or paths != set(journal["paths"]) or not isinstance(journal["paths"], list):
                raise ValueError("it lists no files, and what it does not list would be removed")
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            raise BuildError(
                f"an earlier bake was interrupted and its journal /{JOURNAL} cannot be read ({error}): start from a fresh machine",
                code="journal_invalid",
            ) from error
        with self.events.step("take-back-interrupted-bake") as event:
            event["removed"] = self.take_back(paths)

    def take_back(self, before: set[str]) -> int:
        """Removes every path that is here now and was not ``before``; indexes are made anew. Returns how many."""
        # Older layers went before the journal was written: one that is here is this bake's, and its record goes first (B8).
        shutil.rmtree(self.root / manifest.LAYERS, ignore_errors=True)
        self.container.clean_slate()
        self.container.sweep()
        takeback.show_headers(self.root)
        removed = takeback.remove_added(self.root, before)
        removal.make_indexes_anew(self.root, self.runner)
        files.remove_durably(self.root / JOURNAL)
        return removed


def bake(
    runner: Runner,
    request: BakeRequest,
    hosts_dir: str = HOSTS_DIR,
    say: Callable[[str], None] = lambda _: None,
    root: Path = Path("/"),
) -> tuple[Manifest, bool, dict[str, Any]]:
    """Bakes a layer in place as ``request`` asks; returns the manifest, whether it was baked now, and the report.

    Raises GpuNodeError; what the build added is then gone again, what it replaced or deleted is named.
    A second bake at the same time is refused with BusyError.
    """
    with files.locked(LOCK, "a bake"):
        events = Events(say)
        one = Bake(root, runner, Containerd(runner, hosts_dir), request, events)
        try:
            layer, baked = one.run()
        except CommandError as error:
            raise BuildError(f"the bake stopped: {error}", code="command_failed", details=error.details) from error
        report = _report(layer, baked, events, one.warnings)
        if baked:
            files.write_atomic(root / REPORT, json.dumps(report, indent=1, sort_keys=True) + "\n", 0o600)
            _release_note(root, request, layer)
        return layer, baked, report


def would_bake(runner: Runner, request: BakeRequest, hosts_dir: str = HOSTS_DIR, root: Path = Path("/")) -> bool:
    """Whether ``bake`` would build; changes nothing. Raises GpuNodeError when it would refuse."""
    one = Bake(root, runner, Containerd(runner, hosts_dir), request, Events())
    checked = preflight.check(root, runner, one.containerd, request)
    one.kver, one.arch = checked.kver, checked.arch
    digest = one.containerd.config_digest(request.wanted.image.text, checked.arch)
    return digest is None or one.same_layer(digest) is None


def _report(layer: Manifest, baked: bool, events: Events, warnings: list[str]) -> dict[str, Any]:
    decided = layer.deciding_files
    return {
        "schema": 1,
        "baked_now": baked,
        "layer": layer.layer,
        "mode": layer.mode,
        "created": layer.created,
        "identity": asdict(layer.identity),
        "image": layer.image,
        "actions": list(layer.actions),
        "build_seconds": layer.build_s,
        "tries": layer.tries,
        "files": len(layer.files),
        "bytes": sum(e.size for e in layer.files),
        "deciding_files": len(decided),
        "replaced": list(layer.replaced),
        "deleted": list(layer.deleted),
        "steps": events.steps,
        "warnings": [*warnings],
    }


def release_note(layer: Manifest) -> str:
    """The line that says in an image's release notes what was baked."""
    i = layer.identity
    return f"nvidia-prebake: {i.kind} {i.version} ({i.flavour}) for kernel {i.kver} {i.arch}, from {layer.image} ({i.config_digest})"


def _release_note(root: Path, request: BakeRequest, layer: Manifest) -> None:
    """Replaces our own line in the release notes, or appends it; other lines are the image builder's."""
    path = root / request.release_notes.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [line for line in (files.read_text(path) or "").splitlines() if not line.startswith("nvidia-prebake: ")]
    files.write_atomic(path, "\n".join([*lines, release_note(layer)]) + "\n")
