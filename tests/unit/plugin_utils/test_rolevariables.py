"""Which names a role refuses. That each role asks, in every play: tests/unit/test_role_variables.py."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.options import ROLES, variables_of
from ansible_collections.gpu.prebake.plugins.plugin_utils import rolevariables


@pytest.mark.parametrize(
    ("role", "name", "nearest"),
    [
        pytest.param("nvidia_prebake", "nvidia_prebake_enable", "nvidia_prebake_enabled", id="a letter less"),
        pytest.param("nvidia_prebake", "NVIDIA_PREBAKE_ENABLED", "nvidia_prebake_enabled", id="capital letters"),
        pytest.param("nvidia_prebake", "nvidia_prebake_seal_report", "nvidia_prebake_seal_report_path", id="a word less"),
        pytest.param("gpu_boot", "gpu_boot_deadline", "gpu_boot_deadline_s", id="no unit"),
        pytest.param("gpu_remove", "gpu_remove_qqqqqqqqqqqqqqqqqqqqqqq", "", id="nothing is near"),
    ],
)
def test_a_name_that_a_role_does_not_have_is_found_with_the_nearest(role: str, name: str, nearest: str) -> None:
    found = rolevariables.unknown([name, "other"], role, variables_of(role), ())
    assert found == {name: nearest}
    assert (f"{name} (did you mean {nearest}?)" if nearest else f"{name}. Correct") in rolevariables.refusal(role, found)


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_own_variables_results_and_internals_are_known(role: str) -> None:
    known = variables_of(role)
    assert f"{role}_result" in known
    assert rolevariables.unknown([*known, f"__{role}_found", f"my_{role}_x", f"{role}x_y"], role, known, ()) == {}


def test_a_variable_of_a_playbook_of_ours_is_known() -> None:
    assert "gpu_boot_report_folder" in variables_of("gpu_boot")


@pytest.mark.parametrize(
    ("ignored", "left"),
    [((), {"gpu_boot_wave_1", "gpu_boot_wave_2"}), (("gpu_boot_wave_1",), {"gpu_boot_wave_2"}), (("gpu_boot_wave_*",), set())],
)
def test_a_name_that_is_listed_is_not_refused(ignored: tuple[str, ...], left: set[str]) -> None:
    assert set(rolevariables.unknown(["gpu_boot_wave_1", "gpu_boot_wave_2"], "gpu_boot", variables_of("gpu_boot"), ignored)) == left


@pytest.mark.parametrize(
    ("role", "name", "meant"),
    [
        pytest.param("nvidia_prebake", "nvida_prebake_enabled", "nvidia_prebake_enabled", id="a letter less"),
        pytest.param("nvidia_prebake", "nvidia_pre_bake_seal_report_path", "nvidia_prebake_seal_report_path", id="another line"),
        pytest.param("gpu_boot", "gpuboot_image", "gpu_boot_image", id="no line"),
        pytest.param("gpu_boot", "gpu_root_image", None, id="another word"),
        pytest.param("gpu_boot", "my_image", None, id="the end alone"),
        pytest.param("gpu_boot", "__gpu_boot_image", None, id="an internal name"),
    ],
)
def test_a_misspelled_role_name_is_seen(role: str, name: str, meant: str | None) -> None:
    assert rolevariables.misspelled([name, f"{role}_image"], role, variables_of(role)) == ({name: meant} if meant else {})
