"""What a disk says, as an error of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LayerError

_BY_ERRNO = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EROFS: "read_only"}


@contextmanager
def disk_errors_named() -> Iterator[None]:
    """A full or read-only filesystem becomes an error of ours with a code of its own."""
    try:
        yield
    except OSError as error:
        code = _BY_ERRNO.get(error.errno or 0, "os_error")
        raise LayerError(f"{error.filename or 'the system'}: {error.strerror}: look at this file and its filesystem", code=code) from error
