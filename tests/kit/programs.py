"""The fake node's programs: what each prints, and what it changes in the node's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature

from tests.kit import containerd, sandbox, systemd
from tests.kit.reply import KILLED, Program, Reply

if TYPE_CHECKING:
    from tests.kit.node import FakeNode


def modinfo(node: FakeNode, words: list[str]) -> Reply:
    if len(words) == 1:
        file = Path(words[0])
    else:
        assert (words[0], words[2]) == ("-b", "-k")
        file = Path(words[1]) / "lib/modules" / words[3] / "updates/dkms" / f"{words[4]}.ko"
    if not file.is_file():
        return Reply(1, err=f"modinfo: ERROR: Module {words[-1]} not found.\n")
    data = file.read_bytes()
    signer = "signer:         somebody\n" if data.endswith(module_signature.MARKER) else ""
    return Reply(out=f"filename:       {file}\n{signer}" + data.decode("utf-8", "replace"))


def modprobe(node: FakeNode, words: list[str]) -> Reply:
    if words[0] == "-r":
        name = words[1]
        if name in node.held_modules:
            return Reply(1, err=f"modprobe: FATAL: Module {name} is in use.\n")
        table = node.root / "proc/modules"
        lines = [line for line in table.read_text().splitlines() if line.split()[0] != name.replace("-", "_")]
        table.write_text("".join(f"{line}\n" for line in lines))
        return Reply()
    name = words[0]
    if name in node.loaded_names():
        return Reply()
    if node.insert_error:
        return Reply(1, err=f"modprobe: ERROR: could not insert '{name}': {node.insert_error}\n")
    info = modinfo(node, ["-b", str(node.root), "-k", node.kver, name])
    if info.rc:
        return Reply(1, err=f"modprobe: FATAL: Module {name} not found in directory /lib/modules/{node.kver}\n")
    fields = {line.split(":")[0]: line.split(":", 1)[1].strip() for line in info.out.splitlines()}
    if fields["vermagic"].split()[0] != node.kver:
        return Reply(1, err=f"modprobe: ERROR: could not insert '{name}': Exec format error\n")
    node.insert(name, fields["version"])
    return Reply()


def nvidia_smi(node: FakeNode, words: list[str]) -> Reply:
    return node.smi


def nvidia_modprobe(node: FakeNode, words: list[str]) -> Reply:
    if node.makes_no_nodes:
        return Reply(1)  # it says nothing then
    node.put("dev/nvidiactl")
    return Reply()


def dmesg(node: FakeNode, words: list[str]) -> Reply:
    return Reply(out=node.dmesg)


def systemctl(node: FakeNode, words: list[str]) -> Reply:
    if words == ["restart", "containerd"]:
        node.put("run/containerd-config", containerd.containerd(node, ["config", "dump"]).out)
    elif words[0] == "show":
        return systemd.show(node, words[2:])
    elif words[0] in ("start", "stop", "restart"):
        return systemd.change(node, words[0], words[1])
    elif words[:2] == ["disable", "--now"]:
        return systemd.disable(node, words[2])
    return Reply()


def od(node: FakeNode, words: list[str]) -> Reply:
    """As coreutils prints a file's first bytes in hexadecimal."""
    assert words[:3] == ["-An", "-v", "-tx1"], words
    data = Path(words[4]).read_bytes()[: int(words[3].removeprefix("-N"))]
    return Reply(out="".join(f" {data[at : at + 16].hex(' ')}\n" for at in range(0, len(data), 16)))


def depmod(node: FakeNode, words: list[str]) -> Reply:
    return Reply(err=node.depmod_says) if "-e" in words else Reply()


def ldconfig(node: FakeNode, words: list[str]) -> Reply:
    return Reply()


def lsinitramfs(node: FakeNode, words: list[str]) -> Reply:
    return Reply(out=Path(words[0]).read_text(encoding="utf-8"))


def lsinitrd(node: FakeNode, words: list[str]) -> Reply:
    """Of an image of dracut's the file holds the output itself; of others the names."""
    text = Path(words[0]).read_text(encoding="utf-8")
    if text.startswith("Image: "):
        return Reply(out=text)
    return Reply(out="=====\n" + "".join(f"-rw-r--r--   1 root     root         1234 Jan 12 06:13 {name}\n" for name in text.split()))


def update_initramfs(node: FakeNode, words: list[str]) -> Reply:
    assert words[:2] == ["-u", "-k"], words
    conf = "".join(f"{p.relative_to(node.root)}\n" for p in sorted((node.root / "etc/modprobe.d").glob("*.conf")))
    node.put(f"boot/initrd.img-{words[2]}", "init\n" + conf)
    return Reply()


def _bind(node: FakeNode, verb: str, address: str, path: str) -> Reply:
    """As sysfs does where an address is written to a driver's ``bind`` or ``unbind``."""
    driver, _slash, name = path.removeprefix("/sys/bus/pci/drivers/").partition("/")
    assert name == verb, path
    link = node.root / f"sys/bus/pci/devices/{address}/driver"
    if node.bound_for_good:
        return Reply(seconds=KILLED)
    if (verb == "unbind") is not link.is_symlink():
        return Reply(1, err="sh: 1: printf: I/O error\n")
    if verb == "bind":
        node.link(str(link.relative_to(node.root)), f"../../drivers/{driver}")
    else:
        link.unlink()
    return Reply()


def ldd(node: FakeNode, words: list[str]) -> Reply:
    return Reply(out="\tlinux-vdso.so.1 (0x00007ffd)\n")


def udevadm(node: FakeNode, words: list[str]) -> Reply:
    assert words == ["settle"], words
    return Reply()


def sh(node: FakeNode, words: list[str]) -> Reply:
    if words[-1].startswith("/sys/bus/pci/drivers/"):
        return _bind(node, *words[2:])
    return Reply(1 if words[-1] in node.missing_programs else 0)


def dpkg_query(node: FakeNode, words: list[str]) -> Reply:
    names = words[3:]
    return Reply(out="".join(f"{name} installed\n" for name in names if name not in node.missing_programs))


def umount(node: FakeNode, words: list[str]) -> Reply:
    return Reply()


PROGRAMS: Mapping[str, Program] = {
    "containerd": containerd.containerd,
    "ctr": containerd.ctr,
    "depmod": depmod,
    "dmesg": dmesg,
    "dpkg-query": dpkg_query,
    "flock": sandbox.flock,
    "ldconfig": ldconfig,
    "ldd": ldd,
    "lsinitramfs": lsinitramfs,
    "lsinitrd": lsinitrd,
    "modinfo": modinfo,
    "modprobe": modprobe,
    "mount": sandbox.mount,
    "nsenter": sandbox.nsenter,
    "nvidia-modprobe": nvidia_modprobe,
    "nvidia-smi": nvidia_smi,
    "od": od,
    "sh": sh,
    "systemctl": systemctl,
    "udevadm": udevadm,
    "umount": umount,
    "update-initramfs": update_initramfs,
}
