"""A fake GPU: a PCI function in software, with NVIDIA's ids, for a QEMU guest. It computes nothing.

usage: fakegpu.py [--log FILE] --function MODEL [--function MODEL …] -- qemu-system-x86_64 ARGUMENTS …

Starts QEMU with an `x-pci-proxy-dev` for each function and answers at the other end of its socket. QEMU's memory must
be a shared memory backend. The guest sees configuration space with power management and PCI Express capabilities, and
three 32-bit BARs that read back what was written; there are no interrupts, no DMA and no snapshots.

Protocol: QEMU's multi-process device emulation, include/hw/remote/mpqemu-link.h and hw/remote/proxy.c (QEMU 7.2):
messages of a 16-byte header (int32 command, 4 bytes of padding, uint64 size) and `size` bytes. Configuration and BAR
accesses and resets are answered with RET and a uint64; memory layout and interrupt set-up are not answered, and the
file descriptors that come with them are ignored. QEMU's device is experimental and may be removed in a later version.

This file uses the standard library only and nothing of the lab, so that it also runs by itself (`python3 -I fakegpu.py`).
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TextIO

NVIDIA = 0x10DE
CONFIG_BYTES = 256
COMMAND, CACHE_LINE, BAR0, SUBSYSTEM, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = (
    4,
    0x0C,
    0x10,
    0x2C,
    0x34,
    0x3C,
    0x3D,
)
POWER_MANAGEMENT, PCI_EXPRESS = 0x60, 0x78
PREFETCHABLE = 8
MIB = 1 << 20
BOOT_0, BOOT_42 = 0x000, 0xA00
"""NV_PMC_BOOT_0 and _42 in BAR 0, by which NVIDIA's driver identifies the chip (open-gpu-kernel-modules)."""


@dataclass(frozen=True)
class Model:
    """What the function looks like to the guest."""

    device: int
    pci_class: int
    boot0: int
    subsystem: int = 0x16C110DE
    bars: tuple[tuple[int, int], ...] = ((16 * MIB, 0), (256 * MIB, PREFETCHABLE), (32 * MIB, PREFETCHABLE))
    """Size in bytes (a power of two) and flags, in BAR order."""


MODELS = {
    "h100": Model(0x2330, 0x030200, 0x180000A1),
    "a100": Model(0x20B5, 0x030200, 0x170000A1),
    "t4": Model(0x1EB8, 0x030200, 0x164000A1),
    "nvswitch": Model(0x22A3, 0x068000, 0, bars=((32 * MIB, 0),)),
}


class Command(IntEnum):
    """MPQemuCmd."""

    SYNC_SYSMEM = 0
    RET = 1
    CONFIG_WRITE = 2
    CONFIG_READ = 3
    BAR_WRITE = 4
    BAR_READ = 5
    SET_IRQFD = 6
    DEVICE_RESET = 7


UNANSWERED = (Command.SYNC_SYSMEM, Command.SET_IRQFD)
HEADER = struct.Struct("<i4xQ")
CONFIG_ACCESS = struct.Struct("<IIi")
BAR_ACCESS = struct.Struct("<QQI?3x")
REPLY = struct.Struct("<i4xQQ")


