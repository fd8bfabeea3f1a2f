"""The options of a bake, and checks of the machine."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import request
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import GpuNodeError, InputError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import host

from tests.kit.node import FakeNode
from tests.kit.values import IMAGE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"mode": "sealed"}, "nvidia_prebake_mode: 'sealed' is not one of captured, in_place", id="mode"),
        pytest.param({"flavour": "closed"}, "nvidia_prebake_flavour: 'closed'", id="flavour"),
        pytest.param({"marker_path": "opt/marker"}, "nvidia_prebake_marker_path", id="relative path"),
        pytest.param({"release_notes": "/etc/../x"}, "nvidia_prebake_release_notes", id="path up"),
        pytest.param({"tries": -1}, "nvidia_prebake_tries: -1 is less than 1", id="no tries"),
        pytest.param({"version": 580.12}, "put it in quotes", id="version without quotes"),
        pytest.param({"image": "latest"}, "not a full image reference", id="image"),
        pytest.param({"image": None}, "a reference such as", id="no image"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        request.request_from({"image": IMAGE, **options})


def test_what_is_left_out_has_its_default_and_zero_stays_zero() -> None:
    assert request.request_from({"image": IMAGE}).mode == "captured"
    assert request.request_from({"image": IMAGE}) == request.BakeRequest(request.request_from({"image": IMAGE}).wanted)
    found = request.request_from({"image": IMAGE, "delay_s": 0, "min_free_mb": 0, "tries": None})
    assert (found.delay_s, found.min_free_mb, found.tries) == (0, 0, 3)


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", "x86_64"), ("amd64", "x86_64"), ("arm64", "aarch64"), ("AARCH64", "aarch64"), ("riscv64", None), ("", None)],
)
def test_architectures_have_one_name(machine: str, arch: str | None) -> None:
    assert host.normal_arch(machine) == arch


@pytest.mark.parametrize(
    ("release", "supported"),
    [
        pytest.param("ID=debian\n", True, id="Debian"),
        pytest.param("ID=ubuntu\nID_LIKE=debian\n", True, id="Ubuntu"),
        pytest.param('ID="rhel"\nID_LIKE="fedora"\n', False, id="rpm"),
        pytest.param("", False, id="unknown"),
    ],
)
def test_other_distributions_are_refused_by_name(node: FakeNode, release: str, supported: bool) -> None:
    node.put("etc/os-release", release)
    if supported:
        assert host.require_supported(node.root, "x86_64") == "x86_64"
    else:
        with pytest.raises(GpuNodeError) as caught:
            host.require_supported(node.root, "x86_64")
        assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("path", "text", "enforced"),
    [
        ("sys/module/module/parameters/sig_enforce", "Y\n", True),
        ("sys/module/module/parameters/sig_enforce", "N\n", False),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n", True),
        ("sys/kernel/security/lockdown", "[none] integrity confidentiality\n", False),
    ],
)
def test_sees_whether_signatures_are_enforced(node: FakeNode, path: str, text: str, enforced: bool) -> None:
    node.put(path, text)
    assert host.signatures_enforced(node.root) is enforced


def test_secure_boot_is_unknown_without_uefi(node: FakeNode) -> None:
    assert host.secure_boot(node.root) is None
    file = node.put(host._SECURE_BOOT)
    file.write_bytes(b"\x06\0\0\0\x01")
    assert host.secure_boot(node.root) is True
    file.write_bytes(b"\x06\0\0\0\0")
    assert host.secure_boot(node.root) is False
