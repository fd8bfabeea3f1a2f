"""containerd through its own ``ctr``: images by exact name, their config digest, configuration in force."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .deadline import Deadline
from .errors import CommandError, ImageError, InputError
from .files import read_text
from .imageref import DriverWanted
from .runner import LineSink, Runner

NAMESPACE = "k8s.io"
HOSTS_DIR = "/etc/containerd/certs.d"
CONFIG = "etc/containerd/config.toml"
_OCI_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_ASK_S = 30.0
PULL_S = 120.0
# What no further try can mend: the registry has answered, and its answer is no.
_FINAL = re.compile(r"unauthorized|forbidden|denied|invalid reference|no match for platform", re.IGNORECASE)
# "not found" may also be a blob that went between two steps, or a name server's word: only in a registry's answer is it a no.
_NOT_FOUND = re.compile(r"\b404\b.*not found|failed to resolve reference.*not found", re.IGNORECASE)
_NO_ANSWER = re.compile(r"no such host|server misbehaving|failed to do request", re.IGNORECASE)
_NO_SPACE = re.compile(r"no space left", re.IGNORECASE)
_STORE = "/var/lib/containerd"


class Containerd:
    """containerd in one namespace, driven by ``runner``."""

    def __init__(self, runner: Runner, hosts_dir: str = HOSTS_DIR, namespace: str = NAMESPACE) -> None:
        self.runner = runner
        self.hosts_dir = hosts_dir
        self.ctr = ["ctr", "-n", namespace]

    def is_ready(self) -> bool:
        """Whether it answers on its socket."""
        try:
            return self.runner.run(["ctr", "version"], ok=None, timeout_s=_ASK_S).rc == 0
        except CommandError:
            return False

    def target_digest(self, reference: str) -> str | None:
        """The digest that ``reference`` names here, of an index or a manifest; None where there is no such image."""
        shown = self.runner.run([*self.ctr, "images", "ls", f"name=={reference}"], timeout_s=_ASK_S)
        match = re.search(rf"^{re.escape(reference)}\s.*?(sha256:[0-9a-f]{{64}})", shown.stdout, re.MULTILINE)
        return match[1] if match else None

    def names_of(self, references: Collection[str]) -> tuple[str, ...]:
        """Every name here of the images that ``references`` name: one that was pulled by another name has two. Raises CommandError."""
        shown = self.runner.run([*self.ctr, "images", "ls"], timeout_s=_ASK_S).stdout
        targets = dict(re.findall(r"^(\S+)\s.*?(sha256:[0-9a-f]{64})", shown, re.MULTILINE))
        wanted = {targets[reference] for reference in references if reference in targets}
        return tuple(sorted(name for name, target in targets.items() if target in wanted))

    def remove(self, reference: str) -> None:
        """Removes a name of an image, and what no other name needs. Raises CommandError."""
        self.runner.run([*self.ctr, "images", "rm", "--sync", reference], timeout_s=PULL_S)

    def config_digest(self, reference: str, arch: str) -> str | None:
        """The digest of the image's config for ``arch``: the same through every index and mirror. None where it is not here."""
        digest = self.target_digest(reference)
        if digest is None:
            return None
        document = self._content(digest)
        if "manifests" in document:
            digest = platform_manifest(document, _OCI_ARCH.get(arch, arch))
            document = self._content(digest) if digest else {}
        config = document.get("config", {}).get("digest")
        return config if isinstance(config, str) else None

    def _content(self, digest: str) -> dict[str, Any]:
        try:
            document = json.loads(self.runner.run([*self.ctr, "content", "get", digest], timeout_s=_ASK_S).stdout)
        except (CommandError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def pull(self, reference: str, timeout_s: float, on_line: LineSink = None) -> None:
        """One pull. Raises CommandError."""
        hosts = ["--hosts-dir", self.hosts_dir] if self.hosts_dir and Path(self.hosts_dir).is_dir() else []
        self.runner.run([*self.ctr, "images", "pull", *hosts, reference], timeout_s=timeout_s, on_line=on_line)

    def tag(self, source: str, target: str) -> None:
        """Gives an image a second name, replacing what had it."""
        self.runner.run([*self.ctr, "images", "tag", "--force", source, target], timeout_s=_ASK_S)

    def pin(self, reference: str) -> None:
        """Labels an image so that kubelet's image garbage collection leaves it (honoured from containerd 1.6.25 on)."""
        self.runner.run([*self.ctr, "images", "label", reference, "io.cri-containerd.pinned=pinned"], timeout_s=_ASK_S)

    def is_pinned(self, reference: str) -> bool:
        """Whether an image carries the label that ``pin`` gives. Raises CommandError."""
        shown = self.runner.run([*self.ctr, "images", "ls", f"name=={reference}"], timeout_s=_ASK_S).stdout
        line = next((line for line in shown.splitlines() if line.split()[:1] == [reference]), "")
        return "io.cri-containerd.pinned=pinned" in line

    def honours_pins(self) -> bool:
        """Whether this containerd keeps pinned images: from 1.6.25 on. Raises CommandError."""
        shown = self.runner.run(["containerd", "--version"], timeout_s=_ASK_S).stdout
        match = re.search(r"\bv?(\d+)\.(\d+)\.(\d+)", shown)
        return match is not None and tuple(map(int, match.groups())) >= (1, 6, 25)

    def read_file(self, reference: str, container: str, path: str) -> str:
        """A text file of an image, by a plain container that prints it. Raises CommandError."""
        argv = [*self.ctr, "run", "--rm", reference, container, "cat", path]
        return self.runner.run(argv, timeout_s=60.0).stdout

    def containers(self) -> tuple[str, ...]:
        """Ids of all containers."""
        return tuple(self.runner.run([*self.ctr, "containers", "ls", "-q"], timeout_s=_ASK_S).stdout.split())

    def running(self) -> tuple[str, ...]:
        """Ids of the containers that have a task."""
        return tuple(self.runner.run([*self.ctr, "tasks", "ls", "-q"], timeout_s=_ASK_S).stdout.split())

    def kill(self, container: str) -> None:
        """Ends a container whatever it does: every process of it, task, container and snapshot (B11)."""
        for words in (
            ["tasks", "kill", "-a", "-s", "SIGKILL", container],
            ["tasks", "rm", "-f", container],
            ["containers", "rm", container],
            ["snapshots", "rm", container],
        ):
            try:
                self.runner.run([*self.ctr, *words], ok=None, timeout_s=_ASK_S)
            except CommandError:
                continue  # the next step may still succeed, and the caller looks again

    def config_in_force(self) -> str:
        """A hash of ``containerd config dump``: the configuration that a start would take, imports merged."""
        return hashlib.sha256(self.runner.run(["containerd", "config", "dump"], timeout_s=_ASK_S).stdout.encode()).hexdigest()

    def restart(self, deadline: Deadline) -> None:
        """Restarts it and waits until it answers. Raises CommandError, DeadlineError."""
        self.runner.run(["systemctl", "restart", "containerd"], timeout_s=deadline.cut_s(120.0, "restarting containerd"))
        self.wait_ready(deadline)

    def wait_ready(self, deadline: Deadline) -> None:
        """Returns when it answers. Raises ImageError at the deadline."""
        while not self.is_ready():
            if not deadline.pause(0.5):
                raise ImageError("containerd does not answer: see systemctl status containerd", code="containerd_unavailable")


def platform_manifest(index: dict[str, Any], architecture: str) -> str | None:
    """The digest of the manifest for linux on ``architecture`` in an OCI index; None where there is none."""
    for entry in index.get("manifests", []):
        platform = entry.get("platform") or {}
        if platform.get("os") == "linux" and platform.get("architecture") == architecture:
            digest = entry.get("digest")
            return digest if isinstance(digest, str) else None
    return None


def imports_dropins(root: Path) -> bool:
    """Whether the main configuration imports ``config.d``, without which the runtime drop-in has no effect (CONTRACT.md)."""
    text = re.sub(r"^\s*#.*$", "", read_text(root / CONFIG) or "", flags=re.MULTILINE)
    match = re.search(r"^imports\s*=\s*\[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    return bool(match and "config.d/" in match[1])


def is_final(error: CommandError) -> bool:
    """Whether a failed pull would fail again: the registry said no (B12)."""
    if _FINAL.search(error.output):
        return True
    return any(_NOT_FOUND.search(line) and not _NO_ANSWER.search(line) for line in error.output.splitlines())


def ensure_image(
    containerd: Containerd,
    wanted: DriverWanted,
    deadline: Deadline,
    tries: int = 3,
    delay_s: float = 10.0,
    timeout_s: float = PULL_S,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Sees that the driver image is here under its canonical name; pulls only if not. Returns whether anything was done.

    Raises ImageError, which names the reference and what the registry said; InputError for less than one try.
    """
    if tries < 1:
        raise InputError(f"tries: {tries}: an image is pulled in at least one try, give 1 or more")
    name = wanted.image.text
    if containerd.target_digest(name):
        return False
    source = wanted.pull.text
    if source == name or not containerd.target_digest(source):
        _pull(containerd, source, deadline, tries, delay_s, timeout_s, say)
    if source != name:
        containerd.tag(source, name)
    return True


def _pull(
    containerd: Containerd,
    source: str,
    deadline: Deadline,
    tries: int,
    delay_s: float,
    timeout_s: float,
    say: Callable[[str], None],
) -> None:
    for attempt in range(1, tries + 1):
        say(f"pulling {source} (try {attempt} of {tries})")
        limit_s = deadline.cut_s(timeout_s, f"pulling {source}")
        try:
            containerd.pull(source, limit_s)
            return
        except CommandError as error:
            reason = (error.output.strip().splitlines() or [str(error)])[-1]
            if error.timed_out:  # the last that ctr said is its progress
                reason = f"the pull did not end within {limit_s:.0f} s"
            if _NO_SPACE.search(error.output):
                raise ImageError(
                    f"driver image {source} cannot be pulled, a filesystem is full: {reason}. "
                    f"Make room where containerd keeps its images ({_STORE}, unless its configuration sets another root)",
                    code="no_space",
                ) from error
            if is_final(error):
                raise ImageError(
                    f"driver image {source} cannot be pulled: {reason}. The registry answered, so it was not tried again: "
                    "check the reference, and the credentials in containerd's hosts folder",
                    code="image_refused",
                ) from error
            if attempt == tries or not deadline.pause(delay_s):
                raise ImageError(
                    f"driver image {source} cannot be pulled after {attempt} tries: {reason}. "
                    "Check that this machine reaches the registry, or set a pull reference that it reaches",
                    code="image_unreachable",
                ) from error
