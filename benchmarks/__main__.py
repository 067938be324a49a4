"""`make bench`: everything with a time in it.  Prints; asserts nothing (a machine may be busy)."""

from __future__ import annotations

import asyncio

from benchmarks import wire
from benchmarks.live import report, run
from tests.support.speech import clips


def main() -> None:
    print("# one session, in real time, every English clip")  # noqa: T201
    print(report(asyncio.run(run(clips("en")))))  # noqa: T201
    print("# the wire, 64 sessions and 16")  # noqa: T201
    for count in (64, 16):
        print(wire.measure(count))  # noqa: T201


if __name__ == "__main__":
    main()
