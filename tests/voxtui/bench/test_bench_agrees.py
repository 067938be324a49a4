"""The bench and the daemon count alike: what differs between them is the way, which is short here.  `make test-slow`.

Both count from the daemon's estimate of where speech began and ended; then a stamp in the wrong place, on either side,
is the only thing that can pull them apart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.daemon import voxd_process
from tests.support.speech import FOLDER
from voxtui.bench.command import session
from voxtui.bench.drive import Drive, load_clips
from voxtui.bench.plan import BenchPlan
from voxtui.bench.tally import Result
from voxtui.link.target import Direct, unix_target

pytestmark = [pytest.mark.slow]

NEAR_MS = 5.0
ATTEMPTS = 2  # the machine is shared: one run may meet somebody else's work
CLIPS = ("ps_goforward.flac", "librivox_austen_0880.flac")


def played(plan: BenchPlan, *arguments: str) -> Result:
    """Every turn is heard, in real time."""
    clips = [clip for name in CLIPS for clip in load_clips(FOLDER / name, 1)]
    with voxd_process(*arguments) as daemon:
        route = Direct(unix_target(daemon.socket), None)
        result = asyncio.run(Drive(plan, clips, lambda: session(route, plan, lambda line: None)).run())
    counts = result.counts
    assert (counts.heard, counts.missed, counts.errors, counts.interrupted) == (plan.turns, 0, 0, 0)
    return result


def apart(result: Result, names: set[str]) -> dict[str, float]:
    """The median difference in ms between what voxd reports and what the bench measured, by metric."""
    found = {name: each for name, each in result.compared().items() if name in names}
    # A run ends with its last word, which may be before the report on it.
    assert {name for name, each in found.items() if each.voxd.n >= result.counts.turns - 1} == names
    return {name: each.difference for name, each in found.items() if each.difference is not None}


def agree(plan: BenchPlan, names: set[str], *arguments: str) -> None:
    tries: list[dict[str, float]] = []
    while len(tries) < ATTEMPTS:
        tries.append(apart(played(plan, *arguments), names))
        if tries[-1].keys() == names and all(abs(ms) <= NEAR_MS for ms in tries[-1].values()):
            return
    raise AssertionError(f"bench and voxd are apart by more than {NEAR_MS:g} ms, in each of these runs: {tries}")


def test_on_what_is_said() -> None:
    pytest.importorskip("faster_whisper", reason="needs the extra [whisper]")
    names = {"endpoint_ms", "first_text_ms", "final_ms"}
    agree(BenchPlan(turns=10, pause_s=1.5), names, "--transcribe", "whisper", "--respond", "none")


def test_on_what_is_answered(tmp_path: Path) -> None:
    """An answer of 0.8 s, which ends before the next turn begins."""
    settings = tmp_path / "config.yaml"
    settings.write_text("engine_options: {echo: {tokens: 40}}\n")
    plan = BenchPlan(turns=8, pause_s=2.5, mode="converse")
    agree(plan, {"endpoint_ms", "total_ms"}, "--config", str(settings), "--transcribe", "none", "--respond", "echo")
