"""The lab's command line: `python -m lab …`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.builds import bakedimage
from lab.driverimages import driverimage, registry
from lab.machine import session, ssh
from lab.machine.errors import LabError
from lab.nodes import base, disk, inventory, record
from lab.nodes.native import NativeNode
from lab.nodes.vm import VM


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit status; a LabError becomes one message and status 1."""
    options = parser().parse_args(argv)
    try:
        return int(options.call(options))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description="Runs nodes to bake on and VMs to boot, on one Debian machine.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("session", help="run a command in a lab session")
    text = "how long to wait for another session to end; default: %(default)g"
    command.add_argument("--wait", type=float, default=session.WAIT_S, metavar="SECONDS", help=text)
    command.add_argument("argv", nargs="+", metavar="ARGUMENT", help="the command, after --")
    command.set_defaults(call=lambda o: session.run(o.argv, o.wait))

    command = commands.add_parser("clean", help="remove what a killed session has left behind")
    command.set_defaults(call=_clean)
    command = commands.add_parser("base", help="build the base if it is not in the cache, and print its path")
    _variant_option(command)
    command.add_argument("--disk", action="store_true", help="print the folder of its disk instead")
    command.set_defaults(call=_base)
    command = commands.add_parser("registry", help="say whether the registry answers")
    command.set_defaults(call=_registry)
    command = commands.add_parser("push", help="push an OCI layout to the registry, and print its reference and digest")
    command.add_argument("layout", type=Path)
    command.add_argument("ref", metavar="REPOSITORY:TAG")
    command.set_defaults(call=_push)
    command = commands.add_parser("disk", help="make a VM's disk from a root filesystem")
    command.add_argument("root", type=Path)
    command.add_argument("folder", type=Path)
    command.set_defaults(call=_disk)
    command = commands.add_parser("image", help="build and push driver images, and print their references")
    command.add_argument("names", nargs="+", metavar="NAME", choices=sorted(driverimage.RECIPES))
    command.set_defaults(call=_image)
    command = commands.add_parser("bake", help="bake driver images into the base with Packer, and print the folders of the disks")
    command.add_argument("names", nargs="+", metavar="NAME", choices=sorted(driverimage.RECIPES))
    command.add_argument("--kernel", default="6.1", help="series (6.1 or 6.12) or full kernel release; default: %(default)s")
    command.add_argument(
        "--mode", default=bakedimage.CAPTURED, choices=[bakedimage.CAPTURED, bakedimage.IN_PLACE], help="default: %(default)s"
    )
    command.add_argument("--nouveau", action="store_true", help="do not blacklist nouveau")
    _variant_option(command)
    command.set_defaults(call=_bake)
    command = commands.add_parser("list", help="list the session's nodes")
    command.set_defaults(call=_list)
    command = commands.add_parser("inventory", help="print an Ansible inventory of nodes")
    command.add_argument("names", nargs="*", metavar="NAME")
    command.add_argument("--script", action="store_true", help="print all nodes, in the form that Ansible expects from an inventory script")
    command.set_defaults(call=_inventory)
    _native_parser(commands)
    _vm_parser(commands)
    return top


def _native_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    actions = commands.add_parser("native", help="manage native nodes").add_subparsers(required=True, metavar="ACTION")
    action = _named(actions, "up", "start a node from a copy of a root filesystem", _native_up)
    action.add_argument("--root", type=Path, help="root filesystem to copy; default: the base")
    action = _named(actions, "down", "stop a node and delete it", _native_down)
    action.add_argument("--keep", action="store_true", help="power off cleanly, keep the root filesystem, and print its path")
    _ssh_action(actions)


