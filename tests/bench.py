"""`make bench`: everything with a time in it.  Prints; asserts nothing (a machine may be busy)."""

from __future__ import annotations

import asyncio

from tests import wire_bench
from tests.live import report, run
from tests.speech import clips


def main() -> None:
    print("# one session, in real time, every English clip")  # noqa: T201
    print(report(asyncio.run(run(clips("en")))))  # noqa: T201
    print("# the wire, 64 sessions and 16")  # noqa: T201
    for count in (64, 16):
        print(wire_bench.measure(count))  # noqa: T201


if __name__ == "__main__":
    main()
