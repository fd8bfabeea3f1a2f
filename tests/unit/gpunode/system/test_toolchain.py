"""What a compile needs on the host."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import toolchain

from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import KVER

HEADERS = f"usr/src/linux-headers-{KVER}"


def test_all_is_there(node: FakeNode) -> None:
    assert toolchain.missing_packages(node, KVER) == ()
    toolchain.require(node, node.root, KVER)


def test_names_the_packages_that_apt_must_install(node: FakeNode) -> None:
    node.missing_programs |= {"libc6-dev", f"linux-headers-{KVER}"}
    assert toolchain.missing_packages(node, KVER) == ("libc6-dev", f"linux-headers-{KVER}")


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        pytest.param({"update-initramfs", "dracut"}, (), id="dracut's"),
        pytest.param({"update-initramfs"}, (), id="another tool's"),
        pytest.param({"dracut"}, (), id="dracut without it"),
        pytest.param(set(), ("initramfs-tools",), id="none"),
    ],
)
def test_initramfs_tools_is_not_installed_over_another_tool(node: FakeNode, there: set[str], missing: tuple[str, ...]) -> None:
    node.missing_programs |= {"initramfs-tools", "update-initramfs", "dracut"} - there
    assert toolchain.missing_packages(node, KVER) == missing


def test_a_dracut_without_update_initramfs_is_named(node: FakeNode) -> None:
    node.missing_programs |= {"initramfs-tools", "update-initramfs"}
    (problem,) = toolchain.problems(node, node.root, KVER)
    assert problem.startswith("update-initramfs is missing, which driver images call (dracut is here")


@pytest.mark.parametrize("program", ["dkms", "gcc", "make", "lsof", "update-initramfs"])
def test_a_missing_program_is_named(node: FakeNode, program: str) -> None:
    node.missing_programs |= {program, "dracut"}
    assert toolchain.problems(node, node.root, KVER) == (f"{program} is missing",)


def test_gcc_without_the_c_librarys_headers_is_not_enough(node: FakeNode) -> None:
    (node.root / "usr/include/stdio.h").unlink()
    with pytest.raises(PreflightError, match="libc6-dev") as caught:
        toolchain.require(node, node.root, KVER)
    assert caught.value.code == "tools_missing"


def test_missing_headers_are_named_by_their_package(node: FakeNode) -> None:
    (node.root / f"usr/lib/modules/{KVER}/build").unlink()
    assert toolchain.problems(node, node.root, KVER) == (f"the headers of kernel {KVER} are missing (package linux-headers-{KVER})",)


def test_the_kernels_own_compiler_is_needed(node: FakeNode) -> None:
    node.put(
        f"{HEADERS}/.kernelvariables",
        "override ARCH = x86\noverride CC = $(if $(DEBIAN_KERNEL_USE_CCACHE),ccache) $(CROSS_COMPILE)gcc-12\n",
    )
    assert toolchain.problems(node, node.root, KVER) == ()
    node.missing_programs.add("gcc-12")
    assert "gcc-12, with which kernel" in toolchain.problems(node, node.root, KVER)[0]


@pytest.mark.parametrize(
    ("text", "compiler"),
    [
        ("x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0", "gcc-12"),
        ("aarch64-linux-gnu-gcc-13 (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0", "gcc-13"),
        ("gcc-12 (Debian 12.2.0-14) 12.2.0", "gcc-12"),
        ("gcc (Debian 12.2.0-14) 12.2.0", None),
        ("x86_64-linux-gnu-gcc (Ubuntu 12.3.0) 12.3.0", None),
        ("Debian clang version 14.0.6", None),
    ],
)
def test_the_kernels_configuration_names_its_compiler(node: FakeNode, text: str, compiler: str | None) -> None:
    node.put(f"{HEADERS}/.config", f'CONFIG_CC_IS_GCC=y\nCONFIG_CC_VERSION_TEXT="{text}"\nCONFIG_GCC_VERSION=120300\n')
    assert toolchain.kernel_compiler(node.root / HEADERS) == compiler
    if compiler:
        node.missing_programs.add(compiler)
        assert f"{compiler}, with which kernel" in toolchain.problems(node, node.root, KVER)[0]


def test_kernelvariables_come_before_the_configuration(node: FakeNode) -> None:
    node.put(f"{HEADERS}/.kernelvariables", "override CC = $(CROSS_COMPILE)gcc-12\n")
    node.put(f"{HEADERS}/.config", 'CONFIG_CC_VERSION_TEXT="gcc-11 (Debian) 11.1.0"\n')
    assert toolchain.kernel_compiler(node.root / HEADERS) == "gcc-12"


def test_the_kernels_compiler_is_installed_when_the_headers_name_it(node: FakeNode) -> None:
    node.put(f"{HEADERS}/.config", 'CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-12 (Ubuntu) 12.3.0"\n')
    assert toolchain.missing_packages(node, KVER, node.root) == ()
    node.missing_programs.add("gcc-12")
    assert toolchain.missing_packages(node, KVER, node.root) == ("gcc-12",)


def test_a_host_tool_that_cannot_run_is_named(node: FakeNode) -> None:
    node.put(f"{HEADERS}/tools/objtool/objtool")
    node.programs["ldd"] = lambda node, words: Reply(out="\tlibelf.so.1 => not found\n")
    assert "libelf.so.1 => not found" in toolchain.problems(node, node.root, KVER)[0]


@pytest.mark.parametrize(("vmlinux", "count"), [(True, 1), (False, 0)])
def test_pahole_is_needed_only_beside_a_vmlinux(node: FakeNode, vmlinux: bool, count: int) -> None:
    node.missing_programs.add("pahole")
    node.put(f"{HEADERS}/.config", "CONFIG_DEBUG_INFO_BTF_MODULES=y\n")
    if vmlinux:
        node.put(f"{HEADERS}/vmlinux")
    assert len(toolchain.problems(node, node.root, KVER)) == count