def _vm_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    actions = commands.add_parser("vm", help="manage VMs").add_subparsers(required=True, metavar="ACTION")
    action = _named(actions, "up", "boot a VM from an overlay of a disk", _vm_up)
    action.add_argument("--disk", default="base", help="folder of a disk, or base (the default)")
    action.add_argument("--kernel", default="6.1", help="series (6.1 or 6.12) or full kernel release; default: %(default)s")
    action.add_argument("--gpu", default="none", help="fake GPUs, separated by commas: h100, a100, t4, nvswitch; or none (the default)")
    action.add_argument("--smp", type=int, default=2, metavar="CPUS", help="default: %(default)s")
    action.add_argument("--memory", type=int, default=2048, metavar="MB", help="default: %(default)s")
    action.add_argument("--append", default="", help="additional kernel arguments")
    _named(actions, "down", "stop a VM and delete its overlay", lambda o: VM.find(o.name).destroy())
    _named(actions, "stop", "power off cleanly, and keep the overlay", lambda o: VM.find(o.name).stop())
    _named(actions, "start", "power on again", lambda o: VM.find(o.name).start())
    _named(actions, "kill", "cut the power, and keep the overlay", lambda o: VM.find(o.name).kill())
    action = _named(actions, "reboot", "power off cleanly, then power on", lambda o: VM.find(o.name).reboot(o.kernel, o.append))
    action.add_argument("--kernel", help="kernel to boot from now on")
    action.add_argument("--append", help="additional kernel arguments from now on")
    _ssh_action(actions)


def _named(actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, call: object) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text)
    action.add_argument("name", metavar="NAME")
    action.set_defaults(call=lambda options: call(options) or 0)  # type: ignore[operator]
    return action


def _variant_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", default="cloud", choices=sorted(base.VARIANTS), help="base, named by its kernel; default: %(default)s")


def _ssh_action(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = _named(actions, "ssh", "log in, or run a command", _ssh)
    action.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")


def _clean(_: argparse.Namespace) -> int:
    for line in session.clean() or ["nothing to remove"]:
        print(line)
    return 0


def _base(options: argparse.Namespace) -> int:
    variant = base.VARIANTS[options.base]
    print(disk.of_base(variant).path.parent if options.disk else base.root(variant))
    return 0


def _registry(_: argparse.Namespace) -> int:
    is_up = registry.answers()
    state = "answers" if is_up else "does not answer: it runs only during a session"
    print(f"{base.REGISTRY_NAME} {state}; storage: {registry.storage()}")
    return 0 if is_up else 1


def _push(options: argparse.Namespace) -> int:
    pushed = registry.push(options.layout, options.ref)
    print(pushed.reference, pushed.digest)
    return 0


def _disk(options: argparse.Namespace) -> int:
    print(disk.make(options.root, options.folder).path.parent)
    return 0


def _image(options: argparse.Namespace) -> int:
    for name in options.names:
        driver = driverimage.build(name)
        registry.push(driver.layout, driver.reference)
        print(driver.reference)
    return 0


def _bake(options: argparse.Namespace) -> int:
    for name in options.names:
        print(bakedimage.bake(name, options.kernel, base.VARIANTS[options.base], options.mode, options.nouveau).folder)
    return 0


def _list(_: argparse.Namespace) -> int:
    for state in record.all_records():
        print(f"{state.name}\t{state.kind}\t{state.address}:{state.port}\t{'up' if state.pid else 'down'}\t{state.kver}")
    return 0


def _inventory(options: argparse.Namespace) -> int:
    if options.script:
        print(inventory.render_script({state.name: state.target for state in record.all_records()}), end="")
    else:
        print(inventory.render({name: record.load(name).target for name in options.names}), end="")
    return 0


def _native_up(options: argparse.Namespace) -> None:
    NativeNode.create(options.name, options.root)


def _native_down(options: argparse.Namespace) -> None:
    node = NativeNode.find(options.name)
    if options.keep:
        print(node.stop())
    else:
        node.destroy()


def _vm_up(options: argparse.Namespace) -> None:
    source = disk.of_base() if options.disk == "base" else disk.load(Path(options.disk))
    VM.create(
        options.name,
        source,
        kernel=options.kernel,
        gpu=options.gpu,
        smp=options.smp,
        memory_mb=options.memory,
        append=options.append,
    )


def _ssh(options: argparse.Namespace) -> None:
    words = [word for word in options.command if word != "--"]
    argv = ssh.argv(record.load(options.name).target, " ".join(words) if words else None)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    sys.exit(main())
