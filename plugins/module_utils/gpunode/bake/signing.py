"""Signs the kernel modules that a bake built, with a key from outside, after a trial signature before the build.

With a key in a file, the kernel's own ``sign-file`` signs. With a key in a token (RFC 7512), ``openssl cms`` signs with libp11's engine,
and ``sign-file`` appends the result: its own support for tokens needs an OpenSSL provider that few distributions have, and passes that
provider no PIN. All secrets are in a folder of their own below /run, in memory; a PIN is only in the environment of programs that need it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import BuildError, CommandError, PreflightError
from ..system import module_signature
from ..system.certificate import Certificate, refused
from ..util import files
from ..util.bounded import cut, lines
from ..util.run import Runner
from .signing_key import ECDSA, HASH, PIN, TOOL_S, SigningKey, key_form, key_refused, new_secret_folder

_MOST = 100_000  # characters of a tool's output in which the reason is looked for
# How a module is decompressed and compressed; xz as in the kernel's own build, because the kernel's decompressor knows only this checksum.
_PACKERS = {
    ".gz": (["gzip", "-d", "-f"], ["gzip", "-9", "-n", "-f"]),
    ".xz": (["xz", "-d", "-f"], ["xz", "--check=crc32", "--lzma2=dict=1MiB", "-f"]),
    ".zst": (["zstd", "-d", "-q", "-f", "--rm"], ["zstd", "-19", "-q", "-f", "--rm"]),
}

# --- signing -----------------------------------------------------------------------------------------------------------


class ModuleSigner:
    """Signs the modules of one bake. ``certificate`` comes from ``signing_key.check``; ``signed`` are the paths signed so far."""

    def __init__(self, root: Path, runner: Runner, wanted: SigningKey, certificate: Certificate) -> None:
        self.root = root
        self.runner = runner
        self.wanted = wanted
        self.certificate = certificate
        self.signed: set[str] = set()
        self.folder = new_secret_folder(root)
        self.pem = self.folder / "certificate.pem"
        self._openssl("x509", "-inform", certificate.form, "-in", str(certificate.path), "-out", str(self.pem))
        self.key = "" if wanted.is_in_token else self._key_file()

    def _key_file(self) -> str:
        """The path of the key as PEM, the only form that sign-file reads."""
        path = self.root / self.wanted.key.lstrip("/")
        if key_form(path, self.wanted) == "PEM":
            return str(path)
        made = self.folder / "key.pem"
        made.touch(0o600)
        self._openssl("pkey", "-inform", "DER", "-in", str(path), "-passin", f"env:{PIN}", "-out", str(made))
        return str(made)

    def require(self, kver: str) -> None:
        """Makes a trial signature, as for a module of kernel ``kver``. Raises PreflightError, which says why that is not possible."""
        tool = self._tool(kver)
        if not os.access(tool, os.X_OK):
            raise PreflightError(f"cannot sign modules for kernel {kver}: its headers do not contain {tool}", code="tools_missing")
        if self.certificate.algorithm == "id-ecPublicKey" and not ECDSA.search(self._config(kver)):
            raise refused(self.wanted.certificate, f"kernel {kver} does not verify ECDSA signatures (CONFIG_CRYPTO_ECDSA is off): use RSA")
        trial, signed = self.folder / "trial", self.folder / "trial.signed"
        trial.write_bytes(b"a trial of gpu-prebake's\n")
        try:
            self._append(kver, trial, signed)
            self._verify(signed)
        except BuildError as error:
            raise key_refused(f"a trial signature for kernel {kver} failed: {error}") from error

    def sign(self, root: Path, kver: str, paths: Iterable[str]) -> None:
        """Signs the modules at ``paths`` below ``root`` in place, and verifies each. Equal copies of a module stay equal.

        An older signature is cut off first. Modes and owners are kept. Raises BuildError, DataError, OSError.
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
                raise _failed(f"copies of {same[0]} differ after signing")
        self.signed |= set(wanted)

    def _sign(self, kver: str, path: Path) -> None:
        with self._unpacked(path) as plain:
            module_signature.strip(plain)
            signed = _beside(path, "signed")
            try:
                self._append(kver, plain, signed)
                _replace(path, self._pack(signed, path.suffix))
            finally:
                signed.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _unpacked(self, path: Path) -> Iterator[Path]:
        """An uncompressed copy of a module, which exists during the body."""
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
            self._run([tool, algorithm, self.key, str(self.pem), str(plain), str(signed)], f"{plain.name} could not be signed")
            return
        message = self.folder / "signature"
        cms = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", algorithm, "-outform", "DER"]
        token = ["-engine", "pkcs11", "-keyform", "engine", "-inkey", self.wanted.key, "-passin", f"env:{PIN}"]
        self._run([*cms, *token, "-signer", str(self.pem), "-in", str(plain), "-out", str(message)], f"{plain.name} could not be signed")
        self._run([tool, "-s", str(message), algorithm, str(self.pem), str(plain), str(signed)], f"{plain.name} could not be signed")

    def _verify_packed(self, path: Path) -> None:
        with self._unpacked(path) as plain:
            self._verify(plain)

    def _verify(self, plain: Path) -> None:
        """Raises BuildError unless the last signature is by our certificate's key and covers everything before it. Cuts it off."""
        found = module_signature.read(plain)
        if found is None:
            raise _failed(f"{plain} has no signature after signing")
        message = self.folder / "message"
        message.write_bytes(found.message)
        os.truncate(plain, found.signed_size)
        cms = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(message), "-content", str(plain), "-out", "/dev/null"]
        # Only the given certificate counts, not one in the message. The kernel does not check who issued a certificate.
        self._run([*cms, "-certfile", str(self.pem), "-nointern", "-noverify"], f"{plain.name}: signature does not match the certificate")

    def _tool(self, kver: str) -> Path:
        return self.root / "lib/modules" / kver / "build/scripts/sign-file"

    def _config(self, kver: str) -> str:
        return (
            files.read_text(self.root / "lib/modules" / kver / "build/.config") or files.read_text(self.root / f"boot/config-{kver}") or ""
        )

    def _algorithm(self, kver: str) -> str:
        """The hash algorithm in the kernel's configuration; if it names none, the default of the kernel's own build."""
        match = HASH.search(self._config(kver))
        return match[1] if match else "sha512"

    def _openssl(self, *words: str) -> None:
        self._run(["openssl", *words], "openssl cannot convert the key or the certificate")

    def _run(self, argv: Sequence[str], what: str) -> None:
        try:
            self.runner.run(argv, env={PIN: self.wanted.pin}, timeout_s=TOOL_S)
        except CommandError as error:
            raise _failed(f"{what}: {reason_of(error)}") from error


