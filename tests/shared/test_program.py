"""Standard streams that fail, unwritable files and misspelt words each give one sentence and an exit status, in every
command of both programs, in processes of their own with real streams."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shared.program import Failure, likely, written
from tests.support.daemon import Daemon, environment, voxd_process
from voxd.cli import main as voxd
from voxtui.capture.sources import CLIP
from voxtui.cli import main as voxtui

PROGRAMS: dict[str, click.Group] = {"voxd": voxd, "voxtui": voxtui}
FAULTS = {
    "full": "No space left on device",
    "closed": "standard output is closed",
    "reader gone": "closed by its reader",
}
# Each line of arguments in a fork of one process, which has imported everything once.
FORKS = """
import json, os, sys
import voxd.cli, voxtui.cli
fault, lines = sys.argv[1], json.loads(sys.argv[2])
told = []
for program, *args in lines:
    err, into = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(into, 2)
        if fault == "closed":
            os.close(1); sys.stdout = sys.__stdout__ = None
        elif fault == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        else:
            end, start = os.pipe(); os.close(end); os.dup2(start, 1)
        main = {"voxd": voxd.cli.main, "voxtui": voxtui.cli.main}[program]
        main(args, prog_name=program)
    os.close(into)
    text = b"".join(iter(lambda: os.read(err, 65536), b"")).decode()
    os.close(err)
    told.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text])