class Function:
    """State of one PCI function: configuration space with its writable bits, and the registers behind its BARs."""

    def __init__(self, model: Model) -> None:
        """Start in the state after power-on."""
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on."""
        self.config = bytearray(CONFIG_BYTES)
        self.writable = bytearray(CONFIG_BYTES)
        self.registers = {(0, BOOT_0): self.model.boot0, (0, BOOT_42): self.model.boot0 & 0x1FF00000}
        put = struct.pack_into
        put("<HHHH", self.config, 0, NVIDIA, self.model.device, 0, 0x0010)  # status: there is a capability list
        put("<I", self.config, 8, self.model.pci_class << 8 | 0xA1)
        put("<I", self.config, SUBSYSTEM, self.model.subsystem)
        self.config[CAPABILITIES] = POWER_MANAGEMENT
        self.config[INTERRUPT_PIN] = 1
        put("<BBHHH", self.config, POWER_MANAGEMENT, 0x01, PCI_EXPRESS, 3, 8, 0)
        put("<BBH", self.config, PCI_EXPRESS, 0x10, 0, 2)  # version 2, an endpoint
        put("<I", self.config, PCI_EXPRESS + 12, 0x103)  # link capabilities: 8 GT/s, 16 lanes
        put("<H", self.config, PCI_EXPRESS + 18, 0x1103)
        for number, (size, flags) in enumerate(self.model.bars):
            put("<I", self.config, BAR0 + 4 * number, flags)
            put("<I", self.writable, BAR0 + 4 * number, -size & 0xFFFFFFFF)
        put("<H", self.writable, COMMAND, 0x0547)
        self.writable[CACHE_LINE] = self.writable[INTERRUPT_LINE] = 0xFF
        put("<H", self.writable, POWER_MANAGEMENT + 4, 0x0003)

    def config_read(self, address: int, length: int) -> int:
        """Value at `address`; 0 beyond the first 256 bytes, where extended capabilities would be."""
        return int.from_bytes(self.config[address : address + length], "little")

    def config_write(self, address: int, value: int, length: int) -> None:
        """Change the writable bits."""
        for place in range(address, min(address + length, CONFIG_BYTES)):
            mask = self.writable[place]
            byte = value >> 8 * (place - address) & 0xFF
            self.config[place] = self.config[place] & ~mask & 0xFF | byte & mask

    def bar_of(self, address: int) -> tuple[int, int]:
        """BAR number and offset of a guest physical address; -1 and the address if it is in none."""
        for number, (size, _) in enumerate(self.model.bars):
            base = self.config_read(BAR0 + 4 * number, 4) & ~0xF
            if base and base <= address < base + size:
                return number, address - base
        return -1, address

    def bar_read(self, address: int, length: int) -> int:
        """Value of the register at a guest physical address; 0 if it was never written."""
        return self.registers.get(self.bar_of(address), 0) & (1 << 8 * length) - 1

    def bar_write(self, address: int, value: int) -> None:
        """Keep the value for later reads."""
        self.registers[self.bar_of(address)] = value

    def answer(self, command: Command, data: bytes) -> tuple[int, str]:
        """Carry out a message of QEMU's; returns the value for the answer and a line for the log."""
        if command in (Command.CONFIG_READ, Command.CONFIG_WRITE):
            address, value, length = CONFIG_ACCESS.unpack_from(data)
            if command == Command.CONFIG_READ:
                value = self.config_read(address, length)
                return value, f"config read {address:#x} {length} {value:#x}"
            self.config_write(address, value, length)
            return 0, f"config write {address:#x} {length} {value:#x}"
        if command in (Command.BAR_READ, Command.BAR_WRITE):
            address, value, length, _ = BAR_ACCESS.unpack_from(data)
            number, offset = self.bar_of(address)
            if command == Command.BAR_READ:
                value = self.bar_read(address, length)
                return value, f"bar{number} read {offset:#x} {length} {value:#x}"
            self.bar_write(address, value)
            return 0, f"bar{number} write {offset:#x} {length} {value:#x}"
        if command == Command.DEVICE_RESET:
            self.reset()
            return 0, "reset"
        raise ValueError(f"command {command} is not one that QEMU sends")


def serve(end: socket.socket, function: Function, log: TextIO) -> None:
    """Answer QEMU until it closes its end."""
    while header := receive(end, HEADER.size):
        number, size = HEADER.unpack(header)
        command, data = Command(number), receive(end, size)
        if command in UNANSWERED:
            continue
        value, line = function.answer(command, data)
        log.write(line + "\n")
        end.sendall(REPLY.pack(Command.RET, 8, value & 0xFFFFFFFFFFFFFFFF))


def receive(end: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes; returns none at the end of the stream."""
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


def die_with_parent() -> None:
    """Runs in QEMU's process: the kernel kills it when this process ends (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def run(models: Sequence[str], log: TextIO, qemu: Sequence[str]) -> int:
    """Run QEMU with the functions; returns its exit status."""
    argv = list(qemu)
    ends = []
    for number, name in enumerate(models):
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        argv += ["-device", f"x-pci-proxy-dev,id=fakegpu{number},fd={theirs.fileno()}"]
        threading.Thread(target=serve, args=(ours, Function(MODELS[name]), log), daemon=True).start()
    process = subprocess.Popen(
        argv,
        pass_fds=[end.fileno() for end in ends],
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one call of a C function that was looked up before
    )
    for end in ends:
        end.close()
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Runs QEMU with fake NVIDIA functions on its PCI bus.")
    parser.add_argument("--log", type=Path, default=Path("/dev/null"), help="file to which every access is written")
    parser.add_argument("--function", action="append", required=True, choices=sorted(MODELS))
    parser.add_argument("qemu", nargs="+", help="QEMU's command line, after --")
    options = parser.parse_args(argv)
    with options.log.open("w", buffering=1 << 16) as log:
        return run(options.function, log, options.qemu)


if __name__ == "__main__":
    sys.exit(main())
