"""Folders, locks and logs of ours: root's own, with the right modes whatever the umask, and no link is followed."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import BusyError, DataError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.paths import LOGS
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files, logs
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.events import ProgressLog

USER = 1234
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_lock_is_roots_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    lock = tmp_path / "run/gpu-prebake/lock"
    with files.locked(lock, "a bake"):
        assert (mode(lock), mode(lock.parent), mode(lock.parent.parent)) == (0o600, 0o700, 0o755)


def test_a_lock_of_an_earlier_version_becomes_roots_alone(tmp_path: Path) -> None:
    lock = tmp_path / "gpu-prebake/lock"
    lock.parent.mkdir(mode=0o755)
    lock.write_text("")
    with files.locked(lock, "a boot"):
        assert (mode(lock), mode(lock.parent)) == (0o600, 0o700)


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        files.locked(lock, "a removal"),
        pytest.raises(BusyError, match=rf"a removal \(process {os.getpid()}\)"),
        files.locked(lock, "a bake"),
    ):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root")
    (tmp_path / "lock").symlink_to("passwd")
    with pytest.raises(OSError, match="symbolic links"), files.locked(tmp_path / "lock", "a bake"):
        pass
    assert (tmp_path / "passwd").read_text() == "root"


def test_a_private_folder_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    files.make_private(tmp_path / "var/lib/store")
    assert [mode(tmp_path / path) for path in ("var", "var/lib", "var/lib/store")] == [0o755, 0o755, 0o700]


def test_a_private_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "store").symlink_to("elsewhere")
    with pytest.raises(OSError, match="store"):
        files.make_private(tmp_path / "store")
    assert mode(tmp_path / "elsewhere") == 0o755


def test_a_document_is_never_written_into_what_an_interrupted_run_left(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root")
    os.link(tmp_path / "passwd", tmp_path / f".report.{os.getpid()}.tmp")
    files.write_atomic(tmp_path / "report", "new", 0o600)
    assert (tmp_path / "passwd").read_text() == "root"
    assert ((tmp_path / "report").read_text(), mode(tmp_path / "report")) == ("new", 0o600)


# --- logs ------------------------------------------------------------------------------------------------------------


def write(root: Path, text: str = "line") -> None:
    with logs.create(root, "boot.log") as stream:
        stream.write(text)


def test_a_log_has_its_modes_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    write(tmp_path)
    assert (mode(tmp_path / LOGS / "boot.log"), mode(tmp_path / LOGS)) == (0o644, 0o755)
    assert [path.name for path in (tmp_path / LOGS).iterdir()] == ["boot.log"]


def test_each_run_has_a_log_of_its_own_inode(tmp_path: Path) -> None:
    write(tmp_path, "first")
    first = (tmp_path / LOGS / "boot.log").open()
    write(tmp_path, "second")
    with first:
        assert (first.read(), (tmp_path / LOGS / "boot.log").read_text()) == ("first", "second")


@pytest.mark.parametrize("name", ["boot.log", ".boot.log.new"])
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_in_the_log_folder_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, name: str, kind: str) -> None:
    victim = tmp_path / "passwd"
    victim.write_text("root")
    (tmp_path / LOGS).mkdir(parents=True)
    if kind == "symbolic":
        (tmp_path / LOGS / name).symlink_to(victim)
    else:
        os.link(victim, tmp_path / LOGS / name)
    ProgressLog(tmp_path, "boot.log")("a line")
    assert victim.read_text() == "root"
    assert (tmp_path / LOGS / "boot.log").read_text().endswith(" a line\n")
    assert not (tmp_path / LOGS / "boot.log").is_symlink()


@needs_root
def test_a_log_folder_that_a_user_made_becomes_roots(tmp_path: Path) -> None:
    folder = tmp_path / LOGS
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    os.chown(folder, USER, USER)
    write(tmp_path)
    assert (folder.stat().st_uid, folder.stat().st_gid, mode(folder)) == (0, 0, 0o755)


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_log_folder_that_is_a_link_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / LOGS).parent.mkdir(parents=True)
    (tmp_path / LOGS).symlink_to(tmp_path / target)
    with pytest.raises(DataError) as caught:
        write(tmp_path)
    assert caught.value.code == "log_untrusted"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_in_place_of_a_log_is_named(tmp_path: Path) -> None:
    (tmp_path / LOGS / "boot.log").mkdir(parents=True)
    with pytest.raises(DataError, match=r"boot\.log") as caught:
        write(tmp_path)
    assert caught.value.code == "log_untrusted"


def test_a_link_above_the_logs_leads_to_nothing_outside_of_a_mounted_image(tmp_path: Path) -> None:
    outside, image = tmp_path / "data/log", tmp_path / "image"
    outside.mkdir(parents=True)
    (image / "var").mkdir(parents=True)
    (image / "var/log").symlink_to(outside)
    write(image)
    assert list(outside.iterdir()) == []
    assert (image / str(outside).lstrip("/") / "gpu-prebake/boot.log").read_text() == "line"


def test_nobody_who_is_not_root_can_open_the_lock(tmp_path: Path) -> None:
    """A read-only descriptor is enough to hold a lock: neither file nor folder lets others in."""
    lock = tmp_path / "run/lock"
    with files.locked(lock, "a bake"):
        pass
    with lock.open() as stream:  # as root
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not (mode(lock) | mode(lock.parent)) & 0o077
