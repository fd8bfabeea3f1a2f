"""Defines what one bake works with. Nothing here changes during the bake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..container.containerd import Containerd
from ..container.driver_container import HOST, DriverContainer, Place
from ..system.certificate import Certificate
from ..util.events import Events
from ..util.run import Runner
from .request import BakeRequest
from .signing import ModuleSigner


@dataclass(frozen=True)
class Bake:
    """``root`` is the system to bake: ``/``, except in tests. ``digest`` is the config digest of the driver image for ``arch``;
    ``certificate`` is None if the bake does not sign."""

    root: Path
    runner: Runner
    containerd: Containerd
    request: BakeRequest
    events: Events
    arch: str
    digest: str
    certificate: Certificate | None
    warnings: tuple[str, ...]

    def container(self, place: Place = HOST) -> DriverContainer:
        return DriverContainer(self.containerd, self.runner, self.root, self.events.say, place)


@dataclass(frozen=True)
class Build:
    """What the builds of one bake share: ``actions`` are those that the driver image knows, ``names`` are container ids, each new."""

    bake: Bake
    actions: tuple[str, ...]
    signer: ModuleSigner | None
    names: Iterator[str]
