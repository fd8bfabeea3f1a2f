"""Signing with a key from outside: real keys and signatures on a fake node with a stand-in for sign-file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import flow as bake_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake import preflight, signing, signing_key
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.bake.report import release_note
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BuildError, CommandError, GpuNodeError, InputError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal import flow as seal_flow
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.report import Report
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.seal.request import SealRequest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store import layers
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.manifest import Manifest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.store.objects import Store, key, objects_of
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import certificate, module_signature

from tests.kit.bake import builds_newest, request
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.signer import SIGN_FILE, Pair, SigningNode, make_pair, openssl
from tests.kit.values import IMAGE, KVER, NEWER, VERSION

pytestmark = pytest.mark.subprocess

MODULES = f"usr/lib/modules/{KVER}/updates/dkms"
TREE = f"var/lib/dkms/nvidia/{VERSION}/{KVER}/x86_64/module"
CODE = f"version:        {VERSION}\nlicense:        Dual MIT/GPL\nvermagic:       {KVER} SMP preempt mod_unload modversions \n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def pair(keys: Path) -> Pair:
    return make_pair(keys, "Fleet modules")


@pytest.fixture(scope="module")
def other(keys: Path) -> Pair:
    return make_pair(keys, "Another fleet")


@pytest.fixture
def node(node: FakeNode, tmp_path: Path) -> Iterator[SigningNode]:
    made = SigningNode(tmp_path / "signing")
    made.scripts = [builds_newest()]
    yield made
    assert made.secrets() == [], "nothing of a key stays"


def run(node: SigningNode, mode: str = "captured", **options: Any) -> Manifest:
    (layer,) = bake_flow.bake(node, request(mode=mode, **options), root=node.root).layers
    return layer


def refused(node: SigningNode, error: type[GpuNodeError] = GpuNodeError, **options: Any) -> GpuNodeError:
    """The error of a bake that is refused before it builds."""
    with pytest.raises(error) as caught:
        bake_flow.bake(node, request(mode="captured", **options), root=node.root)
    assert node.driver_runs == []
    return caught.value


def contents(node: SigningNode, layer: Manifest, path: str) -> Path:
    """Where a file of a layer is: in its place if the layer is active, else in the store."""
    entry = next(e for e in layer.files if e.path == path)
    return node.root / path if (node.root / path).exists() else Store(node.root).path(key(entry))


def verifies(file: Path, pair: Pair, scratch: Path) -> bool:
    """Whether the certificate verifies the signature at a module's end, checked by openssl, not by the library."""
    found = module_signature.read(file)
    assert found
    (scratch / "data").write_bytes(file.read_bytes()[: found.signed_size])
    (scratch / "message").write_bytes(found.message)
    cms = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(scratch / "message"), "-content", str(scratch / "data")]
    trusted = ["-certfile", str(pair.certificate), "-nointern", "-noverify", "-out", "/dev/null"]
    return subprocess.run([*cms, *trusted], check=False, capture_output=True).returncode == 0


# --- what is signed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["captured", "in_place"])
def test_every_module_and_its_second_copy_carry_the_certificates_signature(
    node: SigningNode, pair: Pair, other: Pair, mode: str, tmp_path: Path
) -> None:
    layer = run(node, mode, **node.add_pair(pair))
    entries = {e.path: e for e in layer.files}
    for name in ("nvidia", "nvidia-uvm"):
        file = contents(node, layer, f"{MODULES}/{name}.ko")
        assert verifies(file, pair, tmp_path)
        assert not verifies(file, other, tmp_path)
        assert module_signature.read(file) == module_signature.Signature(
            len(CODE), (module_signature.read(file) or module_signature.Signature(0, b"")).message
        )
        assert entries[f"{MODULES}/{name}.ko"].sha256 == entries[f"{TREE}/{name}.ko"].sha256
        assert entries[f"{MODULES}/{name}.ko"].mode == 0o644
    assert layer.signer == certificate.read(node, pair.certificate).signer
    assert layer.signer.name == "Fleet modules"
    assert {fact.signer for fact in layer.module_facts} == {"somebody"}
    assert layers.read_all(node.root) == ((layer,), ())
    assert Store(node.root).problems(objects_of(layer)) == ()
    assert "signed by Fleet modules" in release_note(layer, request(mode=mode))
    assert not [path for path in entries if "gpu-prebake" in path]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_modules_are_signed_inside(node: SigningNode, pair: Pair, suffix: str, tmp_path: Path) -> None:
    packer = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}[suffix]
    signer = signer_of(node, pair)
    for folder in (MODULES, TREE):
        file = node.put(f"{folder}/nvidia.ko", CODE)
        subprocess.run([packer, "-q", str(file)], check=True)
        file.unlink(missing_ok=True)  # zstd keeps the uncompressed file
    paths = [f"{folder}/nvidia.ko{suffix}" for folder in (MODULES, TREE)]
    signer.sign(node.root, KVER, paths)
    plain = tmp_path / "plain"
    for path in paths:
        plain.write_bytes(subprocess.run([packer, "-dc", str(node.root / path)], check=True, capture_output=True).stdout)
        assert verifies(plain, pair, tmp_path)
    one, two = ((node.root / path).read_bytes() for path in paths)
    assert one == two
    if suffix == ".xz":
        assert one[7] == 1, "CRC32, which is all that the kernel's own decompressor knows"
    assert sorted(p.name for p in (node.root / MODULES).iterdir()) == [f"nvidia.ko{suffix}"]
    signing_key.remove_sent(node.root, None)
    bake_ends(node)


