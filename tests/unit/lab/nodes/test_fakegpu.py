"""The fake GPU: its configuration space as a PCI driver reads it, and QEMU's messages over a socket pair."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from lab.nodes import fakegpu
from lab.nodes.fakegpu import BAR_ACCESS, CONFIG_ACCESS, HEADER, MIB, MODELS, REPLY, Command, Function


@pytest.mark.parametrize(
    ("model", "ids", "pci_class"),
    [
        pytest.param("h100", 0x233010DE, 0x030200, id="h100"),
        pytest.param("a100", 0x20B510DE, 0x030200, id="a100"),
        pytest.param("t4", 0x1EB810DE, 0x030200, id="t4"),
        pytest.param("nvswitch", 0x22A310DE, 0x068000, id="nvswitch"),
    ],
)
def test_shows_ids_and_class(model: str, ids: int, pci_class: int) -> None:
    function = Function(MODELS[model])
    assert (function.config_read(0, 4), function.config_read(8, 4) >> 8) == (ids, pci_class)


def test_ids_are_read_only() -> None:
    function = Function(MODELS["h100"])
    function.config_write(0, 0xFFFFFFFF, 4)
    assert function.config_read(0, 4) == 0x233010DE


@pytest.mark.parametrize(("number", "size", "flags"), [(0, 16 * MIB, 0), (1, 256 * MIB, 8), (2, 32 * MIB, 8), (3, 0, 0)])
def test_sizing_a_bar(number: int, size: int, flags: int) -> None:
    function = Function(MODELS["h100"])
    function.config_write(0x10 + 4 * number, 0xFFFFFFFF, 4)
    assert function.config_read(0x10 + 4 * number, 4) == (-size & 0xFFFFFFFF | flags if size else 0)


def test_capability_list_is_power_management_then_express() -> None:
    function = Function(MODELS["h100"])
    found, place = [], function.config_read(0x34, 1)
    while place:
        found.append(function.config_read(place, 1))
        place = function.config_read(place + 1, 1)
    assert found == [0x01, 0x10]


def test_a_write_across_the_end_changes_only_the_bytes_before_it() -> None:
    function = Function(MODELS["h100"])
    function.config_write(0xFE, 0xFFFFFFFF, 4)
    assert function.config_read(0xFE, 4) == 0


def test_reset_clears_bars_and_registers() -> None:
    function = Function(MODELS["h100"])
    function.config_write(0x10, 0xFD000000, 4)
    function.bar_write(0xFD000010, 7)
    function.reset()
    assert (function.config_read(0x10, 4), function.bar_read(0xFD000010, 4)) == (0, 0)


@pytest.fixture
def qemu() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=fakegpu.serve, args=(theirs, Function(MODELS["h100"]), io.StringIO()))
    thread.start()
    ours.settimeout(5)
    yield ours
    ours.close()
    thread.join(5)
    theirs.close()


def ask(end: socket.socket, command: Command, data: bytes) -> int:
    end.sendall(HEADER.pack(command, len(data)) + data)
    answered, size, value = REPLY.unpack(end.recv(REPLY.size, socket.MSG_WAITALL))
    assert (answered, size) == (Command.RET, 8)
    return int(value)


def test_answers_config_and_bar_accesses(qemu: socket.socket) -> None:
    assert ask(qemu, Command.CONFIG_READ, CONFIG_ACCESS.pack(0, 0, 4)) == 0x233010DE
    assert ask(qemu, Command.CONFIG_WRITE, CONFIG_ACCESS.pack(0x10, 0xFD000000, 4)) == 0
    assert ask(qemu, Command.BAR_READ, BAR_ACCESS.pack(0xFD000000, 0, 4, True)) == 0x180000A1
    assert ask(qemu, Command.BAR_WRITE, BAR_ACCESS.pack(0xFD000100, 0x1234, 4, True)) == 0
    assert ask(qemu, Command.BAR_READ, BAR_ACCESS.pack(0xFD000100, 0, 1, True)) == 0x34


def test_does_not_answer_memory_layout_and_interrupt_messages(qemu: socket.socket) -> None:
    for command in fakegpu.UNANSWERED:
        qemu.sendall(HEADER.pack(command, 4) + b"\0" * 4)
    assert ask(qemu, Command.DEVICE_RESET, b"") == 0


def test_message_sizes_are_those_of_the_c_structures() -> None:
    assert (HEADER.size, CONFIG_ACCESS.size, BAR_ACCESS.size) == (16, 12, struct.calcsize("@QQI?0Q"))
