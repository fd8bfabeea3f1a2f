"""A fake systemd: units in the folders in which systemd looks for them, and which of them run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.kit.reply import Reply

if TYPE_CHECKING:
    from tests.kit.node import FakeNode

# systemd.unit(5), the first counts.
FOLDERS = (
    *("etc/systemd/system.control", "run/systemd/transient", "run/systemd/generator.early", "etc/systemd/system", "run/systemd/system"),
    *("run/systemd/generator", "usr/local/lib/systemd/system", "lib/systemd/system", "run/systemd/generator.late"),
)
_WANTS = "etc/systemd/system/multi-user.target.wants"


def _file(node: FakeNode, name: str) -> Path | None:
    return next((file for folder in FOLDERS if (file := node.root / folder / name).is_symlink() or file.exists()), None)


def real_name(node: FakeNode, name: str) -> str:
    """The unit's own name, where ``name`` is a link to it."""
    file = _file(node, name)
    return file.readlink().name if file and file.is_symlink() and file.readlink().name.endswith(".service") else name


def _load_state(node: FakeNode, name: str) -> str:
    file = _file(node, name)
    if file is None:
        return "not-found"
    is_masked = str(file.readlink()) == "/dev/null" if file.is_symlink() else not file.read_text()
    return "masked" if is_masked else "loaded"


def show(node: FakeNode, units: list[str]) -> Reply:
    """As ``systemctl show`` with the properties that the library asks for. A unit that runs keeps running when its file goes."""
    found = []
    for asked in units:
        name = real_name(node, asked)
        state = _load_state(node, name)
        enabled = {"loaded": "enabled" if (node.root / _WANTS / name).is_symlink() else "disabled", "masked": "masked"}.get(state, "")
        active = "active" if name.removesuffix(".service") in node.running else "inactive"
        found.append(f"Id={name}\nLoadState={state}\nActiveState={active}\nUnitFileState={enabled}\n")
    return Reply(out="\n".join(found))


def change(node: FakeNode, verb: str, service: str) -> Reply:
    """As ``systemctl start``, ``stop`` and ``restart``."""
    name = real_name(node, f"{service}.service")
    if name in node.stuck_units:
        return Reply(1, err=f"Job for {name} failed.\n")
    if verb == "stop":
        node.running.discard(name.removesuffix(".service"))
        return Reply()
    state = _load_state(node, name)
    if state != "loaded":
        return Reply(5 if state == "not-found" else 1, err=f"Unit {name} {state}.\n")
    node.running.add(name.removesuffix(".service"))
    return Reply()


def disable(node: FakeNode, service: str) -> Reply:
    """As ``systemctl disable --now``."""
    (node.root / _WANTS / f"{service}.service").unlink(missing_ok=True)
    return change(node, "stop", service)


def add_unit(node: FakeNode, name: str, folder: str = "usr/lib/systemd/system", runs: bool = True, is_enabled: bool = True) -> None:
    """Puts a unit in one of systemd's folders."""
    node.put(f"{folder}/{name}.service", "[Service]\nExecStart=/usr/bin/true\n")
    if is_enabled:
        node.link(f"{_WANTS}/{name}.service", f"/{folder}/{name}.service")
    if runs:
        node.running.add(name)
