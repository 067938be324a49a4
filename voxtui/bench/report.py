"""What a bench found, for people and for machines: tables, lines and one JSON object.  Not in the path.

Pure: results in, text and plain values out.  It does not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared import __version__
from shared.latency import Summary, percentile
from shared.safe_text import safe_line
from voxtui.bench.goals import Goal, Verdict
from voxtui.bench.plan import BenchPlan
from voxtui.bench.tally import LATE, UPLINK, Compared, Counts, Result
from voxtui.table import number, table

SCHEMA = 1  # version of the record; a change that breaks readers raises it
PACE_MS = 10.0  # the bench itself may be so late at p99; beyond it the figures are not the server's alone
SLOW = "this machine could not keep the pace: figures include its own delay"
HEADLINE = {"transcribe": "final_ms", "converse": "ttft_user_ms"}  # what is shown while a bench runs
SHOWN = {
    "transcribe": ("first_words_ms", "first_text_ms", "final_ms"),
    "converse": ("ttft_user_ms", "total_ms"),
}  # beside the uplink
TROUBLE = {
    "refused": ("refused session", "refused sessions"),
    "errors": ("error", "errors"),
    "failed": ("failed turn", "failed turns"),
    "interrupted": ("interrupted answer", "interrupted answers"),
    "reconnects": ("reconnect", "reconnects"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured of one voxd under one plan.  `status`: what its /status said, {} if nothing."""

    label: str
    status: Mapping[str, object]
    sessions: int
    result: Result
    verdicts: Sequence[Verdict]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a bench hands back: `text` for standard output, `record` for a JSON file; `passed`: every goal was
    reached."""

    text: str
    record: dict[str, Any]
    passed: bool


def clean(counts: Counts) -> bool:
    """Whether nobody was refused, nothing failed and every turn was heard."""
    return not (counts.refused or counts.errors or counts.failed or counts.missed)


def judge(goals: Sequence[Goal], result: Result) -> list[Verdict]:
    figures = result.figures()
    return [goal.judge(figures, result.counts) for goal in goals]


# ── for people ──────────────────────────────────────────────────────────────────────────────────────────────────────


def title(plan: BenchPlan, clips: Sequence[tuple[str, float]]) -> str:
    """What is played, in one line."""
    mean = sum(seconds for _, seconds in clips) / len(clips)
    heard = (
        f"{safe_line(clips[0][0])}, {mean:.1f} s"
        if len(clips) == 1
        else f"{len(clips)} clips, {mean:.1f} s on average,"
    )
    return (
        f"{_many(plan.sessions, 'session', 'sessions')} × {_many(plan.turns, 'turn', 'turns')}, {plan.profile}, "
        f"{plan.mode} · {heard} and {plan.pause_s:g} s of pause · "
        f"{_many(plan.warmup, 'warm-up turn', 'warm-up turns')} each"
    )


def run_text(head: str, found: Finding) -> str:
    """The table of one run, the same turns as voxd counts them, then what has no percentiles."""
    figures = {name: each for name, each in found.result.figures().items() if name != LATE}
    rows = [
        (name, str(each.n), *(number(name, value) for value in (each.p50, each.p95, each.p99, each.max)))
        for name, each in figures.items()
    ]
    figured = table(("metric", "n", "p50", "p95", "p99", "max"), rows) if rows else "nothing was measured"
    parts = [f"{_where(found)}\n{head}", figured, _as_voxd_counts(found), "\n".join(_lines(found)), _verdicts(found)]
    return "\n\n".join(part for part in parts if part)


def _as_voxd_counts(found: Finding) -> str:
    """The same turns as the daemon reported them, beside what the bench measured from where the daemon says that speech
    was."""

    def row(name: str, each: Compared) -> tuple[str, ...]:
        values = [getattr(side, at, None) for at in ("p50", "p95") for side in (each.voxd, each.here)]
        written = ["-" if value is None else number(name, value) for value in values]
        return (name, str(each.voxd.n), *written, "-" if each.difference is None else f"{each.difference:+.1f}")

    rows = [row(name, each) for name, each in found.result.compared().items()]
    titles = ("metric", "n", "p50 voxd", "p50 bench", "p95 voxd", "p95 bench", "difference p50")
    return f"as voxd counts, from its own estimate of speech\n{table(titles, rows)}" if rows else ""


def comparison_text(head: str, first: Finding, second: Finding) -> str:
    """Two runs beside each other; a ratio below 1 means that B is faster."""
    one, other = first.result.figures(), second.result.figures()
    names = [name for name in one if name in other and name != LATE]
    names += [name for name in (*one, *other) if name not in names and name != LATE]
    rows = [_beside(name, one.get(name), other.get(name)) for name in names]
    titles = ("metric", "n A", "n B", "p50 A", "p50 B", "B/A", "p95 A", "p95 B", "B/A")
    blocks = [f"A  {_where(first)}\nB  {_where(second)}\n{head}"]
    blocks.append(table(titles, rows) if rows else "nothing was measured")
    for name, found in (("A", first), ("B", second)):
        blocks.append("\n".join(f"{name}  {line}" for line in [*_lines(found), *_verdicts(found).splitlines()]))
    return "\n\n".join(blocks)


def transports_text(head: str, found: Mapping[str, Finding], mode: str) -> str:
    """One row for each way: how long sound is on its way up, and how soon words are back."""
    shown = (UPLINK, *SHOWN[mode])
    rows = []
    for name, each in found.items():
        figures = each.result.figures()
        cells = [
            number(metric, getattr(figures[metric], at)) if metric in figures else "-"
            for metric in shown
            for at in ("p50", "p95")
        ]
        rows.append((name, str(each.result.counts.heard), *cells))
    titles = ("transport", "turns", *(f"{metric} {at}" for metric in shown for at in ("p50", "p95")))
    blocks = ["\n".join([*(f"{name}  {_where(each)}" for name, each in found.items()), head]), table(titles, rows)]
    for name, each in found.items():
        blocks.append("\n".join(f"{name}  {line}" for line in [*_lines(each), *_verdicts(each).splitlines()]))
    blocks.append(f"{UPLINK}: a packet of 20 ms, from the capture of its last sample to the session in voxd")
    return "\n\n".join(blocks)


def probe_line(found: Finding) -> str:
    """One probe of the search as a line: `  4 sessions   final_ms.p95 601   passes`."""
    counts, verdict = found.result.counts, found.verdicts[0]
    trouble = [*_trouble(counts), *([f"{counts.missed} missed"] if counts.missed else [])]
    judged = "passes" if found.passed and clean(counts) else "fails" + (f": {', '.join(trouble)}" if trouble else "")
    note = f" ({SLOW})" if _slow(found.result) else ""
    return f"{_many(found.sessions, 'session', 'sessions'):>12}   {_measured(verdict)}   {judged}{note}"


def progress_line(plan: BenchPlan, result: Result) -> str:
    """A line such as `12 of 40 turns · final p50 402 ms`, and what went wrong so far.  Quick, for it runs beside the
    packets."""
    name = HEADLINE[plan.mode]
    values = [value for turn in result.turns if (value := getattr(turn, name)) is not None]
    parts = [f"{result.counts.heard} of {plan.sessions * plan.turns} turns"]
    if values:
        parts.append(f"{name.removesuffix('_ms').replace('_', ' ')} p50 {percentile(values, 50):.0f} ms")
    return " · ".join([*parts, *_trouble(result.counts)])


def _where(found: Finding) -> str:
    engines = found.status.get("engines")
    named = [str(engine) for engine in engines.values() if engine] if isinstance(engines, dict) else []
    version = found.status.get("version")
    return safe_line(" · ".join([found.label, *([f"voxd {version}"] if version else []), *named]))


def _beside(name: str, first: Summary | None, second: Summary | None) -> tuple[str, ...]:
    def cells(statistic: str) -> list[str]:
        values = [getattr(each, statistic) if each else None for each in (first, second)]
        ratio = _ratio(*values)
        written = ["-" if value is None else number(name, value) for value in values]
        return [*written, "-" if ratio is None else f"{ratio:.2f}"]

    counts = [str(each.n if each else 0) for each in (first, second)]
    return (name, *counts, *cells("p50"), *cells("p95"))


def _ratio(first: float | None, second: float | None) -> float | None:
    return second / first if first and second is not None else None


def _lines(found: Finding) -> list[str]:
    """The lines below the table: turns, trouble, CPU, pace."""
    result, counts = found.result, found.result.counts
    heard = f"turns    {counts.heard} of {counts.turns} heard" + (f", {counts.missed} missed" if counts.missed else "")
    lines = [heard, f"trouble  {', '.join(_trouble(counts)) or 'none'}"]
    lines += [f"         {times} × {safe_line(reason)}" for reason, times in result.reasons.most_common()]
    if cores := result.cores():
        lines.append(f"cpu      {', '.join(f'{name} {used:.2f}' for name, used in cores.items())} cores")
    if result.late_ms:
        late = Summary.of(result.late_ms)
        lines.append(f"pace     packets {late.p99:.1f} ms late at p99, {late.max:.1f} ms at most")
    return [*lines, *([f"         {SLOW}"] if _slow(result) else [])]


def _slow(result: Result) -> bool:
    return bool(result.late_ms) and Summary.of(result.late_ms).p99 > PACE_MS


def _trouble(counts: Counts) -> list[str]:
    return [_many(count, *words) for name, words in TROUBLE.items() if (count := getattr(counts, name))]


def _verdicts(found: Finding) -> str:
    return "\n".join(
        f"{'reached' if verdict.passed else 'MISSED '}  {verdict.goal}  ({_measured(verdict)})"
        for verdict in found.verdicts
    )


def _measured(verdict: Verdict) -> str:
    if verdict.value is None:
        return f"{verdict.goal.label} has no value"
    written = number(verdict.goal.name, verdict.value) if verdict.goal.statistic else f"{verdict.value:g}"
    return f"{verdict.goal.label} {written}"


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


# ── for machines ────────────────────────────────────────────────────────────────────────────────────────────────────


def record(
    kind: str,
    plan: BenchPlan,
    clips: Sequence[tuple[str, float]],
    findings: Sequence[Finding],
    *,
    machine: Mapping[str, object],
    started_at: str,
) -> dict[str, Any]:
    """Everything that the text says and where it was measured, ready for JSON; no token is in it."""
    return {
        "bench": SCHEMA,
        "kind": kind,
        "started_at": started_at,
        "voxtui": __version__,
        "machine": dict(machine),
        "plan": {**asdict(plan), "clips": [{"name": name, "seconds": round(length, 3)} for name, length in clips]},
        "results": [_result(found) for found in findings],
    }


def ratios(first: Finding, second: Finding) -> dict[str, dict[str, float | None]]:
    """The ratio B/A of every metric that both runs have."""
    one, other = first.result.figures(), second.result.figures()
    return {
        name: {at: _rounded(_ratio(getattr(one[name], at), getattr(other[name], at))) for at in ("p50", "p95")}
        for name in one
        if name in other
    }


def _result(found: Finding) -> dict[str, Any]:
    result = found.result
    return {
        "target": found.label,
        "voxd": found.status.get("version"),
        "engines": found.status.get("engines"),
        "sessions": found.sessions,
        "metrics": {name: _summary(each) for name, each in result.figures().items()},
        "as_voxd_counts": {name: _compared(each) for name, each in result.compared().items()},
        "counts": asdict(result.counts),
        "reasons": dict(result.reasons),
        "cpu": {"window_s": _rounded(result.window_s), "cores": {k: _rounded(v) for k, v in result.cores().items()}},
        "kept_pace": not _slow(result),
        "goals": [
            {"goal": str(verdict.goal), "value": _rounded(verdict.value), "passed": verdict.passed}
            for verdict in found.verdicts
        ],
    }


def _compared(each: Compared) -> dict[str, Any]:
    """Figures as voxd counts them and as the bench does; what only voxd can know has none of the bench."""
    found: dict[str, Any] = {"voxd": _summary(each.voxd)}
    if each.here is not None:
        found |= {"bench": _summary(each.here), "difference_p50": _rounded(each.difference)}
    return found


def _summary(each: Summary) -> dict[str, float | None]:
    return {at: _rounded(value) for at, value in asdict(each).items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
