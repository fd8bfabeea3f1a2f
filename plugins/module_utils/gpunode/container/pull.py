"""Fetches the driver image into containerd under its canonical name: from a registry, in several tries, or from an archive."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import CommandError, ImageError, InputError
from ..options import PULL
from ..system import host
from ..util.deadline import Deadline
from . import archive, pull_errors
from .archive_file import HOW
from .containerd import Containerd, last_line
from .pull_errors import PullFailure
from .reference import DriverWanted, ImageRef
from .registry import DEFAULT_SOURCE, ImageSource

_STORE = "/var/lib/containerd, unless its configuration sets another root"
_FULL = f"A filesystem is full: free space where containerd keeps its images ({_STORE})"


@dataclass(frozen=True)
class Tries:
    """How often a pull is tried, the seconds between two tries, and the seconds that one may take."""

    number: int = PULL["tries"].default
    delay_s: float = PULL["delay_s"].default
    timeout_s: float = PULL["timeout_s"].default

    def require_possible(self) -> None:
        """Raises InputError, which names the bake's variable."""
        if self.number < 1:
            raise InputError(f"nvidia_prebake_pull_tries: {self.number}: give 1 or more")
        if not 0 <= self.delay_s < math.inf:
            raise InputError(f"nvidia_prebake_pull_delay_s: {self.delay_s:g}: give 0 or more seconds")
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"nvidia_prebake_pull_timeout_s: {self.timeout_s:g}: give more than 0 seconds")


DEFAULT_TRIES = Tries()


