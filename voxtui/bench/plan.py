"""When which session plays which clip: the timetable of a bench, known before its first packet.

Not in the path.  Pure.  Open loop: a turn begins at its time, whatever became of the turns before it.  Positions are
samples of a session's own stream at 16 kHz, times are us after the start of the run; it does not know what a clip
sounds like.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.audio import PACKET, RATE

Mode = Literal["transcribe", "converse"]
Profile = Literal["constant", "ramp", "burst"]


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What a bench plays: `turns` of each session are measured, after `warmup` of them that are not; `pause_s` of
    silence follows each clip, which must be longer than the silence that ends a turn.

    constant: the sessions' phases are spread evenly over one turn, as those of strangers would be.
    burst:    all begin at the same instant.
    ramp:     one joins after the other over the length of one session: the load climbs to all of them, and falls."""

    sessions: int = 1
    turns: int = 10
    warmup: int = 1
    pause_s: float = 2.5
    mode: Mode = "transcribe"
    profile: Profile = "constant"

    @property
    def answers(self) -> bool:
        return self.mode == "converse"

    @property
    def each(self) -> int:
        """How many turns one session has, warm-up included."""
        return self.warmup + self.turns


@dataclass(frozen=True, slots=True)
class ClipStart:
    """The start of a clip: clip number `clip` begins at this sample of the session's stream."""

    at: int
    clip: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one session plays.  It begins `begin_us` after the start of the run, its measured turns at sample
    `measured`."""

    begin_us: int
    cues: tuple[ClipStart, ...]
    measured: int
    samples: int

    def turn(self, position: int) -> int:
        """The turn that was due last before this sample: speech that ends there belongs to it."""
        return max(0, bisect_right(self.cues, position, key=lambda cue: cue.at) - 1)

    @property
    def measured_us(self) -> int:
        return self.begin_us + _us(self.measured)

    @property
    def end_us(self) -> int:
        return self.begin_us + _us(self.samples)


def timetable(plan: BenchPlan, lengths: Sequence[int]) -> list[Part]:
    """Makes one part for each session; `lengths`: samples of each clip.

    Session s begins with clip s, so that not all say the same at the same time."""
    parts = [_part(plan, lengths, first) for first in range(plan.sessions)]
    whole = parts[0].samples + _packets(plan.pause_s)
    spread = {"constant": whole // plan.each, "ramp": whole, "burst": 0}[plan.profile]
    return [
        Part(_us(number * spread // plan.sessions), part.cues, part.measured, part.samples)
        for number, part in enumerate(parts)
    ]


def _part(plan: BenchPlan, lengths: Sequence[int], first: int) -> Part:
    cues: list[ClipStart] = []
    at = end = 0
    for turn in range(plan.each):
        clip = (first + turn) % len(lengths)
        cues.append(ClipStart(at, clip))
        end = at + _whole(lengths[clip])
        at = end + _packets(plan.pause_s)
    return Part(0, tuple(cues), cues[plan.warmup].at, end)


def _whole(samples: int) -> int:
    """Rounds up to whole packets, so that no packet holds the end of one clip and the start of the next."""
    return -(-samples // PACKET) * PACKET


def _packets(seconds: float) -> int:
    return _whole(round(seconds * RATE))


def _us(samples: int) -> int:
    return samples * 1_000_000 // RATE
