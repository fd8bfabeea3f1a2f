"""Builds layers: each kernel's build runs in a sandbox, and what it wrote becomes an inert layer in the store.

The image itself is not changed, so nothing needs to be rolled back in it. The manifests are written last; until then the store only has
objects that no document names. A bake that fails removes them; if it is killed, the next bake does.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..container import marker
from ..container.driver_container import BUILD_ONLY, ContainerRun, Place
from ..driver import nouveau_blacklist
from ..errors import DataError
from ..store import layers as store_layers
from ..store.layers import drivers_files, path_of
from ..store.manifest import Manifest, layer_name
from ..store.objects import Store, objects_of
from ..util import files, trust
from ..util.deadline import Deadline
from . import gpu_support, overlay_diff, sandbox
from .builder import judge_failure, module_facts, modules_in
from .checks import Checked, check, require_signed
from .context import Bake, Build
from .sandbox import Sandbox

_DEPMOD_S = 120.0


def collect(root: Path, say: Callable[[str], None]) -> int:
    """Removes every object that no document names. Returns how many it removed."""
    try:
        return Store(root).collect()
    except DataError as error:  # an unreadable document may name any object, so all are kept until it is repaired or removed
        say(str(error))
        return 0


def bake_layers(build: Build, kernels: Sequence[str]) -> tuple[tuple[Manifest, ...], nouveau_blacklist.Change]:
    """Builds for each of ``kernels``, then applies the choice about nouveau and writes the manifests. Raises GpuNodeError, and leaves the
    store as it was."""
    bake = build.bake
    before: dict[Path, Path | None] = {}
    try:
        made = tuple(_bake_one(build, kver) for kver in kernels)
        with nouveau_choice_applied(bake) as change, bake.events.step("record", layers=[layer.layer for layer in made]):
            for layer in made:
                path = path_of(bake.root, layer.layer)
                before[path] = _keep_old_manifest(path)
                store_layers.write(bake.root, layer)
    except BaseException:
        _undo_record(bake, before)
        raise
    Store(bake.root).sweep()
    return made, change


def nouveau_choice_applied(bake: Bake) -> contextlib.AbstractContextManager[nouveau_blacklist.Change]:
    """Applies the choice about nouveau to the image before the body; if that or the body fails, rolls it back."""
    drivers = drivers_files(bake.root)
    return nouveau_blacklist.carried_out(bake.root, bake.runner, bake.request.blacklist_nouveau, drivers, bake.events)


def _keep_old_manifest(path: Path) -> Path | None:
    """Gives a manifest a second name, a hard link, which needs no space. None if there is no manifest. ``Store.sweep`` removes it."""
    beside = path.with_name(f".old-manifest.json.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except FileNotFoundError:
        return None
    return beside


def _undo_record(bake: Bake, before: Mapping[Path, Path | None]) -> None:
    """Puts back the manifests as they were ``before`` this bake, and removes objects that no document names. A new manifest that cannot
    be replaced by the old one stays: it is complete too. An OSError here is only shown; the caller raises what made the bake fail."""
    for path, old in before.items():
        with _errors_only_shown(bake):
            if old:
                old.replace(path)
                old.unlink(missing_ok=True)  # rename(2) does nothing if both names are still the same file
                files.sync_folder(path.parent)
            else:
                files.remove_durably(path)
    with _errors_only_shown(bake):
        collect(bake.root, bake.events.say)


@contextlib.contextmanager
def _errors_only_shown(bake: Bake) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        bake.events.say(f"{error}: the next bake removes what this one left in the store")


# --- one kernel ------------------------------------------------------------------------------------------------------


def _bake_one(build: Build, kver: str) -> Manifest:
    bake = build.bake
    for number in range(1, bake.request.tries + 1):
        name = next(build.names)
        with _sandbox(bake, kver, name) as box:
            run = _run(bake, box, kver, name, number)
            if run.succeeded:
                return _capture(build, box, kver, run, number)
            judge_failure(bake, box.merged, kver, run, number)
        Deadline(bake.request.delay_s + 1).pause(bake.request.delay_s)
    raise AssertionError("the last try either returns or raises")


def _run(bake: Bake, box: Sandbox, kver: str, name: str, number: int) -> ContainerRun:
    """Runs ``build-only`` once; it is try ``number`` for this kernel."""
    request = bake.request
    # A marker that came with the image must not count as this build's (rule B7).
    if marker.is_there(box.merged, request.marker_path):
        trust.below(box.merged, request.marker_path).unlink()
    with bake.events.step("build", kernel=kver) as event:
        container = bake.container(Place(str(box.merged), box.pid))
        bake.events.say(f"building for kernel {kver}, try {number} of {request.tries}, at most {request.try_s:.0f} s")
        run = container.run(request.wanted.image.text, name, BUILD_ONLY, request.try_s)
        event.update(tries=number, rc=run.rc, log=run.log)
    if run.succeeded:
        container.sweep()
    return run


@contextlib.contextmanager
def _sandbox(bake: Bake, kver: str, container: str) -> Iterator[Sandbox]:
    events = bake.events
    with contextlib.ExitStack() as stack:
        with events.step("open-sandbox", kernel=kver):
            box = stack.enter_context(sandbox.opened(bake.root, bake.runner, kver, container, events.say))
        yield box
        with events.step("close-sandbox", kernel=kver):
            stack.close()


def _capture(build: Build, box: Sandbox, kver: str, run: ContainerRun, tries: int) -> Manifest:
    bake = build.bake
    with bake.events.step("assert", kernel=kver):
        # Inside, so that the driver's own depmod.d(5) files apply. A container need not have run depmod after its last module.
        bake.runner.run(["nsenter", "-t", str(box.pid), "-m", "depmod", kver], timeout_s=_DEPMOD_S)
        checked = check(bake, box.merged, kver)
    _sign(build, box, kver)
    layer = _layer(build, box, checked, run, tries)
    with bake.events.step("store", kernel=kver) as event:
        store = Store(bake.root)
        event["objects"] = len({store.put(Path(box.merged / entry.path), entry) for entry in objects_of(layer)})
    return layer


def _sign(build: Build, box: Sandbox, kver: str) -> None:
    """Signs the kernel modules that the build wrote, if the bake has a signing key. Raises BuildError."""
    bake, signer = build.bake, build.signer
    if signer is None:
        return
    written = overlay_diff.changes_in(bake.root, box).written
    modules = [path for path in modules_in(box.merged, kver) if path in written]
    with bake.events.step("sign", kernel=kver, modules=len(modules), signer=signer.certificate.signer.name):
        signer.sign(box.merged, kver, modules)


def _layer(build: Build, box: Sandbox, checked: Checked, run: ContainerRun, tries: int) -> Manifest:
    """The manifest of a successful build."""
    bake, warnings = build.bake, [*build.bake.warnings, *checked.warnings]
    with bake.events.step("capture", kernel=checked.identity.kver) as event:
        found = overlay_diff.read(bake.root, box, checked.identity.kver)
        if overlay_diff.packages_changed(bake.root, box.merged):
            warnings.append("packages were installed or removed during the build: the layer has their files, but not dpkg's record of them")
        event.update(files=len(found.files), bytes=sum(e.size for e in found.files))
        event.update(replaced=list(found.replaced), deleted=list(found.deleted), left_out=list(found.left_out))
    require_signed(build.signer, found.files)
    with bake.events.step("gpu-list", kernel=checked.identity.kver) as event:
        gpus, unusable = gpu_support.find(bake.containerd, bake.request.wanted.image.text, box.merged, found.files)
        warnings += unusable
        event["source"] = gpus.source
    made = Manifest(
        layer=layer_name(checked.identity),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        identity=checked.identity,
        image=bake.request.wanted.image.text,
        actions=build.actions,
        accept_no_device=checked.accept_no_device,
        files=found.files,
        replaced=found.replaced,
        deleted=found.deleted,
        originals=found.originals,
        indexes=found.indexes,
        build_s=round(run.seconds, 2),
        tries=tries,
        warnings=tuple(warnings),
        signer=build.signer.certificate.signer if build.signer else None,
        gpus=gpus,
    )
    return replace(made, module_facts=module_facts(bake.runner, box.merged, made.modules))
