"""The lab's registry for driver images: Debian's docker-registry on the bridge's address, storage in the cache.

Protocol: OCI distribution specification, over plain HTTP.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from lab.machine import host, paths
from lab.machine.errors import LabError
from lab.machine.progress import step
from lab.nodes import record
from lab.nodes.base import REGISTRY_ADDRESS, REGISTRY_NAME, REGISTRY_PORT

ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
START_TIMEOUT_S = 15.0

# Format: docker-registry's (distribution 2.8) configuration.
CONFIG = """\
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {storage}
  delete:
    enabled: true
http:
  addr: {address}:{port}
"""


@dataclass(frozen=True)
class Pushed:
    """An image in the registry: the reference by which nodes pull it, and the digest of its manifest."""

    reference: str
    digest: str


def storage() -> Path:
    """The folder of the images, which is kept from session to session."""
    return paths.cache() / "registry"


def ensure() -> None:
    """Start the registry unless it is running; it runs until the session ends."""
    if answers():
        return
    with record.lock() as folder:
        if answers():
            return
        config = folder / "registry.yml"
        config.write_text(CONFIG.format(storage=storage(), address=REGISTRY_ADDRESS, port=REGISTRY_PORT))
        storage().mkdir(parents=True, exist_ok=True)
        log = paths.logs(record.session()) / "registry.log"
        pid = host.spawn(["docker-registry", "serve", str(config)], log)
    end = time.monotonic() + START_TIMEOUT_S
    while not answers():
        if not host.is_alive(pid) or time.monotonic() > end:
            raise LabError(f"the registry did not start; the end of {log}:\n{host.read_tail(log)}")
        time.sleep(0.05)


def answers() -> bool:
    """Whether the registry answers."""
    try:
        return _head("/v2/")[0] == 200
    except OSError:
        return False


def digest_of(ref: str) -> str | None:
    """Digest of the manifest that `REPOSITORY:TAG` names in the registry; None if there is none."""
    repository, tag = split(ref)
    status, digest = _head(f"/v2/{repository}/manifests/{tag}")
    return digest if status == 200 else None


def push(layout: Path, ref: str) -> Pushed:
    """Copy the one image of an OCI layout to `REPOSITORY:TAG`, unless the registry has it with this digest already."""
    ensure()
    repository, tag = split(ref)
    digest = layout_digest(layout)
    if digest_of(ref) != digest:
        with step(f"registry: push {ref}"):
            argv = ["skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
            there = f"docker://{REGISTRY_ADDRESS}:{REGISTRY_PORT}/{repository}:{tag}"
            host.run([*argv, f"oci:{layout}", there], timeout_s=600)
        if digest_of(ref) != digest:
            raise LabError(f"registry: {ref} has digest {digest_of(ref)} after the push, expected {digest}")
    return Pushed(f"{REGISTRY_NAME}/{repository}:{tag}", digest)


def layout_digest(layout: Path) -> str:
    """Digest of the one manifest in an OCI layout (image-layout specification, index.json)."""
    try:
        manifests = json.loads((layout / "index.json").read_text())["manifests"]
    except (OSError, ValueError, KeyError) as error:
        raise LabError(f"{layout} is not an OCI layout: {error}") from error
    if len(manifests) != 1:
        raise LabError(f"{layout} contains {len(manifests)} images: give a layout with exactly one")
    return str(manifests[0]["digest"])


def split(ref: str) -> tuple[str, str]:
    """Repository and tag of `REPOSITORY:TAG`; the registry's name in front is removed."""
    match = re.fullmatch(r"([a-z0-9]+(?:[._/-][a-z0-9]+)*):([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})", ref.removeprefix(f"{REGISTRY_NAME}/"))
    if not match:
        raise LabError(f"image reference {ref!r}: expected REPOSITORY:TAG")
    return match[1], match[2]


def _head(path: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection(REGISTRY_ADDRESS, REGISTRY_PORT, timeout=10)
    try:
        connection.request("HEAD" if path != "/v2/" else "GET", path, headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Docker-Content-Digest")
    finally:
        connection.close()
