"""The budgets of the beginning of a boot (facts, decision, verification, start of Python), on the node itself, without Ansible."""

from __future__ import annotations

from bench.ground import OTHER, Ground
from bench.rows import NATIVE_COLD, Row, row
from lab.machine.errors import LabError

RUNS = 20


def bench(ground: Ground) -> list[Row]:
    """Rows in milliseconds. Raises LabError if the node's decision is not the one that the rows' names claim."""
    other = [f"/{OTHER}"] if ground.has_other else []
    found = ground.python("onnode", ground.image, str(RUNS), *other)
    if set(found["codes"]) != {"baked_layer_matches"}:
        raise LabError(f"the node answers {found['codes']}, not baked_layer_matches: the figures would not measure what their names say")
    seconds = found["seconds"]
    two = "two captured layers of 500 entries"
    cold = "verify 100 MB of modules, page cache empty"
    start = "start of Python, facts and decision"
    compared = {"other_start": f"{start} (stand-in layer), the other clone", "two_other_start": f"{start}, {two}, the other clone"}
    return [
        row("facts (stand-in layer)", seconds["facts"], budget=100),
        row(f"facts, {two}", seconds["two_facts"], budget=100),
        row("the decision alone (stand-in layer)", seconds["decision"], budget=5),
        row(f"the decision alone, {two}", seconds["two_decision"], budget=5),
        row(f"{start} (stand-in layer)", seconds["start"], budget=150),
        row(f"{start}, {two}", seconds["two_start"], budget=150),
        *(row(title, seconds[name]) for name, title in compared.items() if name in seconds),
        row("verify 100 MB of modules", seconds["verify"], budget=250),
        row(cold, seconds["verify_cold"], clock=NATIVE_COLD),
    ]
