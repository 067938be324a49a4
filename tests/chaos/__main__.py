"""`python -m tests.chaos`: all attacks at once, or one (`--only NAME`), beside an honest client; then the verdict."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence

from shared.latency import percentile
from tests.chaos.attacks import ATTACKS
from tests.chaos.judge import Evidence, verdicts
from tests.chaos.ordeal import ordeal, sweep

CALM_S = 10.0


def table(evidence: Evidence) -> Iterator[str]:
    for each in verdicts(evidence):
        yield f"{'kept' if each.kept else 'BROKEN':7} {each.promise:18} {each.found}   (limit: {each.limit})"


def course(evidence: Evidence) -> Iterator[str]:
    """Prints what each attack did and what it was told."""
    for name, rounds in evidence.rounds.items():
        told = ", ".join(f"{count} × {what}" for what, count in sorted(evidence.told[name].items()))
        yield f"  {name:24} {rounds:5} rounds: {told or 'nothing was said'}"
    for title, pings in (("calm", evidence.calm), ("attacked", evidence.pings)):
        for what, times in (("took", [p.took_ms for p in pings]), ("work", [p.work_ms for p in pings])):
            if times:
                figures = ", ".join(f"p{q} {percentile(times, q):.1f}" for q in (50, 90, 99, 100))
                yield f"  pings, {title}, {what}: {figures} ms of {len(times)}"


async def tell(names: Sequence[str], seconds: float, seed: int) -> None:
    async for line in sweep(names, seconds, seed):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of the attacks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="NAME", action="append", choices=sorted(ATTACKS), help="repeatable")
    parser.add_argument("--without", metavar="NAME", action="append", choices=sorted(ATTACKS), default=[])
    parser.add_argument("--each", type=float, metavar="SECONDS", help="one after the other, to see what each does")
    parser.add_argument("--log", action="store_true", help="tell what the daemon wrote")
    options = parser.parse_args()
    names = [name for name in options.only or ATTACKS if name not in options.without]
    if options.each:
        asyncio.run(tell(names, options.each, options.seed))
        return
    evidence = asyncio.run(ordeal(names, options.seconds, CALM_S, options.seed))
    found = verdicts(evidence)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    head = f"chaos   seed {options.seed}, {options.seconds:.0f} s of {len(names)} attacks; load {load}"
    if options.log:
        sys.stdout.write(evidence.history.lives[0].log)
    sys.stdout.write("\n".join([head, *course(evidence), *table(evidence)]) + "\n")
    sys.exit(not all(verdict.kept for verdict in found))


if __name__ == "__main__":
    main()
