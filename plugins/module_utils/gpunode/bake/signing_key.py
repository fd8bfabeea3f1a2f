"""The key with which a bake signs modules: checked before the build, brought into memory, removed when the bake ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ..errors import CommandError, InputError, PreflightError
from ..system import certificate as system_certificate
from ..system import mounts
from ..system.certificate import Certificate, refused
from ..util import files
from ..util.run import Runner

FOLDER = "run/gpu-prebake/signing"
PIN = "KBUILD_SIGN_PIN"  # sign-file's own name for it
PIN_FILE = "file:"
_URI = "pkcs11:"
_NAMED = ("token", "serial", "slot-id")  # what says which token
_OBJECT = ("object", "id")
_SOON = timedelta(days=30)
_MEMORY = ("tmpfs", "ramfs")
TOOL_S = 120.0
_PEM_KEY = re.compile(rb"-----BEGIN (\w+ )?PRIVATE KEY-----|-----BEGIN ENCRYPTED PRIVATE KEY-----")
_LOCKED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
HASH = re.compile(r'^CONFIG_MODULE_SIG_HASH="(\w+)"', re.MULTILINE)
ECDSA = re.compile(r"^CONFIG_CRYPTO_ECDSA=[ym]", re.MULTILINE)
_ALGORITHMS = ("rsaEncryption", "id-ecPublicKey")


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
            raise key_refused(f"its PIN cannot be read from {path}") from error
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


def own_folder(root: Path) -> Path:
    """A new folder for secrets, in memory. Raises PreflightError."""
    where = f"/{FOLDER}"
    holding = [m for m in mounts.visible(mounts.current(root)) if where == m.point or where.startswith(m.point.rstrip("/") + "/")]
    if not holding or max(holding, key=lambda m: len(m.point)).fstype not in _MEMORY:
        raise key_refused("/run is not in memory on this machine (no tmpfs), and a key must not reach its disk: mount one there")
    folder = root / FOLDER / str(os.getpid())
    files.make_private(root / FOLDER)
    files.make_private(folder)
    return folder


# --- looked at before a bake --------------------------------------------------------------------------------------------


def key_refused(reason: str) -> PreflightError:
    return PreflightError(f"the signing key cannot be used: {reason}", code="signing_key")


def check(root: Path, runner: Runner, wanted: SigningKey) -> tuple[Certificate, tuple[str, ...]]:
    """The certificate that belongs to the key, and what is worth saying. Raises PreflightError, and CommandError without openssl.

    The kernel looks at no date when it loads a module, so that a bake is the last place where a certificate out of date is noticed.
    A token is not asked yet: that needs the kernel's tools, see ``ModuleSigner.require``.
    """
    found = system_certificate.read(runner, root / wanted.certificate.lstrip("/"))
    now = datetime.now(timezone.utc)
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now > found.not_after:
        raise refused(wanted.certificate, f"it expired on {found.not_after:%Y-%m-%d}; {clock}: use the one that took its place")
    if now < found.not_before:
        raise refused(wanted.certificate, f"it is not valid before {found.not_before:%Y-%m-%d %H:%M} UTC; {clock}")
    if found.algorithm not in _ALGORITHMS:
        raise refused(wanted.certificate, f"the kernel verifies no {found.algorithm or 'unknown'} keys: use RSA")
    if not wanted.is_in_token:
        _check_file(root, runner, wanted, found)
    left = found.not_after - now
    soon = f"the signing certificate {found.signer.name!r} expires on {found.not_after:%Y-%m-%d}: in {left.days} days, a bake refuses it"
    return found, (soon,) if left < _SOON else ()


def _check_file(root: Path, runner: Runner, wanted: SigningKey, cert: Certificate) -> None:
    path = root / wanted.key.lstrip("/")
    form = key_form(path, wanted)
    argv = ["openssl", "pkey", "-inform", form, "-in", str(path), "-passin", f"env:{PIN}", "-pubout"]
    try:
        public_key = runner.run(argv, env={PIN: wanted.pin}, timeout_s=TOOL_S).stdout
    except CommandError as error:
        if error.rc is None:
            raise
        pin = "; is nvidia_prebake_signing_pin its passphrase?" if wanted.pin or form == "DER" else ""
        raise key_refused(f"openssl reads no private key in {wanted.key}{pin}") from error
    if public_key.split() != cert.public_key.split():
        raise key_refused(f"{wanted.key} does not belong to the certificate {wanted.certificate} ({cert.signer.name}): give the pair")


def key_form(path: Path, wanted: SigningKey) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise key_refused(f"{wanted.key} cannot be read ({error.strerror})") from error
    if _LOCKED.search(data) and not wanted.pin:
        raise key_refused(f"{wanted.key} is encrypted: give its passphrase as nvidia_prebake_signing_pin")
    if _PEM_KEY.search(data):
        return "PEM"
    if data[:1] != b"\x30":
        raise key_refused(f"{wanted.key} is no private key, neither as PEM nor as DER")
    return "DER"
