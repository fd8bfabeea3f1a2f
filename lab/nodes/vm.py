"""VMs: a temporary overlay of a disk, booted under TCG by QEMU itself or by the disk's boot loader, with or without fake GPUs."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.machine import host, paths, ssh
from lab.machine.errors import KernelPanicError, LabError
from lab.machine.progress import say, step
from lab.nodes import base, disk, fakegpu, record
from lab.nodes.disk import Disk
from lab.nodes.node import Node, wait_end
from lab.nodes.record import Record

BOOT_TIMEOUT_S = 900.0  # for a busy machine; on an idle one it takes 15 to 25
STOP_TIMEOUT_S = 600.0  # likewise; on an idle one it takes 3
PORTS = range(22200, 22400)

# Without cmpxchg16b: with it, under QEMU 7.2's TCG, Linux 6.12 panics at random places in its first seconds (slab
# allocator; 5 of 5 boots); without it, it boots (3 of 3). 6.1 boots either way.
CPU = "max,-cx16"

# With two CPUs under QEMU 7.2's TCG, one CPU sometimes (1 in 5 boots of 6.12) executes a breakpoint that the other has
# just removed while the kernel patches its own code. The kernel does not know of that breakpoint and panics. Such a boot
# says nothing about what is tested, so it is repeated. `smp=1` avoids it.
EMULATOR_TRIES = 3

# No getty on the serial console, whose output is the log.
APPEND = (
    "root=/dev/vda rw rootfstype=ext4 console=ttyS0 quiet net.ifnames=0 mitigations=off no_timer_check "
    "systemd.mask=serial-getty@ttyS0.service systemd.mask=getty@tty1.service"
)


class VM(Node):
    """One VM of the session. `target` is its ssh address."""

    kind = "vm"
    ssh_timeout_s = 300.0

    def __init__(self, state: Record) -> None:
        """Wrap a record; use `create` or `find`."""
        super().__init__(state)
        self.overlay = Path(state.folder) / "overlay.qcow2"
        self.logs = paths.logs(record.session())

    @classmethod
    def create(
        cls,
        name: str,
        source: Disk,
        *,
        kernel: str = "",
        gpu: str | None = None,
        smp: int = 2,
        memory_mb: int = 2048,
        append: str = "",
    ) -> VM:
        """Boot a temporary overlay of `source` and wait until ssh answers.

        `kernel`: a kernel release of the disk, or a series (`6.1`); if empty, the BIOS starts the disk's own boot loader. `gpu`: models
        of lab.nodes.fakegpu, separated by commas, or none. `append`: additional kernel arguments.
        """
        gpus(gpu)
        chosen = base.choose(source.kernels, kernel).kver if kernel else ""
        with record.lock():
            state = record.new(name, cls.kind)
            state.address, state.port = "127.0.0.1", free_port()
            state.disk, state.kver, state.gpu = str(source.path.parent), chosen, gpu or ""
            state.smp, state.memory_mb, state.append = smp, memory_mb, append
            record.save(state)
        vm = cls(state)
        try:
            disk.overlay(source.path, vm.overlay)
            vm.start()
        except BaseException:
            vm.destroy()
            raise
        return vm

    @property
    def serial(self) -> Path:
        """Log of the serial console, of the current boot or the last one."""
        return self.logs / f"{self.state.name}.boot{self.state.boots}.serial"

    @property
    def monitor(self) -> Path:
        """Socket of QEMU's monitor, which speaks the human protocol."""
        return Path(self.state.folder) / "monitor"

    def start(self, *, wait: bool = True) -> None:
        """Power on and, with `wait`, wait until ssh answers."""
        if self.is_running:
            raise LabError(f"VM {self.state.name} is already running")
        for tries_left in reversed(range(EMULATOR_TRIES)):
            log = self.logs / f"{self.state.name}.qemu"
            what = (
                f"{self.state.name}: VM, kernel {self.state.kver or 'of its boot loader'}, GPU {self.state.gpu or 'none'}, power-on to ssh"
            )
            try:
                with step(what):
                    self._power_on(log)
                    if wait:
                        self.wait(log)
                return
            except KernelPanicError:
                if not tries_left or not is_emulators_fault(self.serial.read_text(errors="replace")):
                    raise
            say(f"{self.state.name}: the emulator failed while the kernel patched its own code; booting again; log: {self.serial}")
            self.kill()

    def _power_on(self, log: Path) -> None:
        self.state.boots += 1
        argv = qemu_argv(self.state, disk.load(Path(self.state.disk)), self.overlay, self.serial, self.monitor)
        wanted = gpus(self.state.gpu)
        if wanted:
            access_log = self.logs / f"{self.state.name}.boot{self.state.boots}.fakegpu"
            argv = fakegpu_argv(wanted, access_log, argv)
        self.state.pid = host.spawn(argv, log)
        record.save(self.state)

    def wait(self, qemu_log: Path | None = None) -> None:
        """Wait until ssh answers."""
        what = f"VM {self.state.name}"
        try:
            ssh.wait(self.target, self.state.pid, BOOT_TIMEOUT_S, what, self.serial)
        except LabError as error:
            output = qemu_log.read_text(errors="replace").strip() if qemu_log else ""
            raise type(error)(f"{error}\nQEMU printed:\n{host.tail(output)}" if output else str(error)) from None

    def stop(self) -> None:
        """Power off cleanly; the overlay stays. If the kernel has panicked, the power is cut."""
        if self.is_running and ssh.has_panicked(self.serial):
            say(f"{self.state.name}: its kernel has panicked, cutting the power; log: {self.serial}")
            self.kill()
        if self.is_running:
            with step(f"{self.state.name}: power-off"):
                self.ssh("systemctl poweroff --no-block", check=False)
                if not wait_end(self.state.pid, STOP_TIMEOUT_S):
                    self.kill()
                    shown = host.read_tail(self.serial)
                    raise LabError(
                        f"VM {self.state.name} did not power off in {STOP_TIMEOUT_S:.0f} s, killed; the end of {self.serial}:\n{shown}"
                    )
        self.ended()

    def layer_disk(self) -> None:
        """With the power off, put a new overlay on top of the disk, so that the next power cut loses what a real one would lose.

        When QEMU is killed, the guest's memory is gone, but what the guest has written stays in this machine's page cache, flushed or
        not, whatever `cache=` is. However, QEMU keeps the positions of new clusters of a qcow2 file in its own memory until the guest
        flushes. In a new overlay all clusters are new: a place that is written for the first time since power-on falls back to what it
        held before, as with a disk's volatile cache. What is written to the same place again, after a flush, stays. tests/power tests
        both.
        """
        below = self.overlay.with_name(f"below-{self.state.boots}.qcow2")
        self.overlay.rename(below)
        disk.overlay(below, self.overlay)

    def reboot(self, kernel: str | None = None, append: str | None = None) -> None:
        """Power off cleanly and boot the same overlay again, with another kernel or other arguments if given.

        A reboot from inside the VM keeps the kernel, because QEMU loads it, not a boot loader.
        """
        if kernel:
            chosen = base.choose(disk.load(Path(self.state.disk)).kernels, kernel).kver
        self.stop()
        self.state.kver = chosen if kernel else self.state.kver
        self.state.append = self.state.append if append is None else append
        self.start()

    def tell(self, command: str) -> str:
        """Send one command to QEMU's monitor and return its answer."""
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(30)
            end.connect(str(self.monitor))
            _until_prompt(end)
            end.sendall(command.encode() + b"\n")
            return _until_prompt(end)


