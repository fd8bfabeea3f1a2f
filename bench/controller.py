"""`gpu_boot` from a controller: one module call without fact gathering, compared with the same look in ten tasks with fact gathering."""

from __future__ import annotations

from bench.ground import Ground
from bench.rows import Row, interleaved, row
from lab.machine import paths
from lab.machine.errors import LabError

RUNS = 7
TEN_TASKS = paths.TOP / "bench/ten_tasks.yml"
ONE_CALL = paths.TOP / "playbooks/boot.yml"
NOTHING = paths.TOP / "bench/ping.yml"


def bench(ground: Ground) -> list[Row]:
    """Rows in seconds of a whole ansible-playbook, with the ssh connection kept open. Raises LabError if gpu_boot sees no baked layer."""
    one, ten, none = "gpu_boot from a controller: one call", "the same look in ten tasks, with fact gathering", "a play with one ping"
    answer = ground.play(ONE_CALL, "--check", gpu_boot_image=ground.image)
    if "install-skip-build: baked_layer_matches" not in answer:
        raise LabError(f"gpu_boot does not see the baked layer. It answered:\n{answer}")
    works = {
        one: lambda: ground.play(ONE_CALL, "--check", gpu_boot_image=ground.image),
        ten: lambda: ground.play(TEN_TASKS, gpu_boot_image=ground.image),
        none: lambda: ground.play(NOTHING),
    }
    seconds = interleaved(works, RUNS)
    return [row(one, seconds[one], "s", compared_with=ten), row(ten, seconds[ten], "s"), row(none, seconds[none], "s")]
