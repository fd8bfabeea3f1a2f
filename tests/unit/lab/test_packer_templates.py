"""Packer's templates, validated by the installed Packer: each builder by itself, and bad values are refused with an explanation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lab.machine import paths

FOLDER = paths.TOP / "packer"
DUMMY = FOLDER / "dummy.pkrvars.hcl"
BUILDERS = ("amazon-ebs", "azure-arm", "googlecompute", "qemu")


def validate(builder: str, *options: str) -> str:
    """The errors of `packer validate` for one builder, without its line breaks; empty if there are none."""
    argv = ["packer", "validate", f"-only={builder}.image", f"-var-file={DUMMY}", *options, str(FOLDER / "image")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == ("Error" not in said)
    return said


def ansible_blocks(path: Path) -> list[list[str]]:
    """The settings of a template's ansible provisioners, without comments, layout and the relative path to the repository's root."""
    blocks = []
    for block in re.findall(r'provisioner "ansible" \{\n(.*?)\n  \}', path.read_text(), re.DOTALL):
        lines = [re.sub(r"\s+", " ", line).strip().replace("../../", "../") for line in block.splitlines()]
        blocks.append([line for line in lines if line and not line.startswith("#") and not line.startswith("user ")])
    return blocks


# `packer validate -only=NAME` accepts a NAME that no source has. So each builder must be seen to fail if one of its values is missing.
@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("builder", "option", "message"),
    [
        ("amazon-ebs", "aws_instance_type=", "either instance_type or spot_instance_types must be specified"),
        ("azure-arm", "azure_resource_group=", "managed_image_resource_group_name must be specified"),
        ("googlecompute", "google_project_id=", "a project_id must be specified"),
        ("qemu", "qemu_image=", "One of iso_url or iso_urls must be specified"),
    ],
)
def test_each_builder_is_validated_by_itself(builder: str, option: str, message: str) -> None:
    assert message in validate(builder, f"-var={option}")


REFUSED = {
    "vars_file=driver.json": "must be an absolute path",
    "image_name=GPU_node": "must have at most 48 lower-case letters, digits and hyphens, a letter first",
    "disk_gb=8": "must be 10 or more",
    "user=root;reboot": "must be a login name",
    "ssh_timeout=ten": "must be a duration",
    "reboot=sometimes": "must be auto, always or never",
    "qemu_accelerator=xen": "must be kvm, hvf or tcg",
    "qemu_memory_mb=512": "must be 1024 or more",
    "azure_location=West Europe": "must be a region's short name",
    "aws_region=": "must be a region's name",
    "aws_source_owner=": "may be anybody's",
}


@pytest.mark.subprocess
def test_all_bad_values_are_refused_at_once_with_an_explanation() -> None:
    said = validate("qemu", *(f"-var={value}" for value in REFUSED))
    assert {message: message in said for message in REFUSED.values()} == dict.fromkeys(REFUSED.values(), True)


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("disk", "checksum", "refused"),
    [
        pytest.param("/var/lib/images/d.qcow2", "none", False, id="a local path"),
        pytest.param("../d.qcow2", "none", False, id="a relative path"),
        pytest.param("https://images.example.com/d.qcow2", "none", True, id="a URL"),
        pytest.param("https://images.example.com/d.qcow2", "NONE", True, id="a URL, in capitals"),
        pytest.param("github.com/example/images/d.qcow2", "none", True, id="what only looks like a path"),
        pytest.param("https://images.example.com/d.qcow2", f"sha256:{'1' * 64}", False, id="a URL with a checksum"),
    ],
)
def test_a_disk_from_a_network_needs_a_checksum(disk: str, checksum: str, refused: bool) -> None:
    said = validate("qemu", f"-var=qemu_image={disk}", f"-var=qemu_image_checksum={checksum}")
    assert ("may be none only for a local path" in said) == refused, said


@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["a" * 49, "1a", ""])
def test_an_image_name_fits_every_cloud(name: str) -> None:
    assert "a letter first" in validate("qemu", f"-var=image_name={name}")


def test_both_templates_call_the_same_playbooks_and_the_seal_last() -> None:
    called = ansible_blocks(FOLDER / "existing-machine.pkr.hcl")
    # Only a machine that the same build makes has a host key that nobody can know.
    unchecked = (('"ANSIBLE_HOST_KEY_CHECKING=False", ', ""), ("UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"))
    image = ansible_blocks(FOLDER / "image/bake.pkr.hcl")
    for new, known in unchecked:
        assert all(new in " ".join(block) for block in image)
        image = [[line.replace(new, known) for line in block] for block in image]
    assert called == image
    assert [re.findall(r"playbooks/\w+", " ".join(block)) for block in called] == [["playbooks/prebake"], ["playbooks/seal"]]


def test_readme_and_page_show_the_same_six_lines_for_bake_and_seal() -> None:
    shown = [
        re.findall(r'^provisioner "ansible" \{.*?^\}', (paths.TOP / name).read_text(), re.M | re.S)
        for name in ("README.md", "docs/packer.md")
    ]
    assert shown[0] == shown[1]
    bake, seal = shown[0]
    assert len(bake.splitlines()) == 7
    assert seal == bake.replace("prebake.yml", "seal.yml")


def test_every_builder_is_built_linted_and_has_a_plugin() -> None:
    sources = set(re.findall(r'^source "([a-z-]+)" "image"', "".join(p.read_text() for p in (FOLDER / "image").iterdir()), re.MULTILINE))
    assert sources == set(BUILDERS)
    assert set(re.findall(r'"source\.([a-z-]+)\.image"', (FOLDER / "image/bake.pkr.hcl").read_text())) == sources
    assert re.search(r"^PACKER_BUILDERS := (.*)$", (paths.TOP / "Makefile").read_text(), re.MULTILINE)[1].split() == sorted(sources)  # type: ignore[index]
    plugins = set(re.findall(r"github\.com/hashicorp/([a-z]+)", (FOLDER / "plugins.pkr.hcl").read_text()))
    assert plugins == {"ansible"} | {name.split("-")[0] for name in sources}


def test_packer_1_6_is_not_given_the_plugins_block() -> None:
    assert not [p for p in [*(FOLDER / "image").iterdir(), FOLDER / "existing-machine.pkr.hcl"] if "required_plugins" in p.read_text()]


def test_packer_gets_exact_versions_of_its_plugins() -> None:
    versions = re.findall(r'version\s*= "([^"]*)"', (FOLDER / "plugins.pkr.hcl").read_text())
    assert versions
    assert [version for version in versions if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