def ensure_image(
    containerd: Containerd,
    wanted: DriverWanted,
    deadline: Deadline,
    source: ImageSource = DEFAULT_SOURCE,
    tries: Tries = DEFAULT_TRIES,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Fetches the driver image unless containerd has it under its canonical name. Returns whether anything was done.

    If a reference names a digest, the image is pulled by it, and what is there, what was pulled and what was imported must have it. Raises
    ImageError, which names the reference and the registry's answer, or what the archive holds; InputError if ``tries`` or ``source`` is
    invalid; DeadlineError; CommandError.
    """
    tries.require_possible()
    name, pin = wanted.image.text, wanted.pin
    if containerd.target_digest(name, pin):
        return False
    pulled = wanted.pull.text
    if pulled == name or not containerd.target_digest(pulled, pin):
        if source.archive:
            _import(containerd, wanted, deadline, source.archive, tries.timeout_s, say)
            return True
        source.check_hosts(wanted.pull.repository)
        _pull(containerd, wanted.pull, deadline, source, tries, say)
        _require_pin(containerd, pulled, pin)
    if pulled != name:
        containerd.tag(pulled, name)
    return True


def _require_pin(containerd: Containerd, pulled: str, pin: str) -> None:
    """Raises ImageError, and removes what was pulled, if it is not the image with the digest ``pin``."""
    if pin and not containerd.target_digest(pulled, pin):
        found = containerd.targets().get(pulled, "nothing")
        containerd.discard([pulled])
        raise ImageError(
            f"driver image {pulled}: {pin} is asked for, and the registry or a mirror served {found}: what was pulled has been removed; "
            "find out who serves another image under this name",
            code="image_mismatch",
        )


def _import(
    containerd: Containerd, wanted: DriverWanted, deadline: Deadline, path: str, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Imports the archive, and tags the image if it is what was checked. Never asks a registry, even if the import fails."""
    name, arch = wanted.image.text, host.normal_arch(os.uname().machine) or ""
    say(f"importing {name} from {path}")
    checked = archive.check(path, wanted, arch)
    before = containerd.targets()
    _require_free(before, wanted, checked, path)
    try:
        imported = containerd.import_archive(path, before, checked.names, deadline.cut_s(timeout_s, f"importing {path}"))
    except CommandError as error:
        failure = pull_errors.judge(last_line(error), path)
        is_machines = failure.code in ("no_space", "image_unpack", "containerd_unavailable")
        advice = f". {_advice(failure, wanted.pull, DEFAULT_SOURCE)}" if is_machines else ""
        code = failure.code if is_machines else "image_archive"
        raise ImageError(f"image archive {path} cannot be imported: {last_line(error)}{advice}", code=code) from error
    is_right = _is_checked(containerd, imported, checked, arch)
    if is_right:
        containerd.tag(imported, name)
    containerd.discard([one for one in containerd.names_of_import(before, checked.names) if one != name or not is_right])
    if not is_right:
        containerd.discard([name])
        raise ImageError(
            f"image archive {path}: containerd has imported another image than the one that was checked, and it was removed: write the "
            f"archive again ({HOW}), and keep others from writing to it",
            code="image_mismatch",
        )


def _require_free(before: Mapping[str, str], wanted: DriverWanted, checked: archive.Checked, path: str) -> None:
    """Raises ImageError if the import would give a name in the archive, which another image has here, to the driver image."""
    taken = [
        name
        for name in checked.names
        if name not in (wanted.image.text, wanted.pull.text) and before.get(name) not in (None, checked.digest)
    ]
    if taken:
        raise ImageError(
            f"image archive {path}: it calls the image {taken[0]}, which is another image's name here: write the archive with "
            f"{wanted.image.text} in it ({HOW})",
            code="image_archive",
        )


def _is_checked(containerd: Containerd, imported: str, checked: archive.Checked, arch: str) -> bool:
    """Whether an imported image is the one that was checked. A docker archive has no digest before the import, but its config has one."""
    found = containerd.target_digest(imported)
    if found is None or checked.digest:
        return found == checked.digest
    return containerd.config_behind(found, arch) == checked.config_digest


def _pull(
    containerd: Containerd,
    image: ImageRef,
    deadline: Deadline,
    source: ImageSource,
    tries: Tries,
    say: Callable[[str], None],
) -> None:
    for attempt in range(1, tries.number + 1):
        say(f"pulling {image.text} (try {attempt} of {tries.number})")
        limit_s = deadline.cut_s(tries.timeout_s, f"pulling {image.text}")
        try:
            containerd.pull(image.text, source, limit_s)
            return
        except CommandError as error:
            # The last line that ctr printed before a timeout only shows its progress.
            reason = f"the pull did not end within {limit_s:.0f} s" if error.timed_out else last_line(error)
            failure = pull_errors.judge(reason, image.text, source.plain_http)
            if not failure.may_pass or attempt == tries.number or not deadline.pause(tries.delay_s):
                tried = f" after {attempt} tries" if failure.may_pass else ""
                raise ImageError(
                    f"driver image {image.text} cannot be pulled{tried}: {reason}. {_advice(failure, image, source)}", code=failure.code
                ) from error


def _advice(failure: PullFailure, image: ImageRef, source: ImageSource) -> str:
    """What to do about it."""
    registry, user = image.repository.partition("/")[0], source.username
    ran_out = failure.code == "image_unreachable" and failure.status in (401, 403)
    return {
        "no_space": _FULL,
        "image_unpack": f"containerd cannot write the image on this machine: look at the filesystem of {_STORE}, and at its journal",
        "image": "Its contents are damaged, or of a kind that this containerd does not know: use another image",
        "containerd_unavailable": "containerd does not answer: see systemctl status containerd",
        "registry_certificate": "The certificate of the registry (or of its token server) is not trusted here: "
        + ("the authority in registry_ca did not issue it" if source.ca else "set registry_ca to the certificate of its authority"),
        "registry_scheme": (
            f"{registry} was contacted by plain HTTP and seems to use HTTPS: leave registry_plain_http off"
            if source.plain_http
            else f"{registry} was contacted by HTTPS and seems to use plain HTTP: set registry_plain_http, or configure it in containerd's "
            "hosts folder"
        ),
        "registry_proxy": "A proxy on the way to the registry refused, not the registry: look at HTTPS_PROXY and NO_PROXY in this run's "
        "environment, and at the proxy's rules",
        "registry_login": (
            f"The registry does not accept the login of {user}: check registry_username and registry_password"
            if user
            else "The registry requires a login, and none is given: set registry_username and registry_password"
        ),
        "image_refused": "The registry answered, so the pull was not tried again: check the reference, and "
        + (f"whether {user} may read it" if user else "whether it needs a login (registry_username)"),
        "image_unreachable": (
            "The registry named the image, and then refused its contents in each try: its tokens may run out before the pull ends; set a "
            "pull reference that is faster to reach"
            if ran_out
            else "Check that this machine reaches the registry, or set a pull reference that it reaches"
        ),
    }[failure.code]