def is_emulators_fault(serial: str) -> bool:
    """Whether a panic began with an unexpected int3 (see EMULATOR_TRIES), and the log names no module of the driver."""
    first = re.search(r"Oops: .*|BUG: .*", serial)
    return first is not None and first[0].startswith("Oops: int3") and "nvidia" not in serial


def gpus(names: str | None) -> list[str]:
    """The models in a comma-separated list; an empty list for `none` or nothing. Raises LabError for an unknown model."""
    wanted = [name for name in (names or "").split(",") if name not in ("", "none")]
    for name in wanted:
        if name not in fakegpu.MODELS:
            raise LabError(f"no fake GPU {name!r}: there are {', '.join(sorted(fakegpu.MODELS))} and none")
    return wanted


def qemu_argv(state: Record, source: Disk, overlay: Path, serial: Path, monitor: Path) -> list[str]:
    """QEMU's command line. It always uses TCG: on the machines where this was tried, KVM guests crash or hang."""
    machine = "q35"
    memory: list[str] = []
    if gpus(state.gpu):
        machine += ",memory-backend=mem"
        memory = ["-object", f"memory-backend-memfd,id=mem,size={state.memory_mb}M,share=on"]
    forward = f"hostfwd=tcp:{state.address}:{state.port}-:22"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg,thread=multi", "-cpu", CPU),
        *("-machine", machine, *memory, "-smp", str(state.smp), "-m", str(state.memory_mb)),
        *(_kernel_argv(source, state) if state.kver else ()),
        *("-drive", f"if=none,id=disk,format=qcow2,file={overlay}", "-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-serial", f"file:{serial}", "-monitor", f"unix:{monitor},server=on,wait=off"),
    ]


def _kernel_argv(source: Disk, state: Record) -> list[str]:
    kernel = base.choose(source.kernels, state.kver)
    return ["-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initrd), "-append", f"{APPEND} {state.append}".strip()]


def fakegpu_argv(models: Sequence[str], log: Path, qemu: Sequence[str]) -> list[str]:
    """Command line that runs `qemu` with fake GPUs."""
    functions = [word for name in models for word in ("--function", name)]
    return [sys.executable, "-I", fakegpu.__file__, "--log", str(log), *functions, "--", *qemu]


def free_port(is_free: Callable[[int], bool] | None = None) -> int:
    """A port of the loopback interface that no node of the session has, and on which no program listens."""
    taken = {state.port for state in record.all_records()}
    for port in PORTS:
        if port not in taken and (is_free or _can_listen)(port):
            return port
    raise LabError(f"no port free in {PORTS.start} to {PORTS.stop - 1}: stop a VM")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _until_prompt(end: socket.socket) -> str:
    text = ""
    while not text.endswith("(qemu) "):
        part = end.recv(4096)
        if not part:
            break
        text += part.decode(errors="replace")
    return text.removesuffix("(qemu) ")
