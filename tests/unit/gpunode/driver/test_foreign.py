"""Finding drivers that are not ours."""

from __future__ import annotations

import os

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import foreign

from tests.kit.node import FakeNode, bake_layer
from tests.kit.values import KVER, LOADER, VERSION


def package(node: FakeNode, name: str, status: str = "install ok installed") -> None:
    node.put("var/lib/dpkg/status", f"Package: bash\nStatus: install ok installed\n\nPackage: {name}\nStatus: {status}\nVersion: 1\n\n")


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-driver",
        "nvidia-kernel-dkms",
        "nvidia-dkms-580-open",
        "libcuda1",
        "libnvidia-ml1",
        "libnvidia-eglcore",
        "linux-modules-nvidia-580-6.8.0-31-generic",
    ],
)
def test_a_distributions_driver_is_foreign(node: FakeNode, name: str) -> None:
    package(node, name)
    assert foreign.signs(node.root, "x86_64", set(), set()) == (f"package {name}",)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "libnvidia-container-tools",
        "nvidia-fabricmanager-580",
        "nvidia-persistenced",
        "libnvidia-nscq-580",
        "libnvidia-nsdm-580",
        "libnvidia-nvsdm-580",
        "libnvsdm-580",
        "libnvidia-egl-wayland1",
        "libnvidia-egl-gbm1",
    ],
)
def test_what_comes_with_the_contract_is_none(node: FakeNode, name: str) -> None:
    package(node, name)
    assert foreign.driver_packages(node.root) == ()


DOCS = "/.\n/usr\n/usr/share\n/usr/share/doc\n/usr/share/doc/x\n/usr/share/doc/x/copyright\n"
STATES = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending", "installed")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("flag", ["ok", "reinstreq"])
def test_a_package_that_has_files_is_here(node: FakeNode, state: str, flag: str) -> None:
    package(node, "nvidia-kernel-dkms", f"install {flag} {state}")
    assert foreign.driver_packages(node.root) == ("nvidia-kernel-dkms",)


@pytest.mark.parametrize("state", ["not-installed", "config-files"])
def test_a_package_without_files_is_not(node: FakeNode, state: str) -> None:
    package(node, "nvidia-kernel-dkms", f"unknown ok {state}")
    assert foreign.driver_packages(node.root) == ()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        pytest.param("nvidia-driver-pinning-580", "/etc/apt/preferences.d/nvidia-driver-pinning-580\n", id="pinning"),
        pytest.param(
            "nvidia-driver-local-repo-ubuntu2404-580.126.09",
            "/var/nvidia-driver-local-repo-ubuntu2404-580.126.09/libcuda1_580.126.09_amd64.deb\n/usr/share/keyrings/nvidia-driver.gpg\n",
            id="local repository",
        ),
        pytest.param(
            "nvidia-driver-assistant",
            "/usr/bin/nvidia-driver-assistant\n/usr/share/nvidia-driver-assistant/supported-gpus/supported-gpus.json\n",
            id="assistant",
        ),
        pytest.param("nvidia-driver-580", "", id="a metapackage alone"),
        pytest.param("nvidia-kernel-common-580", "/lib/udev/rules.d/71-nvidia.rules\n/lib/systemd/system/x.service\n", id="rules"),
        pytest.param("libcuda1-compat", "/usr/local/cuda/compat/libcuda.so.580.126.09\n", id="forward compatibility"),
    ],
)
def test_a_package_that_has_nothing_of_a_driver_holds_none(node: FakeNode, name: str, files: str) -> None:
    package(node, name)
    node.put(f"var/lib/dpkg/info/{name}.list", DOCS + files)
    assert foreign.driver_packages(node.root) == ()


@pytest.mark.parametrize(
    ("listed", "files"),
    [
        pytest.param("libcuda1:amd64", "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.535.1\n", id="Debian's library"),
        pytest.param("libcuda1:i386", "/usr/lib/i386-linux-gnu/libcuda.so.1\n", id="another architecture's"),
        pytest.param("nvidia-kernel-dkms", "/usr/src/nvidia-current-535.1/dkms.conf\n", id="sources"),
        pytest.param("libnvidia-gl-580:amd64", "/usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.580.126.09\n", id="any library of it"),
        pytest.param("nvidia-utils-580", "/usr/bin/nvidia-smi\n", id="program"),
        pytest.param("xserver-xorg-video-nvidia", "/usr/lib/nvidia/current/nvidia_drv.so\n", id="X"),
        pytest.param("linux-modules-nvidia-580-6.8", "/lib/modules/6.8.0-31-generic/kernel/nvidia-580/nvidia.ko\n", id="modules"),
        pytest.param("linux-objects-nvidia-580-6.8", "/lib/modules/6.8.0-31-generic/kernel/nvidia-580/bits/nv-kernel.o\n", id="objects"),
    ],
)
def test_a_package_that_has_something_of_a_driver_holds_one(node: FakeNode, listed: str, files: str) -> None:
    name = listed.partition(":")[0]
    package(node, name)
    node.put(f"var/lib/dpkg/info/{listed}.list", DOCS + files)
    assert foreign.driver_packages(node.root) == (name,)


