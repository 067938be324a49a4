"""All attacks at once, for a while: an honest client notices nothing.  Longer: `python -m tests.chaos`.

How long its pings took is judged there, on a machine that does nothing else.
"""

from __future__ import annotations

import sys

import pytest

from tests.chaos.attacks import ATTACKS
from tests.chaos.judge import verdicts
from tests.chaos.ordeal import ordeal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="addresses of loopback, memory from /proc"),
]


async def test_an_honest_client_notices_nothing_of_all_attacks_at_once() -> None:
    evidence = await ordeal(list(ATTACKS), seconds=25, calm_s=3, seed=1)
    assert [each for each in verdicts(evidence) if not each.kept and each.promise != "pings p99"] == []
