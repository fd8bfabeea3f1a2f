"""The builds of one bake: run the driver container, decide whether to retry a failure, check the result, and make the layer's manifest."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..container import build_log, marker
from ..container.containerd import Containerd
from ..container.driver_container import BUILD_ONLY, HOST, ContainerRun, DriverContainer, Place
from ..driver import dkms, kmod, libraries, nouveau_blacklist
from ..driver.kmod import modinfo_of_file
from ..driver.modules import NEEDED_MODULES
from ..errors import BuildError, DataError, ImageError
from ..store import manifest
from ..store.layers import drivers_files
from ..store.manifest import INVALID, Identity, Manifest, ModuleFact
from ..system import disk_space, module_signature
from ..system.certificate import Certificate
from ..system.tree import Entry
from ..util.deadline import Deadline
from ..util.events import Events
from ..util.files import relative
from ..util.run import Runner
from .request import BakeRequest
from .signing import ModuleSigner

CONTAINER = "gpuprebuild"


@dataclass(frozen=True)
class Built:
    """The result of a build that has passed every check."""

    identity: Identity
    accept_no_device: bool


@dataclass
class Builder:
    """What all builds of one bake share. ``root`` is the system to bake: ``/``, except in tests."""

    root: Path
    runner: Runner
    containerd: Containerd
    request: BakeRequest
    events: Events
    arch: str = ""
    digest: str = ""
    actions: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    runs: int = 0
    setuid_before: tuple[str, ...] | None = None  # files that were setuid or setgid before the builds; None if nothing was built
    certificate: Certificate | None = None
    signer: ModuleSigner | None = None
    nouveau: nouveau_blacklist.Change | None = None

    def container(self, place: Place = HOST) -> DriverContainer:
        return DriverContainer(self.containerd, self.runner, self.root, self.events.say, place)

    def ask_image(self) -> None:
        """Finds out which actions the image knows. Raises ImageError if ``build-only`` is not among them."""
        reference = self.request.wanted.image.text
        with self.events.step("ask-image"):
            container = self.container()
            self.actions = container.known_actions(reference)
            container.sweep()
        if BUILD_ONLY not in self.actions:
            raise ImageError(
                f"driver image {reference} does not know the action build-only (it knows {', '.join(self.actions) or 'none'}): "
                "it is older than this action; use a newer image, or do not bake",
                code="image_without_build_only",
            )

    def image_digest(self) -> str:
        """The image's config digest for this architecture. Raises ImageError."""
        reference = self.request.wanted.image.text
        if not self.containerd.target_digest(reference):
            raise ImageError(f"driver image {reference} is not in containerd's k8s.io namespace: pull it first", code="image_missing")
        digest = self.containerd.config_digest(reference, self.arch)
        if not digest:
            raise ImageError(f"driver image {reference} has no manifest for linux on {self.arch}: use another", code="image_no_platform")
        return digest

    # --- one try -----------------------------------------------------------------------------------------------------

    def next_container(self) -> str:
        """A container id that no other run of this bake has."""
        self.runs += 1
        return f"{CONTAINER}-{self.runs}"

    def attempt(self, container: DriverContainer, name: str, kver: str, number: int) -> ContainerRun:
        """Runs ``build-only`` once; it is try ``number`` for this kernel."""
        request = self.request
        self.events.say(f"building for kernel {kver}, try {number} of {request.tries}, at most {request.try_s:.0f} s")
        return container.run(request.wanted.image.text, name, BUILD_ONLY, request.try_s)

    def judge_failure(self, root: Path, kver: str, run: ContainerRun, number: int) -> None:
        """Raises BuildError if the next try would fail again, or this was the last. ``root`` is where the container installed."""
        version = self.request.wanted.version
        log = dkms.build_log(root, version)
        error = build_log.first_error(run.output, log)
        details = {
            "container_output": build_log.last_lines(run.output, 60),
            "dkms_log": build_log.last_lines(log or "", 60),
            "log": run.log,
        }
        what = f"the build of {version} for kernel {kver}"
        if build_log.is_out_of_space(run.output, log):
            raise BuildError(
                f"{what} ran out of space: {disk_space.free_space(self.root)}. Give the build machine a larger disk",
                code="no_space",
                details=details,
            )
        if error:
            raise BuildError(f"{what} does not compile: {error}. Log: {run.log}", code="compile_failed", details=details)
        gone = build_log.deleted_library(run.output)
        if gone:
            raise BuildError(
                f"{what} deletes the distribution's library {gone}, and the folder in which a driver container collects libraries cannot "
                "express a deletion: remove the package of that library from this image first, or use another driver image",
                code="library_deleted",
                details=details,
            )
        last = number == self.request.tries
        if run.timed_out:
            self.events.say(f"{what} was killed after {run.seconds:.0f} s")
            if last:
                raise BuildError(
                    f"{what} did not end within {self.request.try_s:.0f} s, {number} times. Log: {run.log}",
                    code="build_timeout",
                    details=details,
                )
        elif last or not build_log.is_transient(run.output):
            raise BuildError(
                f"{what} failed (exit status {run.rc}): {build_log.last_lines(run.output, 3)}. Log: {run.log}",
                code="build_failed",
                details=details,
            )

    def pause(self) -> None:
        """Waits between two tries."""
        Deadline(self.request.delay_s + 1).pause(self.request.delay_s)

    # --- checks of the result ----------------------------------------------------------------------------------------

    def check(self, root: Path, kver: str) -> Built:
        """Checks what the build left in ``root``. Raises BuildError, DataError."""
        found = self._assert_marker(root, kver)
        flavour = self._assert_modules(root, kver)
        wanted = self.request.wanted
        return Built(Identity(kver, self.arch, wanted.kind, wanted.version, flavour, self.digest), found.accept_no_device)

    def marker_problems(self, root: Path, kver: str) -> tuple[str, ...]:
        """How the marker in ``root`` differs from the request, in words. Raises DataError."""
        wanted = self.request.wanted
        found = marker.read(root, self.request.marker_path)
        return marker.differences(found, kver, wanted.version, wanted.kind, self.arch) if found else ("the marker is missing",)

    def _assert_marker(self, root: Path, kver: str) -> marker.Marker:
        path = self.request.marker_path
        found = marker.read(root, path)
        if found is None:
            raise BuildError(f"the container succeeded but left no marker at {path}: nothing was built", code="marker_missing")
        wrong = self.marker_problems(root, kver)
        if wrong:
            raise BuildError(f"the marker at {path} is not what was asked for: {'; '.join(wrong)}", code="marker_mismatch")
        return found

    def _assert_modules(self, root: Path, kver: str) -> str:
        """Checks the modules, their registration with DKMS, and the libraries; returns the flavour (rules B14, B15, B20)."""
        version = self.request.wanted.version
        problems = []
        flavour = ""
        for name in NEEDED_MODULES:
            info = kmod.modinfo(self.runner, root, kver, name)
            if info is None:
                problems.append(f"module {name} is missing for kernel {kver}")
                continue
            if info.kver != kver:
                problems.append(f"{info.path} was compiled for {info.kver}")
            if info.version and info.version != version:
                problems.append(f"{info.path} is of version {info.version}")
            if name == "nvidia":
                flavour = info.flavour or ""
                if not flavour:
                    problems.append(f"{info.path} has the unknown licence {info.licence!r}")
        if not any((e.version, e.kver, e.arch, e.state) == (version, kver, self.arch, "installed") for e in dkms.entries(root)):
            problems.append(f"DKMS has no installed nvidia/{version} for kernel {kver}")
        misfits, others = kmod.symbol_problems(self.runner, root, kver)
        problems += misfits[:5]
        self.warnings += [f"a module that the driver can do without may not load: {said}" for said in others[:5]]
        problems += libraries.version_problems(root, self.arch, version)
        if problems:
            raise BuildError(f"the container succeeded, but its result is not right: {'; '.join(problems)}", code="build_incomplete")
        if self.request.flavour not in ("any", flavour):
            raise BuildError(
                f"the modules are {flavour}, but nvidia_prebake_flavour is {self.request.flavour}: the installer chooses by the GPU that "
                "it finds, and this machine has none; use a driver image of that flavour",
                code="flavour_refused",
            )
        return flavour

    # --- signatures --------------------------------------------------------------------------------------------------

    def sign(self, root: Path, kver: str, made: Collection[str]) -> None:
        """Signs the kernel modules for ``kver`` in ``root`` among the paths ``made``, if the bake has a signing key. Raises BuildError."""
        if self.signer is None:
            return
        modules = [path for path in modules_in(root, kver) if path in made]
        with self.events.step("sign", kernel=kver, modules=len(modules), signer=self.signer.certificate.signer.name):
            self.signer.sign(root, kver, modules)

    def _assert_signed(self, files: Iterable[Entry]) -> None:
        """Raises BuildError if a layer has a module that ``sign`` did not sign."""
        unsigned = [
            e.path
            for e in files
            if self.signer and e.path not in self.signer.signed and module_signature.kernel_of(e.path) and e.type == "file"
        ]
        if unsigned:
            raise BuildError(
                f"the layer has kernel modules that were not signed: {', '.join('/' + p for p in unsigned[:3])}; use another driver image",
                code="signing_failed",
            )

    # --- nouveau ---------------------------------------------------------------------------------------------------

    def would_change_nouveau(self) -> bool:
        """Whether the choice about nouveau requires a change of the image or of an initramfs. Raises GpuNodeError."""
        found = nouveau_blacklist.look(self.root, drivers_files(self.root), self.runner)
        return nouveau_blacklist.decide(found, self.request.blacklist_nouveau).is_needed

    @contextlib.contextmanager
    def nouveau_choice_applied(self) -> Iterator[None]:
        """Applies the choice about nouveau to the image before the body; if that or the body fails, rolls it back."""
        drivers = drivers_files(self.root)
        with nouveau_blacklist.carried_out(self.root, self.runner, self.request.blacklist_nouveau, drivers, self.events) as self.nouveau:
            yield

    # --- the layer ---------------------------------------------------------------------------------------------------

    def asked_for(self, layers: Iterable[Manifest], mode: str, kver: str) -> Manifest | None:
        """The layer among ``layers`` that this bake requests; its contents are not checked. None if there is none."""
        wanted = self.request.wanted
        asked = (kver, self.arch, wanted.kind, wanted.version, self.digest)
        for layer in layers:
            found = layer.identity
            same = (found.kver, found.arch, found.kind, found.version, found.config_digest) == asked
            same = same and layer.signer == (self.certificate.signer if self.certificate else None)
            if same and layer.mode == mode and self.request.flavour in ("any", found.flavour):
                return layer
        return None

    def layer(self, root: Path, built: Built, run: ContainerRun, tries: int, mode: str, **lists: Any) -> Manifest:
        """The manifest of a successful build, whose files are below ``root``; ``lists`` are the manifest's fields that differ by mode."""
        self._assert_signed(lists["files"])
        made = Manifest(
            layer=manifest.layer_name(built.identity),
            mode=mode,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            identity=built.identity,
            image=self.request.wanted.image.text,
            actions=self.actions,
            accept_no_device=built.accept_no_device,
            build_s=round(run.seconds, 2),
            tries=tries,
            warnings=tuple(self.warnings),
            signer=self.signer.certificate.signer if self.signer else None,
            **lists,
        )
        return replace(made, module_facts=module_facts(self.runner, root, made.modules))


def modules_in(root: Path, kver: str) -> list[str]:
    """The paths of all kernel modules for ``kver`` below ``root``, in the kernel's folder and in DKMS's tree, with merged /usr resolved."""
    own = root / relative(root, root / "lib/modules" / kver)
    places = (own.glob("**/*.ko*"), (root / dkms.TREE).glob(f"*/*/{kver}/*/module/*.ko*"))
    paths = (str(path.relative_to(root)) for place in places for path in place if path.is_file() and not path.is_symlink())
    return sorted(path for path in paths if module_signature.kernel_of(path) == kver)


def module_facts(runner: Runner, root: Path, modules: Iterable[Entry]) -> tuple[ModuleFact, ...]:
    """What modinfo says about each module of a layer, whose files are below ``root``. Raises DataError for a file that is not a module."""
    found = []
    for entry in modules:
        info = modinfo_of_file(runner, root / entry.path)
        if info is None:
            raise DataError(f"/{entry.path}: modinfo does not recognise it as a kernel module; the layer is not recorded", code=INVALID)
        name = entry.path.rsplit("/", 1)[-1].partition(".ko")[0]
        found.append(ModuleFact(entry.path, name, info.version, info.kver, info.licence, info.signer))
    return tuple(found)
