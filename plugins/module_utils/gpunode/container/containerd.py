"""containerd, driven by its command ``ctr``: images by exact name, config digests, containers, the configuration in force."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CommandError, ImageError
from ..util import jsondoc
from ..util.bounded import cut, lines
from ..util.deadline import Deadline
from ..util.expressions import expression
from ..util.run import LineSink, Runner
from . import containerd_config
from .registry import ImageSource

NAMESPACE = "k8s.io"
OCI_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_ASK_S = 30.0
_RUN_S = 180.0  # to start a container and run it; a busy emulated node took more than 60 s
_REMOVE_S = 120.0
# The name of an imported image until it is tagged with the wanted one.
_IMPORTED = "gpu-prebake-import"
_DIGEST = expression(r"[a-z0-9+._-]{1,32}:[A-Za-z0-9=_-]{1,256}")


class Containerd:
    """containerd in one namespace, driven by ``runner``."""

    def __init__(self, runner: Runner, namespace: str = NAMESPACE) -> None:
        self.runner = runner
        self.ctr = ["ctr", "-n", namespace]

    def is_ready(self) -> bool:
        """Whether containerd answers on its socket."""
        try:
            return self.runner.run(["ctr", "version"], ok=None, timeout_s=_ASK_S).rc == 0
        except CommandError:
            return False

    def target_digest(self, reference: str, pin: str = "") -> str | None:
        """The digest that ``reference`` has here, of an index or a manifest; None if there is no such image. Raises CommandError.

        A name whose digest is not ``pin``, or not the one in ``reference`` itself, is not that image: anybody can tag another with it.
        """
        shown = self.runner.run([*self.ctr, "images", "ls", f"name=={reference}"], timeout_s=_ASK_S)
        match = re.search(rf"^{re.escape(reference)}\s.*?(sha256:[0-9a-f]{{64}})", shown.stdout, re.MULTILINE)
        found = match[1] if match else None
        return found if {pin, reference.partition("@")[2]} <= {"", found} else None

    def targets(self) -> dict[str, str]:
        """The digests of all images here, by name. Raises CommandError."""
        shown = self.runner.run([*self.ctr, "images", "ls"], timeout_s=_ASK_S).stdout
        return dict(re.findall(r"^(\S+)\s.*?(sha256:[0-9a-f]{64})", shown, re.MULTILINE))

    def names_of(self, references: Collection[str]) -> tuple[str, ...]:
        """All names here of the images that ``references`` name; an image that was pulled by another name has two. Raises CommandError."""
        targets = self.targets()
        wanted = {targets[reference] for reference in references if reference in targets}
        return tuple(sorted(name for name, target in targets.items() if target in wanted))

    def remove(self, reference: str, timeout_s: float = _REMOVE_S) -> None:
        """Removes a name of an image, and the content that no other name needs. Raises CommandError."""
        self.runner.run([*self.ctr, "images", "rm", "--sync", reference], timeout_s=timeout_s)

    def config_digest(self, reference: str, arch: str, pin: str = "") -> str | None:
        """The digest of the image's config for ``arch``, the same in every index and mirror; None if it is absent, or if the image does not
        have the digest ``pin``. Raises CommandError."""
        digest = self.target_digest(reference, pin)
        return self.config_behind(digest, arch) if digest else None

    def config_behind(self, digest: str, arch: str) -> str | None:
        """As ``config_digest``, for the digest of an index or a manifest that ``target_digest`` returns."""
        document = self._content(digest)
        if "manifests" in document:
            inner = platform_manifest(document, OCI_ARCH.get(arch, arch))
            document = self._content(inner) if inner else {}
        return digest_of(document.get("config"))

    def _content(self, digest: str) -> dict[str, Any]:
        try:
            document = jsondoc.parse(self.runner.run([*self.ctr, "content", "get", digest], timeout_s=_ASK_S).stdout)
        except (CommandError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def names(self) -> tuple[str, ...]:
        """The names of all images. Raises CommandError."""
        return tuple(self.runner.run([*self.ctr, "images", "ls", "-q"], timeout_s=_ASK_S).stdout.split())

    def pull(self, reference: str, source: ImageSource, timeout_s: float, on_line: LineSink = None) -> None:
        """Pulls once, with no password on a command line. Raises CommandError, and InputError if the ``source`` is invalid."""
        argv = [*self.ctr, "images", "pull", *self._local_flag("pull")]
        if source.hosts_dir and Path(source.hosts_dir).is_dir():
            argv += ["--hosts-dir", source.hosts_dir]
        if source.plain_http:
            argv.append("--plain-http")
        if source.username:
            argv += ["--user", source.username]
        with source.trust() as env:
            self.runner.run([*argv, reference], timeout_s=timeout_s, env=env, on_line=on_line, typed=source.password or None)

    def import_archive(self, path: str, before: Mapping[str, str], names: Collection[str], timeout_s: float) -> str:
        """Imports an archive of one image, which gives it ``names``; ``before`` are the ``targets`` until now. Returns a temporary name of
        the image; the caller removes all ``names_of_import``.

        Raises CommandError; a failed import leaves no image behind.
        """
        self.discard([name for name in before if name.startswith(_IMPORTED)])  # of an import that was killed
        argv = [*self.ctr, "images", "import", *self._local_flag("import"), "--digests", "--base-name", _IMPORTED, path]
        try:
            self.runner.run(argv, timeout_s=timeout_s)
            found = [name for name in self.names() if name.startswith(f"{_IMPORTED}@")]
            if len(found) != 1:
                raise CommandError(argv, 0, "", f"it succeeded, but imported {len(found)} images instead of one")
        except BaseException:
            self.discard(self.names_of_import(before, names))
            raise
        return found[0]

    def names_of_import(self, before: Mapping[str, str], names: Collection[str]) -> list[str]:
        """The temporary names of an import, and those that it has added. Another program may pull other images at the same time."""
        now = self.targets()
        imported = {target for name, target in now.items() if name.startswith(_IMPORTED)}
        added = [name for name, target in now.items() if name not in before and (target in imported or name in names)]
        return [*added, *(name for name in now if name.startswith(_IMPORTED) and name not in added)]

    def _local_flag(self, command: str) -> list[str]:
        """``--local`` if ctr has it: since containerd 2.0 ctr otherwise leaves the work to the daemon, which lacks our environment."""
        shown = self.runner.run([*self.ctr, "images", command, "--help"], ok=None, timeout_s=_ASK_S).stdout
        return ["--local"] if re.search(r"^[ \t]+--local\b", shown, re.MULTILINE) else []

    def discard(self, names: Sequence[str]) -> None:
        """Removes names of images; some may already be gone. Raises CommandError only if ``ctr`` does not end."""
        if names:
            self.runner.run([*self.ctr, "images", "rm", "--sync", *names], ok=None, timeout_s=_REMOVE_S)

    def tag(self, source: str, target: str) -> None:
        """Gives an image a second name, even if another image has it. Raises CommandError."""
        self.runner.run([*self.ctr, "images", "tag", "--force", source, target], timeout_s=_ASK_S)

    def pin(self, reference: str) -> None:
        """Labels an image so that kubelet's garbage collection keeps it (from containerd 1.6.25 on). Raises CommandError."""
        self.runner.run([*self.ctr, "images", "label", reference, "io.cri-containerd.pinned=pinned"], timeout_s=_ASK_S)

    def unpin(self, reference: str) -> None:
        """Removes the label that ``pin`` sets. Raises CommandError."""
        self.runner.run([*self.ctr, "images", "label", reference, "io.cri-containerd.pinned="], timeout_s=_ASK_S)

    def is_pinned(self, reference: str) -> bool:
        """Whether an image has the label that ``pin`` sets. Raises CommandError."""
        shown = self.runner.run([*self.ctr, "images", "ls", f"name=={reference}"], timeout_s=_ASK_S).stdout
        line = next((line for line in lines(shown) if line.split()[:1] == [reference]), "")
        return "io.cri-containerd.pinned=pinned" in line

    def pinned(self) -> set[str]:
        """The names of all images that have this label. Raises CommandError."""
        shown = self.runner.run([*self.ctr, "images", "ls"], timeout_s=_ASK_S).stdout
        return {line.split()[0] for line in shown.splitlines() if "io.cri-containerd.pinned=pinned" in line}

    def honours_pins(self) -> bool:
        """Whether this containerd keeps pinned images: from 1.6.25 on. Raises CommandError."""
        shown = self.runner.run(["containerd", "--version"], timeout_s=_ASK_S).stdout
        match = re.search(r"\bv?(\d{1,9})\.(\d{1,9})\.(\d{1,9})", shown)
        return match is not None and tuple(map(int, match.groups())) >= (1, 6, 25)

    def read_file(self, reference: str, container: str, path: str) -> str:
        """A text file of an image, printed by a plain container. Raises CommandError."""
        argv = [*self.ctr, "run", "--rm", reference, container, "cat", path]
        return self.runner.run(argv, timeout_s=_RUN_S).stdout

    def containers(self) -> tuple[str, ...]:
        """Ids of all containers. Raises CommandError."""
        return tuple(self.runner.run([*self.ctr, "containers", "ls", "-q"], timeout_s=_ASK_S).stdout.split())

    def running(self) -> tuple[str, ...]:
        """Ids of the containers that have a task. Raises CommandError."""
        return tuple(self.runner.run([*self.ctr, "tasks", "ls", "-q"], timeout_s=_ASK_S).stdout.split())

    def kill(self, container: str) -> None:
        """Ends a container in whatever state it is: kills its processes, and removes its task, container and snapshot."""
        for words in (
            ["tasks", "kill", "-a", "-s", "SIGKILL", container],
            ["tasks", "rm", "-f", container],
            ["containers", "rm", container],
            ["snapshots", "rm", container],
        ):
            try:
                self.runner.run([*self.ctr, *words], ok=None, timeout_s=_ASK_S)
            except CommandError:
                continue  # the next step may still succeed, and the caller checks the result

    def config_in_force(self) -> str:
        """The fingerprint of ``containerd config dump``: the configuration that a start would use, imports merged.

        Raises ImageError with the code ``containerd_config`` if there is none, because the files are invalid: containerd would not start.
        Raises CommandError if that is unknown.
        """
        try:
            return containerd_config.fingerprint(self.runner.run(["containerd", "config", "dump"], timeout_s=_ASK_S).stdout)
        except CommandError as error:
            if not error.rc or error.rc < 0:  # it is missing, took too long or was killed
                raise
            raise ImageError(
                f"containerd cannot use its configuration and would not start again: {last_line(error)}. Correct "
                f"/{containerd_config.MAIN} and the files that it imports until containerd config dump succeeds",
                code="containerd_config",
            ) from error

    def restart(self, deadline: Deadline) -> None:
        """Restarts containerd and waits until it answers. Raises CommandError, DeadlineError, ImageError."""
        self.runner.run(["systemctl", "restart", "containerd"], timeout_s=deadline.cut_s(120.0, "restarting containerd"))
        self.wait_ready(deadline)

    def wait_ready(self, deadline: Deadline) -> None:
        """Waits until containerd answers. Raises ImageError at the deadline."""
        while not self.is_ready():
            if not deadline.pause(0.5):
                raise ImageError("containerd does not answer: see systemctl status containerd", code="containerd_unavailable")


def platform_manifest(index: dict[str, Any], architecture: str) -> str | None:
    """The digest of the manifest for linux on ``architecture`` in an OCI index; None if there is none."""
    entries = index.get("manifests")
    for entry in entries if isinstance(entries, list) else ():
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return digest_of(entry)
    return None


def digest_of(descriptor: Any) -> str | None:
    """The digest in a descriptor, as OCI documents have them; None if it has none."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


def last_line(error: CommandError) -> str:
    """What a program said last, for a message."""
    return cut(error.output.rstrip().rpartition("\n")[2].strip() or str(error))
