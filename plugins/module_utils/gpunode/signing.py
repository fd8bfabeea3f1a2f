"""Signing what a bake built, with a key from outside: tried before anything is built, used after it, gone from the machine with the bake.

A key in a file is used by the kernel's own ``sign-file``. A key in a token (RFC 7512) is used by ``openssl cms`` with the engine of libp11,
and ``sign-file`` appends what came out: its own way to tokens needs an OpenSSL provider that few distributions have, and it hands no PIN to
that. Whatever is secret here lies in a folder of its own below /run, in memory; a PIN is in the environment of the program that needs it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from . import certificate, files, modsig, mounts
from .certificate import Certificate
from .errors import BuildError, CommandError, InputError, PreflightError
from .runner import Runner

FOLDER = "run/gpu-prebake/signing"
"""What is secret in a bake, each bake's in a folder of its own; a key that was brought here lies in one of these."""
PIN = "KBUILD_SIGN_PIN"  # sign-file's own name for it
PIN_FILE = "file:"
_URI = "pkcs11:"
_NAMED = ("token", "serial", "slot-id")  # what says which token
_OBJECT = ("object", "id")
_SOON = timedelta(days=30)
_MEMORY = ("tmpfs", "ramfs")
_LIMIT_S = 120.0
_PEM_KEY = re.compile(rb"-----BEGIN (\w+ )?PRIVATE KEY-----|-----BEGIN ENCRYPTED PRIVATE KEY-----")
_LOCKED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
_HASH = re.compile(r'^CONFIG_MODULE_SIG_HASH="(\w+)"', re.MULTILINE)
_ECDSA = re.compile(r"^CONFIG_CRYPTO_ECDSA=[ym]", re.MULTILINE)
_ALGORITHMS = ("rsaEncryption", "id-ecPublicKey")
# What unpacks and packs a module; xz as the kernel's own build has it, since the kernel's decompressor knows no other check.
_PACKERS = {
    ".gz": (["gzip", "-d", "-f"], ["gzip", "-9", "-n", "-f"]),
    ".xz": (["xz", "-d", "-f"], ["xz", "--check=crc32", "--lzma2=dict=1MiB", "-f"]),
    ".zst": (["zstd", "-d", "-q", "-f", "--rm"], ["zstd", "-19", "-q", "-f", "--rm"]),
}


@dataclass(frozen=True)
class SigningKey:
    """Key and certificate for a bake: paths on this machine, or the key as a ``pkcs11:`` URI; ``pin`` unlocks either."""

    key: str
    certificate: str
    pin: str = field(default="", repr=False)

    @property
    def is_in_token(self) -> bool:
        return self.key.startswith(_URI)


# --- what is given -----------------------------------------------------------------------------------------------------


def problem(key: str, certificate_path: str, pin: str, is_on_machine: bool = True) -> str:
    """What is wrong with what was given, as far as the words themselves tell; "" where nothing is. Says nothing of a PIN."""
    if not key and not certificate_path:
        return "nvidia_prebake_signing_pin: it is given without a key that it could unlock" if pin else ""
    if not key or not certificate_path:
        given, missing = ("key", "certificate") if key else ("certificate", "key")
        return f"nvidia_prebake_signing_{given} is given and nvidia_prebake_signing_{missing} is not: set both, or neither"
    if "\n" in pin or "\0" in pin:
        return "nvidia_prebake_signing_pin: it is not one line"
    if key.startswith(_URI):
        return _uri_problem(key)
    for name, path in (("key", key), ("certificate", certificate_path)):
        if is_on_machine and (not path.startswith("/") or ".." in path.split("/")):
            return f"nvidia_prebake_signing_{name}: {path!r} is not an absolute path on the machine"
    return ""


def _uri_problem(uri: str) -> str:
    path, _mark, query = uri[len(_URI) :].partition("?")
    names = [word.partition("=")[0] for word in path.split(";")]
    asked = [word.partition("=")[0] for word in query.split("&")]
    if "pin-value" in (*names, *asked) or "pin-source" in (*names, *asked):
        return "nvidia_prebake_signing_key: the URI holds a PIN, which every process could read: give it as nvidia_prebake_signing_pin"
    if not set(_NAMED) & set(names):
        return f"nvidia_prebake_signing_key: {uri} names no token: add token=LABEL, as in pkcs11:token=fleet;object=modules"
    if not set(_OBJECT) & set(names):
        return f"nvidia_prebake_signing_key: {uri} names no key in its token: add object=LABEL or id=…"
    return ""


