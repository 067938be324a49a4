"""`make bench`: everything with a time in it.  Prints; asserts nothing (a machine may be busy)."""

from __future__ import annotations

import asyncio

from tests.live import report, run
from tests.speech import clips


def main() -> None:
    print("# one session, in real time, every English clip")  # noqa: T201
    print(report(asyncio.run(run(clips("en")))))  # noqa: T201


if __name__ == "__main__":
    main()