def test_a_package_whose_files_cannot_be_read_counts_by_its_name(node: FakeNode) -> None:
    package(node, "nvidia-driver-pinning-580")
    (node.root / "var/lib/dpkg/info/nvidia-driver-pinning-580.list").mkdir(parents=True)
    assert foreign.driver_packages(node.root) == ("nvidia-driver-pinning-580",)


def test_a_package_that_was_removed_is_gone(node: FakeNode) -> None:
    package(node, "nvidia-driver", "deinstall ok config-files")
    assert foreign.driver_packages(node.root) == ()


@pytest.mark.parametrize(
    ("path", "sign"),
    [
        pytest.param("var/lib/dkms/nvidia/535.1/source/x", "DKMS tree /var/lib/dkms/nvidia/535.1", id="dkms"),
        pytest.param("var/lib/dkms/nvidia-current/1/x", "DKMS tree /var/lib/dkms/nvidia-current/1", id="dkms of Debian"),
        pytest.param(f"usr/lib/modules/{KVER}/extra/nvidia.ko.xz", f"module /usr/lib/modules/{KVER}/extra/nvidia.ko.xz", id="module"),
        pytest.param(f"{LOADER}/libcuda.so.535.1", f"library /{LOADER}/libcuda.so.535.1", id="library"),
    ],
)
def test_what_nobody_accounts_for_is_foreign(node: FakeNode, path: str, sign: str) -> None:
    node.put(path)
    assert sign in foreign.signs(node.root, "x86_64", set(), set())


def test_a_dangling_link_counts(node: FakeNode) -> None:
    node.link(f"{LOADER}/libnvidia-ml.so.1", "gone")
    assert foreign.signs(node.root, "x86_64", set(), set()) == (f"library /{LOADER}/libnvidia-ml.so.1",)


def test_modules_of_the_kernel_itself_are_not_foreign(node: FakeNode) -> None:
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/video/fbdev/nvidia/nvidiafb.ko")
    node.put(f"usr/lib/modules/{KVER}/kernel/drivers/i2c/busses/i2c-nvidia-gpu.ko")
    assert foreign.signs(node.root, "x86_64", set(), set()) == ()


def test_our_own_are_never_foreign(node: FakeNode) -> None:
    layer = bake_layer(node)
    assert foreign.signs(node.root, "x86_64", {VERSION}, {e.path for e in layer.files}) == ()
    node.initialise_device()
    assert foreign.signs(node.root, "x86_64", {VERSION}, {e.path for e in layer.files}) == ()


def test_another_dkms_version_beside_ours_is_foreign(node: FakeNode) -> None:
    bake_layer(node)
    node.put("var/lib/dkms/nvidia/535.1/source/x")
    assert foreign.signs(node.root, "x86_64", {VERSION}, set()) == ("DKMS tree /var/lib/dkms/nvidia/535.1",)


def test_a_driver_that_is_registered_in_another_tree_or_behind_a_link_is_foreign(node: FakeNode) -> None:
    node.put("etc/dkms/framework.conf.d/x.conf", "dkms_tree=/srv/dkms\n")
    node.put("srv/dkms/nvidia/535.1/source/x")
    node.link("var/lib/dkms/nvidia", "/srv/more")
    node.put("srv/more/570.1/source/x")
    signs = ("DKMS tree /var/lib/dkms/nvidia/570.1", "DKMS tree /srv/dkms/nvidia/535.1")
    assert foreign.signs(node.root, "x86_64", set(), set()) == signs
    assert foreign.signs(node.root, "x86_64", {"535.1", "570.1"}, set()) == ()


@pytest.mark.parametrize("path", ["run/nvidia/driver/usr/bin/x", "run/nvidia/validations/driver-ready"])
def test_an_operator_leaves_signs(node: FakeNode, path: str) -> None:
    assert foreign.operator_signs(node.root) == ()
    node.put(path)
    assert len(foreign.operator_signs(node.root)) == 1


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        pytest.param("IS_HOST_DRIVER=true\nNVIDIA_DRIVER_ROOT=/\nDRIVER_ROOT_CTR_PATH=/host\n", 0, id="the host's driver"),
        pytest.param("IS_HOST_DRIVER=false\nNVIDIA_DRIVER_ROOT=/run/nvidia/driver\n", 1, id="the operator's driver"),
        pytest.param("", 1, id="an older validator"),
    ],
)
def test_a_validator_that_found_our_driver_owns_none(node: FakeNode, text: str, signs: int) -> None:
    node.put("run/nvidia/validations/driver-ready", text)
    assert len(foreign.operator_signs(node.root)) == signs


def test_the_operators_driver_container_counts_whatever_the_validator_says(node: FakeNode) -> None:
    node.put("run/nvidia/validations/driver-ready", "IS_HOST_DRIVER=true\n")
    node.put("run/nvidia/validations/.driver-ctr-ready")
    assert foreign.operator_signs(node.root) == ("/run/nvidia/validations/.driver-ctr-ready",)


