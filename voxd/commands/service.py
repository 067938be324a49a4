"""The commands about the machine: doctor, install, uninstall, logs.  Not in the path.

They import nothing heavy before they run.  They know options, questions and exit statuses; not how files are written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from shared.program import FAILED, Failure
from shared.terminal import draw, say

if TYPE_CHECKING:
    from voxd.commands.install import Kind

NEXT: dict[str, tuple[str, str]] = {
    "system": (
        "sudo systemd-sysusers && sudo systemctl daemon-reload",
        "sudo systemctl enable --now voxd.socket voxd.service",
    ),
    "user": ("systemctl --user daemon-reload", "systemctl --user enable --now voxd.socket voxd.service"),
}
AFTER: dict[str, tuple[str, str]] = {
    "system": ("sudo systemctl stop voxd.socket voxd.service", "sudo systemctl daemon-reload"),
    "user": ("systemctl --user stop voxd.socket voxd.service", "systemctl --user daemon-reload"),
}
SYSTEMD = Path("/run/systemd/system")  # there where it is PID 1: sd_booted(3)
config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="Settings file (else the usual places)."
)
kind_options = (
    click.option("--user", "kind", flag_value="user", help="A service of this user (else: of the system, for root)."),
    click.option("--system", "kind", flag_value="system", help="A service of the machine."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option(
        "--root",
        type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        help="For the system that has this folder as /, where voxd is /opt/voxd/current/bin/voxd.",
    ),
)


def _die(message: str) -> NoReturn:
    raise Failure(message, FAILED)


def _kind(chosen: str | None) -> Kind:
    return "system" if chosen == "system" or (chosen is None and os.geteuid() == 0) else "user"


def _program(root: Path | None) -> Path:
    from voxd.commands.install import PROGRAM, steady

    return Path(PROGRAM) if root else steady(Path(sys.executable).parent / "voxd")


def _ask(question: str, *, yes: bool) -> None:
    if not yes and not click.confirm(question):
        sys.exit(1)


def _say_next(commands: tuple[str, str]) -> None:
    say("next:")
    for command in commands:
        say(f"  {command}")


def _with_kind_options(command: click.Command) -> click.Command:
    for option in reversed(kind_options):
        option(command)
    return command


@click.command()
@config_option
def doctor(config_path: Path | None) -> None:
    """Check what `voxd start` needs: each line is fine, or says what to do."""
    from voxd.commands.doctor import doctor as examine

    sys.exit(0 if examine(config_path, os.environ, draw) else 1)


@_with_kind_options
@click.command()
@click.option("--webrtc", is_flag=True, help="Let media over UDP reach the service of the machine.")
def install(kind: str | None, webrtc: bool, yes: bool, root: Path | None) -> None:
    """Make voxd a systemd service: shows what would be written, and asks."""
    from voxd.commands.install import (
        CannotInstall,
        below,
        check_program,
        diff,
        pending,
        pieces,
        units_folder,
        webrtc_drop_in,
        write,
    )

    which, place = _kind(kind), root or Path("/")
    if webrtc and which == "user":
        raise click.UsageError("--webrtc is for --system: a user's service is not kept from the network")
    program = _program(root)
    try:
        check_program(which, program)
        todo = pending(pieces(which, program, os.environ, webrtc=webrtc), place)
        for piece in todo:
            for line in diff(piece, place):
                say(line)
        if todo:
            _ask(f"Write {len(todo)} file{'' if len(todo) == 1 else 's'}?", yes=yes)
        for piece in todo:
            old = write(piece, place)
            say(f"written: {piece.path}" + (f" (before: {old.name})" if old else ""))
    except CannotInstall as reason:
        _die(str(reason))
    if not todo:
        say("nothing to write: every file is as it should be")
    drop_in = webrtc_drop_in(units_folder(which, os.environ))
    if not webrtc and os.path.lexists(below(place, drop_in)):
        say(f"other machines may send to voxd, by an earlier --webrtc; to end that, remove {drop_in}")
    if which == "system" and "current" not in program.parts:
        say(f"the unit names {program}; a link `current` beside the environment makes going back one command")
    if root is None and shutil.which("systemctl") is None:
        say("there is no systemctl here: only systemd reads these files; `voxd start` runs in the foreground")
        return
    _say_next(NEXT[which])


@_with_kind_options
@click.command()
def uninstall(kind: str | None, yes: bool, root: Path | None) -> None:
    """Remove the service's files; token, settings and models stay."""
    from voxd.commands.install import CannotInstall, below, pieces, put_aside, remove, unit_files

    which, place = _kind(kind), root or Path("/")
    there = [path for path in unit_files(which, os.environ) if os.path.lexists(below(place, path))]
    if not there:
        say("nothing to remove: voxd is not a service here")
        return
    for path in there:
        say(f"  {path}")
    _ask(f"Remove {len(there)} file{'' if len(there) == 1 else 's'}?", yes=yes)
    try:
        known = {piece.path: piece.text for piece in pieces(which, _program(root), os.environ, webrtc=True)}
        for path, old in remove(there, known, place):
            say(f"removed: {path}" + (f" (it was changed; kept as {old.name})" if old else ""))
    except CannotInstall as reason:
        _die(str(reason))
    for left in put_aside(there, place):
        say(f"left, as an earlier one or a changed one: {left}")
    _say_next(AFTER[which])


@click.command()
@click.option("--follow", is_flag=True, help="Go on with new records as they come.")
@click.option("--session", metavar="ID", help="Only this session; the last characters of its id are enough.")
@click.option("--where", metavar="FILTER", help="For instance: ttft_engine_ms>200 and engine=whisper")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object a line, as journalctl gives it.")
def logs(follow: bool, session: str | None, where: str | None, as_json: bool) -> None:
    """Show what the service has logged: a line for a turn, with its figures."""
    from voxd.commands import logs

    try:
        conditions = logs.parse(where) if where is not None else ()
    except logs.BadFilter as reason:
        raise click.UsageError(str(reason)) from None
    if not SYSTEMD.is_dir():
        _die("systemd does not run here, and so keeps no journal: `voxd start` logs to its standard error")
    try:
        reader = subprocess.Popen(logs.command(follow=follow), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except OSError:
        _die("there is no journalctl here; a voxd that was not started by systemd logs to its standard error")
    assert reader.stdout is not None
    shown = 0
    with reader:  # closes its output
        try:
            for line in reader.stdout:
                found = logs.row(line)
                if found is not None and logs.wanted(found, session, conditions):
                    shown += 1
                    say(line.decode().rstrip() if as_json else logs.shown(found))
        except (KeyboardInterrupt, BrokenPipeError):
            reader.terminate()
    if reader.returncode > 0:
        _die("journalctl failed; to read the service's log, be root or in the group systemd-journal")
    if not shown and not follow:
        barred = "" if os.geteuid() == 0 else "; the service of the machine logs for root and the group systemd-journal"
        say(f"voxd: no such record in the journal{barred}", err=True)


COMMANDS = (doctor, install, uninstall, logs)
