"""Reading files that others may have written, or put something else in the place of."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


STRANGE: list[tuple[str, Callable[[Path], object], int]] = [
    ("a pipe", os.mkfifo, errno.EINVAL),
    ("a folder", Path.mkdir, errno.EISDIR),
    ("a socket", listening, errno.ENXIO),
    ("a device", lambda path: path.symlink_to("/dev/zero"), errno.EINVAL),
    ("a loop", lambda path: path.symlink_to(path), errno.ELOOP),
    ("a link to a pipe", lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")), errno.EINVAL),
    ("nothing", lambda path: None, errno.ENOENT),
]
READERS: list[Callable[[Path], object]] = [files.read_bytes, files.read_document, files.sha256, files.md5, lambda p: files.read_ends(p, 9)]


@pytest.mark.parametrize("read", READERS, ids=["bytes", "document", "sha256", "md5", "ends"])
@pytest.mark.parametrize(("make", "number"), [row[1:] for row in STRANGE], ids=[row[0] for row in STRANGE])
def test_what_is_no_file_is_an_error_and_nobody_waits_for_it(
    tmp_path: Path, make: Callable[[Path], object], number: int, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(OSError, match=r".") as caught:
        read(path)
    is_link = path.is_symlink() and read is files.read_document
    assert caught.value.errno == (errno.ELOOP if is_link else number)
    assert caught.value.strerror
    assert caught.value.filename == str(path)
    assert files.read_text(path) is None


def test_only_a_document_of_ours_may_not_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert files.read_text(tmp_path / "link") == "x"
    with pytest.raises(OSError, match="symbolic links"):
        files.read_document(tmp_path / "link")


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 10_000])
def test_a_file_is_read_up_to_the_limit(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(size))
    if size <= 100:
        assert files.read_bytes(path, 100) == path.read_bytes()
        return
    with pytest.raises(OSError, match="larger than 100 bytes"):
        files.read_bytes(path, 100)


def test_files_of_proc_have_no_size_and_are_read_all_the_same() -> None:
    assert (files.read_text("/proc/self/comm") or "").strip()
    assert files.read_bytes("/proc/self/environ") == Path("/proc/self/environ").read_bytes()
    with pytest.raises(OSError, match="larger than 3 bytes"):
        files.read_bytes("/proc/self/mountinfo", 3)


def test_a_path_that_no_file_can_have_is_a_file_that_cannot_be_read() -> None:
    assert files.read_text("a\0b") is None
    assert files.read_text("x" * 5000) is None


def test_of_a_large_file_both_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("begin" + "." * 100 + "end")
    assert files.read_ends(path, 108) == path.read_text()
    assert files.read_ends(path, 10) == "begin\n[98 bytes were cut here]\n..end"


def test_bytes_that_are_not_utf_8_are_written_as_they_were_read(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "x", b"caf\xe9\n".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "x").read_bytes() == b"caf\xe9\n"
