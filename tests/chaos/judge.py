"""What an attacked daemon must have kept, read from what was measured.  Pure: `verdicts(evidence)`.

pings      of the honest client: 99 of 100 are answered within PING_MS, and all are answered
words      none lost, doubled or of somebody else, each turn ended once (`tests.chaos.nemesis_check`); no link replaced
memory     of both processes together never more than before the attacks, and the sum of the stated bounds
processes  the same two at the end, ready; nothing of the attackers is left in them
log        no traceback
attacks    each was made, and did not end by a mistake of its own: else nothing was proven
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shared.latency import percentile
from tests.chaos.honest import Ping
from tests.chaos.nemesis_check import History, violations
from voxtui.events import Unlinked

PING_MS = 50.0  # p99, on two cores with nothing else on them
LOST_MS = 60_000.0  # what a ping counts as that was never answered
FILES_LEFT = 8  # more open than before


@dataclass(frozen=True, slots=True)
class Process:
    """`peak`: bytes resident at most while it was attacked, `before`: and before; `files` open then and at the end."""

    name: str
    pids: tuple[int, int]
    before: int
    peak: int
    files: tuple[int, int]
    cpu_s: float


@dataclass(slots=True)
class Evidence:
    """`calm` and `pings`: of the honest client before and during the attacks; `unanswered` of all its pings.

    `rounds`: of each attack, those that were begun; `bound`: bytes of memory that clients
    may cost; `state`: of the daemon at the end, `sessions`: those that it still served then."""

    history: History
    calm: Sequence[Ping]
    pings: Sequence[Ping]
    unanswered: int
    processes: Sequence[Process]
    bound: float
    state: str
    sessions: int
    rounds: Mapping[str, int]
    told: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table."""

    promise: str
    found: str
    limit: str
    kept: bool


def verdicts(evidence: Evidence) -> list[Verdict]:
    return [*_pings(evidence), *_words(evidence), *_memory(evidence), *_processes(evidence), *_attacks(evidence)]


def _pings(evidence: Evidence) -> Iterator[Verdict]:
    if not evidence.pings:
        yield Verdict("pings", "none was answered", "all", kept=False)
        return
    lost = [LOST_MS] * evidence.unanswered
    took = percentile([*(ping.took_ms for ping in evidence.pings), *lost], 99)
    work = percentile([*(ping.work_ms for ping in evidence.pings), *lost], 99)
    calm = percentile([ping.took_ms for ping in evidence.calm], 99) if evidence.calm else 0
    limit = f"{PING_MS:.0f} ms"
    yield Verdict("pings p99", f"{took:.1f} ms ({calm:.1f} before the attacks)", limit, kept=took <= PING_MS)
    yield Verdict("work p99", f"{work:.1f} ms while a ping waited", limit, kept=work <= PING_MS)
    yield Verdict("pings", f"{evidence.unanswered} without an answer", "all", kept=not evidence.unanswered)


def _words(evidence: Evidence) -> Iterator[Verdict]:
    broken = violations(evidence.history)
    logs = [text for text in broken if text.startswith("gateway ")]
    words = [text for text in broken if text not in logs]
    owed = sum(mark.owed for client in evidence.history.clients for mark in client.marks)
    yield Verdict("words", "; ".join(words[:3]) or f"{owed} owed, all came", "none lost", kept=bool(owed) and not words)
    links = sum(isinstance(r.event, Unlinked) for client in evidence.history.clients for r in client.records)
    yield Verdict("links lost", str(links), "0", kept=not links)
    yield Verdict("log", "; ".join(logs[:3]) or "clean", "no traceback", kept=not logs)


def _memory(evidence: Evidence) -> Iterator[Verdict]:
    grown = sum(process.peak - process.before for process in evidence.processes)
    each = ", ".join(f"{p.name} {_mib(p.before)} → {_mib(p.peak)}" for p in evidence.processes)
    found = f"grew by {_mib(grown)} MiB: {each}"
    yield Verdict("memory", found, f"{_mib(evidence.bound)} MiB more", kept=grown <= evidence.bound)


def _processes(evidence: Evidence) -> Iterator[Verdict]:
    for process in evidence.processes:
        first, last = process.pids
        text = f"pid {first}" if first == last else f"pid {first}, then {last}"
        yield Verdict(process.name, f"{text}, {process.cpu_s:.1f} s of CPU", "the same process", kept=first == last)
        before, after = process.files
        found = f"{before}, then {after}"
        yield Verdict(f"{process.name}'s files", found, f"{FILES_LEFT} more", kept=after <= before + FILES_LEFT)
    yield Verdict("state", evidence.state, "ready", kept=evidence.state == "ready")
    yield Verdict("sessions left", str(evidence.sessions), "0", kept=not evidence.sessions)


def _attacks(evidence: Evidence) -> Iterator[Verdict]:
    idle = sorted(name for name, rounds in evidence.rounds.items() if not rounds)
    found = f"without a round: {', '.join(idle)}" if idle else f"{sum(evidence.rounds.values())} rounds"
    yield Verdict("attacks", found, f"all {len(evidence.rounds)} made", kept=bool(evidence.rounds) and not idle)


def _mib(size: float) -> int:
    return round(size / (1 << 20))