def reason_of(error: CommandError) -> str:
    """Why sign-file or openssl failed: a known cause in plain words, else the first lines of the output."""
    said = error.output[:_MOST]
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    first = [cut(line.strip()) for line in lines(said) if line.strip()][:3]
    return "; ".join(first) or str(error)


_MEANINGS = (
    (r"key values mismatch|private key does not match", "the key does not belong to the certificate"),
    (r"PIN incorrect|Login failed|PIN (is )?locked", "the token does not accept the PIN (nvidia_prebake_signing_pin)"),
    (r"No matching initialized token|No tokens? found|No slot with a token", "no token of that name is on this machine"),
    (r"private key was not found|object not found", "the token has no private key of that name"),
    (
        r"invalid engine|could not load the shared library|no such engine",
        "OpenSSL has no pkcs11 engine on this machine: install libengine-pkcs11-openssl and the token's PKCS#11 library",
    ),
)


def _failed(what: str) -> BuildError:
    return BuildError(what, code="signing_failed")


def _beside(path: Path, word: str) -> Path:
    """A temporary path beside a module, with a name that nothing takes for a module."""
    return path.with_name(f".gpu-prebake.{path.name}.{word}")


def _replace(path: Path, new: Path) -> None:
    """Replaces ``path`` by ``new``, and keeps mode and owner."""
    status = path.stat()
    os.chown(new, status.st_uid, status.st_gid)
    new.chmod(status.st_mode & 0o7777)
    new.replace(path)