def request_from(params: Mapping[str, Any], root: Path = Path("/")) -> SigningKey | None:
    """What a bake's options ask for; None where nothing is to be signed. Raises InputError, PreflightError."""
    key, cert, pin = (str(params.get(f"signing_{name}") or "") for name in ("key", "certificate", "pin"))
    wrong = problem(key, cert, pin)
    if wrong:
        raise InputError(wrong)
    if pin.startswith(PIN_FILE):
        path = root / pin[len(PIN_FILE) :].lstrip("/")
        try:
            pin = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise _refused(f"its PIN cannot be read from {path}") from error
    return SigningKey(key, cert, pin) if key else None


# --- where secrets lie -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def swept(root: Path, wanted: SigningKey | None) -> Iterator[None]:
    """Takes away what an earlier bake left of secrets before the body, and this one's after it, brought or made, whatever happens."""
    mine = brought(wanted)
    for folder in sorted((root / FOLDER).glob("*")):
        if folder.name != mine:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(root / FOLDER, ignore_errors=True)


def brought(wanted: SigningKey | None) -> str:
    """The name of the folder in which key or certificate were brought to this machine; "" where they lie elsewhere."""
    for path in (wanted.key, wanted.certificate) if wanted else ():
        parts = Path(path).parts
        if path.startswith(f"/{FOLDER}/") and len(parts) == len(Path(FOLDER).parts) + 3:
            return parts[-2]
    return ""


def take_away(root: Path, wanted: SigningKey | None) -> None:
    """Takes away what was brought to this machine for one look."""
    name = brought(wanted)
    if name:
        shutil.rmtree(root / FOLDER / name, ignore_errors=True)


def _own_folder(root: Path) -> Path:
    """A new folder for secrets, in memory. Raises PreflightError."""
    where = f"/{FOLDER}"
    holding = [m for m in mounts.visible(mounts.current(root)) if where == m.point or where.startswith(m.point.rstrip("/") + "/")]
    if not holding or max(holding, key=lambda m: len(m.point)).fstype not in _MEMORY:
        raise _refused("/run is not in memory on this machine (no tmpfs), and a key must not reach its disk: mount one there")
    folder = root / FOLDER / str(os.getpid())
    files.make_private(root / FOLDER)
    files.make_private(folder)
    return folder


# --- looked at before a bake --------------------------------------------------------------------------------------------


def _refused(reason: str) -> PreflightError:
    return PreflightError(f"the signing key cannot be used: {reason}", code="signing_key")


def check(root: Path, runner: Runner, wanted: SigningKey) -> tuple[Certificate, tuple[str, ...]]:
    """The certificate that belongs to the key, and what is worth saying. Raises PreflightError, and CommandError without openssl.

    The kernel looks at no date when it loads a module, so that a bake is the last place where a certificate out of date is noticed.
    A token is not asked yet: that needs the kernel's tools, see ``ModuleSigner.require``.
    """
    found = certificate.read(runner, root / wanted.certificate.lstrip("/"))
    now = datetime.now(timezone.utc)
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now > found.not_after:
        raise certificate.refused(wanted.certificate, f"it expired on {found.not_after:%Y-%m-%d}; {clock}: use the one that took its place")
    if now < found.not_before:
        raise certificate.refused(wanted.certificate, f"it is not valid before {found.not_before:%Y-%m-%d %H:%M} UTC; {clock}")
    if found.algorithm not in _ALGORITHMS:
        raise certificate.refused(wanted.certificate, f"the kernel verifies no {found.algorithm or 'unknown'} keys: use RSA")
    if not wanted.is_in_token:
        _check_file(root, runner, wanted, found)
    left = found.not_after - now
    soon = f"the signing certificate {found.signer.name!r} expires on {found.not_after:%Y-%m-%d}: in {left.days} days, a bake refuses it"
    return found, (soon,) if left < _SOON else ()