print(json.dumps(told))
"""


def run(
    *command: str, folder: Path, stdout: int | None = subprocess.PIPE, code: int = 1, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """One of the two programs, as a shell starts it; `before`: redirections of that shell."""
    program = [sys.executable, "-m", *command]
    shell = ["bash", "-c", f'exec "$@" {before}', "bash", *program]
    done = subprocess.run(
        shell, stdout=stdout, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(folder)
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


def every_command() -> Iterator[list[str]]:
    for name, program in PROGRAMS.items():
        yield [name, "--help"]
        yield [name, "--version"]
        for command in program.commands:
            yield [name, command, "--help"]
    yield from (["voxd", "engines"], ["voxd", "engines", "--json"], ["voxd", "token"], ["voxd", "doctor"])
    yield from (["voxd", "start", "--check", "--transcribe", "echo"], ["voxd", "status", "--json"])
    yield ["voxtui", "doctor"]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_command_survives_its_standard_output_without_a_word(fault: str, tmp_path: Path) -> None:
    lines = list(every_command())
    done = subprocess.run(
        [sys.executable, "-c", FORKS, fault, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env=environment(tmp_path),
    )
    found = dict(zip(map(" ".join, lines), json.loads(done.stdout), strict=True))
    assert len(found) > 25
    for line, (code, text) in found.items():
        assert code == 1, (line, code, text)
        sentence = text.splitlines()[-1]
        assert sentence.startswith(f"{line.split()[0]}: "), (line, text)
        assert FAULTS[fault] in sentence, (line, text)
        assert "Traceback" not in text, (line, text)
        assert "Exception ignored" not in text, (line, text)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("fault", "redirection"), [("full", ">/dev/full"), ("closed", ">&-")])
def test_words_that_cannot_be_written_are_no_success(
    daemon: Daemon, fault: str, redirection: str, unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session with a real daemon in plain text fails when its words cannot be written."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = ("voxtui", f"unix:{daemon.socket}", "--plain", "--file", str(CLIP))
    done = run(*command, folder=tmp_path, before=redirection)
    assert FAULTS[fault] in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_notes_that_cannot_be_written_cost_nothing(daemon: Daemon, redirection: str, tmp_path: Path) -> None:
    command = ("voxtui", "transcribe", "--target", f"unix:{daemon.socket}", str(CLIP))
    done = run(*command, folder=tmp_path, before=redirection, code=0)
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("command", "code"),
    [(("voxd", "status"), 3), (("voxd", "strat"), 2), (("voxtui", "--plain", "--file", str(CLIP)), 69)],
)
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_the_exit_status_does_not_depend_on_standard_error(
    command: tuple[str, ...], code: int, redirection: str, tmp_path: Path
) -> None:
    run(*command, folder=tmp_path, before=redirection, code=code)


def test_a_daemon_without_streams_serves(tmp_path: Path) -> None:
    """A daemon with closed standard streams gives none of its sockets the number of standard output."""
    path = tmp_path / "s"
    shell = f"exec {sys.executable} -m voxd start --transcribe echo --socket {path} <&- >&- 2>&-"
    process = subprocess.Popen(["bash", "-c", shell], env=environment(tmp_path))
    try:
        while not _answers(path):
            assert process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        run("voxd", "status", "--json", "--socket", str(path), folder=tmp_path, code=0)
        streams = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert streams == ["/dev/null"] * 3


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


OUTPUTS = [
    ("voxtui", ["bench", "unix:/nowhere/s", "--json"]),
    ("voxd", ["bench-engine", "--random-weights", "--device", "cpu", "--json"]),
]


def test_these_are_all_options_that_name_a_file_to_write() -> None:
    """Any other option with a path reads it; a new one belongs in OUTPUTS, with the type OutputFile."""
    writes = {
        (name, command.name)
        for name, program in PROGRAMS.items()
        for command in program.commands.values()
        for option in command.params
        if type(option.type).__name__ == "OutputFile"
    }
    assert writes == {(program, args[0]) for program, args in OUTPUTS}


@pytest.mark.parametrize(("program", "args"), OUTPUTS)
def test_a_file_that_cannot_be_written_is_told_before_the_work(program: str, args: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, words in {
        tmp_path / "missing" / "found.json": "there is no folder",
        tmp_path / "file" / "found.json": "there is no folder",
        tmp_path: "is a directory",
    }.items():
        done = CliRunner().invoke(PROGRAMS[program], [*args, str(place)])
        assert done.exit_code == 2, done.output
        assert words in done.output
        assert "'--json'" in done.output


def test_what_took_an_hour_is_not_lost_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Failure, match=r"^/dev/full cannot be written \(No space left on device\)"):
        written(Path("/dev/full"), "figures\n")
    assert capsys.readouterr().out == "figures\n"


def test_a_file_that_vanishes_is_one_sentence_and_a_bug_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> int:
        @click.command("fails")
        def command() -> None:
            raise error

        monkeypatch.setitem(voxd.commands, "fails", command)
        done = CliRunner().invoke(voxd, ["fails"])
        assert isinstance(done.exception, SystemExit) is (done.exit_code == 1 and "voxd: " in done.output)
        return 0 if isinstance(done.exception, SystemExit) else 1

    assert fails(PermissionError(13, "Permission denied", "/x")) == 0
    assert fails(OSError(104, "Connection reset by peer")) == 1
    assert fails(KeyError("x")) == 1


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def slips(word: str) -> Iterator[str]:
    """A letter left out, doubled, exchanged with the next."""
    for at in range(1, len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
        if at + 1 < len(word) and word[at] != word[at + 1]:
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_slip_in_a_command_is_answered_with_the_command(program: str) -> None:
    """The answer to a slip is the right command, never a complaint about a microphone or a host."""
    group, count = PROGRAMS[program], 0
    for name in group.commands:
        for slip in slips(name):
            if slip in group.commands:
                continue
            done = CliRunner().invoke(group, [slip, "x.wav"])
            assert done.exit_code == 2, (slip, done.output)
            assert f"'{name}'" in done.output or "Did you mean" in done.output, (slip, done.output)
            count += 1
    assert count > 60


def test_what_is_no_slip_is_a_target() -> None:
    for host in ("gpu-box", "bench1", "me@demo.org", "example.org", "titan"):
        assert likely(host, list(voxtui.commands)) is None or not host.isalpha()


def test_a_sound_file_is_no_target() -> None:
    done = CliRunner().invoke(voxtui, [str(CLIP)])
    assert done.exit_code == 2
    assert f"voxtui transcribe {CLIP}" in done.output


@pytest.mark.parametrize("more", [(), ("--socket", "/nowhere/s")])
def test_status_for_programs_is_json_also_when_nothing_runs(more: tuple[str, ...], tmp_path: Path) -> None:
    done = run("voxd", "status", "--json", *more, folder=tmp_path, code=3)
    assert json.loads(done.stdout)["state"] == "not_running"
    assert done.stderr.startswith("voxd: not running")


def test_status_for_programs_is_json_also_when_it_cannot_be_asked(tmp_path: Path) -> None:
    done = run("voxd", "status", "--json", "--config", str(tmp_path / "none.yaml"), folder=tmp_path, code=78)
    assert json.loads(done.stdout)["state"] == "unknown"
