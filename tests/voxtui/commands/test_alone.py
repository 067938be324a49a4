"""`voxtui` where nobody has named a voxd and none runs: people are offered one, programs are told in one sentence."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fakes import short_folder

ASK = """
import sys
from pathlib import Path
from voxtui.commands.local import may_start
from voxtui.errors import Unreachable
from voxtui.link.target import unix_target
try:
    print("starts", may_start(unix_target(Path(sys.argv[1]))))
except Unreachable as error:
    print("told", error)
"""


def asked(socket: Path, answer: bytes) -> str:
    """What is on a terminal where somebody types `answer`."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", ASK, str(socket)], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, answer)
    shown = b""
    try:
        while more := os.read(ours, 4096):
            shown += more
    except OSError:  # Linux: the other end is closed
        pass
    assert child.wait(60) == 0
    os.close(ours)
    return shown.decode()


@pytest.mark.timeout(120)
def test_a_person_is_offered_one(tmp_path: Path) -> None:
    with short_folder() as folder:
        for answer, wanted in ((b"\n", "starts True"), (b"y\n", "starts True"), (b"n\n", "told Then name")):
            shown = asked(Path(folder) / "none.sock", answer)
            assert wanted in shown
            assert "`voxd start`" in shown
            assert "systemd" in shown


@pytest.mark.timeout(120)
@pytest.mark.parametrize("args", [[], ["--plain"], ["connect"]])
def test_a_program_is_told_in_one_sentence(args: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-m", "voxtui", *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert found.returncode == 69
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert "No voxd is running at" in line
    assert "voxd start" in line