def signer_of(node: SigningNode, pair: Pair, **options: Any) -> signing.ModuleSigner:
    wanted = signing_key.request_from({**node.add_pair(pair), **options}, node.root)
    assert wanted
    found, _said = signing_key.check(node.root, node, wanted)
    return signing.ModuleSigner(node.root, node, wanted, found)


def bake_ends(node: SigningNode) -> None:
    with signing_key.secrets_removed(node.root, None):
        pass


def test_a_signature_of_dkms_own_is_replaced_and_no_key_of_its_stays(node: SigningNode, pair: Pair, other: Pair, tmp_path: Path) -> None:
    def signs(node: FakeNode, action: str) -> Reply:
        reply = builds_newest()(node, action)
        for folder in (MODULES, TREE):
            for name in ("nvidia", "nvidia-uvm"):
                file = node.root / f"{folder}/{name}.ko"
                words = ("sha256", str(other.key), str(other.certificate), str(file), f"{file}.signed")
                subprocess.run([str(node.root / f"lib/modules/{KVER}/build/scripts/sign-file"), *words], check=True)
                Path(f"{file}.signed").replace(file)
        for path in ("var/lib/dkms/mok.key", "var/lib/dkms/mok.pub", "etc/own/mok.key"):
            node.put(path, "of DKMS's making")
        return reply

    node.scripts = [signs]
    node.put("etc/dkms/framework.conf", 'mok_signing_key="/etc/own/mok.key"\n')
    layer = run(node, "in_place", **node.add_pair(pair))
    file = node.root / f"{MODULES}/nvidia.ko"
    assert verifies(file, pair, tmp_path)
    assert (module_signature.read(file) or module_signature.Signature(0, b"")).signed_size == len(CODE), "the older one is gone"
    assert not [p for p in (*(e.path for e in layer.files), *node.tree()) if "mok" in p]


def test_without_a_key_nothing_is_signed_and_no_tool_for_it_is_asked(node: SigningNode) -> None:
    node.missing_programs.add("openssl")
    layer = run(node)
    assert layer.signer is None
    assert module_signature.read(contents(node, layer, f"{MODULES}/nvidia.ko")) is None


def test_a_module_that_is_for_another_kernel_is_not_recorded_unsigned(node: SigningNode, pair: Pair) -> None:
    def strays(node: FakeNode, action: str) -> Reply:
        node.put(f"usr/lib/modules/{NEWER}/updates/dkms/nvidia.ko", "for another")
        return builds_newest()(node, action)

    node.scripts = [strays]
    with pytest.raises(BuildError, match=f"not signed: /usr/lib/modules/{re.escape(NEWER)}") as caught:
        run(node, **node.add_pair(pair))
    assert caught.value.code == "signing_failed"
    assert layers.read_all(node.root) == ((), ())


# --- the same again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["captured", "in_place"])
def test_the_same_certificate_is_the_same_input_and_another_one_is_not(node: SigningNode, pair: Pair, other: Pair, mode: str) -> None:
    options = node.add_pair(pair)
    first = run(node, mode, **options)
    assert not bake_flow.bake(node, request(mode=mode, **options), root=node.root).changed
    assert not bake_flow.would_change(node, request(mode=mode, **options), node.root)
    changed = node.add_pair(other)
    assert bake_flow.would_change(node, request(mode=mode, **changed), node.root)
    second = run(node, mode, **changed)
    assert second.signer
    assert first.signer
    assert (first.signer.name, second.signer.name) == ("Fleet modules", "Another fleet")
    assert run(node, mode).signer is None, "none is another input too"
    bake_ends(node)


