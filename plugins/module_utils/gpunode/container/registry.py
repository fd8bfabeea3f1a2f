"""Where to fetch a driver image: a registry with login, certificate authority and mirrors, or an archive, without any network.

containerd's hosts folder: https://github.com/containerd/containerd/blob/main/docs/hosts.md
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import SOURCE
from ..util.expressions import expression
from ..util.files import read_text

# A line typed at a terminal holds 4095 bytes (N_TTY_BUF_SIZE - 1, line end included), and ctr reads no more than that.
_MAX_PASSWORD = 4094
_CONTROL = expression(r"[\x00-\x1f\x7f]")
_PEM = "-----BEGIN CERTIFICATE-----"
_SYSTEM_CAS = "/etc/ssl/certs:/etc/pki/tls/certs"
_HTTPS_SERVER = expression(r"""^[ \t]*server[ \t]*=[ \t]*["']https:""", re.MULTILINE)


@dataclass(frozen=True)
class ImageSource:
    """How to fetch the driver image. ``source_from`` creates it from options and validates them.

    ``ca`` is PEM text, or the absolute path of a PEM file on this machine; ``archive`` is the path of a docker or OCI archive on
    this machine. With an archive no registry is contacted.
    """

    hosts_dir: str = SOURCE["hosts_dir"].default
    username: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    plain_http: bool = SOURCE["registry_plain_http"].default
    archive: str = ""
    role: str = ""
    """The role whose variables an error names. Without one, it names the module's options."""

    @contextlib.contextmanager
    def trust(self) -> Iterator[dict[str, str]]:
        """The environment in which ctr, a Go program, trusts ``ca`` in addition to what this machine trusts.

        It applies to mirrors and token servers too, and does not change containerd's configuration. Raises InputError.
        """
        if not self.ca:
            yield {}
            return
        text = self.ca
        if text.startswith("/"):
            text = read_text(Path(self.ca)) or ""
            _check_pem(text, f"{SOURCE['registry_ca'].variable(self.role)}: the file {self.ca} on this machine")
        import tempfile  # noqa: PLC0415 - few nodes need it, and all would wait for the import

        # On a tmpfs if there is one, so that a killed process leaves nothing in an image.
        with tempfile.TemporaryDirectory(prefix="gpu-prebake-ca-", dir="/run" if os.access("/run", os.W_OK) else None) as folder:
            Path(folder, "ca.pem").write_text(text, encoding="utf-8")
            yield {"SSL_CERT_DIR": f"{os.environ.get('SSL_CERT_DIR') or _SYSTEM_CAS}:{folder}"}

    def check_hosts(self, repository: str) -> None:
        """Raises InputError if ``plain_http`` is set and the hosts folder sets https for the registry of ``repository``."""
        found = hosts_file(self.hosts_dir, repository.partition("/")[0]) if self.plain_http else None
        if found and _HTTPS_SERVER.search(read_text(found) or ""):
            raise InputError(
                f"{SOURCE['registry_plain_http'].variable(self.role)}: plain HTTP is set, but {found} says that this registry uses https: "
                "correct its line server =, or turn the option off"
            )


DEFAULT_SOURCE = ImageSource()


def hosts_file(hosts_dir: str, registry: str) -> Path | None:
    """The hosts.toml that containerd uses for a registry (``host`` or ``host:port``); None if there is none."""
    if not hosts_dir:
        return None
    for name in (re.sub(r":(\d+)$", r"_\1_", registry), registry, "_default"):
        folder = Path(hosts_dir, name)
        if folder.is_dir():  # the first folder that exists counts, even without a file in it
            return folder / "hosts.toml" if (folder / "hosts.toml").is_file() else None
    return None


def source_from(params: Mapping[str, Any], role: str = "") -> ImageSource:
    """Validates the options about the image's source, as set by the variables of ``role``. Raises InputError, which never shows the
    password."""
    names = {option: SOURCE[option].variable(role) for option in SOURCE}
    username, password = params.get("registry_username") or "", params.get("registry_password") or ""
    if bool(username) != bool(password):
        given, missing = ("registry_username", "registry_password") if username else ("registry_password", "registry_username")
        raise InputError(f"{names[missing]}: {names[given]} is set without it; a login needs both")
    if ":" in username or _CONTROL.search(username):
        raise InputError(
            f"{names['registry_username']}: it contains a colon or a control character, which a registry's user name cannot have"
        )
    if _CONTROL.search(password):
        raise InputError(
            f"{names['registry_password']}: it contains a line break or another control character; give one line "
            "(a key file of several lines has a one-line form, as with the user _json_key_base64)"
        )
    if len(password.encode()) > _MAX_PASSWORD:
        raise InputError(f"{names['registry_password']}: it is longer than {_MAX_PASSWORD} bytes, more than containerd's ctr reads")
    ca = (params.get("registry_ca") or "").strip()
    if ca and not ca.startswith("/"):
        _check_pem(ca, f"{names['registry_ca']}: the given text")
    archive = params.get("image_archive") or ""
    if archive and not archive.startswith("/"):
        raise InputError(f"{names['image_archive']}: {archive!r} is not an absolute path")
    return ImageSource(
        hosts_dir=params.get("hosts_dir") or "",
        username=username,
        password=password,
        ca=ca,
        plain_http=bool(params.get("registry_plain_http")),
        archive=archive,
        role=role,
    )


def _check_pem(text: str, what: str) -> None:
    """Raises InputError for anything but a certificate. Go ignores what it cannot read, and reports only an unknown authority."""
    import ssl  # noqa: PLC0415 - few nodes need it, and all would wait for the import

    problem = "" if _PEM in text else f"it has no line {_PEM}"
    if "PRIVATE KEY" in text:
        problem = "it contains a private key, which does not belong here"
    if not problem:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            problem = str(error)
    if problem:
        raise InputError(f"{what} is not the PEM certificate of a certificate authority: {problem}")
