"""Reading, hashing and locking files, and writing them so that a reader sees the old or the new file, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import BusyError

_CHUNK = 1 << 20
LARGEST = 64 << 20  # bytes; dpkg's status file and a manifest have a few million
_PROC = 1 << 16  # bytes read at once of a file of /proc, whose size is not known
# Errors of a path at which nothing is. A loop of links leads nowhere.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# A pipe must not make the open wait, nor a terminal become ours.
READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_regular(path: Path | str, follow: bool = True) -> tuple[int, int]:
    """Opens a regular file to read; returns its descriptor and its size, which is 0 for files of /proc. Raises OSError for anything else,
    and never waits. Without ``follow``, a link is refused."""
    fd = os.open(path, READING if follow else READING | os.O_NOFOLLOW)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return fd, status.st_size
    os.close(fd)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_bytes(path: Path | str, limit: int = LARGEST, follow: bool = True) -> bytes:
    """The contents of a regular file of at most ``limit`` bytes: the one way to read a whole file that others may have written or replaced.

    Raises OSError, also for any other kind of file and for a larger one. Never waits, and holds no more than the limit in memory.
    """
    fd, size = open_regular(path, follow)
    try:
        chunks, left = [], limit + 1
        while left > 0 and (chunk := os.read(fd, min(left, size + 1 if size else _PROC))):
            chunks.append(chunk)
            left -= len(chunk)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return b"".join(chunks)


def read_text(path: Path | str) -> str | None:
    """The file's text, undecodable bytes replaced; None if it cannot be read. For facts, never for files that must exist."""
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: a path that no file can have
        return None


def read_if_there(path: Path | str) -> str:
    """The same; "" if there is no such file. Raises OSError if it cannot be read: what it holds is unknown, and not nothing."""
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except OSError as error:
        if error.errno in ABSENT:
            return ""
        raise


def read_document(path: Path) -> str:
    """The text of one of our own documents, which is never behind a link. Raises OSError, UnicodeDecodeError."""
    return read_bytes(path, follow=False).decode("utf-8")


def read_ends(path: Path, limit: int) -> str:
    """The text of a regular file; of one that is larger than ``limit`` bytes, both ends, and between them a line that says what was cut.
    Raises OSError."""
    fd, size = open_regular(path)
    try:
        if size <= limit:
            return os.pread(fd, limit, 0).decode("utf-8", "replace")
        half = limit // 2
        first, last = os.pread(fd, half, 0), os.pread(fd, half, size - half)
    finally:
        os.close(fd)
    return f"{first.decode('utf-8', 'replace')}\n[{size - 2 * half} bytes were cut here]\n{last.decode('utf-8', 'replace')}"


def leads_elsewhere(root: Path, folder: str) -> bool:
    """Whether a folder of the system at ``root``, or one above it, is a link: nothing behind it was placed by us."""
    try:
        return (root / folder).resolve() != root.resolve() / folder
    except (OSError, RuntimeError):  # a loop of links
        return True


def sha256(path: Path | str) -> str:
    """The SHA-256 of a regular file's contents, in hexadecimal. Raises OSError, also for any other kind of file."""
    return _hashed(path, hashlib.sha256())


def md5(path: Path | str) -> str:
    """The same by MD5, which dpkg records for packages' files."""
    return _hashed(path, hashlib.md5(usedforsecurity=False))


def _hashed(path: Path | str, digest: hashlib._Hash) -> str:
    fd, size = open_regular(path)
    try:
        buffer_size = _buffer_size(size)
        while chunk := os.read(fd, buffer_size):
            digest.update(chunk)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _buffer_size(size: int) -> int:
    """How many bytes to read at once: allocating a large buffer for a small file takes longer than reading it."""
    return min(_CHUNK, size + 1)


def copy_hashed(source: int, target: int) -> tuple[str, int]:
    """Copies the rest of one descriptor to another; returns the SHA-256 and the size in bytes of what was copied. Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    buffer_size = _buffer_size(os.fstat(source).st_size)
    while chunk := os.read(source, buffer_size):
        digest.update(chunk)
        size += len(chunk)
        while chunk:
            chunk = chunk[os.write(target, chunk) :]
    return digest.hexdigest(), size


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds ``path`` to an OSError of the body that names no file: a write or a flush only knows its descriptor."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes ``path`` through a temporary file: fsync, rename, fsync of the folder. Bytes that were decoded with ``surrogateescape`` are
    written as they were."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = create(temporary, mode)
    try:
        with named(path), os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            sync_file(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create(path: Path | str, mode: int, folder: int | None = None) -> int:
    """Makes a new file for writing and returns its descriptor; what an interrupted run left at ``path`` is removed, never written to.
    ``folder`` is the descriptor that a relative path is relative to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode, dir_fd=folder)
    except FileExistsError:
        os.unlink(path, dir_fd=folder)
        return os.open(path, flags, mode, dir_fd=folder)


def remove_durably(path: Path) -> None:
    """Removes a file, which may be gone already, and flushes the folder, so that a power cut does not bring it back."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def sync_file(fd: int) -> None:
    """Flushes the contents of an open file to the disk."""
    os.fsync(fd)


def sync_filesystem(path: Path) -> None:
    """Flushes all that was written to the filesystem of ``path``, contents and names, in one call instead of one for each file.

    Python has no function for syncfs(2). Unlike sync(2), it reports write errors of the disk. Raises OSError.
    """
    import ctypes  # noqa: PLC0415 - a run that changes nothing does not wait for it

    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Flushes the names in a folder to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private(path: Path) -> None:
    """Makes a folder that only its owner, root, may enter (R9), whatever the umask. Raises OSError for a link."""
    os.close(own_folder(path, 0o700))


def own_folder(path: Path, mode: int) -> int:
    """Makes a folder of ours, and those above it, whatever the umask; returns a descriptor of it. One that is there becomes root's and gets
    ``mode``. Raises OSError for a link."""
    _make_folder(path, mode)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with named(path):
            status = os.fstat(fd)
            if status.st_uid not in (0, os.getuid()):
                os.fchown(fd, os.getuid(), os.getgid())
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_folder(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode)
    except FileNotFoundError:
        _make_folder(path.parent, 0o755)
        path.parent.chmod(0o755)
        path.mkdir(mode)
    except OSError:
        if not path.is_dir():
            raise


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` for the body. Raises BusyError, which names the holder, if it is taken."""
    make_private(path.parent)  # whoever can open the file, even for reading, can hold the lock
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "a+", encoding="utf-8") as stream:
        os.fchmod(fd, 0o600)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "an unknown process"
            raise BusyError(f"{doing} cannot begin: {holder} is already running on this node (lock {path}); wait until it ends") from None
        stream.truncate(0)
        stream.write(f"{doing} (process {os.getpid()})\n")
        stream.flush()
        yield


def relative(root: Path, path: Path) -> str:
    """A path relative to the root, with merged /usr resolved; a link as the last part is not followed."""
    return str((path.parent.resolve() / path.name).relative_to(root.resolve()))


def remove_tree(folder: Path) -> bool:
    """Removes a folder and all that is in it, without following a link. Removes nothing, and returns False, if another filesystem is
    mounted in it, or if that cannot be told."""
    device = folder.lstat().st_dev
    try:
        if any(os.lstat(inside).st_dev != device for inside, _folders, _names in os.walk(folder, onerror=_raise)):
            return False
    except OSError:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _raise(error: OSError) -> None:
    raise error


def remove_empty_folder(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