@pytest.mark.parametrize("name", ["libcuda.so.535.104.05", "libnvidia-ml.so.535.1"])
def test_a_library_of_a_strange_version_beside_ours_is_foreign(node: FakeNode, name: str) -> None:
    bake_layer(node)
    node.put(f"{LOADER}/{name}")
    assert foreign.signs(node.root, "x86_64", {VERSION}, set()) == (f"library /{LOADER}/{name}",)
    assert foreign.signs(node.root, "x86_64", {VERSION}, {f"{LOADER}/{name}"}) == ()


@pytest.mark.parametrize("name", ["libcuda.so", "libcuda.so.1", f"libcuda.so.{VERSION}"])
def test_a_library_of_our_version_or_of_none_is_not_foreign_beside_ours(node: FakeNode, name: str) -> None:
    node.put(f"{LOADER}/{name}")
    assert foreign.signs(node.root, "x86_64", {VERSION}, set()) == ()


def test_packages_that_serve_a_driver_of_their_own_version(node: FakeNode) -> None:
    node.put(
        "var/lib/dpkg/status",
        "Package: nvidia-fabricmanager-580\nStatus: install ok installed\nVersion: 580.126.09-1\n\n"
        "Package: nvidia-persistenced\nStatus: install ok installed\nVersion: 1:535.171.04-1~deb12u1\n\n"
        "Package: nvidia-imex-580\nStatus: deinstall ok config-files\nVersion: 580.126.09-1\n\n"
        "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n",
    )
    assert foreign.service_packages(node.root) == (("nvidia-fabricmanager-580", "580.126.09"), ("nvidia-persistenced", "535.171.04"))


# As on a machine with an H200, whose driver is in a read-only filesystem of its own below /usr/local/nvidia.
ELSEWHERE = "usr/local/nvidia/lib64"


def found_by_the_loader(node: FakeNode, folder: str, version: str = "580.159.04") -> None:
    node.put(f"{folder}/libcuda.so.{version}")
    node.link(f"{folder}/libcuda.so.1", f"libcuda.so.{version}")
    node.put("etc/ld.so.cache", f"glibc-ld.so.cache1.1\0libm.so.6\0/lib/libm.so.6\0libcuda.so.1\0/{folder}/libcuda.so.1\0")


def test_a_library_anywhere_on_the_loaders_path_is_foreign(node: FakeNode) -> None:
    found_by_the_loader(node, ELSEWHERE)
    assert foreign.signs(node.root, "x86_64", set(), set()) == (f"library /{ELSEWHERE}/libcuda.so.1",)
    assert foreign.signs(node.root, "x86_64", {VERSION}, set()) == (f"library /{ELSEWHERE}/libcuda.so.1",)
    assert foreign.signs(node.root, "x86_64", {"580.159.04"}, set()) == ()


def test_the_loaders_cache_is_not_believed_where_the_library_has_gone(node: FakeNode) -> None:
    found_by_the_loader(node, ELSEWHERE)
    (node.root / ELSEWHERE / "libcuda.so.1").unlink()
    assert foreign.signs(node.root, "x86_64", set(), set()) == ()


@pytest.mark.parametrize("folder", ["usr/local/cuda-13.0/compat", "usr/local/cuda/lib64/stubs", "usr/bin/lib64/lib64"])
def test_compatibility_libraries_stubs_and_the_contracts_own_are_no_signs_on_the_loaders_path(node: FakeNode, folder: str) -> None:
    found_by_the_loader(node, folder)
    assert foreign.signs(node.root, "x86_64", set(), set()) == ()


def test_a_library_in_the_usual_folder_is_named_once(node: FakeNode) -> None:
    node.put(f"{LOADER}/libcuda.so.1")
    node.put("etc/ld.so.cache", "glibc-ld.so.cache1.1\0libcuda.so.1\0/lib/x86_64-linux-gnu/libcuda.so.1\0")
    assert (node.root / "lib/x86_64-linux-gnu/libcuda.so.1").exists(), "by merged /usr"
    assert foreign.signs(node.root, "x86_64", set(), set()) == (f"library /{LOADER}/libcuda.so.1",)


@pytest.mark.parametrize(
    "cached",
    [b"/" * 10**5, b"/libcuda.so" * 10**4, b"/lib" * 10**5, b"x" * 10**5 + b"/libcuda.so"],
    ids=["slashes", "names", "folders", "no folder"],
)
def test_a_long_name_in_the_loaders_cache_is_read_at_once(node: FakeNode, cached: bytes) -> None:
    (node.root / "etc/ld.so.cache").write_bytes(cached)
    assert foreign.cached_libraries(node.root) == ()


def test_names_in_the_loaders_cache_may_be_any_bytes(node: FakeNode) -> None:
    path = os.fsdecode(b"opt/\xff/libcuda.so.580.1")
    node.put(path)
    (node.root / "etc/ld.so.cache").write_bytes(b"head\0libcuda.so.580.1\0/opt/\xff/libcuda.so.580.1\0")
    assert foreign.cached_libraries(node.root) == (path,)
