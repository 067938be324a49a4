"""Installs the clients that others wrote, each group from its lock into an environment of its own.

Where there is no index of packages a group is left out, and its tests skip with the reason, which stands in
`NAME.missing`.  Where there is one, a group that cannot be installed is a failure.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from tests.clients.catalogue import ENVIRONMENTS, GROUPS, HERE, LOCKS, NPM

PIP = ("-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input")


class NoIndex(Exception):
    """Nothing can be installed here; the text says why."""


def _run(*command: str, cwd: Path | None = None) -> str:
    """What it complained of; "" if it has done its work."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"status {done.returncode}"


def _python(group: str) -> None:
    folder, lock = ENVIRONMENTS / group, LOCKS / f"{group}.txt"
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    if trouble := _run(python, *PIP, "--no-compile", "--require-hashes", "-r", str(lock)):
        probe = _run(
            python, "-m", "pip", "download", "-qq", "--no-cache-dir", "--no-deps", "-d", str(folder), "sniffio"
        )
        raise NoIndex(f"no index of packages: {probe.splitlines()[-1]}") if probe else RuntimeError(trouble)


def _node() -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise NoIndex("node and npm are not installed")
    if trouble := _run(npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=HERE / "npm"):
        probe = _run(npm, "view", "ws", "version", "--prefer-online")
        raise NoIndex(f"no registry: {probe.splitlines()[-1]}") if probe else RuntimeError(trouble)


def _install(group: str, lock: Path, work: Callable[[], None]) -> None:
    """Once for each content of the lock."""
    done, missing = ENVIRONMENTS / f"{group}.done", ENVIRONMENTS / f"{group}.missing"
    stamp = hashlib.sha256(lock.read_bytes()).hexdigest()
    if done.exists() and done.read_text() == stamp:
        return
    sys.stderr.write(f"Installing clients: {group} ...\n")
    done.unlink(missing_ok=True)
    missing.unlink(missing_ok=True)
    try:
        work()
    except NoIndex as reason:
        missing.write_text(str(reason))
    else:
        done.write_text(stamp)


def main() -> None:
    ENVIRONMENTS.mkdir(exist_ok=True)
    for group in GROUPS:
        _install(group, LOCKS / f"{group}.txt", lambda group=group: _python(group))  # type: ignore[misc]
    _install(NPM, HERE / "npm" / "package-lock.json", _node)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as trouble:
        sys.exit(f"a client cannot be installed although there is an index:\n{trouble}")
