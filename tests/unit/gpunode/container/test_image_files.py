"""Files of a driver image: the script that prints them, run by bash in a folder, and reading what it prints."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import image_files

NAMES = ("list.json", "list.json.gz")


def printed(root: Path, limit: int = 100) -> str:
    script = image_files._SCRIPT
    for place in ("/opt/gpu", "/usr/share"):
        script = script.replace(place, f"{root}{place}")
    argv = ["bash", "-c", script, "bash", "4", str(limit), *NAMES]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def put(root: Path, path: str, data: bytes = b"x") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


@pytest.mark.subprocess
def test_files_of_a_name_are_found_where_a_drivers_documentation_is(tmp_path: Path) -> None:
    put(tmp_path, "opt/gpu/NVIDIA-Linux/supported/list.json", b"a\nb")
    put(tmp_path, "usr/share/doc/nvidia-driver/list.json.gz", b"\x1f\x8b\xff" * 50)
    put(tmp_path, "usr/share/nvidia-580/list.json", b"")
    for elsewhere in ("etc/list.json", "usr/share/other/list.json", "opt/gpu/another.json"):
        put(tmp_path, elsewhere)
    (tmp_path / "opt/gpu/folder/list.json").mkdir(parents=True)
    found = {path.removeprefix(f"{tmp_path}/"): data for path, data in image_files.parse(printed(tmp_path))}
    assert found == {
        "opt/gpu/NVIDIA-Linux/supported/list.json": b"a\nb",
        "usr/share/nvidia-580/list.json": b"",
        "usr/share/doc/nvidia-driver/list.json.gz": (b"\x1f\x8b\xff" * 50)[:100],
    }


@pytest.mark.subprocess
def test_no_more_than_four_are_printed(tmp_path: Path) -> None:
    assert image_files.parse(printed(tmp_path)) == ()
    for number in range(6):
        put(tmp_path, f"opt/gpu/{number}/list.json")
    assert len(image_files.parse(printed(tmp_path))) == 4


@pytest.mark.parametrize("text", ["/x\n!!\n", "/x\nYQ\n", "/x\nä==\n"])
def test_what_is_not_base64_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        image_files.parse(text)


@pytest.mark.parametrize(("text", "found"), [("", ()), ("/x\n\n", (("/x", b""),)), ("/x\n", (("/x", b""),)), ("/x", ())])
def test_a_file_may_be_empty_and_an_answer_cut_off(text: str, found: tuple[tuple[str, bytes], ...]) -> None:
    assert image_files.parse(text) == found
