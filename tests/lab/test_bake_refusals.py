"""Bad input and unsuitable machines: each gives an error that says what is wrong, where, and what to do, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.bakery import Bakery

TRY_S = 15  # long enough for the build to begin, also on a busy machine


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"nvidia_prebake_image": "no such thing"}, "is not a full image reference", id="malformed reference"),
        pytest.param({"nvidia_prebake_driver_kind": "vulkan"}, "'vulkan' is unknown; known are cuda and grid", id="unknown kind"),
        pytest.param({"nvidia_prebake_driver_version": 535.230}, 'put it in quotes, as in "535.230"', id="version unquoted"),
        pytest.param({"nvidia_prebake_driver_kind": "grid"}, "is of kind cuda", id="kind and image disagree"),
        pytest.param({"nvidia_prebake_kernels": ["6.99.0-1-amd64"]}, "kernel 6.99.0-1-amd64 is not installed", id="no such kernel"),
        pytest.param({"nvidia_prebake_min_free_mb": 90_000_000}, "MB are missing: give the build machine a larger disk", id="space"),
        pytest.param(
            {"nvidia_prebake_image": "10.213.0.1:5999/x/aks-gpu-cuda:580.1-20260101000000", "nvidia_prebake_pull_delay_s": 0},
            "cannot be pulled after 3 tries",
            id="unreachable registry",
        ),
        pytest.param(
            {"nvidia_prebake_image": "registry.lab:5000/x/aks-gpu-cuda:580.1-20260101000000"},
            "The registry answered, so the pull was not tried again",
            id="no such image",
        ),
        pytest.param(
            {"ansible_become_method": "su", "ansible_become_user": "nobody", "ansible_become_flags": "-s /bin/sh"},
            "not root",
            id="not root",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_changes(unchanged: Bakery, variables: dict[str, Any], said: str) -> None:
    ran = unchanged.bake(**variables)
    assert ran.rc != 0
    assert said in ran.message


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param("systemctl stop containerd", "systemctl start containerd", "containerd does not answer", id="no containerd"),
        pytest.param(
            "mv /lib/modules/{kver}/build /root/build",
            "mv /root/build /lib/modules/{kver}/build",
            "headers of kernel {kver} are missing",
            id="no headers",
        ),
        pytest.param(
            "mount -t tmpfs -o size=50m none /var/lib/dkms",
            "umount /var/lib/dkms",
            "MB are missing: give the build machine a larger disk",
            id="disk too small",
        ),
        pytest.param(
            "mv /etc/os-release /root/; printf 'ID=fedora\\nPRETTY_NAME=\"Fedora 40\"\\n' > /etc/os-release",
            "mv /root/os-release /etc/os-release",
            "distribution Fedora 40",
            id="rpm system",
        ),
        pytest.param(
            "mkdir -p /var/lib/dkms/nvidia/1.2.3",
            "rm -r /var/lib/dkms/nvidia",
            "a driver that is not ours is in this image",
            id="foreign driver",
        ),
    ],
)
def test_an_unsuitable_machine_is_refused(unchanged: Bakery, before: str, after: str, said: str) -> None:
    names = {"kver": unchanged.kver}
    unchanged.ssh(before.format(**names))
    try:
        ran = unchanged.bake(nvidia_prebake_install_tools=False)
    finally:
        unchanged.ssh(after.format(**names))
    assert ran.rc != 0
    assert said.format(**names) in ran.message


@pytest.mark.parametrize(
    ("image", "said"),
    [
        pytest.param("standin-no-build-only", "does not know the action build-only", id="an older image"),
        pytest.param("standin-build-fails", "does not compile: ", id="a build that fails"),
    ],
)
def test_a_driver_image_that_cannot_be_baked_leaves_nothing(unchanged: Bakery, image: str, said: str) -> None:
    ran = unchanged.bake(image)
    assert ran.rc != 0
    assert said in ran.message, ran.out
    if image == "standin-build-fails":
        assert "error:" in ran.message
        assert "try 2" not in unchanged.ssh("cat /var/log/gpu-prebake/bake.log")


def test_a_full_disk_during_the_build_is_reported_and_not_retried(unchanged: Bakery) -> None:
    """What a build writes is in the store's filesystem."""
    unchanged.ssh("mkdir -p /var/lib/gpu-prebake && mount -t tmpfs -o mode=0700,size=64m tmpfs /var/lib/gpu-prebake")
    try:
        ran = unchanged.bake("standin-fills-disk", nvidia_prebake_min_free_mb=10)
    finally:
        unchanged.ssh("umount /var/lib/gpu-prebake && rmdir --ignore-fail-on-non-empty /var/lib/gpu-prebake")
    assert ran.rc != 0
    assert "ran out of space" in ran.message
    assert "try 2" not in unchanged.ssh("cat /var/log/gpu-prebake/bake.log")


def test_a_hanging_build_is_killed_with_its_children(unchanged: Bakery) -> None:
    ran = unchanged.bake("standin-build-hangs", nvidia_prebake_tries=1, nvidia_prebake_try_s=TRY_S)
    assert ran.rc != 0
    assert f"did not end within {TRY_S} s" in ran.message
