"""Replays the boot decision on the finished image, with a synthetic GPU of each accepted generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..boot.decide import decide
from ..boot.facts import Facts
from ..boot.plan import Action
from ..boot.policy import Policy
from ..boot.probe import probe
from ..container.containerd import Containerd
from ..container.reference import wanted as wanted_image
from ..driver.gpus import GENERATIONS
from ..errors import CommandError, DataError
from ..store.manifest import Manifest, driver_of
from ..system.pci import PciFunction
from ..util.run import Runner
from .report import Report
from .request import SealRequest

_ADDRESS, _CLASS = "0000:00:00.0", "030200"

# --- right -----------------------------------------------------------------------------------------------------------


def examples(layer: Manifest, request: SealRequest) -> dict[str, str]:
    """The device id of a GPU of each generation that an image with this layer is meant for, by the generation's name; also of one that is
    of no generation that we know, if the driver's list has any."""
    driver = driver_of(layer)
    asked = [g for g in GENERATIONS if g.name in request.generations] if request.generations else driver.generations()
    beyond = "" if request.generations else driver.beyond_table()
    return {**{generation.name: driver.example(generation) for generation in asked}, **({f"device {beyond}": beyond} if beyond else {})}


def replay(root: Path, runner: Runner, containerd: Containerd | None, request: SealRequest, layer: Manifest, report: Report) -> list[str]:
    """Decides for the layer's kernel, with one GPU of each generation. Returns the decisions that are not the fast path, in words."""
    identity = layer.identity
    try:
        is_asked = request.wanted is not None and request.wanted.image.text == layer.image
        wanted = (request.wanted if is_asked else None) or wanted_image(layer.image, None, identity.kind, identity.version)
    except DataError as error:
        return [f"layer {layer.layer}: {error}"]
    asked = examples(layer, request)
    if not asked:
        return [f"layer {layer.layer}: its {identity.flavour} modules of {identity.version} support no known GPU: use another driver image"]
    problems = []
    facts: Facts | None = None
    for name, device in asked.items():
        gpu = PciFunction(_ADDRESS, device, _CLASS, None)
        if facts is None:  # contents are read once; only the GPU differs
            try:
                facts = probe(root, runner, containerd, wanted, request.marker_path, identity.kver, (gpu,))
            except CommandError as error:
                return [f"layer {layer.layer}: the decision cannot be replayed: {error}: install kmod on the machine that runs the seal"]
            facts = replace(facts, signatures_enforced=False)  # a node may enforce and trust something else than the build machine
            if containerd is None:
                facts = replace(facts, containerd_ready=True, image_present=True, config_digest=identity.config_digest)
        plan = decide(replace(facts, functions=(gpu,)), Policy(wanted))
        report.replayed.append({"layer": layer.layer, "gpu": name, "action": plan.action.value, "code": plan.code})
        if plan.action is not Action.INSTALL_SKIP_BUILD:
            problems.append(f"a node with kernel {identity.kver} and a {name} GPU would not take the fast path: {plan.code}: {plan.reason}")
    return problems + (_replay_secure_boot(facts, Policy(wanted), layer, report) if facts and not problems else [])


def _replay_secure_boot(facts: Facts, policy: Policy, layer: Manifest, report: Report) -> list[str]:
    """The same decision for a node that enforces signatures and trusts the layer's signer, once for each layer."""
    signer = layer.signer
    plan = decide(replace(facts, signatures_enforced=True, trusted_keys=(signer.key_id,) if signer else ()), policy)
    refusal = plan.refused[-2].code if plan.fails and len(plan.refused) > 1 else plan.code
    said = {"layer": layer.layer, "action": plan.action.value, "code": refusal}
    report.secure_boot.append({**said, "signer": signer.name if signer else "", "key_id": signer.key_id if signer else ""})
    if signer is None:
        report.notes.append(
            f"layer {layer.layer} was not signed in the bake: a node that enforces module signatures (Secure Boot) refuses it ({refusal}) "
            "and does not compile either; for such nodes set nvidia_prebake_signing_key and nvidia_prebake_signing_certificate"
        )
        return []
    if plan.action is Action.INSTALL_SKIP_BUILD:
        return []
    return [f"a node that enforces signatures and trusts {signer.name} would not take the fast path: {plan.code}: {plan.reason}"]