# --- what is refused before anything is built --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"signing_key": "/keys/key"}, "signing_key is set and nvidia_prebake_signing_certificate is not", id="no certificate"),
        pytest.param({"signing_certificate": "/c"}, "signing_certificate is set and nvidia_prebake_signing_key is not", id="no key"),
        pytest.param({"signing_pin": "1"}, "without a key", id="a PIN without a key"),
        pytest.param({"signing_key": "key.pem", "signing_certificate": "/c"}, "not an absolute path", id="relative"),
        pytest.param({"signing_key": "/a/../b", "signing_certificate": "/c"}, "not an absolute path", id="leads out"),
        pytest.param({"signing_key": "pkcs11:object=m", "signing_certificate": "/c"}, "names no token", id="no token"),
        pytest.param({"signing_key": "pkcs11:token=t", "signing_certificate": "/c"}, "names no key in its token", id="no object"),
    ],
)
def test_options_that_contradict_each_other_are_bad_input(node: SigningNode, options: dict[str, str], said: str) -> None:
    error = refused(node, InputError, **options)
    assert said in str(error)


@pytest.mark.parametrize("where", [";pin-value=s3cret", "?pin-value=s3cret", "?module-name=x&pin-source=file:/s3cret"])
def test_a_pin_in_the_uri_is_refused_and_not_repeated(node: SigningNode, where: str) -> None:
    error = refused(node, InputError, signing_key=f"pkcs11:token=t;object=m{where}", signing_certificate="/c")
    assert "contains a PIN" in str(error)
    assert "s3cret" not in str(error)


def test_a_pair_that_does_not_belong_together_is_refused(node: SigningNode, pair: Pair, other: Pair) -> None:
    error = refused(node, **node.add_pair(Pair(pair.key, other.certificate)))
    assert (error.code, "does not belong to the certificate" in str(error)) == ("signing_key", True)


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        pytest.param("key", None, "signing_key", "cannot be read (No such file", id="no key file"),
        pytest.param("key", b"words", "signing_key", "neither as PEM nor as DER", id="key of words"),
        pytest.param("key", b"\x30\x82junk", "signing_key", "cannot read a private key", id="broken key"),
        pytest.param("certificate", None, "signing_certificate", "cannot be read (No such file", id="no certificate file"),
        pytest.param("certificate", b"words", "signing_certificate", "not an X.509 certificate in PEM or DER", id="certificate of words"),
        pytest.param("certificate", b"\x30\x82junk", "signing_certificate", "cannot read it as an X.509", id="broken certificate"),
    ],
)
def test_what_is_no_key_or_no_certificate_is_named(
    node: SigningNode, pair: Pair, name: str, text: bytes | None, code: str, said: str
) -> None:
    options = node.add_pair(pair)
    file = node.root / "keys" / name
    file.unlink()
    if text is not None:
        file.write_bytes(text)
    error = refused(node, **options)
    assert error.code == code
    assert said in str(error)


def test_several_certificates_in_one_file_are_refused(node: SigningNode, pair: Pair, other: Pair) -> None:
    options = node.add_pair(pair)
    file = node.root / "keys/certificate"
    file.write_bytes(pair.certificate.read_bytes() + other.certificate.read_bytes())
    assert "several certificates" in str(refused(node, **options))


def test_an_encrypted_key_needs_its_passphrase(node: SigningNode, pair: Pair, keys: Path, tmp_path: Path) -> None:
    locked = keys / "locked.pem"
    openssl("pkcs8", "-topk8", "-in", str(pair.key), "-passout", "pass:s3cret", "-out", str(locked))
    options = node.add_pair(Pair(locked, pair.certificate))
    assert "is encrypted: set nvidia_prebake_signing_pin" in str(refused(node, **options))
    error = refused(node, **options, signing_pin="wrong")
    assert "is nvidia_prebake_signing_pin its passphrase?" in str(error)
    layer = run(node, **options, signing_pin="s3cret")
    assert verifies(contents(node, layer, f"{MODULES}/nvidia.ko"), pair, tmp_path)
    assert not [argv for argv in node.calls if any("s3cret" in word for word in argv)], "on no command line"
    everything = b"".join(p.read_bytes() for p in node.root.rglob("*") if p.is_file() and not p.is_relative_to(node.root / "keys"))
    assert b"s3cret" not in everything, "and in no file"


