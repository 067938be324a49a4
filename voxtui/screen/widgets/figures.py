"""Which metrics a conversation of this kind has, and how a figure is written.  Step 12.

Pure: the state in, names and numbers out; a metric that does not apply is left out.  It does not know the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.latency import LABELS, Summary, TurnMetrics, summarise
from voxtui.session.transcript import State

CONVERSING = ("ttft_engine_ms", "ttft_user_ms")  # what the graphs show, the most important first
TRANSCRIBING = ("final_ms", "first_words_ms", "lag_over_delay_ms")


def number(name: str, value: float) -> str:
    """A figure without its unit: small ms have a decimal, others none; ratios have two."""
    if not name.endswith("_ms"):
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def graphed(state: State) -> tuple[str, ...]:
    """The metrics that are shown as graphs."""
    if state.converses:
        return CONVERSING
    return tuple(name for name in TRANSCRIBING if name == TRANSCRIBING[0] or course(state, name))


def course(state: State, name: str) -> list[float]:
    """The values of a metric, one per turn, oldest first; a turn that still goes on counts once its value is known."""
    found = [getattr(turn, name) for turn in (*state.turns, *(metrics for _, metrics in state.running))]
    return [value for value in found if value is not None]


def target_of(state: State, name: str) -> float | None:
    return dict(state.targets).get(name)


def summaries(turns: Sequence[TurnMetrics], renders: Sequence[float]) -> dict[str, Summary]:
    """The percentiles of every metric that applies, in the order of the table."""
    found = summarise(turns)
    if renders:
        found["render_ms"] = Summary.of(renders)
    return {name: found[name] for name in LABELS if name in found}


def trip(rtt_ms: int) -> str:
    """A round trip as text, to the millisecond."""
    return f"{rtt_ms} ms" if rtt_ms else "<1 ms"
