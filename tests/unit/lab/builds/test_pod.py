"""lab/builds/pod.py: the bytes of its messages, and what it reads from a container's log."""

from __future__ import annotations

import grpc

from lab.builds import pod


def test_messages_have_the_field_numbers_of_the_interface() -> None:
    with grpc.insecure_channel("unix:///nowhere") as channel:
        types = pod.Cri(channel).types
    network = types.NamespaceOption(network=types.NODE)
    linux = types.LinuxPodSandboxConfig(security_context=types.LinuxSandboxSecurityContext(namespace_options=network))
    config = types.PodSandboxConfig(log_directory="/l", linux=linux)
    request = types.RunPodSandboxRequest(config=config, runtime_handler="nvidia")
    # config(1){log_directory(3) "/l", linux(8){security_context(2){namespace_options(1){network(1) 2}}}}, runtime_handler(2)
    assert request.SerializeToString() == b"\x0a\x0c\x1a\x02/l\x42\x06\x12\x04\x0a\x02\x08\x02\x12\x06nvidia"


def test_reads_only_full_lines_of_a_containers_output() -> None:
    log = "2026-11-25T03:00:00.1+00:00 stdout F hello\n2026-11-25T03:00:00.2+00:00 stderr F oops\n2026-11-25T03:00:00.3+00:00 stdout P cut"
    assert pod.printed(log) == ["hello"]
