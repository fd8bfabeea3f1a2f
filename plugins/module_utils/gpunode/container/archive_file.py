"""Reads an image archive as a tar file of plain, unique names, and its JSON documents, where Go's readers would read the same.

containerd cleans each name (``x/../index.json`` is ``index.json``), takes the last of two files with one name, leaves out whatever is no
plain file, and ignores case in JSON keys. What could be read differently is refused, so that what was checked is what is imported.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ImageError
from ..util import jsondoc

_CHUNK = 1 << 20
_MAX_DOCUMENT = 4 << 20  # the limit of registries for a manifest
_MAX_MEMBERS = 10_000
_NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_MAX_NAME = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"BZh": "bzip2"}
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
# tarfile takes a name from this record of any file, Go's archive/tar only from that of a sparse one.
_SPARSE = "GNU.sparse."


class ArchiveFile:
    """The files of an open archive by name. Raises ImageError for an archive that containerd could read in another way.

    ``links`` are symbolic links, and the names that they lead to. Docker before version 25 writes one for a layer that an image has twice.
    """

    def __init__(self, path: str, tar: tarfile.TarFile) -> None:
        self.path = path
        self.tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        self.links: dict[str, str] = {}
        for number, member in enumerate(tar):  # to the end, which detects a truncated file
            if number == _MAX_MEMBERS:
                raise invalid(path, f"it holds more than {_MAX_MEMBERS} files")
            self._add(member)
        if tar.pax_headers:
            raise invalid(path, f"it begins with a header for all files ({', '.join(sorted(tar.pax_headers))}): write it without")

    def _add(self, member: tarfile.TarInfo) -> None:
        name = member.name[2:] if member.name.startswith("./") else member.name
        if member.isdir():
            return
        problem = ""
        if name in self._members or name in self.links:
            problem = "it is there twice"
        elif member.islnk():
            problem = "a link"
        elif (member.type not in _PLAIN and not member.issym()) or any(key.startswith(_SPARSE) for key in member.pax_headers):
            problem = "not a plain file"
        elif name != posixpath.normpath(name) or name.startswith(("/", "../")) or name in (".", ".."):
            problem = "not a plain name"
        if problem:
            raise invalid(self.path, f"{name}: {problem}, so containerd could read another image than was checked: use {HOW}")
        if member.issym():
            self.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        else:
            self._members[name] = member

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def document(self, name: str, *keys: str) -> dict[str, Any]:
        """The JSON object in a file; ``keys`` as for ``require_object``."""
        return self.require_object(self.json(name), name, *keys)

    def json(self, name: str) -> Any:
        """The JSON value in a file."""
        try:
            return jsondoc.parse(self._text(name), _MAX_DOCUMENT)
        except ValueError as error:
            raise invalid(self.path, f"{name} is not valid JSON ({error})") from error

    def digest(self, name: str) -> str:
        """The SHA-256 of a file's contents, as a digest."""
        stream, found = self.tar.extractfile(self._member(name)), hashlib.sha256()
        while stream and (chunk := stream.read(_CHUNK)):
            found.update(chunk)
        return f"sha256:{found.hexdigest()}"

    def require_object(self, value: Any, where: str, *keys: str) -> dict[str, Any]:
        """``value``, which must be an object without keys that differ from one of ``keys`` only by case: Go takes these for the same."""
        if not isinstance(value, dict):
            raise invalid(self.path, f"{where}: {str(value)[:80]!r} is not an object")
        spelled = {key.casefold(): key for key in keys}
        for key in value:
            if spelled.get(key.casefold(), key) != key:
                wanted = spelled[key.casefold()]
                raise invalid(self.path, f"{where}: containerd takes the key {ascii(key)[1:-1]} for {wanted}: use {HOW}")
        return value

    def _text(self, name: str) -> bytes:
        member = self._member(name)
        stream = self.tar.extractfile(member) if member.size <= _MAX_DOCUMENT else None
        if stream is None:
            raise invalid(self.path, f"{name} is larger than {_MAX_DOCUMENT >> 20} MiB")
        return stream.read()

    def _member(self, name: str) -> tarfile.TarInfo:
        if name not in self._members:
            raise invalid(self.path, f"{name} is missing")
        return self._members[name]


class _Member(tarfile.TarInfo):
    """A member of an archive; one whose name alone would fill the memory is refused."""

    # pylint wants the parameter's name in the standard library, which hides the module.
    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAMING and self.size > _MAX_NAME:
            raise _too_long(self.size)
        return super()._proc_member(tarfile)  # type: ignore[misc, no-any-return]


def _too_long(size: int) -> tarfile.ReadError:
    return tarfile.ReadError(f"a name or an attribute of {size} bytes")


@contextmanager
def opened(path: str) -> Iterator[ArchiveFile]:
    """The archive at ``path`` for the body. Raises ImageError if it is not a plain tar file."""
    _require_tar(path)
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as tar:
            yield ArchiveFile(path, tar)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise invalid(path, f"it is truncated or not a tar file ({error})") from error


def _require_tar(path: str) -> None:
    try:
        with Path(path).open("rb") as stream:
            start = stream.read(8)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise invalid(path, f"it cannot be read on this machine ({error.strerror})") from error
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise invalid(path, f"it is compressed with {name}: decompress it first, because containerd reads plain tar files only")
    if not size:
        raise invalid(path, "it is empty")


def invalid(path: str, why: str) -> ImageError:
    """The error about the archive at ``path``."""
    return ImageError(f"image archive {path}: {why}", code="image_archive")


HOW = "skopeo copy docker://REFERENCE oci-archive:FILE:REFERENCE"