def _check_file(root: Path, runner: Runner, wanted: SigningKey, cert: Certificate) -> None:
    path = root / wanted.key.lstrip("/")
    form = _key_form(path, wanted)
    argv = ["openssl", "pkey", "-inform", form, "-in", str(path), "-passin", f"env:{PIN}", "-pubout"]
    try:
        public_key = runner.run(argv, env={PIN: wanted.pin}, timeout_s=_LIMIT_S).stdout
    except CommandError as error:
        if error.rc is None:
            raise
        pin = "; is nvidia_prebake_signing_pin its passphrase?" if wanted.pin or form == "DER" else ""
        raise _refused(f"openssl reads no private key in {wanted.key}{pin}") from error
    if public_key.split() != cert.public_key.split():
        raise _refused(f"{wanted.key} does not belong to the certificate {wanted.certificate} ({cert.signer.name}): give the pair")


def _key_form(path: Path, wanted: SigningKey) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refused(f"{wanted.key} cannot be read ({error.strerror})") from error
    if _LOCKED.search(data) and not wanted.pin:
        raise _refused(f"{wanted.key} is encrypted: give its passphrase as nvidia_prebake_signing_pin")
    if _PEM_KEY.search(data):
        return "PEM"
    if data[:1] != b"\x30":
        raise _refused(f"{wanted.key} is no private key, neither as PEM nor as DER")
    return "DER"


# --- signing -----------------------------------------------------------------------------------------------------------


