"""The built collection contains content only, and bakes and decides from where it is installed."""

from __future__ import annotations

import json
import tarfile
from typing import Any

from lab.builds import bakedimage
from lab.driverimages import driverimage, registry
from lab.machine import host, paths
from lab.nodes import base, inventory
from lab.nodes.native import NativeNode
from tests.collection.conftest import Artifact

CONTENT = ("plugins/", "roles/", "playbooks/", "docs/", "changelogs/", "meta/", "README.md", "SECURITY.md", "LICENSE", "CHANGELOG.md")
WRITTEN_BY_GALAXY = {"MANIFEST.json", "FILES.json"}


def test_the_artifact_contains_all_content_and_nothing_else(artifact: Artifact) -> None:
    with tarfile.open(artifact.tarball) as tar:
        packed = {member.name for member in tar.getmembers() if not member.isdir()}
    listed = host.run(["git", "-C", str(paths.TOP), "ls-files", "-z", "-co", "--exclude-standard"], timeout_s=60).stdout
    tree = {name for name in listed.split("\0") if name and (paths.TOP / name).is_file()}
    assert packed - WRITTEN_BY_GALAXY == {name for name in tree if name.startswith(CONTENT)}


def test_ansible_finds_the_installed_collection(artifact: Artifact) -> None:
    found = json.loads(artifact.run("ansible-galaxy", "collection", "list", "--format", "json").stdout)
    assert {place: list(there) for place, there in found.items() if "gpu.prebake" in there} == {
        f"{artifact.collections}/ansible_collections": ["gpu.prebake"]
    }
    modules = sorted(path.stem for path in (artifact.root / "plugins/modules").glob("*.py"))
    documented = json.loads(artifact.run("ansible-doc", "--json", *(f"gpu.prebake.{name}" for name in modules)).stdout)
    assert sorted(documented) == [f"gpu.prebake.{name}" for name in modules]


def test_the_installed_collection_bakes_and_decides(artifact: Artifact, node: NativeNode) -> None:
    driver = driverimage.build("standin")
    registry.push(driver.layout, driver.reference)
    kver = base.choose(base.kernels(base.root() / "boot"), "6.1").kver
    report = artifact.folder / "report.json"
    variables = {**bakedimage.variables(driver.reference, kver), "nvidia_prebake_report_path": str(report)}

    checked = play(artifact, node, "gpu.prebake.prebake", variables, "--check")
    assert "failed=0" in checked
    assert not list((node.root / "var/lib/gpu-prebake").rglob("manifest.json"))

    play(artifact, node, "gpu.prebake.prebake", variables)
    baked = json.loads(report.read_text())
    assert (baked["identity"]["kver"], baked["identity"]["kind"], baked["baked_now"]) == (kver, "cuda", True)
    assert len(list((node.root / "var/lib/gpu-prebake").rglob("manifest.json"))) == 1

    assert "sealed: inert, covered: " in play(artifact, node, "gpu.prebake.seal", variables)

    said = play(artifact, node, "gpu.prebake.boot", {"gpu_boot_image": driver.reference}, "--check")
    assert "none: no_gpu: no NVIDIA GPU is on the PCI bus" in said


def play(artifact: Artifact, node: NativeNode, name: str, variables: dict[str, Any], *arguments: str) -> str:
    """Runs a playbook of the installed collection by its full name; returns what it printed."""
    hosts = inventory.write(artifact.folder / "inventory.json", [(node.state.name, node.target)])
    extra = artifact.folder / "variables.json"
    extra.write_text(json.dumps(variables))
    done = artifact.run("ansible-playbook", "-i", str(hosts), "-e", f"@{extra}", *arguments, name, check=False)
    assert done.rc == 0, done.stdout + done.stderr
    return done.stdout
