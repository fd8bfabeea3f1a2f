"""Captured bakes that sign, on native nodes with two kernels: with a key from the controller, and with one in a token of the node."""

from __future__ import annotations

import lzma
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, key
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature

from lab.nodes.native import NativeNode
from tests.kit.signer import Pair, make_pair
from tests.lab.bakery import Bakery

TOKEN = "pkcs11:token=fleet;object=modules"
PIN = "48151623"
# softhsm2 keeps its tokens in files; OpenSSL of Debian 12 uses a token through the engine.
INSTALL = (
    "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install softhsm2 libengine-pkcs11-openssl"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("keys"), "Fleet modules")


@pytest.fixture(scope="module")
def with_token(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    """A node with the pair's key in a token."""
    node = NativeNode.create(f"signing-{os.getpid()}")
    try:
        node.ssh(INSTALL)
        (node.root / "run.key").write_bytes(pair.key.read_bytes())
        node.ssh(f"softhsm2-util --init-token --free --label fleet --pin {PIN} --so-pin 1234")
        node.ssh(f"softhsm2-util --import /run.key --token fleet --label modules --id a1 --pin {PIN}; rm /run.key")
        yield Bakery(node, tmp_path_factory.mktemp("signing"))
    finally:
        node.destroy()


def options(pair: Pair) -> dict[str, str]:
    return {"nvidia_prebake_signing_key": str(pair.key), "nvidia_prebake_signing_certificate": str(pair.certificate)}


def assert_signed(bakery: Bakery, layer: Manifest, pair: Pair, scratch: Path) -> None:
    """Checks, with openssl alone, that each module of the layer is signed by the certificate's key, and its second copy the same."""
    entries = {e.path: e for e in layer.files}
    modules = [e for e in layer.files if module_signature.kernel_of(e.path)]
    assert len(modules) == 4, "two, each in two places"
    for entry in modules:
        data = Store(bakery.root).path(key(entry)).read_bytes()
        plain = scratch / "plain"
        plain.write_bytes(lzma.decompress(data) if entry.path.endswith(".xz") else data)
        found = module_signature.read(plain)
        assert found, entry.path
        (scratch / "message").write_bytes(found.message)
        plain.write_bytes(plain.read_bytes()[: found.signed_size])
        assert module_signature.read(plain) is None
        cms = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(scratch / "message"), "-content", str(plain)]
        subprocess.run([*cms, "-certfile", str(pair.certificate), "-nointern", "-noverify", "-out", "/dev/null"], check=True)
        tree = f"var/lib/dkms/nvidia/{layer.identity.version}/{layer.identity.kver}/x86_64/module/{Path(entry.path).name}"
        assert entry.sha256 == entries[tree].sha256
    assert layer.signer
    assert layer.signer.name == "Fleet modules"
    assert {fact.signer for fact in layer.module_facts} == {"Fleet modules"}, "as modinfo shows"


def found_in_files(bakery: Bakery, secret: str) -> list[str]:
    """Files of the node, including those in memory, that contain a secret."""
    places = "/etc /opt /root /run /srv /tmp /usr/local /var/lib/gpu-prebake /var/log /var/tmp"
    return sorted(bakery.ssh(f"grep -rlF -e '{secret}' {places} 2>/dev/null || true").splitlines())


def a_line_of(pair: Pair) -> str:
    return pair.key.read_text().splitlines()[5]


def test_a_key_from_the_controller_signs_for_every_kernel_and_is_deleted(pristine: Bakery, pair: Pair, tmp_path: Path) -> None:
    ran = pristine.capture(nvidia_prebake_kernels="all", **options(pair))
    assert ran.rc == 0, ran.out
    layers = pristine.layers()
    assert len(layers) == 2
    assert {e.path.rpartition(".")[2] for layer in layers for e in layer.modules} == {"ko", "xz"}, "later kernels have compressed modules"
    for layer in layers:
        assert_signed(pristine, layer, pair, tmp_path)
    assert found_in_files(pristine, a_line_of(pair)) == []
    assert "signing" not in pristine.ssh("ls -A /run/gpu-prebake")
    assert a_line_of(pair) not in ran.out
    assert pristine.report()["layers"][0]["signer"]["name"] == "Fleet modules"

    again = pristine.capture(nvidia_prebake_kernels="all", **options(pair))
    assert again.rc == 0
    assert "changed=0" in again.out

    renewed = make_pair(tmp_path, "Renewed")
    other = pristine.capture(**options(renewed))
    assert other.rc == 0, other.out
    (layer,) = pristine.layers()
    assert layer.signer
    assert layer.signer.name == "Renewed"
    _, sealed = pristine.seal()
    assert not [one for one in sealed["refusals"] if one["check"] == "asked"]
    refused, sealed = pristine.seal(**options(pair))
    assert refused.rc != 0
    (problem,) = [one["problem"] for one in sealed["refusals"] if one["check"] == "asked"]
    assert "its modules are signed by Renewed" in problem


