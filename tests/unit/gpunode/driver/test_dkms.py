"""DKMS's tree, read as files."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver import dkms
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.driver.dkms import DkmsEntry

from tests.kit.node import FakeNode
from tests.kit.values import KVER, VERSION


def test_no_tree_is_nothing_registered(node: FakeNode) -> None:
    assert dkms.entries(node.root) == ()
    assert dkms.build_log(node.root, VERSION) is None


def test_added_built_and_installed_are_told_apart(node: FakeNode) -> None:
    node.build()
    node.put(f"var/lib/dkms/nvidia/570.1/{KVER}/x86_64/module/nvidia.ko")
    node.put("var/lib/dkms/nvidia/535.1/source/dkms.conf")
    assert dkms.entries(node.root) == (
        DkmsEntry("535.1"),
        DkmsEntry("570.1", KVER, "x86_64", "built"),
        DkmsEntry(VERSION, KVER, "x86_64", "installed"),
    )


def test_a_link_to_another_version_installs_only_that(node: FakeNode) -> None:
    node.build()
    node.link(f"var/lib/dkms/nvidia/kernel-{KVER}-x86_64", f"570.1/{KVER}/x86_64")
    assert [e.state for e in dkms.entries(node.root)] == ["built"]


def test_other_names_of_the_driver_are_known(node: FakeNode) -> None:
    for name in ("nvidia", "nvidia-current", "zfs", "nvidia-fs"):
        node.put(f"var/lib/dkms/{name}/1.0/x")
    assert [one.path for one in dkms.registered(node.root)] == ["var/lib/dkms/nvidia/1.0", "var/lib/dkms/nvidia-current/1.0"]


def test_a_failed_build_leaves_its_log(node: FakeNode) -> None:
    node.put(f"var/lib/dkms/nvidia/{VERSION}/build/make.log", "error: x")
    assert dkms.build_log(node.root, VERSION) == "error: x"


# --- other folders -----------------------------------------------------------------------------------------------------

CONF, DROPIN = "etc/dkms/framework.conf", "etc/dkms/framework.conf.d/site.conf"
SRV = "srv/dkms"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        pytest.param('dkms_tree="/srv/dkms"\n', SRV, id="quoted"),
        pytest.param("  export dkms_tree=/srv/dkms; x=1\n", SRV, id="exported, another command"),
        pytest.param("dkms_tree='/srv//x/../dkms/'  # ours\n", SRV, id="not normal"),
        pytest.param("dkms_tree=/other\ndkms_tree=/srv/dkms\n", SRV, id="the last counts"),
        pytest.param('# dkms_tree="/srv/dkms"\n', "", id="a comment"),
        pytest.param("dkms_tree=/var/lib/dkms/\n", "", id="the usual one"),
        pytest.param("dkms_tree=/link/dkms\n", "", id="the usual one behind a link"),
        pytest.param("my_dkms_tree=/srv/dkms\n", "", id="another variable"),
        pytest.param("dkms_tree=$base/dkms\n", "", id="a variable in it"),
        pytest.param("dkms_tree=/srv/`x`\n", "", id="a command in it"),
        pytest.param("dkms_tree=relative\n", "", id="relative"),
    ],
)
@pytest.mark.parametrize("conf", [CONF, DROPIN])
def test_another_tree_is_read_from_dkms_configuration(node: FakeNode, conf: str, text: str, tree: str) -> None:
    node.link("link", "/var/lib")
    node.put(conf, text)
    assert dkms.trees(node.root) == (("var/lib/dkms", tree) if tree else ("var/lib/dkms",))


@pytest.mark.parametrize(
    ("line", "is_elsewhere"),
    [
        pytest.param('dkms_tree="/srv/dkms"', True, id="tree"),
        pytest.param("source_tree=/srv/src", True, id="sources"),
        pytest.param("install_tree=/opt/modules", True, id="modules"),
        pytest.param("dkms_tree=$base/dkms", True, id="cannot be told"),
        pytest.param("[ -d /srv ] && dkms_tree=/srv/dkms", True, id="depends"),
        pytest.param("dkms_tree=/var/lib/dkms; dkms_tree=/x", True, id="two"),
        pytest.param("dkms_tree+=/x", True, id="appended"),
        pytest.param("dkms_tree=", True, id="empty"),
        pytest.param('# dkms_tree="/srv/dkms"', False, id="a comment"),
        pytest.param("x=1 # source_tree=/x", False, id="a comment behind"),
        pytest.param("install_tree=/usr/lib/modules", False, id="merged usr"),
        pytest.param("dkms_tree='/var/lib/dkms'", False, id="the usual one"),
        pytest.param("mok_signing_key=$dkms_tree/mok.key", False, id="its value is used"),
    ],
)
def test_a_line_by_which_dkms_works_elsewhere_is_named(node: FakeNode, line: str, is_elsewhere: bool) -> None:
    node.put(CONF, f"# a comment\n{line}\n")
    assert dkms.elsewhere(node.root) == (f"{line} in /{CONF}" if is_elsewhere else "")


def test_a_driver_in_another_tree_is_registered(node: FakeNode) -> None:
    node.put(DROPIN, f"dkms_tree=/{SRV}\n")
    node.put(f"{SRV}/nvidia/570.1/{KVER}/x86_64/module/nvidia.ko")
    node.link(f"{SRV}/nvidia/kernel-{KVER}-x86_64", f"570.1/{KVER}/x86_64")
    node.put(f"{SRV}/nvidia-current/1/x")
    assert dkms.entries(node.root) == (DkmsEntry("570.1", KVER, "x86_64", "installed"),)
    assert [one.path for one in dkms.registered(node.root)] == [f"{SRV}/nvidia/570.1", f"{SRV}/nvidia-current/1"]
    node.put(f"{SRV}/nvidia/{VERSION}/build/make.log", "error: x")
    assert dkms.build_log(node.root, VERSION) == "error: x"
    assert f"{SRV}/mok.key" in dkms.private_keys(node.root)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize(
    ("link", "below"), [("var/lib/dkms", "/nvidia/570.1"), ("var/lib/dkms/nvidia", "/570.1"), ("var/lib/dkms/nvidia/570.1", "")]
)
def test_what_is_behind_a_link_is_registered(node: FakeNode, link: str, below: str, absolute: bool) -> None:
    node.put(f"srv/real{below}/{KVER}/x86_64/module/nvidia.ko")
    if link == "var/lib/dkms":
        (node.root / link).rmdir()
    node.link(link, ("/" if absolute else "../" * link.count("/")) + "srv/real")  # an absolute one, too, leads to the system at the root
    assert dkms.entries(node.root) == (DkmsEntry("570.1", KVER, "x86_64", "built"),)
    assert [one.path for one in dkms.registered(node.root)] == ["var/lib/dkms/nvidia/570.1"]
    assert not dkms.is_registered(node.root, "570.1"), "nothing behind a link is ours"


def test_a_link_under_a_hidden_name_is_none(node: FakeNode) -> None:
    node.build()
    node.link("var/lib/dkms/nvidia/.gpu-prebake.f49c", f"{VERSION}/{KVER}/x86_64")  # as staged beside its place by a run that was killed
    assert [one.version for one in dkms.registered(node.root)] == [VERSION]


@pytest.mark.parametrize("target", ["/gone", "nvidia", "/usr/bin/nvidia-smi"])
def test_a_link_that_leads_to_no_folder_is_nothing(node: FakeNode, target: str) -> None:
    node.put("usr/bin/nvidia-smi")
    node.link("var/lib/dkms/nvidia", target)
    assert (dkms.entries(node.root), dkms.registered(node.root)) == ((), ())
