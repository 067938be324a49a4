"""Everything breaks at once, for a while: the promises hold.  Longer, with other seeds: `python -m
tests.chaos.nemesis`."""

from __future__ import annotations

import sys

import pytest

from tests.chaos.nemesis import ordeal, summary
from tests.chaos.nemesis_check import violations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what a process handles is read from /proc"),
]


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_was_promised_holds_under_faults(seed: int) -> None:
    history = await ordeal(120, seed)
    told = "\n".join(summary(history))
    assert violations(history) == [], told
    assert len(history.faults) >= 10, told
    assert len(history.lives) >= 2, "a gateway died"
    assert any(client.records for client in history.clients)
