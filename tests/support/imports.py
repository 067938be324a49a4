"""Which modules a piece of code loads, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

WAIT_S = 300.0


def loaded_after(code: str) -> set[str]:
    """Names of all modules in memory after it, packages and what is in them.  Raises AssertionError if it fails."""
    code += "\nimport sys; print('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("loaded:", 1)[1].split())