def test_a_key_and_a_certificate_as_der_do_as_well(node: SigningNode, pair: Pair, keys: Path, tmp_path: Path) -> None:
    made = Pair(keys / "key.der", keys / "certificate.der")
    openssl("pkey", "-in", str(pair.key), "-outform", "DER", "-out", str(made.key))
    openssl("x509", "-in", str(pair.certificate), "-outform", "DER", "-out", str(made.certificate))
    layer = run(node, **node.add_pair(made))
    assert verifies(contents(node, layer, f"{MODULES}/nvidia.ko"), pair, tmp_path)
    assert layer.signer == certificate.read(node, pair.certificate).signer


def test_an_expired_certificate_and_one_to_come_are_refused(node: SigningNode, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    options = node.add_pair(pair)
    valid = certificate.read(node, pair.certificate)
    for when, said in (
        (valid.not_after.replace(year=valid.not_after.year + 1), "it expired on"),
        (valid.not_before.replace(year=valid.not_before.year - 1), "it is not valid before"),
    ):

        class Clock(datetime):
            at = when

            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return cls.at

        monkeypatch.setattr(signing_key, "datetime", Clock)
        error = refused(node, **options)
        assert error.code == "signing_certificate"
        assert said in str(error)
        assert "clock says" in str(error)


def test_a_certificate_that_expires_soon_is_a_warning(node: SigningNode, keys: Path) -> None:
    options = node.add_pair(make_pair(keys, "Short", "-days", "5"))
    baked = bake_flow.bake(node, request(mode="captured", **options), root=node.root)
    assert "'Short' expires on" in baked.report["warnings"][0]


def test_a_kernel_without_sign_file_is_refused(node: SigningNode, pair: Pair) -> None:
    (node.root / f"usr/src/linux-headers-{KVER}/scripts/sign-file").unlink()
    error = refused(node, **node.add_pair(pair))
    assert (error.code, "sign-file" in str(error)) == ("tools_missing", True)


def test_a_sign_file_that_fails_is_found_by_a_trial(node: SigningNode, pair: Pair) -> None:
    node.add_sign_file(KVER, "#!/bin/sh\necho 'sign-file: something is wrong' >&2; exit 1\n")
    error = refused(node, **node.add_pair(pair))
    assert error.code == "signing_key"
    assert "trial signature" in str(error)
    assert "something is wrong" in str(error)


def test_a_sign_file_that_signs_something_else_is_found_by_verifying(node: SigningNode, pair: Pair) -> None:
    lies = '#!/bin/sh\nset -e\n{0}-true "$1" "$2" "$3" "$4" "$5"\nsed -i \'1s/^./X/\' "$5"\n'
    node.add_sign_file(KVER, lies.format(node.root / f"usr/src/linux-headers-{KVER}/scripts/sign-file"))
    true = node.root / f"usr/src/linux-headers-{KVER}/scripts/sign-file-true"
    true.write_text(SIGN_FILE)
    true.chmod(0o755)
    assert "does not match the certificate" in str(refused(node, **node.add_pair(pair)))


def test_without_openssl_it_is_a_missing_package_and_then_a_missing_tool(node: SigningNode, pair: Pair) -> None:
    node.missing_programs.add("openssl")
    options = node.add_pair(pair)
    found = preflight.check(node.root, node, Containerd(node), request(mode="captured", **options))
    assert (found.missing_packages, found.certificate) == (("openssl",), None)
    error = refused(node, **options)
    assert (error.code, "openssl is missing" in str(error)) == ("tools_missing", True)


def test_a_run_folder_on_disk_is_refused(node: SigningNode, pair: Pair) -> None:
    node.put("proc/self/mountinfo", node.mountinfo.replace("tmpfs", "ext4"))
    error = refused(node, **node.add_pair(pair))
    assert (error.code, "not in memory" in str(error)) == ("signing_key", True)


def test_ecdsa_only_where_the_kernel_verifies_it(node: SigningNode, keys: Path) -> None:
    curve = Pair(keys / "ec.pem", keys / "ec-certificate.pem")
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(curve.key))
    openssl("req", "-new", "-x509", "-key", str(curve.key), "-subj", "/CN=Curve", "-days", "99", "-out", str(curve.certificate))
    options = node.add_pair(curve)
    assert "does not verify ECDSA" in str(refused(node, **options))
    config = node.root / f"usr/src/linux-headers-{KVER}/.config"
    config.write_text(config.read_text() + "CONFIG_CRYPTO_ECDSA=m\n")
    layer = run(node, **options)
    entries = {e.path: e.sha256 for e in layer.files}
    assert entries[f"{MODULES}/nvidia.ko"] == entries[f"{TREE}/nvidia.ko"], "though each such signature is another"


