"""The lab's network on the machine: one bridge for native nodes and the registry, and rules that give nodes a way out.

Everything is recognised by its name (interfaces `gpulab…`, iptables chains `GPULAB`), so that a later run can remove
what a killed one has left behind.
"""

from __future__ import annotations

import re
from pathlib import Path

from lab.machine import host
from lab.machine.errors import LabError

BRIDGE = "gpulab0"
PREFIX = "gpulab"
ADDRESS = "10.213.0.1"
NETWORK = "10.213.0.0/24"
FIRST_NODE, LAST_NODE = 10, 250
CHAIN = "GPULAB"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

CHAINS: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    ("nat", "POSTROUTING", (("-s", NETWORK, "!", "-d", NETWORK, "-j", "MASQUERADE"),)),
    # Another program may have set FORWARD's policy to drop, so the jump is the first rule there.
    ("filter", "FORWARD", (("-i", BRIDGE, "-j", "ACCEPT"), ("-o", BRIDGE, "-j", "ACCEPT"))),
)


def up() -> str:
    """Create the bridge and the rules; returns what ip_forward was before, for `down`."""
    was = FORWARDING.read_text().strip()
    _ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    _ip("address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for table, hook, rules in CHAINS:
        _iptables(table, "-N", CHAIN)
        for rule in rules:
            _iptables(table, "-A", CHAIN, *rule)
        _iptables(table, "-I", hook, "-j", CHAIN)
    FORWARDING.write_text("1\n")
    return was


def down(forwarding_was: str | None) -> list[str]:
    """Remove everything that `up` and `attach` create, by whichever run; returns what was removed, as text."""
    removed = []
    for name in interfaces():
        if host.run(["ip", "link", "delete", name], timeout_s=30, check=False).rc == 0:
            removed.append(f"interface {name}")
    for table, hook, _ in CHAINS:
        while _iptables(table, "-D", hook, "-j", CHAIN, check=False) == 0:
            removed.append(f"iptables jump {table}/{hook}")
        if _iptables(table, "-F", CHAIN, check=False) == 0:
            _iptables(table, "-X", CHAIN)
            removed.append(f"iptables chain {table}/{CHAIN}")
    if forwarding_was in ("0", "1") and FORWARDING.read_text().strip() != forwarding_was:
        FORWARDING.write_text(f"{forwarding_was}\n")
        removed.append("ip_forward setting")
    return removed


def interfaces() -> list[str]:
    """The lab's interfaces on this machine: veth ends first, the bridge last."""
    names = [path.name for path in Path("/sys/class/net").glob(f"{PREFIX}*")]
    return sorted((name for name in names if re.fullmatch(rf"{PREFIX}[0-9]+", name)), key=lambda name: name == BRIDGE)


def attach(leader: int, number: int) -> str:
    """Give the network namespace of process `leader` an interface `lab0` with the address 10.213.0.`number`; returns the address."""
    address, outer = f"10.213.0.{number}", f"{PREFIX}{number}"
    # Not `host0`: systemd-networkd in a container takes over an interface of that name and asks for DHCP.
    _ip("link", "add", outer, "type", "veth", "peer", "name", "lab0", "netns", str(leader))
    _ip("link", "set", outer, "master", BRIDGE, "up")
    inside = (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{address}/24", "dev", "lab0"),
        ("link", "set", "lab0", "up"),
        ("route", "add", "default", "via", ADDRESS),
    )
    for words in inside:
        host.run(["nsenter", "-t", str(leader), "-n", "ip", *words], timeout_s=30)
    return address


def free_number() -> int:
    """A node number that no interface has; the caller must hold the session's lock from here until `attach`."""
    taken = {int(name.removeprefix(PREFIX)) for name in interfaces()}
    for number in range(FIRST_NODE, LAST_NODE):
        if number not in taken:
            return number
    raise LabError(f"no address left in {NETWORK}: stop a native node")


def _ip(*words: str) -> None:
    host.run(["ip", *words], timeout_s=30)


def _iptables(table: str, *words: str, check: bool = True) -> int:
    return host.run(["iptables", "-w", "10", "-t", table, *words], timeout_s=30, check=check).rc
