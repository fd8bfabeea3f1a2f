"""Native nodes: what a boot in the lab changes in a root is undone before the root is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.machine.errors import LabError
from lab.nodes import base, native


def make_root(root: Path) -> Path:
    for folder in ("etc", "run", "tmp", "var/tmp", "var/log/journal", "var/lib/systemd", "root"):
        (root / folder).mkdir(parents=True)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    return root


def test_restores_a_resolver_link(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    target = Path("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc/resolv.conf").symlink_to(target)
    native.set_resolver(root)
    native.set_resolver(root)
    assert not (root / "etc/resolv.conf").is_symlink()
    native.clean(root)
    assert (root / "etc/resolv.conf").readlink() == target
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["machine-id", "resolv.conf"]


def test_removes_a_resolver_where_there_was_none(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    native.set_resolver(root)
    native.clean(root)
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["machine-id"]


def test_empties_the_machine_id_and_run(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "run/leftover").mkdir()
    native.clean(root)
    assert ((root / "etc/machine-id").read_text(), list((root / "run").iterdir())) == ("", [])


def kernel(kver: str) -> base.Kernel:
    return base.Kernel(kver, Path("v"), Path("i"))


def test_a_series_does_not_match_a_longer_one() -> None:
    available = [kernel("6.1.0-56-cloud-amd64"), kernel("6.12.95+deb12-cloud-amd64")]
    assert base.choose(available, "6.1").kver == "6.1.0-56-cloud-amd64"
    assert base.choose(available, "6.12").kver == "6.12.95+deb12-cloud-amd64"
    with pytest.raises(LabError, match="matches 0 of the kernels here"):
        base.choose(available, "6.6")
