"""Text of any origin: on a terminal, in a log or in the journal it has no effect and forges no line."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shared.program import Failure, Program
from shared.report import Finding, Report
from shared.safe_text import LIMIT
from shared.terminal import say
from tests.support.cascading import talks
from tests.support.chat_server import refuses
from voxd.messages import Failed
from voxd.telemetry.journald import JournalHandler
from voxd.traces import Reticent

HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202ename\x00\r\nERROR forged\u2028\x85\udcff.wav"
ACTS = ("\x1b", "\x9b", "\x07", "\x00", "\r", "\u202e", "\x85", "\u2028", "\udcff")


def harmless(text: str) -> bool:
    return "name" in text and not any(sign in text for sign in ACTS)


def printed(work: Callable[[], object]) -> str:
    @click.command()
    def command() -> None:
        work()

    program = Program("program", commands={"run": command})
    return CliRunner().invoke(program, ["run"]).output


def fails() -> None:
    raise Failure(HOSTILE, 1)


def misused() -> None:
    raise click.BadParameter(HOSTILE, param_hint="FILE")


def reported() -> None:
    finding = Finding(HOSTILE, "bad", HOSTILE, (HOSTILE,))
    report = Report(say, width=80, utf8=True, coloured=False)
    report.group(HOSTILE, [finding])


@pytest.mark.parametrize("work", [lambda: say(HOSTILE), lambda: say(HOSTILE, err=True), fails, misused, reported])
def test_what_is_printed(work: Callable[[], object]) -> None:
    assert harmless(printed(work))


def test_a_long_text_is_printed_whole() -> None:
    text = "word\n" * LIMIT
    assert printed(lambda: say(text, nl=False)) == text


def logged(*arguments: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Reticent("%(levelname)s %(message)s"))
    exc_info = (type(error), error, None) if error else None
    handler.emit(logging.LogRecord("voxd", logging.INFO, __file__, 1, "model %s answers", arguments, exc_info))
    return stream.getvalue()


def test_a_line_of_the_log_stays_one() -> None:
    line = logged(HOSTILE)
    assert harmless(line)
    assert line.count("\n") == 1
    assert line.startswith("INFO model ")


def test_an_exception_in_the_log() -> None:
    kind = type(f"name{HOSTILE}".replace("\udcff", "").replace("\x00", ""), (Exception,), {})
    assert harmless(logged("name", error=kind()))


def test_the_fields_of_the_journal(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "j"))
        handler = JournalHandler(tmp_path / "j")
        record = logging.LogRecord("voxd", logging.INFO, __file__, 1, "%s", (HOSTILE,), None)
        record.fields = {"PEER": HOSTILE}
        handler.emit(record)
        handler.close()
        data = journald.recv(1 << 16).decode()
    assert harmless(data.replace("\0", ""))  # in the lengths of values
    assert HOSTILE not in data


def test_the_words_of_a_chat_server() -> None:
    with talks() as talk:
        whole = HOSTILE.replace("\udcff", "")  # which no JSON can say
        _, talker = talk(refuses(400, {"error": whole}), (whole, "name"))
        assert harmless(" ".join(talker.notes))
        failed = talker.answer()
    assert isinstance(failed, Failed)
    assert harmless(failed.message)


@pytest.mark.parametrize("command", [["transcribe"], ["connect", "--plain", "--file"], ["bench", "--audio"]])
def test_the_name_of_a_file(command: list[str], tmp_path: Path) -> None:
    """A name with control characters, of a file without sound, is shown without effect."""
    path = os.fsencode(tmp_path) + b"/name\x1b]0;x\x07\x1b[2J\xff\n.wav"
    with open(path, "wb") as file:
        file.write(b"nothing")
    program = [sys.executable, "-m", "voxtui", *command]
    done = subprocess.run([*map(os.fsencode, program), path], capture_output=True, timeout=100, check=False)
    shown = (done.stdout + done.stderr).decode(errors="surrogateescape")
    assert done.returncode != 0
    assert not any(sign in shown for sign in ACTS), shown
