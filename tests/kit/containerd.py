"""The fake node's containerd: what ``ctr`` and ``containerd`` answer, and the runs of driver containers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kit import archives
from tests.kit.reply import KILLED, Reply
from tests.kit.values import CONFIG_DIGEST, DROPIN

if TYPE_CHECKING:
    from tests.kit.node import FakeNode


def ctr(node: FakeNode, words: list[str]) -> Reply:
    if not node.daemon_ready:
        return Reply(1, err='ctr: failed to dial "/run/containerd/containerd.sock": connection refused\n')
    if words == ["version"]:
        return Reply()
    assert words[:2] == ["-n", "k8s.io"], words
    return _in_namespace(node, words[2:])


def _in_namespace(node: FakeNode, words: list[str]) -> Reply:
    what = words[:2]
    if what[0] == "images":
        return _images(node, what[1], words[2:])
    if what == ["content", "get"]:
        return Reply(out=json.dumps(node.content[words[2]])) if words[2] in node.content else Reply(1, err="not found")
    if what == ["containers", "ls"]:
        return Reply(out="".join(f"{c}\n" for c in node.containers))
    if what == ["containers", "rm"]:
        node.containers.remove(words[2])
        return Reply()
    if what == ["run", "--rm"]:
        if words[3:6] == ["gpuask", "bash", "-c"]:
            return node.gpu_lists
        return Reply(out=node.entrypoint) if words[3:] == ["gpuask", "cat", "/entrypoint.sh"] else Reply(1, err="no such file")
    if what == ["run", "--privileged"]:
        source = next(word for word in words if "dst=/mnt/gpu" in word).split("src=")[1].split("/opt/gpu")[0]
        if source:
            with node.in_sandbox(Path(source)):
                return _run_driver(node, words[-3], words[-1])
        return _run_driver(node, words[-3], words[-1])
    assert what[0] in ("tasks", "snapshots"), words
    return Reply()


def _images(node: FakeNode, command: str, words: list[str]) -> Reply:
    if words == ["--help"]:
        return Reply(out=node.help)
    if command == "ls":
        shown = {r: d for r, d in node.images.items() if words in (["-q"], [f"name=={r}"], [])}
        return Reply(out="".join(f"{r}\n" for r in shown) if words == ["-q"] else _listing(shown, node.pinned))
    if command == "pull":
        reply = node.pulls.pop(0) if node.pulls else Reply()
        if reply.rc == 0:
            node.add_image(words[-1], config=node.remote.get(words[-1], CONFIG_DIGEST))
            node.images[words[-1]] = node.served or words[-1].partition("@")[2] or node.images[words[-1]]
        return reply
    if command == "import":
        return _import(node, words)
    if command == "tag":
        node.images[words[2]] = node.images[words[1]]
    elif command == "rm":
        assert words[0] == "--sync"
        for name in words[1:]:
            node.images.pop(name, None)
            node.pinned.discard(name)
    else:
        assert (command, len(words)) == ("label", 2), words
        (node.pinned.add if words[1] == "io.cri-containerd.pinned=pinned" else node.pinned.discard)(words[0])
    return Reply()


def _import(node: FakeNode, words: list[str]) -> Reply:
    """As containerd 1.6: the names in the archive, and one by digest below the base name; both stay where unpacking failed. With
    ``archive_holds`` that is another archive than the one that is given."""
    target, documents = archives.imported(Path(node.archive_holds or words[-1]))
    node.content.update(documents)
    for name in (*node.archive_names, f"{words[words.index('--base-name') + 1]}@{target}"):
        node.images[name] = target
    return node.imports.pop(0) if node.imports else Reply()


def _run_driver(node: FakeNode, container: str, action: str) -> Reply:
    assert (node.root / "opt/gpu").is_dir(), "the contract's folder is not there"
    assert container not in node.containers, "already exists"
    node.containers.append(container)
    script = node.scripts.pop(0) if len(node.scripts) > 1 else node.scripts[0]
    reply = script(node, action)
    if reply.seconds < KILLED and container in node.containers:  # ctr lived to the end, and --rm removed it
        node.containers.remove(container)
    return reply


def containerd(node: FakeNode, words: list[str]) -> Reply:
    if words == ["--version"]:
        return Reply(out="containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1\n")
    assert words == ["config", "dump"]
    file = node.root / DROPIN
    return Reply(out="base\n" + (file.read_text(encoding="utf-8") if file.exists() else ""))


def _listing(images: Mapping[str, str], pinned: Collection[str] = ()) -> str:
    """As ``ctr images ls`` of containerd 1.6 prints it."""
    kind = "application/vnd.oci.image.index.v1+json"
    rows = [
        f"{reference} {kind} {target} 245.1 MiB linux/amd64 {'io.cri-containerd.pinned=pinned' if reference in pinned else '-'}"
        for reference, target in images.items()
    ]
    return "\n".join(["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]) + "\n"
