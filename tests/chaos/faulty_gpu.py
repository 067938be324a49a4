"""Engines with the faults of a device: a typed message "!oom", "!assert" or "!hang" is answered with one.

A plug-in of its own: `registered(folder)` is the metadata that makes voxd find it.  With a CUDA device the faults are
real ones: an allocation beyond the free memory, an index out of range in a kernel, a kernel that spins.  Without one,
what torch throws is thrown, and the loop stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from voxd.engine.contract import Capabilities, Demand, Engine, EngineCommand
from voxd.engine.echo import Echo
from voxd.engine.mini.engine import VoxtralMini
from voxd.messages import Output, Respond

FAULTS = ("!oom", "!assert", "!hang")
SPIN = 10**13  # clock ticks: over an hour
ROOT = Path(__file__).parents[2]


class _Faulty(Engine):
    """Any engine, until it is asked for a fault."""

    kind: ClassVar[type[Engine]]

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        super().__init__(options, wake)
        self._engine = self.kind(options, wake)
        self._fault: str | None = None

    def demand(self) -> Demand | None:
        return self._engine.demand()

    def grant(self, units: int) -> None:
        self._engine.grant(units)

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        import torch  # noqa: F401 (here, for a busy machine takes longer over it than an engine may be silent)

        return self._engine.load(progress)

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Respond) and command.context and command.context[-1].text in FAULTS:
            self._fault = command.context[-1].text
        self._engine.receive(command)

    def step(self, now_us: int) -> Iterable[Output]:
        if self._fault is not None:
            commit(self._fault)
        return self._engine.step(now_us)

    @property
    def deadline_us(self) -> int | None:
        return 0 if self._fault is not None else self._engine.deadline_us

    def stop(self) -> None:
        self._engine.stop()


class FaultyEcho(_Faulty):
    kind = Echo
    capabilities: ClassVar[Capabilities] = Echo.capabilities


class FaultyMini(_Faulty):
    kind = VoxtralMini
    capabilities: ClassVar[Capabilities] = VoxtralMini.capabilities


def commit(fault: str) -> None:
    """One of FAULTS, within a step."""
    import torch

    cuda: Any = torch.cuda
    there = cuda.is_available()
    if fault == "!oom":
        if not there:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB.")
        torch.empty(2 * cuda.mem_get_info()[1], dtype=torch.uint8, device="cuda")
    elif fault == "!assert":
        if not there:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\nMore about it follows.")
        torch.zeros(8, device="cuda")[torch.full((8,), 1 << 20, device="cuda")].tolist()
    elif there:
        cuda._sleep(SPIN)
        cuda.synchronize()
    else:
        threading.Event().wait()


def registered(folder: Path) -> str:
    """Writes the metadata of the plug-in into a new folder; returns what PYTHONPATH must begin with."""
    info = folder / "voxd_faulty-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: voxd-faulty\nVersion: 1\n")
    engines = ("faulty-echo = tests.chaos.faulty_gpu:FaultyEcho", "faulty-mini = tests.chaos.faulty_gpu:FaultyMini")
    (info / "entry_points.txt").write_text("\n".join(["[voxd.engines]", *engines, ""]))
    return f"{folder}:{ROOT}"