def test_during_the_build_the_key_is_in_memory_only_and_the_next_bake_deletes_that_of_a_killed_one(pristine: Bakery, pair: Pair) -> None:
    process = pristine.start("standin-build-hangs", nvidia_prebake_tries=1, nvidia_prebake_mode="captured", **options(pair))
    end = time.monotonic() + 180
    while "make" not in pristine.processes():
        assert time.monotonic() < end
        time.sleep(0.3)
    (path,) = found_in_files(pristine, a_line_of(pair))
    assert path.startswith("/run/gpu-prebake/signing/")
    assert path.endswith("/key")
    assert pristine.ssh(f"stat -c %a:%U {path} $(dirname {path}); stat -f -c %T {path}").split() == ["600:root", "700:root", "tmpfs"]
    upper = pristine.ssh(f"grep -rlF -e '{a_line_of(pair)}' /var/lib/gpu-prebake/captures/*/upper || true")
    assert upper == "", "the key must not be in the sandbox"
    assert a_line_of(pair) not in pristine.ssh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    pristine.ssh("kill -9 $(sed 's/.*process //; s/).*//' /run/gpu-prebake/lock)")
    process.kill()
    process.wait()
    ran = pristine.capture()
    assert ran.rc == 0, ran.out
    assert found_in_files(pristine, a_line_of(pair)) == []
    (layer,) = pristine.layers()
    assert layer.signer is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(
            {"nvidia_prebake_signing_certificate": ""}, "nvidia_prebake_signing_certificate is not: set both", id="no certificate"
        ),
        pytest.param({"nvidia_prebake_signing_key": "/nowhere.pem"}, "key or its certificate cannot be read", id="no file"),
    ],
)
def test_a_key_that_cannot_sign_is_refused_before_the_build(pristine: Bakery, pair: Pair, more: dict[str, str], said: str) -> None:
    ran = pristine.capture(**{**options(pair), **more})
    assert ran.rc != 0
    assert said in ran.message, ran.out
    assert "building for kernel" not in ran.out


def test_a_key_in_a_token_signs_for_every_kernel_and_its_pin_is_in_no_file(with_token: Bakery, pair: Pair, tmp_path: Path) -> None:
    given = {**options(pair), "nvidia_prebake_signing_key": TOKEN, "nvidia_prebake_kernels": "all"}
    wrong = with_token.capture(**given, nvidia_prebake_signing_pin="11111111")
    assert wrong.rc != 0
    assert "does not accept the PIN" in wrong.message, wrong.out
    nowhere = with_token.capture(**{**given, "nvidia_prebake_signing_key": "pkcs11:token=none;object=modules"})
    assert "no token of that name is on this machine" in nowhere.message, nowhere.out
    stranger = make_pair(tmp_path, "Stranger")
    not_its = with_token.capture(
        **{**given, "nvidia_prebake_signing_certificate": str(stranger.certificate)}, nvidia_prebake_signing_pin=PIN
    )
    assert "does not belong to the certificate" in not_its.message, not_its.out
    assert "building for kernel" not in wrong.out + nowhere.out + not_its.out

    ran = with_token.capture(**given, nvidia_prebake_signing_pin=PIN)
    assert ran.rc == 0, ran.out
    layers = with_token.layers()
    assert len(layers) == 2
    for layer in layers:
        assert_signed(with_token, layer, pair, tmp_path)
    assert PIN not in ran.out
    assert found_in_files(with_token, PIN) == []
    again = with_token.capture(**given, nvidia_prebake_signing_pin=PIN)
    assert "changed=0" in again.out
