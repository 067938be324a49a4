"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import settings

# Where a process runs for each core, more threads in each only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No example fails because the machine was busy for a moment; a hang is for the limit of the whole test.
settings.register_profile("voxd", deadline=None)
settings.load_profile("voxd")

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # Somebody started the tests with nohup.  Programs started here would inherit that, and voxd respects it: reloads
    # would not be heard.  What is handled here is ignored all the same, and is not inherited.
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What all tests together import stays: each search for garbage among those 700 000 objects would take 0.4 s.  And
    the searches are rarer: what a test leaves is small."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def pytest_sessionfinish() -> None:
    """A task that nobody waited for is told while nothing is imported: the import of hypothesis for its summary
    fails if a traceback is written in it ("AST constructor recursion depth mismatch", Python 3.11)."""
    gc.collect()