class ModuleSigner:
    """Signs the modules of one bake. ``certificate`` is what ``check`` found."""

    def __init__(self, root: Path, runner: Runner, wanted: SigningKey, certificate: Certificate) -> None:
        self.root = root
        self.runner = runner
        self.wanted = wanted
        self.certificate = certificate
        self.signed: set[str] = set()
        self.folder = _own_folder(root)
        self.pem = self.folder / "certificate.pem"
        self._openssl("x509", "-inform", certificate.form, "-in", str(certificate.path), "-out", str(self.pem))
        self.key = "" if wanted.is_in_token else self._key_file()

    def _key_file(self) -> str:
        """The key's path, as PEM, which is all that sign-file reads."""
        path = self.root / self.wanted.key.lstrip("/")
        if _key_form(path, self.wanted) == "PEM":
            return str(path)
        made = self.folder / "key.pem"
        made.touch(0o600)
        self._openssl("pkey", "-inform", "DER", "-in", str(path), "-passin", f"env:{PIN}", "-out", str(made))
        return str(made)

    def require(self, kver: str) -> None:
        """Signs a file of no use as a module of kernel ``kver`` would be. Raises PreflightError, which says what is in the way."""
        tool = self._tool(kver)
        if not os.access(tool, os.X_OK):
            raise PreflightError(f"cannot sign modules for kernel {kver}: its headers bring no {tool}", code="tools_missing")
        if self.certificate.algorithm == "id-ecPublicKey" and not _ECDSA.search(self._config(kver)):
            raise certificate.refused(self.wanted.certificate, f"kernel {kver} verifies no ECDSA signatures (CONFIG_CRYPTO_ECDSA): use RSA")
        trial, signed = self.folder / "trial", self.folder / "trial.signed"
        trial.write_bytes(b"a trial of gpu-prebake's\n")
        try:
            self._append(kver, trial, signed)
            self._verify(signed)
        except BuildError as error:
            raise _refused(f"a trial signature for kernel {kver} failed: {error}") from error

    def sign(self, root: Path, kver: str, paths: Iterable[str]) -> None:
        """Signs the modules at ``paths`` below ``root``, and verifies each as it lies there. Copies of one module stay alike.

        An older signature is cut off first. Modes and owners stay. ``signed`` are all that were. Raises BuildError, DataError, OSError.
        """
        copies: dict[str, list[Path]] = {}
        wanted = sorted(paths)
        for path in wanted:
            copies.setdefault(files.sha256(root / path), []).append(root / path)
        for first, *others in copies.values():
            self._sign(kver, first)
            for other in others:
                _replace(other, shutil.copyfile(first, _beside(other, "copy")))
        for same in copies.values():
            self._verify_packed(same[0])
            if len({files.sha256(path) for path in same}) > 1:
                raise _failed(f"copies of {same[0]} differ after they were signed")
        self.signed |= set(wanted)

    def _sign(self, kver: str, path: Path) -> None:
        with self._unpacked(path) as plain:
            modsig.strip(plain)
            signed = _beside(path, "signed")
            try:
                self._append(kver, plain, signed)
                _replace(path, self._pack(signed, path.suffix))
            finally:
                signed.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _unpacked(self, path: Path) -> Iterator[Path]:
        """A copy of a module, not compressed, for the body."""
        plain = _beside(path, "plain")
        packed = plain.with_name(plain.name + path.suffix) if path.suffix in _PACKERS else plain
        try:
            shutil.copyfile(path, packed)
            if packed != plain:
                self._run([*_PACKERS[path.suffix][0], str(packed)], f"{path} cannot be decompressed")
            yield plain
        finally:
            plain.unlink(missing_ok=True)
            packed.unlink(missing_ok=True)

    def _pack(self, plain: Path, suffix: str) -> Path:
        if suffix not in _PACKERS:
            return plain
        self._run([*_PACKERS[suffix][1], str(plain)], f"{plain} cannot be compressed")
        return plain.with_name(plain.name + suffix)

    def _append(self, kver: str, plain: Path, signed: Path) -> None:
        tool, algorithm = str(self._tool(kver)), self._algorithm(kver)
        if not self.wanted.is_in_token:
            self._run([tool, algorithm, self.key, str(self.pem), str(plain), str(signed)], f"{plain.name} was not signed")
            return
        message = self.folder / "signature"
        cms = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", algorithm, "-outform", "DER"]
        token = ["-engine", "pkcs11", "-keyform", "engine", "-inkey", self.wanted.key, "-passin", f"env:{PIN}"]
        self._run([*cms, *token, "-signer", str(self.pem), "-in", str(plain), "-out", str(message)], f"{plain.name} was not signed")
        self._run([tool, "-s", str(message), algorithm, str(self.pem), str(plain), str(signed)], f"{plain.name} was not signed")

    def _verify_packed(self, path: Path) -> None:
        with self._unpacked(path) as plain:
            self._verify(plain)

    def _verify(self, plain: Path) -> None:
        """Raises BuildError unless the last signature is our certificate's, over all that stands before it. Cuts it off."""
        found = modsig.read(plain)
        if found is None:
            raise _failed(f"{plain} has no signature after it was signed")
        message = self.folder / "message"
        message.write_bytes(found.message)
        os.truncate(plain, found.signed_size)
        cms = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(message), "-content", str(plain), "-out", "/dev/null"]
        # Only the given certificate counts: one in the message does not, and who issued it is nothing to the kernel.
        self._run([*cms, "-certfile", str(self.pem), "-nointern", "-noverify"], f"the signature of {plain.name} is not the certificate's")

    def _tool(self, kver: str) -> Path:
        return self.root / "lib/modules" / kver / "build/scripts/sign-file"

    def _config(self, kver: str) -> str:
        return (
            files.read_text(self.root / "lib/modules" / kver / "build/.config") or files.read_text(self.root / f"boot/config-{kver}") or ""
        )

    def _algorithm(self, kver: str) -> str:
        """The hash that the kernel's configuration asks for; the one that the kernel's own build takes by default where it says nothing."""
        match = _HASH.search(self._config(kver))
        return match[1] if match else "sha512"

    def _openssl(self, *words: str) -> None:
        self._run(["openssl", *words], "openssl cannot convert it")

    def _run(self, argv: Sequence[str], what: str) -> None:
        try:
            self.runner.run(argv, env={PIN: self.wanted.pin}, timeout_s=_LIMIT_S)
        except CommandError as error:
            raise _failed(f"{what}: {reason_of(error)}") from error


def reason_of(error: CommandError) -> str:
    """What sign-file or openssl said, shortened to what can be acted upon."""
    said = error.output
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join(lines[:3]) or str(error)


_MEANINGS = (
    (r"key values mismatch|private key does not match", "the key does not belong to the certificate"),
    (r"PIN incorrect|Login failed|PIN (is )?locked", "the token does not accept the PIN (nvidia_prebake_signing_pin)"),
    (r"No matching initialized token|No tokens? found|No slot with a token", "no token of that name is on this machine"),
    (r"private key was not found|object not found", "the token holds no private key of that name"),
    (
        r"invalid engine|could not load the shared library|no such engine",
        "OpenSSL has no pkcs11 engine on this machine: install libengine-pkcs11-openssl and the token's PKCS#11 library",
    ),
)


def _failed(what: str) -> BuildError:
    return BuildError(what, code="signing_failed")


def _beside(path: Path, word: str) -> Path:
    """A file beside a module that nobody takes for one."""
    return path.with_name(f".gpu-prebake.{path.name}.{word}")


def _replace(path: Path, new: Path) -> None:
    """Puts ``new`` in the place of ``path``, with its mode and owner."""
    status = path.stat()
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o7777)
    new.replace(path)
