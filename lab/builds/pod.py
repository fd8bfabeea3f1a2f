"""Runs a pod on a node through CRI, as kubelet does: `python -m lab.builds.pod NODE --handler NAME` prints the result as JSON.

The pod is a sandbox and one container of a tiny image, on the node's own network, under the named runtime handler. The calls go to
containerd's socket through ssh, because nodes have no client for it. Protocol: CRI, runtime.v1, over gRPC (lab/builds/cri.proto).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from lab.driverimages import ocilayout, registry
from lab.machine import cache, host, paths, ssh
from lab.machine.errors import LabError
from lab.nodes import record

SOURCE = paths.TOP / "lab/builds/pause.c"
REFERENCE = "lab/pause:1"
SOCKET = "/run/containerd/containerd.sock"
LOGS = "/var/log/lab-pods"
CALL_S = 120.0
WAIT_S = 60.0


@dataclass(frozen=True)
class Pod:
    """The result of a pod: its ids, the handler that containerd reports for it, the container's exit status and what it printed."""

    sandbox: str
    container: str
    handler: str
    exit_code: int
    printed: list[str]


class Cri:
    """containerd's CRI services on a channel; each call is a method of the protocol, with its request's fields."""

    def __init__(self, channel: grpc.Channel) -> None:
        # Compiled from the .proto at run time, so that no generated code has to be kept.
        self.types: Any = grpc.protos("lab/builds/cri.proto")
        services: Any = grpc.services("lab/builds/cri.proto")
        self._stubs = (services.RuntimeServiceStub(channel), services.ImageServiceStub(channel))

    def call(self, method: str, **fields: Any) -> Any:
        """Calls `method`. Raises LabError with containerd's status and message."""
        stub = next(stub for stub in self._stubs if hasattr(stub, method))
        request = getattr(self.types, f"{method}Request")(**fields)
        try:
            return getattr(stub, method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise LabError(f"{method}: {error.code().name}: {error.details()}") from error


def main(words: Sequence[str]) -> int:
    """Runs one pod; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.builds.pod", description="Runs a pod on a node of the lab session, through CRI.")
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("--handler", default="", help="runtime handler; default: containerd's default runtime")
    options = parser.parse_args(words)
    try:
        target = record.load(options.node).target
        name = pull_image(target)
        with (
            forwarded(target, options.node) as socket,
            grpc.insecure_channel(f"unix://{socket}", options=[("grpc.default_authority", "localhost")]) as channel,
        ):
            print(json.dumps(asdict(run(Cri(channel), target, name, options.handler))))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def run(cri: Cri, target: ssh.Target, image: str, handler: str) -> Pod:
    """Runs a sandbox and a container of `image` until the container has ended, then removes both. Raises LabError."""
    types = cri.types
    uid = f"{time.time_ns():x}"
    network = types.NamespaceOption(network=types.NODE)
    config = types.PodSandboxConfig(
        metadata=types.PodSandboxMetadata(name="lab", uid=uid, namespace="default"),
        log_directory=LOGS,
        linux=types.LinuxPodSandboxConfig(security_context=types.LinuxSandboxSecurityContext(namespace_options=network)),
    )
    wait("the image is known to CRI", lambda: cri.call("ImageStatus", image=types.ImageSpec(image=image)).HasField("image"))
    sandbox = cri.call("RunPodSandbox", config=config, runtime_handler=handler).pod_sandbox_id
    try:
        wanted = types.ContainerConfig(
            metadata=types.ContainerMetadata(name="hello"),
            image=types.ImageSpec(image=image),
            command=["/pause", "hello from a pod"],
            log_path=f"{uid}.log",
        )
        container = cri.call("CreateContainer", pod_sandbox_id=sandbox, config=wanted, sandbox_config=config).container_id
        cri.call("StartContainer", container_id=container)
        wait("the container has ended", lambda: _status(cri, container).state == types.CONTAINER_EXITED)
        return Pod(
            sandbox=sandbox,
            container=container,
            handler=cri.call("PodSandboxStatus", pod_sandbox_id=sandbox).status.runtime_handler,
            exit_code=_status(cri, container).exit_code,
            printed=printed(ssh.run(target, f"cat {LOGS}/{uid}.log").stdout),
        )
    finally:
        cri.call("StopPodSandbox", pod_sandbox_id=sandbox)
        cri.call("RemovePodSandbox", pod_sandbox_id=sandbox)


def _status(cri: Cri, container: str) -> Any:
    return cri.call("ContainerStatus", container_id=container).status


def printed(log: str) -> list[str]:
    """The lines in a container's log; format of CRI's logs: time, stream, tag (F: full line), text."""
    return re.findall(r"^\S+ stdout F (.*)$", log, re.MULTILINE)


def wait(what: str, holds: Any, timeout_s: float = WAIT_S) -> None:
    """Waits until `holds()` is true; raises LabError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise LabError(f"timed out after {timeout_s:.0f} s, waiting until {what}")
        time.sleep(0.3)


def pull_image(target: ssh.Target) -> str:
    """Pulls the pod image on to the node and tags it with the name of containerd's sandbox image; returns that name."""
    pushed = registry.push(cache.entry("pause", [SOURCE.read_text(), Path(__file__).read_text()], build) / "layout", REFERENCE)
    dumped = ssh.run(target, "containerd config dump").stdout
    found = re.search(r'^\s*sandbox_image = "(.+)"$', dumped, re.MULTILINE)
    if not found:
        raise LabError("containerd's configuration has no sandbox_image: check that its CRI plugin is enabled")
    ctr = "ctr -n k8s.io images"
    ssh.run(target, f"{ctr} pull --hosts-dir /etc/containerd/certs.d {pushed.reference} && {ctr} tag --force {pushed.reference} {found[1]}")
    return found[1]


def build(out: Path) -> None:
    """Write the OCI layout of the pod image: one static program."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        program = Path(scratch) / "pause"
        host.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", str(program), str(SOURCE)], timeout_s=120)
        layer = out / "layer"
        layer.mkdir()
        ocilayout.write_layer(Path(scratch), layer)
    ocilayout.write_layout(out / "layout", "1", [layer], {"org.opencontainers.image.title": "pod of gpu-prebake's lab"}, ["/pause"])


@contextmanager
def forwarded(target: ssh.Target, name: str) -> Iterator[Path]:
    """Forwards the socket of the node's containerd to a socket on this machine, and yields its path."""
    local = paths.MACHINE / f"cri-{name}.sock"  # short: a socket's path has at most 107 characters
    local.unlink(missing_ok=True)
    argv = ssh.argv(target)
    argv[1:1] = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{local}:{SOCKET}"]
    log = paths.logs(record.session()) / f"{name}.cri-ssh"
    pid = host.spawn(argv, log)
    try:
        wait("ssh forwards containerd's socket", lambda: local.exists() or not host.is_alive(pid))
        if not local.exists():
            raise LabError(f"ssh does not forward {SOCKET} of {name}; the end of {log}:\n{host.read_tail(log)}")
        yield local
    finally:
        host.end(pid)
        local.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
