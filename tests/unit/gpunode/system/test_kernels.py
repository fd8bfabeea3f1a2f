"""Installed kernels."""

from __future__ import annotations

import random
import subprocess
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import InputError, PreflightError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import kernels, toolchain

from tests.kit.node import FakeNode
from tests.kit.values import KVER, NEWER, OLDER

# In the order of `sort -V`, which an unmodified driver image uses.
ORDER = [
    "5.15.0-1051-azure",
    "6.1~rc1",
    "6.1.0-9-cloud-amd64",
    "6.1.0-45-amd64",
    "6.1.0-45-cloud-amd64",
    "6.1.0-56-cloud-amd64",
    "6.1.190-custom",
    "6.8.0-31-generic",
    "6.8.0-1010-gcp",
    "6.12.9+bpo-cloud-amd64",
    "6.12.95+deb12-cloud-amd64",
]


def test_newest_is_by_numbers() -> None:
    shuffled = random.Random(1).sample(ORDER, len(ORDER))
    assert sorted(shuffled, key=kernels.version_key) == ORDER


@pytest.mark.subprocess
def test_the_order_is_that_of_sort() -> None:
    shown = subprocess.run(["sort", "-V"], input="\n".join(reversed(ORDER)), capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ORDER


def test_a_folder_without_modules_is_no_kernel(node: FakeNode) -> None:
    node.put("usr/lib/modules/6.99.0-headers/build")
    node.add_kernel(NEWER)
    node.add_kernel(OLDER, headers=False)
    assert kernels.installed(node.root) == (OLDER, KVER, NEWER)
    assert kernels.with_headers(node.root) == (KVER, NEWER, "6.99.0-headers")


def test_headers_are_there_only_where_a_makefile_is(node: FakeNode) -> None:
    assert kernels.has_headers(node.root, KVER)
    (node.root / f"usr/src/linux-headers-{KVER}/Makefile").unlink()
    assert not kernels.has_headers(node.root, KVER)


@pytest.mark.parametrize("wanted", ["newest", ["newest"]], ids=str)
def test_the_one_that_boots_is_the_target(node: FakeNode, wanted: Any) -> None:
    assert kernels.targets(node.root, wanted) == (KVER,), "the only one, whatever the boot loader"
    node.add_kernel(NEWER)
    node.add_kernel(OLDER)
    node.put("boot/grub/grub.cfg", grub_menu(NEWER, KVER, OLDER))
    assert kernels.targets(node.root, wanted) == (NEWER,)
    node.put("boot/grub/grub.cfg", 'set default="2"\n' + grub_menu(NEWER, KVER, OLDER))
    assert kernels.targets(node.root, wanted) == (OLDER,)


def test_which_of_several_boots_is_not_guessed(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    with pytest.raises(PreflightError, match=r"grub\.cfg does not exist.*Set nvidia_prebake_kernels") as caught:
        kernels.targets(node.root, "newest")
    assert caught.value.code == "kernel_unclear"
    node.put("boot/grub/grub.cfg", grub_menu("6.99.0-gone"))
    with pytest.raises(PreflightError, match=r"which boots 6\.99\.0-gone, but that kernel is not installed"):
        kernels.targets(node.root, "newest")


def grub_menu(*kvers: str) -> str:
    return "".join(f"menuentry 'Linux {kver}' {{\n\tlinux /boot/vmlinuz-{kver} ro\n}}\n" for kver in kvers)


@pytest.mark.parametrize("wanted", ["all", ["all"]], ids=str)
def test_all_that_are_installed_oldest_first(node: FakeNode, wanted: Any) -> None:
    node.add_kernel(NEWER)
    node.add_kernel(OLDER)
    node.put("usr/lib/modules/9.9.9-headers-only/build", "")
    assert kernels.targets(node.root, wanted) == (OLDER, KVER, NEWER)


def test_a_list_is_taken_in_its_order(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    assert kernels.targets(node.root, [NEWER, KVER]) == (NEWER, KVER)


def test_a_named_one_is_the_target(node: FakeNode) -> None:
    node.add_kernel(NEWER)
    assert kernels.targets(node.root, [KVER]) == (KVER,)


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        pytest.param([KVER, KVER], InputError, "name each kernel once", id="twice"),
        pytest.param([], InputError, "name each kernel once", id="none"),
        pytest.param([KVER, "all"], InputError, "newest and all cannot be combined", id="all in a list"),
        pytest.param(["newest", KVER], InputError, "newest and all cannot be combined", id="newest in a list"),
        pytest.param(f"{KVER},{NEWER}", InputError, "as uname -r prints it; give several as a list", id="several in a text"),
        pytest.param({KVER: True}, InputError, "neither newest nor all nor a kernel release", id="mapping"),
        pytest.param(6.1, InputError, "neither newest nor all nor a kernel release", id="number"),
        pytest.param("../x", InputError, "neither newest nor all nor a kernel release", id="leads out"),
        pytest.param("6.99.0-no", PreflightError, f"6.99.0-no is not installed; installed are: {KVER}", id="not installed"),
    ],
)
def test_what_cannot_be_baked_for_is_refused(node: FakeNode, wanted: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        kernels.targets(node.root, wanted)


# A release of each kernel flavour that clouds boot, the package that apt must install for it, and the compiler that its .config names.
# Ubuntu's are from its archive (jammy, noble); nothing of Ubuntu is booted here.
FLAVOURS = [
    pytest.param(
        "6.1.0-56-cloud-amd64", "linux-headers-6.1.0-56-cloud-amd64", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12", id="cloud"
    ),
    pytest.param("6.1.0-56-amd64", "linux-headers-6.1.0-56-amd64", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12", id="debian"),
    pytest.param(
        "6.8.0-31-generic",
        "linux-headers-6.8.0-31-generic",
        "x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0",
        "gcc-13",
        id="generic",
    ),
    pytest.param("5.15.0-1051-azure", "linux-headers-5.15.0-1051-azure", "gcc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", None, id="azure"),
    pytest.param(
        "6.8.0-1009-aws", "linux-headers-6.8.0-1009-aws", "x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0", "gcc-13", id="aws"
    ),
    pytest.param(
        "6.5.0-1015-gcp",
        "linux-headers-6.5.0-1015-gcp",
        "x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0",
        "gcc-12",
        id="gcp",
    ),
]
KERNEL_FLAVOURS = {
    "6.1.0-56-cloud-amd64": "cloud-amd64",
    "6.12.43+deb12-cloud-amd64": "cloud-amd64",
    "6.1.0-0.deb11.7-amd64": "amd64",
    "6.8.0-1009-aws": "aws",
    "5.15.0-1051-azure": "azure",
    "6.8.0-31-generic": "generic",
    "6.9.1": "",
}
UBUNTUS_MENU = """
set default="0"
menuentry 'Ubuntu' --class ubuntu --class gnu-linux $menuentry_id_option 'gnulinux-simple-1' {{
	linux	/vmlinuz-{kver} root=PARTUUID=1 ro  console=tty1
}}
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-1' {{
	menuentry 'Ubuntu, with Linux 9.9.9-99-generic' $menuentry_id_option 'gnulinux-9.9.9-99-generic-advanced-1' {{
		linux	/vmlinuz-9.9.9-99-generic root=PARTUUID=1 ro
	}}
}}
"""


@pytest.mark.parametrize(("kver", "package", "config", "compiler"), FLAVOURS)
def test_every_flavours_names(node: FakeNode, kver: str, package: str, config: str, compiler: str | None) -> None:
    assert kernels.is_release(kver)
    assert kernels.headers_package(kver) == package
    headers = node.put(f"usr/src/linux-headers-{kver}/.config", f'CONFIG_CC_VERSION_TEXT="{config}"\n').parent
    assert toolchain.kernel_compiler(headers) == compiler


@pytest.mark.parametrize("kver", [row.values[0] for row in FLAVOURS])
def test_the_flavour_in_use_is_the_target_though_another_is_newer(node: FakeNode, kver: str) -> None:
    node.add_kernel(kver)
    node.add_kernel("9.9.9-99-generic")
    node.put("boot/grub/grub.cfg", UBUNTUS_MENU.format(kver=kver))
    node.put("etc/default/grub", "GRUB_DEFAULT=0\n")
    for name in (kver, "9.9.9-99-generic"):
        node.put(f"boot/vmlinuz-{name}")
    assert kernels.targets(node.root, "newest") == (kver,)


def test_the_boot_loaders_kernel_of_another_flavour_than_the_one_in_use_is_the_target_and_is_said(node: FakeNode) -> None:
    assert {kver: kernels.kernel_flavour(kver) for kver in KERNEL_FLAVOURS} == KERNEL_FLAVOURS
    azure, generic = "5.15.0-1051-azure", "6.8.0-31-generic"
    assert kernels.of_another_flavour(node.root, generic, azure) == "", "in a folder, the running kernel is another machine's"
    node.add_kernel(azure)
    assert f"starts {generic} by default, a kernel of another flavour than {azure}" in kernels.of_another_flavour(node.root, generic, azure)
    assert kernels.of_another_flavour(node.root, "5.15.0-1052-azure", azure) == ""
