"""The sandbox for machines without systemd: what is refused in it, and what is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import sandboxed
from tests.chaos.seccomp import ALLOWED, KNOWN
from tests.chaos.test_gpu_faults import why_not

ROOT = Path(__file__).parents[2]
MOUNTING = ("own_processes_only", "own_tmp", "no_homes", "read_only", "kernel")
PROBE = """
import ctypes, json, os, socket, subprocess, threading
def told(work):
    try:
        work()
    except OSError as error:
        return error.errno
def namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
state = os.environ["SANDBOX_STATE"]
status = dict(line.split(":\\t") for line in open("/proc/self/status") if line.startswith(("Cap", "NoNew")))
print(json.dumps({
    "user": os.getuid(), "capabilities": status["CapEff"].strip(), "no new": status["NoNewPrivs"].strip(),
    "tmp": told(lambda: open("/tmp/x", "w")), "state": told(lambda: open(f"{state}/x", "w")),
    "usr": told(lambda: open("/usr/x", "w")), "home": told(lambda: os.listdir("/root")),
    "sysctl": told(lambda: open("/proc/sys/kernel/hostname", "w")),
    "packet": told(lambda: socket.socket(17, socket.SOCK_RAW)), "unix": told(lambda: socket.socket(socket.AF_UNIX)),
    "namespace": told(namespace), "setuid": told(lambda: os.chmod("/tmp/x", 0o4755)),
    "mode": told(lambda: os.chmod("/tmp/x", 0o755)), "affinity": told(lambda: os.sched_setaffinity(0, {0})),
    "thread": told(threading.Thread(target=print).start), "child": told(lambda: subprocess.run(["true"], check=True)),
}))
"""


def run(state: Path, *command: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """A command in the sandbox."""
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos.sandboxed", *command],
        cwd=ROOT,
        env=os.environ | {"SANDBOX_STATE": str(state), "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.mark.root
def test_what_the_unit_refuses_is_refused(tmp_path: Path) -> None:
    needs_root()
    done = run(tmp_path / "state", sys.executable, "-c", PROBE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found == {
        "user": 65534, "capabilities": "0" * 16, "no new": "1",
        "tmp": None, "state": None, "unix": None, "mode": None, "thread": None, "child": None,
        "usr": 30, "home": 13, "sysctl": 30, "packet": 97, "namespace": 1, "setuid": 1, "affinity": 1,
    }, done.stderr  # fmt: skip


def test_without_mounts_of_its_own_it_mounts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError("not permitted")

    mounted: list[str] = []
    monkeypatch.setattr(sandboxed, "_mount", lambda source, target, *_: mounted.append(target))
    monkeypatch.setattr(sandboxed, "_set_read_only", lambda path, **_: mounted.append(path))
    replaced = {sandboxed.MOUNTS: refused}
    kept = {step for _, step in sandboxed.STEPS if step.__name__ in MOUNTING}
    steps = [(name, replaced.get(name, step if step in kept else lambda: None)) for name, step in sandboxed.STEPS]
    monkeypatch.setattr(sandboxed, "STEPS", tuple(steps))
    missing = sandboxed.apply(lambda line: None)
    assert len(missing) == 1 + len(kept) == 6
    assert mounted == []


@pytest.mark.root
def test_the_calls_that_are_allowed_are_those_of_systemd() -> None:
    """Numbers as `strace` and the kernel have them, names as systemd has them: that both are of one set is counted."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    numbers = {
        int(at) for part in ALLOWED.split() for at in range(int(part.split("-")[0]), 1 + int(part.split("-")[-1]))
    }
    table = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not table.exists():
        pytest.skip("needs the kernel's headers for x86-64")
    named = [line.split()[1:3] for line in table.read_text().splitlines() if line.startswith("#define __NR_")]
    known = {name.removeprefix("__NR_"): int(number) for name, number in named}
    allowed = _calls("@system-service") | _calls("@default")
    refused = _calls("@privileged") | _calls("@obsolete") | _calls("@resources")
    wanted = {known[name] for name in allowed - refused if name in known}
    assert wanted <= numbers
    assert numbers - wanted <= set(range(max(known.values()) + 1, KNOWN + 1))


def _calls(group: str) -> set[str]:
    shown = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    nested = [_calls(line) for line in lines if line.startswith("@")]
    return {line for line in lines if line and line[0] not in "@#"}.union(*nested)


@pytest.mark.root
@pytest.mark.gpu
def test_graphs_and_kernels_work_in_it() -> None:
    needs_root()
    if reason := why_not():
        pytest.skip(reason)
    bench = ("-m", "voxd", "bench-engine", "--random-weights", "--engine", "voxtral-mini", "--quick")
    done = run(Path("/var/lib/voxd-sandbox"), sys.executable, *bench, seconds=500)
    assert done.returncode == 0, done.stderr[-3000:]
