"""The goals of a bench as written on the command line, and the search for how many sessions reach them.

Not in the path.  Pure: `final_ms.p95<900` and figures in, a verdict out; the search asks for one probe after the
other.  It does not know how a figure was measured.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields

from shared.latency import Summary
from voxtui.bench.tally import LATE, METRICS, Counts

FORM = re.compile(r"\s*([a-z_]+)(?:\.([a-z0-9]+))?\s*(<=|>=|==|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*")
OPERATORS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt}
STATISTICS = tuple(found.name for found in fields(Summary))
COUNTS = tuple(found.name for found in fields(Counts))


class GoalError(Exception):
    """A goal that names nothing that can be measured; the text is for people."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One comparison: `NAME.STATISTIC OPERATOR NUMBER`, or `COUNT OPERATOR NUMBER` (then `statistic` is "")."""

    name: str
    statistic: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Reads a goal.  Raises GoalError, which names what would be right."""
        found = FORM.fullmatch(text)
        if found is None:
            raise GoalError(f"{text!r} is no goal: write, for example, 'final_ms.p95<900' or 'errors==0'.")
        name, statistic, comparison, bound = found.groups(default="")
        if not statistic and name not in COUNTS:
            many = f"{name} needs a statistic, such as {name}.p95" if name in (*METRICS, LATE) else f"no count {name!r}"
            raise GoalError(f"{text!r}: {many}; the counts are {', '.join(COUNTS)}.")
        if statistic and name not in (*METRICS, LATE):
            raise GoalError(f"{text!r}: there is no metric {name!r}; the metrics are {', '.join((*METRICS, LATE))}.")
        if statistic and statistic not in STATISTICS:
            raise GoalError(f"{text!r}: there is no {statistic!r} of a metric, only {', '.join(STATISTICS)}.")
        return cls(name, statistic, comparison, float(bound))

    def __str__(self) -> str:
        return f"{self.label}{self.comparison}{self.bound:g}"

    @property
    def label(self) -> str:
        return f"{self.name}.{self.statistic}" if self.statistic else self.name

    def judge(self, figures: Mapping[str, Summary], counts: Counts) -> Verdict:
        """Compares each goal with its figure.  A metric without a value reaches no goal."""
        if not self.statistic:
            value: float | None = getattr(counts, self.name)
        else:
            value = getattr(figures[self.name], self.statistic) if self.name in figures else None
        return Verdict(self, value, value is not None and bool(OPERATORS[self.comparison](value, self.bound)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal was reached.  `value` is None where nothing was measured."""

    goal: Goal
    value: float | None
    passed: bool


def search(limit: int) -> Generator[int, bool, int]:
    """Searches for the largest number of sessions that passes: yields the number of the next probe, is sent whether it
    passed, returns the largest that did (0 for none).  It doubles up to the first that fails or to `limit`, then
    bisects."""
    good, bad, probe = 0, limit + 1, 1
    while good + 1 < bad:
        if (yield probe):
            good = probe
        else:
            bad = probe
        probe = (good + bad) // 2 if bad <= limit else min(2 * good, limit)
    return good
