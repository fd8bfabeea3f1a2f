"""The key with which a bake signs modules: check the options and the key before the build, remove secrets when the bake ends."""

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
from ..util.expressions import expression
from ..util.folders import matching
from ..util.run import Runner

# In memory. Each bake has a folder of its own below it for secrets; so has each key that was sent from the controller.
FOLDER = "run/gpu-prebake/signing"
PIN = "KBUILD_SIGN_PIN"  # the environment variable from which sign-file takes the PIN
PIN_FILE = "file:"
_URI = "pkcs11:"
# The attributes of a URI that name the token, and the key in it.
_TOKEN = ("token", "serial", "slot-id")
_OBJECT = ("object", "id")
_WARN_BEFORE = timedelta(days=30)
_MEMORY = ("tmpfs", "ramfs")
TOOL_S = 120.0
_LARGEST = 1 << 20  # bytes of a key or a PIN
_PEM_KEY = expression(rb"-----BEGIN (\w+ )?PRIVATE KEY-----|-----BEGIN ENCRYPTED PRIVATE KEY-----")
_ENCRYPTED = expression(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
HASH = expression(r'^CONFIG_MODULE_SIG_HASH="(\w+)"', re.MULTILINE)
ECDSA = expression(r"^CONFIG_CRYPTO_ECDSA=[ym]", re.MULTILINE)
_ALGORITHMS = ("rsaEncryption", "id-ecPublicKey")


@dataclass(frozen=True)
class SigningKey:
    """Key and certificate of a bake: paths on this machine; the key may be a ``pkcs11:`` URI. ``pin`` is its passphrase or PIN."""

    key: str
    certificate: str
    pin: str = field(default="", repr=False)

    @property
    def is_in_token(self) -> bool:
        return self.key.startswith(_URI)


# --- the options -------------------------------------------------------------------------------------------------------


def problem(key: str, certificate_path: str, pin: str, is_on_machine: bool = True) -> str:
    """What is wrong with these options, without reading any file; "" if nothing is. Never repeats a PIN."""
    if not key and not certificate_path:
        return "nvidia_prebake_signing_pin is set without a key that it could unlock" if pin else ""
    if not key or not certificate_path:
        given, missing = ("key", "certificate") if key else ("certificate", "key")
        return f"nvidia_prebake_signing_{given} is set and nvidia_prebake_signing_{missing} is not: set both, or neither"
    if "\n" in pin or "\0" in pin:
        return "nvidia_prebake_signing_pin: it must be a single line"
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
        return "nvidia_prebake_signing_key: the URI contains a PIN, which every process could read: set nvidia_prebake_signing_pin instead"
    if not set(_TOKEN) & set(names):
        return f"nvidia_prebake_signing_key: {uri} names no token: add token=LABEL, as in pkcs11:token=fleet;object=modules"
    if not set(_OBJECT) & set(names):
        return f"nvidia_prebake_signing_key: {uri} names no key in its token: add object=LABEL or id=…"
    return ""


def request_from(params: Mapping[str, Any], root: Path = Path("/")) -> SigningKey | None:
    """The key that a bake's options name, with its PIN; None if nothing is to be signed. Raises InputError, PreflightError."""
    key, cert, pin = (str(params.get(f"signing_{name}") or "") for name in ("key", "certificate", "pin"))
    wrong = problem(key, cert, pin)
    if wrong:
        raise InputError(wrong)
    if pin.startswith(PIN_FILE):
        path = root / pin[len(PIN_FILE) :].lstrip("/")
        try:
            pin = files.read_bytes(path, _LARGEST).decode("utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise key_refused(f"its PIN cannot be read from {path}") from error
    return SigningKey(key, cert, pin) if key else None


# --- secrets in memory -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def secrets_removed(root: Path, wanted: SigningKey | None) -> Iterator[None]:
    """Removes the secrets that earlier bakes left before the body, and all secrets after it, also if the body fails."""
    mine = sent_folder(wanted)
    for folder in matching(root / FOLDER, "*"):
        if folder.name != mine:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(root / FOLDER, ignore_errors=True)


def sent_folder(wanted: SigningKey | None) -> str:
    """The name of the folder into which key or certificate were sent from the controller; "" if they are elsewhere."""
    for path in (wanted.key, wanted.certificate) if wanted else ():
        parts = Path(path).parts
        if path.startswith(f"/{FOLDER}/") and len(parts) == len(Path(FOLDER).parts) + 3:
            return parts[-2]
    return ""


def remove_sent(root: Path, wanted: SigningKey | None) -> None:
    """Removes the secrets that were sent from the controller, after a check without a bake."""
    name = sent_folder(wanted)
    if name:
        shutil.rmtree(root / FOLDER / name, ignore_errors=True)


def new_secret_folder(root: Path) -> Path:
    """Makes this bake's folder for secrets, in memory. Raises PreflightError."""
    where = f"/{FOLDER}"
    holding = [m for m in mounts.visible(mounts.current(root)) if where == m.point or where.startswith(m.point.rstrip("/") + "/")]
    if not holding or max(holding, key=lambda m: len(m.point)).fstype not in _MEMORY:
        raise key_refused("/run is not in memory on this machine, and a key must not reach its disk: mount a tmpfs there")
    folder = root / FOLDER / str(os.getpid())
    files.make_private(root / FOLDER)
    files.make_private(folder)
    return folder


# --- the check before a bake -------------------------------------------------------------------------------------------


def key_refused(reason: str) -> PreflightError:
    return PreflightError(f"the signing key cannot be used: {reason}", code="signing_key")


def check(root: Path, runner: Runner, wanted: SigningKey) -> tuple[Certificate, tuple[str, ...]]:
    """Checks key and certificate; returns the certificate, and warnings. Raises PreflightError, and CommandError without openssl.

    The kernel checks no date when it loads a module, so a bake is the last place where an expired certificate is noticed.
    A key in a token is not checked here, because that needs the kernel's tools: see ``ModuleSigner.require``.
    """
    found = system_certificate.read(runner, root / wanted.certificate.lstrip("/"))
    now = datetime.now(timezone.utc)
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now > found.not_after:
        raise refused(wanted.certificate, f"it expired on {found.not_after:%Y-%m-%d}; {clock}: use the one that replaced it")
    if now < found.not_before:
        raise refused(wanted.certificate, f"it is not valid before {found.not_before:%Y-%m-%d %H:%M} UTC; {clock}")
    if found.algorithm not in _ALGORITHMS:
        raise refused(wanted.certificate, f"the kernel does not verify signatures by {found.algorithm or 'unknown'} keys: use RSA")
    if not wanted.is_in_token:
        _check_file(root, runner, wanted, found)
    left = found.not_after - now
    soon = f"the signing certificate {found.signer.name!r} expires on {found.not_after:%Y-%m-%d}: in {left.days} days, bakes will refuse it"
    return found, (soon,) if left < _WARN_BEFORE else ()


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
        raise key_refused(f"openssl cannot read a private key from {wanted.key}{pin}") from error
    if public_key.split() != cert.public_key.split():
        raise key_refused(f"{wanted.key} does not belong to the certificate {wanted.certificate} ({cert.signer.name}): set a matching pair")


def key_form(path: Path, wanted: SigningKey) -> str:
    """``PEM`` or ``DER``. Raises PreflightError if it is neither, or is encrypted and no passphrase is set."""
    try:
        data = files.read_bytes(path, _LARGEST)
    except OSError as error:
        raise key_refused(f"{wanted.key} cannot be read ({error.strerror})") from error
    if _ENCRYPTED.search(data) and not wanted.pin:
        raise key_refused(f"{wanted.key} is encrypted: set nvidia_prebake_signing_pin to its passphrase")
    if _PEM_KEY.search(data):
        return "PEM"
    if data[:1] != b"\x30":
        raise key_refused(f"{wanted.key} is not a private key, neither as PEM nor as DER")
    return "DER"