# --- what is sent, and what a killed bake leaves -----------------------------------------------------------------------


def test_a_sent_key_goes_with_the_bake_and_so_does_what_an_earlier_one_left(node: SigningNode, pair: Pair) -> None:
    node.put(f"{signing_key.FOLDER}/0/key.pem", "of a killed bake")
    options = node.add_pair(pair, f"{signing_key.FOLDER}/abc")
    node.put(f"{signing_key.FOLDER}/abc/pin", "s3cret\n")
    assert run(node, **options).signer
    assert node.secrets() == []


def test_a_sent_key_goes_even_if_the_bake_fails(node: SigningNode, pair: Pair) -> None:
    options = node.add_pair(pair, f"{signing_key.FOLDER}/abc")
    node.scripts = [lambda node, action: Reply(1, "config.sh: No such file or directory\n")]
    with pytest.raises(BuildError):
        run(node, **options)
    assert node.secrets() == []


def test_a_pin_comes_in_a_file(node: SigningNode) -> None:
    node.put(f"{signing_key.FOLDER}/abc/pin", "s3cret\n")
    wanted = signing_key.request_from(
        {"signing_key": "/k", "signing_certificate": "/c", "signing_pin": f"file:/{signing_key.FOLDER}/abc/pin"}, node.root
    )
    assert wanted
    assert wanted.pin == "s3cret"
    assert "s3cret" not in repr(wanted)
    signing_key.remove_sent(node.root, signing_key.SigningKey(f"/{signing_key.FOLDER}/abc/key", "/c"))
    assert not (node.root / signing_key.FOLDER / "abc").exists()
    bake_ends(node)


# --- a token -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Login failed\n805B:error:418000A0:PKCS#11 module:ERR_CKR_error:PIN incorrect:p11_slot.c:208:\n", "does not accept the PIN"),
        ("No matching initialized token was found for private key\n", "no token of that name"),
        ("The private key was not found at: pkcs11:token=fleet;object=x\n", "no private key of that name"),
        ('Invalid engine "pkcs11"\nerror: could not load the shared library\n', "install libengine-pkcs11-openssl"),
        ("x509 certificate routines:X509_check_private_key:key values mismatch\n", "does not belong to the certificate"),
        ("one\n\ntwo\n", "one; two"),
    ],
)
def test_what_openssl_says_becomes_what_to_do(said: str, reason: str) -> None:
    assert reason in signing.reason_of(CommandError(["openssl"], 1, said, "exit status 1"))


# --- the seal ----------------------------------------------------------------------------------------------------------


def sealed(node: SigningNode) -> Report:
    node.pinned.add(IMAGE)
    return seal_flow.seal(node.root, node, Containerd(node), SealRequest())


def test_the_seal_says_what_a_node_with_secure_boot_does(node: SigningNode, pair: Pair) -> None:
    node.put("sys/module/module/parameters/sig_enforce", "Y\n")  # of the build machine, and must not count for nodes
    layer = run(node, **node.add_pair(pair))
    report = sealed(node)
    assert layer.signer
    assert report.secure_boot == [
        {
            "layer": layer.layer,
            "action": "install-skip-build",
            "code": "baked_layer_matches",
            "signer": "Fleet modules",
            "key_id": layer.signer.key_id,
        }
    ]
    assert not [note for note in report.notes if "signed" in note]
    run(node)
    report = sealed(node)
    assert [(r["action"], r["code"], r["signer"]) for r in report.secure_boot] == [("none", "module_unsigned", "")]
    assert [note for note in report.notes if "was not signed in the bake" in note]
    bake_ends(node)


# --- certificates ------------------------------------------------------------------------------------------------------


def test_a_certificate_is_named_as_the_kernel_names_its_key(keys: Path) -> None:
    node = SigningNode(keys / "a-node")
    named = certificate.read(node, make_pair(keys, "Named").certificate)
    assert (named.algorithm, len(named.signer.key_id), len(named.signer.fingerprint)) == ("rsaEncryption", 40, 64)
    assert named.not_before.tzinfo is timezone.utc
    plain = certificate.read(
        node,
        make_pair(
            keys, "Plain", "-set_serial", "0x9a01", "-addext", "subjectKeyIdentifier=none", "-addext", "authorityKeyIdentifier=none"
        ).certificate,
    )
    assert plain.signer.key_id == "009a01", "the serial number as in DER"
