"""Signatures at the end of kernel modules, as the kernel finds them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature

from tests.kit.values import KVER

CODE = b"\x7fELF" + bytes(200)


def signed(data: bytes, message: bytes = b"a PKCS#7 message", kind: int = 2, length: int | None = None) -> bytes:
    info = struct.pack(">BBBBB3xI", 0, 0, kind, 0, 0, len(message) if length is None else length)
    return data + message + info + b"~Module signature appended~\n"


def test_the_last_signature_is_found_and_all_are_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "nvidia.ko"
    file.write_bytes(signed(signed(CODE, b"DKMS's own"), b"the second"))
    found = module_signature.read(file)
    assert found == module_signature.Signature(len(signed(CODE, b"DKMS's own")), b"the second")
    assert module_signature.strip(file) == 2
    assert file.read_bytes() == CODE
    assert (module_signature.read(file), module_signature.strip(file)) == (None, 0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"~Module signature appended~\n", id="nothing before the line"),
        pytest.param(signed(CODE, length=9999), id="longer than the file"),
        pytest.param(signed(CODE, length=0), id="no message"),
        pytest.param(signed(CODE, kind=1), id="not PKCS#7"),
    ],
)
def test_what_only_ends_like_a_signature_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "nvidia.ko"
    file.write_bytes(data)
    with pytest.raises(DataError, match="no valid signature") as caught:
        module_signature.strip(file)
    assert caught.value.code == "signing_failed"


@pytest.mark.parametrize("data", [b"", b"x", CODE])
def test_an_unsigned_module_stays_as_it_is(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "nvidia.ko"
    file.write_bytes(data)
    assert module_signature.strip(file) == 0
    assert file.read_bytes() == data


@pytest.mark.parametrize(
    ("path", "kver"),
    [
        (f"usr/lib/modules/{KVER}/updates/dkms/nvidia.ko", KVER),
        (f"lib/modules/{KVER}/extra/nvidia-uvm.ko.zst", KVER),
        (f"var/lib/dkms/nvidia/580.126.09/{KVER}/x86_64/module/nvidia.ko.xz", KVER),
        (f"var/lib/dkms/nvidia/580.126.09/{KVER}/x86_64/log/make.log", ""),
        (f"usr/lib/modules/{KVER}/modules.dep", ""),
        (f"usr/lib/modules/{KVER}/nvidia.ko.bak", ""),
        ("usr/src/nvidia-580.126.09/nvidia.ko", ""),
    ],
)
def test_a_modules_path_tells_its_kernel(path: str, kver: str) -> None:
    assert module_signature.kernel_of(path) == kver
