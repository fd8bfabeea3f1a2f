"""lab/scenarios.py: which scenarios are run, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import scenarios
from lab.machine.errors import LabError


@pytest.fixture
def molecule(tmp_path: Path) -> Path:
    for name, said in {
        "baked": "lab_baked: standin\nlab_image: standin\n",
        "fresh": "lab_baked: none\nlab_image: standin\n",
        "odd": "lab_part: scenarios\nlab_baked: none\nlab_image: standin-grid\n",
    }.items():
        (tmp_path / name / "vars").mkdir(parents=True)
        (tmp_path / name / "vars/main.yml").write_text(said)
        (tmp_path / name / "molecule.yml").touch()
    (tmp_path / "fresh/after_reboot.yml").touch()
    (tmp_path / "shared").mkdir()
    return tmp_path


def names(wanted: list[scenarios.Scenario]) -> list[str]:
    return [scenario.name for scenario in wanted]


def test_runs_all_scenarios_of_a_part_those_that_boot_twice_first(molecule: Path) -> None:
    known = scenarios.found(molecule)
    assert names(scenarios.choose(known, [], scenarios.CORE)) == ["fresh", "baked"]
    assert names(scenarios.choose(known, [], "scenarios")) == ["odd"]
    assert names(scenarios.choose(known, ["odd", "baked"], scenarios.CORE)) == ["baked", "odd"]


@pytest.mark.parametrize(
    ("wanted", "part", "said"),
    [
        pytest.param(["bakd"], scenarios.CORE, "no scenario bakd; there are baked, fresh, odd", id="misspelled name"),
        pytest.param([], "nvidia", "no scenario belongs to part nvidia; there are core, scenarios", id="no such part"),
    ],
)
def test_an_unknown_name_or_part_is_refused(molecule: Path, wanted: list[str], part: str, said: str) -> None:
    with pytest.raises(LabError, match=said):
        scenarios.choose(scenarios.found(molecule), wanted, part)


def test_make_test_runs_the_core_scenarios() -> None:
    core = scenarios.choose(scenarios.found(), [], scenarios.CORE)
    assert set(names(core)) >= {"baked", "kernel-drift", "never-baked", "no-gpu", "version-mismatch"}
